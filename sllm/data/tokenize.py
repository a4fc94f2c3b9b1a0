"""Rows → the token columns that TRL trains on, truncated and counted. Nothing is dropped silently."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sllm import chat
from sllm.cli import InputError
from sllm.data.labels import IGNORED, Columns, runs_of, with_labels
from sllm.data.rows import Skipped, source_of
from sllm.data.token_stats import COUNTS, Array, TokenStats, statistics, without_room

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Encoded:
    """Rows as token columns.

    Attributes:
        columns: one entry a sequence or pair, those of a row after those of the row before. SFT: `input_ids` and
            `labels`, the latter as runs (see `sllm.data.labels`). DPO: `prompt_ids`, `chosen_ids` and `rejected_ids`.
        counts: (rows, len(COUNTS)) int64.
        refused: row → why it cannot be used.
    """

    columns: Columns
    counts: Array
    refused: dict[int, str]

    @classmethod
    def empty(cls, rows: int, *names: str) -> "Encoded":
        return cls({name: [] for name in names}, np.zeros((rows, len(COUNTS)), np.int64), {})


def encode_sft(
    tokenizer: "PreTrainedTokenizerBase", rows: Sequence[dict[str, Any]], max_length: int, train_on_inputs: bool = False
) -> Encoded:
    """Training rows. See `sft_columns`."""
    encoded = Encoded.empty(len(rows), "input_ids", "labels")
    end = chat.end_of_turn(tokenizer)[1]
    for number, row in enumerate(rows):
        try:
            if train_on_inputs and any(message.get("weight") == 0 for message in row["messages"]):
                raise ValueError("an answer has the weight 0, and --train_on_inputs learns every turn; choose one")
            examples = chat.build_examples(tokenizer, row["messages"])
            if not all(_learns_its_end(example, row["messages"], end) for example in examples):
                raise ValueError("its end-of-turn token would not be learned (guarantee 2)")
        except (ValueError, InputError) as error:
            encoded.refused[number] = str(error)
            continue
        examples = [example for example in examples if any(example.completion_mask)]  # no turn of weight 0
        lengths = [len(example.input_ids) for example in examples]
        sequences = tokens = supervised = 0
        for example in examples:
            ids, mask = example.input_ids[:max_length], example.completion_mask[:max_length]
            if not any(mask):
                continue
            runs = [0, len(ids)] if train_on_inputs else runs_of(mask)
            encoded.columns["input_ids"].append(ids)
            encoded.columns["labels"].append(runs)
            sequences, tokens, supervised = sequences + 1, tokens + len(ids), supervised + sum(runs[1::2])
        truncated = sum(length > max_length for length in lengths)
        dropped = len(examples) - sequences
        encoded.counts[number] = sequences, tokens, supervised, max(lengths), truncated, dropped
    return encoded


def encode_dpo(tokenizer: "PreTrainedTokenizerBase", rows: Sequence[dict[str, Any]], max_length: int) -> Encoded:
    """Preference rows. See `dpo_columns`."""
    encoded = Encoded.empty(len(rows), "prompt_ids", *(f"{name}_ids" for name in SIDES))
    for number, row in enumerate(rows):
        try:
            answers = {name: chat.completion_ids(tokenizer, row["prompt"] + row[name]) for name in SIDES}
            if answers["chosen"] == answers["rejected"]:
                raise ValueError("chosen and rejected render to the same tokens, so there is no choice")
        except (ValueError, InputError) as error:
            encoded.refused[number] = str(error)
            continue
        prompt = chat.prompt_ids(tokenizer, row["prompt"])
        room, total = max_length - len(prompt), len(prompt) + max(map(len, answers.values()))
        kept = [ids[: max(room, 0)] for ids in answers.values()]
        if kept[0] == kept[1]:
            encoded.counts[number] = 0, 0, 0, total, total > max_length, 1
            continue
        encoded.columns["prompt_ids"].append(prompt)
        for name, ids in zip(SIDES, kept, strict=True):
            encoded.columns[f"{name}_ids"].append(ids)
        answered = sum(map(len, kept))
        encoded.counts[number] = 1, 2 * len(prompt) + answered, answered, total, total > max_length, 0
    return encoded


def sft_columns(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[dict[str, Any]],
    max_length: int,
    train_on_inputs: bool = False,
    *,
    skipped: Skipped | None = None,
) -> tuple[Columns, TokenStats]:
    """Training rows as columns {"input_ids": [[int]], "labels": [[int]]}, one entry a sequence, and their statistics.
    In memory: trainers use `sllm.data.training`.

    Args:
        max_length: tokens; a longer sequence loses its end.
        train_on_inputs: supervise every token instead of the assistant's alone.
        skipped: collects the rows that cannot be rendered, or lose their whole answer, if the run allows that.
    Raises:
        InputError: rows that cannot be rendered, all of them; or more than 5 % lost to truncation.
    """
    encoded = encode_sft(tokenizer, rows, max_length, train_on_inputs)
    stats = _stats_of(encoded, rows, max_length, skipped or Skipped(), pairs=False)
    return with_labels(encoded.columns), stats


def dpo_columns(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[dict[str, Any]],
    max_length: int,
    *,
    skipped: Skipped | None = None,
) -> tuple[Columns, TokenStats]:
    """Preference rows as columns `prompt_ids`, `chosen_ids` and `rejected_ids`, each [[int]], and their statistics.
    In memory: trainers use `sllm.data.training`.

    Args:
        max_length: tokens of prompt and answer together; longer answers lose their end.
        skipped: collects the pairs that cannot be used, if the run allows that.
    Raises:
        InputError: pairs that cannot be rendered or whose sides render alike, all; or more than 5 % lost to truncation.
    """
    encoded = encode_dpo(tokenizer, rows, max_length)
    return encoded.columns, _stats_of(encoded, rows, max_length, skipped or Skipped(), pairs=True)


def _stats_of(
    encoded: Encoded, rows: Sequence[dict[str, Any]], max_length: int, skipped: Skipped, *, pairs: bool
) -> TokenStats:
    """Files that were read with `skipped` are counted already; those of other rows are counted here."""
    for file, count in Counter(getattr(row, "file", None) for row in rows).items():
        skipped.expect(file, count)
    unusable = encoded.refused | (without_room(encoded.counts, max_length) if skipped.allow else {})
    for number, reason in sorted(unusable.items()):
        skipped.add(rows[number], reason)
    skipped.check()
    return statistics(
        encoded.counts, lambda row: source_of(rows[row]), max_length, pairs=pairs, strict=not skipped.allow
    )


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
