"""Training teaches: after SFT on a share of the small world's rows, questions about things with new names are answered
truly and in the form of their tasks, which the base cannot. Where training is quietly wrong the shares fall
(benchmarks/mistakes.py puts mistakes in)."""

import json

import pytest
from conftest import ROOT, succeed

from sllm import compare_outputs

pytestmark = pytest.mark.torch
WORLD = ROOT / "sample_data" / "world"
FAMILIES = ("task02", "task08", "task12")  # a title, questions about a text and about a table


def _rows(name: str, count: int) -> list[dict]:
    rows = [json.loads(line) for line in (WORLD / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    chosen = [row for row in rows if row.get("task", "").startswith(FAMILIES)]
    return chosen[:count]


def _shares(model, test, out) -> dict[str, float]:
    """Shares of the answers to the test rows that are true, keep their rules, and stopped by themselves."""
    succeed("vllm_inference.py", "--model_id", model, "--testset_path", test, "--max_tokens", 120, "--output_path", out)
    answers = compare_outputs.read(str(out))
    verdicts = compare_outputs.verdicts_of(list(answers.values()), answers, compare_outputs.read_facts(str(test)))
    return {name: sum(values) / len(values) for name, values in verdicts.items()}


def test_a_trained_model_answers_what_it_has_not_seen(tmp_path, tiny_base):
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    for path, rows in ((train, _rows("train", 300)), (test, _rows("test_names", 50))):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    succeed("train_LoRA_SFT.py", "--model_id", tiny_base, "--trainset_path", train, "--output_dir", tmp_path / "sft",
            "--learning_rate", 2e-3, "--train_epochs", 1, "--batch_size", 4, "--gradient_accum_steps", 1)  # fmt: skip
    base = _shares(tiny_base, test, tmp_path / "base.jsonl")
    sft = _shares(tmp_path / "sft", test, tmp_path / "sft.jsonl")
    assert sft["true"] >= base["true"] + 0.5, (base, sft)
    assert sft["rules_passed"] >= base["rules_passed"] + 0.5, (base, sft)
    assert sft["stopped"] >= 0.95, (base, sft)
