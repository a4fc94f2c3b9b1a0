"""JSON Lines: blocks of whole lines, which are parsed where `records()` is called."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from sllm.data.blocks import Block, Record, Unreadable
from sllm.data.data_files import DataFile
from sllm.data.encodings import Utf8, label
from sllm.data.field_map import FieldMap
from sllm.data.file_problems import kind_of

BLOCK = 2**21  # bytes


@dataclass(frozen=True, kw_only=True)
class Lines(Block):
    """`data`: whole lines in UTF-8, of which the first is line `first` of the file. `encoding`: that of the file."""

    data: bytes
    first: int
    encoding: str

    def parse(self) -> list[Record]:
        records: list[Record] = []
        decode = _decoder()
        for number, line in enumerate(self.data.split(b"\n"), self.first):
            try:
                value = decode(line)
            except Exception:  # of what msgspec refuses, json reads NaN, 1e999 and lone surrogates
                if not line.strip():
                    continue
                value = self._strictly(line)
            if not isinstance(value, dict | Unreadable):
                value = Unreadable(f"a row is a JSON object, not {kind_of(value)}")
            records.append((number, value))
        return records

    def _strictly(self, line: bytes) -> Any:
        try:
            text = line.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            place = f"byte {error.start}"
            if self.encoding != "utf-8":
                place = f"character {len(line[: error.start].decode('utf-8'))}"
            return Unreadable(f"not {label(self.encoding)}: from {place} of the line on; correct it")
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            return Unreadable(not_json(error))


@cache
def _decoder() -> Callable[[bytes], Any]:
    """msgspec's: 1.2 to 1.4 times as fast as json. Whole numbers stay exact at any size, which orjson rounds."""
    import msgspec

    return msgspec.json.Decoder().decode


def not_json(error: Exception, *, column: int | None = None) -> str:
    """The reason of an unreadable record."""
    if isinstance(error, json.JSONDecodeError):
        if error.doc[error.pos : error.pos + 1] == "'":
            return "not JSON: Python's quotes; write the rows with json.dumps"
        return f"not JSON: {error.msg} (column {column or error.colno}); correct it"
    return f"not JSON: {'nested too deep' if isinstance(error, RecursionError) else error}; correct it"


def read(file: DataFile, encoding: str, fields: FieldMap | None) -> Iterator[Block]:
    """Blocks of about `BLOCK` bytes; of more where a line is longer."""
    fields = fields and fields.for_record()
    with file.open() as stream:
        first = 1
        for data in _whole_lines(Utf8(stream, encoding)):
            if not data.isspace():
                end = stream.position()
                yield Lines(path=file.name, end=end, fields=fields, data=data, first=first, encoding=encoding)
            first += data.count(b"\n")


def _whole_lines(text: Utf8) -> Iterator[bytes]:
    parts: list[bytes] = []
    while chunk := text.read(BLOCK):
        end = chunk.rfind(b"\n") + 1
        if end:
            yield b"".join([*parts, chunk[:end]])
            parts = []
        parts.append(chunk[end:])
    if data := b"".join(parts):
        yield data
