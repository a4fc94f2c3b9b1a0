"""Test rows that a model was trained on are told; others, and training files that have changed, are not."""

import json

import pytest

from sllm import checkpoint
from sllm.data import formats, overlap


def write(path, texts):
    rows = [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "답"}]} for text in texts]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def trained(folder, rows, parent=None):
    folder.mkdir()
    record = {"train": {"path": str(rows.resolve()), "sha256": checkpoint.folder_hash(rows)}}
    checkpoint.write_run(folder, "sft", None, parents=[parent] if parent else [], data=record)
    return folder


@pytest.fixture
def model(tmp_path):
    """A model that was trained on two rows, by way of one that was trained on one other."""
    first = trained(tmp_path / "sft", write(tmp_path / "a.jsonl", ["하나"]))
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train.jsonl", ["둘", "셋"])
    return trained(tmp_path / "dpo", tmp_path / "data", first)


def test_every_training_set_on_the_way_is_looked_at(model, tmp_path):
    rows = formats.load_rows(write(tmp_path / "test.jsonl", ["하나", "셋", "넷"]), "prompts")
    assert overlap.notes(model, rows) == [
        f"1 of 3 prompts are among the rows that the model was trained on, {path}"
        for path in (tmp_path / "a.jsonl", tmp_path / "data" / "train.jsonl")
    ]
    assert overlap.notes(model, rows[2:]) == []


def test_what_cannot_be_known_is_not_told(model, tmp_path):
    rows = formats.load_rows(write(tmp_path / "test.jsonl", ["하나", "셋"]), "prompts")
    (tmp_path / "a.jsonl").unlink()
    write(tmp_path / "data" / "train.jsonl", ["셋", "넷"])
    assert overlap.notes(model, rows) == []
    assert overlap.notes("org/name", rows) == []
    assert overlap.notes(tmp_path, rows) == []
