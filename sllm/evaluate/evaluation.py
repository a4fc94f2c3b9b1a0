"""An evaluation: every model's scores with intervals, every pair of models compared, as one JSON object and one line
for each question."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sllm import checkpoint, cli
from sllm.cli import InputError
from sllm.evaluate import statistics, suites
from sllm.evaluate.answers import AnsweredBy
from sllm.evaluate.statistics import Difference, Scores
from sllm.evaluate.suites import SUITES, Question, Suite
from sllm.gate_record import RESULTS

ANSWERS, REPORT = "answers.jsonl", "report.html"
AllScores = dict[str, dict[str, dict[str, Scores]]]  # model → suite → metric → (questions,)


@dataclass(frozen=True)
class Evaluation:
    """`results`: what results.json holds. `lines`: a question each, with every model's answers and scores."""

    results: dict[str, Any]
    lines: list[dict[str, Any]]


def choose_suites(names: Sequence[str] | None, questions: list[Question]) -> list[Suite]:
    """The suites that were named, or all that the questions allow. InputError for one that none of them allows."""
    possible = [suite for suite in SUITES.values() if suites.applicable(suite, questions)]
    if not names:
        if not possible:
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


def evaluate(questions: list[Question], models: list[AnsweredBy], chosen: list[Suite]) -> Evaluation:
    """Score every answer; shows which model is being scored."""
    scores: AllScores = {}
    for model in models:
        cli.say("scoring", f"{model.name}: {cli.plural(len(questions), 'question')}")
        scores[model.name] = {suite.name: suites.score(suite, questions, model.answers) for suite in chosen}
    results = {
        "questions": len(questions),
        "models": {model.name: {"source": model.source, "scores": _means(scores[model.name])} for model in models},
        "suites": {suite.name: _described(suite) for suite in chosen},
        "by_task": {suite.name: _by_task(suite, questions, scores) for suite in chosen},
        "comparisons": _comparisons(chosen, scores),
        "statistics": {"level": statistics.LEVEL, "resamples": statistics.RESAMPLES, "seed": statistics.SEED,
                       "power": statistics.POWER},
        "versions": checkpoint.versions(),
    }  # fmt: skip
    lines = [
        {
            "id": question.id, "task": question.task, "messages": question.messages, "reference": question.reference,
            "answers": {model.name: [answer.text for answer in model.answers[question.id]] for model in models},
            "finish_reasons": {model.name: [a.finish_reason for a in model.answers[question.id]] for model in models},
            "scores": {name: _scores_of(of_model, i) for name, of_model in scores.items()},
        }
        for i, question in enumerate(questions)
    ]  # fmt: skip
    return Evaluation(results, lines)


def _means(scores: dict[str, dict[str, Scores]]) -> dict[str, dict[str, Any]]:
    means = {
        suite: {metric: statistics.mean(values) for metric, values in metrics.items()}
        for suite, metrics in scores.items()
    }
    return {
        suite: {metric: asdict(mean) for metric, mean in metrics.items() if mean.n} for suite, metrics in means.items()
    }


def _described(suite: Suite) -> dict[str, Any]:
    metrics = {
        metric.key: {"ko": metric.name_ko, "en": metric.name_en, "lower": metric.lower, "neutral": metric.neutral}
        for metric in suite.metrics
    }
    return {"ko": suite.name_ko, "en": suite.name_en, "headline": suite.metrics[0].key, "metrics": metrics}


def _by_task(suite: Suite, questions: list[Question], scores: AllScores) -> dict[str, dict[str, Any]]:
    """The suite's headline metric for each task and model."""
    tasks = sorted({question.task or "" for question in questions})
    rows: dict[str, dict[str, Any]] = {}
    for task in tasks:
        of_task = np.array([(question.task or "") == task for question in questions])
        means = {
            name: statistics.mean(of_model[suite.name][suite.metrics[0].key][of_task])
            for name, of_model in scores.items()
        }
        if any(mean.n for mean in means.values()):
            rows[task] = {name: asdict(mean) for name, mean in means.items()}
    return rows


def _comparisons(chosen: list[Suite], scores: AllScores) -> list[dict[str, Any]]:
    """Every pair of models by each suite's headline metric, corrected for all of them together."""
    pairs = list(itertools.combinations(scores, 2))
    family = [(suite, first, second) for first, second in pairs for suite in chosen]
    differences = []
    for suite, first, second in family:
        metric = suite.metrics[0].key
        values = (scores[name][suite.name][metric] for name in (first, second))
        differences.append(statistics.compare(*values, comparisons=len(family)))
    return [
        {"suite": suite.name, "metric": suite.metrics[0].key, "first": first, "second": second} | as_record(difference)
        for (suite, first, second), difference in zip(family, statistics.holm(differences), strict=True)
    ]


def as_record(difference: Difference) -> dict[str, Any]:
    return asdict(difference) | {"significant": difference.significant}


def _scores_of(scores: dict[str, dict[str, Scores]], index: int) -> dict[str, dict[str, float]]:
    return {
        suite: {
            metric: round(float(values[index]), 6) for metric, values in metrics.items() if not np.isnan(values[index])
        }
        for suite, metrics in scores.items()
    }


# ── on disk ──


def write(evaluation: Evaluation, folder: Path) -> None:
    content = cli.json_safe(evaluation.results)
    text = "".join(json.dumps(cli.json_safe(line), ensure_ascii=False) + "\n" for line in evaluation.lines)
    checkpoint.write_atomically(folder / ANSWERS, text)
    checkpoint.write_atomically(folder / RESULTS, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def load(folder: str | Path) -> Evaluation:
    """InputError for a folder that evaluate_model.py did not write, or not to its end."""
    try:
        if checkpoint.read_run(folder) is None:
            raise ValueError
        results = json.loads((Path(folder) / RESULTS).read_text(encoding="utf-8"))
        lines = [json.loads(line) for line in (Path(folder) / ANSWERS).read_text(encoding="utf-8").split("\n")[:-1]]
        [results[key] for key in ("questions", "models", "suites", "by_task", "comparisons")]
        [line["scores"] for line in lines]
    except (OSError, ValueError, TypeError, LookupError):
        raise InputError(
            f"{folder} has no results; make it with `python evaluate_model.py --models … --output_dir {folder}`"
        ) from None
    return Evaluation(results, lines)


def scores_of(evaluation: Evaluation, model: str) -> dict[str, dict[str, float]]:
    """The headline scores of a model: suite → id of a question → score."""
    headlines = {name: suite["headline"] for name, suite in evaluation.results["suites"].items()}
    return {
        name: {
            line["id"]: line["scores"][model][name][metric]
            for line in evaluation.lines
            if metric in line["scores"][model].get(name, {})
        }
        for name, metric in headlines.items()
    }


# ── on the terminal ──


def headlines(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The value of each suite's headline metric: model → suite → value."""
    return {
        name: {suite: model["scores"][suite][described["headline"]]["value"] for suite, described in
               results["suites"].items()}
        for name, model in results["models"].items()
    }  # fmt: skip


def tables(results: dict[str, Any]) -> str:
    """The headline metrics of each model, and what the comparisons of two models say."""
    described = results["suites"]
    headers = ["model", *(suite["metrics"][suite["headline"]]["en"] for suite in described.values())]
    rows = [
        (name, *(interval(model["scores"][suite][described[suite]["headline"]]) for suite in described))
        for name, model in results["models"].items()
    ]
    text = cli.table(headers, rows)
    if results["comparisons"]:
        text += "\n\n" + cli.table(
            ["comparison", "metric", "difference", "better/worse", "p", "verdict"],
            [
                (
                    f"{c['first']} → {c['second']}", described[c["suite"]]["metrics"][c["metric"]]["en"],
                    difference_text(c), f"{c['better']}/{c['worse']}", f"{c['corrected']:.2g}", verdict(c),
                )
                for c in results["comparisons"]
            ],
        )  # fmt: skip
    return text + (
        "\nin brackets: 95 % intervals, each by itself; p: paired tests, corrected for all of these comparisons (Holm)"
    )


def interval(mean: dict[str, Any]) -> str:
    return f"{mean['value']:.1%} ({mean['low']:.1%}–{mean['high']:.1%})"


def difference_text(comparison: dict[str, Any]) -> str:
    return f"{_points(comparison['value'])} ({_points(comparison['low'])} to {_points(comparison['high'])})"


def _points(value: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{100 * value:+.1f}"


def verdict(comparison: dict[str, Any]) -> str:
    """Which is better; or that nothing can be said, and what difference could have been seen."""
    if comparison["significant"]:
        return f"{comparison['second' if comparison['value'] > 0 else 'first']} is better"
    points = needed(comparison)
    return f"no difference shown ({points}{' would be' if points[0].isdigit() else ''})"


def needed(comparison: dict[str, Any]) -> str:
    """The difference that so many questions would show with 80 % probability."""
    points = comparison["detectable"]  # None: infinite
    return f"{100 * points:.1f} points" if points is not None and points <= 1 else "too few questions"
