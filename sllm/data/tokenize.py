"""Rows → the token columns that TRL trains on, truncated and counted. Nothing is dropped silently."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from sllm import chat
from sllm.cli import InputError
from sllm.data.rows import MAX_LOST_SHARE, Skipped, source_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # label of a token that is not supervised (PyTorch's cross-entropy ignore_index)
SIDES = ("chosen", "rejected")
Columns = dict[str, list[Any]]
SHOWN = 20  # truncated rows in the statistics, the longest first


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
    longest_truncated: list[dict[str, Any]]  # {"row": where it was read, "tokens"}


class _Truncations:
    """The rows longer than `max_length` tokens, and how many sequences or pairs lose their whole answer.

    `skipped` collects the rows that cannot be used. Files that were read with it are counted already; those of other
    `rows` are counted here.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], max_length: int, skipped: Skipped | None):
        self.max_length, self.skipped = max_length, skipped or Skipped()
        for file, count in Counter(getattr(row, "file", None) for row in rows).items():
            self.skipped.expect(file, count)
        self.longest = self.truncated = self.dropped = 0
        self.rows: list[tuple[int, dict[str, Any]]] = []  # (tokens, row)

    def add(self, row: dict[str, Any], tokens: int) -> None:
        """Count a sequence or pair of `row`."""
        self.longest = max(self.longest, tokens)
        if tokens <= self.max_length:
            return
        self.truncated += 1
        if self.rows and self.rows[-1][1] is row:  # a row of several sequences
            self.rows[-1] = (max(tokens, self.rows[-1][0]), row)
        else:
            self.rows.append((tokens, row))

    def skip(self, row: dict[str, Any], tokens: int) -> None:
        """Leave out a row of which no answer is left, if the run allows that."""
        if self.skipped.allow:
            length = f"{tokens} tokens of at most {self.max_length}"
            self.skipped.add(row, f"no room for its answer: {length}; shorten the row or raise --max_seq_length")

    def stats(self, total: int) -> TokenStats:
        """Statistics of all rows. InputError for rows that cannot be used, or if more than 5 % of `total` sequences or
        pairs are lost to truncation."""
        self.skipped.check()
        worst = sorted(self.rows, key=lambda entry: -entry[0])[:SHOWN]
        if not self.skipped.allow and self.dropped > MAX_LOST_SHARE * total:
            tokens, row = worst[0]
            raise InputError(
                f"{self.dropped} of {total} rows lose their whole answer at {self.max_length} tokens (at most "
                f"{MAX_LOST_SHARE:.0%} may; {source_of(row)} has {tokens}); raise --max_seq_length or shorten the "
                "prompts"
            )
        return {
            "truncated": self.truncated,
            "dropped": self.dropped,
            "max_length": self.max_length,
            "longest": self.longest,
            "truncated_rows": len(self.rows),
            "longest_truncated": [{"row": source_of(row), "tokens": tokens} for tokens, row in worst],
        }


def sft_columns(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[dict[str, Any]],
    max_length: int,
    train_on_inputs: bool = False,
    *,
    skipped: Skipped | None = None,
) -> tuple[Columns, TokenStats]:
    """Training rows as columns {"input_ids": [[int]], "labels": [[int]]}, one entry a sequence, and their statistics.

    Args:
        max_length: tokens; a longer sequence loses its end.
        train_on_inputs: supervise every token instead of the assistant's alone.
        skipped: collects the rows that cannot be rendered, or lose their whole answer, if the run allows that.
    Raises:
        InputError: rows that cannot be rendered, all of them; or more than 5 % lost to truncation.
    """
    columns: Columns = {"input_ids": [], "labels": []}
    truncations = _Truncations(rows, max_length, skipped)
    end = chat.end_of_turn(tokenizer)[1]
    for row in rows:
        try:
            if train_on_inputs and any(message.get("weight") == 0 for message in row["messages"]):
                raise ValueError("an answer has the weight 0, and --train_on_inputs learns every turn; choose one")
            examples = chat.build_examples(tokenizer, row["messages"])
            if not all(_learns_its_end(example, row["messages"], end) for example in examples):
                raise ValueError("its end-of-turn token would not be learned (guarantee 2)")
        except (ValueError, InputError) as error:
            truncations.skipped.add(row, str(error))
            continue
        supervised = [example for example in examples if any(example.completion_mask)]  # no turn of weight 0
        fitting = [example for example in supervised if any(example.completion_mask[:max_length])]
        for example in fitting:
            ids, mask = example.input_ids[:max_length], example.completion_mask[:max_length]
            columns["input_ids"].append(ids)
            columns["labels"].append([i if train_on_inputs or m else IGNORED for i, m in zip(ids, mask, strict=True)])
        for example in supervised:
            truncations.add(row, len(example.input_ids))
        truncations.dropped += len(supervised) - len(fitting)
        if not fitting:
            truncations.skip(row, max(len(example.input_ids) for example in examples))
    stats: TokenStats = {
        "rows": len(rows),
        "sequences": len(columns["input_ids"]),
        "tokens": sum(map(len, columns["input_ids"])),
        "supervised_tokens": sum(label != IGNORED for labels in columns["labels"] for label in labels),
    }
    return columns, stats | truncations.stats(truncations.dropped + len(columns["input_ids"]))


def dpo_columns(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[dict[str, Any]],
    max_length: int,
    *,
    skipped: Skipped | None = None,
) -> tuple[Columns, TokenStats]:
    """Preference rows as columns `prompt_ids`, `chosen_ids` and `rejected_ids`, each [[int]], and their statistics.

    Args:
        max_length: tokens of prompt and answer together; longer answers lose their end.
        skipped: collects the pairs that cannot be used, if the run allows that.
    Raises:
        InputError: pairs that cannot be rendered or whose sides render alike, all; or more than 5 % lost to truncation.
    """
    columns: Columns = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    truncations, tokens = _Truncations(rows, max_length, skipped), 0
    for row in rows:
        try:
            answers = {name: chat.completion_ids(tokenizer, row["prompt"] + row[name]) for name in SIDES}
            if answers["chosen"] == answers["rejected"]:
                raise ValueError("chosen and rejected render to the same tokens, so there is no choice")
        except (ValueError, InputError) as error:
            truncations.skipped.add(row, str(error))
            continue
        prompt = chat.prompt_ids(tokenizer, row["prompt"])
        available, total = max_length - len(prompt), len(prompt) + max(map(len, answers.values()))
        truncations.add(row, total)
        if available < 1 or answers["chosen"][:available] == answers["rejected"][:available]:
            truncations.dropped += 1
            truncations.skip(row, total)
            continue
        columns["prompt_ids"].append(prompt)
        for name, ids in answers.items():
            columns[f"{name}_ids"].append(ids[:available])
            tokens += len(prompt) + len(ids[:available])
    stats: TokenStats = {"rows": len(rows), "pairs": len(columns["prompt_ids"]), "tokens": tokens}
    return columns, stats | truncations.stats(len(rows))


def truncation_summary(stats: TokenStats, *, context_length: int | None = None) -> list[str]:
    """Lines to print about the truncated rows: how many, the longest, and the length that fits them all, but none above
    `context_length`, the positions of the model."""
    if not stats["truncated_rows"]:
        return []
    worst = [f"{long['row']} has {long['tokens']:,} tokens" for long in stats["longest_truncated"][:3]]
    if more := stats["truncated_rows"] - len(worst):
        worst.append(f"{more:,} more")
    length = 1 << (stats["longest"] - 1).bit_length()  # a round one: the next power of two
    remedy = f"--max_seq_length {length} holds all"
    if context_length is not None and length > context_length:
        fit = (
            f"--max_seq_length {context_length} holds all"
            if stats["longest"] <= context_length
            else "split or shorten these rows"
        )
        remedy = f"the model holds {context_length:,}: {fit}"
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


def _learns_its_end(example: chat.Example, messages: list[dict[str, Any]], end: int) -> bool:
    """Is the last supervised token the end of turn, and the last token of all if no answer has the weight 0?"""
    supervised = [i for i, on in enumerate(example.completion_mask) if on]
    if any(message.get("weight") == 0 for message in messages):
        return not supervised or example.input_ids[supervised[-1]] == end
    return bool(supervised) and supervised[-1] == len(example.input_ids) - 1 and example.input_ids[-1] == end
