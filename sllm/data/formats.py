"""Rows as people have them → the rows of the hand-off. Standard library only.

    training    {"id", "task", "messages": [{"role", "content"}, …]}
    preference  {"id", "task", "prompt": [message, …], "chosen": [message], "rejected": [message]}

An assistant message may have "weight": 0, which leaves it unsupervised. Trainers and inference read with `load_rows`:
strict, or with a small share of bad rows left out; `prepare_data.py` writes refused rows to a file instead.
"""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from sllm import checkpoint
from sllm.cli import InputError
from sllm.data.converters import FORMATS, Refused, convert, detect, format_of, kind_of_format, rows_of
from sllm.data.json_reader import examine, format_problems, read_file, scan
from sllm.data.rows import MAX_LOST_SHARE, Row, Skipped, ignored_keys, ignored_note, notes

__all__ = [
    "FORMATS", "Refused", "Skipped", "convert", "detect", "format_of", "ignored_keys", "ignored_note", "kind_of_format",
    "load_rows", "notes", "read_file", "rows_of", "scan", "unique_ids",
]  # fmt: skip


def load_rows(path: str | Path, kind: str, *, skipped: Skipped | None = None) -> list[Row]:
    """Every row of a file, converted. Each has its file and line; `notes(rows)` lists what is not used of them.

    Args:
        path: a file of any known format, or prepare_data.py's folder: its train.jsonl, or test.jsonl for prompts.
        kind: "sft" (training rows), "preference" (preference rows) or "prompts" (rows of either, answered or not).
        skipped: collects the rows that cannot be used if the run allows that; else one such row refuses the file.
    Returns:
        Training or preference rows; for prompts {"id", "task", "messages", "reference"}: the conversation up to
        a user turn and the text that answered it (preference rows: chosen), or None. There, ids are unique.
    Raises:
        InputError: everything wrong with the file, or that its rows are of another kind.
    """
    if kind not in ("sft", "preference", "prompts"):
        raise ValueError(f"unknown kind of rows: {kind!r}")
    skipped = skipped or Skipped()
    if Path(path).is_dir():
        checkpoint.require(path, stage="data")
        path = Path(path) / ("test.jsonl" if kind == "prompts" else "train.jsonl")
    name = str(path)
    contents = examine(path, each_line=True)
    if len(contents.bad) > MAX_LOST_SHARE * (len(contents.rows) + len(contents.bad)):
        contents = examine(path)  # a file in another encoding, rather than a few broken lines: report that once
    skipped.expect(name, len(contents.rows) + len(contents.bad))
    rows, refused = [], []
    if contents.rows:
        try:
            row_format = detect([row for _, row in contents.rows])
        except ValueError as error:
            raise InputError(format_problems(path, [*contents.faults, *contents.bad, (0, str(error))])) from None
        _check_kind(path, kind, row_format, contents.rows)
        for line, record in contents.rows:
            for row in rows_of(record, row_format, answered=kind != "prompts"):
                if isinstance(row, Refused):
                    refused.append((line, row.reason))
                else:
                    rows.append(row.at(name, line))
    if contents.faults:
        raise InputError(format_problems(path, contents.faults + contents.bad + refused))
    for line, reason in sorted(contents.bad + refused):
        skipped.add_line(name, line, reason)
    skipped.check()
    if kind == "prompts":
        rows = [_prompt(row) for row in rows]
        unique_ids(rows)
    return rows


def _check_kind(path: str | Path, kind: str, row_format: str, rows: list[tuple[int, dict[str, Any]]]) -> None:
    is_preference = kind_of_format(row_format) == "preference"
    if kind == "prompts" or is_preference == (kind == "preference"):
        return
    if row_format == "prompt_completion" and any(isinstance(row.get("label"), bool) for _, row in rows):
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
