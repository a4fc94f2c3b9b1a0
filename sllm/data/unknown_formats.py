"""What to do with records of no known format: the nearest formats, and a --field_map for their own keys. Standard
library only."""

import difflib
import shlex
from collections.abc import Iterator
from typing import Any

from sllm.cli import InputError
from sllm.data.conversation_rows import PLAIN_TEXT
from sllm.data.drafts import columns
from sllm.data.field_map import field_map as parse
from sllm.data.json_path import Step

_LEAVES = 200  # of a record that are looked at


def advice(record: dict[str, Any], known: dict[str, list[tuple[str, ...]]]) -> str:
    """Why the record is of no known format, and what to do. `known`: format → the sets of keys that mark it."""
    keys = ", ".join(map(repr, list(record)[:8])) or "none"
    start = f"no known format: the rows have the keys {keys}"
    texts = _texts(record)
    if len({steps for steps, _ in texts}) == 1:
        key = next((step for step in reversed(texts[0][0]) if step != "*"), "")
        if not columns((key,), "question", "answer"):
            return f"{start}; {PLAIN_TEXT} ({key!r})"
    near, named = "; ".join(_nearest(record, known)), field_map(record) or "--field_map question=…,answer=…"
    return f"{start}; nearest: {near}; name the fields: {named}"


def _nearest(record: dict[str, Any], known: dict[str, list[tuple[str, ...]]]) -> list[str]:
    """The formats with the most keys in common, in spelling too: `name (keys that mark it)`."""
    own = [key.lower() for key in record if isinstance(key, str)]

    def likeness(mark: tuple[str, ...]) -> float:
        shares = [[difflib.SequenceMatcher(None, key, name).ratio() for key in own] for name in mark]
        best = [max(row, default=0.0) for row in shares], [max(column) for column in zip(*shares, strict=True)]
        return min(sum(share for share in found if share > 0.55) for found in best) / (len(mark) + 1)

    best = {name: max(marks, key=likeness) for name, marks in known.items()}
    names = sorted(best, key=lambda name: -likeness(best[name]))[:3]
    return [f"{name} ({', '.join(best[name])})" for name in names]


def field_map(record: dict[str, Any]) -> str | None:
    """`--field_map question=$.qa.q,answer=$.qa.a`: where the record's own texts are, judged by the names of their keys;
    else the longest of three is the context, the first the question, the last the answer. None for fewer than two."""
    paths: dict[tuple[str, ...], int] = {}
    for steps, length in _texts(record):
        paths[steps] = max(length, paths.get(steps, 0))
    if len(paths) < 2:
        return None
    last: dict[str, tuple[str, ...]] = {}
    for steps in paths:
        last.setdefault(str(next((step for step in reversed(steps) if step != "*"), "")), steps)
    found = {role: last[key] for role, key in columns(tuple(last), "answer", "question", "context").items()}
    free = [steps for steps in paths if steps not in found.values()]
    if "context" not in found and len(free) + len(found) > 2 and free:
        found["context"] = free.pop(free.index(max(free, key=paths.__getitem__)))
    for role, position in (("question", 0), ("answer", -1)):
        if role not in found and free:
            found[role] = free.pop(position)
    fields = (f"{role}={json_path(found[role])}" for role in ("context", "question", "answer") if role in found)
    text = ",".join(fields)
    try:
        parse(text)
    except InputError:  # its texts are in arrays side by side
        return None
    return f"--field_map {shlex.quote(text)}"


def json_path(steps: tuple[str, ...]) -> str:
    return "$" + "".join(str(Step("each") if step == "*" else Step("key", step)) for step in steps)


def _texts(record: dict[str, Any]) -> list[tuple[tuple[str, ...], int]]:
    """(steps, length) of the texts in a record, "*" for the items of a list; those near the top first."""
    return [leaf for leaf, _ in zip(_leaves(record), range(_LEAVES), strict=False)]


def _leaves(record: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], int]]:
    waiting: list[tuple[tuple[str, ...], Any]] = [((), record)]
    while waiting:
        steps, value = waiting.pop(0)
        if isinstance(value, str):
            yield steps, len(value)
        elif isinstance(value, dict):
            waiting += [((*steps, str(key)), item) for key, item in value.items() if steps or key not in ("id", "task")]
        elif isinstance(value, list):
            waiting += [((*steps, "*"), item) for item in value[:3]]
