"""The trainers that unsloth patches into TRL, with a plain model on a CPU: what they do to our rows, to our metrics and
to the DPO reference. unsloth's own model and kernels need a GPU (benchmarks/gpu/run.sh)."""

import datasets
import patched
import pytest
from conftest import ROOT

from sllm import chat
from sllm.data import formats, tokenize
from sllm.train import checks, metrics
from sllm.train.callbacks import Progress, StopOnSignal

LENGTH = 1024


@pytest.fixture
def patched_trl():
    return patched.trl()


@pytest.fixture
def tokenizer():
    loaded = chat.load_tokenizer(str(ROOT / "sample_data" / "tiny_base"))
    chat.set_chat_template(loaded)
    return loaded


@pytest.fixture
def model():
    import peft
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(ROOT / "sample_data" / "tiny_base", dtype="float32")
    made = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj"]))
    made.max_seq_length = base.max_seq_length = LENGTH  # as unsloth's loader leaves it
    return made


@pytest.fixture
def columns(tokenizer):
    rows = formats.load_rows(str(ROOT / "sample_data" / "task_rows.jsonl"), "sft")[:8]
    return tokenize.sft_columns(tokenizer, rows, LENGTH)[0]


def sft_trainer(patched_trl, model, tokenizer, columns, out, *, flat: bool, cut: bool = True, eval_size: int = 8):
    from sllm.train import trainers  # after TRL is patched

    dataset = datasets.Dataset.from_dict(columns)
    if cut:
        dataset._unsloth_truncated_to = LENGTH  # as train_LoRA_SFT.py says it
    config = patched_trl.SFTConfig(
        output_dir=str(out), padding_free=flat, max_length=None, dataset_kwargs={"skip_prepare_dataset": True},
        report_to="none", per_device_train_batch_size=2, gradient_accumulation_steps=1, max_steps=4, logging_steps=1,
        bf16=False, fp16=False, use_cpu=True, optim="adamw_torch", disable_tqdm=True, save_strategy="no",
        gradient_checkpointing=False, per_device_eval_batch_size=eval_size,
    )  # fmt: skip
    return trainers.SFTTrainer(
        model=model,
        args=config,
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[Progress(out), StopOnSignal()],
    )


@pytest.mark.parametrize("cut", [True, False])
def test_flattened_rows_stay_flattened(patched_trl, model, tokenizer, columns, tmp_path, cut):
    """unsloth pads rows that it does not know to be cut; that train_LoRA_SFT.py says so keeps them separate."""
    trainer = sft_trainer(patched_trl, model, tokenizer, columns, tmp_path, flat=True, cut=cut)
    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])
    assert (batch["input_ids"].shape[0] == 1) == cut
    assert ("packed_seq_lengths" in batch) == cut  # what unsloth's attention tells rows apart by
    assert "trainers.mark_truncated(split, max_length)" in (ROOT / "train_LoRA_SFT.py").read_text(encoding="utf-8")


def test_labels_reach_the_model_as_they_were_made(patched_trl, model, tokenizer, columns, tmp_path):
    trainer = sft_trainer(patched_trl, model, tokenizer, columns, tmp_path, flat=False)
    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])
    for row, (ids, labels) in enumerate(zip(columns["input_ids"][:2], columns["labels"][:2], strict=True)):
        assert batch["input_ids"][row, : len(ids)].tolist() == ids
        assert batch["labels"][row, : len(ids)].tolist() == labels
        assert (batch["labels"][row, len(ids) :] == -100).all()


@pytest.mark.parametrize("flat", [True, False])
def test_loss_and_gradient_are_checked(patched_trl, model, tokenizer, columns, tmp_path, flat):
    """On the trainer that unsloth puts in TRL's place."""
    from sllm.train import gradient_checks  # after TRL is patched

    trainer = sft_trainer(patched_trl, model, tokenizer, columns, tmp_path, flat=flat)
    end = columns["labels"][0][-1]
    assert gradient_checks.loss_mask(trainer, columns, end)["loss_mask"] < 1e-3
    assert gradient_checks.accumulation_parity(trainer, columns)["accumulation_parity"] < 1e-3


@pytest.mark.parametrize("flat", [True, False])
def test_the_evaluation_does_not_depend_on_the_batch(patched_trl, model, tokenizer, columns, tmp_path, flat):
    found = []
    for size in (1, 3, 8):
        trainer = sft_trainer(patched_trl, model, tokenizer, columns, tmp_path, flat=flat, eval_size=size)
        found.append(trainer.evaluate(trainer.train_dataset)["eval_loss"])
    assert max(found) - min(found) < 1e-4
    assert found[0] > 1


def test_an_epoch_counts_every_real_token(patched_trl, model, tokenizer, columns, tmp_path):
    """unsloth's trainer logs no num_tokens; the monitor counts them itself."""
    trainer = sft_trainer(patched_trl, model, tokenizer, columns, tmp_path, flat=False)
    trainer.train()
    rows = [row for row in metrics.read_metrics(tmp_path) if "loss" in row]
    assert rows[-1]["num_tokens"] == sum(map(len, columns["input_ids"]))
    assert all(row["tokens_per_second"] > 0 for row in rows)


def test_the_reference_is_the_model_that_dpo_starts_from(patched_trl, model, tokenizer, tmp_path):
    from sllm.train import gradient_checks, trainers  # after TRL is patched

    pairs = formats.load_rows(str(ROOT / "sample_data" / "preference_pairs.jsonl"), "preference")[:4]
    columns, _ = tokenize.dpo_columns(tokenizer, pairs, LENGTH)
    config = patched_trl.DPOConfig(
        output_dir=str(tmp_path), max_length=LENGTH, report_to="none", per_device_train_batch_size=2, max_steps=2,
        bf16=False, fp16=False, use_cpu=True, optim="adamw_torch", disable_tqdm=True, save_strategy="no",
        gradient_checkpointing=False, logging_steps=1,
    )  # fmt: skip
    trainer = trainers.DPOTrainer(
        model=model, args=config, train_dataset=datasets.Dataset.from_dict(columns), processing_class=tokenizer,
        callbacks=[Progress(tmp_path), StopOnSignal()],
    )  # fmt: skip
    assert checks.dpo_reference(trainer) <= 1e-3
    assert gradient_checks.accumulation_parity(trainer, columns)["accumulation_parity"] < 1e-3
    trainer.train()
    assert [row["step"] for row in metrics.read_metrics(tmp_path) if "loss" in row] == [1, 2]
