"""What a training run shows and keeps: one dense line a step, `metrics.jsonl`, a plot, sample answers, and
checkpoints that are known to be whole. Trainer callbacks, shared by SFT and DPO.

transformers is imported by the functions that need it, so that importing this module costs nothing.
"""

import json
import math
import os
import signal
import time
from pathlib import Path

from sllm import chat, checkpoint, runs
from sllm.cli import CheckFailed, json_safe

METRICS_FILE = "metrics.jsonl"
PROBE = "eval_probe"
COMPLETE = runs.COMPLETE
SKIPPED_STEPS = 25  # in a row, that fp16's loss scaling may need to find its scale; it starts at 2^16 and halves


def mark_complete(folder: Path, arguments: dict) -> None:
    """Write the marker that makes a `checkpoint-N` complete: the sha256 of each of its files, and what the run was
    started with."""
    files = {str(path.relative_to(folder)): checkpoint.file_hash(path) for path in _files(folder)}
    checkpoint.write_atomically(folder / COMPLETE, json.dumps({"files": files, "arguments": arguments}))


def read_marker(folder: Path) -> dict:
    """{"files", "arguments"} of a checkpoint; ValueError with the reason where it cannot be resumed from."""
    try:
        marker = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        hashes, _ = marker["files"], marker["arguments"]
    except FileNotFoundError:
        raise ValueError("it was not written to its end") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"its {COMPLETE} file is damaged") from None
    present = {str(path.relative_to(folder)) for path in _files(folder)}
    missing = sorted(hashes.keys() - present)
    changed = [name for name in sorted(hashes.keys() & present) if checkpoint.file_hash(folder / name) != hashes[name]]
    if missing or changed:
        faults = [f"{name} is missing" for name in missing] + [f"{name} has changed" for name in changed]
        raise ValueError("; ".join(faults))
    return marker


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != COMPLETE]


def latest_checkpoint(folder: str | Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest `checkpoint-N` of a run whose files are just what was written, and why each newer one is not it.

    A kill can leave a half-written checkpoint behind, and files get lost or damaged later; resuming from one would
    end in another curve, or in a traceback.
    """
    folders = sorted(Path(folder).glob("checkpoint-[0-9]*"), key=lambda path: -int(path.name.split("-")[1]))
    passed_over = {}
    for path in folders:
        try:
            read_marker(path)
        except ValueError as error:
            passed_over[path] = str(error)
        else:
            return path, passed_over
    return None, passed_over


def read_metrics(folder: str | Path) -> list[dict]:
    """The rows of `metrics.jsonl`; lines that are damaged are left out: a kill tears the last one."""
    return _steps(Path(folder) / METRICS_FILE)


def _steps(path: Path) -> list[dict]:
    """The rows of a file whose lines are JSON objects with a step, those that can be read."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def callbacks(
    folder: Path, *, samples=None, fields: tuple[str, ...] = ("loss",), arguments: dict | None = None
) -> list:
    """The callbacks of a run that writes to `folder`.

    Args:
        arguments: what the run was started with; kept in each checkpoint.
        samples: called at each evaluation; returns (prompt, answer) texts to show. None: no samples.
        fields: which logged numbers stand in the progress line, in order.
    """
    import torch
    from transformers import TrainerCallback

    class Monitor(TrainerCallback):
        last_sampled_step = -1  # the step whose samples were shown last
        skipped = 0  # steps in a row whose gradient was not finite

        def on_train_begin(self, args, state, control, model=None, **kwargs):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / METRICS_FILE
            kept = [row for row in read_metrics(folder) if row["step"] <= state.global_step] if path.exists() else []
            checkpoint.write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept))
            self._trim_samples(state.global_step)
            self.first_step, self.started = state.global_step, time.monotonic()
            self.tokens = self.last_tokens = max((row.get("num_tokens", 0) for row in kept), default=0)
            self.last_time = self.started
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()  # of training alone, and not of the checks before it
            self.counting = model.register_forward_pre_hook(self._count, with_kwargs=True)

        def on_train_end(self, args, state, control, **kwargs):
            self.counting.remove()

        def _count(self, module, positional, batch) -> None:
            """Real tokens, padding left out, of a forward pass that trains; unsloth's trainer logs no such number."""
            if torch.is_grad_enabled():
                mask = batch.get("attention_mask")
                self.tokens = self.tokens + (batch["input_ids"].numel() if mask is None else mask.sum())

        def _trim_samples(self, step: int) -> None:
            """A resumed run has answered at the start once more, and may answer at later steps again."""
            path = folder / "samples.jsonl"
            if path.exists():
                kept = [json.dumps(row, ensure_ascii=False) for row in _steps(path) if row["step"] <= step]
                checkpoint.write_atomically(path, "".join(row + "\n" for row in dict.fromkeys(kept)))

        def on_log(self, args, state, control, logs=None, **kwargs):
            if not logs or "train_runtime" in logs or any(key.startswith(PROBE) for key in logs):
                return  # totals, and what probe() returns to its caller
            row = {"step": state.global_step, "epoch": round(state.epoch or 0, 4)}
            row |= {key: value for key, value in logs.items() if isinstance(value, int | float) and key != "epoch"}
            if "loss" in logs:
                row |= self._rates(state)
            with (folder / METRICS_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(json_safe(row)) + "\n")
            print(self._line(state, row))
            for name in ("loss", "eval_loss"):
                if not math.isfinite(row.get(name, 0)):
                    raise _diverged(args, state, f"{name} is {row[name]}")

        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            """Gradients that are not finite would spoil every weight; they come with a loss that is not finite, too."""
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            if torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
                self.skipped = 0
                return
            self.skipped += 1
            if not args.fp16 or self.skipped > SKIPPED_STEPS:  # fp16's scaler leaves out such a step by itself
                raise _diverged(args, state, "the gradient is not finite")

        def on_evaluate(self, args, state, control, **kwargs):
            if samples and self.last_sampled_step != state.global_step:
                self.last_sampled_step = state.global_step
                shown = samples()
                with (folder / "samples.jsonl").open("a", encoding="utf-8") as file:
                    for prompt, answer in shown:
                        row = {"step": state.global_step, "prompt": prompt, "answer": answer}
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
                for prompt, answer in shown:
                    print(f"  ▸ {_one_line(prompt, 56)}\n    → {_one_line(answer, 100)}")

        def on_save(self, args, state, control, **kwargs):
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", arguments or {})

        def _rates(self, state) -> dict:
            tokens, now = int(self.tokens), time.monotonic()
            done = max(state.global_step - self.first_step, 1)
            rates = {
                "num_tokens": tokens,
                "tokens_per_second": round((tokens - self.last_tokens) / max(now - self.last_time, 1e-9)),
                "eta_seconds": round((now - self.started) / done * (state.max_steps - state.global_step), 1),
            }
            if torch.cuda.is_available():
                rates["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
            self.last_tokens, self.last_time = tokens, now
            return rates

        def _line(self, state, row) -> str:
            parts = [f"step {row['step']:>4}/{state.max_steps}", f"epoch {row['epoch']:.2f}"]
            if "loss" in row:
                parts += [f"{_short(name)} {row[name]:.4g}" for name in fields if name in row]
                parts += [f"grad {row['grad_norm']:.3g}"] if "grad_norm" in row else []
                parts += [f"lr {row.get('learning_rate', 0):.2e}"]
                parts += [f"{row['tokens_per_second']:,} tok/s"]
                if "peak_memory_bytes" in row:
                    parts += [f"peak {checkpoint.gib(row['peak_memory_bytes'])}"]
                parts += [f"ETA {format_duration(row['eta_seconds'])}"]
            else:
                wanted = [f"eval_{name}" for name in fields]
                parts += [f"{_short(name)} {row[name]:.4g}" for name in wanted if name in row]
            return " | ".join(parts)

    class StopOnSignal(TrainerCallback):
        """Ctrl-C (or SIGTERM) saves a checkpoint after the running step, then stops; a second one stops at once."""

        def on_train_begin(self, args, state, control, **kwargs):
            self.asked = False
            self.previous = {name: signal.signal(name, self._ask) for name in (signal.SIGINT, signal.SIGTERM)}

        def _ask(self, number, frame):
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True
            # Not print: the signal may have come in the middle of one, which Python forbids to begin anew.
            os.write(1, b"\nstopping after this step; a checkpoint is saved first (again to stop at once)\n")

        def on_step_end(self, args, state, control, **kwargs):
            if self.asked:
                control.should_save = control.should_training_stop = True
            return control

        def on_train_end(self, args, state, control, **kwargs):
            for name, handler in self.previous.items():
                signal.signal(name, handler)

    return [Monitor(), StopOnSignal()]


def _diverged(args, state, what: str) -> CheckFailed:
    """Training cannot go on. What was learned until then is not what anyone wants, but its checkpoints are kept."""
    last, _ = latest_checkpoint(args.output_dir)
    kept = f"{last} is the last sound checkpoint" if last else "there is no checkpoint yet"
    return CheckFailed(
        f"training diverged in step {state.global_step + 1}: {what}; the step was not taken and no adapter is saved "
        f"({kept}). Start over with --overwrite and a lower --learning_rate (it was {args.learning_rate:g}), a longer "
        "--warmup_ratio or a smaller --max_grad_norm; where it happens in the first step, the base model or the dtype "
        "is to blame (--dtype bfloat16 or float32 instead of float16)"
    )


def was_stopped(trainer) -> bool:
    """Did a signal end the run before its last step?"""
    asked = any(getattr(callback, "asked", False) for callback in trainer.callback_handler.callbacks)
    return asked and trainer.state.global_step < trainer.state.max_steps


def probe(trainer, count: int = 128) -> dict[str, float]:
    """Evaluate on the first `count` training rows: names as TRL logs them (`loss`, `rewards/accuracies`, …).

    Raises:
        CheckFailed: the loss is not finite.
    """
    rows = trainer.train_dataset.select(range(min(count, len(trainer.train_dataset))))
    # Reference scores that were computed beforehand are computed anew by evaluate(), which would double the columns.
    rows = rows.remove_columns([name for name in rows.column_names if name.startswith("ref_")])
    trainer.evaluate(rows, metric_key_prefix=PROBE)
    logged = trainer.state.log_history[-1]  # TRL adds its own metrics to the log only
    found = {name.removeprefix(f"{PROBE}_").removeprefix("eval_"): value for name, value in logged.items()}
    if not math.isfinite(found["loss"]):
        raise CheckFailed(
            f"the loss on the training rows is {found['loss']}: the model has weights that are not finite, or "
            "overflows in its dtype; check the base model, or try --dtype bfloat16 or float32. Nothing was saved"
        )
    return found


def answer_samples(model, tokenizer, conversations: list[list[dict]], *, max_new_tokens: int = 64):
    """A function that answers up to three prompts greedily with the model as it now is.

    Args:
        conversations: rows' messages; the last assistant turn of each is left out and asked for.
    """
    prompts = [messages[:-1] if messages[-1]["role"] == "assistant" else messages for messages in conversations[:3]]

    def answer() -> list[tuple[str, str]]:
        import torch
        from transformers import GenerationConfig

        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=chat.end_of_turn(tokenizer)[1],
            pad_token_id=tokenizer.pad_token_id,
        )
        was_training = model.training
        model.eval()
        shown = []
        for messages in prompts:
            ids = torch.tensor([chat.prompt_ids(tokenizer, messages)], device=model.device)  # (1, prompt)
            with torch.no_grad():
                out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
            text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
            shown.append((messages[-1]["content"], text.rstrip("\ufffd")))
        model.train(was_training)
        return shown

    return answer


def plot(folder: str | Path, panels: dict[str, tuple[str, ...]], filename: str = "loss.png") -> None:
    """Draw `metrics.jsonl`: one panel for each entry, title → metric names; evaluations as dots."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_metrics(folder)
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5.2 * len(panels), 3.6), squeeze=False)
    for axis, (title, names) in zip(axes[0], panels.items(), strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            held_out = [(row["step"], row[f"eval_{name}"]) for row in rows if f"eval_{name}" in row]
            label = name.rpartition("/")[2]
            if points:
                (line,) = axis.plot(*zip(*points, strict=True), linewidth=1.4, label=label)
            if held_out:
                color = line.get_color() if points else None
                axis.plot(*zip(*held_out, strict=True), "o--", markersize=4, color=color, label=f"{label} (valid)")
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.lines:
            axis.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(Path(folder) / filename, dpi=130)
    pyplot.close(figure)


def _one_line(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _short(name: str) -> str:
    return name.replace("rewards/", "").replace("logps/", "logp ")


def format_duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
