"""Files → records, a block at a time: a file of any size is read in little memory, and its blocks are parsed in other
processes.

A record is an object as the file has it; `sllm.data.converters` makes rows of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from sllm.cli import InputError
from sllm.data.json_reader import examine, format_problems


class Unreadable(NamedTuple):
    """A record that cannot be parsed. `reason`: in the form of `sllm.data.faults`."""

    reason: str


Record: TypeAlias = tuple[int, dict[str, Any] | Unreadable]  # with the line that it starts on


@dataclass(frozen=True)
class Block:
    """Consecutive records of a file, parsed or not; cheap to send to another process."""

    parsed: list[Record]

    def records(self) -> list[Record]:
        return self.parsed


@dataclass
class Source:
    """A file that is about to be read.

    Attributes:
        kind: what it is: "JSON Lines", "CSV", …
        notes: what a user should know of how it is read, such as its encoding.
        license: where the source itself says it.
    """

    path: str
    kind: str
    notes: list[str] = field(default_factory=list)
    license: str | None = None

    def blocks(self) -> Iterator[Block]:
        """Its records in order, without a limit of size. InputError where the rest of the file cannot be read."""
        contents = examine(self.path, each_line=True)
        if contents.faults:
            raise InputError(format_problems(self.path, contents.faults + contents.bad))
        bad: list[Record] = [(line, Unreadable(reason)) for line, reason in contents.bad]
        yield Block(sorted([*contents.rows, *bad], key=lambda record: record[0]))


def open_source(path: str | Path) -> Source:
    """InputError if it cannot be read at all: missing, a folder, of an unknown kind."""
    return Source(str(path), "JSON")
