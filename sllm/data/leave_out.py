"""Rows of several sources, and training sets of one size with one source left out.

What is left out is replaced by rows of the others, so that every training has as many rows and optimizer steps: a
difference then says what the source is worth in comparison with the others, and not that a longer training is better.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sllm import cli, contamination
from sllm.cli import InputError
from sllm.data import formats, training
from sllm.data.rows import Row
from sllm.training_texts import signature_of

Sources = dict[str, list[Row]]  # name, fit for a file name → its rows


@dataclass(frozen=True)
class Drawn:
    """`rows` to train on, and of how many different rows they are."""

    rows: list[Row]
    different: int


def read_sources(paths: Sequence[str], by: str) -> Sources:
    """Training rows by the file (`by` is "source") or the task that they come from.

    Raises:
        InputError: with all that is wrong with any of the files; or there is one source alone.
    """
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise InputError(f"--trainset_path {' '.join(paths)}: name each file once")
    files = cli.collect_errors(*(lambda path=path: formats.load_rows(path, "sft") for path in paths))
    if by == "source":
        named = {
            _free_name(Path(path).stem, paths[:i]): rows
            for i, (path, rows) in enumerate(zip(paths, files, strict=True))
        }
    else:
        named = {}
        for row in (row for rows in files for row in rows):
            named.setdefault(_safe(row["task"] or "no_task"), []).append(row)
        named = dict(sorted(named.items()))
    if len(named) < 2:
        advice = "or take --by task" if by == "source" else "or leave --by out and name several files"
        raise InputError(
            f"{next(iter(named), 'no rows')}: one source alone cannot be left out; name more of them, {advice}"
        )
    return named


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


def _free_name(name: str, before: Sequence[str]) -> str:
    """`name`, with a number behind it where earlier files have the same."""
    number = 1 + sum(_safe(Path(path).stem) == _safe(name) for path in before)
    return _safe(name) + (f"-{number}" if number > 1 else "")


def draw(sources: Mapping[str, Sequence[Row]], size: int, seed: int, without: str | None = None) -> Drawn:
    """`size` rows of all sources, or of all but one, each by its share of the rows.

    A seed's rows of a source are the first of one random order: the rows with and without another source are the same
    as far as they go. A source that has too few is repeated.
    """
    kept = {name: rows for name, rows in sources.items() if name != without}
    drawn: list[Row] = []
    different = 0
    for name, count in quotas(kept, size).items():
        rows = random.Random(f"{seed}:{name}").sample(kept[name], len(kept[name]))
        drawn += [rows[i % len(rows)] for i in range(count)]
        different += min(count, len(rows))
    return Drawn(drawn, different)


def quotas(sources: Mapping[str, Sequence[Row]], size: int) -> dict[str, int]:
    """How many of `size` rows are drawn of each source: in proportion to their rows (largest remainders)."""
    total = sum(map(len, sources.values()))
    exact = {name: size * len(rows) / total for name, rows in sources.items()}
    counts = {name: int(value) for name, value in exact.items()}
    rest = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in rest[: size - sum(counts.values())]:
        counts[name] += 1
    return counts


def overlapping(test: Sequence[Row], sources: Mapping[str, Sequence[Row]]) -> dict[str, set[int]]:
    """Source → the places of the test rows that overlap with one of its rows: a source that holds the answers would
    seem to help."""
    items = [contamination.item_of(row["messages"][:-1], row["messages"][-1]["content"]) for row in test]
    found = {}
    for name, rows in sources.items():
        shares = contamination.overlap(items, signature_of(training.texts(rows)))
        found[name] = {i for i, share in enumerate(shares) if share >= contamination.THRESHOLD}
    return found
