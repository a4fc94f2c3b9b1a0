"""What a file is, found from its contents; the name only decides where the contents do not. Standard library only."""

import codecs
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from sllm.data import encodings, json_document, json_lines, json_text, separated, tables
from sllm.data.blocks import Block
from sllm.data.data_files import DataFile
from sllm.data.field_map import FieldMap
from sllm.data.file_problems import UnreadableFile

_HEAD = 2**16  # bytes
_SAMPLE, _LONGEST_LINE = 2**20, 2**24  # bytes of text that decide, and up to which the first line is sought
_EMPTY = "no rows in it; give a file that has some"
_DOCUMENT = "not rows; they are read from .jsonl, .json, .csv, .parquet and .xlsx files"
_PLAIN_TEXT = (
    'not JSON: it is plain text; write one JSON object a line, such as {"instruction": "question", "output": "answer"}'
)
_OLE = b"\xd0\xcf\x11\xe0"
_MAGIC = {
    b"SQLite format 3\0": "a SQLite database; the chat page's becomes rows with: python build_preferences.py "
    "--from_chat {}",
    b"%PDF": f"a PDF document, {_DOCUMENT}",
    b"HWP Document File": f"an HWP document, {_DOCUMENT}",
    b"\x89PNG": f"an image, {_DOCUMENT}",
    b"\xff\xd8\xff": f"an image, {_DOCUMENT}",
    b"GIF8": f"an image, {_DOCUMENT}",
    b"RIFF": f"a picture, sound or film, {_DOCUMENT}",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it: 7z x {}",
    b"Rar!": "a rar archive; unpack it: unrar x {}",
    b"FEA1": "Feather of version 1; write it again with pyarrow.feather.write_feather",
    b"<!DOCTYPE html": f"an HTML page, {_DOCUMENT}",
    b"<html": f"an HTML page, {_DOCUMENT}",
    b"<?xml": f"XML, {_DOCUMENT}",
}


@dataclass(frozen=True)
class Contents:
    """`kind`: "JSON Lines", "CSV", … `read`: its blocks, made by a field map."""

    file: DataFile
    kind: str
    read: Callable[[FieldMap | None], Iterator[Block]]
    notes: list[str] = field(default_factory=list)


def contents_of(file: DataFile, encoding: str | None = None) -> Contents:
    """UnreadableFile for a file that cannot be read at all, with what it is and the fix."""
    with file.open() as stream:
        head = stream.read(_HEAD)
    if not head:
        raise UnreadableFile(file.name, [(0, _EMPTY)])
    if head.startswith(b"PAR1"):
        return Contents(file, "Parquet", partial(tables.read_parquet, file))
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return Contents(file, "Arrow", partial(tables.read_arrow, file))
    if reason := _refused(head, file):
        raise UnreadableFile(file.name, [(0, reason)])
    if head.startswith((b"PK\3\4", _OLE)):
        workbook = tables.Workbook(file)
        return Contents(file, "Excel", workbook.read, workbook.notes)
    notes: list[str] = []
    if encoding is None:
        encoding, notes = encodings.detect(file)
        if b"\0" in head and encoding == "utf-8" and head.lstrip()[:1] not in (b"{", b"["):
            raise UnreadableFile(file.name, [(0, "a binary file; give rows as .jsonl or .json")])
    text, is_whole = _sample(file, encoding)
    return _of_text(file, encoding, text, is_whole, notes)


def _refused(head: bytes, file: DataFile) -> str | None:
    reason = next((reason for magic, reason in _MAGIC.items() if head.lstrip().startswith(magic)), None)
    if head[257:262] == b"ustar":
        reason = "a tar archive; unpack it: tar -xf {}"
    elif head.startswith(_OLE) and (b"HWP Document File" in head or file.suffix == ".hwp"):
        reason = f"an HWP document, {_DOCUMENT}"
    elif head.startswith(_OLE) and file.suffix in (".doc", ".ppt"):
        reason = f"an Office document, {_DOCUMENT}"
    elif head.startswith((b"PK\3\4", b"PK\5\6")) and b"xl/" not in head and file.suffix != ".xlsx":
        is_document = b"[Content_Types].xml" in head or b"mimetype" in head
        reason = f"an Office or HWPX document, {_DOCUMENT}" if is_document else "a zip archive in another; unpack it"
    return reason and reason.format(file.name)


def _sample(file: DataFile, encoding: str) -> tuple[str, bool]:
    """(the start of the text, with the whole first line unless it is huge; whether it is all)."""
    data, is_whole = b"", False
    with file.open() as stream:
        text = encodings.Utf8(stream, encoding)
        with suppress(UnreadableFile):  # damaged: reported when it is read
            while not is_whole and (len(data) < _SAMPLE or (b"\n" not in data and len(data) < _LONGEST_LINE)):
                part = text.read(max(_SAMPLE, len(data)))
                data += part
                is_whole = not part
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data, final=is_whole), is_whole


def _of_text(file: DataFile, encoding: str, text: str, is_whole: bool, notes: list[str]) -> Contents:
    text = text.lstrip()
    if not text and is_whole:
        raise UnreadableFile(file.name, [(0, _EMPTY)])
    lines = Contents(file, "JSON Lines", partial(json_lines.read, file, encoding), notes)
    document = Contents(file, "JSON", partial(json_document.read, file, encoding), notes)
    first = text.partition("\n")[0]
    columns_expected = file.suffix in (".csv", ".tsv") and not _is_json(first)
    if text[:1] in ("{", "[") and not columns_expected:
        return lines if _is_lines(file, text, is_whole) else document
    if not text or (not columns_expected and ("\n{" in text or _is_json(first))):
        return lines
    whole_lines = text if is_whole else text[: max(text.rfind("\n"), text.rfind("\r")) + 1] or text
    layout = separated.layout_of(whole_lines, file.suffix)
    if layout is None:
        raise UnreadableFile(file.name, [(0, _PLAIN_TEXT)])
    notes = notes + separated.notes_of(layout.columns, layout.named)
    return Contents(file, layout.kind, lambda fields: separated.read(file, encoding, layout, fields), notes)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_lines(file: DataFile, text: str, is_whole: bool) -> bool:
    """JSON Lines, or one document? UnreadableFile for records that span several lines."""
    if text[0] == "[":
        return False
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError) as error:
        if not is_whole and isinstance(error, json.JSONDecodeError) and json_text.is_cut_off(error):
            return False
        first = text.partition("\n")[0].rstrip()
        later = isinstance(error, json.JSONDecodeError) and error.lineno > 2
        opened = first.endswith(("[", "{", ",", ":")) or later  # so the first line is a part of a document
        return not opened and (first.endswith("}") or "\n{" in text)
    if not text[end:].strip():
        return not is_whole
    if "\n" in text[:end]:
        problem = "a record spans several lines; JSON Lines has one on each: jq -c . FILE > rows.jsonl"
        raise UnreadableFile(file.name, [(1, problem)])
    return True
