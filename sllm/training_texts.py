"""The signature of the texts that a model was trained on, which its folder carries: training_texts.npz.

It holds hashes of the runs of 13 characters of each training row, of this stage and those before it: all of them, or
every 2nd, 4th, … hash value (FracMinHash) where they would be too many; and a hash of each whole text.
`sllm.contamination` compares the items of an evaluation with it.
"""

import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sllm import hub, runs, text_hashes
from sllm.cli import InputError
from sllm.hashes import TRAINING_TEXTS, is_adapter
from sllm.text_hashes import Array, owners

BUDGET = 2**22  # hashes of runs in a signature, 4 bytes each


@dataclass(frozen=True, eq=False)
class Signature:
    """Hashes of the texts of training rows. Rows that are equal are kept once.

    Attributes:
        runs: (hashes,) uint32, the different ones of each row after those of the row before; counts: (rows,) uint32,
            how many of each row.
        wholes: (texts,) uint64, whole texts, row by row; whole_counts: (rows,) uint32.
        every: of the runs, hashes that are multiples of this power of two.
        rows, characters: of what was read.
        missing: models that were trained before, on texts that are not known.
    """

    runs: Array
    counts: Array
    wholes: Array
    whole_counts: Array
    every: int = 1
    rows: int = 0
    characters: int = 0
    missing: tuple[str, ...] = ()


def signature_of(rows: Iterable[Sequence[str]], *, budget: int = BUDGET) -> Signature:
    """The signature of training rows, each given as the texts of its messages.

    Args:
        budget: most hashes of runs; `every` is doubled until they are no more.
    """
    parts, every = [of_rows([], 1)], 1
    for chunk in _chunks(rows):
        parts.append(of_rows(chunk, every))
        while sum(len(part.runs) for part in parts) > budget:
            every *= 2
            parts = [thinned(part, every) for part in parts]
    return merge(parts, budget=budget)


def of_rows(rows: Sequence[Sequence[str]], every: int = 1) -> Signature:
    """The signature of a few rows (about `text_hashes.CHUNK` characters), of which none is left out: `counts` and
    `whole_counts` are those of each."""
    texts = [text for row in rows for text in row]
    row_of_text = owners(np.array([len(row) for row in rows], np.int64))
    hashes = text_hashes.hashes_of(texts, every)
    row_of_run, kept = text_hashes.distinct_pairs(row_of_text[hashes.text_of_run], hashes.runs)
    filled = hashes.lengths > 0
    return Signature(
        runs=kept,
        counts=_counts(row_of_run, len(rows)),
        wholes=hashes.wholes[filled],
        whole_counts=_counts(row_of_text[filled], len(rows)),
        every=every,
        rows=len(rows),
        characters=sum(map(len, texts)),
    )


def concatenate(signatures: Sequence[Signature], *, budget: int | None = None) -> Signature:
    """The rows of all, one after another, of which none is left out."""
    every = max(signature.every for signature in signatures)
    parts = [thinned(signature, every) for signature in signatures]
    while budget is not None and sum(len(part.runs) for part in parts) > budget:
        every *= 2
        parts = [thinned(part, every) for part in parts]
    return Signature(
        runs=np.concatenate([part.runs for part in parts]),
        counts=np.concatenate([part.counts for part in parts]),
        wholes=np.concatenate([part.wholes for part in parts]),
        whole_counts=np.concatenate([part.whole_counts for part in parts]),
        every=every,
        rows=sum(part.rows for part in parts),
        characters=sum(part.characters for part in parts),
        missing=tuple(dict.fromkeys(name for part in parts for name in part.missing)),
    )


def select(signature: Signature, kept: Array) -> Signature:
    """The rows that are `kept`, (rows,) bool, of a signature of which none is left out. `characters` are still those of
    all."""
    return replace(
        signature,
        runs=signature.runs[np.repeat(kept, signature.counts)],
        counts=signature.counts[kept],
        wholes=signature.wholes[np.repeat(kept, signature.whole_counts)],
        whole_counts=signature.whole_counts[kept],
        rows=int(kept.sum()),
    )


def add_texts(signature: Signature, rows: Array, texts: Signature) -> Signature:
    """The same with further texts: those of each row of `texts` belong to the row of that number in `rows`."""
    every = max(signature.every, texts.every)
    signature, texts = thinned(signature, every), thinned(texts, every)
    owner = np.concatenate([rows[owners(texts.counts)], owners(signature.counts)])
    row_of_run, runs = text_hashes.distinct_pairs(owner, np.concatenate([texts.runs, signature.runs]))
    whole_owner = np.concatenate([rows[owners(texts.whole_counts)], owners(signature.whole_counts)])
    wholes = np.concatenate([texts.wholes, signature.wholes])[np.argsort(whole_owner, kind="stable")]
    return replace(
        signature,
        runs=runs,
        counts=_counts(row_of_run, len(signature.counts)),
        wholes=wholes,
        whole_counts=_counts(whole_owner, len(signature.counts)),
    )


def merge(signatures: Sequence[Signature], *, budget: int = BUDGET) -> Signature:
    """The signature of the rows of all."""
    merged = _distinct(concatenate(signatures))
    while len(merged.runs) > budget:
        merged = thinned(merged, 2 * merged.every)
    return merged


def with_parent(signature: Signature, model: str | Path) -> Signature:
    """The signature of a model that is made from `model` by training on the rows of `signature`."""
    before = read(model)
    if before is not None:
        return merge([before, signature])
    record = runs.read_run(model) or {}
    if record.get("stage") in ("sft", "dpo", "merged") or is_adapter(model):
        return replace(signature, missing=(Path(model).resolve().name,))
    return signature  # a base: what it was trained on is never known


def _chunks(rows: Iterable[Sequence[str]]) -> Iterator[list[Sequence[str]]]:
    chunk: list[Sequence[str]] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += sum(map(len, row))
        if size >= text_hashes.CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def thinned(signature: Signature, every: int) -> Signature:
    """Of the runs, those that are multiples of `every`, a power of two."""
    kept = signature.runs & np.uint32(every - 1) == 0
    counts = _counts(owners(signature.counts)[kept], len(signature.counts))
    return replace(signature, runs=signature.runs[kept], counts=counts, every=every)


def _distinct(signature: Signature) -> Signature:
    """Without rows whose texts are those of another: a row that is repeated is no frame of a task."""
    sums = np.concatenate([np.zeros(1, np.uint64), signature.wholes.cumsum(dtype=np.uint64)])
    ends = signature.whole_counts.cumsum(dtype=np.int64)
    _, first = np.unique(sums[ends] - sums[ends - signature.whole_counts], return_index=True)
    kept: Array = np.zeros(len(ends), bool)
    kept[first] = True
    kept &= signature.whole_counts > 0
    return replace(select(signature, kept), rows=signature.rows)


def _counts(owner: Array, number: int) -> Array:
    counts: Array = np.bincount(owner, minlength=number).astype(np.uint32)
    return counts


# ── the file ───────────────────────────────────────────────────────────────────────────────────────────────

_ARRAYS = {"runs": "<u4", "counts": "<u4", "wholes": "<u8", "whole_counts": "<u4"}


def write(folder: str | Path, signature: Signature) -> dict[str, Any]:
    """Write training_texts.npz to a model's folder; returns what run.json says of it."""
    path = Path(folder) / TRAINING_TEXTS
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    arrays = {name: getattr(signature, name).astype(dtype) for name, dtype in _ARRAYS.items()}
    numbers = np.array([text_hashes.VERSION, signature.every, signature.rows, signature.characters], "<i8")
    try:
        with temporary.open("wb") as file:
            np.savez(file, numbers=numbers, missing=np.array(signature.missing, "<U255"), **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return {
        "file": TRAINING_TEXTS,
        "rows": signature.rows,
        "characters": signature.characters,
        "hashes": len(signature.runs),
        "every": signature.every,
        "missing": list(signature.missing),
    }


def read(model: str | Path) -> Signature | None:
    """The signature of a model or adapter, a folder or a Hub id; None where it has none: what it was trained on is not
    known. See `Signature.missing` too.

    Raises:
        InputError: the file is damaged, or of another version.
    """
    folder = Path(model) if Path(model).is_dir() else hub.snapshot(str(model))
    path = folder / TRAINING_TEXTS if folder else None
    if path is None or not path.is_file():
        return None
    fix = f"get it again, or remove it and run python -m sllm.accept {model}: overlaps are unknown then"
    try:
        with np.load(path, allow_pickle=False) as file:
            version, every, rows, characters = (int(number) for number in file["numbers"])
            missing = tuple(str(name) for name in file["missing"])
            arrays = {name: file[name] for name in _ARRAYS} if version == text_hashes.VERSION else {}
    except (OSError, ValueError, LookupError, EOFError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}); {fix}") from None
    if version != text_hashes.VERSION:
        raise InputError(f"{path} is of version {version}, and this version reads {text_hashes.VERSION}; {fix}")
    signature = Signature(**arrays, every=every, rows=rows, characters=characters, missing=missing)
    if not _is_whole(signature):
        raise InputError(f"{path} is damaged (its parts do not belong together); {fix}")
    return signature


def _is_whole(signature: Signature) -> bool:
    arrays = {name: getattr(signature, name) for name in _ARRAYS}
    return (
        all(array.ndim == 1 and array.dtype == _ARRAYS[name] for name, array in arrays.items())
        and len(signature.counts) == len(signature.whole_counts)
        and signature.counts.sum(dtype=np.int64) == len(signature.runs)
        and signature.whole_counts.sum(dtype=np.int64) == len(signature.wholes)
        and 0 < signature.every < 2**32
        and signature.every & (signature.every - 1) == 0
    )
