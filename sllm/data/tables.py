"""Parquet, Arrow (IPC, Feather, `save_to_disk` folders) and Excel workbooks. Standard library only, until
one is read."""

import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from sllm.data.blocks import Block, Parsed, Record, Unreadable
from sllm.data.data_files import DataFile
from sllm.data.field_map import FieldMap
from sllm.data.file_problems import UnreadableFile
from sllm.data.separated import column_names, is_header, notes_of

_ROWS = 2000  # in a block
_BYTES = 2**21  # in a block


@dataclass(frozen=True, kw_only=True)
class Batch(Block):
    """`data`: rows as an Arrow IPC stream, of which the first is row `first`."""

    data: bytes
    first: int

    def parse(self) -> list[Record]:
        import pyarrow as pa

        table = pa.ipc.open_stream(self.data).read_all()
        convert = (lambda row: row) if all(_is_plain(field.type) for field in table.schema) else plain
        try:
            return list(enumerate(map(convert, table.to_pylist()), self.first))
        except Exception:  # of one value, such as a date after the year 9999
            return [(self.first + n, self._row(table.slice(n, 1), convert)) for n in range(table.num_rows)]

    def _row(self, row: Any, convert: Callable[[Any], Any]) -> Any:
        try:
            return convert(row.to_pylist()[0])
        except Exception as error:
            return Unreadable(f"not readable: {_first_line(error)}; correct it")


def _is_plain(type_: Any) -> bool:
    """Are the values of an Arrow type those of JSON?"""
    from pyarrow import types

    if types.is_dictionary(type_):
        return _is_plain(type_.value_type)
    if types.is_struct(type_):
        return all(_is_plain(type_.field(n).type) for n in range(type_.num_fields))
    if types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_):
        return _is_plain(type_.value_type)
    kinds = (types.is_string, types.is_large_string, types.is_string_view, types.is_integer, types.is_boolean)
    return types.is_floating(type_) or types.is_null(type_) or any(kind(type_) for kind in kinds)


def plain(value: Any) -> Any:
    """A value as JSON has it: dates and times in ISO 8601, bytes as a note of their length."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]


def _damaged(file: DataFile, kind: str, error: BaseException) -> UnreadableFile:
    return UnreadableFile(file.name, [(0, f"a damaged {kind} file ({_first_line(error)}); get it again")])


def _content(file: DataFile, *, streamed: bool) -> Any:
    """What Arrow reads: the file itself, or the bytes of a member of an archive."""
    import pyarrow as pa

    with file.open() as stream:
        is_plain = file.path == file.name and stream.packed is None
    if is_plain:
        return pa.OSFile(file.path) if streamed else pa.memory_map(file.path)
    return pa.BufferReader(_bytes(file))


def _bytes(file: DataFile) -> bytes:
    with file.open() as stream:
        return b"".join(iter(lambda: stream.read(2**24), b""))


def read_parquet(file: DataFile, fields: FieldMap | None) -> Iterator[Block]:
    def batches() -> Iterator[tuple[Any, float]]:
        from pyarrow.parquet import ParquetFile

        # Without the buffer, whole row groups are held: 410 instead of 150 MiB for one of 290 MB.
        parquet = ParquetFile(_content(file, streamed=True), buffer_size=2**20, pre_buffer=False)
        groups = (parquet.metadata.row_group(n) for n in range(parquet.metadata.num_row_groups))
        rows, read = parquet.metadata.num_rows, 0
        size = sum(group.total_byte_size for group in groups) // max(1, rows)
        for batch in parquet.iter_batches(batch_size=max(1, min(_ROWS, _BYTES // max(1, size)))):
            read += batch.num_rows
            yield batch, read / rows

    return _blocks(file, "Parquet", batches, fields)


def read_arrow(file: DataFile, fields: FieldMap | None) -> Iterator[Block]:
    def batches() -> Iterator[tuple[Any, float]]:
        import pyarrow as pa

        source = _content(file, streamed=False)
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if not is_file:
            for batch in pa.ipc.open_stream(source):
                yield batch, source.tell() / source.size()
            return
        reader = pa.ipc.open_file(source)
        for n in range(reader.num_record_batches):
            yield reader.get_batch(n), (n + 1) / reader.num_record_batches

    return _blocks(file, "Arrow", batches, fields)


def _blocks(
    file: DataFile, kind: str, batches: Callable[[], Iterator[tuple[Any, float]]], fields: FieldMap | None
) -> Iterator[Block]:
    """`batches`: with the share of the file that has been read with each."""
    fields = fields and fields.for_record()
    first = 1
    try:
        for batch, share in batches():
            names = batch.schema.names
            if twice := {name for name in names if names.count(name) > 1}:
                raise UnreadableFile(file.name, [(0, f"several columns are named {sorted(twice)[0]!r}; rename them")])
            step = max(1, min(_ROWS, _BYTES * batch.num_rows // max(1, batch.nbytes)))
            for start in range(0, batch.num_rows, step):
                part = batch.slice(start, step)
                end = int(share * file.size)
                yield Batch(path=file.name, end=end, fields=fields, data=_serialized(part), first=first)
                first += part.num_rows
    except UnreadableFile:
        raise
    except Exception as error:  # of Arrow's many kinds
        raise _damaged(file, kind, error) from None


def _serialized(batch: Any) -> bytes:
    """Only the rows of a slice: pickle would take the buffers that it is a slice of."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema.remove_metadata()) as writer:
        writer.write_batch(batch.replace_schema_metadata(None))
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def saved_dataset(folder: str) -> tuple[list[DataFile], str | None] | None:
    """The Arrow files and the licence of a folder of `datasets.Dataset.save_to_disk`; None for any other folder."""
    here = Path(folder)
    if (here / "dataset_dict.json").is_file():
        splits = sorted(path.parent.name for path in here.glob("*/state.json"))
        named = f"{folder}/{splits[0] if splits else 'train'}"
        raise UnreadableFile(folder, [(0, f"a data set with the splits {', '.join(splits)}; name one: {named}")])
    if not (here / "state.json").is_file() or not (here / "dataset_info.json").is_file():
        return None
    try:
        state = json.loads((here / "state.json").read_text(encoding="utf-8"))
        info = json.loads((here / "dataset_info.json").read_text(encoding="utf-8"))
        paths = [str(here / item["filename"]) for item in state["_data_files"]]
        files = [DataFile(p, p, os.stat(p).st_size, lambda p=p: open(p, "rb")) for p in paths]  # type: ignore[misc]
        return files, str(info.get("license") or "") or None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UnreadableFile(folder, [(0, f"a damaged data set ({error}); save it again")]) from None


class Workbook:
    """The first sheet of an Excel workbook (.xlsx, .xls) that has rows."""

    def __init__(self, file: DataFile):
        from python_calamine import PasswordError, load_workbook

        self._file = file
        try:
            workbook = load_workbook(io.BytesIO(_bytes(file)))
            sheets = [workbook.get_sheet_by_index(n) for n in range(len(workbook.sheet_names))]
            filled = [sheet for sheet in sheets if sheet.height]
            self._sheet = filled[0] if filled else None
            self._start = self._sheet.start[0] + 1 if self._sheet and self._sheet.start else 1
            first = [[_cell(c) for c in row] for _, row in zip(range(200), self._rows(), strict=False)]
        except PasswordError:
            raise UnreadableFile(file.name, [(0, "encrypted; save it without a password")]) from None
        except UnreadableFile:
            raise
        except BaseException as error:  # a panic of calamine's is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise _damaged(file, "Excel", error) from None
        if not first or self._sheet is None:
            raise UnreadableFile(file.name, [(0, "no rows in it; give a file that has some")])
        cells = [["" if cell is None else str(cell) for cell in row] for row in first]
        self._named = is_header(cells[0], cells[1:])
        self._columns = column_names(cells[0] if self._named else [""] * len(cells[0]))
        self.notes = notes_of(self._columns, self._named)
        if others := [sheet.name for sheet in filled[1:]]:
            self.notes.append(f"read is the sheet {self._sheet.name!r}, not {', '.join(map(repr, others))}")

    def _rows(self) -> Iterator[list[Any]]:
        return iter(self._sheet.iter_rows()) if self._sheet else iter(())

    def read(self, fields: FieldMap | None) -> Iterator[Block]:
        fields = fields and fields.for_record()
        records: list[Record] = []
        for number, row in enumerate(self._rows(), self._start):
            if (self._named and number == self._start) or all(cell == "" for cell in row):
                continue
            records.append((number, dict(zip(self._columns, map(_cell, row), strict=False))))
            if len(records) == _ROWS:
                yield Parsed(path=self._file.name, end=0, fields=fields, parsed=records)
                records = []
        if records:
            yield Parsed(path=self._file.name, end=self._file.size, fields=fields, parsed=records)


def _cell(value: Any) -> Any:
    """Excel has no whole numbers: 1.0 is 1."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    return str(value) if isinstance(value, timedelta) else value
