"""Hashes of texts for finding them again: of each run of 13 characters, and of the whole.

A text is reduced to its letters, marks and digits, in lower case and Unicode's composed form (NFC): white space,
punctuation and markup make no difference. The hashes are the same on every machine.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray
LENGTH = 13  # characters of a run
CHUNK = 2**17  # characters that are hashed at a time: more leave the cache of a core
VERSION = 1  # of the hashes: those of another cannot be compared
BASE = 0x9E3779B97F4A7C15  # of the polynomials


@dataclass(frozen=True)
class Hashes:
    """Hashes of some texts.

    Attributes:
        runs: (runs,) uint32, those of a text that are kept; text_of_run: (runs,) int32, which text.
        wholes: (texts,) uint64; lengths: (texts,) characters that are left of each.
    """

    runs: Array
    text_of_run: Array
    wholes: Array
    lengths: Array


def hashes_of(texts: Sequence[str], every: int = 1) -> Hashes:
    """`every`: keep the hashes of runs that are multiples of it, a power of two. Runs may repeat."""
    parts: list[Hashes] = []
    start = size = 0
    for end, text in enumerate(texts, 1):
        size += len(text)
        if size >= CHUNK or end == len(texts):
            part = _hashes_of_chunk(texts[start:end], every)
            parts.append(replace(part, text_of_run=part.text_of_run + start))
            start, size = end, 0
    parts = parts or [_hashes_of_chunk([], every)]
    return Hashes(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Hashes)))


def letters(texts: Sequence[str]) -> tuple[Array, Array]:
    """What counts of texts: (characters,) uint64 code points, one text after another, and (characters,) int32, the text
    of each."""
    joined = "\0".join(text.replace("\0", "") for text in texts)
    joined = unicodedata.normalize("NFC", joined.casefold())
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4")
    codes = codes[_is_kept()[codes]]
    border = codes == 0
    return codes[~border].astype(np.uint64), np.cumsum(border, dtype=np.int32)[~border]


def _hashes_of_chunk(texts: Sequence[str], every: int) -> Hashes:
    codes, owner = letters(texts)
    lengths = np.bincount(owner, minlength=len(texts))
    values = mixed(_polynomials(codes)) >> np.uint64(32)
    inside = owner[: len(values)] == owner[len(owner) - len(values) :]
    chosen = np.flatnonzero(inside & (values & np.uint64(every - 1) == 0))
    return Hashes(values[chosen].astype(np.uint32), owner[chosen], whole_hashes(codes, lengths), lengths)


def owners(counts: Array) -> Array:
    """(values,) the owner of each value, from how many each owner has: 0, 0, 1, …"""
    numbers: Array = np.repeat(np.arange(len(counts)), counts)
    return numbers


def distinct(values: Array) -> Array:
    """The different ones of uint64 values, ascending. Faster than np.unique, which hashes them."""
    values = np.sort(values)
    different: Array = values[np.diff(values, prepend=values[:1] - np.uint64(1)) != 0]
    return different


def distinct_pairs(owner: Array, runs: Array) -> tuple[Array, Array]:
    """(owner, runs) in order, without what is repeated: the different runs of each text, or row."""
    pairs = distinct(owner.astype(np.uint64) << np.uint64(32) | runs)
    return (pairs >> np.uint64(32)).astype(np.int64), pairs.astype(np.uint32)


@cache
def _is_kept() -> Array:
    """By code point: is it a letter, a mark or a digit, or 0, which separates texts?"""
    kept: Array = np.array([unicodedata.category(chr(code))[0] in "LMN" for code in range(0x110000)])
    kept[0] = True
    return kept


def _polynomials(codes: Array) -> Array:
    """The polynomial of each run of 13 at BASE, modulo 2**64, from those of 2, 4, 8 and 12 characters."""
    if len(codes) < LENGTH:
        return codes[:0]
    power = [np.uint64(pow(BASE, n, 2**64)) for n in range(5)]
    of_2 = codes[:-1] * power[1] + codes[1:]
    of_4 = of_2[:-2] * power[2] + of_2[2:]
    of_8 = of_4[:-4] * power[4] + of_4[4:]
    of_12 = of_8[:-4] * power[4] + of_4[8:]
    of_13: Array = of_12[:-1] * power[1] + codes[12:]
    return of_13


def whole_hashes(codes: Array, lengths: Array) -> Array:
    """(texts,) uint64 of texts of these lengths, one after another in `codes`."""
    powers = np.full(int(lengths.max(initial=0)), BASE, np.uint64).cumprod()
    ends = lengths.cumsum()
    places = np.arange(len(codes)) - np.repeat(ends - lengths, lengths)
    sums = np.concatenate([np.zeros(1, np.uint64), (codes * powers[places]).cumsum(dtype=np.uint64)])
    return mixed(sums[ends] - sums[ends - lengths] + lengths.astype(np.uint64))


def mixed(values: Array) -> Array:
    """SplitMix64's finalizer: the low bits of a product depend on low bits alone, and the sample is taken by them."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    values = values ^ (values >> np.uint64(31))
    return values
