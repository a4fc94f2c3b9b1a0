"""The part of JSONPath (RFC 9535) that names places in a document, parsed and looked up. Standard library only."""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, NoReturn

from sllm.cli import InputError

LITERAL = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")
_NAME = re.compile(r"[^\s.,=\[\]'\"*$]+")
_INDEX = re.compile(r"\[\s*(-?\d+)\s*\]")
_EACH = re.compile(r"\[\s*\*\s*\]")


class Step(NamedTuple):
    """`value`: the key, the index, or the keys of "keys" (one text of them) and "below" (at any depth)."""

    kind: Literal["key", "index", "each", "keys", "below"]
    value: Any = None

    def __str__(self) -> str:
        if self.kind in ("keys", "below"):
            return (".." if self.kind == "below" else "") + f"[{','.join(map(repr, self.value))}]"
        plain = self.kind == "key" and _NAME.fullmatch(self.value)
        return f".{self.value}" if plain else "[*]" if self.kind == "each" else f"[{self.value!r}]"


Path = tuple[Step, ...]


def refuse(text: str, position: int, problem: str) -> NoReturn:
    raise InputError(f"--field_map, at {text[position : position + 20]!r} (character {position + 1}): {problem}")


def unquoted(match: re.Match[str]) -> str:
    return re.sub(r"\\(.)", r"\1", match[1] if match[1] is not None else match[2])


def parse_path(text: str, position: int) -> tuple[Path, int]:
    steps: list[Step] = []
    if text.startswith("$", position):
        position += 1
    elif name := _NAME.match(text, position):  # a column or key of the record
        steps, position = [Step("key", name[0])], name.end()
    elif not text.startswith("[", position):
        refuse(text, position, "a path starts with $, or is the name of a column")
    while position < len(text) and text[position] in ".[":
        below = text.startswith("..", position)
        position += 2 if below else 1 if text[position] == "." else 0
        if name := _NAME.match(text, position):
            steps.append(Step("below", (name[0],)) if below else Step("key", name[0]))
            position = name.end()
        elif not below and text.startswith("*", position):
            steps, position = [*steps, Step("each")], position + 1
        elif text.startswith("[", position):
            step, position = _bracket(text, position, below=below)
            steps.append(step)
        else:
            refuse(text, position, "a key is expected after the dot")
    return tuple(steps), position


def _bracket(text: str, start: int, *, below: bool) -> tuple[Step, int]:
    if not below and (match := _EACH.match(text, start)):
        return Step("each"), match.end()
    if not below and (match := _INDEX.match(text, start)):
        return Step("index", int(match[1])), match.end()
    names, position = [], start + 1
    while literal := LITERAL.match(text, position):
        names.append(unquoted(literal))
        position = len(text) - len(text[literal.end() :].lstrip(" "))
        if text.startswith(",", position):
            position = len(text) - len(text[position + 1 :].lstrip(" "))
        elif text.startswith("]", position):
            kind: Literal["key", "keys", "below"] = "below" if below else "keys" if len(names) > 1 else "key"
            return Step(kind, names[0] if kind == "key" else tuple(names)), position + 1
    refuse(text, start, "[0], [*] or ['name'] are read; slices and filters are not")


def select(value: object, path: Path) -> tuple[list[Any], bool]:
    """(the values at a path, whether they are to be joined)."""
    nodes: list[Any] = [value]
    for step in path:
        if step.kind == "key":
            nodes = [node[step.value] for node in nodes if isinstance(node, dict) and step.value in node]
        elif step.kind == "index":
            nodes = [n[step.value] for n in nodes if isinstance(n, list) and -len(n) <= step.value < len(n)]
        elif step.kind == "each":
            lists = [list(node.values()) if isinstance(node, dict) else node for node in nodes]
            nodes = [element for node in lists if isinstance(node, list) for element in node]
        elif step.kind == "keys":
            nodes = [text for node in nodes if (text := _of_keys(node, step.value)) is not None]
        else:
            nodes = [found for node in nodes for found in _below(node, step.value)]
    return nodes, any(step.kind == "below" for step in path)


def _below(value: object, names: tuple[str, ...]) -> Iterator[Any]:
    if isinstance(value, dict) and len(names) > 1 and (text := _of_keys(value, names)) is not None:
        yield text
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        if isinstance(value, dict) and names == (key,):
            yield child
        yield from _below(child, names)


def _of_keys(value: object, names: tuple[str, ...]) -> str | None:
    """`a: b`, the values of the keys that an object has; None if it has none of them."""
    if not isinstance(value, dict):
        return None
    parts = [as_text(value[name]) for name in names if value.get(name) is not None]
    return ": ".join(parts) if parts else None


def value_of(value: Any) -> Any:
    return as_text(value) if isinstance(value, list) and value and _is_texts(value) else value


def _is_texts(value: list[Any]) -> bool:
    return all(isinstance(v, str) or (isinstance(v, list) and _is_texts(v)) for v in value)


def as_text(value: Any) -> str:
    if isinstance(value, list) and _is_texts(value):
        return "\n".join(map(as_text, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
