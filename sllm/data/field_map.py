"""`--field_map context=$.data[*].passage,question=…`: flat records out of nested ones. Standard library only.

A path is the part of JSONPath (RFC 9535) that names places:

    $            the document: a JSON file; in JSON Lines, arrays of records and tables, each record
    .name ['n']  a key;  [0] [-1]  an element of an array
    [*]          each element of an array, or each value of an object: a record for each
    ..name       every `name` below, at any depth, in the file's order: joined to one text, a line for each
    ['a','b']    both keys of an object as one text, `a: b`; ..['a','b'] for every object below

Fields whose paths walk through the same `[*]` are joined element by element, and a field of an outer level is repeated
for each inner element, as a database's unnest does: with context=$.data[*].paragraphs[*].context and
question=$.data[*].paragraphs[*].qas[*].question there is a record for each question, with the context of its paragraph.
A value that is an array of texts becomes one text, a line for each; any other value stays as it is. A key that is
missing leaves its field out; an array that is missing or empty gives one unreadable record. Text in quotation marks is
a constant: task='task04_01'.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sllm.cli import InputError
from sllm.data.json_path import LITERAL, Path, Step, as_text, parse_path, refuse, select, unquoted, value_of

_FIELD = re.compile(r"\s*([^\s=,$.\[\]'\"*]+)\s*=\s*")
_EXAMPLE = "for example context=$.data[*].passage,question=$.data[*].question"


@dataclass(frozen=True)
class Level:
    """What is read of one document, or of one element of `array`: `values` by field, then the elements of the array
    that lies at `array` below it, None for the innermost level."""

    values: dict[str, Path] = field(default_factory=dict)
    array: Path | None = None
    inner: "Level | None" = None


@dataclass(frozen=True)
class FieldMap:
    """`text`: as it was given. `names`: every field, in order. `constants`: the fields with a fixed text. `place`:
    where the paths start."""

    text: str
    names: tuple[str, ...]
    constants: dict[str, str]
    level: Level
    place: str = "$"

    def records(self, document: object) -> list[dict[str, Any] | str]:
        """Flat records; a text says why there is none in some place."""
        try:
            found = list(_rows(self.level, document, dict(self.constants), self.place))
        except RecursionError:
            return ["field_map: nested too deep"]
        return [row if isinstance(row, str) else self._in_order(row, document) for row in found]

    def _in_order(self, row: dict[str, Any], document: object) -> dict[str, Any] | str:
        if len(row) == len(self.constants):
            keys = f"; its keys are {', '.join(map(str, list(document)[:8]))}" if isinstance(document, dict) else ""
            return f"field_map: no field is found in the record{keys}"
        return {name: row[name] for name in self.names if name in row}

    def over_array(self) -> tuple[str | None, "FieldMap"] | None:
        """Where every path walks through `$[*]` or `$.key[*]`: the key (None for `$[*]`), and the map for one element;
        else None. Such a document can be read an element at a time."""
        if self.level.array is None or self.level.values or self.level.inner is None:
            return None
        place = f"${_text(self.level.array)}[*]"
        inner = FieldMap(self.text, self.names, self.constants, self.level.inner, place)
        if not self.level.array:
            return None, inner
        key = self.level.array[0]
        return (key.value, inner) if len(self.level.array) == 1 and key.kind == "key" else None

    def over_elements(self) -> bool:
        """Does a path name elements of the document itself ($[*], $[0])?"""
        paths = [
            *self.level.values.values(),
            *([(*self.level.array, Step("each"))] if self.level.array is not None else []),
        ]
        return any(path and path[0].kind in ("each", "index") for path in paths)

    def for_record(self) -> "FieldMap":
        """The map for one record of a file of records: there, `$[*].name` means the same as `$.name`."""
        walked = self.over_array()
        return walked[1] if walked and walked[0] is None else self


def field_map(text: str) -> FieldMap:
    """`name=path,name=path,…`, parsed. InputError with the place of a mistake."""
    paths: dict[str, Path] = {}
    constants: dict[str, str] = {}
    position = 0
    while True:
        match = _FIELD.match(text, position)
        if not match:
            refuse(text, position, f"a field and its path are expected, {_EXAMPLE}")
        name, position = match[1], match.end()
        if name in paths or name in constants:
            refuse(text, match.start(1), f"{name} is given twice")
        if literal := LITERAL.match(text, position):
            constants[name], position = unquoted(literal), literal.end()
        else:
            paths[name], position = parse_path(text, position)
        rest = text[position:].lstrip()
        if not rest:
            break
        if rest[0] != ",":
            refuse(text, len(text) - len(rest), "expected .name, [0], [*], ['name'] or ..name")
        position = len(text) - len(rest) + 1
    if not paths:
        refuse(text, 0, f"at least one field needs a path, {_EXAMPLE}")
    return FieldMap(text, tuple(dict.fromkeys([*paths, *constants])), constants, _level(text, paths))


def _level(text: str, paths: dict[str, Path]) -> Level:
    """The nested levels of paths. `[*]` makes records as long as no `..` comes before it."""
    values, arrays = {}, {}
    for name, path in paths.items():
        kinds = [step.kind for step in path]
        each = kinds.index("each") if "each" in kinds else len(path)
        if each < len(path) and not {"below", "keys"} & {*kinds[:each]}:
            arrays[name] = path[:each], path[each + 1 :]
        else:
            values[name] = path
    if not arrays:
        return Level(values)
    walked = {array: name for name, (array, _) in reversed(arrays.items())}
    if len(walked) > 1:
        (first, one), (second, other), *_ = reversed(walked.items())
        raise InputError(
            f"--field_map: {one} and {other} walk two arrays side by side (${_text(first)}[*], ${_text(second)}[*]), "
            f"whose elements cannot be matched; take one element ([0]) or one text of all (..name) of either"
        )
    return Level(values, next(iter(walked)), _level(text, {name: inner for name, (_, inner) in arrays.items()}))


def _text(path: Path) -> str:
    return "".join(map(str, path))


def _rows(level: Level, value: object, outer: dict[str, Any], place: str) -> Iterator[dict[str, Any] | str]:
    found = dict(outer)
    for name, path in level.values.items():
        nodes, joined = select(value, path)
        if nodes:
            found[name] = (
                "\n".join(as_text(node) for node in nodes if node is not None) if joined else value_of(nodes[0])
            )
    if level.array is None or level.inner is None:
        yield found
        return
    arrays, _ = select(value, level.array)
    elements = list(arrays[0].values()) if arrays and isinstance(arrays[0], dict) else arrays[0] if arrays else None
    place += _text(level.array) + "[*]"
    if not isinstance(elements, list) or not elements:
        yield f"field_map: nothing at {place}" + (": the array is empty" if elements == [] else "")
        return
    for element in elements:
        yield from _rows(level.inner, element, found, place)
