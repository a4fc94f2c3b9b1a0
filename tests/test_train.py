"""train_LoRA_SFT.py and train_LoRA_DPO.py as a user runs them, on the tiny base: what they leave, what they refuse,
and guarantees 4 (DPO reference), 6 (packing isolation) and 7 (resume)."""

import argparse
import importlib
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import types

import pytest
from conftest import DPO, ROOT, SFT, assert_refused, in_process, succeed

from sllm import accept, checkpoint
from sllm.cli import CheckFailed, InputError
from sllm.train import arguments, backend, checkpoints, metrics

pytestmark = pytest.mark.torch

ADAPTER_FILES = {
    "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "loss.png",
    "metrics.jsonl", "run.json", "samples.jsonl", "tokenizer.json", "tokenizer_config.json", "training_texts.npz",
}  # fmt: skip


def test_sft_leaves_a_whole_adapter(sft_folder, tiny_base):
    assert {path.name for path in sft_folder.iterdir()} == ADAPTER_FILES | {"checkpoint-4", "checkpoint-8"}
    run = checkpoint.require(sft_folder, stage="sft")
    assert run["metrics"]["loss_after"] < run["metrics"]["loss_before"]
    assert run["data"]["train"]["rows"] == 20
    assert run["data"]["valid"]["rows"] == 3
    assert run["data"]["train"]["sha256"]
    assert run["parents"][0]["stage"] == "base"
    assert run["probe"]["token_ids"]
    steps = metrics.read_metrics(sft_folder)
    assert [row["step"] for row in steps if "loss" in row] == list(range(1, 9))
    assert [row["step"] for row in steps if "eval_loss" in row] == [4, 8]
    assert all(row["tokens_per_second"] > 0 for row in steps if "loss" in row)
    epoch = next(row for row in steps if row["epoch"] == 1 and "loss" in row)
    assert epoch["num_tokens"] == run["data"]["train"]["tokens"]
    samples = (sft_folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(samples) == 9  # three at the start, three at each evaluation
    card = (sft_folder / "README.md").read_text(encoding="utf-8")
    assert 'base_model: "tiny_base"\nbase_model_relation: adapter' in card
    assert "`learning_rate` 0.003" in card
    assert "None" not in card


def test_the_root_is_the_best_checkpoint_and_peft_loads_it(sft_folder, tiny_base):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    best = checkpoint.read_run(sft_folder)["metrics"]["best_step"]
    root = load_file(sft_folder / "adapter_model.safetensors")
    kept = load_file(sft_folder / f"checkpoint-{best}" / "adapter_model.safetensors")
    assert root.keys() == kept.keys()
    assert all(torch.equal(root[name], kept[name]) for name in root)
    assert any(tensor.abs().max() > 0 for name, tensor in root.items() if "lora_B" in name)
    config = json.loads((sft_folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_base.resolve())
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), sft_folder)


def test_dpo_prefers_the_chosen(dpo_folder, sft_folder):
    assert {path.name for path in dpo_folder.iterdir()} == (ADAPTER_FILES | {"checkpoint-9", "checkpoint-12"})
    run = checkpoint.require(dpo_folder, stage="dpo")
    assert run["metrics"]["reference_difference"] <= 1e-3
    assert run["metrics"]["reward_accuracy"] >= 0.9
    assert run["metrics"]["reward_margin"] > 0
    assert run["parents"] == [checkpoint.describe(sft_folder)]
    assert run["base_model"].endswith("tiny_base")
    logged = [row for row in metrics.read_metrics(dpo_folder) if "loss" in row]
    assert {"rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected"} <= set(logged[0])
    assert run["probe"] == checkpoint.read_run(sft_folder)["probe"]


@pytest.mark.parametrize("flags", [["--precompute_ref_log_probs"], ["--loss_type", "ipo", "sft"]])
def test_dpo_variants(sft_folder, few_pairs, tmp_path, flags):
    result = succeed(
        *DPO, "--trainset_path", few_pairs, "--model_id", sft_folder, "--max_steps", "2", "--output_dir",
        tmp_path / "dpo", *flags,
    )  # fmt: skip
    assert result["reference_difference"] <= 1e-3


def test_dpo_from_a_full_model(tiny_base, few_pairs, tmp_path):
    result = succeed(
        *DPO, "--trainset_path", few_pairs, "--model_id", tiny_base, "--max_steps", "2", "--lora_r", "4",
        "--output_dir", tmp_path / "dpo",
    )  # fmt: skip
    assert result["reference_difference"] <= 1e-3


@pytest.mark.parametrize("flags", [["--packing"], ["--no-padding_free", "--group_by_length"], ["--train_on_inputs"]])
def test_sft_variants(tiny_base, few_rows, tmp_path, flags):
    succeed(
        *SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--max_steps", "2", "--output_dir",
        tmp_path / "sft", *flags,
    )  # fmt: skip


def test_sft_continues_an_adapter(sft_folder, few_rows, tmp_path):
    result = succeed(
        *SFT, "--trainset_path", few_rows, "--model_id", sft_folder, "--max_steps", "2", "--output_dir", tmp_path / "b"
    )
    before = checkpoint.read_run(sft_folder)["metrics"]
    assert abs(result["loss_before"] - before["loss_after"]) < 0.2 < before["loss_before"] - before["loss_after"]


def test_preview_shows_what_is_supervised(script, tiny_base, few_rows, tmp_path):
    done = script(*SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--preview", "2", "--output_dir", tmp_path / "x")  # fmt: skip  # noqa: E501
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("⟦") == 2
    assert done.stdout.count("<|im_end|>⟧") == 2
    assert "<s><|im_start|>system" in done.stdout
    assert not (tmp_path / "x").exists()


def test_dry_run_plans_and_writes_nothing(script, tiny_base, few_rows, few_pairs, tmp_path):
    for command, rows in ((SFT, few_rows), (DPO, few_pairs)):
        done = script(*command, "--trainset_path", rows, "--model_id", tiny_base, "--dry_run", "--output_dir", tmp_path / "x")  # fmt: skip  # noqa: E501
        assert done.returncode == 0, done.stderr
        assert "GiB" in done.stdout
        assert "memory (estimate)" in done.stdout
        assert "chatml" in done.stdout
        assert json.loads(done.stdout.splitlines()[-1])["dry_run"]
        assert not (tmp_path / "x").exists()


# ── refusals: exit 2, said in one go, nothing written ──────────────────────────────────────────────────────


def test_bad_rows_model_and_folder_are_said_at_once(script, tmp_path, tiny_base):
    bad = tmp_path / "bad.jsonl"
    question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    rows = [[question, answer], [question], [question, {**answer, "content": " "}]]
    bad.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows))
    exists = tmp_path / "exists"
    exists.mkdir()
    (exists / "file").touch()
    done = script(*SFT, "--trainset_path", bad, "--model_id", tmp_path / "none", "--output_dir", exists)
    assert_refused(done, f"{tmp_path / 'none'} is missing", f"{bad}:2:", f"{bad}:3:", f"{exists} exists")
    assert [path.name for path in exists.iterdir()] == ["file"]
    missing = script(*SFT, "--trainset_path", tmp_path / "nothing.jsonl", "--model_id", tiny_base, "--output_dir", tmp_path / "x")  # fmt: skip  # noqa: E501
    assert_refused(missing, "nothing.jsonl")


def test_wrong_kinds_of_rows(script, tiny_base, few_rows, few_pairs, tmp_path):
    done = script(*SFT, "--trainset_path", few_pairs, "--model_id", tiny_base, "--output_dir", tmp_path / "x")
    assert_refused(done, "train_LoRA_DPO.py")
    done = script(*DPO, "--trainset_path", few_rows, "--model_id", tiny_base, "--output_dir", tmp_path / "x")
    assert_refused(done, "train_LoRA_SFT.py")


def test_model_folders_that_are_not_whole(script, tiny_base, sft_folder, few_rows, tmp_path):
    no_tokenizer = tmp_path / "no_tokenizer"
    no_tokenizer.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_base / name, no_tokenizer)
    done = script(*SFT, "--trainset_path", few_rows, "--model_id", no_tokenizer, "--output_dir", tmp_path / "x")
    assert_refused(done, "no tokenizer")
    orphan = tmp_path / "orphan"
    shutil.copytree(sft_folder, orphan)
    config = json.loads((orphan / "adapter_config.json").read_text())
    (orphan / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/gone/base"}))
    done = script(*SFT, "--trainset_path", few_rows, "--model_id", orphan, "--output_dir", tmp_path / "x")
    assert_refused(done, "/gone/base is missing", "--base_model")
    assert not (tmp_path / "x").exists()


def test_unsloth_without_a_gpu_is_refused(script, tiny_base, few_rows, tmp_path):
    done = script(*SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--backend", "unsloth", "--output_dir", tmp_path / "x")  # fmt: skip  # noqa: E501
    assert_refused(done, "--backend unsloth", "GPU")
    done = script(*SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--load_in_4bit", "--output_dir", tmp_path / "x")  # fmt: skip  # noqa: E501
    assert_refused(done, "--bits 4 needs a CUDA GPU")


def test_unsloth_in_float32_is_refused():
    """It would compute in bfloat16 without a word."""
    args = argparse.Namespace(dtype="float32", bits=16, load_in_4bit=None)
    with pytest.raises(InputError, match="--backend peft"):
        arguments.resolve_quantization(args, backend.Choice("unsloth", "as if there were a GPU"))


def test_a_disk_too_small(monkeypatch, tiny_base, few_rows, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"needs [\d.]+ MiB of disk and .* has 1000 bytes free"):
        in_process(SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--output_dir", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_guarantee_1_a_changed_template_is_refused(script, sft_folder, few_pairs, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(sft_folder, changed, ignore=shutil.ignore_patterns("checkpoint-*"))
    template = changed / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>", "<|im_start|> "))
    accept.main(accept.build_parser().parse_args([str(changed)]))  # a file may change; what the model is fed may not
    done = script(*DPO, "--trainset_path", few_pairs, "--model_id", changed, "--output_dir", tmp_path / "x")
    assert_refused(done, "changed after training")
    other = script(*DPO, "--trainset_path", few_pairs, "--model_id", sft_folder, "--chat_template", "solar", "--output_dir", tmp_path / "x")  # fmt: skip  # noqa: E501
    assert_refused(other, "--chat_template")
    assert not (tmp_path / "x").exists()


def test_guarantee_4_broken_on_purpose(monkeypatch, sft_folder, few_pairs, tmp_path):
    """With the reference zeroed, as if it were the base model, the run stops before its first step."""
    import trl

    built = trl.DPOTrainer.__init__

    def with_the_base_as_reference(self, *args, **kwargs):
        built(self, *args, **kwargs)
        for name, weight in self.model.named_parameters():
            if ".ref." in name and "lora_B" in name:
                weight.data.zero_()

    monkeypatch.setattr(trl.DPOTrainer, "__init__", with_the_base_as_reference)
    with pytest.raises(CheckFailed, match="the DPO reference is not the model that training starts from"):
        in_process(DPO, "--trainset_path", few_pairs, "--model_id", sft_folder, "--output_dir", tmp_path / "dpo")
    assert not (tmp_path / "dpo" / "run.json").exists()


def test_guarantee_6_broken_on_purpose(monkeypatch, tiny_base, few_rows, tmp_path, capsys):
    """Without position_ids the rows of a flattened batch see each other: the run stops before its first step, or trains
    on padded rows where flattened ones were not asked for."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling as Collator

    collate = Collator.torch_call

    def without_positions(self, examples):
        batch = collate(self, examples)
        batch.pop("position_ids", None)
        return batch

    monkeypatch.setattr(Collator, "torch_call", without_positions)
    flags = ["--trainset_path", few_rows, "--model_id", tiny_base, "--max_steps", "2", "--overwrite"]
    for asked in ("--padding_free", "--packing"):
        with pytest.raises(CheckFailed, match="rows that share a sequence see each other"):
            in_process(SFT, *flags, "--output_dir", tmp_path / "s", asked)
    in_process(SFT, *flags, "--output_dir", tmp_path / "s")
    assert "batches: padded, because" in capsys.readouterr().out
    in_process(SFT, *flags, "--output_dir", tmp_path / "padded", "--no-padding_free")
    assert curve(tmp_path / "s") == pytest.approx(curve(tmp_path / "padded"), rel=1e-5)


def test_backends_have_the_same_functions():
    """Compared from the text, because with_unsloth imports unsloth."""
    import ast

    def functions(name):
        tree = ast.parse((ROOT / "sllm" / "train" / f"{name}.py").read_text(encoding="utf-8"))
        return {node.name: ast.unparse(node.args) for node in tree.body if isinstance(node, ast.FunctionDef)}

    peft, unsloth = functions("with_peft"), functions("with_unsloth")
    shared = {"load_model", "add_lora", "for_inference", "for_training"}
    assert shared <= peft.keys() & unsloth.keys()
    assert {name: peft[name] for name in shared} == {name: unsloth[name] for name in shared}
    assert inspect.getdoc(importlib.import_module("sllm.train.with_peft").load_model)


# ── guarantee 7: killed and resumed ────────────────────────────────────────────────────────────────────────


def curve(folder) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in metrics.read_metrics(folder) if "loss" in row}


def run_until(words: list, step: int, number: int) -> int:
    """Start a run and send it `number` once its metrics show `step`; returns the exit code."""
    process = subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:  # the progress lines; reading them is the clock
        if line.startswith("step") and f" {step}/" in line and "loss" in line:
            os.kill(process.pid, number)
            break
    process.stdout.close()
    return process.wait()


def test_guarantee_7_two_kills_leave_the_same_loss_curve(tiny_base, few_rows, tmp_path):
    words = [*SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--max_steps", "12", "--save_steps", "3"]
    succeed(*words, "--output_dir", tmp_path / "unbroken")
    killed = tmp_path / "killed"
    assert run_until([*words, "--output_dir", killed], 5, signal.SIGKILL) == -signal.SIGKILL
    assert not (killed / "run.json").exists()
    (killed / "checkpoint-99").mkdir()  # what a kill in the middle of writing leaves
    assert run_until([*words, "--output_dir", killed, "--resume"], 8, signal.SIGKILL) == -signal.SIGKILL
    result = succeed(*words, "--output_dir", killed, "--resume")
    assert result["steps"] == 12
    assert not (killed / "checkpoint-99").exists()
    unbroken, resumed = curve(tmp_path / "unbroken"), curve(killed)
    assert list(resumed) == list(range(1, 13)) == list(unbroken)
    assert max(abs(resumed[step] - unbroken[step]) for step in unbroken) < 1e-4
    # and the check can fail: another data order gives another curve
    succeed(*words, "--output_dir", tmp_path / "other", "--seed", "7")
    other = curve(tmp_path / "other")
    assert max(abs(other[step] - unbroken[step]) for step in unbroken) > 1e-2


def test_guarantee_7_holds_for_dpo(sft_folder, few_pairs, tmp_path):
    words = [*DPO, "--trainset_path", few_pairs, "--model_id", sft_folder, "--max_steps", "9", "--save_steps", "3"]
    succeed(*words, "--output_dir", tmp_path / "unbroken")
    killed = tmp_path / "killed"
    assert run_until([*words, "--output_dir", killed], 5, signal.SIGKILL) == -signal.SIGKILL
    succeed(*words, "--output_dir", killed, "--resume")
    unbroken, resumed = curve(tmp_path / "unbroken"), curve(killed)
    assert list(resumed) == list(range(1, 10)) == list(unbroken)
    assert max(abs(resumed[step] - unbroken[step]) for step in unbroken) < 1e-4


def test_ctrl_c_saves_and_says_how_to_resume(script, tiny_base, few_rows, tmp_path):
    words = [*SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--max_steps", "6", "--save_steps", "100"]
    out = tmp_path / "sft"
    process = subprocess.Popen(
        [sys.executable, *map(str, words), "--output_dir", str(out)], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("step") and " 2/6" in line:
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "--resume" in errors, errors
    assert checkpoints.latest_checkpoint(out)[0]
    assert not (out / "run.json").exists()
    other = [*words, "--output_dir", out, "--resume", "--seed", "7"]
    assert_refused(script(*other), "--seed was 42, now 7")
    assert succeed(*words, "--output_dir", out, "--resume")["steps"] == 6
    assert_refused(script(*words, "--output_dir", out, "--resume"), "nothing to resume")
