"""Which layers get an adapter: `--lora_target_modules` against the layers of the model.

The default is every linear layer of the language model but the output layer, whatever the architecture calls them.
What stands beside the language model (a vision tower, the projection of images) gets one only where it is named with a
dot, and a router of experts only where it is named.
"""

import re
from collections import Counter
from pathlib import Path

import torch

from sllm import hashes
from sllm.cli import InputError

ALL = "all-linear"
_ROUTERS = {"gate", "router", "shared_expert_gate"}


def resolve(model, names: list[str] | str) -> tuple[list[str], list[str]]:
    """The layers that `names` stand for.

    Args:
        model: a transformers model; on the meta device will do.
        names: layer names or ends of their paths (`q_proj`, `layers.0.mlp.up_proj`), or `all-linear`; a text that is
            neither is peft's regular expression over whole paths.
    Returns:
        (targets, paths): what peft and unsloth take as `target_modules`, as short as it can be said, and the path of
        every layer that gets an adapter.
    Raises:
        InputError: names that no layer has.
    """
    from transformers.pytorch_utils import Conv1D

    linear = {path: m for path, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)}
    if isinstance(names, str) and names != ALL:
        paths = [path for path in linear if re.fullmatch(names, path)]
        if not paths:
            raise InputError(f"no linear layer's path matches the regular expression {names}")
        return _short(paths, linear), paths
    prefix, output = _language_model(model), model.get_output_embeddings()
    language = {path: m for path, m in linear.items() if path.startswith(prefix)}
    paths = []
    if ALL in names:
        paths = [p for p, m in language.items() if m is not output and p.rpartition(".")[2] not in _ROUTERS]
        names = [] if names == ALL else [name for name in names if name != ALL]
    embeddings = {path: m for path, m in model.named_modules() if isinstance(m, torch.nn.Embedding)}
    everything = linear | embeddings
    undotted = [path for path, m in everything.items() if path.startswith(prefix) or m is output]
    missing = []
    for name in names:
        candidates = everything if "." in name else undotted
        matches = [path for path in candidates if path == name or path.endswith(f".{name}")]
        if not matches:
            missing.append(name)
        paths += [path for path in matches if path not in paths]
    if missing:
        present = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in language))
        raise InputError(f"--lora_target_modules: no layer is named {', '.join(missing)}; this model has {present}")
    if not paths:
        raise InputError("--lora_target_modules: this model has no linear layer that could get an adapter")
    return _short(paths, everything), paths


def of_adapter(folder: str | Path, model) -> list[str]:
    """The layers of `model` that an adapter on disk changes: what its files hold, whatever its config's rules say
    (`layers_to_transform` and others leave layers out). Empty where the adapter is not in safetensors."""
    file = Path(folder) / "adapter_model.safetensors"
    if not file.is_file():
        return []
    _, header = hashes.safetensors_header(file)
    modules = {key.removeprefix("base_model.model.").partition(".lora_")[0] for key in header}
    return [path for path, _ in model.named_modules() if path in modules]


def summary(paths: list[str]) -> str:
    """Which layers are adapted, in one line: `28 layers: q_proj ×4, k_proj ×4, …`."""
    counts = Counter(path.rpartition(".")[2] for path in paths)
    return f"{len(paths)} layers: " + ", ".join(f"{name} ×{count}" for name, count in counts.items())


def loss_settings(paths: list[str]) -> dict:
    """TRL computes SFT's loss from the output layer's own weight, in chunks, which would pass by an adapter on it; with
    one it has to have whole logits."""
    return {"loss_type": "nll"} if adapts_output(paths) else {}


def adapts_output(paths: list[str]) -> bool:
    """Is the output layer among the adapted layers?"""
    return any(path.rpartition(".")[2] in ("lm_head", "embed_out") for path in paths)


def require_adapted(model, paths: list[str]) -> None:
    """RuntimeError unless just the layers at `paths` carry the adapter: a library may have chosen others."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    present = {
        name.removeprefix("base_model.model.") for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)
    }
    if present != set(paths):
        mismatched = sorted(present ^ set(paths))
        raise RuntimeError(f"the adapter is on other layers than were requested: {', '.join(mismatched[:6])}")


def _language_model(model) -> str:
    """Path of the decoder, with a dot behind it; empty where the model is nothing else."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    path = next((path for path, module in model.named_modules() if module is decoder), "")
    return f"{path}." if path else ""


def _short(paths: list[str], everything: dict) -> list[str]:
    """The last names of the layers where these mean no others; else whole paths."""
    leaves = list(dict.fromkeys(path.rpartition(".")[2] for path in paths))
    matched = {path for path in everything if path.rpartition(".")[2] in leaves}
    return leaves if matched == set(paths) else paths
