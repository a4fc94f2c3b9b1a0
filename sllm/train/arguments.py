"""The command line of a training run: what the flags mean together, what this machine cannot do, and the settings of
the trainer that follow from them. No hyperparameters: those stand in the scripts.
"""

import math
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from sllm import cli, hashes
from sllm.train import flags
from sllm.train.with_peft import resolve_dtype


def resolve(args) -> None:
    """Give every argument the value that the run will have, before anything is compared or recorded.

    --load_in_4bit becomes --bits; the LoRA settings become the adapter's own where --model_id is one, else the
    defaults.
    Raises:
        InputError: flags that contradict each other or the adapter.
    """
    problems = []
    if args.load_in_4bit is not None:
        if args.load_in_4bit and args.bits == 8:
            problems.append("--load_in_4bit and --bits 8 contradict each other; give one of them")
        args.bits = 4 if args.load_in_4bit else 16 if args.bits == 4 else args.bits
        args.load_in_4bit = None
    if args.early_stopping_patience and not (args.validation_path or args.val_set_size or validation_path(args)):
        problems.append("--early_stopping_patience needs rows to evaluate on: --validation_path or --val_set_size")
    if args.val_set_size and args.validation_path:
        problems.append("--val_set_size holds out training rows, --validation_path names others; give one of them")
    if args.val_set_size > 1 and args.val_set_size % 1:
        problems.append(f"--val_set_size {args.val_set_size}: a share below 1, or a whole number of rows")
    if getattr(args, "packing", False) and (args.padding_free is False or args.group_by_length):
        problems.append("--packing fills whole sequences: not with --no-padding_free or --group_by_length")
    adapter_settings = _adapter_settings(args.model_id)
    for name, default in flags.LORA_DEFAULTS.items():
        value, adapter_value = getattr(args, name), adapter_settings.get(name)
        if not adapter_settings:
            setattr(args, name, default if value is None else value)
        elif value is None or _same(value, adapter_value):
            setattr(args, name, adapter_value)
        else:
            problems.append(
                f"--{name} {value}: the adapter {args.model_id} has {adapter_value}, which cannot be changed; leave "
                "the flag out, or start from a full model"
            )
    if problems:
        raise cli.InputError(problems)


def check_dpo(args) -> None:
    if args.lora_dropout:
        raise cli.InputError("--lora_dropout: DPO is trained without dropout (TRL switches it off); leave the flag out")
    if "exo_pair" in args.loss_type and not args.label_smoothing:
        raise cli.InputError("--loss_type exo_pair needs --label_smoothing above 0; its paper takes 0.001")


def _adapter_settings(model_id: str) -> dict:
    """The LoRA settings of an adapter folder under their flags' names; none of anything else."""
    path = Path(model_id) / "adapter_config.json"
    if not path.is_file():
        return {}
    config = hashes.read_json(path)
    try:
        targets = config["target_modules"]
        return {
            "lora_r": config["r"],
            "lora_alpha": config["lora_alpha"],
            "lora_dropout": config.get("lora_dropout", 0.0),
            "use_rslora": config.get("use_rslora", False),
            "lora_target_modules": targets if isinstance(targets, str) else sorted(targets),
        }
    except KeyError as error:
        raise cli.InputError(f"{path} is damaged (KeyError: {error}); restore the adapter") from None


def _same(value: object, fixed: object) -> bool:
    return set(value) == set(fixed) if isinstance(value, list) and isinstance(fixed, list) else value == fixed


def check_machine(args) -> None:
    """What of the command line this machine cannot do, said before an older run is cleared away. Imports neither
    transformers nor unsloth, which take a minute to say it."""
    problems = []
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        problems.append(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}: training in several processes is not supported; start it with "
            "python, not with torchrun or accelerate launch (one GPU trains)"
        )
    if find_spec("bitsandbytes") is None and any(kind in optimizer(args) for kind in ("8bit", "paged", "lion")):
        problems.append(f"--optim {args.optim} needs bitsandbytes (pip install bitsandbytes); or use adamw_torch")
    if len(args.report_to) > 1 and "none" in args.report_to:
        problems.append("--report_to none goes alone")
    for name in args.report_to:
        if name != "none" and find_spec(name) is None:
            problems.append(f"--report_to {name}: it is not installed (pip install {name})")
        elif name == "wandb" and not _wandb_can_log_in():
            problems.append("--report_to wandb: no key; run `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline")
    if args.dtype == "float16" and not torch.cuda.is_available():
        problems.append("--dtype float16 trains on a GPU only; leave it out, or use bfloat16")
    if problems:
        raise cli.InputError(problems)


def _wandb_can_log_in() -> bool:
    """wandb asks for its key on the terminal, and without one fails in the middle of the start."""
    import netrc

    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return True
    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, netrc.NetrcParseError):
        return False


def resolve_quantization(args, choice) -> None:
    """Quantised loading needs a GPU (bitsandbytes), and unsloth computes in 16 bits and loads 4 or 16."""
    if choice.name == "unsloth" and args.dtype == "float32":
        raise cli.InputError("--dtype float32: unsloth computes in bfloat16 regardless; use --backend peft")
    if choice.name == "unsloth" and args.bits == 8:
        raise cli.InputError(
            "--bits 8: not with unsloth, which loads 4 or 16 bits here; use --backend peft, or --bits 4"
        )
    if args.bits < 16 and choice.name == "peft" and not torch.cuda.is_available():
        raise cli.InputError(f"--bits {args.bits} needs a CUDA GPU; leave it out (16) on this machine")


def validation_path(args) -> Path | None:
    """The rows to evaluate on: --validation_path, or the valid.jsonl beside the training rows of a prepared folder."""
    if args.validation_path:
        path = Path(args.validation_path)
        return path / "valid.jsonl" if path.is_dir() else path
    beside = Path(args.trainset_path) / "valid.jsonl"
    return beside if not args.val_set_size and beside.is_file() and beside.stat().st_size else None


def micro_batches(args, lengths: np.ndarray, flat: bool) -> tuple[int, int]:
    """(rows, accumulation) of a forward pass whose product is --batch_size × --gradient_accum_steps.

    On a CPU short rows laid flat are taken several batches at a time, up to about 2,048 tokens: the optimizer steps
    are the same, in fewer and fuller passes. On a GPU --batch_size is a promise about memory and is kept.

    Args:
        lengths: tokens of each sequence.
    """
    rows, accumulation = args.batch_size, args.gradient_accum_steps
    if not flat or torch.cuda.is_available() or getattr(args, "packing", False):
        return rows, accumulation
    mean = lengths.mean()
    merged = max(m for m in range(1, accumulation + 1) if accumulation % m == 0 and (m == 1 or m * rows * mean <= 2048))
    return rows * merged, accumulation // merged


def run_settings(args, out: Path, sequences: int, *, evaluate: bool) -> dict:
    """The trainer's arguments that are not hyperparameters: what it logs, saves and evaluates, and how often."""
    epoch = math.ceil(sequences / (args.batch_size * args.gradient_accum_steps))
    interval = max(1, min(args.save_steps, epoch))  # in steps; at most an epoch, so that every epoch is evaluated
    return {
        "output_dir": str(out),
        "logging_steps": args.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would show a loss that is not finite as 0
        "save_steps": interval,
        "save_total_limit": max(args.save_total_limit, 2),  # a kill while one is written leaves the other
        "eval_strategy": "steps" if evaluate else "no",
        "eval_steps": interval if evaluate else None,
        "load_best_model_at_end": evaluate,
        "metric_for_best_model": "eval_loss" if evaluate else None,
        "report_to": args.report_to,
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def gradient_checkpointing(args) -> bool:
    return torch.cuda.is_available() if args.gradient_checkpointing is None else args.gradient_checkpointing


def optimizer(args) -> str:
    if args.optim != "auto":
        return args.optim
    return "adamw_8bit" if torch.cuda.is_available() and find_spec("bitsandbytes") else "adamw_torch"


def warmup(args) -> float:
    """--warmup_ratio as transformers' `warmup_steps`, which is a share below 1 and a number of steps from 1 on: all of
    the steps is the largest share below 1, which it rounds up."""
    return min(args.warmup_ratio, math.nextafter(1, 0))


def precision(args) -> dict[str, bool]:
    """bf16 or fp16 autocast, as --dtype says; a quantised model's own dtype does not tell. Without a GPU transformers
    refuses both unless it is told to use the CPU."""
    dtype = resolve_dtype(args.dtype)
    use_cpu = not torch.cuda.is_available()
    return {"bf16": dtype == torch.bfloat16, "fp16": dtype == torch.float16, "use_cpu": use_cpu}
