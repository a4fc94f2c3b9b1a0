"""`metrics.jsonl` of a training run: read, drawn, and summed up for run.json."""

import json
from pathlib import Path

from sllm import runs

METRICS_FILE = "metrics.jsonl"


def read_metrics(folder: str | Path) -> list[dict]:
    """The rows of `metrics.jsonl`; lines that are damaged are left out: a kill tears the last one."""
    return read_steps(Path(folder) / METRICS_FILE)


def read_steps(path: Path) -> list[dict]:
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


def plot(folder: str | Path, panels: dict[str, tuple[str, ...]]) -> None:
    """Draw `metrics.jsonl` as `loss.png`: one panel for each entry, title → metric names; evaluations as dots."""
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
    figure.savefig(Path(folder) / "loss.png", dpi=130)
    pyplot.close(figure)


def final_metrics(trainer, seconds: float) -> dict:
    """Steps, seconds of training alone, peak memory (the process's, and a GPU's), and the best evaluation's numbers
    where there was one."""
    state = trainer.state
    last = read_metrics(trainer.args.output_dir)[-1]
    metrics = {"steps": state.global_step, "epochs": round(state.epoch or 0, 2), "train_seconds": round(seconds, 1)}
    metrics["peak_rss_bytes"] = runs.peak_rss()
    if "peak_memory_bytes" in last:
        metrics["peak_memory_bytes"] = last["peak_memory_bytes"]
    if state.best_metric is not None:
        metrics |= {"best_eval_loss": state.best_metric, "best_step": state.best_global_step}
    return metrics
