"""The rows of one file as a trainer reads them: encoded in memory, or in the cache of tokenized rows."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sllm import cli, progress
from sllm.cli import InputError
from sllm.data import encoded_rows, formats, labels, parallel, token_cache
from sllm.data.encoded_rows import Encoder, Part, Remarks, Texts
from sllm.data.formats import RowFile
from sllm.data.json_reader import format_problems
from sllm.data.readers import Block
from sllm.data.rows import Row, Skipped
from sllm.data.token_stats import COUNTS, Array
from sllm.disk import gib

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class TokenFile:
    """The encoded rows of a file.

    Attributes:
        name, kind: of the file.
        dataset: the token columns of its sequences or pairs, with labels as `sllm.data.labels.with_labels` makes them.
        rows: numbers of each row, see `encoded_rows.Part`.
        texts: signatures of its texts.
        read_rows: its rows, from the first one on.
    """

    name: str
    kind: str
    dataset: "Dataset"
    rows: pa.Table
    remarks: Remarks
    texts: Callable[[], Texts]
    read_rows: Callable[[], Iterator[Row]]

    @cached_property
    def counts(self) -> Array:
        """(rows, len(COUNTS)) int64."""
        counts: Array = np.stack([self.rows[name].to_numpy() for name in COUNTS], 1)
        return counts

    def source(self, row: int) -> str:
        """As `rows.source_of`."""
        line, name = self.rows["line"][row].as_py(), self.rows["id"][row].as_py()
        return f"{self.name}:{line} ({name})"

    def column_lengths(self) -> list[Array]:
        """The tokens of each sequence; of pairs, of each prompt, of each chosen and of each rejected answer."""
        table = self.dataset.data.table
        return [pc.list_value_length(table[name]).to_numpy() for name in table.column_names if name != "labels"]


def in_memory(file: RowFile, rows: list[Row], encoder: Encoder) -> TokenFile:
    """Encode the rows of a short file in this process."""
    from datasets import Dataset
    from datasets.table import InMemoryTable

    joined = encoded_rows.Joined()
    part = encoded_rows.encode(encoder, rows, [])
    joined.add(part)
    dataset = _with_labels(Dataset(InMemoryTable(part.sequences)))
    return TokenFile(
        file.name, file.kind, dataset, joined.rows, joined.remarks, lambda: joined.texts, lambda: iter(rows)
    )


def cached(file: RowFile, encoder: Encoder, folder: str | None, processes: int | None) -> TokenFile:
    """The rows of a long file, from the cache; encoded first where it does not have them.

    Args:
        folder: --cache_dir. processes: that encode; None: as many as there are cores.
    """
    from datasets import Dataset

    if not Path(file.name).is_file():
        raise InputError(f"{file.name} has {formats.HEAD:,} rows or more and is no file; write it to one with "
                         "prepare_data.py first")  # fmt: skip
    root = token_cache.root(folder)
    identity = token_cache.identity(file.name, file.format, encoder)
    path = token_cache.entry_of(root, identity)
    entry = token_cache.read(path)
    if entry is not None:
        print(f"tokens: {len(entry.rows):,} rows from the cache ({path}), tokenized {entry.created}")
    else:
        token_cache.remove_unused(root)
        started = time.monotonic()
        entry = token_cache.write(path, identity, file.name, _parts(file, encoder, processes or parallel.cores()))
        seconds, rows = time.monotonic() - started, len(entry.rows)
        end_of_bar = "\n" if sys.stdout.isatty() else ""
        rate, size = f"{rows / seconds:,.0f} rows/s", gib(entry.size)
        print(
            f"{end_of_bar}tokens: {rows:,} rows in {seconds:,.0f} s ({rate}), kept for the next run in {path} ({size})"
        )
    dataset = _with_labels(Dataset.from_file(str(path / token_cache.SEQUENCES)))
    read_rows = partial(formats.stream_rows, file.name, file.kind, skipped=Skipped(True, share=1.0))
    return TokenFile(file.name, file.kind, dataset, entry.rows, entry.remarks, entry.texts, read_rows)


def _with_labels(dataset: "Dataset") -> "Dataset":
    """Pairs have no labels, and TRL's reference scores are not added to a data set with a transform."""
    return dataset.with_transform(labels.with_labels) if "labels" in dataset.column_names else dataset


def _parts(file: RowFile, encoder: Encoder, processes: int) -> Iterator[Part]:
    """The parts of a file, encoded by `processes`. InputError where the rest of the file cannot be read."""

    def encode(block: Block) -> Part:
        return encoded_rows.encode(encoder, *file.rows_of(block))

    total = _estimated_rows(file)
    about = f", about {cli.plural(total, 'row')}," if total else ""
    print(f"tokenizing {file.name}{about} in {processes} process{'es' * (processes > 1)}", flush=True)
    report = progress.counter(total, "row")
    unreadable: list[tuple[int, str]] = []
    try:
        for part in parallel.ordered_map(encode, file.blocks(), processes=processes, fork=True):
            unreadable += part.remarks.unreadable
            report(int(np.sum(part.rows["tokens"].to_numpy())), count=len(part.rows))
            yield part
    except InputError as error:
        raise InputError([*error.problems, *format_problems(file.name, unreadable)]) from None


def _estimated_rows(file: RowFile) -> int | None:
    """From the bytes of the file and of its beginning."""
    end = getattr(file.beginning[-1], "end", None)
    rows = sum(len(block.records()) for block in file.beginning)
    return round(rows * Path(file.name).stat().st_size / end) if end else None
