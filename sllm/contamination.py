"""Which items of a test set were among the texts that a model was trained on? They make it look better than it is.

An item overlaps when half of its runs of 13 characters are in one training row; a text that is too short for that is
compared as a whole. Letters and digits count, and neither case, white space, punctuation nor markup.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sllm import text_hashes
from sllm.text_hashes import Array, owners
from sllm.training_texts import Signature, read

__all__ = ["THRESHOLD", "Signature", "hashes_of_items", "item_of", "notes", "overlap", "overlapping_rows", "read"]

THRESHOLD = 0.5  # an item with at least this share in one training row overlaps
SHORTEST = 8  # runs, which is 20 characters; a text with fewer to compare is compared as a whole
FEWEST_RUNS = 5  # the same for those of its runs that are in the sample: of fewer, half can be found by chance
# Answers share stock sentences with other answers: one counts that has 50 runs, and in rows that have nearly all of it.
SHORT_ANSWER = 50
WHOLE_ANSWER = 0.9
# What is in more than this share of the items, or of the training rows, and in at least so many of them, is the frame
# of a task ("summarise this text"), and is not compared.
FRAME_OF_ITEMS = (0.02, 3)
FRAME_OF_ROWS = (0.01, 50)


def item_of(messages: Sequence[dict[str, Any]], reference: str | None) -> list[str]:
    """The texts of an item for `overlap`: the turns that ask, without the system's, and the reference answer."""
    return [*(turn["content"] for turn in messages if turn["role"] != "system"), reference or ""]


def overlap(items: Sequence[Sequence[str]], signature: Signature) -> Array:
    """How much of each item is in the one training row that has most of it.

    Args:
        items: the test set, all of it, as frames are found by comparing items. Each is the texts that ask (one turn or
            several) and, last, the reference answer, or "".
    Returns:
        (items,) float64 from 0 to 1: the share in one row of what asks, or of that and the answer, if that is more;
        0 where all of an item is the frame of a task. `THRESHOLD` and more is an overlap.
    Raises:
        ValueError: an item has one text alone, or none.
    """
    shares: Array = np.array([shares.max(initial=0) for _, shares in _compare(items, signature)], float)
    return shares


def overlapping_rows(items: Sequence[Sequence[str]], signature: Signature) -> list[tuple[int, int, float]]:
    """(item, row, share) for every row of the signature that has `THRESHOLD` or more of an item; the items are those of
    `overlap`. A row may be named twice."""
    return [
        (item, int(row), float(share))
        for item, (rows, shares) in enumerate(_compare(items, signature))
        for row, share in zip(rows[shares >= THRESHOLD], shares[shares >= THRESHOLD], strict=True)
    ]


def _compare(items: Sequence[Sequence[str]], signature: Signature) -> Iterator[tuple[Array, Array]]:
    """Of each item the rows that have something of it, and the share that each has."""
    item_of_text, hashes = _hashes(items, signature.every)
    text_of_run, values = text_hashes.distinct_pairs(hashes.text_of_run, hashes.runs)
    filled = np.flatnonzero(hashes.lengths)
    comparison = _Comparison(
        runs=_find(text_of_run, values, item_of_text, signature.runs, signature.counts),
        wholes=_find(filled, hashes.wholes[filled], item_of_text, signature.wholes, signature.whole_counts),
        lengths=hashes.lengths,
        every=signature.every,
    )
    bounds = [0, *itertools.accumulate(map(len, items))]
    for pair in itertools.pairwise(bounds):
        yield comparison.shares(range(*pair))


def hashes_of_items(items: Sequence[Sequence[str]]) -> tuple[Array, Array]:
    """(runs,) uint32 and (wholes,) uint64, ascending: the different hashes of the items that `overlap` looks for in
    rows, whatever their sample; those that are frames of the items are not."""
    item_of_text, hashes = _hashes(items, 1)
    filled = np.flatnonzero(hashes.lengths)
    runs, _, frame_of_runs = _different(hashes.runs, item_of_text[hashes.text_of_run], len(items))
    wholes, _, frame_of_wholes = _different(hashes.wholes[filled], item_of_text[filled], len(items))
    return runs[~frame_of_runs], wholes[~frame_of_wholes]


def _hashes(items: Sequence[Sequence[str]], every: int) -> tuple[Array, text_hashes.Hashes]:
    """(texts,) the item of each text of the items; their hashes."""
    if any(len(item) < 2 for item in items):
        raise ValueError('an item is the texts that ask and, last, the reference answer, or ""')
    texts = [text for item in items for text in item]
    return owners(np.array([len(item) for item in items], np.int64)), text_hashes.hashes_of(texts, every)


def notes(model: str | Path, items: Sequence[Sequence[str]]) -> list[str]:
    """Lines to print: how many items overlap with what `model` was trained on, and what of that is not known."""
    signature = read(model)
    if signature is None:
        return []
    lines = []
    if common := int((overlap(items, signature) >= THRESHOLD).sum()):
        lines.append(f"{common} of {len(items)} prompts overlap with rows that the model was trained on")
    if signature.missing:
        lines.append(f"the training rows of {', '.join(signature.missing)} are not known: more prompts may overlap")
    return lines


@dataclass(frozen=True)
class _Found:
    """Hashes of the items' texts, without frames, and the training rows that have them.

    Attributes:
        starts: (texts + 1,) where each text begins in `hashes`, which holds numbers of hashes.
        row_starts: (hashes + 1,) where each hash begins in `rows`.
    """

    starts: Array
    hashes: Array
    row_starts: Array
    rows: Array

    def of_text(self, text: int) -> Array:
        return self.hashes[self.starts[text] : self.starts[text + 1]]

    def rows_of(self, hashes: Array) -> Array:
        """The rows that have each, one hash after another."""
        starts = self.row_starts[hashes]
        counts = self.row_starts[hashes + 1] - starts
        rows: Array = self.rows[np.arange(counts.sum()) + np.repeat(starts - (counts.cumsum() - counts), counts)]
        return rows


def _find(text_of_hash: Array, hashes: Array, item_of_text: Array, in_rows: Array, counts: Array) -> _Found:
    """`text_of_hash`: the text that each of `hashes` is of, ascending. `in_rows`: the hashes of rows, `counts` of each
    row."""
    items = int(item_of_text[-1]) + 1 if len(item_of_text) else 0
    different, numbers, frame_of_items = _different(hashes, item_of_text[text_of_hash], items)
    hit = np.isin(in_rows, different)
    number_of_hit = np.searchsorted(different, in_rows[hit])
    row_of_hit = owners(counts)[hit]
    hits = np.bincount(number_of_hit, minlength=len(different))
    frame = frame_of_items | _is_frame(hits, len(counts), FRAME_OF_ROWS)
    kept = ~frame[numbers]
    in_texts = np.bincount(text_of_hash[kept], minlength=len(item_of_text))
    return _Found(
        starts=np.concatenate([[0], in_texts.cumsum()]),
        hashes=numbers[kept],
        row_starts=np.concatenate([[0], hits.cumsum()]),
        rows=row_of_hit[np.argsort(number_of_hit, kind="stable")],
    )


def _different(hashes: Array, item_of_hash: Array, items: int) -> tuple[Array, Array, Array]:
    """(different,) hashes, ascending; (hashes,) the number of each among them; (different,) is it a frame of items?"""
    different, numbers = np.unique(hashes, return_inverse=True)
    in_items = np.bincount(np.unique(numbers * items + item_of_hash) // max(1, items), minlength=len(different))
    return different, numbers, _is_frame(in_items, items, FRAME_OF_ITEMS)


def _is_frame(found_in: Array, total: int, limit: tuple[float, int]) -> Array:
    share, fewest = limit
    is_frame: Array = (found_in > share * total) & (found_in >= fewest)
    return is_frame


@dataclass(frozen=True)
class _Comparison:
    """Of each text of the items: runs and wholes that are found, and (texts,) its length."""

    runs: _Found
    wholes: _Found
    lengths: Array
    every: int

    def shares(self, texts: range) -> tuple[Array, Array]:
        """(rows), (rows): of an item, whose last text is its answer. A row is there twice where its answer counts."""
        asking = [self.of_text(text) for text in texts[:-1]]
        answer = self.of_text(texts[-1])
        asked = _together(asking)
        if answer.weight < SHORT_ANSWER:
            return asked
        whole = answer.shares >= WHOLE_ANSWER
        both = _together([*asking, _Part(answer.rows[whole], answer.shares[whole], answer.weight)])
        return np.concatenate([asked[0], both[0]]), np.concatenate([asked[1], both[1]])

    def of_text(self, text: int) -> "_Part":
        runs, whole = self.runs.of_text(text), self.wholes.of_text(text)
        rows, shares, weight = self.runs.rows[:0], np.zeros(0), int(self.lengths[text]) * len(whole)
        if len(runs) >= FEWEST_RUNS and len(runs) * self.every >= SHORTEST:
            rows, found = np.unique(self.runs.rows_of(runs), return_counts=True)
            shares, weight = found / len(runs), len(runs) * self.every
        same = np.unique(self.wholes.rows_of(whole))
        others = ~np.isin(rows, same)
        return _Part(np.concatenate([rows[others], same]), np.concatenate([shares[others], np.ones(len(same))]), weight)


class _Part(NamedTuple):
    """Rows that have something of a text, the share that each has, and the characters that could be found."""

    rows: Array
    shares: Array
    weight: int


def _together(parts: Sequence[_Part]) -> tuple[Array, Array]:
    """Rows, and the share that each has of some texts together."""
    total = sum(part.weight for part in parts)
    rows, row = np.unique(np.concatenate([part.rows for part in parts]), return_inverse=True)
    shares: Array = np.bincount(row, np.concatenate([part.shares * part.weight for part in parts]), len(rows))
    return rows, shares / max(1, total)
