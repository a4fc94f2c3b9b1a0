"""Writing JSON and JSON Lines: atomically, with Korean as it is. Standard library only."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sllm import checkpoint


def jsonl(rows: Iterable[dict[str, Any]]) -> str:
    """JSON Lines; a row with a lone surrogate (only in rejected rows) is written escaped."""
    return "".join(_line(row) + "\n" for row in rows)


def _line(row: dict[str, Any]) -> str:
    line = json.dumps(row, ensure_ascii=False)
    return json.dumps(row) if any("\ud800" <= c <= "\udfff" for c in line) else line


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    checkpoint.write_atomically(Path(path), jsonl(rows))


def write_json(path: str | Path, value: object) -> None:
    checkpoint.write_atomically(Path(path), json.dumps(value, ensure_ascii=False, indent=1) + "\n")
