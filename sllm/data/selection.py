"""Which of the rows are drawn: shares of the files, and limits of rows and tasks.

A row's draw is a hash of the seed and its content: the order of the input makes no difference, and a smaller limit
draws some of the rows that a larger one draws.
"""

from collections.abc import Sequence

import numpy as np

from sllm.data import splits
from sllm.data.limits import Limits
from sllm.data.preparation import NOT_DRAWN, Preparation
from sllm.data.splits import Array


def draw(state: Preparation, limits: Limits, seed: int) -> list[str]:
    """Drop the rows beyond the limits. Those of a task come first, then the shares, then all rows. Returns warnings."""
    order = np.argsort(splits.draw(state.index["content"], seed), kind="stable")
    if limits.max_rows_per_task:
        tasks, task_of_facts = state.tasks
        reason = f"more than --max_rows_per_task {limits.max_rows_per_task} of the task"
        counts = {i: limits.max_rows_per_task for i, task in enumerate(tasks) if task is not None}
        _keep_first(state, order, task_of_facts[state.index["facts"]], counts, reason)
    if limits.mix:
        kept = np.bincount(state.source_of_row[state.kept], minlength=len(state.sources))
        counts = _counts(limits.mix, kept.tolist(), limits.max_rows)
        _keep_first(state, order, state.source_of_row, counts, "more than its file's share of --mix")
        empty = [state.sources[file].path for file, count in counts.items() if not count]
        return [f"--mix takes no row of {path}: its share of so few rows is none" for path in empty]
    elif limits.max_rows:
        nothing: Array = np.zeros(len(state.index), int)
        _keep_first(state, order, nothing, {0: limits.max_rows}, f"more than --max_rows {limits.max_rows}")
    return []


def _counts(mix: dict[int, float], available: Sequence[int], most: int | None) -> dict[int, int]:
    """Rows of each file: as many as there are for these shares, at most `most` in all."""
    shares = {file: weight / sum(mix.values()) for file, weight in mix.items()}
    total = min(int(available[file] / share + 1e-9) for file, share in shares.items())
    total = min(total, most or total)
    counts = {file: int(total * share + 1e-9) for file, share in shares.items()}
    for file in sorted(shares, key=lambda file: counts[file] - total * shares[file])[: total - sum(counts.values())]:
        counts[file] += 1
    return counts


def _keep_first(state: Preparation, order: Array, kinds: Array, counts: dict[int, int], reason: str) -> None:
    """Of each kind, keep its first `counts` rows in `order`, and drop the others."""
    order = order[state.kept[order]]
    by_kind = order[np.argsort(kinds[order], kind="stable")]
    sizes = np.bincount(kinds[by_kind], minlength=max(counts, default=0) + 1)
    ends: Sequence[int] = np.cumsum(sizes).tolist()
    for kind, limit in counts.items():
        for row in sorted(by_kind[ends[kind] - sizes[kind] + limit : ends[kind]].tolist()):
            state.drop(row, f"{NOT_DRAWN}: {reason}")
