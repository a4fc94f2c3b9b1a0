"""Labels of token sequences, kept as the lengths of runs: a few numbers where labels are as many as the tokens."""

from itertools import groupby
from typing import Any

IGNORED = -100  # label of a token that is not supervised (PyTorch's cross-entropy ignore_index)
Columns = dict[str, list[Any]]


def labels_of(ids: list[int], runs: list[int]) -> list[int]:
    """Labels, `IGNORED` or the token, from the lengths of runs of tokens: not supervised, supervised, not, …, an even
    number of them. Runs are a few numbers where labels are as many as the tokens."""
    labels: list[int] = []
    for off, on in zip(runs[::2], runs[1::2], strict=True):
        start = len(labels) + off
        labels += [IGNORED] * off + ids[start : start + on]
    return labels


def with_labels(columns: Columns) -> Columns:
    """Columns whose `labels`, if there are such, are labels instead of runs."""
    if "labels" not in columns:
        return columns
    return columns | {"labels": [labels_of(*row) for row in zip(columns["input_ids"], columns["labels"], strict=True)]}


def runs_of(mask: list[int]) -> list[int]:
    runs: list[int] = []
    for is_supervised, span in groupby(mask):
        if is_supervised != len(runs) % 2:
            runs.append(0)
        runs.append(len(list(span)))
    return runs + [0] * (len(runs) % 2)
