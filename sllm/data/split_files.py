"""The files that a preparation writes."""

import json
from itertools import count
from pathlib import Path

import numpy as np
from msgspec.json import encode

from sllm.data.preparation import Preparation
from sllm.data.splits import SPLITS, Array, hash_of

BLOCK = 4096  # rows


def write(state: Preparation, sides: Array, folder: Path) -> int:
    """train.jsonl, valid.jsonl, test.jsonl and rejects.jsonl. A row whose id an earlier one has gets the next free
    `id#2`, `id#3`, …; returns how many.

    Args:
        sides: (kept rows,) the number of each row's split.
    """
    repeated = _repeated_ids(state)
    taken = set(state.index["id"][state.kept].tolist()) if repeated.any() else set()
    following: dict[str, int] = {}
    files = [(folder / f"{name}.jsonl").open("wb") for name in SPLITS]
    start = 0
    for numbers, lines in state.blocks(BLOCK):
        chosen = sides[start : start + len(lines)].tolist()
        for i in np.flatnonzero(repeated[start : start + len(lines)]).tolist():
            lines[i] = _renamed(lines[i], taken, following)
        for line, side in zip(lines, chosen, strict=True):
            files[side].write(line)
        start += len(numbers)
    for file in files:
        file.close()
    with (folder / "rejects.jsonl").open("wb") as file:
        file.writelines(state.rejects())
    return int(repeated.sum())


def _repeated_ids(state: Preparation) -> Array:
    """(kept rows,) bool: does an earlier row have the id?"""
    ids = state.index["id"][state.kept]
    repeated: Array = np.ones(len(ids), bool)
    repeated[np.unique(ids, return_index=True)[1]] = False
    return repeated


def _renamed(line: bytes, taken: set[int], following: dict[str, int]) -> bytes:
    row = json.loads(line)
    name = row["id"]
    for number in count(following.get(name, 2)):
        row["id"] = f"{name}#{number}"
        if hash_of(row["id"].encode()) not in taken:
            break
    following[name] = number + 1
    taken.add(hash_of(row["id"].encode()))
    return encode(row) + b"\n"
