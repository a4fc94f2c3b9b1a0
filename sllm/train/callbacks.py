"""Trainer callbacks that SFT and DPO share: what a run shows and keeps, and how a signal ends it.

Imports transformers, so unsloth has to be imported before this module.
"""

import json
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import EarlyStoppingCallback, GenerationConfig, TrainerCallback

from sllm import chat, checkpoint
from sllm.cli import CheckFailed, json_safe
from sllm.train.checkpoints import latest_checkpoint, mark_complete
from sllm.train.metrics import METRICS_FILE, read_steps
from sllm.train.resume import Fingerprint

PROBE = "eval_probe"  # prefix of the metrics of `trainers.probe`, which are not an evaluation of the run
SKIPPED_STEPS = 25  # in a row, that fp16's loss scaling may need to find its scale; it starts at 2^16 and halves
SAMPLES_FILE = "samples.jsonl"
SAMPLE_TOKENS = 64  # of a sample answer, at most
# Logged numbers that stand in the progress line, in this order, where there are such.
FIELDS = ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected")


def build(args, folder: Path, samples: Callable) -> list[TrainerCallback]:
    """The callbacks of a run that writes to `folder`. `samples`: see there."""
    patience = args.early_stopping_patience
    early_stopping = [EarlyStoppingCallback(patience)] if patience else []
    return [*early_stopping, Progress(folder, samples, Fingerprint.of(args)), StopOnSignal()]


class AdapterChange(TrainerCallback):
    """Whether a step of this run changed the adapter. `steps`: those with a learning rate, until one did."""

    def __init__(self):
        self.steps, self.seen = 0, False

    def on_train_begin(self, args, state, control, model=None, **kwargs):  # after a checkpoint was loaded
        self.before = self._norms(model)

    def on_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        if not self.seen and any(group["lr"] > 0 for group in optimizer.param_groups):
            self.steps += 1
            self.seen = self._norms(model) != self.before

    @staticmethod
    def _norms(model) -> list[float]:
        return [p.detach().double().norm().item() for p in model.parameters() if p.requires_grad]


class Progress(TrainerCallback):
    """One line a step, `metrics.jsonl`, sample answers at each evaluation, and the marker of each checkpoint.

    Args:
        folder: of the run.
        samples: called at each evaluation; returns (prompt, answer) texts to show. None: no samples.
        fingerprint: what a resumed run is compared with; kept in each checkpoint.
    """

    def __init__(self, folder: Path, samples: Callable | None = None, fingerprint: Fingerprint | None = None):
        self.folder, self.samples, self.fingerprint = folder, samples, fingerprint or Fingerprint({})
        self.last_sampled_step = -1
        self.counts_at_backbone = False  # set by a trainer that passes by the model's own forward
        self.skipped_steps = 0  # in a row, whose gradient was not finite

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / METRICS_FILE).touch()
        rows = self._drop_later_rows(METRICS_FILE, state.global_step)
        self._drop_later_rows(SAMPLES_FILE, state.global_step)
        self.first_step = state.global_step
        self.started = self.last_time = time.monotonic()
        self.tokens = self.last_tokens = max((row.get("num_tokens", 0) for row in rows), default=0)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()  # of training alone, and not of the checks before it
        counted = model.get_base_model().base_model if self.counts_at_backbone else model
        self.counting = counted.register_forward_pre_hook(self._count, with_kwargs=True)

    def on_train_end(self, args, state, control, **kwargs):
        self.counting.remove()

    def _count(self, module, positional, batch) -> None:
        """Real tokens, padding left out, of a forward pass that trains; unsloth's trainer logs no such number."""
        if torch.is_grad_enabled():
            mask = batch.get("attention_mask")
            self.tokens = self.tokens + (batch["input_ids"].numel() if mask is None else mask.sum())

    def _drop_later_rows(self, name: str, step: int) -> list[dict]:
        """Leave the rows up to `step` in a file, and return them. A resumed run comes by the later steps again, and has
        answered at the start once more."""
        path = self.folder / name
        if not path.exists():
            return []
        rows = [row for row in read_steps(path) if row["step"] <= step]
        lines = dict.fromkeys(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        checkpoint.write_atomically(path, "".join(lines))
        return rows

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "train_runtime" in logs or any(key.startswith(PROBE) for key in logs):
            return  # totals, and what probe() returns to its caller
        row = {"step": state.global_step, "epoch": round(state.epoch or 0, 4)}
        row |= {key: value for key, value in logs.items() if isinstance(value, int | float) and key != "epoch"}
        if "loss" in logs:
            row |= self._rates(state)
        with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(json_safe(row)) + "\n")
        print(self._line(state, row))
        for name in ("loss", "eval_loss"):
            if not math.isfinite(row.get(name, 0)):
                raise _diverged(args, state, f"{name} is {row[name]}")

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Gradients that are not finite would spoil every weight; they come with a loss that is not finite, too."""
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            self.skipped_steps = 0
            return
        self.skipped_steps += 1
        if not args.fp16 or self.skipped_steps > SKIPPED_STEPS:  # fp16's scaler leaves out such a step by itself
            raise _diverged(args, state, "the gradient is not finite")

    def on_evaluate(self, args, state, control, **kwargs):
        if self.samples and self.last_sampled_step != state.global_step:
            self.last_sampled_step = state.global_step
            answers = self.samples()
            with (self.folder / SAMPLES_FILE).open("a", encoding="utf-8") as file:
                for prompt, answer in answers:
                    row = {"step": state.global_step, "prompt": prompt, "answer": answer}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    print(f"  ▸ {_one_line(prompt, 56)}\n    → {_one_line(answer, 100)}")

    def on_save(self, args, state, control, **kwargs):
        mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.fingerprint.arguments)

    def _rates(self, state) -> dict:
        tokens, now = int(self.tokens), time.monotonic()
        steps = max(state.global_step - self.first_step, 1)
        rates = {
            "num_tokens": tokens,
            "tokens_per_second": round((tokens - self.last_tokens) / max(now - self.last_time, 1e-9)),
            "eta_seconds": round((now - self.started) / steps * (state.max_steps - state.global_step), 1),
        }
        if torch.cuda.is_available():
            rates["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
        self.last_tokens, self.last_time = tokens, now
        return rates

    def _line(self, state, row) -> str:
        parts = [f"step {row['step']:>4}/{state.max_steps}", f"epoch {row['epoch']:.2f}"]
        for name in FIELDS if "loss" in row else [f"eval_{name}" for name in FIELDS]:
            if name in row:
                parts.append(f"{name.replace('rewards/', '').replace('logps/', 'logp ')} {row[name]:.4g}")
        if "loss" in row:
            parts += [f"grad {row['grad_norm']:.3g}"] if "grad_norm" in row else []
            parts += [f"lr {row.get('learning_rate', 0):.2e}", f"{row['tokens_per_second']:,} tok/s"]
            parts += [f"peak {checkpoint.gib(row['peak_memory_bytes'])}"] if "peak_memory_bytes" in row else []
            parts += [f"ETA {format_duration(row['eta_seconds'])}"]
        return " | ".join(parts)


class StopOnSignal(TrainerCallback):
    """Ctrl-C (or SIGTERM) saves a checkpoint after the running step, then stops; a second one stops at once."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.stop_requested = False
        self.previous = {name: signal.signal(name, self._request_stop) for name in (signal.SIGINT, signal.SIGTERM)}

    def _request_stop(self, number, frame):
        if self.stop_requested:
            raise KeyboardInterrupt
        self.stop_requested = True
        # Not print: the signal may have come in the middle of one, which Python forbids to begin again.
        os.write(1, b"\nstopping after this step; a checkpoint is saved first (again to stop at once)\n")

    def on_step_end(self, args, state, control, **kwargs):
        if self.stop_requested:
            control.should_save = control.should_training_stop = True
        return control

    def on_train_end(self, args, state, control, **kwargs):
        for name, handler in self.previous.items():
            signal.signal(name, handler)


def _diverged(args, state, reason: str) -> CheckFailed:
    """The error that ends the run. Nothing is saved; earlier checkpoints are kept."""
    last, _ = latest_checkpoint(args.output_dir)
    checkpoints = f"{last} is the last checkpoint before it" if last else "no checkpoint was written yet"
    return CheckFailed(
        f"training diverged in step {state.global_step + 1}: {reason}; the step was not taken and no adapter is saved "
        f"({checkpoints}). Start over with --overwrite and a lower --learning_rate (it was {args.learning_rate:g}), a "
        "longer --warmup_ratio or a smaller --max_grad_norm; where it happens in the first step, the base model or the "
        "dtype is the cause (--dtype bfloat16 or float32 instead of float16)"
    )


def samples(library, model, tokenizer, rows: list[dict]) -> Callable:
    """A function that answers up to three of the rows' prompts greedily, with the model as it is when it is called.

    Args:
        library: the backend, which switches the model between training and generation.
        rows: conversations, whose last answer is left out and generated; or preference pairs.
    Returns:
        A function without arguments; it returns [(prompt, answer)].
    """
    conversations = [row.get("prompt") or row["messages"] for row in rows[:3]]
    prompts = [messages[:-1] if messages[-1]["role"] == "assistant" else messages for messages in conversations]

    def answers() -> list[tuple[str, str]]:
        was_training = model.training
        library.for_inference(model)
        try:
            return [(messages[-1]["content"], _answer(model, tokenizer, messages)) for messages in prompts]
        finally:
            library.for_training(model)  # inside an evaluation too: unsloth puts gradient checkpointing back
            model.train(was_training)

    return answers


def _answer(model, tokenizer, messages: list[dict]) -> str:
    end, pad = chat.end_of_turn(tokenizer)[1], tokenizer.pad_token_id
    config = GenerationConfig(max_new_tokens=SAMPLE_TOKENS, do_sample=False, eos_token_id=end, pad_token_id=pad)
    ids = torch.tensor([chat.prompt_ids(tokenizer, messages)], device=model.device)  # (1, prompt)
    model.eval()
    with torch.no_grad():
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).rstrip("\ufffd")


def _one_line(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def format_duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
