"""Which sources of training rows helped: models trained with all of them against models trained with all but one.

A gain is what a row's score loses where a source is left out: above 0 the source helped. Scores are of the same test
rows for every model and training seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sllm import cli
from sllm.evaluate import statistics
from sllm.evaluate.statistics import Scores

HELPED, HURT, NOT_SHOWN = "helped", "hurt", "not shown"
LARGEST_TABLE = 8  # sources in a table of tasks; results.json and the plot have all
FONTS = ("NanumGothic", "Noto Sans CJK KR", "Malgun Gothic", "AppleGothic", "DejaVu Sans")  # the first that are there


@dataclass(frozen=True, eq=False)
class Measured:
    """One score of every test row by every model.

    Attributes:
        title: what is measured, as in "the held-out loss".
        lower: less is better, as with a loss.
        share: each score is 0 or 1, or between; differences are shown in percentage points.
        whole: (seeds, rows), of the models trained with all sources; NaN where it cannot be measured.
        without: source → the same of the models trained without it.
    """

    title: str
    lower: bool
    share: bool
    whole: Scores
    without: Mapping[str, Scores]

    def gains(self, source: str) -> Scores:
        """(seeds, rows)"""
        change: Scores = self.without[source] - self.whole
        return change if self.lower else -change

    def text(self, value: float) -> str:
        """A difference."""
        return f"{100 * value:+.1f}" if self.share else f"{value:+.3f}"


def analyse(measured: Measured, contexts: Sequence[int], groups: Sequence[str]) -> dict[str, Any]:
    """JSON: `sources`: name → its gain on all test rows, as of `statistics.Difference`, with a verdict; `groups`: group
    of test rows → the same on these alone, where there are two groups or more. p-values are corrected for all sources,
    and those of the groups for all groups and sources.

    Args:
        contexts: (rows,) number of what each row is about; rows of one context are not independent.
        groups: (rows,) task of each row.
    """
    names, labels = list(measured.without), sorted(set(groups))
    numbers, of_group = np.asarray(contexts), np.asarray(groups)
    everything: np.ndarray = np.ones(len(numbers), bool)
    cells = [(label, name) for label in labels for name in names] if len(labels) > 1 else []

    def compare(name: str, kept: np.ndarray, comparisons: int) -> statistics.Difference:
        return statistics.compare_runs(measured.gains(name)[:, kept], numbers[kept], comparisons=comparisons)

    overall = statistics.holm([compare(name, everything, len(names)) for name in names])
    by_group = statistics.holm([compare(name, of_group == label, len(cells)) for label, name in cells])
    grouped: dict[str, dict[str, Any]] = {label: {} for label in labels if cells}
    for (label, name), difference in zip(cells, by_group, strict=True):
        grouped[label][name] = _record(difference)
    rows = {label: int((of_group == label).sum()) for label in grouped}
    sources = {name: _record(difference) for name, difference in zip(names, overall, strict=True)}
    return {"title": measured.title, "seeds": len(measured.whole), "sources": sources, "groups": grouped, "rows": rows}


def _record(difference: statistics.Difference) -> dict[str, Any]:
    verdict = NOT_SHOWN
    if difference.significant:
        verdict = HELPED if difference.value > 0 else HURT
    return asdict(difference) | {"verdict": verdict}


# ── in words ──


def sentence(measured: Measured, analysis: Mapping[str, Any], source: str) -> str:
    """Did the source help, and on which tasks?"""
    found = analysis["sources"][source]
    value, low, high = (measured.text(found[key]).lstrip("+") for key in ("value", "low", "high"))
    points = " points" if measured.share else ""
    if found["verdict"] == NOT_SHOWN:
        least = measured.text(found["detectable"]).lstrip("+")
        text = f"{source}: no effect on the {measured.title} shown ({least}{points} would be)"
    else:
        worse = "higher" if measured.lower == (found["value"] > 0) else "lower"
        if found["value"] < 0:
            value, low, high = (measured.text(-found[key]).lstrip("+") for key in ("value", "high", "low"))
        text = (
            f"{source} {found['verdict']}: without it the {measured.title} is {value}{points} {worse} ({low} to {high})"
        )
    for verdict in (HELPED, HURT):
        of = {
            label: cells[source] for label, cells in analysis["groups"].items() if cells[source]["verdict"] == verdict
        }
        largest = sorted(of, key=lambda label: -abs(of[label]["value"]))
        listed = cli.shorten([f"{label} ({measured.text(of[label]['value'])})" for label in largest], 4)
        text += f"; it {verdict} on {', '.join(listed)}" if listed else ""
    return text


def tables(measured: Measured, analysis: Mapping[str, Any], rows: Mapping[str, str]) -> str:
    """The gain of each source, and where there are few of them, by task of the test rows; `*`: significant.

    Args:
        rows: source → its rows, in words.
    """
    lines = [
        (name, rows[name], _interval(measured, found), f"{found['corrected']:.2g}", found["verdict"])
        for name, found in analysis["sources"].items()
    ]
    unit = "points" if measured.share else "nats per token"
    text = cli.table(["source", "rows", f"{measured.title}: gain, {unit}", "p", "verdict"], lines)
    if not analysis["groups"] or len(rows) > LARGEST_TABLE:
        return text
    cells = [
        (label, analysis["rows"][label], *(f"{measured.text(cell['value'])}{'*' * cell['verdict'].startswith('h')}"
                                           for cell in of.values()))
        for label, of in analysis["groups"].items()
    ]  # fmt: skip
    return f"{text}\n\n{cli.table(['test rows of', 'rows', *rows], cells)}"


def _interval(measured: Measured, found: Mapping[str, Any]) -> str:
    return f"{measured.text(found['value'])} ({measured.text(found['low'])} to {measured.text(found['high'])})"


# ── as a picture ──


def plot(measured: Measured, analysis: Mapping[str, Any], path: Path) -> None:
    """The gain of each source with its interval, and beside it the gains by task of the test rows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import font_manager, pyplot

    installed = {font.name for font in font_manager.fontManager.ttflist}
    sources, groups = analysis["sources"], analysis["groups"]
    factor, unit = (100, "points") if measured.share else (1, "nats per token")
    height = 1.2 + 0.34 * max(len(sources), len(groups))
    with pyplot.rc_context({"font.family": [name for name in FONTS if name in installed], "axes.unicode_minus": False}):
        figure, axes = pyplot.subplots(
            1, 1 + bool(groups), figsize=(6 + (3 + 0.6 * len(sources)) * bool(groups), height), squeeze=False
        )
        axis: Any = axes[0][0]
        places = range(len(sources))
        for place, found in zip(places, sources.values(), strict=True):
            color = {HELPED: "tab:blue", HURT: "tab:red", NOT_SHOWN: "tab:gray"}[found["verdict"]]
            axis.plot([factor * found["low"], factor * found["high"]], [place, place], color=color, linewidth=2)
            axis.plot(factor * found["value"], place, "o", color=color)
        axis.set_yticks(places, sources)
        axis.invert_yaxis()
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_xlabel(f"{measured.title}: gain, {unit} (right: helped)")
        axis.spines[["top", "right"]].set_visible(False)
        if groups:
            values = factor * np.array([[cell["value"] for cell in of.values()] for of in groups.values()])
            largest = float(np.nanmax(np.abs(values), initial=1e-9))
            axis = axes[0][1]
            image = axis.imshow(values, cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
            axis.set_xticks(places, sources, rotation=30, ha="right")
            axis.set_yticks(range(len(groups)), groups)
            axis.set_title("by task of the test rows (dot: significant)", fontsize=10)
            dots = [
                (x, y) for y, of in enumerate(groups.values()) for x, cell in enumerate(of.values())
                if cell["verdict"] != NOT_SHOWN
            ]  # fmt: skip
            axis.plot([x for x, _ in dots], [y for _, y in dots], "k.", linestyle="none")
            figure.colorbar(image, ax=axis)
        figure.tight_layout()
        figure.savefig(path, dpi=140)
        pyplot.close(figure)
