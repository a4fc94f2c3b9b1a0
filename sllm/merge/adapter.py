"""A peft LoRA adapter on disk as changes of a base's parameters."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sllm import cli
from sllm.cli import InputError
from sllm.weights.layout import Layout
from sllm.weights.safetensors_io import TensorRef, read_json, tensors_of

_FACTOR = re.compile(r"(.+)\.lora_(?:(embedding)_)?([AB])(?:\.weight)?")
# What the arithmetic below knows. Anything else that is switched on in adapter_config.json changes what the
# adapter computes (DoRA, aLoRA, new tokens, …), so it is refused by not being here.
_KNOWN_SETTINGS = set(
    "peft_type auto_mapping peft_version base_model_name_or_path revision task_type inference_mode r target_modules "
    "target_parameters exclude_modules lora_alpha lora_dropout fan_in_fan_out bias use_rslora modules_to_save "
    "init_lora_weights layers_to_transform layers_pattern rank_pattern alpha_pattern megatron_core qalora_group_size "
    "eva_config ensure_weight_tying".split()
)
SUPPORTED_INITS = (True, False, None, "gaussian", "eva", "orthogonal")  # the rest change the base's weights too


@dataclass(frozen=True)
class Delta:
    """What LoRA adds to a parameter: scale · left @ right, (rows, rank) @ (rank, columns); or, to one that stacks
    experts, that for each of them."""

    a: TensorRef  # (rank, in), or (experts · rank, in)
    b: TensorRef  # (out, rank), or (out, rank · experts)
    scale: float
    transposed: bool  # embeddings, and layers that store (in, out)
    experts: int = 0  # 0: not a stack

    @property
    def shape(self) -> tuple[int, ...]:
        shape = (self.b.shape[0], self.a.shape[-1])
        shape = shape[::-1] if self.transposed else shape
        return (self.experts, *shape) if self.experts else shape

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(left, right) in fp32; of a stack (experts, rows, rank) and (experts, rank, columns), in peft's order."""
        a, b = self.a.read().float(), self.b.read().float()
        if self.experts:
            a = a.reshape(self.experts, -1, a.shape[-1])
            b = b.reshape(b.shape[0], -1, self.experts).permute(2, 0, 1)
        return (a.mT, b.mT) if self.transposed else (b, a)

    def product(self) -> torch.Tensor:
        left, right = self.factors()
        return (left @ right).mul_(self.scale)


def read(folder: str | Path, layout: Layout) -> tuple[dict[str, Delta], dict[str, TensorRef], dict[str, Any]]:
    """An adapter, by the parameters of the model that it changes.

    Returns:
        (deltas, replaced, config): what is added to which parameter; tensors that take a parameter's place whole
        (modules_to_save, biases, embeddings); adapter_config.json. An adapter of transformers 4 may name what was
        a layer then and is a tensor on disk still: such names stay as they are.
    Raises:
        InputError: not LoRA, LoRA with something that cannot be added to a weight, or numbers that are not finite.
    """
    folder = Path(folder)
    config = read_config(folder)
    factors: dict[tuple[str, bool], dict[str, TensorRef]] = {}  # (path, of an embedding?) → "A" and "B"
    replaced: dict[str, TensorRef] = {}
    problems = []
    for key, stored in tensors_of(folder, "adapter_model").items():
        name = key.removeprefix("base_model.model.")
        if not torch.isfinite(stored.read()).all():
            problems.append(f"{folder}: {key} holds NaN or infinity: its training diverged; train again")
        if match := _FACTOR.fullmatch(name):
            factors.setdefault((match[1], bool(match[2])), {})[match[3]] = stored
        elif "lora_" in name or "token_adapter" in name:
            problems.append(f"{folder}: {key} is not a plain LoRA factor and cannot be merged")
        else:
            replaced[name.replace(".base_layer.", ".")] = stored
    deltas = {}
    for (path, embedding), pair in factors.items():
        if pair.keys() != {"A", "B"}:
            problems.append(f"{folder}: {path} has only lora_{''.join(pair)}")
            continue
        a, b = pair["A"], pair["B"]
        if len(a.shape) != 2 or len(b.shape) != 2 or b.shape[1] != a.shape[0]:
            problems.append(f"{folder}: lora_A {list(a.shape)} and lora_B {list(b.shape)} of {path} do not multiply")
            continue
        name, delta = _change(path, a, b, config, layout, embedding)
        deltas[name] = delta
    if not deltas and not replaced:
        problems.append(f"{folder} has no LoRA weights")
    if problems:
        raise InputError(cli.shorten(problems))
    return deltas, replaced, config


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json; InputError where it says something that cannot be merged into weights."""
    config = read_json(folder / "adapter_config.json")
    extra = sorted(name for name, value in config.items() if value and name not in _KNOWN_SETTINGS)
    problems = [f"{folder}: {name} is on in adapter_config.json and cannot be merged into weights" for name in extra]
    if config.get("peft_type") != "LORA":
        problems.append(f"{folder} is a {config.get('peft_type')} adapter; only LORA is merged")
    if config.get("init_lora_weights", True) not in SUPPORTED_INITS:
        problems.append(
            f"{folder}: init_lora_weights={config['init_lora_weights']} changed the base's weights as well; save the "
            "adapter with peft's path_initial_model_for_weight_conversion first"
        )
    if problems:
        raise InputError(problems)
    return config


def _change(
    path: str, a: TensorRef, b: TensorRef, config: dict[str, Any], layout: Layout, embedding: bool
) -> tuple[str, Delta]:
    """(parameter, what is added to it) of a pair of factors that peft saved under `path`."""
    from peft.utils.other import get_pattern_key
    from transformers.pytorch_utils import Conv1D

    name, key, experts = _parameter(path, layout, config.get("target_parameters") or [])
    module = _module(layout, name.rpartition(".")[0])
    transposed = getattr(module, "is_transposed", False) if experts else embedding or isinstance(module, Conv1D)
    patterns = config.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(patterns.keys(), key), config["lora_alpha"])
    rank = a.shape[0] // (experts or 1)
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return name, Delta(a, b, scale, transposed, experts)


def _parameter(path: str, layout: Layout, target_parameters: list[str]) -> tuple[str, str, int]:
    """(parameter, its name in peft's patterns, experts that it stacks or 0) of what peft saved under `path`.

    A parameter that is adapted by itself (`target_parameters`: stacked experts) is saved under its module, and where
    there are several in one module, under one more `.base_layer` for each, the first innermost.
    """
    module_path, depth = path.replace(".base_layer", ""), path.count(".base_layer")
    module = _module(layout, module_path)
    parameters = dict(module.named_parameters(prefix=module_path, recurse=False)) if module else {}
    targets = [name for name in parameters if any(f".{name}".endswith(f".{target}") for target in target_parameters)]
    if depth >= len(targets):
        return f"{path}.weight", path, 0
    name = targets[-1 - depth]
    return name, name, parameters[name].shape[0] if parameters[name].dim() == 3 else 0


def _module(layout: Layout, path: str) -> torch.nn.Module | None:
    try:
        return layout.model.get_submodule(path)
    except AttributeError:  # an adapter of another model, or of transformers 4
        return None
