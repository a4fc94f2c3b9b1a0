"""How sure a score is, and whether two models differ. Scores are one number for each question: a question that was
answered several times counts once, with the mean of its answers, as its answers are not independent.

Arrays are (questions,) float64; NaN marks a question that a metric does not apply to.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Scores: TypeAlias = np.ndarray
LEVEL = 0.95  # of intervals; tests are two-sided at 1 - LEVEL
POWER = 0.8  # of `detectable`
FEW = 20  # questions: with fewer, a bootstrap is too narrow
RESAMPLES = 4_000  # of the bootstrap
PERMUTATIONS = 20_000
SEED = 42


@dataclass(frozen=True)
class Mean:
    """A mean over `n` questions and its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """Second model minus first, over the `n` questions that both have a score for: its 95 % interval, the p-value of a
    paired test (`p`; `corrected` for all comparisons that are made together), how many questions went each way, and
    the smallest true difference that such a comparison would find in 80 % of cases (infinite: none)."""

    value: float
    low: float
    high: float
    n: int
    p: float
    better: int
    worse: int
    detectable: float
    corrected: float = math.nan

    @property
    def significant(self) -> bool:
        return self.corrected <= 1 - LEVEL


def mean(scores: Scores, *, least: float = 0.0, most: float = 1.0) -> Mean:
    """Wilson's interval where each score is 0 or 1, else as `_interval`. `least`, `most`: that a score can be."""
    known = scores[~np.isnan(scores)]
    if not len(known):
        return Mean(math.nan, math.nan, math.nan, 0)
    value = float(known.mean())
    if _is_binary(known) and (least, most) == (0, 1):
        from scipy.stats import binomtest

        interval = binomtest(int(known.sum()), len(known)).proportion_ci(LEVEL, method="wilson")
        return Mean(value, float(interval.low), float(interval.high), len(known))
    return Mean(value, *_interval(known, least, most), len(known))


def standard_error(scores: Scores) -> float | None:
    """Of their mean; None of a single one."""
    return float(scores.std(ddof=1) / math.sqrt(len(scores))) if len(scores) > 1 else None


def _is_binary(scores: Scores) -> bool:
    return bool(np.isin(scores, (0, 1)).all())


def _interval(values: Scores, least: float, most: float) -> tuple[float, float]:
    """Of the mean of values from `least` to `most`: a bootstrap over the questions (BCa), Student's of a few of them,
    and the rule of three where all are equal (nothing where values have no bounds)."""
    n, value = len(values), float(values.mean())
    if np.ptp(values) < 1e-12:
        half = 3 / n * (most - least) if math.isfinite(most - least) else 0.0
    elif n < FEW:
        from scipy.stats import t

        half = float(t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
    else:
        from scipy.stats import bootstrap

        interval = bootstrap(
            (values,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="BCa",
            batch=max(1, 4_000_000 // n), rng=np.random.default_rng(SEED),
        ).confidence_interval  # fmt: skip
        return float(interval.low), float(interval.high)
    return max(value - half, least), min(value + half, most)


def compare(first: Scores, second: Scores, *, comparisons: int = 1, span: float = 1.0) -> Difference:
    """A paired comparison: McNemar's mid-p test where every score is 0 or 1 (Fagerland et al., 2013), else a
    permutation test of the mean difference (signs flipped).

    Args:
        comparisons: how many are made together; `detectable` is of the strictest of them.
        span: the largest difference that two scores can have.
    """
    both = ~(np.isnan(first) | np.isnan(second))
    differences = second[both] - first[both]
    n, better, worse = len(differences), int((differences > 0).sum()), int((differences < 0).sum())
    if not n:
        return Difference(math.nan, math.nan, math.nan, 0, 1.0, 0, 0, math.nan)
    binary = span == 1 and _is_binary(first[both]) and _is_binary(second[both])
    if binary:
        p, (low, high) = _mcnemar(better, worse), _paired_interval(better, worse, n)
    else:
        p, (low, high) = _permutation(differences), _interval(differences, -span, span)
    return Difference(
        float(differences.mean()), low, high, n, p, better, worse, detectable(differences, comparisons, span)
    )


def compare_runs(differences: Scores, clusters: Sequence[int] | np.ndarray, *, comparisons: int = 1) -> Difference:
    """The mean difference of two kinds of models that were trained several times each, from one paired difference for
    each training seed and row. Seeds are drawn from all seeds, and rows come in clusters (those of one context), so
    that both scatter: seeds and clusters are crossed random effects (Clark, 1973), and the interval is Student's with
    Satterthwaite's degrees of freedom. A bootstrap of two to five seeds would be too narrow. With one seed the
    interval is of the rows alone: of this pair of models, not of training again.

    Args:
        differences: (seeds, rows); a row with a NaN is left out.
        clusters: (rows,) the number of each row's.
    Returns:
        `n`, `better` and `worse` count clusters.
    """
    known = ~np.isnan(differences).any(0)
    values = differences[:, known]
    _, members, sizes = np.unique(np.asarray(clusters)[known], return_inverse=True, return_counts=True)
    n = len(sizes)
    if n < 2:
        value = float(values.mean()) if n else math.nan
        return Difference(value, math.nan, math.nan, n, 1.0, 0, 0, math.nan)
    from scipy.stats import t

    value = float(values.mean())
    sums = np.stack([np.bincount(members, one - value) for one in values])
    # (seeds, clusters): their mean is that of all rows, and they scatter as a ratio of sums does
    parts = value + sums * n / sizes.sum()
    variance, freedom = _crossed_variance(parts)
    error, of_cluster = math.sqrt(variance), sums.mean(0) / sizes + value
    better, worse = int((of_cluster > 1e-12).sum()), int((of_cluster < -1e-12).sum())
    least = min(1.0, 2.0 ** (1 - better - worse))  # what a sign test of these clusters could show at most
    p = float(2 * t.sf(abs(value) / error, freedom)) if error else 0.0
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * error
    found = float(t.ppf(1 - (1 - LEVEL) / comparisons / 2, freedom) + t.ppf(POWER, freedom)) * error
    return Difference(value, value - half, value + half, n, max(p, least), better, worse, found)


def _crossed_variance(parts: np.ndarray) -> tuple[float, float]:
    """(variance, degrees of freedom) of the mean of (seeds, clusters)."""
    seeds, n = parts.shape
    by_seed, by_cluster = parts.mean(1), parts.mean(0)
    of_clusters = seeds * float(by_cluster.var(ddof=1))  # mean squares
    if seeds == 1:
        return of_clusters / n, n - 1
    of_seeds = n * float(by_seed.var(ddof=1))
    rest = parts - by_seed[:, None] - by_cluster + parts.mean()
    both = float((rest**2).sum()) / ((seeds - 1) * (n - 1))
    square, freedom = max((of_clusters, n - 1.0), (of_seeds, seeds - 1.0))
    if of_seeds + of_clusters - both > square:  # neither component is estimated as less than none
        square = of_seeds + of_clusters - both
        freedom = square**2 / (
            of_seeds**2 / (seeds - 1) + of_clusters**2 / (n - 1) + both**2 / ((seeds - 1) * (n - 1))
        )  # fmt: skip
    return square / (seeds * n), max(1.0, freedom)


def _mcnemar(better: int, worse: int) -> float:
    from scipy.stats import binom

    total, least = better + worse, min(better, worse)
    return min(1.0, float(2 * binom.cdf(least, total, 0.5) - binom.pmf(least, total, 0.5))) if total else 1.0


def _paired_interval(better: int, worse: int, n: int) -> tuple[float, float]:
    """Of a difference of two shares on the same questions (Agresti and Min, 2005, with half a question more each)."""
    from scipy.stats import norm

    more, less, total = better + 0.5, worse + 0.5, n + 2
    value = (more - less) / total
    half = norm.ppf((1 + LEVEL) / 2) * math.sqrt(more + less - (more - less) ** 2 / total) / total
    return float(max(value - half, -1.0)), float(min(value + half, 1.0))


def _permutation(differences: Scores) -> float:
    moved = differences[differences != 0]
    if not len(moved):
        return 1.0
    observed = abs(moved.sum()) * (1 - 1e-12)
    if len(moved) <= 12:  # all of them
        every = np.arange(2 ** len(moved))
        signs = 1.0 - 2 * (every[:, None] >> np.arange(len(moved)) & 1)
        return float((np.abs(signs @ moved) >= observed).mean())
    random = np.random.default_rng(SEED)
    extreme = 0
    for _ in range(PERMUTATIONS // 1000):
        signs = 2.0 * random.integers(0, 2, size=(1000, len(moved)), dtype=np.int8) - 1
        extreme += int((np.abs(signs @ moved) >= observed).sum())
    return (extreme + 1) / (PERMUTATIONS + 1)


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """The same with p-values corrected for making all these comparisons (Holm, 1979)."""
    from dataclasses import replace

    order = sorted(range(len(differences)), key=lambda i: differences[i].p)
    corrected, largest = list(differences), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, differences[i].p * (len(order) - rank)))
        corrected[i] = replace(differences[i], corrected=largest)
    return corrected


def detectable(differences: Scores, comparisons: int = 1, span: float = 1.0) -> float:
    """The true difference of means that a two-sided test at 5 % / `comparisons` finds with 80 % probability, given how
    much these differences scatter. Infinite where no difference of so few questions could be significant."""
    from scipy.stats import norm

    n, level = len(differences), (1 - LEVEL) / comparisons
    fewest = math.ceil(math.log2(2 / level))  # questions that all differ in one direction: p = 2 / 2^fewest
    if n < fewest:
        return math.inf
    spread = float(differences.std(ddof=1))
    found = float((norm.ppf(1 - level / 2) + norm.ppf(POWER)) * spread / math.sqrt(n))
    return max(found, fewest / n) if span == 1 else found
