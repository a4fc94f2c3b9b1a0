"""What SFT and DPO do alike around a trainer: preview, checks, samples, training, saving. No hyperparameters: those
stand in the scripts.
"""

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

from sllm import chat, checkpoint, cli
from sllm.train import callbacks


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


def shortest(columns: dict, count: int = 3) -> list[int]:
    """Indices of a few short rows, for checks that cost one forward pass."""
    return sorted(range(len(columns["input_ids"])), key=lambda i: len(columns["input_ids"][i]))[:count]


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


def separate_rows(args, trainer, columns: dict) -> dict:
    """Check that the rows of a flattened batch do not see each other (guarantee 6); returns what run.json says of it.

    Where flattening was not asked for, a model whose attention mixes them is trained on padded rows instead.
    """
    from sllm.train import checks

    few = [{name: column[i] for name, column in columns.items()} for i in shortest(columns)]
    try:
        apart = checks.packing_isolation(trainer, few, packed=args.packing)
    except cli.InputError:
        if args.packing or args.padding_free:
            raise
        trainer.args.padding_free = trainer.data_collator.padding_free = False
        print("batches: padded after all, because this model's attention ignores position_ids")
        return {}
    print(f"rows of a batch kept apart: logits differ by {apart:.1e} of the largest")
    return {"packing_isolation": apart}


def samples(lora, model, tokenizer, conversations: list[list[dict]]):
    """Three sample answers of the model as it is, for the monitor to show at each evaluation."""
    answer = callbacks.answer_samples(model, tokenizer, conversations)

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
        raise (
            cli.Interrupted(hint) if callbacks.latest_checkpoint(trainer.args.output_dir) else KeyboardInterrupt
        ) from None
    if callbacks.was_stopped(trainer):
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
    last = callbacks.read_metrics(trainer.args.output_dir)[-1]
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
