"""Limits of the rows of a preparation. Standard library only."""

from typing import NamedTuple


class Limits(NamedTuple):
    """`mix`: each file's share of the rows, by its number; shares are relative to their sum."""

    mix: dict[int, float] | None = None
    max_rows: int | None = None
    max_rows_per_task: int | None = None
