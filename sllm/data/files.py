"""Reading a file of JSON records, and telling everything that is wrong with it in one go. Standard library only.

A file is JSON Lines, a JSON array of records, or one JSON object that holds a single array ({"data": [...]}), in
UTF-8. Which of them is found out from the text, not from the name.
"""

import json
import re
from pathlib import Path

from sllm.cli import InputError

SHOWN = 20  # problems listed for one file; the rest are counted
_SPACE = re.compile(r"[ \t\r\n]*")
_decode = json.JSONDecoder().raw_decode


def read_file(path: str | Path) -> list[tuple[int, dict]]:
    """The records of a file, each with the line it starts on (arrays included).

    Raises:
        InputError: everything wrong with the file at once: missing, a folder, not UTF-8, no JSON (every bad
            line), records that are no objects, no records at all.
    """
    rows, problems = scan(path)
    if problems:
        raise InputError(listed(path, problems))
    return rows


def scan(path: str | Path) -> tuple[list[tuple[int, dict]], list[tuple[int, str]]]:
    """What can be read of a file, and what is wrong with it as (line, text); line 0 is the file as a whole."""
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        return [], [(0, "missing; check the path")]
    except IsADirectoryError:
        return [], [(0, "a folder; name a .jsonl or .json file in it")]
    except OSError as error:
        return [], [(0, f"cannot be read ({error.strerror})")]
    problems, broken = [], set()
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        broken = {number for number, line in enumerate(raw.split(b"\n"), 1) if not _is_utf8(line)}
        encoding = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "CP949"
        where = f"from byte {error.start} on, {len(broken)} line{'s' * (len(broken) > 1)}"
        mend = f"iconv -f {encoding} -t UTF-8 {path} > converted{Path(path).suffix}"
        problems.append((min(broken), f"not UTF-8 ({where}); convert the file: {mend}"))
        if encoding == "UTF-16":
            return [], problems
    text = raw.decode("utf-8", errors="replace").removeprefix("\ufeff")
    rows, faults = _parse(text)
    problems += faults + [(n, f"a row is a JSON object, not {kind_of(row)}") for n, row in rows if not _is_row(row)]
    if not rows and not problems:
        problems.append((0, "no rows in it; give a file that has some"))
    return [(n, row) for n, row in rows if _is_row(row) and n not in broken], sorted(problems)


def listed(path: str | Path, problems: list[tuple[int, str]]) -> list[str]:
    """`file:line: problem` for each, in the order of lines; the first `SHOWN` in words, the others counted."""
    problems = sorted(problems)
    lines = [f"{path}:{number}: {text}" if number else f"{path}: {text}" for number, text in problems[:SHOWN]]
    if len(problems) > SHOWN:
        rest = ", ".join(str(number) for number, _ in problems[SHOWN : 2 * SHOWN])
        lines.append(f"{path}: {len(problems) - SHOWN} more such lines: {rest}{', …' * (len(problems) > 2 * SHOWN)}")
    return lines


def _parse(text: str) -> tuple[list[tuple[int, object]], list[tuple[int, str]]]:
    start = _SPACE.match(text).end()
    if start == len(text):
        return [], []
    if text[start] == "[":
        return _array(text, start)
    try:
        value, end = _decode(text, start)
    except (ValueError, RecursionError) as error:
        first = text[start:].partition("\n")[0].rstrip()
        if first.endswith("}") or "\n{" in text:
            return _lines(text)
        held = re.compile(r'\{\s*"[^"]*"\s*:\s*\[').match(text, start)
        return _array(text, held.end() - 1, held=True) if held else ([], [_fault(error, 1)])
    if text[end:].strip():
        if "\n" in text[start:end]:
            return [], [(1, "a record spans several lines; JSON Lines wants one on each: jq -c . FILE > rows.jsonl")]
        return _lines(text)
    at = _held_array(text, value)
    return _array(text, at, held=True) if at else ([(1 + text.count("\n", 0, start), value)], [])


def _held_array(text: str, value: object) -> int | None:
    """Where the array of a file that is one object holding one array opens; None where the object is a row."""
    arrays = [item for item in value.values() if isinstance(item, list)] if isinstance(value, dict) else []
    if len(arrays) != 1 or (arrays[0] and (not _is_row(arrays[0][0]) or {"role", "from"} & arrays[0][0].keys())):
        return None  # several arrays, or one of texts or messages
    for found in re.finditer(r'"\s*:\s*(\[)', text):
        try:
            if _decode(text, found.start(1))[0] == arrays[0]:
                return found.start(1)
        except ValueError:  # inside a text
            continue
    return None


def _lines(text: str) -> tuple[list, list]:
    rows, problems = [], []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines(): U+2028 may stand inside a text
        if line.strip():
            try:
                rows.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:
                problems.append(_fault(error, number, one_line=True))
    return rows, problems


def _array(text: str, at: int, *, held: bool = False) -> tuple[list, list]:
    """The elements of the array that opens at `at`. After a fault, goes on at the next line that opens a record
    as deep as the first one does, so that one reading finds every bad record."""
    rows, problems = [], []
    line, counted = 1, 0
    at = _SPACE.match(text, at + 1).end()
    indent = text[text.rfind("\n", 0, at) + 1 : at]
    next_record = re.compile(rf"^{indent if indent.isspace() else ''}\{{", re.MULTILINE)
    after = at
    while text[after : after + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, end = _decode(text, at)
            after = _SPACE.match(text, end).end()
            if text[after : after + 1] not in (",", "]"):
                raise json.JSONDecodeError("Expecting ',' delimiter", text, after)
            rows.append((line, value))
            if text[after] == ",":
                after = at = _SPACE.match(text, after + 1).end()
                if text[at : at + 1] == "]":
                    raise json.JSONDecodeError("Expecting value", text, at)
        except (ValueError, RecursionError) as error:
            problems.append(_fault(error, line))
            found = next_record.search(text, at + 1)
            if not found:
                return rows, problems
            after = at = found.end() - 1
    if not held and text[after + 1 :].strip():
        rest = _SPACE.match(text, after + 1).end()
        problems.append((text.count("\n", 0, rest) + 1, "no JSON: something follows the end of the array"))
    return rows, problems


def _fault(error: Exception, line: int, *, one_line: bool = False) -> tuple[int, str]:
    if isinstance(error, json.JSONDecodeError):
        return line if one_line else error.lineno, f"no JSON: {error.msg} (column {error.colno}); mend it"
    return line, f"no JSON: {'nested too deep' if isinstance(error, RecursionError) else error}; mend it"


def _is_utf8(line: bytes) -> bool:
    try:
        return line.decode("utf-8") is not None
    except UnicodeDecodeError:
        return False


def _is_row(value: object) -> bool:
    return isinstance(value, dict)


def kind_of(value: object) -> str:
    names = {list: "an array", str: "a text", bool: "true or false", type(None): "null", dict: "an object"}
    return names.get(type(value), "a number")
