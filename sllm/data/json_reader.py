"""Reading a file of JSON records, and reporting everything that is wrong with it at once. Standard library only.

A file is JSON Lines, a JSON array of records, or one JSON object that holds a single array ({"data": [...]}), in
UTF-8. Which of them is detected from the text, not from the name.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sllm import cli
from sllm.cli import InputError
from sllm.data import foreign

SHOWN = 20  # problems listed for one file; the rest are counted
_SPACE = re.compile(r"[ \t\r\n]*")
_decode = json.JSONDecoder().raw_decode


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
    bad: list[tuple[int, str]] = field(default_factory=list)  # (line, text): lines of JSON Lines that are not rows


def scan(path: str | Path) -> tuple[list[tuple[int, dict[str, Any]]], list[tuple[int, str]]]:
    """What can be read of a file, and what is wrong with it as (line, text); line 0 is the file as a whole."""
    contents = examine(path)
    return contents.rows, sorted(contents.faults + contents.bad)


def examine(path: str | Path, *, each_line: bool = False) -> Contents:
    """The contents of a file. `each_line`: report every line that is not UTF-8, instead of the file once with the
    command to convert it."""
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        return Contents(faults=[(0, "missing; check the path")])
    except IsADirectoryError:
        return Contents(faults=[(0, "a folder; name a .jsonl or .json file in it")])
    except OSError as error:
        return Contents(faults=[(0, f"cannot be read ({error.strerror})")])
    if other_format := foreign.not_json(path, raw):
        return Contents(faults=[(0, other_format)])
    broken, encoding_fault = _undecodable(path, raw)
    if raw.startswith(foreign.UTF16_MARKS):
        return Contents(faults=[encoding_fault])
    rows, faults, one_a_line = _parse(raw.decode("utf-8", errors="replace").removeprefix("\ufeff"))
    contents = Contents([(n, row) for n, row in rows if isinstance(row, dict) and n not in broken])
    strays = [(n, f"a row is a JSON object, not {kind_of(row)}") for n, row in rows if not isinstance(row, dict)]
    problems = contents.bad if one_a_line else contents.faults
    problems += [fault for fault in faults + strays if not (one_a_line and each_line and fault[0] in broken)]
    if broken and one_a_line and each_line:
        contents.bad += [(n, f"not UTF-8: from byte {byte} of the line on; correct it") for n, byte in broken.items()]
    elif broken:
        contents.faults.append(encoding_fault)
    if not rows and not faults and not broken:
        contents.faults.append((0, "no rows in it; give a file that has some"))
    return contents


def _undecodable(path: str | Path, raw: bytes) -> tuple[dict[int, int], tuple[int, str]]:
    """({line: first byte of it that is not UTF-8}, the problem that names them all)."""
    try:
        raw.decode("utf-8")
        return {}, (0, "")
    except UnicodeDecodeError as error:
        first = error.start
    broken = {}
    for number, line in enumerate(raw.split(b"\n"), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            broken[number] = error.start
    encoding = "UTF-16" if raw.startswith(foreign.UTF16_MARKS) else "CP949"
    span = f"from byte {first} on, {cli.plural(len(broken), 'line')}"
    command = f"iconv -f {encoding} -t UTF-8 {path} > converted{Path(path).suffix}"
    return broken, (min(broken), f"not UTF-8 ({span}); convert the file: {command}")


def format_problems(path: str | Path, problems: list[tuple[int, str]]) -> list[str]:
    """`file:line: problem` for each, in the order of lines; the first `SHOWN` in full, the others counted."""
    problems = sorted(problems)
    lines = [f"{path}:{number}: {text}" if number else f"{path}: {text}" for number, text in problems[:SHOWN]]
    if len(problems) > SHOWN:
        numbers = ", ".join(str(number) for number, _ in problems[SHOWN : 2 * SHOWN])
        lines.append(f"{path}: {len(problems) - SHOWN} more such lines: {numbers}{', …' * (len(problems) > 2 * SHOWN)}")
    return lines


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _parse(text: str) -> tuple[list[tuple[int, object]], list[tuple[int, str]], bool]:
    """(rows, problems, whether the text is JSON Lines)."""
    start = _after_space(text, 0)
    if start == len(text):
        return [], [], False
    if text[start] == "[":
        return *_array(text, start), False
    try:
        value, end = _decode(text, start)
    except (ValueError, RecursionError) as error:
        first = text[start:].partition("\n")[0].rstrip()
        if first.endswith("}") or "\n{" in text:
            return *_lines(text), True
        opening = re.compile(r'\{\s*"[^"]*"\s*:\s*\[').match(text, start)
        if not opening:
            return [], [_fault(error, 1)], False
        return *_array(text, opening.end() - 1, in_object=True), False
    if text[end:].strip():
        if "\n" in text[start:end]:
            problem = "a record spans several lines; JSON Lines has one on each: jq -c . FILE > rows.jsonl"
            return [], [(1, problem)], False
        return *_lines(text), True
    if position := _array_in_object(text, value):
        return *_array(text, position, in_object=True), False
    return [(1 + text.count("\n", 0, start), value)], [], False


def _array_in_object(text: str, value: object) -> int | None:
    """The position at which the only array of a file's only object opens; None if the object is a row."""
    arrays = [item for item in value.values() if isinstance(item, list)] if isinstance(value, dict) else []
    if len(arrays) != 1:
        return None
    if arrays[0] and (not isinstance(arrays[0][0], dict) or {"role", "from"} & arrays[0][0].keys()):
        return None  # texts or messages
    for match in re.finditer(r'"\s*:\s*(\[)', text):
        try:
            if _decode(text, match.start(1))[0] == arrays[0]:
                return match.start(1)
        except ValueError:  # inside a text
            continue
    return None


def _lines(text: str) -> tuple[list[Any], list[Any]]:
    rows, problems = [], []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines(): U+2028 may stand inside a text
        if line.strip():
            try:
                rows.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:
                problems.append(_fault(error, number, one_line=True))
    return rows, problems


def _array(text: str, position: int, *, in_object: bool = False) -> tuple[list[Any], list[Any]]:
    """The elements of the array that opens at `position`. After a fault, continues at the next line that opens a
    record at the depth of the first one, so that one pass finds every bad record."""
    rows, problems = [], []
    line, counted = 1, 0
    position = _after_space(text, position + 1)
    indent = text[text.rfind("\n", 0, position) + 1 : position]
    next_record = re.compile(rf"^{indent if indent.isspace() else ''}\{{", re.MULTILINE)
    after = position
    while text[after : after + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, end = _decode(text, position)
            after = _after_space(text, end)
            if text[after : after + 1] not in (",", "]"):
                raise json.JSONDecodeError("Expecting ',' delimiter", text, after)
            rows.append((line, value))
            if text[after] == ",":
                after = position = _after_space(text, after + 1)
                if text[position : position + 1] == "]":
                    raise json.JSONDecodeError("Expecting value", text, position)
        except (ValueError, RecursionError) as error:
            problems.append(_fault(error, line))
            match = next_record.search(text, position + 1)
            if not match:
                return rows, problems
            after = position = match.end() - 1
    if not in_object and text[after + 1 :].strip():
        trailing = _after_space(text, after + 1)
        problems.append((text.count("\n", 0, trailing) + 1, "not JSON: something follows the end of the array"))
    return rows, problems


def _fault(error: Exception, line: int, *, one_line: bool = False) -> tuple[int, str]:
    if isinstance(error, json.JSONDecodeError):
        if error.doc[error.pos : error.pos + 1] == "'":
            return line if one_line else error.lineno, "not JSON: Python's quotes; write the rows with json.dumps"
        return line if one_line else error.lineno, f"not JSON: {error.msg} (column {error.colno}); correct it"
    return line, f"not JSON: {'nested too deep' if isinstance(error, RecursionError) else error}; correct it"


def kind_of(value: object) -> str:
    names = {list: "an array", str: "a text", bool: "true or false", type(None): "null", dict: "an object"}
    return names.get(type(value), "a number")
