"""What a run will need, before any weight is loaded: parameters, memory and disk, in bytes.

The memory figure is an estimate, good to about a quarter: weights, the adapter with its gradients and two
AdamW moments, activations of one forward pass, and logits with their gradient.
"""

from dataclasses import dataclass

from sllm import checkpoint
from sllm.cli import InputError, table
from sllm.lora import targets


@dataclass(frozen=True)
class Plan:
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


def make(args, *, base: str, tokens_per_batch: int, copies: int) -> Plan:
    """Plan of a run from the base's config alone.

    Args:
        tokens_per_batch: tokens of one forward pass, padding included.
        copies: adapters held in memory (2 for DPO with its reference).
    Raises:
        InputError: the config cannot be read, or a target module is not in the model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = model_config(base)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    names, adapted = targets.resolve(model, args.lora_target_modules)
    modules = dict(model.named_modules())
    gpu = torch.cuda.is_available()
    width = 4 if args.dtype == "float32" or (args.dtype == "auto" and not gpu) else 2
    text = config.get_text_config()
    parameters = sum(weight.numel() for weight in model.parameters())
    # a linear layer's weight is (out, in), or (in, out): A is (rank, in) and B (out, rank)
    rank_parameters = sum(args.lora_r * sum(modules[path].weight.shape) for path in adapted)
    checkpointing = gpu if args.gradient_checkpointing is None else args.gradient_checkpointing
    # One hidden state a layer with checkpointing; without it about 16 of them, and the MLP's three.
    per_token = text.hidden_size * (1 if checkpointing else 16) + (0 if checkpointing else 3 * text.intermediate_size)
    return Plan(
        parameters=parameters,
        targets=names,
        adapted=adapted,
        adapter_parameters=rank_parameters,
        weights=parameters * width * args.bits // 16,
        adapter=rank_parameters * 4 * (3 + copies),
        activations=tokens_per_batch * text.num_hidden_layers * per_token * width,
        logits=tokens_per_batch * text.vocab_size * 4 * 2,
        disk=rank_parameters * 4 * (1 + 3 * (args.save_total_limit + 1)),
        available=_available_memory(torch),
    )


def max_length(args, base: str) -> int:
    """--max_seq_length, capped by the positions that the model has."""
    text = model_config(base).get_text_config()
    return min(args.max_seq_length, getattr(text, "max_position_embeddings", None) or args.max_seq_length)


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


def show(plan: Plan, rows: list[tuple[str, str]]) -> str:
    """The plan as a table: what will be trained, then what it needs."""
    fits = "fits" if plan.memory <= plan.available else "MORE THAN THERE IS"
    return table(
        ["plan", ""],
        [
            *rows,
            ("model", f"{plan.parameters / 1e6:,.1f} M parameters, adapter {plan.adapter_parameters / 1e6:,.2f} M"),
            ("adapter on", targets.said(plan.adapted)),
            ("memory (estimate)", f"{checkpoint.gib(plan.memory)} of {checkpoint.gib(plan.available)}: {fits}"),
            ("  weights", checkpoint.gib(plan.weights)),
            ("  adapter + optimizer", checkpoint.gib(plan.adapter)),
            ("  activations", checkpoint.gib(plan.activations)),
            ("  logits", checkpoint.gib(plan.logits)),
            ("disk", checkpoint.gib(plan.disk)),
        ],
    )


def _available_memory(torch) -> int:
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    import psutil

    return psutil.virtual_memory().available
