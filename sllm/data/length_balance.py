"""The margins of pairs, and whether the chosen answers are the longer ones: DPO learns that too, and writes longer and
longer answers."""

import random
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, quantiles
from typing import Any

from sllm.data.preferences import PreferenceEntry

MOST = 0.51  # share of the pairs, equally long ones aside, in which the same side may be longer
LEVEL = 0.95


def describe(entries: Sequence[PreferenceEntry]) -> dict[str, Any]:
    """Of the pairs whose answers are not equally long: in which share the chosen one is longer, with Wilson's interval.
    `mean_difference`: characters of the chosen answer minus those of the rejected one, over all pairs."""
    differences = [entry.length_difference for entry in entries]
    longer, shorter = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    found: dict[str, Any] = {"pairs": len(entries), "longer": longer, "shorter": shorter}
    found["mean_difference"] = round(fmean(differences), 1) if differences else None
    if longer + shorter:
        from scipy.stats import binomtest

        interval = binomtest(longer, longer + shorter).proportion_ci(LEVEL, method="wilson")
        found |= {"share_longer": longer / (longer + shorter), "low": float(interval.low), "high": float(interval.high)}
    return found


def balance(entries: Sequence[PreferenceEntry], seed: int) -> list[PreferenceEntry]:
    """The entries without as many as it takes for either side to be longer in at most `MOST` of them; of each source,
    those with the smallest margins go first, and where there are no margins, `seed` decides."""
    longer = [entry for entry in entries if entry.length_difference > 0]
    shorter = [entry for entry in entries if entry.length_difference < 0]
    many, few = (longer, shorter) if len(longer) > len(shorter) else (shorter, longer)
    excess = len(many) - int(len(few) * MOST / (1 - MOST) + 1e-9)
    if excess <= 0:
        return list(entries)
    order = _weakest_first(many, random.Random(seed))
    dropped = {id(entry) for entry in order[:excess]}
    return [entry for entry in entries if id(entry) not in dropped]


def _weakest_first(entries: Sequence[PreferenceEntry], draw: random.Random) -> list[PreferenceEntry]:
    """By the rank of the margin among those of the same source: the scores of two sources do not compare."""
    by_source: dict[str, list[PreferenceEntry]] = defaultdict(list)
    for entry in draw.sample(entries, len(entries)):
        by_source[entry.source].append(entry)
    ranked = []
    for own in by_source.values():
        own.sort(key=lambda entry: entry.margin or 0.0)
        ranked += [((place + 0.5) / len(own), entry) for place, entry in enumerate(own)]
    return [entry for _, entry in sorted(ranked, key=lambda one: one[0])]


def margins(entries: Sequence[PreferenceEntry]) -> dict[str, dict[str, float]]:
    """By source: number, mean, smallest, 10th, 50th and 90th percentile and largest of the margins of its pairs, where
    they are scored."""
    by_source: dict[str, list[float]] = defaultdict(list)
    for entry in entries:
        if entry.margin is not None:
            by_source[entry.source].append(entry.margin)
    return {source: _distribution(values) for source, values in by_source.items()}


def _distribution(values: list[float]) -> dict[str, float]:
    deciles = quantiles(values, n=10, method="inclusive") if len(values) > 1 else values * 9
    shown = {"mean": fmean(values), "least": min(values), "p10": deciles[0], "p50": deciles[4], "p90": deciles[8],
             "most": max(values)}  # fmt: skip
    return {"pairs": len(values)} | {name: round(value, 4) for name, value in shown.items()}


def parts(entries: Sequence[PreferenceEntry]) -> dict[str, dict[str, float]]:
    """Each part of the scores: the number of pairs that have it, its mean over chosen and rejected answers, and in
    how many of each it is 1: true, or all rules kept."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for entry in entries:
        sides = entry.scores or {"chosen": {}, "rejected": {}}
        for name in sides["chosen"].keys() - {"score"}:
            found[name].append((sides["chosen"][name], sides["rejected"][name]))
    return {
        name: {
            "pairs": len(each),
            "chosen_mean": round(fmean(chosen for chosen, _ in each), 4),
            "rejected_mean": round(fmean(rejected for _, rejected in each), 4),
            "chosen_full": sum(chosen == 1 for chosen, _ in each),
            "rejected_full": sum(rejected == 1 for _, rejected in each),
        }
        for name, each in sorted(found.items())
    }
