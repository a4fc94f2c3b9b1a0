"""What SFT and DPO do alike around a trainer: checks, output folder, resuming, saving. No hyperparameters: those
stand in the scripts.
"""

import json
import math
import os
import shutil
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from sllm import chat, checkpoint, cli, monitor

ARGUMENTS = checkpoint.UNFINISHED  # what an unfinished run was started with


def say(what: str, value: str) -> None:
    print(f"{what:<20}{value}")


def resolve_arguments(args) -> None:
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
    fixed = _adapter_settings(args.model_id)
    for name, default in cli.LORA_DEFAULTS.items():
        given = getattr(args, name)
        if fixed is None:
            setattr(args, name, default if given is None else given)
            continue
        if given is not None and not _same(given, fixed[name]):
            problems.append(
                f"--{name} {given}: the adapter {args.model_id} has {fixed[name]}, which cannot be changed; leave the "
                "flag out, or start from a whole model"
            )
        setattr(args, name, fixed[name])
    if problems:
        raise cli.InputError(problems)


def _adapter_settings(model_id: str) -> dict | None:
    """The LoRA settings of an adapter folder under their flags' names; None for anything else."""
    path = Path(model_id) / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        targets = config["target_modules"]
        return {
            "lora_r": config["r"],
            "lora_alpha": config["lora_alpha"],
            "lora_dropout": config.get("lora_dropout", 0.0),
            "use_rslora": config.get("use_rslora", False),
            "lora_target_modules": targets if isinstance(targets, str) else sorted(targets),
        }
    except (ValueError, KeyError) as error:
        raise cli.InputError(f"{path} is damaged ({type(error).__name__}: {error}); restore the adapter") from None


def _same(given: object, fixed: object) -> bool:
    return set(given) == set(fixed) if isinstance(given, list) and isinstance(fixed, list) else given == fixed


def check_output(args) -> Path:
    """The output folder may be written; with --resume there is something to go on from. Touches nothing."""
    if args.preview:
        return Path(args.output_dir)
    if args.resume and args.overwrite:
        raise cli.InputError("--resume goes on with what is there and --overwrite removes it; choose one")
    if args.resume and not Path(args.output_dir).is_dir():
        raise cli.InputError(f"{args.output_dir} is missing, so there is nothing to resume; leave out --resume")
    out = checkpoint.check_output(args.output_dir, overwrite=args.overwrite, resume=args.resume)
    if args.resume:
        last, passed_over = monitor.last_complete(out)
        if last is None:
            why = "".join(f"; {path.name}: {reason}" for path, reason in passed_over.items())
            raise cli.InputError(f"{out} has no complete checkpoint to resume from{why}; start over with --overwrite")
        _check_same_run(args, out, monitor.read_marker(last))
    return out


def _check_same_run(args, out: Path, marker: dict) -> None:
    """A resumed run has the arguments that it was started with; one that is finished has more steps to take."""
    before, now = marker["arguments"], _what_decides(args)
    finished = checkpoint.read_run(out) is not None
    longer = ("max_steps", "train_epochs") if finished else ()
    changed = [
        f"--{name} was {_shown(before.get(name))}, now {_shown(now[name])}"
        for name in now
        if now[name] != before.get(name) and name not in longer
    ]
    if changed:
        raise cli.InputError(
            f"{out} was started otherwise ({'; '.join(changed)}); resume with the same flags, or start over with "
            "--overwrite"
        )
    if finished and not _is_longer(before, now):
        raise cli.InputError(
            f"{out} is complete (it has run.json), so there is nothing to resume; a larger --train_epochs or "
            "--max_steps trains it further"
        )


def _is_longer(before: dict, now: dict) -> bool:
    if before["max_steps"] > 0 or now["max_steps"] > 0:
        return now["max_steps"] > before["max_steps"] > 0
    return now["train_epochs"] > before["train_epochs"]


def _shown(value: object) -> str:
    """A path with its content's hash is shown as the path; where both paths are equal the content differs."""
    return f"{value[0]} ({str(value[1])[:8]})" if isinstance(value, list) and len(value) == 2 else str(value)


def _what_decides(args) -> dict:
    """The arguments and the inputs' hashes: what has to be the same for a resumed run to be the same run."""
    free = {"overwrite", "resume", "preview", "dry_run", "report_to", "output_dir", "logging_steps", "save_total_limit"}
    decides = {name: value for name, value in vars(args).items() if name not in free}
    for name in ("trainset_path", "validation_path", "model_id"):
        decides[name] = decides[name] and [decides[name], checkpoint.folder_hash(decides[name])]
    return json.loads(json.dumps(decides))


def check_machine(args) -> None:
    """What of the command line this machine cannot do, said before an older run is cleared away. Imports neither
    transformers nor unsloth, which take a minute to say it."""
    import torch

    problems = []
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        problems.append(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}: training in several processes is not supported; start it with "
            "python, not with torchrun or accelerate launch (one GPU trains)"
        )
    needs = [word for word in ("8bit", "paged", "lion") if word in optimizer(args)]
    if needs and find_spec("bitsandbytes") is None:
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


def prepare_output(args) -> str | None:
    """Make the output folder. Returns the checkpoint to resume from; newer ones that are not whole are removed."""
    out = checkpoint.prepare_output(args.output_dir, overwrite=args.overwrite, resume=args.resume)
    started = {"command": cli.command_line(drop=["--resume"]), **_what_decides(args)}
    checkpoint.write_atomically(out / ARGUMENTS, json.dumps(started, ensure_ascii=False))
    if not args.resume:
        return None
    (out / checkpoint.RUN_FILE).unlink(missing_ok=True)  # of a finished run that now goes on
    last, passed_over = monitor.last_complete(out)
    for path, reason in passed_over.items():
        say("passed over", f"{path}: {reason}")
        shutil.rmtree(path)
    say("resuming from", str(last))
    return str(last)


def started_with(args) -> dict:
    """What a checkpoint keeps of how its run was started."""
    return _what_decides(args)


def check_bits(args, choice) -> None:
    """Quantised loading needs a GPU (bitsandbytes), and unsloth computes in 16 bits and loads 4 or 16."""
    if choice.name == "unsloth" and args.dtype == "float32":
        raise cli.InputError("--dtype float32: unsloth computes in bfloat16 all the same; use --backend peft")
    if choice.name == "unsloth" and args.bits == 8:
        raise cli.InputError(
            "--bits 8: not with unsloth, which loads 4 or 16 bits here; use --backend peft, or --bits 4"
        )
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

    return "adamw_8bit" if torch.cuda.is_available() and find_spec("bitsandbytes") else "adamw_torch"


def warmup(args) -> float:
    """--warmup_ratio as transformers' `warmup_steps`, which is a share below 1 and a number of steps from 1 on: all of
    the steps is the largest share below 1, which it rounds up."""
    return min(args.warmup_ratio, math.nextafter(1, 0))


def use_one_gpu(config) -> None:
    """Train on one GPU where several are visible: transformers would split each batch over all of them (DataParallel),
    which changes the batch size and the peak memory without a word."""
    config._n_gpu = min(config.n_gpu, 1)


@contextmanager
def adapter_in_float32(model):
    """Build a trainer in it: the adapter's weights stay as they are, in float32.

    TRL casts those of a quantised model to bfloat16, where the small steps of AdamW round to nothing: at DPO's learning
    rate of 5e-7 nearly no weight ever moves.
    """
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [parameter.detach().float().clone() for parameter in trained]
    yield
    for parameter, weight in zip(trained, weights, strict=True):
        parameter.data = weight
    odd = {str(p.dtype) for p in model.parameters() if p.requires_grad and p.dtype != torch.float32}
    if odd:
        raise RuntimeError(f"the adapter's weights are {', '.join(odd)}, and would not train in it")


def early_stopping(args) -> list:
    """The callback of --early_stopping_patience, in a list; an empty one without it."""
    from transformers import EarlyStoppingCallback

    return [EarlyStoppingCallback(args.early_stopping_patience)] if args.early_stopping_patience else []


def precision(args) -> dict[str, bool]:
    """bf16 or fp16 autocast, as --dtype says; a quantised model's own dtype does not tell."""
    import torch

    from sllm.lora.with_peft import resolve_dtype

    chosen = resolve_dtype(args.dtype)
    return {"bf16": chosen == torch.bfloat16, "fp16": chosen == torch.float16}


def separate_rows(args, trainer, columns: dict) -> dict:
    """Check that the rows of a flattened batch do not see each other (guarantee 6); returns what run.json says of it.

    Where flattening was not asked for, a model whose attention mixes them is trained on padded rows instead.
    """
    from sllm.lora import checks

    few = [{name: column[i] for name, column in columns.items()} for i in shortest(columns)]
    try:
        apart = checks.packing_isolation(trainer, few, packed=args.packing)
    except cli.InputError:
        if args.packing or args.padding_free:
            raise
        trainer.args.padding_free = trainer.data_collator.padding_free = False
        say(
            "batches", "padded after all: this model's attention ignores position_ids, so flattened rows see each other"
        )
        return {}
    print(f"rows of a batch kept apart: logits differ by {apart:.1e} of the largest")
    return {"packing_isolation": apart}


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
    broken = [name for name, p in model.named_parameters() if p.requires_grad and not p.isfinite().all()]
    if broken:
        raise cli.CheckFailed(
            f"{len(broken)} of the adapter's weights are not finite ({broken[0]}, …); nothing is saved, checkpoints "
            f"in {out} are left"
        )
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
