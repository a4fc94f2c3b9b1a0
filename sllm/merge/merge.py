"""An adapter into 16-bit weights, tensor by tensor: base shards in, merged shards out, no model in between.

W' = W + scale · B · A is computed in fp32 on blocks of rows and rounded once. Memory holds one block of rows and the
two factors of one layer. Where the adapter changes a parameter that is several tensors on disk (the stacked experts of
one layer), it holds all tensors of that parameter in fp32.
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from sllm import cli, finite
from sllm.cli import InputError
from sllm.merge.adapter import Delta, read
from sllm.weights.layout import Group, Layout
from sllm.weights.safetensors_io import TensorRef, read_json, write_file


@dataclass(frozen=True)
class GroupUpdate:
    """A change of parameters that are made of several tensors on disk: made, changed, and split again."""

    layout: Layout
    group: Group
    deltas: dict[str, Delta]  # by parameter; of the whole adapter
    replaced: dict[str, TensorRef]
    pending: dict[str, torch.Tensor] = field(default_factory=dict)  # tensors that wait to be written, by name on disk

    def take(self, name: str) -> torch.Tensor:
        """One changed tensor in fp32. All of the group are computed with the first, and each is handed out once."""
        if name not in self.pending:
            stored, model = self.layout.stored, self.layout.model
            parameters = self.group.parameters_of(model, lambda source: stored[source].read().float())
            for parameter in parameters:
                if parameter in self.replaced:
                    parameters[parameter] = self.replaced[parameter].read().float()
                if parameter in self.deltas:
                    parameters[parameter] += self.deltas[parameter].product()
            self.pending.update(self.layout.tensors_on_disk(parameters))
        return self.pending.pop(name).contiguous()


@dataclass(frozen=True)
class MergedTensor:
    """One tensor of the merged model: where its values come from and what is added to them."""

    name: str
    source: TensorRef
    delta: Delta | None
    dtype: torch.dtype
    group_update: GroupUpdate | None = None

    @property
    def size(self) -> int:
        return math.prod(self.source.shape) * int(self.dtype.itemsize)

    @property
    def changed(self) -> bool:
        return self.delta is not None or self.group_update is not None

    @property
    def rounded(self) -> bool:
        return self.changed or self.source.dtype != self.dtype


@dataclass(frozen=True)
class MergePlan:
    files: dict[str, list[MergedTensor]]  # file name → tensors, in the order they are written
    dtype: torch.dtype
    untied: bool  # the output layer gets a weight of its own

    @property
    def tensors(self) -> list[MergedTensor]:
        return list(chain.from_iterable(self.files.values()))

    @property
    def size(self) -> int:
        return sum(tensor.size for tensor in self.tensors)

    @property
    def group_memory(self) -> int:
        """About how many bytes the stacked parameters of one layer take while they are changed: in fp32, as they are
        read, as they are stacked, and as they wait to be written."""
        sizes: dict[str, int] = {}
        for group in {tensor.group_update.group for tensor in self.tensors if tensor.group_update}:
            layer = group.key.rpartition(".")[0]
            sizes[layer] = sizes.get(layer, 0) + sum(map(math.prod, group.parameters.values()))
        return 3 * 4 * max(sizes.values(), default=0)

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor.source.shape) for tensor in self.tensors)


# ── planning and writing ───────────────────────────────────────────────────────────────────────────────────


def plan(base: str | Path, adapter: str | Path, dtype: torch.dtype | None, max_shard: float | None = None) -> MergePlan:
    """Which tensor goes where, checked in full before a byte is written.

    Args:
        dtype: of the merged weights; None keeps the base's where it has 16 bits, else bfloat16.
        max_shard: bytes of one file; None keeps the base's own layout.
    Raises:
        InputError: a quantised base; files that do not fit its config; an adapter tensor without its base weight, of
            another shape, or of a parameter that cannot be split into the base's tensors.
    """
    base = Path(base)
    if read_json(base / "config.json").get("quantization_config"):
        raise InputError(f"base {base} is quantised; name the 16-bit model that it was made from: --base_model")
    layout = Layout(base)
    deltas, replaced, settings = read(adapter, layout)
    sources = layout.stored
    if dtype is None:
        matrices = {s.dtype for s in sources.values() if len(s.shape) > 1 and s.dtype.is_floating_point}
        dtype = torch.float16 if matrices == {torch.float16} else torch.bfloat16

    untied = _untie(layout, settings, deltas, replaced)
    shapes = {name: delta.shape for name, delta in deltas.items()} | {n: s.shape for n, s in replaced.items()}
    _require_fit(base, adapter, layout, shapes)
    group_updates: dict[str, GroupUpdate] = {}  # by name on disk
    for group in {layout.groups[name] for name in shapes if name in layout.groups}:
        group_updates |= dict.fromkeys(group.sources, GroupUpdate(layout, group, deltas, replaced))
    deltas = {layout.tensor_names.get(name, name): delta for name, delta in deltas.items()}
    replaced = {layout.tensor_names.get(name, name): stored for name, stored in replaced.items()}

    files: dict[str, list[MergedTensor]] = {}
    for name, stored in sorted(sources.items(), key=lambda item: (item[1].path.name, item[1].start)):
        # a tensor of whole numbers (a buffer) stays as it is
        merged_dtype = dtype if stored.dtype.is_floating_point else stored.dtype
        if name in group_updates:
            tensor = MergedTensor(name, stored, None, merged_dtype, group_updates[name])
        else:
            tensor = MergedTensor(name, replaced.get(name, stored), deltas.get(name), merged_dtype)
        files.setdefault(stored.path.name, []).append(tensor)
    return MergePlan(_reshard(files, max_shard) if max_shard else files, dtype, untied)


def _require_fit(base: Path, adapter: str | Path, layout: Layout, shapes: dict[str, tuple[int, ...]]) -> None:
    """InputError unless each change finds its parameter, in its shape, and can be written to the base's tensors."""
    missing, unequal, unchangeable = [], [], []
    for name, shape in shapes.items():
        tensor = layout.tensor_names.get(name, name)
        if name in layout.groups:
            base_shape = layout.groups[name].parameters[name]
        elif tensor in layout.stored:
            base_shape = layout.stored[tensor].shape
        else:
            missing.append(f"the adapter changes {name}, which base {base} does not have")
            continue
        if base_shape != shape:
            unequal.append(f"{name}: {list(base_shape)} in base {base}, {list(shape)} in the adapter")
        elif name in layout.groups and (reason := layout.why_not_changeable(name)):
            unchangeable.append(f"the adapter changes {name}: {reason}")
    hint = [f"{adapter} was trained on another base; name that one: --base_model"] if missing or unequal else []
    if missing or unequal or unchangeable:
        raise InputError([*cli.shorten(missing), *cli.shorten(unequal), *hint, *cli.shorten(unchangeable)])


def _untie(layout: Layout, settings: dict[str, Any], deltas: dict[str, Any], replaced: dict[str, Any]) -> bool:
    """Does the merged model keep two weights, for its embedding and its output layer, where the base ties them?

    It has to where the adapter changes one of them, or the two not alike. The output layer then starts from the
    embedding's values; `layout` gets its entry. A base that has both tensors on disk stays as it is.
    """
    if not layout.tied:
        return layout.head in layout.tensor_names and layout.embedding in layout.tensor_names
    changed = {name for name in (layout.head, layout.embedding) if name in deltas or name in replaced}
    if settings.get("ensure_weight_tying") and layout.embedding in changed:  # peft trained one weight for both
        deltas.pop(layout.head, None)
        replaced.pop(layout.head, None)
        return False
    if changed:
        shared = layout.stored[layout.tensor_names.get(layout.embedding) or layout.tensor_names[layout.head]]
        for name in (layout.head, layout.embedding):
            if name not in layout.tensor_names:
                layout.tensor_names[name] = layout.name_on_disk(name)
                layout.stored[layout.tensor_names[name]] = shared
    return bool(changed)


def _reshard(files: dict[str, list[MergedTensor]], limit: float) -> dict[str, list[MergedTensor]]:
    shards: list[list[MergedTensor]] = [[]]
    for tensor in chain.from_iterable(files.values()):
        if shards[-1] and sum(p.size for p in shards[-1]) + tensor.size > limit:
            shards.append([])
        shards[-1].append(tensor)
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {f"model-{i:05}-of-{len(shards):05}.safetensors": shard for i, shard in enumerate(shards, 1)}


def write(plan: MergePlan, folder: str | Path) -> None:
    """Write the shards and their index, one line a shard.

    Raises:
        InputError: a merged weight that is not finite, such as one beyond float16's range; the tensor is named.
    """
    folder, started, written = Path(folder), time.monotonic(), 0
    for number, (name, tensors) in enumerate(plan.files.items(), 1):
        write_file(folder / name, [(p.name, p.dtype, p.source.shape, blocks(p)) for p in tensors])
        size = sum(tensor.size for tensor in tensors)
        written += size
        speed = written / (time.monotonic() - started)  # bytes a second
        print(
            f"shard {number}/{len(plan.files)} | {name} | {size / 2**20:,.0f} MiB | {speed / 2**20:,.0f} MiB/s"
            f" | ETA {(plan.size - written) / speed:.0f} s"
        )
    if list(plan.files) != ["model.safetensors"]:
        weight_map = {tensor.name: name for name, tensors in plan.files.items() for tensor in tensors}
        index = {"metadata": {"total_parameters": plan.parameters, "total_size": plan.size}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def blocks(tensor: MergedTensor) -> Iterator[torch.Tensor]:
    """The merged tensor in blocks of rows: fp32 arithmetic, rounded once; nothing that is not finite."""
    updated = tensor.group_update.take(tensor.name) if tensor.group_update else None
    factors = tensor.delta.factors() if tensor.delta else None
    for first, last in tensor.source.blocks():
        block = tensor.source.read(first, last) if updated is None else updated[first:last]
        if tensor.rounded:
            block = block.float()
            if tensor.delta and factors:
                left, right = factors
                block.addmm_(left[first:last], right, alpha=tensor.delta.scale)
            largest = block.abs().max().item() if block.numel() else 0.0
            block = block.to(tensor.dtype)
        if not torch.isfinite(block).all() and not finite.may_be_infinite(tensor.source.shape):
            raise InputError(_not_finite(tensor, largest if tensor.rounded else math.nan))
        yield block


def _not_finite(tensor: MergedTensor, largest: float) -> str:
    if math.isfinite(largest):
        dtype = str(tensor.dtype).removeprefix("torch.")
        return f"{tensor.name}: a merged weight of {largest:.4g} does not fit {dtype}; merge with --dtype bfloat16"
    return f"{tensor.name} is broken: NaN or infinity in {tensor.source.path}; copy or download it again"
