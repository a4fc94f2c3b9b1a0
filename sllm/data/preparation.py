"""The state of a preparation: the rows that are kept so far on disk, and an index of them in memory.

All of it is in a working folder beside the output, written batch by batch, so that a run that was stopped continues
where it was. Memory grows by some 150 bytes a row.
"""

import heapq
import json
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sllm import cli
from sllm.data.file_problems import SHOWN
from sllm.data.json_writer import jsonl
from sllm.data.row_batches import FAULTY, INDEX, LEFT_OUT, UNREADABLE, Array, Batch, Facts, Refusal
from sllm.data.rows import MAX_LOST_SHARE

ROWS, REFUSED, INDEX_FILE, BATCHES = "rows.jsonl", "refused.jsonl", "index.bin", "batches.jsonl"
NOT_DRAWN = "not drawn"  # reason of a row that a limit leaves out; it is in its file, so rejects.jsonl only names it
LISTED = 2 * SHOWN  # problems of a file that are kept with their text


@dataclass
class SourceCounts:
    """What was read of one input: a file, or a folder, an archive or a data set of several.

    Attributes:
        read: rows that its records gave, the refused ones too.
        unreadable, faulty: how many records cannot be parsed, and how many rows cannot be used; the others that are
            refused are left out by a flag, or repeat an earlier row.
        faults: what is wrong with it as a whole.
        first_unreadable, first_refused: the first records that cannot be parsed, and refused rows: (file, line, text).
    """

    path: str
    format: str | None = None
    kind: str = ""
    notes: list[str] = field(default_factory=list)
    license: str | None = None
    revision: str | None = None
    files: list[str] = field(default_factory=list)
    blocks: int = 0
    records: int = 0
    read: int = 0
    unreadable: int = 0
    faulty: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    first_unreadable: list[tuple[str, int, str]] = field(default_factory=list)
    first_refused: list[tuple[str, int, str]] = field(default_factory=list)

    def problems(self, *, strict: bool, skip_bad_rows: bool) -> list[str]:
        """What stops the run: faults of the file; lines that cannot be parsed, if they are not skipped or are too
        many; with `strict` rows that cannot be used or repeat another, without it if all of them cannot be used."""
        unreadable = self.unreadable > (MAX_LOST_SHARE * self.read if skip_bad_rows else 0)
        refused = self.faulty + self.refused["duplicate"]
        shown: list[tuple[str, int, str]] = []
        if unreadable or strict or self.faults or self.unreadable + self.faulty == self.read:
            shown = sorted(self.first_unreadable + self.first_refused)
        lines = [f"{path}:{line}: {text}" for path, line, text in shown[:SHOWN]]
        if more := (self.unreadable + refused - len(lines)) * bool(lines):
            lines.append(f"{self.path}: {cli.plural(more, 'more such line')}")
        return self.faults + lines

    def refuse(self, path: str, line: int, reason: str, *, faulty: bool) -> None:
        kind = kind_of_reason(reason)
        self.refused[kind] += 1
        self.faulty += faulty
        if (faulty or kind == "duplicate") and len(self.first_refused) < LISTED:
            self.first_refused.append((path, line, reason))


def kind_of_reason(reason: str) -> str:
    """The first reason of a row, without its details."""
    for kind in ("duplicate of", "near-duplicate of"):
        if reason.startswith(f"{kind} "):
            return kind.removesuffix(" of")
    return reason.partition("; ")[0].partition(":")[0]


class Preparation:
    """Rows in the order of their files and lines.

    Attributes:
        sources: counts of each input.
        paths: the files in them, what `index["file"]` counts; `source_of`: the number of each one's input.
        facts: what `index["facts"]` counts.
        dropped: rows that were left out after they had been read: number → reason.
    """

    def __init__(self, folder: Path, sources: list[SourceCounts]):
        self.folder, self.sources = folder, sources
        self.paths: list[str] = []
        self.source_of: list[int] = []
        self.facts: list[Facts] = []
        self.dropped: dict[int, str] = {}
        self.refused_rows: list[tuple[int, int, int]] = []  # (file, line, bytes of its line)
        self._fact_numbers: dict[Facts, int] = {}
        self._first: dict[int, int] = {}  # content → number of the first row that has it
        self._parts: list[Array] = []
        self._files, self._lines = array("I"), array("I")  # of each row, to name it
        self._outputs: dict[str, BinaryIO] = {}

    # ── writing ──

    def open(self) -> None:
        for name in (ROWS, REFUSED, INDEX_FILE, BATCHES):
            self._outputs[name] = (self.folder / name).open("ab")

    def close(self) -> None:
        for file in self._outputs.values():
            file.close()
        self._outputs = {}

    def add(self, batch: Batch) -> None:
        """Keep the rows of a batch; one that was kept before is refused."""
        number, count = self._file_number(batch.source, batch.path), len(self._lines)
        keep: list[int] = []
        refusals = list(batch.refusals)
        for i, content in enumerate(batch.index["content"].tolist()):
            first = self._first.setdefault(content, count + len(keep))
            if first == count + len(keep):
                keep.append(i)
            else:
                line = int(batch.index["line"][i])
                in_batch = first >= count
                place = (number, int(batch.index["line"][keep[first - count]])) if in_batch else self._place(first)
                reason = f"duplicate of {self.paths[place[0]]}:{place[1]}"
                refusals.append(Refusal(line, reason, batch.lines[i].decode().rstrip("\n"), LEFT_OUT))
        refusals.sort(key=lambda refusal: refusal.line)
        index = batch.index[keep]
        index["file"] = number
        new = [facts for facts in batch.facts if facts not in self._fact_numbers]
        self._fact_numbers |= {facts: len(self.facts) + i for i, facts in enumerate(new)}
        self.facts += new
        if len(index):
            index["facts"] = np.array([self._fact_numbers[facts] for facts in batch.facts])[index["facts"]]
        rejects = [self._reject(number, refusal) for refusal in refusals]
        self._outputs[ROWS].write(b"".join(batch.lines[i] for i in keep))
        self._outputs[REFUSED].write(b"".join(rejects))
        self._outputs[INDEX_FILE].write(index.tobytes())
        refused = [[r.line, len(line), r.reason, r.kind] for r, line in zip(refusals, rejects, strict=True)]
        record = {"source": batch.source, "path": batch.path, "records": batch.records, "rows": len(index)}
        record |= {"facts": new, "refusals": refused}
        for name in (ROWS, REFUSED, INDEX_FILE):
            self._outputs[name].flush()
        self._outputs[BATCHES].write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._outputs[BATCHES].flush()  # last: what it says is there
        self._count_batch(record, index)

    def _file_number(self, source: int, path: str) -> int:
        """The files of an input come one after the other."""
        if not self.paths or (self.source_of[-1], self.paths[-1]) != (source, path):
            self.paths.append(path)
            self.source_of.append(source)
        return len(self.paths) - 1

    def _reject(self, number: int, refusal: Refusal) -> bytes:
        entry = {"file": self.paths[number], "line": refusal.line, "reason": refusal.reason}
        start = json.dumps(entry, ensure_ascii=False)[:-1]
        line = f'{start}, "row": {refusal.row or "null"}}}\n'
        if any("\ud800" <= c <= "\udfff" for c in line):
            line = jsonl([entry | {"row": refusal.row and json.loads(refusal.row)}])
        return line.encode()

    def _count_batch(self, record: dict[str, Any], index: Array) -> None:
        source, path = self.sources[record["source"]], record["path"]
        number = self._file_number(record["source"], path)
        source.blocks += 1
        source.records += record["records"]
        source.read += record["rows"] + len(record["refusals"])
        for line, size, reason, kind in record["refusals"]:
            self.refused_rows.append((number, line, size))
            if kind == UNREADABLE:
                source.unreadable += 1
                source.refused[kind_of_reason(reason)] += 1
                if len(source.first_unreadable) < LISTED:
                    source.first_unreadable.append((path, line, reason))
            else:
                source.refuse(path, line, reason, faulty=kind == FAULTY)
        self._parts.append(index)
        self._files.extend(index["file"].tolist())
        self._lines.extend(index["line"].tolist())

    # ── reading ──

    def resume(self) -> None:
        """Take up what an earlier run wrote; a batch that was cut off is read again."""
        batches, sizes = self.folder / BATCHES, Counter[str]()
        if not batches.exists():
            return
        index = np.fromfile(self.folder / INDEX_FILE, INDEX)
        for line in batches.read_bytes().split(b"\n")[:-1]:
            record = json.loads(line)
            count = len(self._lines)
            part = index[count : count + record["rows"]]
            for facts in record["facts"]:
                task, ignored, failures, notes = facts
                known = Facts(task, tuple(ignored), None if failures is None else tuple(failures), tuple(notes))
                self._fact_numbers[known] = len(self.facts)
                self.facts.append(known)
            for i, content in enumerate(part["content"].tolist()):
                self._first[content] = count + i
            sizes[BATCHES] += len(line) + 1
            sizes[ROWS] += int(part["size"].sum())
            sizes[REFUSED] += sum(size for _, size, _, _ in record["refusals"])
            sizes[INDEX_FILE] += part.nbytes
            self._count_batch(record, part)
        for name in (ROWS, REFUSED, INDEX_FILE, BATCHES):
            with (self.folder / name).open("ab") as file:
                file.truncate(sizes[name])

    @property
    def index(self) -> Array:
        """(rows,) of `INDEX`: every row that was not refused when it was read."""
        if len(self._parts) != 1:
            self._parts = [np.concatenate([np.empty(0, INDEX), *self._parts])]
        return self._parts[0]

    @property
    def kept(self) -> Array:
        """(rows,) bool: not dropped."""
        kept: Array = np.ones(len(self._lines), bool)
        kept[list(self.dropped)] = False
        return kept

    @property
    def source_of_row(self) -> Array:
        """(rows,) the number of each row's input."""
        sources: Array = np.array(self.source_of, int)[self.index["file"]]
        return sources

    @property
    def tasks(self) -> tuple[list[str | None], Array]:
        """The different tasks, and (facts,) the number of each one's task."""
        numbers: dict[str | None, int] = {}
        task_of = [numbers.setdefault(facts.task, len(numbers)) for facts in self.facts]
        return list(numbers), np.array(task_of, int)

    def drop(self, row: int, reason: str, *, faulty: bool = False) -> None:
        """Leave out a row that has been read. `faulty`: it cannot be used."""
        self.dropped[row] = reason
        file, line = self._place(row)
        self.sources[self.source_of[file]].refuse(self.paths[file], line, reason, faulty=faulty)

    def _place(self, row: int) -> tuple[int, int]:
        return self._files[row], self._lines[row]

    def place(self, row: int) -> tuple[str, int]:
        """The file and the line where a row was read."""
        file, line = self._place(row)
        return self.paths[file], line

    # ── the result ──

    def line_at(self, file: BinaryIO, row: int) -> bytes:
        """The line of a row in the open file of all rows."""
        file.seek(int(self.starts[row]))
        return file.read(int(self.index["size"][row]))

    @cached_property
    def starts(self) -> Array:
        """(rows,) where the line of each begins in the file of all rows, in bytes."""
        starts: Array = np.concatenate([np.zeros(1, np.uint64), self.index["size"].cumsum(dtype=np.uint64)])
        return starts[:-1]

    def row(self, number: int) -> dict[str, Any]:
        """One row, from disk."""
        with (self.folder / ROWS).open("rb") as file:
            row: dict[str, Any] = json.loads(self.line_at(file, number))
        return row

    def blocks(self, size: int) -> Iterator[tuple[Array, list[bytes]]]:
        """The kept rows, `size` at a time: their numbers and lines."""
        numbers = np.flatnonzero(self.kept)
        with (self.folder / ROWS).open("rb") as file:
            for start in range(0, len(numbers), size):
                block = numbers[start : start + size]
                yield block, [self.line_at(file, row) for row in block.tolist()]

    def rejects(self) -> Iterator[bytes]:
        """The lines of rejects.jsonl, in the order of files and lines."""
        for _, line in heapq.merge(self._refused(), self._dropped(), key=lambda entry: entry[0]):
            yield line

    def _refused(self) -> Iterator[tuple[tuple[int, int], bytes]]:
        with (self.folder / REFUSED).open("rb") as file:
            for number, line, size in self.refused_rows:
                yield (number, line), file.read(size)

    def _dropped(self) -> Iterator[tuple[tuple[int, int], bytes]]:
        with (self.folder / ROWS).open("rb") as file:
            for row, reason in sorted(self.dropped.items()):
                number, line = self._place(row)
                text = None if reason.startswith(NOT_DRAWN) else self.line_at(file, row).decode().rstrip("\n")
                yield (number, line), self._reject(number, Refusal(line, reason, text, LEFT_OUT))
