"""Which tensors on disk a model's parameters come from, by transformers' own rules of loading.

Most parameters are one tensor under the same name. Some have another name on disk (GPT-NeoX's output layer, the
language model inside Gemma 3), and some are made of several tensors (the experts of Mixtral or Qwen3-MoE: stacked in
memory, apart on disk). A change of such a parameter has to be written to those tensors. Only headers are read here.
"""

import re
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sllm import cli, hashes
from sllm.cli import InputError
from sllm.weights.safetensors_io import read_json, tensors_of


@dataclass(eq=False)
class Group:
    """Parameters that transformers makes out of other tensors; `converter` is its recipe.

    That is transformers' own arithmetic of conversions; peft builds on the same functions (utils/
    transformers_weight_conversion.py), so they do not change without notice.
    """

    converter: Any
    key: str  # the parameter that transformers files the group under
    sources: dict[str, str] = field(default_factory=dict)  # tensor on disk → pattern of the converter that it matched
    parameters: dict[str, tuple[int, ...]] = field(default_factory=dict)  # parameter → shape

    def parameters_of(self, model: nn.Module, read: Callable[[str], torch.Tensor]) -> dict[str, torch.Tensor]:
        """The parameters, computed from the tensors that `read` returns by their names on disk."""
        recipe = deepcopy(self.converter)
        for name, pattern in self.sources.items():
            recipe.add_tensor(self.key, name, pattern, read(name))
        parameters = recipe.convert(self.key, model=model, config=model.config)
        return {name: tensor[0] if isinstance(tensor, list) else tensor for name, tensor in parameters.items()}


class Layout:
    """A base's model without weights, and where the weights of its parameters lie.

    Attributes:
        model: on the meta device, but for its buffers.
        stored: the tensors on disk by their names there.
        tensor_names: parameter (or saved buffer) → name on disk, where that is one tensor as it is.
        groups: parameter → the group that it is made with, for all others.
    Raises:
        InputError: no model can be built, or its parameters are not what the files hold.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.stored = tensors_of(folder)
        self.model = _build(self.folder)
        self.tensor_names: dict[str, str] = {}
        self.groups: dict[str, Group] = {}
        unknown = self._match()
        self._require_complete(unknown)
        embedding, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        self.embedding, self.head = _weight_name(self.model, embedding), _weight_name(self.model, head)
        self.tied = None not in (embedding, head) and embedding.weight is head.weight
        if self.tied and {self.head, self.embedding} <= self.tensor_names.keys():  # each has a tensor of its own
            head.weight = nn.Parameter(torch.empty_like(embedding.weight), requires_grad=False)
            self.tied = False

    def name_on_disk(self, parameter: str) -> str:
        """What transformers would call a parameter's tensor on disk; for one that is not there yet."""
        (name,) = self.tensors_on_disk({parameter: torch.empty(1, device="meta")})
        return name

    def tensors_on_disk(self, parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors as they stand on disk, computed back from the parameters that are made of them."""
        from transformers.core_model_loading import revert_weight_conversion

        return revert_weight_conversion(self.model, dict(parameters))

    def why_not_changeable(self, parameter: str) -> str | None:
        """The reason why a change of `parameter` could not be written to the base's tensors; None: it can."""
        if parameter in self.tensor_names or (self.tied and parameter in (self.head, self.embedding)):
            return None  # of a tied pair the merge writes both, where the adapter changes one
        group = self.groups.get(parameter)
        if group is None:
            return f"base {self.folder} does not have it"
        empty = {name: torch.empty(shape, device="meta") for name, shape in group.parameters.items()}
        try:
            shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors_on_disk(empty).items()}
        except Exception as error:  # any of transformers' operations, most of which are made for loading only
            return f"transformers cannot convert it back to {next(iter(group.sources))} ({_line(error)})"
        if shapes != {name: self.stored[name].shape for name in group.sources}:
            return f"transformers would save it under other names or shapes than those of base {self.folder}"
        return None

    def _match(self) -> set[str]:
        """Fill `tensor_names` and `groups` as transformers' loader does; returns the names on disk without one."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, dot_natural_key, rename_source_key

        rules = get_model_conversion_mapping(self.model)
        converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        renamings = [rule for rule in rules if not isinstance(rule, WeightConverter)]
        by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
        state = self.model.state_dict()
        unknown, groups = set(), {}
        for name in sorted(self.stored, key=dot_natural_key):
            parameter, pattern = rename_source_key(name, renamings, converters, self.model.base_model_prefix, state)
            if parameter not in state and name in state:
                parameter, pattern = name, None
            if parameter not in state:
                unknown.add(name)
            elif pattern is None:
                self.tensor_names[parameter] = name
            else:
                groups.setdefault(parameter, Group(by_pattern[pattern], parameter)).sources[name] = pattern
        # what to revert when a changed parameter is written; transformers keeps the same for its save_pretrained
        self.model._weight_conversions = [rule for rule in rules if rule.was_used()]
        for group in groups.values():
            self._add(group)
        return unknown

    def _add(self, group: Group) -> None:
        try:
            empty = group.parameters_of(self.model, lambda name: torch.empty(self.stored[name].shape, device="meta"))
        except Exception as error:  # shapes that do not go together raise whatever torch raises
            raise InputError(
                f"{self.folder}: {group.key} cannot be made of {next(iter(group.sources))} and its like "
                f"({_line(error)})"
            ) from None
        group.parameters = {name: tuple(tensor.shape) for name, tensor in empty.items()}
        self.groups |= dict.fromkeys(empty, group)

    def _require_complete(self, unknown: set[str]) -> None:
        shapes = {name: self.stored[tensor].shape for name, tensor in self.tensor_names.items()}
        for group in self.groups.values():
            shapes |= group.parameters
        aliases: dict[nn.Parameter, list[str]] = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            aliases.setdefault(parameter, []).append(name)
        problems = []
        for parameter, names in aliases.items():
            stored = [name for name in names if name in shapes]
            if not stored:
                problems.append(f"{self.folder} has no tensor {names[0]}, which config.json asks for")
            problems += [
                f"{self.folder}: {self.tensor_names.get(name, name)} is {list(shapes[name])} on disk and "
                f"{list(parameter.shape)} by its config.json"
                for name in stored
                if shapes[name] != tuple(parameter.shape)
            ]
        ignored = [*(self.model._keys_to_ignore_on_load_unexpected or []), "inv_freq$"]  # buffers of old versions
        problems += [
            f"{self.folder}: tensor {name} belongs to no layer that its config.json builds"
            for name in unknown
            if not any(re.search(pattern, name) for pattern in ignored)
        ]
        if problems:
            raise InputError(cli.shorten(sorted(problems)))


def require_mergeable(base: str | Path, layers: Iterable[str]) -> None:
    """Refuse, before it is trained, an adapter that could not be merged. Reads the config and the files' headers alone.

    Args:
        base: a folder, or a Hub id; of one that is not in the Hub's cache yet nothing is known, and nothing is said.
        layers: paths of the layers that will get an adapter, such as `model.layers.0.self_attn.q_proj`.
    Raises:
        InputError: the base's files do not fit its config, or a layer's change could not be written to them.
    """
    folder = _cached(base)
    if folder is None or read_json(folder / "config.json").get("quantization_config"):
        return  # a quantised base is merged into the 16-bit one that it was made from, which is named then
    layout = Layout(folder)
    reasons = {f"{layer}.weight": layout.why_not_changeable(f"{layer}.weight") for layer in layers}
    problems = [f"{name} could not be merged after training: {reason}" for name, reason in reasons.items() if reason]
    if problems:
        raise InputError(cli.shorten(problems))


def _cached(base: str | Path) -> Path | None:
    if Path(base).is_dir():
        return Path(base)
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(str(base), local_files_only=True))
    except (OSError, ValueError):
        return None
    return folder if hashes.has_all_weights(folder) else None  # the tokenizer comes before the weights


def _build(folder: Path) -> nn.Module:
    """The model that config.json describes, its parameters on the meta device."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    try:
        config = AutoConfig.from_pretrained(folder)
        with no_init_weights(), init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:  # a config is others' input, and each model class fails on its own way on a wrong one
        raise InputError(f"{folder}: no model can be built from its config.json ({_line(error)})") from None
    model.tie_weights()
    return model


def _weight_name(model: nn.Module, module: nn.Module | None) -> str:
    """Name of a module's weight in the model; empty for none."""
    return next((f"{name}.weight" for name, other in model.named_modules() if other is module), "")


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
