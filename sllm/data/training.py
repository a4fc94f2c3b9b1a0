"""The rows of a training run: read, split, remarked on and recorded."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sllm import checkpoint, cli, training_texts
from sllm.data import formats, splits, tokenize
from sllm.data.rows import Row, Skipped, source_of
from sllm.data.tokenize import TokenStats


def load(args: Namespace, validation: Path | None, kind: str, skipped: Skipped) -> tuple[list[Row], list[Row]]:
    """(training rows, rows to evaluate on) of --trainset_path, and of `validation` or --val_set_size. `kind`: sft or
    preference. InputError for rows that cannot be used, unless `skipped` may collect them; and for a signature of
    earlier rows that `record` could not read."""
    rows, valid_rows, _ = cli.collect_errors(
        lambda: formats.load_rows(args.trainset_path, kind, skipped=skipped),
        lambda: formats.load_rows(validation, kind, skipped=skipped) if validation else [],
        lambda: training_texts.read(args.model_id),
    )
    return (rows, valid_rows) if valid_rows else splits.hold_out(rows, args.val_set_size, args.seed)


def notes(
    rows: list[Row], stats: TokenStats, skipped: Skipped, context: int | None, learns_prompts: bool = False
) -> list[str]:
    """Lines to print: keys that are not used; rows that are truncated, skipped or probably swapped; prompts that are
    learned. `context`: the model's, in tokens."""
    lines = [*formats.notes(rows), *tokenize.truncation_summary(stats, context_length=context), *skipped.lines()]
    if learns_prompts:
        lines.append("note: --train_on_inputs: the prompts are learned too, which takes from the answers")
    pairs = [row for row in rows if "chosen" in row]
    if swapped := splits.swapped_pairs(pairs):
        lines.append(
            f"note: in {len(swapped)} of {cli.plural(len(pairs), 'pair')}, such as {source_of(swapped[0])}, the chosen "
            "answer breaks a rule of its task and the rejected one keeps all: are they swapped?"
        )
    return lines


def record(
    args: Namespace, rows: list[Row], stats: TokenStats, valid_stats: TokenStats | None, skipped: Skipped
) -> dict[str, Any]:
    """What run.json says of the rows: where they are, their hash and statistics. The signature of their texts, and of
    those that --model_id was trained on, is written to --output_dir."""
    source = Path(args.trainset_path)
    train = {"path": str(source.resolve()), "sha256": checkpoint.folder_hash(source), **stats}
    trained = [row for row in rows if not skipped.reason(row)]
    signature = training_texts.with_parent(training_texts.signature_of(texts(trained)), args.model_id)
    written = training_texts.write(args.output_dir, signature)
    return {"train": train, "valid": valid_stats, "skipped_rows": len(skipped.rows), "training_texts": written}


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
