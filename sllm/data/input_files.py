"""The files that prepare_data.py reads: what is kept of each, and what is refused. Standard library only."""

import json
from dataclasses import dataclass, field
from typing import Any

from sllm.data import formats
from sllm.data.rows import Row


@dataclass
class RejectedRow:
    """`row`: as it was read; None for a line that is not JSON."""

    file: str
    line: int
    reason: str
    row: dict[str, Any] | None = None


@dataclass
class InputFile:
    """`format`: None if it is unknown. `read`: rows read, kept and rejected ones."""

    path: str
    format: str | None = None
    read: int = 0
    rows: list[Row] = field(default_factory=list)
    rejects: list[RejectedRow] = field(default_factory=list)

    def reject(self, line: int, reason: str, row: dict[str, Any] | None = None) -> None:
        self.rejects.append(RejectedRow(self.path, line, reason, row))

    def sort_rejects(self) -> None:
        self.rejects.sort(key=lambda reject: reject.line)

    def problems(self, *, strict: bool) -> list[str]:
        """The rejected rows, if they stop the run: with --strict, or if no row is left."""
        if not self.rejects or (self.rows and not strict):
            return []
        return formats.format_problems(self.path, [(reject.line, reject.reason) for reject in self.rejects])


def read_input(path: str, seen: dict[str, str], *, skip_bad_rows: bool = False) -> tuple[InputFile, list[str]]:
    """One file, and the problems that stop the whole run.

    Args:
        seen: conversation → file:line of the rows read before, for duplicates; grows.
        skip_bad_rows: a few lines that are not JSON are rejected rows, not problems.
    """
    contents = formats.examine(path, each_line=skip_bad_rows)
    rows, faults, bad = contents.rows, sorted(contents.faults + contents.bad), []
    if skip_bad_rows and len(contents.bad) <= formats.MAX_LOST_SHARE * (len(rows) + len(contents.bad)):
        faults, bad = contents.faults, contents.bad
    elif skip_bad_rows:  # a file in another encoding, rather than a few broken lines: report that once
        rows, faults = formats.scan(path)
    file = InputFile(path, read=len(rows) + len(bad))
    for line, reason in bad:
        file.reject(line, reason)
    row_format = ""
    if rows:
        try:
            row_format = file.format = formats.detect([row for _, row in rows], path)
        except ValueError as error:
            return file, formats.format_problems(path, [*faults, (0, str(error))])
    for line, row in rows:
        try:
            file.rows.append(_converted(row, row_format, path, line, seen))
        except ValueError as error:
            file.reject(line, str(error), row)
    file.sort_rejects()
    if faults:  # the file has to be corrected anyway: name its rejected rows too
        faults += [(reject.line, reject.reason) for reject in file.rejects]
    return file, formats.format_problems(path, faults)


def _converted(row: dict[str, Any], name: str, path: str, line: int, seen: dict[str, str]) -> Row:
    converted = formats.convert(row, name)
    content = json.dumps({k: v for k, v in converted.items() if k not in ("id", "task")}, sort_keys=True)
    first = seen.setdefault(content, f"{path}:{line}")
    if first != f"{path}:{line}":
        raise ValueError(f"duplicate of {first}")
    return converted.at(path, line)
