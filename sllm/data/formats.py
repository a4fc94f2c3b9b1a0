"""Rows as people have them → the rows of the hand-off. Standard library only.

    training    {"id", "task", "messages": [{"role", "content"}, …]}
    preference  {"id", "task", "prompt": [message, …], "chosen": [message], "rejected": [message]}

An assistant message may have "weight": 0, which leaves it unsupervised. Inference reads with `load_rows` and the
trainers with `open_rows`: strict, or with a small share of bad rows left out; `prepare_data.py` writes refused rows to
a file instead.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from sllm import checkpoint
from sllm.cli import InputError
from sllm.data.converters import FORMATS, Refused, convert, detect, format_of, kind_of_format, rows_of
from sllm.data.json_reader import examine, format_problems, read_file, scan
from sllm.data.readers import Block, Record, Unreadable, open_source
from sllm.data.rows import MAX_LOST_SHARE, Row, Skipped, ignored_keys, ignored_note, notes

__all__ = [
    "FORMATS", "Refused", "RowFile", "Skipped", "convert", "detect", "format_of", "ignored_keys", "ignored_note",
    "kind_of_format", "load_rows", "notes", "open_rows", "read_file", "rows_of", "scan", "stream_rows", "unique_ids",
]  # fmt: skip
HEAD = 2000  # records that decide the format of a file; one with fewer is short: its rows are read at once


@dataclass
class RowFile:
    """A file of rows of one kind, of which the beginning has been read.

    Attributes:
        name: its path, as problems name it. kind: see `open_rows`. format: that of most records of its beginning.
        beginning: the blocks that were read, of `HEAD` records or more. is_short: they are all.
    """

    name: str
    kind: str
    format: str
    beginning: list[Block]
    is_short: bool
    _rest: Iterator[Block]

    def blocks(self) -> Iterator[Block]:
        """All its blocks, once. InputError where the rest of the file cannot be read."""
        return chain(self.beginning, self._rest)

    def rows_of(self, block: Block) -> tuple[list[Row], list[tuple[int, str]]]:
        """The rows of a block, each with its file and line; and (line, reason) of what is none."""
        rows: list[Row] = []
        refused = []
        for line, record in block.records():
            if isinstance(record, Unreadable):
                refused.append((line, record.reason))
                continue
            for row in rows_of(record, self.format, answered=self.kind != "prompts"):
                if isinstance(row, Refused):
                    refused.append((line, row.reason))
                else:
                    rows.append(row.at(self.name, line))
        return rows, refused


def open_rows(path: str | Path, kind: str) -> RowFile:
    """Open a file of rows; reads its beginning.

    Args:
        path: a file of any known format, or prepare_data.py's folder: its train.jsonl, or test.jsonl for prompts.
        kind: "sft" (training rows), "preference" (preference rows) or "prompts" (rows of either, answered or not).
    Raises:
        InputError: it cannot be read, its format is unknown, or its rows are of another kind.
    """
    if kind not in ("sft", "preference", "prompts"):
        raise ValueError(f"unknown kind of rows: {kind!r}")
    if Path(path).is_dir():
        checkpoint.require(path, stage="data")
        path = Path(path) / ("test.jsonl" if kind == "prompts" else "train.jsonl")
    name = str(path)
    blocks = open_source(path).blocks()
    beginning, records = _read_beginning(blocks)
    readable = [record for _, record in records if not isinstance(record, Unreadable)]
    unreadable = [(line, record.reason) for line, record in records if isinstance(record, Unreadable)]
    if len(unreadable) > MAX_LOST_SHARE * len(records):  # a file in another encoding, rather than a few broken lines
        if faults := examine(path).faults:
            raise InputError(format_problems(path, faults))
    try:
        row_format = detect(readable)
    except ValueError as error:
        raise InputError(format_problems(path, unreadable or [(0, str(error))])) from None
    _check_kind(path, kind, row_format, readable)
    return RowFile(name, kind, row_format, beginning, len(records) < HEAD, blocks)


def _read_beginning(blocks: Iterator[Block]) -> tuple[list[Block], list[Record]]:
    beginning, records = [], []
    for block in blocks:
        beginning.append(block)
        records += block.records()
        if len(records) >= HEAD:
            break
    return beginning, records


def stream_rows(path: str | Path, kind: str, *, skipped: Skipped | None = None) -> Iterator[Row]:
    """The rows of a file, one after another, in little memory. See `open_rows`; its errors come before the first row.

    Args:
        skipped: collects the rows that cannot be used if the run allows that; else one such row refuses the file.
    Raises:
        InputError: after the last row, with everything that is wrong with the file.
    """
    skipped, file = skipped or Skipped(), open_rows(path, kind)
    refused: list[tuple[int, str]] = []
    read = 0
    try:
        for block in file.blocks():
            rows, problems = file.rows_of(block)
            read, refused = read + len(rows) + len(problems), refused + problems
            yield from rows
    except InputError as error:
        raise InputError([*error.problems, *format_problems(file.name, refused)]) from None
    skipped.add_lines(file.name, read, refused)
    skipped.check()


def load_rows(path: str | Path, kind: str, *, skipped: Skipped | None = None) -> list[Row]:
    """Every row of a file, in memory. See `stream_rows`; `notes(rows)` lists what is not used of them.

    Returns:
        Training or preference rows; for prompts {"id", "task", "messages", "reference"}: the conversation up to
        a user turn and the text that answered it (preference rows: chosen), or None. There, ids are unique.
    """
    rows = list(stream_rows(path, kind, skipped=skipped))
    if kind == "prompts":
        rows = [_prompt(row) for row in rows]
        unique_ids(rows)
    return rows


def _check_kind(path: str | Path, kind: str, row_format: str, records: list[dict[str, Any]]) -> None:
    is_preference = kind_of_format(row_format) == "preference"
    if kind == "prompts" or is_preference == (kind == "preference"):
        return
    if row_format == "prompt_completion" and any(isinstance(record.get("label"), bool) for record in records):
        raise InputError(
            f"{path} holds KTO rows (prompt, completion, label), and DPO requires pairs; "
            "build_preferences.py writes those too, to train.jsonl"
        )
    row_kind, trainer = ("preference", "DPO") if is_preference else ("training", "SFT")
    raise InputError(f"{path} holds {row_kind} rows ({row_format}): train_LoRA_{trainer}.py reads those")


def _prompt(row: Row) -> Row:
    messages = row["prompt"] + row["chosen"] if "prompt" in row else row["messages"]
    messages = [{"role": turn["role"], "content": turn["content"]} for turn in messages]
    reference = messages[-1]["content"] if messages[-1]["role"] == "assistant" else None
    question = messages if reference is None else messages[:-1]
    prompt = {"id": row["id"], "task": row["task"], "messages": question, "reference": reference}
    return Row(prompt, ignored=row.ignored, context=row.context).at(row.file, row.line)


def unique_ids(rows: Sequence[dict[str, Any]]) -> int:
    """Give a row whose id an earlier row has the next free `id#2`, `id#3`, …; returns how many were renamed."""
    taken, seen, renamed = {row["id"] for row in rows}, set(), 0
    for row in rows:
        if row["id"] in seen:
            row["id"] = next(name for n in count(2) if (name := f"{row['id']}#{n}") not in taken)
            taken.add(row["id"])
            renamed += 1
        seen.add(row["id"])
    return renamed
