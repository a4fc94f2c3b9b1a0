"""What SFT and DPO do alike around a trainer: checks, output folder, resuming, saving. No hyperparameters: those
stand in the scripts.
"""

import json
import math
import sys
from pathlib import Path

from sllm import chat, checkpoint, cli, monitor

ARGUMENTS = checkpoint.UNFINISHED  # what an unfinished run was started with


def say(what: str, value: str) -> None:
    print(f"{what:<20}{value}")


def check_output(args) -> Path:
    """The output folder may be written; with --resume there is something to go on from. Touches nothing."""
    if args.preview:
        return Path(args.output_dir)
    if args.resume and args.overwrite:
        raise cli.InputError("--resume goes on with what is there and --overwrite removes it; choose one")
    if args.resume and not Path(args.output_dir).is_dir():
        raise cli.InputError(f"{args.output_dir} is missing, so there is nothing to resume; leave out --resume")
    out = checkpoint.check_output(args.output_dir, overwrite=args.overwrite, resume=args.resume)
    if args.resume and checkpoint.read_run(out):
        raise cli.InputError(f"{out} is complete (it has run.json), so there is nothing to resume")
    if args.resume and not monitor.last_complete(out):
        raise cli.InputError(f"{out} has no complete checkpoint to resume from; start over with --overwrite")
    if args.resume:
        before = json.loads((out / ARGUMENTS).read_text(encoding="utf-8"))
        now = _what_decides(args)
        changed = [f"--{name} was {before[name]}, now {now[name]}" for name in now if now[name] != before.get(name)]
        if changed:
            raise cli.InputError(
                f"{out} was started otherwise ({'; '.join(changed)}); resume with the same flags, or start over "
                "with --overwrite"
            )
    return out


def _what_decides(args) -> dict:
    """The arguments and the inputs' hashes: what has to be the same for a resumed run to be the same run."""
    free = {"overwrite", "resume", "preview", "dry_run", "report_to", "output_dir", "logging_steps"}
    decides = {name: value for name, value in vars(args).items() if name not in free}
    for name in ("trainset_path", "validation_path", "model_id"):
        decides[name] = decides[name] and [decides[name], checkpoint.folder_hash(decides[name])]
    return json.loads(json.dumps(decides))


def check_names(args) -> None:
    """Names that the trainer would refuse only after an older run was cleared away."""
    import importlib.util

    from sllm.lora import backend

    backend.choose(args.backend).module()  # unsloth patches transformers, so it comes before
    import torch
    from transformers import SchedulerType
    from transformers.training_args import OptimizerNames

    problems = []
    if args.lr_scheduler_type not in list(SchedulerType):
        problems.append(f"--lr_scheduler_type {args.lr_scheduler_type}: choose one of {', '.join(SchedulerType)}")
    if args.optim != "auto" and args.optim not in list(OptimizerNames):
        problems.append(f"--optim {args.optim} is unknown; such as adamw_torch, adamw_8bit, paged_adamw_8bit")
    for name in args.report_to:
        if name in ("tensorboard", "wandb", "mlflow", "swanlab") and importlib.util.find_spec(name) is None:
            problems.append(f"--report_to {name}: it is not installed (pip install {name})")
    if args.dtype == "float16" and not torch.cuda.is_available():
        problems.append("--dtype float16 trains on a GPU only; leave it out, or use bfloat16")
    if args.max_steps == 0 or args.max_steps < -1:
        problems.append(f"--max_steps {args.max_steps}: -1, or at least 1")
    if problems:
        raise cli.InputError(problems)


def prepare_output(args) -> str | None:
    """Make the output folder. Returns the checkpoint to resume from; half-written later ones are removed."""
    out = checkpoint.prepare_output(args.output_dir, overwrite=args.overwrite, resume=args.resume)
    if not args.resume:
        checkpoint.write_atomically(
            out / ARGUMENTS, json.dumps({"command": cli.command_line(), **_what_decides(args)}, ensure_ascii=False)
        )
        return None
    last = monitor.last_complete(out)
    for path in out.glob("checkpoint-*"):
        if not (path / monitor.COMPLETE).exists():
            import shutil

            shutil.rmtree(path)
    say("resuming from", str(last))
    return str(last)


def check_bits(args, choice) -> None:
    """--load_in_4bit is --bits 4. Quantised loading needs a GPU (bitsandbytes), and unsloth computes in 16 bits."""
    if choice.name == "unsloth" and args.dtype == "float32":
        raise cli.InputError("--dtype float32: unsloth computes in bfloat16 all the same; use --backend peft")
    if args.load_in_4bit is not None:
        args.bits = 4 if args.load_in_4bit else 16
    if args.bits < 16 and choice.name == "peft":
        import torch

        if not torch.cuda.is_available():
            raise cli.InputError(f"--bits {args.bits} needs a CUDA GPU; leave it out (16) on this machine")


def validation_path(args) -> Path | None:
    """The rows to evaluate on: --validation_path, or the valid.jsonl beside the training rows of a prepared folder."""
    if args.validation_path:
        path = Path(args.validation_path)
        return path / "valid.jsonl" if path.is_dir() else path
    beside = Path(args.trainset_path) / "valid.jsonl"
    return beside if not args.val_set_size and beside.is_file() and beside.stat().st_size else None


def preview(tokenizer, columns: dict, count: int) -> None:
    """Print rows as the model will see them: supervised tokens in green, or between ⟦ ⟧ without a terminal."""
    start, end = ("\033[32m", "\033[0m") if sys.stdout.isatty() else ("⟦", "⟧")
    for i, (ids, labels) in enumerate(zip(columns["input_ids"], columns["labels"], strict=True)):
        if i == count:
            break
        text, run, was = "", [], None
        for token, label in zip([*ids, None], [*labels, None], strict=True):
            on = label is not None and label >= 0
            if (on != was or token is None) and run:
                piece = tokenizer.decode(run)
                text += f"{start}{piece}{end}" if was else piece
                run = []
            run.append(token)
            was = on
        supervised = sum(label >= 0 for label in labels)
        print(f"── row {i + 1}: {len(ids)} tokens, {supervised} supervised " + "─" * 30 + f"\n{text}\n")


def batch_tokens(batch_size: int, columns: dict, *, flat: bool, packed_to: int | None = None) -> int:
    """Tokens of the largest forward pass of `batch_size` rows that these rows can make; packed rows are all full."""
    if packed_to:
        return batch_size * packed_to
    lengths = sorted(map(len, columns["input_ids"]), reverse=True)[:batch_size]
    return sum(lengths) if flat else lengths[0] * len(lengths)


def micro_batches(args, columns: dict, flat: bool) -> tuple[int, int]:
    """(rows, accumulation) of a forward pass whose product is --batch_size × --gradient_accum_steps.

    On a CPU short rows laid flat are taken several batches at a time, up to about 2,048 tokens: the optimizer steps
    are the same, in fewer and fuller passes. On a GPU --batch_size is a promise about memory and is kept.
    """
    import torch

    rows, accumulation = args.batch_size, args.gradient_accum_steps
    if not flat or torch.cuda.is_available() or getattr(args, "packing", False):
        return rows, accumulation
    mean = sum(map(len, columns["input_ids"])) / len(columns["input_ids"])
    merged = max(m for m in range(1, accumulation + 1) if accumulation % m == 0 and (m == 1 or m * rows * mean <= 2048))
    return rows * merged, accumulation // merged


def shortest(columns: dict, count: int = 3) -> list[int]:
    """Indices of a few short rows, for checks that cost one forward pass."""
    return sorted(range(len(columns["input_ids"])), key=lambda i: len(columns["input_ids"][i]))[:count]


def save_interval(args, sequences: int) -> int:
    """Steps between checkpoints: --save_steps, at most an epoch, so that every epoch is evaluated."""
    epoch = math.ceil(sequences / (args.batch_size * args.gradient_accum_steps))
    return max(1, min(args.save_steps, epoch))


def gradient_checkpointing(args) -> bool:
    if args.gradient_checkpointing is not None:
        return args.gradient_checkpointing
    import torch

    return torch.cuda.is_available()


def optimizer(args) -> str:
    if args.optim != "auto":
        return args.optim
    import torch

    return "adamw_8bit" if torch.cuda.is_available() else "adamw_torch"


def precision(args) -> dict[str, bool]:
    """bf16 or fp16 autocast, as --dtype says; a quantised model's own dtype does not tell."""
    import torch

    from sllm.lora.with_peft import resolve_dtype

    chosen = resolve_dtype(args.dtype)
    return {"bf16": chosen == torch.bfloat16, "fp16": chosen == torch.float16}


def samples(lora, model, tokenizer, conversations: list[list[dict]]):
    """Three sample answers of the model as it is, for the monitor to show at each evaluation."""
    answer = monitor.answer_samples(model, tokenizer, conversations)

    def shown() -> list[tuple[str, str]]:
        was_training = model.training
        lora.for_inference(model)
        try:
            return answer()
        finally:
            lora.for_training(model)  # inside an evaluation too: unsloth puts gradient checkpointing back
            model.train(was_training)

    return shown


def set_up_logging(out: Path) -> None:
    """TensorBoard's files go to `out`/runs. Leave out TRL's warning that rows of a flattened batch may see each
    other, which checks.packing_isolation measures, and loading bars where there is no terminal to draw them on."""
    import logging
    import os

    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(out / "runs"))  # the default is the working directory
    logging.getLogger("trl").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()


def train(trainer, resume_from: str | None) -> float:
    """Run the trainer; returns its seconds. A signal ends it with a checkpoint and cli.Interrupted."""
    hint = cli.command_line(drop=["--overwrite"], add=["--resume"])
    try:
        seconds = trainer.train(resume_from_checkpoint=resume_from).metrics["train_runtime"]
    except KeyboardInterrupt:  # the second one, while the first was being heeded
        raise (cli.Interrupted(hint) if monitor.last_complete(trainer.args.output_dir) else KeyboardInterrupt) from None
    if monitor.was_stopped(trainer):
        raise cli.Interrupted(hint)
    return seconds


def save_adapter(trainer, base: str, out: Path) -> None:
    """The adapter (the best one, where there was a validation set) and its tokenizer in the folder's root."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.save_pretrained(out, selected_adapters=["default"])
    trainer.processing_class.padding_side = "right"
    trainer.processing_class.save_pretrained(out)
    if Path(base).exists():  # absolute, so that the adapter finds its base from any working directory
        path = out / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = str(Path(base).resolve())
        checkpoint.write_atomically(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def final_metrics(trainer, seconds: float) -> dict:
    """Steps, seconds of training alone, a GPU's peak memory, and the best evaluation's numbers where there was one."""
    state = trainer.state
    last = monitor.read_metrics(trainer.args.output_dir)[-1]
    metrics = {"steps": state.global_step, "epochs": round(state.epoch or 0, 2), "train_seconds": round(seconds, 1)}
    if "peak_memory_bytes" in last:
        metrics["peak_memory_bytes"] = last["peak_memory_bytes"]
    if state.best_metric is not None:
        metrics |= {"best_eval_loss": state.best_metric, "best_step": state.best_global_step}
    return metrics


def data_record(path: str, stats: dict) -> dict:
    source = Path(path)
    return {"path": str(source.resolve()), "sha256": checkpoint.folder_hash(source), **stats}


def template_summary(tokenizer, template: str) -> str:
    return f"{template}; a turn ends with {chat.end_of_turn(tokenizer)[0]}"
