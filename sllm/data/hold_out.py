"""Rows to evaluate on, held out of the training rows: whole groups at random."""

import math
import random
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from sllm.cli import InputError
from sllm.data import splits

Array: TypeAlias = np.ndarray


def keys_of(rows: Sequence[dict[str, Any]]) -> Array:
    """(rows, 2) uint64: rows that have one of these numbers in common, directly or through other rows, are a group. See
    `splits.group`."""
    keys: Array = np.array([[splits.hash_of(key.encode()) for key in splits.keys(row)] for row in rows], np.uint64)
    return keys.reshape(-1, 2)


def held_out(keys: Array, size: float, seed: int) -> Array:
    """(rows,) bool: `size` rows (a share, below 1), or a few more, as groups are never divided.

    Args:
        keys: see `keys_of`.
    Raises:
        InputError: nothing would be left to train on.
    """
    count = math.ceil(size * len(keys)) if size < 1 else int(size)
    if not count:
        return np.zeros(len(keys), bool)
    groups = _groups(keys)
    sizes = np.bincount(groups)
    order = random.Random(seed).sample(range(len(sizes)), len(sizes))
    drawn = np.searchsorted(sizes[order].cumsum(), count) + 1
    chosen: Array = np.isin(groups, order[:drawn])
    if chosen.all():
        raise InputError(f"--val_set_size {size:g} leaves none of {len(keys)} rows to train on")
    return chosen


def _groups(keys: Array) -> Array:
    """(rows,) the number of each row's group; groups are numbered in the order of their first rows."""
    _, first, group_of_row = np.unique(splits.group(keys[:, 0], keys[:, 1]), return_index=True, return_inverse=True)
    order_of_first: Array = np.empty(len(first), np.int64)
    order_of_first[np.argsort(first)] = np.arange(len(first))
    groups: Array = order_of_first[group_of_row]
    return groups
