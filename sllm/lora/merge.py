"""An adapter into 16-bit weights, tensor by tensor: base shards in, merged shards out, no model in between.

W' = W + scale · B · A is computed in fp32 on blocks of rows and rounded once. What is held at a time is one block
of rows and the two factors of one layer.
"""

import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from sllm.cli import InputError
from sllm.lora.shards import Stored, shortened, tensors_of, write_file

HEAD = "lm_head"  # the output layer that shares its weight with the embedding where a config ties them
_FACTOR = re.compile(r"(.+)\.lora_(?:(embedding)_)?([AB])(?:\.weight)?")
# What the arithmetic below knows. Anything else that is switched on in adapter_config.json changes what the
# adapter computes (DoRA, aLoRA, new tokens, …), so it is refused by not being here.
_KNOWN_SETTINGS = set(
    "peft_type auto_mapping peft_version base_model_name_or_path revision task_type inference_mode r target_modules "
    "exclude_modules lora_alpha lora_dropout fan_in_fan_out bias use_rslora modules_to_save init_lora_weights "
    "layers_to_transform layers_pattern rank_pattern alpha_pattern megatron_core qalora_group_size eva_config "
    "ensure_weight_tying".split()
)
_KNOWN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # the rest change the base's weights too


@dataclass(frozen=True)
class Delta:
    """What LoRA adds to a weight: scale · left @ right, (rows, rank) @ (rank, columns)."""

    a: Stored
    b: Stored
    scale: float
    transposed: bool  # embeddings, and layers that store (in, out)

    @property
    def shape(self) -> tuple[int, int]:
        shape = (self.b.shape[0], self.a.shape[-1])
        return shape[::-1] if self.transposed else shape

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = self.a.read().float(), self.b.read().float()
        return (a.T, b.T) if self.transposed else (b, a)


@dataclass(frozen=True)
class Piece:
    """One tensor of the merged model: where its values come from and what is added to them."""

    name: str
    source: Stored
    delta: Delta | None
    dtype: torch.dtype

    @property
    def size(self) -> int:
        return math.prod(self.source.shape) * self.dtype.itemsize

    @property
    def rounded(self) -> bool:
        return self.delta is not None or self.source.dtype != self.dtype


@dataclass(frozen=True)
class Plan:
    files: dict[str, list[Piece]]  # file name → tensors, in the order they are written
    dtype: torch.dtype
    untied: bool  # the output layer gets a weight of its own

    @property
    def pieces(self) -> list[Piece]:
        return [piece for pieces in self.files.values() for piece in pieces]

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)

    @property
    def parameters(self) -> int:
        return sum(math.prod(piece.source.shape) for piece in self.pieces)


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────


def read_adapter(folder: str | Path) -> tuple[dict[str, Delta], dict[str, Stored], dict]:
    """A peft LoRA adapter.

    Returns:
        (deltas, replaced, config): what is added to which weight, by tensor name; tensors that take the base's
        place whole (modules_to_save, biases, embeddings); adapter_config.json.
    Raises:
        InputError: not LoRA, or LoRA with something that cannot be added to a weight.
    """
    from peft.utils.other import get_pattern_key

    folder = Path(folder)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    extra = sorted(name for name, value in config.items() if value and name not in _KNOWN_SETTINGS)
    problems = [f"{folder}: {name} is on in adapter_config.json and cannot be merged into weights" for name in extra]
    if config.get("peft_type") != "LORA":
        problems.append(f"{folder} is a {config.get('peft_type')} adapter; only LORA is merged")
    if config.get("init_lora_weights", True) not in _KNOWN_STARTS:
        problems.append(
            f"{folder}: init_lora_weights={config['init_lora_weights']} changed the base's weights as well; save the "
            "adapter with peft's path_initial_model_for_weight_conversion first"
        )
    if problems:
        raise InputError(problems)
    halves: dict[tuple[str, bool], dict[str, Stored]] = {}
    replaced: dict[str, Stored] = {}
    for key, stored in tensors_of(folder, "adapter_model").items():
        name = key.removeprefix("base_model.model.")
        if factor := _FACTOR.fullmatch(name):
            halves.setdefault((factor[1], bool(factor[2])), {})[factor[3]] = stored
        elif "lora_" in name or "token_adapter" in name:
            problems.append(f"{folder}: {key} is no plain LoRA factor and cannot be merged")
        else:
            replaced[name.replace(".base_layer.", ".")] = stored
    deltas = {}
    for (module, embedding), half in halves.items():
        if half.keys() != {"A", "B"}:
            problems.append(f"{folder}: {module} has only lora_{''.join(half)}")
            continue
        a, b = half["A"], half["B"]
        rank = a.shape[0]
        if len(a.shape) != 2 or len(b.shape) != 2 or b.shape[1] != rank:
            problems.append(f"{folder}: lora_A {list(a.shape)} and lora_B {list(b.shape)} of {module} do not multiply")
            continue
        patterns = config.get("alpha_pattern") or {}
        alpha = patterns.get(get_pattern_key(patterns.keys(), module), config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        deltas[f"{module}.weight"] = Delta(a, b, scale, embedding or bool(config.get("fan_in_fan_out")))
    if not deltas and not replaced:
        problems.append(f"{folder} holds no LoRA weights")
    if problems:
        raise InputError(shortened(problems))
    return deltas, replaced, config


# ── planning and writing ───────────────────────────────────────────────────────────────────────────────────


def plan(base: str | Path, adapter: str | Path, dtype: torch.dtype | None, max_shard: float | None = None) -> Plan:
    """Which tensor goes where, checked in full before a byte is written.

    Args:
        dtype: of the merged weights; None keeps the base's where it has 16 bits, else bfloat16.
        max_shard: bytes of one file; None keeps the base's own layout.
    Raises:
        InputError: a quantised base; an adapter tensor without its base weight, or of another shape.
    """
    base = Path(base)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if config.get("quantization_config"):
        raise InputError(f"base {base} is quantised; name the 16-bit model that it was made from: --base_model")
    sources = tensors_of(base)
    deltas, replaced, settings = read_adapter(adapter)
    if dtype is None:
        kinds = {stored.dtype for stored in sources.values() if len(stored.shape) > 1}
        dtype = torch.float16 if kinds == {torch.float16} else torch.bfloat16

    untied = _untie(config, settings, sources, deltas, replaced)
    shapes = {name: delta.shape for name, delta in deltas.items()} | {n: s.shape for n, s in replaced.items()}
    missing = [f"the adapter changes {name}, which base {base} does not have" for name in shapes if name not in sources]
    unequal = [
        f"{name}: {list(sources[name].shape)} in base {base}, {list(shape)} in the adapter"
        for name, shape in shapes.items()
        if name in sources and sources[name].shape != shape
    ]
    if missing or unequal:
        mend = f"{adapter} was trained on another base; name that one: --base_model"
        raise InputError([*shortened(missing), *shortened(unequal), mend])

    files: dict[str, list[Piece]] = {}
    for name, stored in sorted(sources.items(), key=lambda item: (item[1].path.name, item[1].start)):
        # a tensor of whole numbers (a buffer) stays as it is
        target = dtype if stored.dtype.is_floating_point else stored.dtype
        piece = Piece(name, replaced.get(name, stored), deltas.get(name), target)
        files.setdefault(stored.path.name, []).append(piece)
    return Plan(_reshard(files, max_shard) if max_shard else files, dtype, untied)


def _untie(config: dict, settings: dict, sources: dict, deltas: dict, replaced: dict) -> bool:
    """A tied model whose adapter changes the embedding or the output layer, but not both alike, needs two weights.
    The output layer then starts from the embedding's values; `sources` gets its entry."""
    tied = config.get("tie_word_embeddings", (config.get("text_config") or {}).get("tie_word_embeddings", False))
    head = f"{HEAD}.weight"
    embedding = next((name for name in sources if name.endswith(("embed_tokens.weight", "wte.weight"))), None)
    if not tied or head in sources or embedding is None:
        return False
    changed = {name for name in (head, embedding) if name in deltas or name in replaced}
    if settings.get("ensure_weight_tying") and embedding in changed:  # peft trained one weight for both
        deltas.pop(head, None)
        replaced.pop(head, None)
        return False
    if changed:
        sources[head] = sources[embedding]
    return bool(changed)


def _reshard(files: dict[str, list[Piece]], limit: float) -> dict[str, list[Piece]]:
    shards: list[list[Piece]] = [[]]
    for piece in (piece for pieces in files.values() for piece in pieces):
        if shards[-1] and sum(p.size for p in shards[-1]) + piece.size > limit:
            shards.append([])
        shards[-1].append(piece)
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {f"model-{i:05}-of-{len(shards):05}.safetensors": shard for i, shard in enumerate(shards, 1)}


def write(plan: Plan, folder: str | Path) -> None:
    """Write the shards and their index, one line a shard.

    Raises:
        InputError: a merged weight that is not finite, such as one beyond float16's range; the tensor is named.
    """
    folder, started, done = Path(folder), time.monotonic(), 0
    for number, (name, pieces) in enumerate(plan.files.items(), 1):
        write_file(folder / name, [(p.name, p.dtype, p.source.shape, _blocks(p)) for p in pieces])
        size = sum(piece.size for piece in pieces)
        done += size
        seconds = time.monotonic() - started
        print(
            f"shard {number}/{len(plan.files)} | {name} | {size / 2**20:,.0f} MiB | {done / 2**20 / seconds:,.0f} MiB/s"
            f" | ETA {seconds / done * (plan.size - done):.0f} s"
        )
    if list(plan.files) != ["model.safetensors"]:
        weight_map = {piece.name: name for name, pieces in plan.files.items() for piece in pieces}
        index = {"metadata": {"total_parameters": plan.parameters, "total_size": plan.size}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _blocks(piece: Piece) -> Iterator[torch.Tensor]:
    """The merged tensor in blocks of rows: fp32 arithmetic, rounded once."""
    left, right = piece.delta.factors() if piece.delta else (None, None)
    for first, last in piece.source.blocks():
        block = piece.source.read(first, last)
        if piece.rounded:
            block = block.float()
            if piece.delta:
                block.addmm_(left[first:last], right, alpha=piece.delta.scale)
            largest = block.abs().max().item() if block.numel() else 0.0
            block = block.to(piece.dtype)
            if not torch.isfinite(block).all():
                kind = str(piece.dtype).removeprefix("torch.")
                mend = "; merge with --dtype bfloat16" if math.isfinite(largest) else ": the adapter or base is broken"
                raise InputError(f"{piece.name}: a merged weight of {largest:.4g} does not fit {kind}{mend}")
        yield block
