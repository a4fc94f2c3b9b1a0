"""Records, and the blocks in which they travel from the file to the process that parses them. Standard library only."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from sllm.data.field_map import FieldMap


class Unreadable(NamedTuple):
    """A record that cannot be parsed. `reason`: in the form of `sllm.data.faults`."""

    reason: str


Record: TypeAlias = tuple[int, dict[str, Any] | Unreadable]
"""With the line that it starts on; in Parquet, Arrow and Hub data sets its number, in a workbook its row."""


@dataclass(frozen=True, kw_only=True)
class Block(ABC):
    """Consecutive records of one file; cheap to send to another process, which parses them.

    Attributes:
        path: the file that they are in, as errors name it; in a folder or an archive that file, not the whole.
        end: how much of the file on disk has been read with it, in bytes.
        fields: makes the records from what is parsed; None leaves them as they are.
    """

    path: str
    end: int
    fields: FieldMap | None = None

    def records(self) -> list[Record]:
        """The records in order. Never raises: what cannot be parsed is `Unreadable`."""
        parsed = self.parse()
        if self.fields is None:
            return parsed
        records: list[Record] = []
        for line, record in parsed:
            if isinstance(record, Unreadable):
                records.append((line, record))
            else:
                records += mapped(self.fields, line, record)
        return records

    @abstractmethod
    def parse(self) -> list[Record]:
        """The records as they are in the file. Never raises, as `records`."""


@dataclass(frozen=True, kw_only=True)
class Parsed(Block):
    """Records that had to be parsed to find where they end."""

    parsed: list[Record]

    def parse(self) -> list[Record]:
        return self.parsed


def mapped(fields: FieldMap, line: int, document: object) -> list[Record]:
    """The records that `fields` makes of a document that starts on `line`."""
    found = fields.records(document)
    return [(line, Unreadable(record) if isinstance(record, str) else record) for record in found]
