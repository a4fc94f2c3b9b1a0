"""LoRA by unsloth: what a CUDA GPU uses. Importing this module imports unsloth, which has to come before trl,
transformers and peft, because it patches them.

The same functions with the same signatures as `with_peft`. The calls are bound to the real package's signatures
by tests/with_unsloth/; unsloth's defaults differ between releases, so every argument that matters is given.
"""

import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")  # no usage pings from a training run

from unsloth import FastLanguageModel  # noqa: I001

import torch

from sllm import hashes


def load_arguments(
    model_name: str, *, dtype: str, bits: int, max_seq_length: int, gradient_checkpointing: bool
) -> dict:
    """Arguments of `FastLanguageModel.from_pretrained`."""
    return {
        "model_name": model_name,
        "max_seq_length": max_seq_length,
        "dtype": None if dtype == "auto" else getattr(torch, dtype),
        "load_in_4bit": bits == 4,
        "load_in_8bit": bits == 8,
        "fix_tokenizer": False,  # the tokenizer and its template are ours (sllm.chat)
        "use_gradient_checkpointing": "unsloth" if gradient_checkpointing else False,
        "use_exact_model_name": True,  # never another repository's copy under the same name
    }


def lora_arguments(config, *, seed: int, max_seq_length: int, gradient_checkpointing: bool) -> dict:
    """Arguments of `FastLanguageModel.get_peft_model`. `config`: peft.LoraConfig."""
    return {
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "use_rslora": config.use_rslora,
        "target_modules": sorted(config.target_modules),
        "bias": config.bias,
        "random_state": seed,
        "max_seq_length": max_seq_length,
        "use_gradient_checkpointing": "unsloth" if gradient_checkpointing else False,
    }


def merge_arguments(folder: str, tokenizer) -> dict:
    """Arguments of the model's `save_pretrained_merged`."""
    return {"save_directory": str(folder), "tokenizer": tokenizer, "save_method": "merged_16bit"}


def load_model(
    base: str, *, adapter: str | None, dtype: str, bits: int, max_seq_length: int, train: bool,
    gradient_checkpointing: bool,
):  # fmt: skip
    """The base model, with `adapter` on it where one is given (trainable, as unsloth loads it)."""
    settings = {"max_seq_length": max_seq_length, "gradient_checkpointing": gradient_checkpointing}
    with tempfile.TemporaryDirectory() as folder:
        name = _link_adapter_to_base(adapter, base, folder) if adapter else base
        model, _ = FastLanguageModel.from_pretrained(**load_arguments(name, dtype=dtype, bits=bits, **settings))
    return model


def _link_adapter_to_base(adapter: str, base: str, folder: str) -> str:
    """A copy of the adapter in `folder` (links) whose config names `base`: unsloth reads the base from there alone."""
    for path in Path(adapter).resolve().iterdir():
        if path.is_file() and path.name != "adapter_config.json":
            (Path(folder) / path.name).symlink_to(path)
    config = hashes.read_json(Path(adapter) / "adapter_config.json")
    config["base_model_name_or_path"] = str(Path(base).resolve()) if Path(base).exists() else base
    (Path(folder) / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def add_lora(model, config, *, seed: int, max_seq_length: int, gradient_checkpointing: bool):
    """A fresh adapter. `config`: peft.LoraConfig."""
    settings = {"max_seq_length": max_seq_length, "gradient_checkpointing": gradient_checkpointing}
    return FastLanguageModel.get_peft_model(model, **lora_arguments(config, seed=seed, **settings))


def for_inference(model):
    """Swap in the kernels of generation."""
    FastLanguageModel.for_inference(model)


def for_training(model):
    FastLanguageModel.for_training(model)


def save_merged(model, folder: str, tokenizer) -> None:
    """Base + adapter as 16-bit safetensors; re-reads the base's weights in 16 bits, also after a 4-bit load."""
    model.save_pretrained_merged(**merge_arguments(folder, tokenizer))
