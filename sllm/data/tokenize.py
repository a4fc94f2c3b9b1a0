"""Rows → the token columns that TRL trains on, truncated and counted. Nothing is dropped silently."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

from sllm import chat
from sllm.cli import InputError
from sllm.data.rows import MAX_LOST_SHARE, Skipped, where

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # label of a token that is not supervised (PyTorch's cross-entropy ignore_index)
SIDES = ("chosen", "rejected")
Columns = dict[str, list[Any]]
SHOWN = 20  # truncated rows in the statistics, the longest first


class LongRow(TypedDict):
    """A truncated row: where it was read, and its tokens."""

    row: str
    tokens: int


class TokenStats(TypedDict, total=False):
    """What tokenizing rows of SFT (`sequences`, `supervised_tokens`) or DPO (`pairs`) found; kept in run.json.

    `tokens` counts a pair's prompt once for each side. `truncated` and `dropped` count sequences or pairs: those that
    lost their end, and those that lost their whole answer. `longest_truncated` lists up to `SHOWN` rows.
    """

    rows: int
    sequences: int
    pairs: int
    tokens: int
    supervised_tokens: int
    truncated: int
    dropped: int
    max_length: int
    longest: int
    truncated_rows: int
    longest_truncated: list[LongRow]


@dataclass
class _Truncations:
    """The rows longer than `max_length` tokens, and the number of sequences or pairs that lose their answer."""

    max_length: int
    longest: int = 0
    dropped: int = 0
    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)  # (tokens, row)

    def see(self, row: dict[str, Any], tokens: int) -> bool:
        """Count a sequence of `row`; True if it is truncated."""
        self.longest = max(self.longest, tokens)
        if tokens <= self.max_length:
            return False
        if self.rows and self.rows[-1][1] is row:  # a row of several sequences
            self.rows[-1] = (max(tokens, self.rows[-1][0]), row)
        else:
            self.rows.append((tokens, row))
        return True

    def stats(self) -> TokenStats:
        worst = sorted(self.rows, key=lambda entry: -entry[0])[:SHOWN]
        return {
            "max_length": self.max_length,
            "longest": self.longest,
            "truncated_rows": len(self.rows),
            "longest_truncated": [{"row": where(row), "tokens": tokens} for tokens, row in worst],
        }


def sft_columns(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[dict[str, Any]],
    max_length: int,
    train_on_inputs: bool = False,
    *,
    skipped: Skipped | None = None,
) -> tuple[Columns, TokenStats]:
    """Training rows as `input_ids` and `labels`.

    Args:
        max_length: tokens; a longer sequence loses its end.
        train_on_inputs: supervise every token instead of the assistant's alone.
        skipped: collects the rows that cannot be rendered, or lose their whole answer, if the run allows that.
    Returns:
        (columns, stats): columns {"input_ids": [[int]], "labels": [[int]]}, one entry a sequence.
    Raises:
        InputError: rows that cannot be rendered, all of them; or more than 5 % lost to truncation.
    """
    columns: Columns = {"input_ids": [], "labels": []}
    skipped, truncations, truncated = _expecting(skipped, rows), _Truncations(max_length), 0
    end = chat.end_of_turn(tokenizer)[1]
    for row in rows:
        try:
            if train_on_inputs and any(message.get("weight") == 0 for message in row["messages"]):
                raise ValueError("an answer has the weight 0, and --train_on_inputs learns every turn; choose one")
            examples = chat.build_examples(tokenizer, row["messages"])
            if not all(_learns_its_end(example, row["messages"], end) for example in examples):
                raise ValueError("its end-of-turn token would not be learned (guarantee 2)")
        except (ValueError, InputError) as error:
            skipped.add(row, str(error))
            continue
        kept, lost = _add_examples(columns, examples, max_length, train_on_inputs)
        truncated += sum(
            truncations.see(row, len(example.input_ids)) for example in examples if any(example.completion_mask)
        )
        truncations.dropped += lost
        if skipped.allow and not kept:
            longest = max(len(example.input_ids) for example in examples)
            skipped.add(row, _lost(max_length, longest))
    skipped.check()
    if not skipped.allow:
        _refuse_losses(truncations, truncations.dropped + len(columns["input_ids"]))
    stats: TokenStats = {
        "rows": len(rows),
        "sequences": len(columns["input_ids"]),
        "tokens": sum(map(len, columns["input_ids"])),
        "supervised_tokens": sum(label != IGNORED for labels in columns["labels"] for label in labels),
        "truncated": truncated,
        "dropped": truncations.dropped,
    }
    return columns, stats | truncations.stats()


def _add_examples(
    columns: Columns, examples: list[chat.Example], max_length: int, train_on_inputs: bool
) -> tuple[int, int]:
    """Append the sequences of one row, cut to `max_length`; returns how many were kept, and how many lost all of their
    answer."""
    kept = lost = 0
    for example in examples:
        if not any(example.completion_mask):
            continue  # a turn of weight 0
        ids, mask = example.input_ids[:max_length], example.completion_mask[:max_length]
        if not any(mask):
            lost += 1
            continue
        kept += 1
        columns["input_ids"].append(ids)
        labels = ids if train_on_inputs else [i if m else IGNORED for i, m in zip(ids, mask, strict=True)]
        columns["labels"].append(list(labels))
    return kept, lost


def dpo_columns(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[dict[str, Any]],
    max_length: int,
    *,
    skipped: Skipped | None = None,
) -> tuple[Columns, TokenStats]:
    """Preference rows as `prompt_ids`, `chosen_ids` and `rejected_ids`.

    Args:
        max_length: tokens of prompt and answer together; longer answers lose their end.
        skipped: collects the pairs that cannot be used, if the run allows that.
    Returns:
        (columns, stats): columns {"prompt_ids": [[int]], "chosen_ids": [[int]], "rejected_ids": [[int]]}.
    Raises:
        InputError: pairs that cannot be rendered or whose two sides render alike, all of them; or more than
            5 % lost to truncation.
    """
    columns: Columns = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    skipped, truncations, tokens = _expecting(skipped, rows), _Truncations(max_length), 0
    for row in rows:
        try:
            answers = {name: chat.completion_ids(tokenizer, row["prompt"] + row[name]) for name in SIDES}
            if answers["chosen"] == answers["rejected"]:
                raise ValueError("chosen and rejected render to the same tokens, so there is no choice")
        except (ValueError, InputError) as error:
            skipped.add(row, str(error))
            continue
        prompt = chat.prompt_ids(tokenizer, row["prompt"])
        available, total = max_length - len(prompt), len(prompt) + max(map(len, answers.values()))
        truncations.see(row, total)
        if available < 1 or answers["chosen"][:available] == answers["rejected"][:available]:
            truncations.dropped += 1
            if skipped.allow:
                skipped.add(row, _lost(max_length, total))
            continue
        columns["prompt_ids"].append(prompt)
        for name, ids in answers.items():
            columns[f"{name}_ids"].append(ids[:available])
            tokens += len(prompt) + len(ids[:available])
    skipped.check()
    if not skipped.allow:
        _refuse_losses(truncations, len(rows))
    stats: TokenStats = {
        "rows": len(rows),
        "pairs": len(columns["prompt_ids"]),
        "tokens": tokens,
        "truncated": len(truncations.rows),
        "dropped": truncations.dropped,
    }
    return columns, stats | truncations.stats()


def truncation_summary(stats: TokenStats, *, most: int | None = None, shown: int = 3) -> list[str]:
    """Lines to print about the truncated rows: how many, the longest, and the length that fits them all.

    Args:
        stats: of `sft_columns` or `dpo_columns`.
        most: positions of the model, if known; no greater length is recommended.
    """
    if not stats["truncated_rows"]:
        return []
    worst = [f"{long['row']} has {long['tokens']:,} tokens" for long in stats["longest_truncated"][:shown]]
    others = stats["truncated_rows"] - len(worst)
    if others:
        worst.append(f"{others:,} more")
    length = _holding(stats["longest"])
    if most is not None and length > most:
        remedy = f"the model holds {most:,}: " + (
            f"--max_seq_length {most} holds all" if stats["longest"] <= most else "split or shorten these rows"
        )
    else:
        remedy = f"--max_seq_length {length} holds all"
    count, limit = f"{stats['truncated_rows']:,} of {stats['rows']:,} rows", f"{stats['max_length']:,} tokens"
    lost = f", {stats['dropped']:,} with nothing left to learn" if stats["dropped"] else ""
    return [f"warning: {count} are truncated at {limit}{lost}: {', '.join(worst)}; {remedy}"]


def as_sequences(columns: dict[str, Any]) -> dict[str, Any]:
    """Preference columns as prompt + chosen, prompt + rejected, …: `input_ids` and `labels` in SFT's form."""
    sequences: dict[str, list[Any]] = {"input_ids": [], "labels": []}
    for prompt, *answers in zip(columns["prompt_ids"], columns["chosen_ids"], columns["rejected_ids"], strict=True):
        for ids in answers:
            sequences["input_ids"].append(prompt + ids)
            sequences["labels"].append([IGNORED] * len(prompt) + ids)
    return sequences


def _expecting(skipped: Skipped | None, rows: Sequence[dict[str, Any]]) -> Skipped:
    """The collector of unusable rows. Files that were read with it are counted already; the others are counted here."""
    skipped = skipped or Skipped()
    for file, count in Counter(getattr(row, "file", None) for row in rows).items():
        skipped.expect(file, count)
    return skipped


def _learns_its_end(example: chat.Example, messages: list[dict[str, Any]], end: int) -> bool:
    """Is the last supervised token the end of turn, and the last token of all if no answer has the weight 0?"""
    supervised = [i for i, on in enumerate(example.completion_mask) if on]
    if any(message.get("weight") == 0 for message in messages):
        return not supervised or example.input_ids[supervised[-1]] == end
    return bool(supervised) and supervised[-1] == len(example.input_ids) - 1 and example.input_ids[-1] == end


def _holding(tokens: int) -> int:
    """A round length that fits `tokens`: the next power of two."""
    return 1 << (tokens - 1).bit_length()


def _lost(max_length: int, tokens: int) -> str:
    return f"no room for its answer: {tokens} tokens of at most {max_length}; shorten the row or raise --max_seq_length"


def _refuse_losses(truncations: _Truncations, total: int) -> None:
    if truncations.dropped > MAX_LOST_SHARE * total:
        tokens, row = max(truncations.rows, key=lambda entry: entry[0])
        raise InputError(
            f"{truncations.dropped} of {total} rows lose their whole answer at {truncations.max_length} tokens "
            f"(at most {MAX_LOST_SHARE:.0%} may; {where(row)} has {tokens}); raise --max_seq_length or shorten the "
            "prompts"
        )
