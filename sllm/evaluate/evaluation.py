"""An evaluation: every model's scores with intervals, every pair of models compared, as one JSON object and one line
for each question."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sllm import checkpoint, cli
from sllm.cli import InputError
from sllm.evaluate import statistics, suites
from sllm.evaluate.answers import AnsweredBy
from sllm.evaluate.statistics import Difference, Scores
from sllm.evaluate.suites import SUITES, Measured, Question, Suite
from sllm.gate_record import RESULTS

ANSWERS, REPORT = "answers.jsonl", "report.html"


@dataclass(frozen=True)
class Evaluation:
    """`results`: what results.json holds. `lines`: a question each, with every model's answers and scores. `items`: the
    same of each suite that has items of its own."""

    results: dict[str, Any]
    lines: list[dict[str, Any]]
    items: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


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
) -> Evaluation:
    """Means, intervals and comparisons of what the suites found.

    Args:
        sources: of each model, where it comes from.
        questions, answered: empty where no suite looks at answers.
    """
    results = {
        "questions": len(questions),
        "models": {
            name: {"source": source, "scores": {m.suite.name: _means(m, name) for m in measured}}
            for name, source in sources.items()
        },
        "suites": {m.suite.name: _described(m.suite) | {"n": len(m.ids)} for m in measured},
        "by_task": {m.suite.name: _by_task(m) for m in measured},
        "details": {m.suite.name: m.details for m in measured if m.details},
        "comparisons": _comparisons(measured, list(sources)),
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
        }
        for i, question in enumerate(questions)
    ]  # fmt: skip
    items = {
        m.suite.name: [
            {"id": id, "task": task, **item, "scores": {name: _scores_of([m], name, i) for name in sources}}
            for i, (id, task, item) in enumerate(zip(m.ids, m.tasks, m.items, strict=True))
        ]
        for m in measured
        if m.items is not None
    }
    return Evaluation(results, lines, items)


def _means(measured: Measured, model: str) -> dict[str, Any]:
    scores = measured.scores[model]
    means = {
        metric.key: statistics.mean(scores[metric.key], least=metric.least, most=metric.most)
        for metric in measured.suite.metrics
        if metric.key in scores
    }
    return {key: asdict(mean) for key, mean in means.items() if mean.n}


def _described(suite: Suite) -> dict[str, Any]:
    metrics = {
        metric.key: {"ko": metric.name_ko, "en": metric.name_en, "lower": metric.lower, "neutral": metric.neutral,
                     "unit": metric.unit, "least": metric.least, "most": metric.most}
        for metric in suite.metrics
    }  # fmt: skip
    return {"ko": suite.name_ko, "en": suite.name_en, "headline": suite.metrics[0].key, "items": suite.items,
            "metrics": metrics}  # fmt: skip


def _by_task(measured: Measured) -> dict[str, dict[str, Any]]:
    """The suite's headline metric for each task and model."""
    metric = measured.suite.metrics[0]
    rows: dict[str, dict[str, Any]] = {}
    for task in sorted({task or "" for task in measured.tasks}):
        of_task = np.array([(other or "") == task for other in measured.tasks])
        means = {
            name: statistics.mean(scores[metric.key][of_task], least=metric.least, most=metric.most)
            for name, scores in measured.scores.items()
        }
        if any(mean.n for mean in means.values()):
            rows[task] = {name: asdict(mean) for name, mean in means.items()}
    return rows


def _comparisons(measured: list[Measured], models: list[str]) -> list[dict[str, Any]]:
    """Every pair of models by each suite's headline metric, corrected for all of them together."""
    family = [(m, first, second) for first, second in itertools.combinations(models, 2) for m in measured]
    differences = [
        statistics.compare(
            m.scores[first][m.suite.metrics[0].key], m.scores[second][m.suite.metrics[0].key],
            comparisons=len(family), span=m.suite.metrics[0].most - m.suite.metrics[0].least,
        )
        for m, first, second in family
    ]  # fmt: skip
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
    content = cli.json_safe(evaluation.results)
    checkpoint.write_atomically(folder / RESULTS, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def load(folder: str | Path) -> Evaluation:
    """InputError for a folder that evaluate_model.py did not write, or not to its end."""
    try:
        if checkpoint.read_run(folder) is None:
            raise ValueError
        results = json.loads((Path(folder) / RESULTS).read_text(encoding="utf-8"))
        [results[key] for key in ("questions", "models", "by_task", "comparisons")]
        own = [name for name, suite in results["suites"].items() if suite["items"] != "questions"]
        lines, *items = [_read_lines(Path(folder) / name) for name in (ANSWERS, *(f"{name}.jsonl" for name in own))]
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
    """The headline scores of a model: suite → id of a question → score."""
    headlines = {name: suite["headline"] for name, suite in evaluation.results["suites"].items()}
    return {
        name: {
            line["id"]: line["scores"][model][name][metric]
            for line in evaluation.items.get(name, evaluation.lines)
            if metric in line["scores"].get(model, {}).get(name, {})
        }
        for name, metric in headlines.items()
    }


# ── on the terminal ──


def headlines(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The value of each suite's headline metric: model → suite → value."""
    return {
        name: {
            suite: model["scores"][suite][described["headline"]]["value"]
            for suite, described in results["suites"].items()
            if described["headline"] in model["scores"][suite]
        }
        for name, model in results["models"].items()
    }


def tables(results: dict[str, Any]) -> str:
    """The headline metrics of each model, and what the comparisons of two models say."""
    described = {name: suite["metrics"][suite["headline"]] for name, suite in results["suites"].items()}
    headers = ["model", *(metric["en"] for metric in described.values())]
    rows = [
        (name, *(interval(model["scores"][suite].get(results["suites"][suite]["headline"]), metric["unit"])
                 for suite, metric in described.items()))
        for name, model in results["models"].items()
    ]  # fmt: skip
    text = cli.table(headers, rows)
    if results["comparisons"]:
        text += "\n\n" + cli.table(
            ["comparison", "metric", "difference", "better/worse", "p", "verdict"],
            [
                (
                    f"{c['first']} → {c['second']}", described[c["suite"]]["en"], difference_text(c),
                    f"{c['better']}/{c['worse']}", f"{c['corrected']:.2g}", verdict(c),
                )
                for c in results["comparisons"]
            ],
        )  # fmt: skip
    return text + (
        "\nin brackets: 95 % intervals, each by itself; p: paired tests, corrected for all of these comparisons (Holm)"
    )


def number(value: float, unit: str) -> str:
    formats = {"share": "{:.1%}", "ratio": "{:.2f}", "score": "{:.2f}", "bits": "{:.3f}"}
    return formats[unit].format(value)


def interval(mean: dict[str, Any] | None, unit: str) -> str:
    if mean is None:
        return "–"
    return f"{number(mean['value'], unit)} ({number(mean['low'], unit)}–{number(mean['high'], unit)})"


def difference_text(comparison: dict[str, Any]) -> str:
    value, low, high = (change(comparison[key], comparison["unit"]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def change(value: float, unit: str) -> str:
    """A difference; of shares in percentage points."""
    formats = {"share": "{:+.1f}", "ratio": "{:+.2f}", "score": "{:+.2f}", "bits": "{:+.3f}"}
    return formats[unit].format(100 * value if unit == "share" else value)


def verdict(comparison: dict[str, Any]) -> str:
    """Which is better; or that nothing can be said, and what difference could have been seen."""
    if comparison["significant"]:
        return f"{comparison['second' if comparison['improved'] else 'first']} is better"
    points = needed(comparison)
    return f"no difference shown ({points}{' would be' if points[0].isdigit() else ''})"


def needed(comparison: dict[str, Any]) -> str:
    """The difference that so many questions would show with 80 % probability."""
    value, unit = comparison["detectable"], comparison["unit"]  # None: infinite
    if value is None or not math.isfinite(value) or (unit == "share" and value > 1):
        return "too few questions"
    return f"{change(value, unit)[1:]} points" if unit == "share" else f"{change(value, unit)[1:]} {unit}"
