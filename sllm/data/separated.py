"""CSV, TSV and other columns: the delimiter, the quotation marks and the column names are found from the first rows.
Standard library only."""

import csv
import io
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sllm.data.blocks import Block, Record, Unreadable
from sllm.data.data_files import DataFile
from sllm.data.encodings import Utf8, label
from sllm.data.field_map import FieldMap
from sllm.data.file_problems import UnreadableFile

_FIELD_LIMIT = 2**24  # characters of one field; more than that is a quotation mark that is never closed
_ROWS = 5000  # in a block
_CHARACTERS = 2**20  # in a block
# Words that are column names and no contents.
_NAMES = set(
    (
        "id idx index no num 번호 q a question answer 질문 답변 문의 응답 대답 정답 답 문제 instruction "
        "instructions 지시 지시문 명령어 input output 입력 출력 response completion prompt context 문맥 맥락 본문 "
        "지문 passage document documents text 텍스트 내용 문서 문장 sentence sentence1 sentence2 sent1 sent2 "
        "premise hypothesis 전제 가설 question1 question2 label labels 라벨 레이블 gold_label is_duplicate score "
        "점수 category 분류 카테고리 title 제목 summary 요약 abstract keyword keywords 키워드 topic 주제 chosen "
        "rejected task system system_prompt user_content assistant_content user assistant comments comment 댓글 "
        "review reviews 리뷰 hate bias sentiment 감정 source 출처 url date 날짜"
    ).split()
)


class Layout(NamedTuple):
    """How a file of columns is written. `named`: its first row has the names of the columns."""

    delimiter: str
    quoting: Literal[0, 3]  # csv.QUOTE_MINIMAL, csv.QUOTE_NONE
    columns: tuple[str, ...]
    named: bool

    @property
    def kind(self) -> str:
        return {"\t": "TSV", ",": "CSV"}.get(self.delimiter, f"CSV with {self.delimiter!r}")


def layout_of(text: str, suffix: str) -> Layout | None:
    """The layout of a file that starts with `text` (whole lines); None for a text without columns."""
    csv.field_size_limit(_FIELD_LIMIT)
    text = text.lstrip("\r\n")
    header = re.split("[\r\n]", text, maxsplit=1)[0]
    delimiter = "\t" if "\t" in header else max(",;|", key=header.count)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
    if delimiter == "\t" and len({line.count(delimiter) for line in text.split("\n") if line}) == 1:
        quoting = csv.QUOTE_MINIMAL if _properly_quoted(text) else csv.QUOTE_NONE
    records = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting)
    rows: list[list[str]] = []
    with suppress(csv.Error):  # reported with its line when it is read
        rows.extend(row for _, row in zip(range(200), records, strict=False) if row)
    if not rows or any("\0" in cell for cell in rows[0]):
        return None
    if suffix not in (".csv", ".tsv"):  # prose has commas too
        ragged = len({len(row) for row in rows[:20]}) > 1 or any(cell != cell.strip() for cell in rows[0])
        if ragged or len(rows) < 2 or len(rows[0]) < 2:
            return None
    named = is_header(rows[0], rows[1:])
    return Layout(delimiter, quoting, column_names(rows[0] if named else [""] * len(rows[0])), named)


def _properly_quoted(text: str) -> bool:
    """Is there a cell in quotation marks, and no quotation mark that does not belong to one or is not doubled?"""
    cells = [cell for line in text.split("\n") for cell in line.rstrip("\r").split("\t") if '"' in cell]
    return bool(cells) and all(re.fullmatch(r'"(?:[^"]|"")*"', cell) for cell in cells)


def is_header(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Are these the names of columns? A known name decides; else contents are what is long, a number, a sentence, or
    seen again in its column."""
    cells = [cell.strip() for cell in first]
    if any(cell.lower() in _NAMES for cell in cells):
        return True
    filled = cells[1:] if cells and not cells[0] else cells  # the first is blank above a pandas index
    if not filled or not others or not all(filled) or len({*filled}) < len(filled):
        return False
    if any(len(cell) > 40 or len(cell.split()) > 4 or re.search(r"[.?!…]$|^[-+\d.,%]+$", cell) for cell in filled):
        return False
    return not any(cell and cell in {row[n].strip() for row in others if n < len(row)} for n, cell in enumerate(cells))


def column_names(cells: Iterable[str]) -> tuple[str, ...]:
    """Names of columns: column2 for a blank one, name_2 for one that is there already."""
    names: dict[str, None] = {}
    for number, cell in enumerate(cells, 1):
        name = stem = cell.strip() or f"column{number}"
        count = 1
        while name in names:
            count += 1
            name = f"{stem}_{count}"
        names[name] = None
    return tuple(names)


def notes_of(columns: Sequence[str], named: bool) -> list[str]:
    if named:
        known = any(name.lower() in _NAMES for name in columns)
        return [] if known else [f"the first row is read as column names: {', '.join(columns[:8])}"]
    both = "question=column1,answer=column2" if len(columns) > 1 else "text=column1"
    span = "column1" if len(columns) == 1 else f"column1 to column{len(columns)}"
    return [f"no column names, so they are {span}; name them, for example with --field_map {both}"]


@dataclass(frozen=True, kw_only=True)
class Rows(Block):
    columns: tuple[str, ...]
    rows: list[tuple[int, list[str] | Unreadable]]
    encoding: str

    def parse(self) -> list[Record]:
        records: list[Record] = []
        for line, row in self.rows:
            if isinstance(row, Unreadable):
                records.append((line, row))
                continue
            try:
                "".join(row).encode()
                records.append((line, dict(zip(self.columns, row, strict=True))))
            except UnicodeEncodeError:  # surrogateescape's
                records.append((line, Unreadable(f"not {label(self.encoding)}; correct it")))
        return records


class _Stream(io.RawIOBase):
    """For TextIOWrapper."""

    def __init__(self, text: Utf8):
        self._text, self._rest = text, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._rest or self._text.read(2**18)
        self._rest = data[len(buffer) :]
        data = data[: len(buffer)]
        buffer[: len(data)] = data
        return len(data)


class _Lines:
    """Lines that can be given back. `number`: of the last one; `taken`: those of the record that is being read."""

    def __init__(self, lines: Iterator[str]):
        self._lines, self._returned = lines, deque[str]()
        self.number, self.taken = 0, list[str]()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else next(self._lines)
        self.number += 1
        self.taken.append(line)
        return line

    def keep_first(self) -> None:
        """Gives back all lines of the record but the first."""
        self._returned.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1


def read(file: DataFile, encoding: str, layout: Layout, fields: FieldMap | None) -> Iterator[Block]:
    fields = fields and fields.for_record()
    with file.open() as stream:
        binary = io.BufferedReader(_Stream(Utf8(stream, encoding)), 2**18)
        lines = _Lines(iter(io.TextIOWrapper(binary, "utf-8", "surrogateescape", newline="")))
        rows: list[tuple[int, list[str] | Unreadable]] = []
        size = 0

        def block() -> Rows:
            end, columns = stream.position(), layout.columns
            return Rows(path=file.name, end=end, fields=fields, columns=columns, rows=rows, encoding=encoding)

        try:
            for row in _rows(lines, layout):
                rows.append(row)
                size += len(lines.taken[0])
                if len(rows) >= _ROWS or size >= _CHARACTERS:
                    yield block()
                    rows, size = [], 0
        except UnreadableFile:  # damaged: what was read of it first
            yield block()
            raise
        if rows:
            yield block()


def _rows(lines: _Lines, layout: Layout) -> Iterator[tuple[int, list[str] | Unreadable]]:
    # Strictly: a quotation mark that is not closed would run over rows up to the next one, and hide them.
    reader = csv.reader(lines, delimiter=layout.delimiter, quoting=layout.quoting, strict=True)
    skip, width = layout.named, len(layout.columns)
    while True:
        lines.taken, first = [], lines.number + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield first, Unreadable(f"not {layout.kind}: {error}; correct it")
            lines.keep_first()
            continue
        if not row or skip:
            skip = skip and not row
            continue
        if len(row) == width:
            yield first, row
            continue
        if len(lines.taken) > 1:  # it would hide every row that it runs over
            lines.keep_first()
            yield first, Unreadable(f"not {layout.kind}: a quotation mark opens and is not closed; correct it")
            continue
        yield first, Unreadable(f"not {layout.kind}: {len(row)} columns, the file has {width}; correct it")
