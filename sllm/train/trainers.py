"""TRL's trainers with what it takes to keep this project's promises, and how a run is started and saved.

Imports trl, so unsloth has to be imported before this module. Each workaround names the library's code that it is for;
a test fails when that code no longer needs it (tests/test_train_workarounds.py).
"""

import json
import logging
import math
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
import trl
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PrinterCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.utils import logging as transformers_logging
from trl.models.utils import _ForwardRedirection

from sllm import checkpoint, cli
from sllm.train.callbacks import PROBE, AdapterChange, Progress, StopOnSignal
from sllm.train.checkpoints import latest_checkpoint


class _Trainer:
    """What both trainers need. A mixin in front of TRL's class."""

    def __init__(self, model, args, **kwargs):
        # Where several GPUs are visible transformers splits each batch over all of them (DataParallel), which changes
        # the batch size and the peak memory.
        args._n_gpu = min(args.n_gpu, 1)
        with adapter_in_float32(model):
            super().__init__(model=model, args=args, **kwargs)
        self.remove_callback(PrinterCallback)  # our progress line replaces it


class SFTTrainer(_Trainer, trl.SFTTrainer):
    """TRL's trainer with an evaluation loss that is the mean over all supervised tokens of the set.

    transformers takes the mean of each batch and then the mean of the batches, so that a short answer's tokens count
    more than a long one's, and the figure (which chooses the best checkpoint) changes with --batch_size.
    """

    def __init__(self, model, args, *, lengths=None, **kwargs):
        self.lengths = lengths  # (rows,) tokens, for batches of similar length
        super().__init__(model, args, **kwargs)
        if args.loss_type == "chunked_nll":
            # Some models (Gemma 3n and 4) say that their loss takes no token count; TRL's, in its place, does.
            self.model_accepts_loss_kwargs = True

    def _get_train_sampler(self, train_dataset=None):
        """transformers (5.17) reads each row for its length, which takes minutes with a million rows."""
        if self.args.train_sampling_strategy != "group_by_length" or self.lengths is None:
            return super()._get_train_sampler(train_dataset)
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(size, lengths=self.lengths.tolist())

    def prediction_step(self, model, inputs, *args, **kwargs):
        tokens = (inputs["labels"][..., 1:] != -100).sum()  # as the model's own loss shifts them
        loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
        self._loss_sum += (loss.double() * tokens).item()
        self._token_count += tokens.item()
        return loss, logits, labels

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        self._loss_sum, self._token_count = 0.0, 0
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics[f"{metric_key_prefix}_loss"] = self._loss_sum / self._token_count
        return output


class _ReferenceTrainer(_Trainer):
    """For methods that train an adapter beside a reference adapter."""

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        """transformers finds the reference's subfolder and loads nothing else: the adapter in training, too."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.model.load_adapter(resume_from_checkpoint, "default", is_trainable=True)
        self.model.set_adapter("default")


class DPOTrainer(_ReferenceTrainer, trl.DPOTrainer):
    """TRL's trainer on pairs that are tokenized already: sllm.chat's ids are the ones that are served."""

    def __init__(self, model, args, **kwargs):
        super().__init__(model, args, **kwargs)
        if _can_chunk_logits(model, args):
            # TRL (1.14) computes the log-probabilities of the answers alone, in chunks of the vocabulary, only where
            # liger-kernel is installed, which needs a GPU; that code of TRL's does not use it.
            self.use_liger_kernel, self._forward_redirection = True, _ForwardRedirection()
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, Progress):
                    callback.counts_at_backbone = True

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset

    def get_batch_samples(self, *args, **kwargs):
        batches, num_items = super().get_batch_samples(*args, **kwargs)
        self._mean_rows = sum(len(batch["input_ids"]) for batch in batches) / max(len(batches), 1)
        return batches, num_items

    def compute_loss(self, model, inputs, *args, **kwargs):
        """transformers (5.17, `Trainer.training_step`) takes the mean of the micro-batches of a step, in which the
        pairs of a smaller last one would count more than the others. Losses that are no mean over pairs (sft, aot) get
        the same weight, which is not exact for them."""
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return loss * (len(inputs["input_ids"]) / self._mean_rows) if model.training else loss


def _can_chunk_logits(model, args) -> bool:
    """Not unsloth's trainer; not with an adapter on the output layer, whose own weight is read; and not with references
    that TRL has computed from whole logits."""
    head_has_adapter = isinstance(model.get_output_embeddings(), BaseTunerLayer)
    return "unsloth" not in sys.modules and not head_has_adapter and not args.precompute_ref_log_probs


def mark_truncated(dataset, max_length: int) -> None:
    """Tell unsloth that no row of `dataset` is longer than `max_length`: it pads rows that it does not know to be cut,
    padding-free or not. Needs no unsloth."""
    dataset._unsloth_truncated_to = max_length


@contextmanager
def adapter_in_float32(model):
    """Build a trainer in it: the adapter's weights stay as they are, in float32.

    TRL (1.14, `SFTTrainer.__init__` and `DPOTrainer.__init__`) casts those of a quantised model to bfloat16, where the
    small steps of AdamW round to nothing: at DPO's learning rate of 5e-7 nearly no weight ever moves.
    """
    weights = {p: p.detach().float().clone() for p in model.parameters() if p.requires_grad}
    yield
    for parameter, weight in weights.items():
        parameter.data = weight
    wrong_dtypes = {str(p.dtype) for p in model.parameters() if p.requires_grad and p.dtype != torch.float32}
    if wrong_dtypes:
        raise RuntimeError(f"the adapter's weights are {', '.join(wrong_dtypes)}, and would not train in it")


def set_up_logging(out: Path) -> None:
    """TensorBoard's files go to `out`/runs. Leave out TRL's warning that rows of a flattened batch may see each
    other, which checks.packing_isolation measures, and loading bars where there is no terminal to draw them on."""
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(out / "runs"))  # the default is the working directory
    logging.getLogger("trl").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()


def run(trainer, resume_from: str | None) -> float:
    """Run the trainer; returns its seconds. A signal ends it with a checkpoint and cli.Interrupted.

    Raises:
        CheckFailed: no weight of the adapter changed.
    """
    change = AdapterChange()
    trainer.add_callback(change)
    hint = cli.command_line(drop=["--overwrite"], add=["--resume"])
    try:
        seconds = trainer.train(resume_from_checkpoint=resume_from).metrics["train_runtime"]
    except KeyboardInterrupt:  # the second one, before the step of the first had ended
        last, _ = latest_checkpoint(trainer.args.output_dir)
        raise (cli.Interrupted(hint) if last else KeyboardInterrupt()) from None
    callbacks = trainer.callback_handler.callbacks
    stopped = any(isinstance(callback, StopOnSignal) and callback.stop_requested for callback in callbacks)
    if stopped and trainer.state.global_step < trainer.state.max_steps:
        raise cli.Interrupted(hint)
    if change.steps and not change.seen:
        raise cli.CheckFailed(
            f"{change.steps} steps changed no weight of the adapter: the optimizer does not have them, or its steps "
            f"round to nothing; no adapter was saved, checkpoints in {trainer.args.output_dir} are left"
        )
    return seconds


def probe(trainer, count: int | None = None) -> dict[str, float]:
    """Evaluate on the first training rows: names as TRL logs them (`loss`, `rewards/accuracies`, …).

    Args:
        count: rows; None: an eighth of them, 16 to 128, as on a CPU 128 of 230 rows took longer than ten steps.
    Raises:
        CheckFailed: the loss is not finite.
    """
    total = len(trainer.train_dataset)
    count = min(total, count or max(16, min(total // 8, 128)))
    rows = trainer.train_dataset.select(range(count))
    # Reference scores that were computed beforehand are computed again by evaluate(), which would double the columns.
    rows = rows.remove_columns([name for name in rows.column_names if name.startswith("ref_")])
    trainer.evaluate(rows, metric_key_prefix=PROBE)
    logged = trainer.state.log_history[-1]  # TRL adds its own metrics to the log only
    metrics = {name.removeprefix(f"{PROBE}_").removeprefix("eval_"): value for name, value in logged.items()}
    if not math.isfinite(metrics["loss"]):
        raise cli.CheckFailed(
            f"the loss on the training rows is {metrics['loss']}: the model has weights that are not finite, or "
            "overflows in its dtype; check the base model, or try --dtype bfloat16 or float32. Nothing was saved"
        )
    return metrics


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
