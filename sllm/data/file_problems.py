"""What is wrong with a file, and how it is reported: every problem with its line. Standard library only."""

from pathlib import Path
from typing import Any

from sllm.cli import InputError

SHOWN = 20  # problems listed for one file; the rest are counted


class UnreadableFile(InputError):
    """A file that cannot be read, in whole or from some place on. `faults`: (line, text); line 0: no line is meant."""

    def __init__(self, path: str | Path, faults: list[tuple[int, str]]):
        self.path, self.faults = str(path), sorted(faults)
        super().__init__(format_problems(path, faults))

    def __reduce__(self) -> tuple[Any, ...]:
        return UnreadableFile, (self.path, self.faults)


def format_problems(path: str | Path, problems: list[tuple[int, str]]) -> list[str]:
    """`file:line: problem` for each, in the order of lines; the first `SHOWN` in full, the others counted."""
    problems = sorted(problems)
    lines = [f"{path}:{number}: {text}" if number else f"{path}: {text}" for number, text in problems[:SHOWN]]
    if len(problems) > SHOWN:
        numbers = ", ".join(str(number) for number, _ in problems[SHOWN : 2 * SHOWN])
        lines.append(f"{path}: {len(problems) - SHOWN} more such lines: {numbers}{', …' * (len(problems) > 2 * SHOWN)}")
    return lines


def kind_of(value: object) -> str:
    names = {list: "an array", str: "a text", bool: "true or false", type(None): "null", dict: "an object"}
    return names.get(type(value), "a number")
