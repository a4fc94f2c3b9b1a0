"""With what the rows of a folder are written, so that a run that continues does not mix teachers."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sllm import api_calls
from sllm.cli import InputError
from sllm.data.teacher import plans
from sllm.data.teacher.writing import SETTINGS

_CHECK_TOKENS = 64


def choose(args: Namespace, parameters: dict[str, Any]) -> dict[str, Any]:
    """The teacher's identity, and whether its API takes a JSON schema: as the folder to resume records it, else the API
    is asked.

    Raises:
        InputError: the teacher cannot be asked, or the folder to resume was written otherwise.
    """
    now = {
        "model": args.teacher_model,
        "host": urlsplit(args.teacher_base_url).netloc,
        "parameters": parameters,
        "seed": args.seed,
        "templates": plans.template_hash(),
    }
    path = Path(args.output_dir) / SETTINGS
    if args.resume and path.exists():
        return now | {"structured": _recorded(path, now)}
    short = {name: value for name, value in parameters.items() if name != "max_tokens"} | {"max_tokens": _CHECK_TOKENS}
    if "max_tokens" in parameters and parameters["max_tokens"] is None:  # the API has another name for it
        short["max_tokens"] = None
    client = api_calls.from_flags(args, "teacher")
    structured = client.accepts(short | {"response_format": plans.schema(("question", "wrong"))})
    return now | {"structured": structured}


def _recorded(path: Path, now: dict[str, Any]) -> bool:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        structured = bool(before["structured"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged; start over with --overwrite") from None
    problems = [
        f"{path.parent} was written with {name} {_short(before.get(name))}, this run has {_short(value)}; use the "
        "same, or start over with --overwrite"
        for name, value in now.items()
        if before.get(name) != value
    ]
    if problems:
        raise InputError(problems)
    return structured


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{text[:12]}…" if len(text) == 64 else text


def nothing_written(report: dict[str, Any], folder: Path) -> str:
    """Why a run has no row."""
    for failure in report["failed_calls"].values():
        return f"no row was written: {next(iter(failure['reasons']))}; to ask again: --resume"
    rules = ", ".join(f"{rule} {count}" for rule, count in list(report["rejected"].items())[:5])
    return (
        f"no row was written: every answer was rejected ({rules}); see {folder / 'rejects.jsonl'}, or ask another model"
    )
