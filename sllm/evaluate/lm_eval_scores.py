"""What lm-evaluation-harness found, as scores of each question."""

from typing import Any

import numpy as np

from sllm.cli import InputError
from sllm.evaluate.statistics import Scores
from sllm.evaluate.suites import Measured, Metric, Suite

SUITE = Suite("lm_eval", "lm-eval", "lm-eval", (
    Metric("main", "lm-eval 점수", "lm-eval score"),
    Metric("acc_norm", "정답률 (acc_norm)", "acc_norm"),
), "tasks of lm-eval", items="questions of lm-eval")  # fmt: skip
KEPT = ("results", "groups", "versions", "n-shot", "n-samples", "task_hashes", "lm_eval_version", "git_hash")


def measured(models: dict[str, dict[str, Any]]) -> Measured:
    """Scores by the first metric of each task that is a share for each question, in the order of the first model.

    Args:
        models: name → what `sllm.serve.harness.evaluate` returned.
    Raises:
        InputError: no task has such a metric, or the models were not asked the same.
    """
    first = next(iter(models.values()))
    columns = [
        (task, metric, str(sample["doc_id"]))
        for task, samples in first["samples"].items()
        for metric in [_main(samples)]
        if metric
        for sample in samples
        if sample["filter"] == samples[0]["filter"]
    ]
    if not columns:
        raise InputError("no task of --lm_eval_tasks scores each question by itself; see lm_eval/*.json")
    scores: dict[str, dict[str, Scores]] = {}
    for model, found in models.items():
        if _questions(found) != _questions(first):
            raise InputError(f"{model} was asked other questions by lm-eval; ask again, without --resume")
        by_id = {
            (task, str(s["doc_id"]), s["filter"]): s for task, samples in found["samples"].items() for s in samples
        }
        asked = [by_id[task, id, found["samples"][task][0]["filter"]] for task, _, id in columns]
        scores[model] = {
            "main": np.array([float(s[metric]) for s, (_, metric, _) in zip(asked, columns, strict=True)]),
            "acc_norm": np.array([float(s.get("acc_norm", np.nan)) for s in asked]),
        }
    details = {
        "metrics": {task: metric for task, metric, _ in columns},
        "models": {model: {key: found[key] for key in KEPT if key in found} for model, found in models.items()},
    }
    contexts = {(task, str(s["doc_id"])): s["arguments"] for task, samples in first["samples"].items() for s in samples}
    items = [{"context": _context(contexts[task, id])} for task, _, id in columns]
    return Measured(SUITE, [f"{task}-{id}" for task, _, id in columns], [task for task, _, _ in columns], scores,
                    details, _questions(first), items)  # fmt: skip


def _questions(found: dict[str, Any]) -> dict[str, Any]:
    """Hashes of what was asked, whatever template it was put into."""
    return {
        task: sorted(str(sample["doc_hash"]) + str(sample["target_hash"]) for sample in samples)
        for task, samples in found["samples"].items()
    }


def _context(arguments: Any) -> str:
    """What stands before the answers."""
    first = next(iter(arguments.values())) if isinstance(arguments, dict) else arguments[0]
    return str(next(iter(first.values())) if isinstance(first, dict) else first[0])


def _main(samples: list[dict[str, Any]]) -> str | None:
    """The first metric that every question has, as a share."""
    for metric in samples[0]["metrics"]:
        values = [sample.get(metric) for sample in samples]
        if all(isinstance(value, int | float) and 0 <= value <= 1 for value in values):
            return str(metric)
    return None
