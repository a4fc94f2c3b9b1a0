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
        self.lora: dict[tuple[nn.Module, str], Any] = {}  # peft's layers, by module and key of what they change
        self.replaced: dict[tuple[nn.Module, str], str] = {}  # biases of the adapter, which peft does not put back
        model = self.layout.model
        self._make_placeholders(model)
        if adapter:
            from peft import PeftModel

            before = {(module, key): p for module in model.modules() for key, p in module._parameters.items()}
            # low_cpu_mem_usage: the adapter's weights are assigned as they are read, not copied over random ones
            model = PeftModel.from_pretrained(model, adapter, low_cpu_mem_usage=True, torch_device=str(device))
            for (module, key), p in before.items():
                if module._parameters[key] is not p:
                    self.replaced[module, key] = self.parameter_names[p]
        self.model = model.eval()
        self._bypass_parameter_wrappers()
        for module in model.modules():
            names = {key: self.parameter_names[p] for key, p in module._parameters.items() if p in self.parameter_names}
            names |= {key: name for (owner, key), name in self.replaced.items() if owner is module}
            if names:
                self._stream(module, names)

    def logits(self, rows: list[list[int]], *, adapted: bool = True) -> list[torch.Tensor]:
        """Logits of each row of token ids, (seq, vocab) in fp32; `adapted=False`: of the base alone. Padding stands on
        the right, where a causal model does not look, so neither an attention mask nor positions are needed."""
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)  # (rows, longest)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        self.adapted = adapted
        with torch.no_grad(), warnings.catch_warnings():
            # of biases, in whose place `_parameter` puts the base's
            warnings.filterwarnings("ignore", ".*disabling adapter layers with bias")
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
                if layer.weight in self.parameter_names:
                    self.lora[layer, "weight"] = module
                else:  # an embedding, which peft saves whole beside its factors
                    layer.weight.data += module.get_delta_weight(module.active_adapter[0])
        for name, parameter in self.model.named_parameters():
            if parameter not in self.parameter_names and "lora_" not in name:  # a layer that the adapter replaces whole
                parameter.data = parameter.data.to(dtype).float()

    def _make_placeholders(self, model: nn.Module) -> None:
        """Put in place of every parameter one zero, stretched to its shape: the device, dtype and shape that peft looks
        for, and no memory. `parameter_names` has the name of each; tied parameters stay one object. Buffers that are
        saved with a model are read."""
        on_disk = self.layout.tensor_names.keys() | self.layout.groups.keys()
        names = {p: name for name, p in model.named_parameters(remove_duplicate=False) if name in on_disk}
        zero = torch.zeros((), device=self.device)
        placeholders = {p: nn.Parameter(zero.expand(p.shape), requires_grad=False) for p in names}
        for path, module in model.named_modules():
            module._parameters.update({key: placeholders[p] for key, p in module._parameters.items() if p is not None})
            for key, buffer in module._buffers.items():
                stored = self.stored.get(self.layout.tensor_names.get(f"{path}.{key}", ""))
                if buffer is not None:
                    module._buffers[key] = (stored.read().to(buffer) if stored else buffer).to(self.device)
        self.parameter_names = {placeholders[p]: name for p, name in names.items()}

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

    def _rows(
        self, name: str, first: int = 0, last: int | None = None, delta: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Rows of a parameter, in fp32, with the adapter's `delta` (of the whole parameter) and rounding, if any."""
        if name in self.layout.tensor_names:
            rows = self.stored[self.layout.tensor_names[name]].read(first, last)
        else:
            parameters = self.layout.groups[name].parameters_of(self.layout.model, lambda n: self.stored[n].read())
            rows = parameters[name][first:last]
        rows = rows.to(self.device).float()
        if delta is not None:
            rows += delta[first:last]
        return rows if self.dtype is None else rows.to(self.dtype).float()

    def _parameter(self, module: nn.Module, key: str, name: str) -> torch.Tensor:
        """A small parameter of a layer: the adapter's where it has one, else what is on disk."""
        if (module, key) in self.replaced and self.adapted:
            return module._parameters[key]
        return self._rows(name, delta=self._delta(module, key))

    def _stream(self, module: nn.Module, names: dict[str, str]) -> None:
        """Make `module` read its weights (key in the module → name of the parameter) when it computes: plain linear
        layers by blocks of rows, plain embeddings by the rows that are looked up, anything else (norms, experts) as
        full tensors, for the time of its forward."""
        weight = names.get("weight", "")
        tensor = "" if (module, "weight") in self.replaced else self.layout.tensor_names.get(weight, "")

        def linear(x: torch.Tensor) -> torch.Tensor:
            stored, delta = self.stored[tensor], self._delta(module, "weight")
            out = x.new_empty(*x.shape[:-1], stored.shape[0])
            for first, last in stored.blocks():
                out[..., first:last] = functional.linear(x, self._rows(weight, first, last, delta))
            return out + self._parameter(module, "bias", names["bias"]) if "bias" in names else out

        def embedding(ids: torch.Tensor) -> torch.Tensor:
            unique_ids, indices = ids.unique(return_inverse=True)
            delta = self._delta(module, "weight")
            rows = [self._rows(weight, row, row + 1, delta) for row in unique_ids.tolist()]
            return functional.embedding(indices, torch.cat(rows))

        def load(module: nn.Module, *_: object) -> None:
            for key, name in names.items():
                placeholders[key] = module._parameters[key]
                module._parameters[key] = nn.Parameter(self._parameter(module, key, name), requires_grad=False)

        def drop(module: nn.Module, *_: object) -> None:
            module._parameters.update(placeholders)

        placeholders: dict[str, nn.Parameter] = {}
        if type(module) is nn.Linear and tensor:
            module.forward = linear
        elif type(module) is nn.Embedding and tensor:
            module.forward = embedding
        else:
            module.register_forward_pre_hook(load)
            module.register_forward_hook(drop)
