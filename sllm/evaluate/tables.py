"""The results in words and tables, for the terminal."""

import math
from typing import Any

from sllm import cli


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


def summary(results: dict[str, Any]) -> str:
    """The headline metrics of each model, and what the comparisons of two models say."""
    described = {name: suite["metrics"][suite["headline"]] for name, suite in results["suites"].items()}
    rows = []
    for name, model in results["models"].items():
        means = {suite: model["scores"][suite].get(results["suites"][suite]["headline"]) for suite in described}
        rows.append((name, *(interval(mean, described[suite]["unit"]) for suite, mean in means.items())))
        if any(suite["held_out"] < suite["n"] for suite in results["suites"].values()):
            clean = {suite: mean.get("clean") if mean else None for suite, mean in means.items()}
            rows.append(
                (f"{name}, clean", *(interval(mean, described[suite]["unit"]) for suite, mean in clean.items()))
            )
    text = cli.table(["model", *(metric["en"] for metric in described.values())], rows)
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
    if not mean or not mean["n"]:
        return "–"
    return f"{number(mean['value'], unit)} ({number(mean['low'], unit)}–{number(mean['high'], unit)})"


def difference_text(comparison: dict[str, Any]) -> str:
    if not comparison["n"]:
        return "–"
    value, low, high = (change(comparison[key], comparison["unit"]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def change(value: float, unit: str) -> str:
    """A difference; of shares in percentage points."""
    formats = {"share": "{:+.1f}", "ratio": "{:+.2f}", "score": "{:+.2f}", "bits": "{:+.3f}"}
    return formats[unit].format(100 * value if unit == "share" else value)


def verdict(comparison: dict[str, Any]) -> str:
    """Which is better; or that nothing can be said, and what difference could have been seen."""
    if not comparison["n"]:
        return "no question to compare by"
    if comparison["significant"]:
        return f"{comparison['second' if comparison['improved'] else 'first']} is better"
    if comparison["detectable"] == 0:  # all scores are the same
        return "no difference shown"
    points = needed(comparison)
    return f"no difference shown ({points}{' would be' if points[0].isdigit() else ''})"


def needed(comparison: dict[str, Any]) -> str:
    """The difference that so many questions would show with 80 % probability."""
    value, unit = comparison["detectable"], comparison["unit"]  # None: infinite
    if value is None or not math.isfinite(value) or (unit == "share" and value > 1):
        return "too few questions"
    return f"{change(value, unit)[1:]} points" if unit == "share" else change(value, unit)[1:]
