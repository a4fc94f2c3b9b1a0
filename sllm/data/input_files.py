"""The files that prepare_data.py reads: what is kept of each, and what is refused. Standard library only."""

import json
from bisect import insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sllm.data import tokenize
from sllm.data.converters import convert, detect
from sllm.data.json_reader import examine, format_problems, scan
from sllm.data.rows import MAX_LOST_SHARE, Row, Skipped

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class RejectedRow:
    """`row`: as it was read; None for a line that is not JSON."""

    file: str
    line: int
    reason: str
    row: dict[str, Any] | None = None


@dataclass
class InputFile:
    """`format`: None if it is unknown. `row_count`: rows read, kept and rejected ones. `rejects`: in the order of
    lines."""

    path: str
    format: str | None = None
    row_count: int = 0
    rows: list[Row] = field(default_factory=list)
    rejects: list[RejectedRow] = field(default_factory=list)

    def reject(self, line: int, reason: str, row: dict[str, Any] | None = None) -> None:
        insort(self.rejects, RejectedRow(self.path, line, reason, row), key=lambda reject: reject.line)

    def problems(self, *, strict: bool) -> list[str]:
        """The rejected rows, if they stop the run: with --strict, or if no row is left."""
        if self.rows and not strict:
            return []
        return format_problems(self.path, [(reject.line, reject.reason) for reject in self.rejects])


def read_input(path: str, seen: dict[str, str], *, skip_bad_rows: bool = False) -> tuple[InputFile, list[str]]:
    """One file, and the problems that stop the whole run. `seen`: conversation → file:line of the rows read before, for
    duplicates; grows. `skip_bad_rows`: a few lines that are not JSON are rejected rows, not problems."""
    contents = examine(path, each_line=skip_bad_rows)
    rows, faults, bad = contents.rows, sorted(contents.faults + contents.bad), []
    if skip_bad_rows and len(contents.bad) <= MAX_LOST_SHARE * (len(rows) + len(contents.bad)):
        faults, bad = contents.faults, contents.bad
    elif skip_bad_rows:  # a file in another encoding, rather than a few broken lines: report that once
        rows, faults = scan(path)
    file = InputFile(path, row_count=len(rows) + len(bad))
    if not rows:
        return file, format_problems(path, faults)
    for line, reason in bad:
        file.reject(line, reason)
    try:
        row_format = file.format = detect([row for _, row in rows], path)
    except ValueError as error:
        return file, format_problems(path, [*faults, (0, str(error))])
    for line, row in rows:
        try:
            converted = convert(row, row_format).at(path, line)
            content = json.dumps({k: v for k, v in converted.items() if k not in ("id", "task")}, sort_keys=True)
            first = seen.setdefault(content, f"{path}:{line}")
            if first != f"{path}:{line}":
                raise ValueError(f"duplicate of {first}")
            file.rows.append(converted)
        except ValueError as error:
            file.reject(line, str(error), row)
    if faults:  # the file has to be corrected anyway: name its rejected rows too
        faults += [(reject.line, reject.reason) for reject in file.rejects]
    return file, format_problems(path, faults)


def encode(files: list[InputFile], tokenizer: "PreTrainedTokenizerBase", max_length: int) -> dict[str, Any]:
    """Encode the rows of all files as a trainer will that truncates at `max_length` tokens. Rows that it would refuse
    move from `rows` to `rejects` of their file. Returns the statistics of tokenizing, with `refused`: how many moved.
    """
    skipped = Skipped(True, share=1.0)  # any number: the report counts them
    rows = [row for file in files for row in file.rows]
    for file in files:
        skipped.expect(file.path, file.row_count)
    columns_of = tokenize.dpo_columns if rows and "chosen" in rows[0] else tokenize.sft_columns
    _, stats = columns_of(tokenizer, rows, max_length, skipped=skipped)
    for file in files:
        for row in file.rows:
            if reason := skipped.reason(row):
                file.reject(row.line or 0, reason, row)
        file.rows = [row for row in file.rows if not skipped.reason(row)]
    return {"refused": len(skipped.rows), **stats}
