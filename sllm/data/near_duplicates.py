"""Near-duplicates among rows: `signatures` in any number of processes, then `find`.

A row is the near-duplicate of an earlier one if each of its parts (`sllm.data.compared_texts`) has at least a
similarity of `threshold` with the same part of the other (`sllm.data.minhash`). At 0.8 a part of less than about 40
letters has to be the same, and in a longer one every 45th letter, or about every 20th word, may be another.

A row is compared with rows that are kept, and never with one that is itself a near-duplicate: of a chain of rows, each
like the one before, those are lost that are like a row that is kept.

Rows that are like many others may be alike by an instruction: what they share with one more of them at the beginning
and at the end of a part is not compared (`compared_texts.differing`).

Signatures find candidates: rows that are equal in one of the bands of their signatures. The texts of candidates are
compared, so there are no false ones; rows that are alike are missed where no band is equal (`RECALL`).
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from sllm.data.compared_texts import Parts, compared_texts
from sllm.data.minhash import SLOTS, signatures, similarities
from sllm.text_hashes import BASE, Array, distinct, mixed

__all__ = ["NearDuplicate", "compared_texts", "find", "signatures", "similarities"]

RECALL = 0.9875  # least share of rows as similar as the threshold that have an equal band
BEFORE = 4  # rows with an equal band that a row is compared with, besides their first: the last ones before it
CANDIDATES = 4  # of a row: the most similar ones by their signatures
CROWD = 4  # a row that is like so many may be like them by the frame of their task
BLOCK = 2048  # rows that are decided together
PAIRS = 256  # pairs of rows whose texts are compared at a time
_ROW, _DIFFER, _OTHER = np.uint64(36), np.uint64(28), np.uint64(2**28 - 1)  # bits of a candidate


class NearDuplicate(NamedTuple):
    """Rows by their numbers in the order of the signatures."""

    row: int
    kept: int
    similarity: float


def find(signed: list[Array], text_of: Callable[[int], Parts], threshold: float = 0.8) -> Iterator[NearDuplicate]:
    """The near-duplicates, ascending by row. Of rows that are alike, the first is kept.

    Args:
        signed: signatures of all rows, chunk after chunk. The list is emptied: those of 1.5 million rows take 190 MB.
        text_of: the parts of a row, by its number; called for candidates alone, about in ascending order.
        threshold: least similarity of each part, above 0.5.
    """
    if not 0.5 < threshold <= 1:
        raise ValueError(f"a threshold is above 0.5 and at most 1, not {threshold}")
    rows: Array = np.empty((sum(map(len, signed)), SLOTS), np.uint8)
    end = len(rows)
    while signed:
        chunk = signed.pop()
        rows[end - len(chunk) : end] = chunk
        end -= len(chunk)
    kept: Array = np.arange(len(rows), dtype=np.int32)
    candidates = _candidates(rows, threshold)
    del rows
    numbers, starts = np.unique(candidates >> _ROW, return_index=True)
    is_crowded = (
        np.bincount(candidates >> _ROW, minlength=len(kept)) + np.bincount(candidates & _OTHER, minlength=len(kept))
        >= CROWD
    )
    bounds = [*starts.tolist(), len(candidates)]
    for start in range(0, len(numbers), BLOCK):
        block = candidates[bounds[start] : bounds[min(start + BLOCK, len(numbers))]]
        others: dict[int, list[int]] = {}
        for row, other in zip((block >> _ROW).tolist(), (block & _OTHER).tolist(), strict=True):
            others.setdefault(row, []).append(other)
        thirds = {row: each[-1] for row, each in others.items() if is_crowded[row]}
        yield from _decide(others, thirds, kept, text_of, threshold)


def _candidates(rows: Array, threshold: float) -> Array:
    """(candidates,) uint64, ascending: a row, in how many slots it differs, and an earlier row that may be like it."""
    width = band_width(threshold)
    least = SLOTS * threshold - 4 * math.sqrt(SLOTS * threshold * (1 - threshold))
    bits = np.uint64(len(rows).bit_length())
    found: Array = np.empty(0, np.uint64)
    for start in range(0, SLOTS - width + 1, width):
        keys = _keys(rows[:, start : start + width]) >> bits << bits
        keys = np.sort(keys | np.arange(len(rows), dtype=np.uint64))
        row = (keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int32)
        place: Array = np.arange(len(keys), dtype=np.int32)
        starts_band = np.diff(keys >> bits, prepend=~(keys[:1] >> bits)) != 0
        first = np.maximum.accumulate(np.where(starts_band, place, 0))
        new = [_alike(rows, row[first < place - BEFORE], row[first[first < place - BEFORE]], least)]
        for n in range(1, BEFORE + 1):
            behind = place[first <= place - n]
            new.append(_alike(rows, row[behind], row[behind - n], least))
        found = distinct(np.concatenate([found, *new]))
        number = np.arange(len(found))
        starts_row = np.diff(found >> _ROW, prepend=~(found[:1] >> _ROW)) != 0
        found = found[number - np.maximum.accumulate(np.where(starts_row, number, 0)) < CANDIDATES]
    return found


def band_width(threshold: float) -> int:
    """Slots of a band: as many as RECALL allows. With fewer, more rows are candidates."""
    return next(r for r in range(12, 0, -1) if r == 1 or 1 - (1 - threshold**r) ** (SLOTS // r) >= RECALL)


def _keys(band: Array) -> Array:
    keys: Array = np.zeros(len(band), np.uint64)
    for column in band.T:
        keys = keys * np.uint64(BASE) + column
    return mixed(keys)


def _alike(rows: Array, left: Array, right: Array, least: float) -> Array:
    """The candidates among pairs: those with at least `least` equal slots."""
    found: list[Array] = [np.empty(0, np.uint64)]
    for start in range(0, len(left), 2**15):
        a, b = left[start : start + 2**15], right[start : start + 2**15]
        differ = np.count_nonzero(rows[a] != rows[b], axis=1)
        alike = differ <= SLOTS - least
        a, b, differ = (each[alike].astype(np.uint64) for each in (a, b, differ))
        found.append(a << _ROW | differ << _DIFFER | b)
    candidates: Array = np.concatenate(found)
    return candidates


def _decide(
    waiting: dict[int, list[int]],
    thirds: dict[int, int],
    kept: Array,
    text_of: Callable[[int], Parts],
    threshold: float,
) -> list[NearDuplicate]:
    """The near-duplicates of a block of rows, ascending.

    Args:
        waiting: the candidates of each row; emptied.
        thirds: of a row that is like many, the least similar candidate, which shows the frame of their task.
        kept: of each row that is a near-duplicate, the row that is kept in its place; of others, themselves. Filled in.
    """
    texts: dict[int, Parts] = {}
    similarity: dict[tuple[int, int], float] = {}
    found = []

    def next_of(row: int, candidates: list[int]) -> int | None:
        while candidates:
            other = int(kept[candidates[0]])
            if similarity.get((row, other), 1.0) >= threshold:
                return other
            candidates.pop(0)
        return None

    while waiting:
        unknown = []
        for row in list(waiting):
            other = next_of(row, waiting[row])
            if other is None:
                del waiting[row]
            elif (row, other) not in similarity:
                unknown.append((row, other))
            elif other not in waiting:
                found.append(NearDuplicate(row, other, similarity[row, other]))
                kept[row] = other
                del waiting[row]
        groups = [(row, other, thirds[row]) if row in thirds else (row, other) for row, other in unknown]
        for number in sorted({number for group in groups for number in group} - texts.keys()):
            texts[number] = text_of(number)
        for start in range(0, len(unknown), PAIRS):
            pairs = [tuple(texts[number] for number in group) for group in groups[start : start + PAIRS]]
            similarity.update(zip(unknown[start : start + PAIRS], similarities(pairs).tolist(), strict=True))
    return sorted(found)
