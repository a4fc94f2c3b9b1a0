"""Reading a whole file of records at once, and reporting everything that is wrong with it. Standard library only.

See `sllm.data.readers` for what is read, and for reading it a block at a time.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sllm import cli
from sllm.cli import InputError
from sllm.data.blocks import Unreadable
from sllm.data.file_problems import SHOWN, UnreadableFile, format_problems, kind_of
from sllm.data.readers import open_source

__all__ = ["SHOWN", "Contents", "examine", "format_problems", "kind_of", "read_file", "scan"]


def read_file(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
    """The records of a file, each with the line it starts on (arrays included). InputError with everything wrong at
    once: missing, a folder, not UTF-8, not JSON (every bad line), records that are not objects, no records."""
    rows, problems = scan(path)
    if problems:
        raise InputError(format_problems(path, problems))
    return rows


@dataclass
class Contents:
    """The contents of a file. Line 0 of a problem: no line can be named."""

    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)  # (line, row) of what can be read
    faults: list[tuple[int, str]] = field(default_factory=list)  # (line, text): problems of the file as a whole
    bad: list[tuple[int, str]] = field(default_factory=list)  # (line, text): records that cannot be read


def scan(path: str | Path) -> tuple[list[tuple[int, dict[str, Any]]], list[tuple[int, str]]]:
    """What can be read of a file, and what is wrong with it as (line, text); line 0 is the file as a whole."""
    contents = examine(path)
    return contents.rows, sorted(contents.faults + contents.bad)


def examine(path: str | Path, *, each_line: bool = False) -> Contents:
    """The contents of a file. `each_line`: report every line that is not UTF-8, instead of the file once with the
    command to convert it."""
    if Path(path).is_dir():
        return Contents(faults=[(0, "a folder; name a .jsonl or .json file in it")])
    contents = Contents()
    try:
        for block in open_source(path).blocks():
            for line, record in block.records():
                if isinstance(record, Unreadable):
                    contents.bad.append((line, record.reason))
                else:
                    contents.rows.append((line, record))
    except UnreadableFile as error:
        contents.faults += error.faults
    except InputError as error:
        contents.faults += [(0, problem) for problem in error.problems]
    undecodable = [bad for bad in contents.bad if bad[1].startswith("not UTF-8")]
    if undecodable and not each_line:
        contents.bad = [bad for bad in contents.bad if bad not in undecodable]
        command = f"iconv -f ENCODING -t UTF-8 {path} > converted{Path(path).suffix}"
        fault = f"not UTF-8 ({cli.plural(len(undecodable), 'line')}); convert the file: {command}"
        contents.faults.append((undecodable[0][0], fault))
    return contents
