"""benchmarks/mistakes.py puts its mistakes in where they say, and the checks catch them."""

import sys

import pytest
from conftest import DPO, ROOT, SFT, run_script

sys.path.insert(0, str(ROOT / "benchmarks"))
from mistakes import MISTAKES

pytestmark = pytest.mark.torch


def run(name: str, *command: object) -> str:
    done = run_script("benchmarks/mistakes.py", "stage", name, "checked", *command, *MISTAKES[name].flags)
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", ["shift", "mixed", "micro"])
def test_a_mistake_in_sft_is_refused(name, tiny_base, few_rows, tmp_path):
    printed = run(name, *SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--output_dir", tmp_path / "sft")
    assert MISTAKES[name].says in printed
    assert not (tmp_path / "sft" / "run.json").exists()


def test_a_mistake_in_dpo_is_refused(sft_folder, few_pairs, tmp_path):
    flags = ("--trainset_path", few_pairs, "--model_id", sft_folder, "--output_dir", tmp_path / "dpo")
    assert MISTAKES["reference"].says in run("reference", *DPO, *flags)


def test_a_mistake_in_the_merge_is_refused(sft_folder, tmp_path):
    flags = ("--model_id", sft_folder, "--merged_weights_path", tmp_path / "merged")
    assert MISTAKES["twice"].says in run("twice", "merged_weights.py", *flags)


@pytest.mark.parametrize("name", ["template", "bos"])
def test_a_mistake_at_inference_is_refused(name, sft_folder, few_rows, tmp_path):
    flags = ("--model_id", sft_folder, "--testset_path", few_rows, "--output_path", tmp_path / "answers.jsonl")
    assert MISTAKES[name].says in run(name, "vllm_inference.py", *flags)
