"""Training rows that overlap with items of test sets: by the hashes, thresholds and frames of the evaluation.

`ItemHashes.find` looks for the test sets in chunks of rows, in any number of processes; `overlaps` decides over all of
them which rows to leave out, so that `sllm.contamination.overlap` finds no item among the rows that are kept.

A frame, a run that many rows share, is known only when all rows are; and leaving rows out can end its being one. So
rows are left out until none overlaps with what frames are left. The signature of a model that has seen many rows is a
sample of their runs: an item must not overlap by all of its runs, nor by the sample for so many rows, for half or for
twice as many. A system turn, which many rows repeat, is looked at as a row of its own; with it go all rows that have
it. The promise is for all kept rows together: a part of them, or rows of another stage beside them, can have other
frames.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sllm import contamination, text_hashes, training_texts
from sllm.cli import InputError, shorten
from sllm.contamination import Signature
from sllm.data import formats, training
from sllm.text_hashes import Array, owners

SHOWN = 3  # items that a reason names
_BITS = np.uint32(10)  # a hash that is looked for is told by its first 22 bits from most others
_ARRAYS = {"keys": "u8", "sizes": "u4", "runs": "u4", "counts": "u4", "wholes": "u8", "whole_counts": "u4"}


@dataclass(frozen=True)
class ItemSet:
    """`items`: as `contamination.overlap` takes them; `ids`: of each."""

    name: str
    ids: list[str]
    items: list[list[str]]


class Overlap(NamedTuple):
    """`row`: its number in the order of the chunks. `share`: of the item that has most in common with it."""

    row: int
    share: float
    reason: str


class Found(NamedTuple):
    """What rows have of the test sets: of a chunk of rows, after which come the system turns of the chunk.

    Attributes:
        rows: how many rows; the others are system turns.
        keys: (rows and system turns,) uint64, alike for equal ones; 0 for one without letters.
        systems: (rows,) uint64, the key of the row's system turn; 0 for none.
        runs, counts: hashes of runs, row by row, and how many of each row; wholes, whole_counts: the same of texts.
        sizes: (rows and system turns,) uint32, how many runs each has, of test sets or not.
    """

    rows: int
    keys: Array
    systems: Array
    runs: Array
    counts: Array
    wholes: Array
    whole_counts: Array
    sizes: Array


def read(paths: Sequence[str | Path]) -> list[ItemSet]:
    """Test sets of any format that vllm_inference.py reads. InputError with everything that is wrong with them."""
    sets, problems = [], []
    for path in paths:
        try:
            sets.append(item_set(str(path), formats.load_rows(path, "prompts")))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return sets


def item_set(name: str, rows: Sequence[dict[str, Any]]) -> ItemSet:
    """Of rows as `formats.load_rows(…, "prompts")` gives them."""
    items = [contamination.item_of(row["messages"], row["reference"]) for row in rows]
    return ItemSet(name, [row["id"] for row in rows], items)


class ItemHashes:
    """The hashes of test sets: what a process needs to look for them."""

    def __init__(self, sets: Sequence[ItemSet]):
        hashes = [contamination.hashes_of_items(each.items) for each in sets]
        self.runs, self.wholes = (np.unique(np.concatenate(arrays)) for arrays in zip(*hashes, strict=True))
        self._maybe: Array = np.zeros(2**22, bool)
        self._maybe[self.runs >> _BITS] = True

    def find(self, rows: Sequence[dict[str, Any]]) -> Found:
        """Of converted rows, training or preference rows."""
        texts = [list(training.turns(row)) for row in rows]
        systems = [next((turn["content"] for turn in turns if turn["role"] == "system"), "") for turns in texts]
        distinct = list(dict.fromkeys(filter(None, systems)))
        contents = [[turn["content"] for turn in turns if turn["role"] != "system"] for turns in texts]
        contents += [[system] for system in distinct]
        row_of_text = owners(np.array([len(each) for each in contents], np.int64))
        hashes = text_hashes.hashes_of([text for each in contents for text in each])
        hit = np.flatnonzero(self._maybe[hashes.runs >> _BITS])
        hit = hit[_is_in(hashes.runs[hit], self.runs)]
        row, runs = text_hashes.distinct_pairs(row_of_text[hashes.text_of_run[hit]], hashes.runs[hit])
        sizes = np.maximum(hashes.lengths - text_hashes.LENGTH + 1, 0)
        filled = np.flatnonzero(hashes.lengths)
        sums: Array = np.zeros(len(contents), np.uint64)
        np.add.at(sums, row_of_text[filled], hashes.wholes[filled])
        whole = filled[_is_in(hashes.wholes[filled], self.wholes)]
        key_of = dict(zip(distinct, sums[len(rows) :].tolist(), strict=True))
        return Found(
            rows=len(rows),
            keys=sums,
            systems=np.array([key_of.get(system, 0) for system in systems], np.uint64),
            runs=runs,
            counts=np.bincount(row, minlength=len(contents)).astype(np.uint32),
            wholes=hashes.wholes[whole],
            whole_counts=np.bincount(row_of_text[whole], minlength=len(contents)).astype(np.uint32),
            sizes=np.bincount(row_of_text, sizes, len(contents)).astype(np.uint32),
        )


def _is_in(values: Array, ascending: Array) -> Array:
    """Faster than np.isin, which sorts both."""
    places = np.searchsorted(ascending, values)
    is_in: Array = (
        np.append(ascending, ascending[:1])[places] == values if len(ascending) else np.zeros(len(values), bool)
    )
    return is_in


def overlaps(
    chunks: Sequence[Found], sets: Sequence[ItemSet], *, budget: int = training_texts.BUDGET
) -> Iterator[Overlap]:
    """The rows to leave out, ascending: each overlaps with an item of a test set, or equals a row that does.

    Args:
        chunks: what `ItemHashes(sets).find` found, in the order of the rows.
        budget: hashes in the signature of a model.
    """
    keys, sizes, runs, counts, wholes, whole_counts = (
        np.concatenate([np.zeros(0, dtype), *(getattr(chunk, name) for chunk in chunks)])
        for name, dtype in _ARRAYS.items()
    )
    is_row = np.concatenate([np.zeros(0, bool), *(np.arange(len(chunk.keys)) < chunk.rows for chunk in chunks)])
    _, first = np.unique(keys, return_index=True)
    kept: Array = np.zeros(len(keys), bool)  # rows that are equal count once, as in the signature of a model
    kept[first] = keys[first] != 0
    everything = Signature(runs, counts, wholes, whole_counts)
    found: dict[int, dict[str, float]] = {}  # key → `FILE item ID` → share
    while True:
        left = ~np.isin(keys, np.fromiter(found, np.uint64)) & (is_row | kept)
        samples = {1, *(_every(int(sizes[left].sum() * times), budget) for times in (0.5, 1, 2))}
        new = _found(everything, kept, sets, sorted(samples))
        if not new:
            break
        for number, item, share in new:
            items = found.setdefault(int(keys[number]), {})
            items[item] = max(share, items.get(item, 0.0))
            kept[number] = False
    start = row = 0
    for chunk in chunks:
        for key, system in zip(keys[start : start + chunk.rows].tolist(), chunk.systems.tolist(), strict=True):
            if items := found.get(key, {}) | found.get(system, {}):
                yield Overlap(row, max(items.values()), _reason(items))
            row += 1
        start += len(chunk.keys)


def _every(size: int, budget: int) -> int:
    """The least power of two with at most `budget` of `size` hashes among its multiples."""
    return 1 << max(0, -(-size // budget) - 1).bit_length()


def _found(
    everything: Signature, kept: Array, sets: Sequence[ItemSet], samples: Sequence[int]
) -> list[tuple[int, str, float]]:
    """(row, item, share) of the kept rows that overlap by one of the samples: every 1st, 2nd, 4th, … hash."""
    numbers = np.flatnonzero(kept)
    rows = Signature(
        runs=everything.runs[np.repeat(kept, everything.counts)],
        counts=everything.counts[kept],
        wholes=everything.wholes[np.repeat(kept, everything.whole_counts)],
        whole_counts=everything.whole_counts[kept],
    )
    return [
        (int(numbers[row]), f"{each.name} item {each.ids[item]}", share)
        for every in samples
        for sample in [training_texts.thinned(rows, every)]
        for each in sets
        for item, row, share in contamination.overlapping_rows(each.items, sample)
    ]


def _reason(items: dict[str, float]) -> str:
    listed = [f"{item} ({items[item]:.0%})" for item in sorted(items, key=lambda item: -items[item])]
    return f"overlaps with a test set: {', '.join(shorten(listed, SHOWN))}"
