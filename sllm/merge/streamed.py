"""A model that computes while its weights stay on disk, with peft's adapter on it or without.

It is built without weights; a layer's weights are read from the shards while it computes, block by block, and dropped.
So memory follows the largest block (and the adapter), however large the model is. A parameter that transformers makes
of several tensors (stacked experts) is made as it does, whole, for the time that its layer computes: there memory
follows the largest of those. All in fp32.
"""

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sllm.weights.layout import Layout


class StreamedModel:
    """A causal language model in fp32 whose weights stay on disk; peft's own layers on top where there is an adapter.

    Raises:
        InputError: the folder's tensors are not the model's parameters, by transformers' rules of loading.
    """

    def __init__(self, folder: str | Path, device: torch.device, *, adapter: str | Path | None = None):
        self.layout = Layout(folder)
        self.stored = self.layout.stored
        self.device, self.adapted = device, True
        self.dtype: torch.dtype | None = None
        self.lora: dict[tuple[nn.Module, str], Any] = {}  # peft's layers
        model = self._make_placeholders(self.layout.model)
        if adapter:
            from peft import PeftModel

            places = {(module, key): p for module in model.modules() for key, p in module._parameters.items()}
            # low_cpu_mem_usage: the adapter's weights are assigned as they are read, not copied over random ones
            model = PeftModel.from_pretrained(model, adapter, low_cpu_mem_usage=True, torch_device=str(device))
            # parameters that the adapter replaces in their own layer: biases, which peft does not put back
            self.own = {
                place: self.tensor_names[p] for place, p in places.items() if place[0]._parameters[place[1]] is not p
            }
        else:
            self.own = {}
        self.model = model.eval()
        self._bypass_parameter_wrappers()
        for module in model.modules():
            weights = {key: self.tensor_names[p] for key, p in module._parameters.items() if p in self.tensor_names}
            weights |= {key: name for (owner, key), name in self.own.items() if owner is module}
            if weights:
                self._stream(module, weights)

    def logits(self, rows: list[list[int]], *, adapted: bool = True) -> list[torch.Tensor]:
        """Logits of each row of token ids, (seq, vocab) in fp32; `adapted=False`: of the base alone. Padding stands on
        the right, where a causal model does not look, so neither an attention mask nor positions are needed."""
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)  # (rows, longest)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        self.adapted = adapted
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*disabling adapter layers with bias")  # `_own` puts the base's back
            with nullcontext() if adapted else self.model.disable_adapter():
                out = self.model(input_ids=ids.to(self.device), use_cache=False).logits
        return [out[i, : len(row)] for i, row in enumerate(rows)]

    @property
    def size(self) -> int:
        """Bytes of all tensors on disk."""
        return sum(stored.size for stored in self.stored.values())

    def merge_and_round(self, dtype: torch.dtype) -> None:
        """From now on the adapter is in the weights, as peft computes it, and every weight is rounded to `dtype`."""
        from peft.tuners.lora import LoraLayer

        self.dtype = dtype
        for module in self.model.modules():
            if isinstance(module, LoraLayer) and not hasattr(module, "parameter_name"):
                module.enable_adapters(False)
                layer = module.get_base_layer()
                if layer.weight in self.tensor_names:
                    self.lora[layer, "weight"] = module
                else:  # an embedding, which peft saves whole beside its factors
                    layer.weight.data += module.get_delta_weight(module.active_adapter[0])
        for name, parameter in self.model.named_parameters():
            if parameter not in self.tensor_names and "lora_" not in name:  # a layer that the adapter replaces whole
                parameter.data = parameter.data.to(dtype).float()

    def _make_placeholders(self, model: nn.Module) -> nn.Module:
        """Put in place of every parameter one zero, stretched to its shape: the device, dtype and shape that peft looks
        for, and no memory. `tensor_names` has the parameter's name of each; tied parameters stay one object. Buffers
        that are saved with a model are read."""
        known = self.layout.tensor_names.keys() | self.layout.groups.keys()
        names = {p: name for name, p in model.named_parameters(remove_duplicate=False) if name in known}
        zero = torch.zeros((), device=self.device)
        hollow = {p: nn.Parameter(zero.expand(p.shape), requires_grad=False) for p in names}
        for path, module in model.named_modules():
            module._parameters.update({key: hollow[p] for key, p in module._parameters.items() if p is not None})
            for key, buffer in module._buffers.items():
                home = self.layout.tensor_names.get(f"{path}.{key}")
                if buffer is not None:
                    module._buffers[key] = (self.stored[home].read().to(buffer) if home else buffer).to(self.device)
        self.tensor_names = {hollow[p]: name for p, name in names.items()}
        return model

    def _bypass_parameter_wrappers(self) -> None:
        """peft adapts a bare parameter (`target_parameters`) by a parametrization, which would not see the weights that
        are read meanwhile. Its delta, as it computes it, is added to them instead."""
        from peft.tuners.lora.layer import ParamWrapper

        for wrapper in self.model.modules():
            if isinstance(wrapper, ParamWrapper):
                self.lora[wrapper.get_base_layer(), wrapper.parameter_name] = wrapper
                wrapper.forward = wrapper.get_base_layer().__call__  # with its hooks, past wrappers inside

    def _delta(self, module: nn.Module, key: str) -> torch.Tensor | None:
        layer = self.lora.get((module, key)) if self.adapted else None
        return layer.get_delta_weight(layer.active_adapter[0]) if layer else None

    def _fetch(
        self, name: str, first: int = 0, last: int | None = None, delta: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Rows of a parameter, in fp32, with the adapter's `delta` (of the whole parameter) and rounding, if any."""
        if name in self.layout.tensor_names:
            block = self.stored[self.layout.tensor_names[name]].read(first, last).to(self.device).float()
        else:
            group, model = self.layout.groups[name], self.layout.model
            made = group.parameters_of(model, lambda source: self.stored[source].read())
            block = made[name][first:last].to(self.device).float()
        if delta is not None:
            block += delta[first:last]
        return block if self.dtype is None else block.to(self.dtype).float()

    def _own(self, module: nn.Module, key: str, name: str) -> torch.Tensor:
        """A small parameter of a layer: the adapter's where it has one, else what is on disk."""
        if (module, key) in self.own and self.adapted:
            return module._parameters[key]
        return self._fetch(name, delta=self._delta(module, key))

    def _stream(self, module: nn.Module, weights: dict[str, str]) -> None:
        """Make `module` read its weights when it computes: plain linear layers by blocks of rows, plain embeddings
        by the rows that are looked up, anything else (norms, experts) whole, for the time of its forward."""
        own = (module, "weight") in self.own
        plain = "" if own else self.layout.tensor_names.get(weights.get("weight", ""), "")

        def linear(x: torch.Tensor) -> torch.Tensor:
            stored, added = self.stored[plain], self._delta(module, "weight")
            out = x.new_empty(*x.shape[:-1], stored.shape[0])
            for first, last in stored.blocks():
                out[..., first:last] = functional.linear(x, self._fetch(weights["weight"], first, last, added))
            return out + self._own(module, "bias", weights["bias"]) if "bias" in weights else out

        def embedding(ids: torch.Tensor) -> torch.Tensor:
            used, places = ids.unique(return_inverse=True)
            added = self._delta(module, "weight")
            rows = [self._fetch(weights["weight"], row, row + 1, added) for row in used.tolist()]
            return functional.embedding(places, torch.cat(rows))

        def load(module: nn.Module, *_: object) -> None:
            for key, name in weights.items():
                kept[key] = module._parameters[key]
                module._parameters[key] = nn.Parameter(self._own(module, key, name), requires_grad=False)

        def drop(module: nn.Module, *_: object) -> None:
            module._parameters.update(kept)

        kept: dict[str, nn.Parameter] = {}
        if type(module) is nn.Linear and plain:
            module.forward = linear
        elif type(module) is nn.Embedding and plain:
            module.forward = embedding
        else:
            module.register_forward_pre_hook(load)
            module.register_forward_hook(drop)
