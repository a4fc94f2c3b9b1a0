"""Training teaches: after SFT on a share of the small world's rows, questions about things with new names are answered
truly and in the form of their tasks. It fails where training is quietly wrong
(benchmarks/mistakes.py puts mistakes in)."""

import json

import pytest
from conftest import ROOT, succeed

from sllm import tasks, world

pytestmark = pytest.mark.torch
WORLD = ROOT / "sample_data" / "world"
FAMILIES = ("task02", "task04", "task08", "task12")  # a title, knowledge, questions about a text and about a table


def _rows(name: str, count: int) -> list[dict]:
    rows = [json.loads(line) for line in (WORLD / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    chosen = [row for row in rows if row.get("task", "").startswith(FAMILIES)]
    return chosen[:count]


def test_a_trained_model_answers_what_it_has_not_seen(tmp_path, tiny_base):
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    for path, rows in ((train, _rows("train", 400)), (test, asked := _rows("test_names", 70))):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    succeed("train_LoRA_SFT.py", "--model_id", tiny_base, "--trainset_path", train, "--output_dir", tmp_path / "sft",
            "--learning_rate", 2e-3, "--train_epochs", 1, "--batch_size", 4, "--gradient_accum_steps", 1)  # fmt: skip
    answered = tmp_path / "answers.jsonl"
    succeed("vllm_inference.py", "--model_id", tmp_path / "sft", "--testset_path", test, "--max_tokens", 120,
            "--output_path", answered)  # fmt: skip
    lines = [json.loads(line) for line in answered.read_text(encoding="utf-8").splitlines()]
    pairs = list(zip(asked, lines, strict=True))
    true = sum(bool(world.check(row, line["output"])) for row, line in pairs) / len(pairs)
    rules = sum(not tasks.check(row["task"], row["user_content"], line["output"]) for row, line in pairs) / len(pairs)
    stopped = sum(line["finish_reason"] == "stop" for line in lines) / len(pairs)
    # 0.81, 0.69 and 1.0 when this was written; a model that recites has 0
    assert (true >= 0.65, rules >= 0.55, stopped >= 0.95) == (True, True, True), (true, rules, stopped)
