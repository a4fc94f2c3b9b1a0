"""report.html: one page, without a network, of everything in an evaluation; from templates/report/."""

import json
import statistics
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sllm import checkpoint, tasks
from sllm.evaluate.evaluation import REPORT, Evaluation
from sllm.evaluate.tables import change, number

TEMPLATES = Path(__file__).resolve().parent.parent.parent / "templates" / "report"
COLORS = ("#2f6fed", "#d9822b", "#1f9d68", "#b0468f", "#7a5af0", "#0f97a6", "#c4452f", "#7d8a24")  # of the models
BINS = 24  # of the histogram of lengths


def write(evaluation: Evaluation, folder: Path) -> None:
    checkpoint.write_atomically(folder / REPORT, render(evaluation))


def render(evaluation: Evaluation) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {
        "number": number,
        "change": change,
        "place": _place,
        "p": lambda value: "< 0.001" if value < 0.001 else f"{value:.3f}",
        "basename": lambda path: "/".join(Path(path).parts[-2:]),
    }
    results, lines = evaluation.results, evaluation.lines
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(results["models"])}
    template = environment.from_string((TEMPLATES / "evaluation.html.jinja").read_text(encoding="utf-8"))
    page: str = template.render(
        results=_optional_scores(results), colors=colors, lengths=_lengths(results, lines) if lines else {},
        measured=_measured(results),
        macro_f1=_macro_f1(results), retention=_retention(results), contamination=_contamination(results),
        KINDS=KINDS, judge=_judge(results, lines),
        task_names=_task_names(task for of_suite in results["by_task"].values() for task in of_suite),
        created=datetime.now(UTC).strftime("%Y-%m-%d"), num_answers=len(lines),
        data=Markup(_embedded(_reader_data(results, lines, colors))),
        script=Markup((TEMPLATES / "reader.js").read_text(encoding="utf-8")),
    )  # fmt: skip
    return page


KINDS = {
    "questions": ("질문", "questions"),
    "zero_shot": ("라벨이 있는 문항", "labelled items"),
    "lm_eval": ("lm-eval 문항", "questions of lm-eval"),
}


def _contamination(results: dict[str, Any]) -> dict[str, Any]:
    record = results.get("contamination") or {"items": {}, "models": {}}
    known = all(model["known"] and not model["missing"] for model in record["models"].values())
    overlapping = sum(counts["overlapping"] for counts in record["items"].values())
    return record | {"all_known": known, "overlapping": overlapping}


def _macro_f1(results: dict[str, Any]) -> dict[str, Any]:
    """By test set and model, by what models are compared by."""
    found = results["details"].get("zero_shot", {}).get("macro_f1", {})
    headline = results["suites"]["zero_shot"]["headline"] if found else ""
    return {name: {model: by[headline] for model, by in models.items()} for name, models in found.items()}


def _retention(results: dict[str, Any]) -> dict[str, Any]:
    """Of each model that has a base to compare with."""
    found = results["details"].get("retention", {})
    return {name: summary for name, summary in found.items() if summary}


def _judge(results: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the judge said: score histograms by suite and model, and who won how often."""
    of_judge = [name for name in results["suites"] if name.startswith("judge_")]
    if not of_judge:
        return None
    details = results["details"][of_judge[0]]
    names = list(results["models"])
    pairwise = details.get("pairwise")
    matrix: dict[str, dict[str, float | None]] = {name: dict.fromkeys(names) for name in names}
    for pair in pairwise["pairs"] if pairwise else []:
        if pair["win_rate"]:
            matrix[pair["first"]][pair["second"]] = pair["win_rate"]["value"]
            matrix[pair["second"]][pair["first"]] = 1 - pair["win_rate"]["value"]
    ratings = {one["model"]: one for one in pairwise["ratings"]} if pairwise else {}
    return {
        "reference": details["reference"],
        "relative": [
            (name, next(iter(metrics.values())))
            for of_kind in list(details.get("relative", {}).values())[:1] for name, metrics in of_kind.items()
        ],
        "model": details["model"], "language": details["language"], "agreement": details.get("agreement"),
        "tokens": details["usage"]["prompt_tokens"] + details["usage"]["completion_tokens"],
        "cost": details["usage"].get("cost"),
        "failed": sum(failure["count"] for failure in details["failed_calls"].values()),
        "pairwise": pairwise, "matrix": matrix,
        "ratings": {name: _rating(ratings.get(name)) for name in names},
        "distributions": {
            suite: {name: _distribution(results, lines, suite, name) for name in names}
            for suite in of_judge if suite != "judge_pairwise"
        },
    }  # fmt: skip


def _rating(model: dict[str, Any] | None) -> str:
    return f"{model['rating']:.0f} ({model['low']:.0f}–{model['high']:.0f})" if model else "–"


def _distribution(results: dict[str, Any], lines: list[dict[str, Any]], suite: str, model: str) -> dict[str, Any]:
    """A histogram of a model's scores by the suite's headline metric."""
    described = results["suites"][suite]
    metric = described["metrics"][described["headline"]]
    least, most = round(metric["least"]), round(metric["most"])
    counts = [0] * (most - least + 1)
    for line in lines:
        value = line["scores"][model].get(suite, {}).get(described["headline"])
        if value is not None:
            counts[round(value) - least] += 1
    return {"shares": [count / max(1, *counts) for count in counts], "least": least, "most": most}


def _place(value: float, metric: dict[str, Any]) -> float:
    """Where a value stands between the least and the most that the metric can be, from 0 to 1."""
    return float((value - metric["least"]) / (metric["most"] - metric["least"]))


def _optional_scores(results: dict[str, Any]) -> dict[str, Any]:
    """The results with None for each metric that does not apply to a model's answers."""
    models = {
        name: model | {"scores": {
            suite: {metric: model["scores"][suite].get(metric) for metric in described["metrics"]}
            for suite, described in results["suites"].items()
        }}
        for name, model in results["models"].items()
    }  # fmt: skip
    return results | {"models": models}


def _measured(results: dict[str, Any]) -> dict[str, dict[str, int]]:
    """How many questions each metric applies to: suite → metric → n, without those that apply to none."""
    return {
        suite: {
            metric: max(model["scores"][suite][metric]["n"] for model in results["models"].values()
                        if metric in model["scores"][suite])
            for metric in described["metrics"]
            if any(metric in model["scores"][suite] for model in results["models"].values())
        }
        for suite, described in results["suites"].items()
    }  # fmt: skip


def _lengths(results: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A histogram of each model's answers in characters, all with the same axis; the last bin has all that are longer
    than 98 % of the answers."""
    lengths = {name: [len(text) for line in lines for text in line["answers"][name]] for name in results["models"]}
    every = sorted(length for values in lengths.values() for length in values)
    longest = max(every[min(int(0.98 * len(every)), len(every) - 1)], BINS)
    histograms = {}
    for name, values in lengths.items():
        counts = [0] * BINS
        for value in values:
            counts[min(BINS * value // longest, BINS - 1)] += 1
        histograms[name] = {
            "shares": [count / max(counts) for count in counts],
            "median": round(statistics.median(values)),
            "longest": longest,
        }
    return histograms


def _task_names(ids: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Korean and English names of tasks; "" where one has none."""
    known = {id: tasks.TASKS.get(id) for id in sorted(set(ids))}
    return {id: (task.name_ko, task.name_en) if task else ("", "") for id, task in known.items()}


def _reader_data(results: dict[str, Any], lines: list[dict[str, Any]], colors: dict[str, str]) -> dict[str, Any]:
    """What reader.js shows. Texts before the last turn repeat (system prompts): they stand once in `texts`."""
    texts: dict[str, int] = {}
    task_names = _task_names(line["task"] or "" for line in lines)
    headlines = {name: suite["headline"] for name, suite in results["suites"].items() if suite["items"] == "questions"}
    names = {
        suite: {key: results["suites"][suite]["metrics"][metric][key] for key in ("ko", "en", "unit", "least", "most")}
        for suite, metric in headlines.items()
    }
    return {
        "models": list(results["models"]),
        "colors": colors,
        "headlines": names,
        "tasks": {id: {"ko": ko, "en": en} for id, (ko, en) in task_names.items()},
        "lines": [
            {
                "id": line["id"], "task": line["task"], "reference": line["reference"],
                "prompt": line["messages"][-1]["content"],
                "before": [
                    (message["role"], texts.setdefault(message["content"], len(texts)))
                    for message in line["messages"][:-1]
                ],
                "trained": line["trained_on"], "answers": line["answers"], "reasons": line["finish_reasons"],
                "scores": {
                    model: {
                        suite: scores[suite][metric]
                        for suite, metric in headlines.items()
                        if metric in scores.get(suite, {})
                    }
                    for model, scores in line["scores"].items()
                },
            }
            for line in lines
        ],
        "texts": list(texts),
    }  # fmt: skip


def _embedded(data: dict[str, Any]) -> str:
    """JSON that may stand in a script element: no text can end it."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
