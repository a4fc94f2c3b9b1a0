"""A picture of the ratings of `sllm.bradley_terry`."""

from typing import TYPE_CHECKING, Any

import numpy as np

from sllm.bradley_terry import Ratings

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot(ratings: Ratings, path: str) -> None:
    """Ratings and win rates with their intervals, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models, pairs = ratings.models[::-1], ratings.pairs[::-1]
    size = 0.45 * (len(models) + len(pairs)) + 2.2
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(8, size), height_ratios=[len(models) + 1, len(pairs) + 1], layout="constrained"
    )
    _plot_intervals(above, models, "rating", [f"{m.model}  ({m.votes} votes)" for m in models])
    _plot_intervals(below, pairs, "a_rate", [f"{p.a} over {p.b}  ({p.votes} votes)" for p in pairs])
    above.set_title("Bradley–Terry rating, 95 % bootstrap interval", loc="left", fontsize=11)
    below.set_title("Win rate (ties half), 95 % bootstrap interval", loc="left", fontsize=11)
    below.set_xlim(-0.03, 1.03)
    below.axvline(0.5, color="#888", linewidth=1, linestyle=":")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _plot_intervals(axis: "Axes", entries: list[Any], value: str, labels: list[str]) -> None:
    values = [getattr(entry, value) for entry in entries]
    errors = [(max(0, v - entry.low), max(0, entry.high - v)) for v, entry in zip(values, entries, strict=True)]
    xerr = np.array(errors).reshape(-1, 2).T  # (2, entries)
    axis.errorbar(values, range(len(entries)), xerr=xerr, fmt="o", color="#2456d6", capsize=4)
    axis.set_yticks(range(len(entries)), labels)
    axis.set_ylim(-0.6, len(entries) - 0.4)
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
