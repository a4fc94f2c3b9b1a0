"""Is a model tested on rows that it was trained on? Its answers would look better than they are."""

import json
from collections.abc import Sequence
from pathlib import Path

from sllm import checkpoint
from sllm.data import formats
from sllm.data.rows import Row

MAX_BYTES = 2**28  # of a training file: a larger one would take longer to read than the answers


def notes(model: str | Path, rows: Sequence[Row]) -> list[str]:
    """A line for each training set of `model`, or of a model that it was made from, that holds prompts of `rows`.
    A training set that is not there any more, or was changed since, is not looked at."""
    prompts = [_prompt(row) for row in rows]
    lines = []
    for source in _training_sets(Path(model)):
        trained = {_prompt(row) for row in formats.load_rows(source, "prompts", skipped=formats.Skipped(True))}
        if common := sum(prompt in trained for prompt in prompts):
            lines.append(f"{common} of {len(rows)} prompts are among the rows that the model was trained on, {source}")
    return lines


def _prompt(row: Row) -> str:
    return json.dumps([(message["role"], message["content"]) for message in row["messages"]], ensure_ascii=False)


def _training_sets(model: Path) -> list[Path]:
    """The files that the model and the models before it were trained on."""
    record = checkpoint.read_run(model) if model.is_dir() else None
    if record is None:
        return []
    sources = []
    for parent in record["parents"]:
        sources += _training_sets(Path(checkpoint.find(model, record, parent["path"])))
    train = (record["data"] or {}).get("train")
    if train and "sha256" in train:
        path = Path(checkpoint.find(model, record, train["path"]))
        source = path / "train.jsonl" if path.is_dir() else path
        unchanged = source.is_file() and source.stat().st_size <= MAX_BYTES
        if unchanged and checkpoint.folder_hash(path) == train["sha256"]:
            sources.append(source)
    return list(dict.fromkeys(sources))
