"""A block of a file → rows to keep and rows to refuse, with all that the whole run needs to know of each row.

`work` runs in worker processes: the parent sees a batch as bytes and arrays, never as Python objects for every row.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from msgspec.json import Encoder

from sllm import tasks
from sllm.data import converters, personal_data, splits
from sllm.data.curation import Curation
from sllm.data.json_writer import jsonl
from sllm.data.readers import Block, Record, Unreadable
from sllm.data.rows import Row

Array: TypeAlias = np.ndarray
_encode, _encode_sorted = Encoder().encode, Encoder(order="sorted").encode
# What is known of a row. `file`: the number of its file in `Preparation.paths`; `size`: bytes of its line; `facts`:
# its number in the list of `Facts`; `content`, `id`,
# `context` and `turn` are hashes; the lengths are characters.
INDEX: Any = np.dtype(
    [
        ("file", "u4"), ("line", "u4"), ("size", "u4"), ("facts", "u4"), ("content", "u8"), ("id", "u8"),
        ("context", "u8"), ("turn", "u8"), ("prompt", "u4"), ("answer", "u4"), ("rejected", "u4"),
    ]
)  # fmt: skip


UNREADABLE, FAULTY, LEFT_OUT = "unreadable", "faulty", "left out"


class Facts(NamedTuple):
    """What many rows have in common. `failures`: the rules of its task that the answer breaks; None: not checked."""

    task: str | None
    ignored: tuple[str, ...] = ()
    failures: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


class Refusal(NamedTuple):
    """`row`: the record as it was read, or the part of it that gives no row, as JSON; None for a line that is not JSON.
    `kind`: `UNREADABLE`, which stops the run unless bad lines may be skipped, `FAULTY`, or `LEFT_OUT` by a flag or as a
    duplicate."""

    line: int
    reason: str
    row: str | None
    kind: str


@dataclass
class Batch:
    """The rows of a block: `lines` are theirs as JSON, `index` (rows,) of `INDEX`, `facts` those that `index` counts
    from 0. `source`: the number of the input that they are of, `path`: its file that they are in. `records`: how many
    were read, a record may give several rows."""

    source: int
    path: str
    records: int
    lines: list[bytes] = field(default_factory=list)
    index: Array = field(default_factory=lambda: np.empty(0, INDEX))
    facts: list[Facts] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


class Job(NamedTuple):
    """A block, the input that it is of (its number and its format), and what is done to its rows."""

    source: int
    format: str
    block: Block
    curation: Curation | None = None


def work(job: Job) -> Batch:
    """Convert, curate and check the records of a block."""
    records = job.block.records()
    batch = Batch(job.source, job.block.path, len(records))
    numbers: dict[Facts, int] = {}
    entries = []
    for record in records:
        for row, notes in _rows(record, job, batch.refusals):
            line = _encode(row) + b"\n"
            facts = numbers.setdefault(Facts(row["task"], row.ignored, broken_rules(row), notes), len(numbers))
            batch.lines.append(line)
            entries.append((0, record[0], len(line), facts, *_hashes(row), *_lengths(row)))
    batch.index = np.array(entries, INDEX)
    batch.facts = list(numbers)
    return batch


def _rows(record: Record, job: Job, refusals: list[Refusal]) -> list[tuple[Row, tuple[str, ...]]]:
    """The rows of a record, with the notes of their curation; what cannot be used is added to `refusals`."""
    line, content = record
    if isinstance(content, Unreadable):
        refusals.append(Refusal(line, content.reason, None, UNREADABLE))
        return []
    rows = []
    for made in converters.rows_of(content, job.format):
        row, reason, part = (None, *made) if isinstance(made, converters.Refused) else (made, None, None)
        kind, notes = FAULTY, list[str]()
        if row is not None and job.curation:
            kind = LEFT_OUT
            row, reason, notes = job.curation.apply(row)
        if row is None:
            text = jsonl([part or content]).rstrip("\n")
            if job.curation and job.curation.personal_data == "mask":
                text = personal_data.mask(text)[0]
            refusals.append(Refusal(line, reason or "", text, kind))
        else:
            rows.append((row, tuple(notes)))
    return rows


def broken_rules(row: dict[str, Any]) -> tuple[str, ...] | None:
    """The rules of its task that the answer breaks. None for an unknown task, and for several questions: the rules
    read one labelled user turn."""
    if row["task"] not in tasks.TASKS:
        return None
    prompt, answer = splits.prompt_and_answer(row)
    if sum(turn["role"] == "user" for turn in prompt) != 1:
        return None
    return tuple(Counter(failure.rule for failure in tasks.check(row["task"], prompt[-1]["content"], answer)))


def _hashes(row: Row) -> tuple[int, int, int, int]:
    """Of all that is trained on, of the id, and of what decides which rows stay together (`splits.keys`)."""
    body = {key: value for key, value in row.items() if key not in ("id", "task")}
    context, turn = splits.keys(row)
    content = splits.hash_of(_encode_sorted(body))
    return content, splits.hash_of(row["id"].encode()), splits.hash_of(context.encode()), splits.hash_of(turn.encode())


def _lengths(row: dict[str, Any]) -> tuple[int, int, int]:
    prompt, answer = splits.prompt_and_answer(row)
    rejected = len(row["rejected"][0]["content"]) if "rejected" in row else 0
    return sum(len(turn["content"]) for turn in prompt), len(answer), rejected
