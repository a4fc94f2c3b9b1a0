"""Our calls bound to the real unsloth's signatures, and our trainer arguments to the classes it patches into TRL.

Run by `make test-unsloth` in an environment of its own, with UNSLOTH_ALLOW_CPU=1: that makes the import work without a
GPU. It also leaves TRL unpatched, so the patch is applied here by hand.
"""

import argparse
import ast
import dataclasses
import inspect
import json
from pathlib import Path

import patched
import pytest
from conftest import ROOT

from sllm.train import arguments, with_unsloth  # imports unsloth before peft and trl, as a run does

from peft import LoraConfig  # isort: skip


@pytest.fixture
def patched_trl():
    return patched.trl()


def accepted(function) -> set[str]:
    """Named parameters; what only **kwargs would swallow does not count."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name for name, p in inspect.signature(function).parameters.items() if p.kind in kinds}


CONFIG = LoraConfig(task_type="CAUSAL_LM", r=64, lora_alpha=128, use_rslora=True, target_modules=["q_proj", "v_proj"])
LORA = {"seed": 42, "max_seq_length": 8192, "gradient_checkpointing": True}


def test_from_pretrained():
    from unsloth import FastLanguageModel

    given = with_unsloth.load_arguments("m", dtype="auto", bits=4, max_seq_length=8192, gradient_checkpointing=True)
    inspect.signature(FastLanguageModel.from_pretrained).bind(**given)
    assert set(given) <= accepted(FastLanguageModel.from_pretrained)
    sixteen = with_unsloth.load_arguments(
        "m", dtype="bfloat16", bits=16, max_seq_length=1, gradient_checkpointing=False
    )
    assert given["dtype"] is None
    assert str(sixteen["dtype"]) == "torch.bfloat16"
    assert given["load_in_4bit"]
    assert not sixteen["load_in_4bit"]
    assert not sixteen["load_in_8bit"]
    assert not {"load_in_four_bits"} <= accepted(FastLanguageModel.from_pretrained)  # the check can fail


def test_get_peft_model():
    from unsloth import FastLanguageModel

    given = with_unsloth.lora_arguments(CONFIG, **LORA)
    inspect.signature(FastLanguageModel.get_peft_model).bind("model", **given)
    assert set(given) <= accepted(FastLanguageModel.get_peft_model)


def test_generation_and_training_switches():
    from unsloth import FastLanguageModel

    inspect.signature(FastLanguageModel.for_inference).bind("model")
    inspect.signature(FastLanguageModel.for_training).bind("model")


def test_save_pretrained_merged():
    from unsloth import save

    method = save.unsloth_generic_save_pretrained_merged  # what patch_saving_functions binds to a model
    given = with_unsloth.merge_arguments("folder", "tokenizer")
    inspect.signature(method).bind("model", **given)
    assert set(given) <= accepted(method)
    assert given["save_method"] == "merged_16bit"
    assert "unsloth_generic_save_pretrained_merged" in inspect.getsource(save.patch_saving_functions)


def config_arguments(script: str, name: str) -> set[str]:
    """Keyword names of the `SFTConfig(...)` or `DPOConfig(...)` call that stands in a script, and of the settings that
    `arguments` adds to it."""
    calls = [
        node
        for node in ast.walk(ast.parse((ROOT / script).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name
    ]
    args = argparse.Namespace(
        logging_steps=1, save_steps=1, save_total_limit=1, report_to=["none"], batch_size=1, gradient_accum_steps=1
    )
    added = arguments.run_settings(args, Path("out"), 1, evaluate=True)
    return {keyword.arg for keyword in calls[0].keywords if keyword.arg} | {"bf16", "fp16"} | added.keys()


@pytest.mark.parametrize(
    ("script", "config", "trainer"),
    [("train_LoRA_SFT.py", "SFTConfig", "SFTTrainer"), ("train_LoRA_DPO.py", "DPOConfig", "DPOTrainer")],
)
def test_trainer_arguments_reach_the_patched_classes(patched_trl, script, config, trainer):
    """The patched configs print and ignore a name they do not know, so every name of ours has to be a field."""
    fields = {field.name for field in dataclasses.fields(getattr(patched_trl, config))}
    given = config_arguments(script, config)
    assert len(given) > 20, given - fields
    assert given <= fields, given - fields
    parameters = accepted(getattr(patched_trl, trainer).__init__)
    assert {"model", "args", "train_dataset", "eval_dataset", "processing_class", "callbacks"} <= parameters


def test_pairs_bypass_the_trainers_own_rendering(patched_trl):
    """DPOTrainer of sllm.train.trainers overrides this method; if it is renamed, pairs are rendered twice."""
    assert hasattr(patched_trl.DPOTrainer, "_prepare_dataset")
    assert "_prepare_dataset" in inspect.getsource(inspect.getmodule(patched_trl.DPOTrainer))


def test_our_load_and_lora_calls_build_these_arguments(monkeypatch, tmp_path):
    """load_model and add_lora really pass what was bound above."""
    seen = {}

    class Fake:
        @staticmethod
        def from_pretrained(**given):
            seen["load"] = given
            config = json.loads((Path(given["model_name"]) / "adapter_config.json").read_text())
            seen["named"] = config["base_model_name_or_path"]
            return "model", "tokenizer"

        @staticmethod
        def get_peft_model(model, **given):
            seen["lora"] = given
            return model

    monkeypatch.setattr(with_unsloth, "FastLanguageModel", Fake)
    base, adapter = tmp_path / "base", tmp_path / "sft"
    base.mkdir()
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "/where/it/was"}')
    loaded = with_unsloth.load_model(
        str(base),
        adapter=str(adapter),
        dtype="auto",
        bits=16,
        max_seq_length=8192,
        train=True,
        gradient_checkpointing=True,
    )
    with_unsloth.add_lora(loaded, CONFIG, **LORA)
    assert seen["named"] == str(base.resolve())
    assert seen["load"]["dtype"] is None
    assert seen["lora"] == with_unsloth.lora_arguments(CONFIG, **LORA)


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("train_LoRA_*.py")))
def test_unsloth_is_imported_before_what_it_patches(script):
    text = (ROOT / script).read_text(encoding="utf-8")
    first = text.index("backend.load(choice, args)")
    assert all(first < text.index(name) for name in ("load_tokenizer(", "memory.max_length(", "training.encode("))
