"""Rows → what a trainer needs of them: token sequences and numbers in Arrow, and what is to be said of the rows.

Rows are encoded in parts, in any number of processes; `Joined` is the whole.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa

from sllm import training_texts
from sllm.data import hold_out, splits, tokenize
from sllm.data.rows import Row, ignored_keys, unknown_tasks
from sllm.data.token_stats import COUNTS
from sllm.training_texts import Signature

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Array: TypeAlias = np.ndarray
_SEQUENCE = pa.list_(pa.int32())


@dataclass(frozen=True)
class Encoder:
    """How rows are encoded. `kind`: sft or preference."""

    kind: str
    tokenizer: "PreTrainedTokenizerBase"
    max_length: int
    train_on_inputs: bool = False

    def encode(self, rows: Sequence[dict[str, Any]]) -> tokenize.Encoded:
        if self.kind == "preference":
            return tokenize.encode_dpo(self.tokenizer, rows, self.max_length)
        return tokenize.encode_sft(self.tokenizer, rows, self.max_length, self.train_on_inputs)


@dataclass
class Remarks:
    """What is to be said of the rows of a file.

    Attributes:
        read: rows of the file, good and bad. unreadable: (line, reason) of those that could not be read as rows.
        refused: (row, reason) of those that could not be encoded; rows are counted from 0, without unreadable ones.
        ignored: keys that are not used. labels: tasks that are not in the task table. Both with their numbers of rows.
        pairs, swapped: preference rows, and those (counted as above) that are probably swapped.
    """

    read: int = 0
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    pairs: int = 0
    swapped: list[int] = field(default_factory=list)

    def add(self, other: "Remarks", rows_before: int) -> None:
        self.read += other.read
        self.unreadable += other.unreadable
        self.refused += [(rows_before + row, reason) for row, reason in other.refused]
        self.ignored += other.ignored
        self.labels += other.labels
        self.pairs += other.pairs
        self.swapped += [rows_before + row for row in other.swapped]

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Remarks":
        pairs = {
            name: [(int(number), str(text)) for number, text in values[name]] for name in ("unreadable", "refused")
        }
        return cls(**{**values, **pairs, "ignored": Counter(values["ignored"]), "labels": Counter(values["labels"])})


@dataclass(frozen=True)
class Texts:
    """Signatures for training_texts.npz, of which no row is left out.

    Attributes:
        rows: of each row, without its system turn. systems: of each different system turn, in the order of the rows.
        system_hashes, system_lengths: (systems,) uint64; characters.
    """

    rows: Signature
    systems: Signature
    system_hashes: Array
    system_lengths: Array


@dataclass(frozen=True)
class Part:
    """Some rows, encoded.

    Attributes:
        sequences: the columns of `tokenize.Encoded`, as lists of int32.
        rows: of each row its id, line, `COUNTS`, the keys of its group (`context`, `question`), the characters of its
            texts without the system turn, and which of the `texts.systems` that is (-1: none).
    """

    sequences: pa.Table
    rows: pa.Table
    remarks: Remarks
    texts: Texts


def encode(encoder: Encoder, rows: Sequence[Row], unreadable: list[tuple[int, str]]) -> Part:
    """A part of a file. `unreadable`: (line, reason) of what could not be read as rows."""
    encoded = encoder.encode(rows)
    numbers_of_system, texts, characters = _texts(rows)
    keys = hold_out.keys_of(rows)
    table = {
        "id": pa.array([row["id"] for row in rows], pa.string()),
        "line": pa.array([row.line for row in rows], pa.int64()),
        **{name: pa.array(encoded.counts[:, i], pa.int64()) for i, name in enumerate(COUNTS)},
        "context": pa.array(keys[:, 0]),
        "question": pa.array(keys[:, 1]),
        "characters": pa.array(characters, pa.int64()),
        "system": pa.array(numbers_of_system, pa.int64()),
    }
    pairs = [number for number, row in enumerate(rows) if "chosen" in row]
    swapped = {id(row) for row in splits.swapped_pairs([rows[number] for number in pairs])}
    remarks = Remarks(
        read=len(rows) + len(unreadable),
        unreadable=unreadable,
        refused=sorted(encoded.refused.items()),
        ignored=Counter(ignored_keys(rows)),
        labels=Counter(unknown_tasks(rows)),
        pairs=len(pairs),
        swapped=[number for number in pairs if id(rows[number]) in swapped],
    )
    sequences = {name: pa.array(column, _SEQUENCE) for name, column in encoded.columns.items()}
    return Part(pa.table(sequences), pa.table(table), remarks, texts)


def _texts(rows: Sequence[dict[str, Any]]) -> tuple[list[int], Texts, list[int]]:
    """(number of each row's system turn, signatures, characters of each row without its system turn)."""
    systems: dict[str, int] = {}
    numbers, texts = [], []
    for row in rows:
        turns = row["messages"] if "messages" in row else [*row["prompt"], *row["chosen"], *row["rejected"]]
        system = next((turn["content"] for turn in turns if turn["role"] == "system"), None)
        numbers.append(-1 if system is None else systems.setdefault(system, len(systems)))
        texts.append([turn["content"] for turn in turns if turn["role"] != "system"])
    hashes = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in systems]
    signatures = Texts(
        rows=training_texts.of_rows(texts),
        systems=training_texts.of_rows([[text] for text in systems]),
        system_hashes=np.frombuffer(b"".join(hashes), "<u8"),
        system_lengths=np.array([len(text) for text in systems], np.int64),
    )
    return numbers, signatures, [sum(map(len, row)) for row in texts]


class Joined:
    """Parts of a file, joined in their order, but for their sequences."""

    def __init__(self) -> None:
        self.remarks = Remarks()
        self._tables: list[pa.Table] = []
        self._rows = 0
        self._texts: list[Signature] = []
        self._systems: list[Signature] = []
        self._lengths: list[Array] = []
        self._number_of_system: dict[int, int] = {}

    def add(self, part: Part) -> None:
        self.remarks.add(part.remarks, self._rows)
        known = len(self._number_of_system)
        numbers = [
            self._number_of_system.setdefault(value, len(self._number_of_system))
            for value in part.texts.system_hashes.tolist()
        ]
        is_new = np.array(numbers, np.int64) >= known
        self._systems.append(training_texts.select(part.texts.systems, is_new))
        self._lengths.append(part.texts.system_lengths[is_new])
        self._texts.append(part.texts.rows)
        if sum(len(each.runs) for each in self._texts) > 2 * training_texts.BUDGET:
            self._texts = [training_texts.concatenate(self._texts, budget=training_texts.BUDGET)]
        position = part.rows.column_names.index("system")
        system = np.array([*numbers, -1], np.int64)[part.rows["system"].to_numpy()]  # -1 is the last
        self._tables.append(part.rows.set_column(position, "system", pa.array(system)))
        self._rows += len(part.rows)

    @property
    def rows(self) -> pa.Table:
        return pa.concat_tables(self._tables).combine_chunks()

    @property
    def texts(self) -> Texts:
        budget = training_texts.BUDGET
        return Texts(
            rows=training_texts.concatenate(self._texts, budget=budget),
            systems=training_texts.concatenate(self._systems, budget=budget),
            system_hashes=np.fromiter(self._number_of_system, np.uint64, len(self._number_of_system)),
            system_lengths=np.concatenate(self._lengths),
        )


def signature(texts: Texts, rows: pa.Table, kept: Array) -> Signature:
    """The signature of the `kept` rows, (rows,) bool: a system turn that repeats is a text of the first one that has
    it. As `training_texts.signature_of(training.texts(rows))`."""
    system = rows["system"].to_numpy()[kept]
    numbers, first = np.unique(system, return_index=True)
    numbers, first = numbers[numbers >= 0], first[numbers >= 0]
    is_used: Array = np.zeros(len(texts.system_lengths), bool)
    is_used[numbers] = True
    characters = int(rows["characters"].to_numpy()[kept].sum() + texts.system_lengths[is_used].sum())
    joined = training_texts.add_texts(
        training_texts.select(texts.rows, kept), first, training_texts.select(texts.systems, is_used)
    )
    return training_texts.merge([replace(joined, characters=characters)])
