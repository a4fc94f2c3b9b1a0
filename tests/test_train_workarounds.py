"""Each workaround of sllm/train/trainers.py is still needed: without it the library shows the fault that it is for.

When one of these fails after an upgrade, the library was fixed: delete the workaround and the test.
"""

import inspect
import shutil
from contextlib import nullcontext

import pytest
from conftest import DPO, SFT, in_process

from sllm.cli import CheckFailed
from sllm.train import metrics

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def trainers():
    from sllm.train import trainers

    return trainers


def test_transformers_spreads_a_batch_over_every_visible_gpu():
    from transformers import Trainer

    assert "DataParallel" in inspect.getsource(Trainer)


def test_transformers_averages_the_evaluation_loss_over_batches(trainers, tiny_base, few_rows, tmp_path, monkeypatch):
    monkeypatch.delattr(trainers.SFTTrainer, "prediction_step")
    monkeypatch.delattr(trainers.SFTTrainer, "evaluation_loop")
    losses = []
    for size in (1, 5):
        out = tmp_path / str(size)
        in_process(
            SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--val_set_size", "7", "--max_steps", "1",
            "--learning_rate", "1e-12", "--batch_size", size, "--output_dir", out,
        )  # fmt: skip
        losses += [row["eval_loss"] for row in metrics.read_metrics(out) if "eval_loss" in row][-1:]
    assert abs(losses[0] - losses[1]) > 1e-4


def test_trl_casts_the_adapter_of_a_quantised_model(
    trainers, sft_folder, few_pairs, tmp_path, monkeypatch, dtypes_of_quantised_training
):
    import torch

    dtypes = dtypes_of_quantised_training
    monkeypatch.setattr(trainers, "adapter_in_float32", lambda model: nullcontext())
    in_process(
        DPO, "--trainset_path", few_pairs, "--model_id", sft_folder, "--max_steps", "1", "--output_dir", tmp_path
    )
    assert dtypes == [torch.bfloat16]


def test_trl_tokenizes_pairs_itself(trainers, sft_folder, few_pairs, tmp_path, monkeypatch):
    monkeypatch.delattr(trainers.DPOTrainer, "_prepare_dataset")
    flags = ["--trainset_path", few_pairs, "--model_id", sft_folder, "--max_steps", "1"]
    with pytest.raises(KeyError, match="chosen"):
        in_process(DPO, *flags, "--output_dir", tmp_path)


def test_transformers_resumes_dpo_without_its_adapter(trainers, sft_folder, few_pairs, tmp_path, monkeypatch):
    flags = ["--trainset_path", few_pairs, "--model_id", sft_folder, "--max_steps", "4", "--save_steps", "2"]
    flags += ["--learning_rate", "1e-2"]
    in_process(DPO, *flags, "--output_dir", tmp_path)
    unbroken = {row["step"]: row["loss"] for row in metrics.read_metrics(tmp_path) if "loss" in row}
    shutil.rmtree(tmp_path / "checkpoint-4")
    (tmp_path / "run.json").unlink()
    monkeypatch.delattr(trainers._ReferenceTrainer, "_load_from_checkpoint")
    in_process(DPO, *flags, "--output_dir", tmp_path, "--resume")
    resumed = {row["step"]: row["loss"] for row in metrics.read_metrics(tmp_path) if "loss" in row}
    assert abs(resumed[3] - unbroken[3]) > 1e-3


def test_transformers_averages_pairs_over_micro_batches(trainers, sft_folder, few_pairs, tmp_path, monkeypatch):
    monkeypatch.delattr(trainers.DPOTrainer, "compute_loss")
    flags = ["--trainset_path", few_pairs, "--model_id", sft_folder, "--max_steps", "1"]
    with pytest.raises(CheckFailed, match="gradient accumulation changes the gradient"):
        in_process(DPO, *flags, "--output_dir", tmp_path)


def test_dpo_learns_the_same_in_chunks_of_the_vocabulary(trainers, sft_folder, few_pairs, tmp_path, monkeypatch):
    steps = []
    for name in ("chunks", "whole"):
        flags = ["--trainset_path", few_pairs, "--model_id", sft_folder, "--loss_type", "sigmoid", "sft"]
        in_process(DPO, *flags, "--max_steps", "3", "--learning_rate", "1e-3", "--output_dir", tmp_path / name)
        steps.append([row for row in metrics.read_metrics(tmp_path / name) if "loss" in row])
        monkeypatch.setattr(trainers, "_can_chunk_logits", lambda model, args: False)
    chunks, whole = ([(row["loss"], row["grad_norm"], row["num_tokens"]) for row in rows] for rows in steps)
    assert sum(chunks, ()) == pytest.approx(sum(whole, ()), rel=1e-4)
    assert len(set(chunks)) == 3


def test_trl_needs_liger_kernel_for_chunks():
    import trl

    assert "if not is_liger_kernel_available()" in inspect.getsource(trl.DPOTrainer.__init__)
