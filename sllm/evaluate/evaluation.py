"""An evaluation: every model's scores with intervals, every pair of models compared, as one JSON object and one line
for each question."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sllm import checkpoint, cli
from sllm.cli import InputError
from sllm.evaluate import statistics, suites
from sllm.evaluate.answers import AnsweredBy
from sllm.evaluate.held_out import Overlaps
from sllm.evaluate.statistics import Difference, Scores
from sllm.evaluate.suites import SUITES, Measured, Metric, Question, Suite
from sllm.gate_record import RESULTS

ANSWERS, REPORT = "answers.jsonl", "report.html"


@dataclass(frozen=True)
class Evaluation:
    """`results`: what results.json holds. `lines`: a question each, with every model's answers and scores. `items`: the
    same of each suite that has items of its own."""

    results: dict[str, Any]
    lines: list[dict[str, Any]]
    items: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def choose_suites(names: Sequence[str] | None, questions: list[Question], *, optional: bool = False) -> list[Suite]:
    """The suites that were named, or (None) all that the questions allow. InputError for one that none of them allows,
    and where they allow none, unless that is `optional`."""
    possible = [suite for suite in SUITES.values() if suites.applicable(suite, questions)]
    if names is None:
        if not possible and not optional:
            raise InputError(f"no suite applies: no question has {', '.join(s.requires for s in SUITES.values())}")
        return possible
    problems = [
        f"--suites {name}: no question has {SUITES[name].requires}; leave it out, or ask such questions"
        for name in dict.fromkeys(names)
        if SUITES[name] not in possible
    ]
    if problems:
        raise InputError(problems)
    return [suite for suite in possible if suite.name in names]


def measure(questions: list[Question], models: list[AnsweredBy], chosen: list[Suite]) -> list[Measured]:
    """Score every answer by the suites that look at answers; shows which model is being scored."""
    scores: dict[str, dict[str, dict[str, Scores]]] = {suite.name: {} for suite in chosen}
    for model in models:
        cli.say("scoring", f"{model.name}: {cli.plural(len(questions), 'question')}")
        for suite in chosen:
            scores[suite.name][model.name] = suites.score(suite, questions, model.answers)
    ids, tasks = [question.id for question in questions], [question.task for question in questions]
    return [Measured(suite, ids, tasks, scores[suite.name]) for suite in chosen]


def evaluate(
    sources: dict[str, dict[str, Any]],
    questions: list[Question],
    answered: list[AnsweredBy],
    measured: list[Measured],
    overlaps: Overlaps,
) -> Evaluation:
    """Means, intervals and comparisons of what the suites found; comparisons are of the items that are held out.

    Args:
        sources: of each model, where it comes from.
        questions, answered: empty where no suite looks at answers.
    """
    clean = {m.suite.name: np.array([id not in _overlapping(m, overlaps) for id in m.ids]) for m in measured}
    results = {
        "questions": len(questions),
        "models": {
            name: {"source": source, "scores": {m.suite.name: _means(m, name, clean[m.suite.name]) for m in measured}}
            for name, source in sources.items()
        },
        "suites": {
            m.suite.name: _described(m.suite)
            | {"n": len(m.ids), "held_out": int(clean[m.suite.name].sum()), "asked": m.asked}
            for m in measured
        },
        "contamination": overlaps.record,
        "by_task": {m.suite.name: _by_task(m, clean[m.suite.name]) for m in measured},
        "details": {m.suite.name: m.details for m in measured if m.details},
        "comparisons": _comparisons(measured, clean, list(sources)),
        "statistics": {"level": statistics.LEVEL, "resamples": statistics.RESAMPLES, "seed": statistics.SEED,
                       "power": statistics.POWER},
        "versions": checkpoint.versions(),
    }  # fmt: skip
    of_answers = [m for m in measured if m.items is None]
    lines = [
        {
            "id": question.id, "task": question.task, "messages": question.messages, "reference": question.reference,
            "answers": {model.name: [answer.text for answer in model.answers[question.id]] for model in answered},
            "finish_reasons": {model.name: [a.finish_reason for a in model.answers[question.id]] for model in answered},
            "scores": {model.name: _scores_of(of_answers, model.name, i) for model in answered},
            "trained_on": overlaps.ids.get("questions", {}).get(question.id, []),
        }
        for i, question in enumerate(questions)
    ]  # fmt: skip
    items = {
        m.suite.name: [
            {"id": id, "task": task, **item, "scores": {name: _scores_of([m], name, i) for name in sources},
             "trained_on": _overlapping(m, overlaps).get(id, [])}
            for i, (id, task, item) in enumerate(zip(m.ids, m.tasks, m.items, strict=True))
        ]
        for m in measured
        if m.items is not None
    }  # fmt: skip
    return Evaluation(cli.json_safe(results), lines, items)  # as it is read again


def _overlapping(measured: Measured, overlaps: Overlaps) -> dict[str, list[str]]:
    """id → the models that were trained on it."""
    return overlaps.ids.get("questions" if measured.items is None else measured.suite.name, {})


def _means(measured: Measured, model: str, clean: np.ndarray) -> dict[str, Any]:
    """Of each metric; with `clean`, the same of what is held out, where something is not."""
    scores = measured.scores[model]
    means = {
        metric.key: _mean(scores[metric.key], metric, clean)
        for metric in measured.suite.metrics
        if metric.key in scores
    }
    return {key: mean for key, mean in means.items() if mean["n"]}


def _mean(scores: Scores, metric: Metric, clean: np.ndarray) -> dict[str, Any]:
    mean = asdict(statistics.mean(scores, least=metric.least, most=metric.most))
    if clean.all():
        return mean
    return mean | {"clean": asdict(statistics.mean(scores[clean], least=metric.least, most=metric.most))}


def _described(suite: Suite) -> dict[str, Any]:
    metrics = {
        metric.key: {"ko": metric.name_ko, "en": metric.name_en, "lower": metric.lower, "neutral": metric.neutral,
                     "unit": metric.unit, "least": metric.least, "most": metric.most}
        for metric in suite.metrics
    }  # fmt: skip
    return {"ko": suite.name_ko, "en": suite.name_en, "headline": suite.metrics[0].key, "items": suite.items,
            "metrics": metrics}  # fmt: skip


def _by_task(measured: Measured, clean: np.ndarray) -> dict[str, dict[str, Any]]:
    """The suite's headline metric for each task and model."""
    metric = measured.suite.metrics[0]
    rows: dict[str, dict[str, Any]] = {}
    for task in sorted({task or "" for task in measured.tasks}):
        of_task = np.array([(other or "") == task for other in measured.tasks])
        means = {
            name: _mean(scores[metric.key][of_task], metric, clean[of_task]) for name, scores in measured.scores.items()
        }
        if any(mean["n"] for mean in means.values()):
            rows[task] = means
    return {} if list(rows) == [""] else rows


def _comparisons(measured: list[Measured], clean: dict[str, np.ndarray], models: list[str]) -> list[dict[str, Any]]:
    """Every pair of models by each suite's headline metric, corrected for all of them together."""
    family = [(m, first, second) for first, second in itertools.combinations(models, 2) for m in measured]
    differences = []
    for m, first, second in family:
        metric = m.suite.metrics[0]
        values = (m.scores[name][metric.key][clean[m.suite.name]] for name in (first, second))
        span = metric.most - metric.least
        differences.append(statistics.compare(*values, comparisons=len(family), span=span))
    return [
        {"suite": m.suite.name, "metric": m.suite.metrics[0].key, "first": first, "second": second}
        | as_record(difference, _described(m.suite)["metrics"][m.suite.metrics[0].key])
        for (m, first, second), difference in zip(family, statistics.holm(differences), strict=True)
    ]


def as_record(difference: Difference, metric: dict[str, Any]) -> dict[str, Any]:
    """`better` and `worse` count questions; `improved`: the second model is better."""
    record = asdict(difference) | {"significant": difference.significant, "unit": metric["unit"]}
    if metric["lower"]:
        record |= {"better": difference.worse, "worse": difference.better}
    return record | {"improved": difference.value < 0 if metric["lower"] else difference.value > 0}


def _scores_of(measured: list[Measured], model: str, index: int) -> dict[str, dict[str, float]]:
    return {
        m.suite.name: {
            key: round(float(values[index]), 6)
            for key, values in m.scores[model].items()
            if not np.isnan(values[index])
        }
        for m in measured
    }


# ── on disk ──


def write(evaluation: Evaluation, folder: Path) -> None:
    for name, lines in [(ANSWERS, evaluation.lines), *((f"{key}.jsonl", one) for key, one in evaluation.items.items())]:
        text = "".join(json.dumps(cli.json_safe(line), ensure_ascii=False) + "\n" for line in lines)
        checkpoint.write_atomically(folder / name, text)
    checkpoint.write_atomically(folder / RESULTS, json.dumps(evaluation.results, ensure_ascii=False, indent=1) + "\n")


def load(folder: str | Path) -> Evaluation:
    """InputError for a folder that evaluate_model.py did not write, or not to its end."""
    try:
        if checkpoint.read_run(folder) is None:
            raise ValueError
        results = json.loads((Path(folder) / RESULTS).read_text(encoding="utf-8"))
        [results[key] for key in ("questions", "models", "by_task", "comparisons", "contamination")]
        own = [name for name, suite in results["suites"].items() if suite["items"] != "questions"]
        [suite["asked"] for suite in results["suites"].values()]
        lines, *items = [_read_lines(Path(folder) / name) for name in (ANSWERS, *(f"{name}.jsonl" for name in own))]
    except KeyError as error:
        raise InputError(f"{folder} was written by an earlier version (no {error} in it); evaluate again") from None
    except (OSError, ValueError, TypeError, LookupError):
        raise InputError(
            f"{folder} has no results; make it with `python evaluate_model.py --models … --output_dir {folder}`"
        ) from None
    return Evaluation(results, lines, dict(zip(own, items, strict=True)))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    [line["scores"] for line in lines]
    return lines


def scores_of(evaluation: Evaluation, model: str) -> dict[str, dict[str, float]]:
    """The headline scores of a model: suite → id of a question that is held out → score."""
    headlines = {name: suite["headline"] for name, suite in evaluation.results["suites"].items()}
    return {
        name: {
            line["id"]: line["scores"][model][name][metric]
            for line in evaluation.items.get(name, evaluation.lines)
            if metric in line["scores"].get(model, {}).get(name, {}) and not line["trained_on"]
        }
        for name, metric in headlines.items()
    }
