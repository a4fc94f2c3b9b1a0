"""JSON documents: an array of records, an object that holds one array of records, or one record. Read as a stream, with
the line of each record and of everything that is wrong. Standard library only."""

import json
import re
from collections.abc import Generator, Iterator
from typing import Any

from sllm.data.blocks import Block, Parsed, Record, Unreadable, mapped
from sllm.data.data_files import DataFile
from sllm.data.encodings import CHUNK, Utf8
from sllm.data.field_map import FieldMap
from sllm.data.file_problems import UnreadableFile, kind_of
from sllm.data.json_text import Text, elements

WHOLE = 16 * CHUNK  # characters: a document up to this size is held in memory
_BLOCK_CHARACTERS = 2**20
_decode = json.JSONDecoder().raw_decode


def read(file: DataFile, encoding: str, fields: FieldMap | None) -> Iterator[Block]:
    """UnreadableFile after the blocks that can be read, with everything that is wrong."""
    with file.open() as stream:
        text = Text(Utf8(stream, encoding))
        try:
            parsed, size = list[Record](), 0
            for record, characters in _mapped(text, fields):
                parsed.append(record)
                size += characters
                if size > _BLOCK_CHARACTERS:
                    yield Parsed(path=file.name, end=stream.position(), parsed=parsed)
                    parsed, size = [], 0
        except UnreadableFile as error:  # of the stream
            text.faults += error.faults
        if parsed:
            yield Parsed(path=file.name, end=stream.position(), parsed=parsed)
        if text.faults:
            raise UnreadableFile(file.name, text.faults)


def _mapped(text: Text, fields: FieldMap | None) -> Iterator[tuple[Record, int]]:
    """Records with the number of characters that they were made of."""
    if fields is None:
        for line, value, size in _records(text):
            if isinstance(value, dict):
                yield (line, value), size
            else:
                text.faults.append((line, f"a row is a JSON object, not {kind_of(value)}"))
        return
    start, element = text.after_space(0), fields
    over = fields.over_array()
    if text.text[start : start + 1] == "[" and not fields.over_elements():  # each element is a document
        documents = _top_array(text, start)
    elif over:
        key, element = over
        documents = _top_array(text, start) if key is None else _object(text, start, key)
    else:
        documents = _whole(text, start)
    for line, value, size in documents:
        records = [(line, value)] if isinstance(value, Unreadable) else mapped(element, line, value)
        for record in records:
            yield record, size // len(records)


def _records(text: Text) -> Iterator[tuple[int, Any, int]]:
    start = text.after_space(0)
    if text.text[start : start + 1] == "[":
        yield from _top_array(text, start)
        return
    while len(text.text) < WHOLE and text.more():
        pass
    if not text.ended:
        yield from _object(text, start, None)
        return
    try:
        value, end = text.value(start)
    except (ValueError, RecursionError) as error:
        if text.text[start : start + 1] == "{":  # read all records that can be, and find every mistake
            yield from _object(text, start, None)
        else:
            text.fault(error, 1)
        return
    position = _array_in_object(text.text, value)
    if position is None:
        yield text.line_at(start), value, end - start
    else:
        yield from elements(text, position)


def _array_in_object(text: str, value: object) -> int | None:
    """The position at which the only array of a file's only object opens; None if the object is a row."""
    arrays = [item for item in value.values() if isinstance(item, list)] if isinstance(value, dict) else []
    if len(arrays) != 1 or not _of_records(arrays[0]):
        return None
    for match in re.finditer(r'"\s*:\s*(\[)', text):
        try:
            if _decode(text, match.start(1))[0] == arrays[0]:
                return match.start(1)
        except (ValueError, RecursionError):  # inside a text
            continue
    return None


def _of_records(array: list[Any]) -> bool:
    """False for texts and for the messages of one record."""
    return not array or (isinstance(array[0], dict) and not {"role", "from"} & array[0].keys())


def _object(text: Text, start: int, wanted: str | None) -> Iterator[tuple[int, Any, int]]:
    """The elements of the array under the key `wanted` of the object at `start`; without a key those of its first array
    of records, or the object itself if it has none."""
    members: dict[str, Any] = {}
    streamed = None
    line = text.line_at(start)
    try:
        position = text.expect("{", start)
        while text.text[position] != "}":
            position = text.expect('"}' if text.text[position] == "{" else '"', position + 1)
            if text.text[position] == "}":
                break
            key, position = text.value(position)
            position = text.after_space(text.expect(":", position) + 1)
            if key == wanted or (wanted is None and streamed is None and _opens_records(text, position)):
                streamed, members[key] = key, None
                position = yield from _elements(text, position, f"$.{key}[*]")
                if position is None:
                    return
            else:
                position = text.drop(position)
                members[key], position = text.value(position)
                if streamed and wanted is None and isinstance(members[key], list):
                    lists = f"several lists ({streamed}, {key})"
                    text.faults.append((0, f"{lists}; name one with --field_map, such as text=$.{key}[*].text"))
            position = text.expect(",}", position)
    except (ValueError, RecursionError) as error:
        text.fault(error, line)
        return
    _check_end(text, position + 1)
    if wanted is not None and streamed is None:
        keys = ", ".join(map(str, list(members)[:8]))
        yield line, Unreadable(f"field_map: nothing at $.{wanted}[*]; the document has the keys {keys or 'none'}"), 0
    elif streamed is None:
        yield line, members, len(text.text)


def _elements(text: Text, position: int, place: str) -> Generator[tuple[int, Any, int], None, Any]:
    """What `[*]` means: the elements of an array, the values of an object. Returns the position after it."""
    line, count = text.line_at(position), 0
    if text.text[position : position + 1] == "[":
        found = elements(text, position)
        while True:
            try:
                element = next(found)
            except StopIteration as stop:
                end = stop.value
                break
            count += 1
            yield element
    else:
        value, end = text.value(position)
        for element in value.values() if isinstance(value, dict) else ():
            count += 1
            yield line, element, 0
    if not count and end is not None:
        yield line, Unreadable(f"field_map: nothing at {place}: it is empty, or no array"), 0
    return end


def _opens_records(text: Text, position: int) -> bool:
    first = text.after_space(position + 1) if text.text[position] == "[" else -1
    if first < 0 or text.text[first : first + 1] != "{":
        return False
    try:
        return _of_records([text.value(first)[0]])
    except (ValueError, RecursionError):
        return True


def _whole(text: Text, start: int) -> Iterator[tuple[int, Any, int]]:
    while text.more():
        pass
    line = text.line_at(start)
    try:
        value, end = text.value(start)
    except (ValueError, RecursionError) as error:
        text.fault(error, line)
        return
    _check_end(text, end)
    yield line, value, end


def _check_end(text: Text, position: int) -> None:
    position = text.after_space(position)
    if position < len(text.text):
        text.faults.append((text.line_at(position), "not JSON: something follows the end of the document"))


def _top_array(text: Text, start: int) -> Iterator[tuple[int, Any, int]]:
    if text.text[start : start + 1] != "[":
        text.faults.append((text.line_at(start), "field_map: the document is no array, and $[*] walks one"))
        return
    end = yield from elements(text, start)
    if end is not None:
        _check_end(text, end)
