"""MinHash signatures of rows, and the similarity of two rows.

The similarity of two texts is that of the sets of their runs of 5 letters (Jaccard); marks and digits count as letters,
white space, punctuation and case do not (`sllm.text_hashes`). Two rows are as similar as the parts of theirs that are
least alike.

A signature has SLOTS bytes, each the low byte of the least hash of the runs that fall to it, as in Dahlgaard, Knudsen
and Thorup, "Fast Similarity Sketching" (2017). Slots are dealt to the parts of a row in turn: in any few of them rows
are equal whose parts are all alike, and rows that share no more than a long context differ. A short part, such as a
label, is the same or it is not: it has no slots and changes all of them.
"""

from collections.abc import Sequence

import numpy as np

from sllm import text_hashes
from sllm.data.compared_texts import Parts, differing
from sllm.text_hashes import BASE, Array, mixed, owners

LENGTH = 5  # letters of a run
SHORT = 9  # letters: such a part and one that differs have less than half of their runs in common
SLOTS = 126  # divides by 2 and 3, the usual numbers of parts
PARTS = len(Parts._fields)
CHUNK = 2**17  # characters that are hashed at a time: more leave the cache of a core
_EMPTY = np.uint32(2**32 - 1)
_SALTS = mixed(np.arange(SLOTS, dtype=np.uint64) * np.uint64(BASE)) | np.uint64(1)


def signatures(rows: Sequence[Parts]) -> Array:
    """(rows, SLOTS) uint8. A row's does not depend on the other rows, and is the same on every machine."""
    parts: list[Array] = [np.empty((0, SLOTS), np.uint8)]
    start = size = 0
    for end, row in enumerate(rows, 1):
        size += sum(map(len, row)) + SLOTS
        if size >= CHUNK or end == len(rows):
            parts.append(_of_chunk(rows[start:end]))
            start, size = end, 0
    signed: Array = np.concatenate(parts)
    return signed


def similarities(pairs: Sequence[tuple[Parts, ...]]) -> Array:
    """(pairs,) float64 from 0 to 1, by the texts themselves. Of each pair the two rows, and a third where many are
    alike (`differing`)."""
    texts = [differing(*pair) for pair in pairs]
    of_pair = owners(np.array([len(each) for each in texts], np.int64))
    values, _, lengths = _runs([text for each in texts for pair in each for text in pair])
    text = owners(lengths + LENGTH - 1)
    keys = (text // 2).astype(np.uint64) << np.uint64(32) | values >> np.uint64(32)
    left, right = (text_hashes.distinct(keys[text % 2 == side]) for side in (0, 1))
    both = np.intersect1d(left, right, assume_unique=True)
    sizes = (np.bincount(each >> np.uint64(32), minlength=len(of_pair)) for each in (left, right, both))
    of_left, of_right, of_both = sizes
    similarity: Array = np.ones(len(pairs))
    np.minimum.at(similarity, of_pair, of_both / (of_left + of_right - of_both))
    return similarity


def _of_chunk(rows: Sequence[Parts]) -> Array:
    values, wholes, lengths = _runs([text for row in rows for text in row])
    counts: Array = lengths + LENGTH - 1
    is_long = (lengths > SHORT).reshape(-1, PARTS)
    is_long[:, 0] |= ~is_long.any(axis=1)  # for a row of short parts, which the salt tells
    number = np.arange(1, PARTS + 1, dtype=np.uint64) * np.uint64(BASE)
    salt = np.where(is_long, np.uint64(0), mixed(wholes.reshape(-1, PARTS) + number)).sum(axis=1, dtype=np.uint64)
    # Of a row, the long parts in turn: slot s belongs to the part s % parts.
    used = is_long.ravel()
    row = owners(np.full(len(rows), PARTS))[used]
    parts: Array = is_long.sum(axis=1)[row]
    turn: Array = (is_long.cumsum(axis=1) - 1).ravel()[used]
    values = values[np.repeat(used, counts)]
    counts = counts[used]
    values = mixed(values + np.repeat((salt[:, None] + number).ravel()[used], counts))
    text = owners(counts)
    slots_of_part = ((SLOTS - turn + parts - 1) // parts).astype(np.uint64)
    place = ((values >> np.uint64(32)) * slots_of_part[text] >> np.uint64(32)).astype(np.int64)
    least: Array = np.full(len(rows) * SLOTS, _EMPTY)
    np.minimum.at(least, (row * SLOTS + turn)[text] + place * parts[text], values.astype(np.uint32))
    _fill(least, values, counts, parts, np.searchsorted(row, np.arange(len(rows))).astype(np.int64))
    signed: Array = least.astype(np.uint8).reshape(-1, SLOTS)
    return signed


def _fill(least: Array, values: Array, counts: Array, parts: Array, first_text: Array) -> None:
    """A slot without a run takes the least of all runs of its part, by a hash of its own. `first_text`: of each row."""
    empty = np.flatnonzero(least == _EMPTY)
    text = first_text[empty // SLOTS]
    text += empty % SLOTS % parts[text]
    counts_of_slot = counts[text]
    starts = counts_of_slot.cumsum() - counts_of_slot
    place = np.arange(counts_of_slot.sum()) + np.repeat((counts.cumsum() - counts)[text] - starts, counts_of_slot)
    hashes = values[place] * np.repeat(_SALTS[empty % SLOTS], counts_of_slot) >> np.uint64(32)
    if len(empty):
        least[empty] = np.minimum.reduceat(hashes, starts)


def _runs(texts: Sequence[str]) -> tuple[Array, Array, Array]:
    """(runs,) uint64 hashes, text after text; (texts,) uint64, of whole texts; (texts,) the letters of each.

    A text has LENGTH - 1 runs more than letters: the first and the last reach beyond it, so that all letters count
    alike, being in LENGTH runs each."""
    codes, owner = text_hashes.letters([_visible(text) for text in texts])
    lengths = np.bincount(owner, minlength=len(texts))
    apart: Array = np.zeros(len(codes) + (len(texts) + 1) * (LENGTH - 1), np.uint64)
    apart[np.arange(len(codes)) + (owner + 1) * (LENGTH - 1)] = codes
    of_2 = apart[:-1] * np.uint64(BASE) + apart[1:]
    of_4 = of_2[:-2] * np.uint64(BASE**2 % 2**64) + of_2[2:]
    of_5 = of_4[:-1] * np.uint64(BASE) + apart[4:]
    return mixed(of_5), text_hashes.whole_hashes(codes, lengths), lengths


def _visible(text: str) -> str:
    """A text without letters and digits, such as one emoji, by the numbers of its characters."""
    return text if any(map(str.isalnum, text)) else " ".join(str(ord(character)) for character in text.strip())
