"""The rows of a preparation, encoded as the trainer of a model will: which it would refuse, and how long they are."""

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sllm.data import data_report, token_stats, tokenize
from sllm.data.preparation import Preparation
from sllm.data.row_passes import Rows, over_kept
from sllm.data.rows import Row, Skipped
from sllm.data.splits import Array

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_worker: dict[str, Any] = {}  # of this process: the tokenizer and the length


class Encoded(NamedTuple):
    """`refused`: row number → reason; `lengths`: (sequences or sides,) tokens, cut."""

    refused: dict[int, str]
    stats: dict[str, Any]
    lengths: Array


def load(args: Namespace) -> tuple["PreTrainedTokenizerBase", str]:
    """(tokenizer, chat template) of --model_id, as its trainer loads them. InputError if they do not fit."""
    from sllm import chat, checkpoint

    tokenizer = chat.load_tokenizer(args.model_id)
    chat.check_probe(tokenizer, checkpoint.read_run(args.model_id), args.model_id)
    return tokenizer, chat.set_chat_template(tokenizer, args.chat_template)


def check(state: Preparation, args: Namespace, max_length: int, processes: int) -> dict[str, Any]:
    """Encode the kept rows, cut at `max_length` tokens. Rows that the trainer would refuse are dropped. Returns the
    statistics of tokenizing, with `refused`: how many were dropped, and `lengths`."""
    parts = []
    for _, part in over_kept(state, encode, processes, start, (args, max_length)):
        for row, reason in part.refused.items():
            state.drop(row, reason, faulty=True)
        parts.append(part)
    stats = data_report.merge_stats([part.stats for part in parts], token_stats.SHOWN)
    lengths = data_report.lengths(np.concatenate([part.lengths for part in parts]))
    return {"refused": sum(len(part.refused) for part in parts), **stats, "lengths": lengths}


def rendered(state: Preparation, args: Namespace, numbers: Sequence[int]) -> dict[int, str]:
    """Rows as the model reads them: the text of their tokens, the marks of the chat template included."""
    from sllm import chat

    tokenizer = load(args)[0]
    texts = {}
    for number in numbers:
        row = state.row(number)
        answered = [row["messages"]] if "messages" in row else [row["prompt"] + row[side] for side in tokenize.SIDES]
        examples = [example for messages in answered for example in chat.build_examples(tokenizer, messages)]
        texts[number] = "\n\n".join(str(tokenizer.decode(example.input_ids)) for example in examples)
    return texts


def start(args: Namespace, max_length: int) -> None:
    """Once in each process."""
    _worker.update(tokenizer=load(args)[0], max_length=max_length)


def encode(block: Rows) -> Encoded:
    rows = [Row(row).at(*place) for row, place in zip(block.parsed(), block.places, strict=True)]
    skipped = Skipped(True, share=1.0)  # any number: the report counts them
    columns_of = tokenize.dpo_columns if "chosen" in rows[0] else tokenize.sft_columns
    columns, stats = columns_of(_worker["tokenizer"], rows, _worker["max_length"], skipped=skipped)
    reasons = zip(block.numbers, map(skipped.reason, rows), strict=True)
    refused = {number: reason for number, reason in reasons if reason}
    sequences = tokenize.as_sequences(columns) if "prompt_ids" in columns else columns
    lengths = np.array([len(ids) for ids in sequences["input_ids"]], np.uint32)
    return Encoded(refused, dict(stats), lengths)
