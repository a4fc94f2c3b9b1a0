"""What a run will need, before any weight is loaded: parameters, memory and disk, in bytes.

The memory figure is an estimate, good to about a quarter: weights, the adapter with its gradients and optimizer
state, activations of one forward pass, and what the loss holds of the logits. The terms were read from the
libraries' source, or measured where that is said.
"""

from dataclasses import dataclass

import numpy as np
import psutil
import torch

from sllm import checkpoint
from sllm.cli import InputError, table
from sllm.train import arguments, targets
from sllm.train.with_peft import resolve_dtype

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)  # an 8-bit scale for 64 weights, and a 32-bit one for 256 such scales
# Bytes of optimizer state for each trained weight; AdamW in fp32 otherwise.
OPTIMIZER_BYTES = {"8bit": 2, "4bit": 1, "adafactor": 0, "sgd": 0, "lion": 4, "rmsprop": 4, "adagrad": 4}
SFT_CHUNK = 256  # tokens, trl.trainer.sft_trainer._CHUNKED_LM_HEAD_CHUNK_SIZE
SFT_BYTES = 16  # a token of a chunk × vocabulary: measured with TRL's _chunked_cross_entropy_loss, float32 and bfloat16
FUSED_BYTES = 16  # unsloth_zoo.fused_losses.cross_entropy_loss._CE_BYTES_PER_LOGIT
FUSED_LIMIT = 4 * 2**30  # the same, _CE_TARGET_GB_CAP: a chunk takes half of the free memory, 4 GiB at most
# TRL's DPO loss, a token × vocabulary: the policy's logits, their gradient and its unsliced copy, each in fp32, as
# accelerate returns logits; as many in the forward pass, with the reference's. Measured on a CPU in both precisions.
DPO_BYTES = 12
# The same loss in chunks: tokens × entries of the vocabulary (trl.trainer.utils._ChunkedLogProbFunction), and bytes of
# each: measured in both precisions
DPO_CHUNK, DPO_CHUNK_BYTES = 2048 * 8192, 24


@dataclass(frozen=True)
class MemoryEstimate:
    parameters: int
    targets: list[str]  # what peft and unsloth take as `target_modules`
    adapted: list[str]  # the path of every layer that they stand for
    adapter_parameters: int
    weights: int
    adapter: int
    activations: int
    logits: int
    disk: int
    available: int

    @property
    def memory(self) -> int:
        return self.weights + self.adapter + self.activations + self.logits


def estimate(
    args, base: str, adapter: str | None = None, *, tokens_per_batch: int, num_adapters: int, backend: str
) -> MemoryEstimate:
    """What a run needs, from the base's config alone.

    Args:
        tokens_per_batch: tokens of one forward pass, padding included.
        num_adapters: adapters held in memory (2 for DPO with its reference).
        adapter: the folder of the adapter that is trained further; None: a fresh one.
        backend: peft or unsloth; they hold quantised models and logits differently.
    Raises:
        InputError: the config cannot be read, or a target module is not in the model.
    """
    from transformers import AutoModelForCausalLM

    config = model_config(base)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    adapted = targets.of_adapter(adapter, model) if adapter else []
    names, adapted = ([], adapted) if adapted else targets.resolve(model, args.lora_target_modules)
    modules = dict(model.named_modules())
    width, text = resolve_dtype(args.dtype).itemsize, config.get_text_config()
    # a linear layer's weight is (out, in), or (in, out): A is (rank, in) and B (out, rank)
    trained = args.lora_r * sum(sum(modules[path].weight.shape) for path in adapted)
    optimizer = arguments.optimizer(args)
    state = next((size for kind, size in OPTIMIZER_BYTES.items() if kind in optimizer), 8)
    weights = weight_bytes(model, args.bits, width, backend)
    # weights and gradients in fp32; a reference has no gradient
    adapter_bytes = trained * (8 + state + 4 * (num_adapters - 1))
    available = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else psutil.virtual_memory().available
    room = available - weights - adapter_bytes
    return MemoryEstimate(
        parameters=sum(weight.numel() for weight in model.parameters()),
        targets=names,
        adapted=adapted,
        adapter_parameters=trained,
        weights=weights,
        adapter=adapter_bytes,
        activations=tokens_per_batch * _activation_numbers(text, arguments.gradient_checkpointing(args)) * width,
        logits=logits_bytes(
            tokens_per_batch,
            text.vocab_size,
            backend,
            num_adapters=num_adapters,
            room=room,
            whole=targets.adapts_output(adapted) or getattr(args, "precompute_ref_log_probs", False),
        ),
        disk=trained * (4 + (4 * num_adapters + state) * (args.save_total_limit + 1)),
        available=available,
    )


def batch_tokens(batch_size: int, lengths: np.ndarray, *, flat: bool, packed_to: int | None = None) -> int:
    """Tokens of the largest forward pass of `batch_size` rows that these can make, by their `lengths`; packed rows are
    all full."""
    if packed_to:
        return batch_size * packed_to
    longest = np.sort(lengths)[::-1][:batch_size]
    return int(longest.sum() if flat else longest[0] * len(longest))


def weight_bytes(model, bits: int, width: int, backend: str) -> int:
    """Bytes of the loaded model. Tied weights are one.

    In 4 and 8 bits only linear layers but the head are quantised; the rest keeps `width` bytes with unsloth, and 4 with
    peft, whose prepare_model_for_kbit_training casts it to fp32.
    """
    total = sum(weight.numel() for weight in model.parameters())
    if bits == 16:
        return total * width
    head = model.get_output_embeddings()
    outer = {weight for module in (head, model.get_input_embeddings()) if module for weight in module.parameters()}
    linear = {module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)}
    quantised = sum(weight.numel() for weight in linear - outer)
    rest = (total - quantised) * (4 if backend == "peft" else width)
    return round(quantised * (NF4_BITS if bits == 4 else 8) / 8) + rest


def logits_bytes(
    tokens: int, vocabulary: int, backend: str, *, num_adapters: int, room: int, whole: bool = False
) -> int:
    """What the loss holds at its peak: the logits of a chunk, or with unsloth's DPO those of all tokens.

    Args:
        room: memory left beside weights and adapter; unsloth sizes its chunks by it.
        whole: DPO with peft cannot work in chunks either, see sllm.train.trainers.
    """
    if num_adapters > 1 and (whole or backend == "unsloth"):
        return tokens * vocabulary * DPO_BYTES
    if num_adapters > 1:
        return min(tokens * vocabulary, DPO_CHUNK) * DPO_CHUNK_BYTES
    if backend == "unsloth":
        return min(tokens * vocabulary * FUSED_BYTES, FUSED_LIMIT, max(room // 2, 0))
    return min(tokens, SFT_CHUNK) * vocabulary * SFT_BYTES


def _activation_numbers(text, checkpointing: bool) -> int:
    """Numbers kept of one token: a hidden state a layer with checkpointing; without it about 16 and the MLP's three."""
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    return text.num_hidden_layers * (text.hidden_size if checkpointing else 16 * text.hidden_size + 3 * inner)


def max_length(args, base: str) -> int:
    """--max_seq_length, capped by the positions that the model has."""
    return min(args.max_seq_length, context_length(base) or args.max_seq_length)


def context_length(base: str) -> int | None:
    """Tokens that the model has positions for; None where its config does not say."""
    return getattr(model_config(base).get_text_config(), "max_position_embeddings", None)


def model_config(base: str):
    """The base's config; InputError where there is none, as in a Hub repository that holds only an adapter."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{base}: no model config can be read ({str(error).splitlines()[0]}); an adapter on the Hub has to be "
            "downloaded first, and named by its folder"
        ) from None


def require_fit(estimate: MemoryEstimate) -> None:
    """InputError where a run needs more memory than there is, by the estimate."""
    if estimate.memory > estimate.available:
        needed, available = checkpoint.gib(estimate.memory), checkpoint.gib(estimate.available)
        raise InputError(
            f"this run needs about {needed} of memory, and {available} are available; try a smaller --batch_size or "
            "--max_seq_length, and on a GPU --bits 4"
        )


def format_table(estimate: MemoryEstimate, rows: list[tuple[str, str]]) -> str:
    """What will be trained, then what it needs, as a table."""
    gib = checkpoint.gib
    fits = "fits" if estimate.memory <= estimate.available else "exceeds available memory"
    adapter = f"adapter {estimate.adapter_parameters / 1e6:,.2f} M"
    rows = [
        *rows,
        ("model", f"{estimate.parameters / 1e6:,.1f} M parameters, {adapter}"),
        ("adapter on", targets.summary(estimate.adapted)),
        ("memory (estimate)", f"{gib(estimate.memory)} of {gib(estimate.available)}: {fits}"),
        ("  weights", gib(estimate.weights)),
        ("  adapter + optimizer", gib(estimate.adapter)),
        ("  activations", gib(estimate.activations)),
        ("  logits", gib(estimate.logits)),
        ("disk", gib(estimate.disk)),
    ]
    return table(["plan", ""], rows)
