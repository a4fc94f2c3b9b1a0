"""Names of vLLM's tool call and reasoning parsers, read off its source, which takes 15 s to import."""

import ast
import difflib
from pathlib import Path

from sllm.cli import InputError
from sllm.serve.model_info import vllm_package


def check(tool_call_parser: str | None, reasoning_parser: str | None) -> None:
    """InputError for a name that vLLM does not have."""
    problems = []
    for flag, name, package in (
        ("--tool_call_parser", tool_call_parser, "tool_parsers"),
        ("--reasoning_parser", reasoning_parser, "reasoning"),
    ):
        known = _registered(package)
        if name is not None and known and name not in known:
            near = difflib.get_close_matches(name, known, 3) or sorted(known)
            problems.append(f"{flag} {name} is unknown to vLLM; {', '.join(near)}")
    if problems:
        raise InputError(problems)


def _registered(package: str) -> set[str]:
    """Keys of the table of parsers; nothing where vLLM is built in another way."""
    file = (vllm_package() or Path()) / package / "__init__.py"
    if not file.is_file():
        return set()
    tables = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Dict)]
    return {key.value for table in tables for key in table.keys if isinstance(key, ast.Constant)}
