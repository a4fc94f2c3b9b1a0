"""The rows of a training run: read, tokenized, split, remarked on and recorded.

A short file is encoded in memory. A longer one is encoded once, by several processes, and kept in `token_cache`: runs
read it memory-mapped, and none holds its rows.
"""

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from sllm import checkpoint, cli, licenses, training_texts
from sllm.data import encoded_rows, formats, hold_out, token_files, token_stats
from sllm.data.encoded_rows import Encoder
from sllm.data.formats import RowFile
from sllm.data.rows import Row, Skipped, ignored_note, near_misses
from sllm.data.token_files import TokenFile
from sllm.data.token_stats import Array, TokenStats

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


# With all rows of a short file; None for a longer one, of which only the beginning was read.
OpenedFile: TypeAlias = tuple[RowFile, list[Row] | None]


@dataclass
class Opened:
    """The files of a run. `hash`: of --trainset_path."""

    train: OpenedFile
    valid: OpenedFile | None
    hash: str | None


def open_files(args: Namespace, validation: Path | None, kind: str, skipped: Skipped) -> Opened:
    """Open the training rows of --trainset_path, and `validation`, rows to evaluate on. `kind`: sft or preference.

    Raises:
        InputError: rows of a short file that cannot be used, unless `skipped` may collect them, or the beginning of a
            longer one; or a signature of earlier rows that `record` could not read.
    """
    train, valid, _ = cli.collect_errors(
        lambda: _open(args.trainset_path, kind, skipped),
        lambda: _open(validation, kind, skipped) if validation else None,
        lambda: training_texts.read(args.model_id),
    )
    return Opened(train, valid, checkpoint.folder_hash(args.trainset_path))


def _open(path: str | Path, kind: str, skipped: Skipped) -> OpenedFile:
    file = formats.open_rows(path, kind)
    if not file.is_short:
        return file, None
    parts = [file.rows_of(block) for block in file.blocks()]
    refused = [problem for _, problems in parts for problem in problems]
    rows = [row for rows, _ in parts for row in rows]
    skipped.add_lines(file.name, len(rows) + len(refused), refused)
    skipped.check()
    return file, rows


@dataclass(frozen=True)
class Data:
    """Rows of a file that a run trains or evaluates on. `chosen`: (rows,) bool, which of them."""

    file: TokenFile
    chosen: Array
    max_length: int
    strict: bool

    @cached_property
    def stats(self) -> TokenStats:
        rows = np.flatnonzero(self.chosen)
        return token_stats.statistics(
            self.file.counts[rows],
            lambda row: self.file.source(int(rows[row])),
            self.max_length,
            pairs=self.file.kind == "preference",
            strict=self.strict,
        )

    @cached_property
    def _sequences(self) -> Array:
        """The numbers of their sequences or pairs."""
        numbers: Array = np.flatnonzero(np.repeat(self.chosen, self.file.counts[:, 0]))
        return numbers

    @cached_property
    def _column_lengths(self) -> list[Array]:
        return [lengths[self._sequences] for lengths in self.file.column_lengths()]

    @cached_property
    def dataset(self) -> "Dataset":
        """Their sequences or pairs, memory-mapped where the file is large."""
        dataset = self.file.dataset
        return dataset if self.chosen.all() else dataset.select(self._sequences)

    @cached_property
    def lengths(self) -> Array:
        """Tokens of each sequence; of pairs, of prompt + chosen, prompt + rejected, … as two sequences each."""
        first, *answers = self._column_lengths
        lengths: Array = np.stack([first + answer for answer in answers], 1).ravel() if answers else first
        return lengths

    def extremes(self, count: int = 64) -> dict[str, list[Any]]:
        """Columns of a few rows for the checks, in their order: the shortest, and the one whose first column is the
        longest. `index`: their numbers in `dataset`."""
        lengths = self._column_lengths
        shortest = np.argsort(np.sum(lengths, 0), kind="stable")[:count]
        index = np.union1d(shortest, [lengths[0].argmax()]).tolist()
        columns: dict[str, list[Any]] = self.dataset[index]
        return columns | {"index": index}

    def skip_unusable(self, skipped: Skipped) -> None:
        """Leave out the rows that could not be encoded, or have no room for their answers."""
        file, unusable = self.file, dict(self.file.remarks.refused)
        if skipped.allow:
            unusable |= token_stats.without_room(file.counts, self.max_length)
        for row, reason in sorted(unusable.items()):
            if self.chosen[row]:
                skipped.add_line(file.name, file.rows["line"][row].as_py(), reason, file.rows["id"][row].as_py())

    def rows(self, count: int) -> list[Row]:
        """The first of the rows, as they were read."""
        return list(islice(compress(self.file.read_rows(), self.chosen), count))


def encode(
    args: Namespace, opened: Opened, tokenizer: "PreTrainedTokenizerBase", max_length: int, skipped: Skipped
) -> tuple[Data, Data | None]:
    """(training rows, rows to evaluate on), the latter from their own file or by --val_set_size. --preview reads no
    more than the beginning of a file.

    Raises:
        InputError: rows that cannot be used, unless `skipped` may collect them.
    """
    kind, learns_prompts = opened.train[0].kind, getattr(args, "train_on_inputs", False)
    encoder = Encoder(kind, tokenizer, max_length)
    train = _token_file(args, opened.train, replace(encoder, train_on_inputs=learns_prompts), skipped)
    strict = not skipped.allow
    if opened.valid:
        valid = _token_file(args, opened.valid, encoder, skipped)
        data = [Data(file, np.ones(len(file.rows), bool), max_length, strict) for file in (train, valid)]
    else:
        keys = np.stack([train.rows[name].to_numpy() for name in ("context", "question")], 1)
        held_out = hold_out.held_out(keys, args.val_set_size, args.seed)
        data = [Data(train, ~held_out, max_length, strict)]
        if held_out.any():
            if learns_prompts:  # but is evaluated on its answers
                train = _token_file(args, _open(args.trainset_path, kind, Skipped(True, share=1.0)), encoder, Skipped())
            data.append(Data(train, held_out, max_length, strict))
    for each in data:
        each.skip_unusable(skipped)
        skipped.check()
        _ = each.stats  # raises
    return data[0], data[1] if data[1:] else None


def _token_file(args: Namespace, opened: OpenedFile, encoder: Encoder, skipped: Skipped) -> TokenFile:
    file, rows = opened
    if rows is None and args.preview:
        rows = [row for block in file.beginning for row in file.rows_of(block)[0]]
    if rows is not None:
        return token_files.in_memory(file, rows, encoder)
    tokens = token_files.cached(file, encoder, args.cache_dir, args.num_proc)
    skipped.add_lines(file.name, tokens.remarks.read, tokens.remarks.unreadable)
    return tokens


def notes(
    args: Namespace, base: str, train: Data, valid: Data | None, skipped: Skipped, context: int | None
) -> list[str]:
    """Lines to print: keys that are not used; rows that are truncated, skipped or probably swapped; prompts that are
    learned; licences that forbid commercial use. `context`: the base's, in tokens."""
    files = list({data.file.name: data.file for data in (train, valid) if data}.values())
    ignored, labels = Counter[str](), Counter[str]()
    for file in files:
        ignored += file.remarks.ignored
        labels += file.remarks.labels
    lines = ignored_note(dict(ignored.most_common()))
    lines += [f"warning: {text}" for text in near_misses(dict(sorted(labels.items())))]
    lines += [*token_stats.truncation_summary(train.stats, context_length=context), *skipped.lines()]
    sources = [*licenses.of_lineage(args.model_id), *licenses.sources_of(args.trainset_path)]
    lines += [f"note: {note}" for note in licenses.notes(base, sources)]
    if getattr(args, "train_on_inputs", False):
        lines.append("note: --train_on_inputs: the prompts are learned too, which takes from the answers")
    if swapped := [file.source(row) for file in files for row in file.remarks.swapped]:
        pairs = sum(file.remarks.pairs for file in files)
        lines.append(
            f"note: in {len(swapped)} of {cli.plural(pairs, 'pair')}, such as {swapped[0]}, the chosen answer breaks a "
            "rule of its task and the rejected one keeps all: are they swapped?"
        )
    return lines


def record(args: Namespace, opened: Opened, train: Data, valid: Data | None, skipped: Skipped) -> dict[str, Any]:
    """What run.json says of the rows: where they are, their hash and statistics. The signature of their texts, and of
    those that --model_id was trained on, is written to --output_dir."""
    source = {"path": str(Path(args.trainset_path).resolve()), "sha256": opened.hash, **train.stats}
    trained = train.chosen & (train.file.counts[:, 0] > 0)
    signature = encoded_rows.signature(train.file.texts(), train.file.rows, trained)
    written = training_texts.write(args.output_dir, training_texts.with_parent(signature, args.model_id))
    return {
        "train": source,
        "valid": valid.stats if valid else None,
        "skipped_rows": len(skipped.rows),
        "training_texts": written,
        "sources": licenses.sources_of(args.trainset_path),
    }


def texts(rows: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """The texts of each row. A system turn that repeats is a text of the first row that has it."""
    seen: set[str] = set()
    for row in rows:
        system = {turn["content"] for turn in turns(row) if turn["role"] == "system"} - seen
        seen |= system
        yield [turn["content"] for turn in turns(row) if turn["role"] != "system" or turn["content"] in system]


def turns(row: dict[str, Any]) -> list[dict[str, Any]]:
    """All that is read of a row; of a preference row both answers."""
    return row["messages"] if "messages" in row else [*row["prompt"], *row["chosen"], *row["rejected"]]
