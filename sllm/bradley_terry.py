"""Which model wins: win rates and Bradley–Terry ratings of pairwise votes, with bootstrap intervals.

A vote for neither (a tie, or both bad) counts as half a win for each side. Ratings maximise the Bradley–Terry
likelihood (Biometrika 39, 1952) by Newton's method, with one added tie for every two models that met, so that a model
which won every vote has a finite rating. They are on Elo's scale, 400 · log10, around 1,000 in each group of models
that met, directly or through others: ratings of different groups do not compare.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

MAX_ITERATIONS = 100  # of Newton's method, which requires about ten
Vote = tuple[str, str, str]  # left model, right model, and left, right, tie or both_bad


@dataclass
class ModelRating:
    """`low`, `high`: the 95 % interval of the rating; `ties`: votes for neither; `group`: models that compare."""

    model: str
    rating: float
    low: float
    high: float
    group: int
    votes: int
    wins: int
    losses: int
    ties: int


@dataclass
class PairRating:
    """`a_rate`: share of the votes that `a` won, ties half; `low`, `high`: its 95 % interval."""

    a: str
    b: str
    votes: int
    a_wins: int
    b_wins: int
    ties: int
    both_bad: int
    a_rate: float
    low: float
    high: float


@dataclass
class Ratings:
    """`models`: the best first, group by group; `pairs`: of models that met."""

    models: list[ModelRating] = field(default_factory=list)
    pairs: list[PairRating] = field(default_factory=list)


def rate(votes: list[Vote], *, samples: int = 1000, seed: int = 42, questions: Sequence[int] | None = None) -> Ratings:
    """
    Args:
        samples: bootstrap resamples; intervals are the 2.5th and 97.5th percentile.
        questions: the number, from 0, of the question that each vote is on. Resamples then draw questions with all
            their votes: where every two models are compared on each question, these are not independent.
    """
    names = sorted({name for left, right, _ in votes for name in (left, right)})
    if not names:
        return Ratings()
    index = {name: number for number, name in enumerate(names)}
    wins = _win_counts(votes, index, samples, seed, range(len(votes)) if questions is None else questions)
    met = (wins[0] + wins[0].T) > 0
    groups = _groups(met)
    estimates = _bradley_terry(wins + 0.5 * met)
    low, high = np.percentile(estimates[1:], [2.5, 97.5], axis=0)
    models = []
    for name, i in index.items():
        winners = [_winner(vote) for vote in votes if name in vote[:2]]
        won, ties = winners.count(name), winners.count(None)
        rating, lower, upper = (round(float(value), 1) for value in (estimates[0, i], low[i], high[i]))
        counts = (len(winners), won, len(winners) - won - ties, ties)
        models.append(ModelRating(name, rating, lower, upper, groups[i], *counts))
    models.sort(key=lambda model: (model.group, -model.rating))
    pairs = []
    for a, b in combinations([model.model for model in models], 2):
        if pair_votes := [vote for vote in votes if {*vote[:2]} == {a, b}]:
            i, j = index[a], index[b]
            pairs.append(_pair(a, b, pair_votes, wins[:, i, j], wins[:, j, i]))
    return Ratings(models, pairs)


def _winner(vote: Vote) -> str | None:
    left, right, choice = vote
    return {"left": left, "right": right}.get(choice)


def _win_counts(
    votes: list[Vote], index: dict[str, int], samples: int, seed: int, questions: Sequence[int]
) -> np.ndarray:
    """(samples + 1, models, models): wins of i over j; sample 0 is all votes once, the others are resamples."""
    score = np.array([{"left": 1.0, "right": 0.0}.get(choice, 0.5) for *_, choice in votes])
    units = max(questions) + 1
    drawn = np.random.default_rng(seed).integers(units, size=(samples, units))
    weights = np.stack([np.bincount(row, minlength=units) for row in [np.arange(units), *drawn]])[:, questions]
    wins = np.zeros((samples + 1, len(index), len(index)))
    for number, (left, right, _) in enumerate(votes):
        wins[:, index[left], index[right]] += weights[:, number] * score[number]
        wins[:, index[right], index[left]] += weights[:, number] * (1 - score[number])
    return wins


def _pair(a: str, b: str, votes: list[Vote], a_wins: np.ndarray, b_wins: np.ndarray) -> PairRating:
    """`a_wins`, `b_wins`: (samples + 1,)"""
    total = a_wins + b_wins
    rates = a_wins[total > 0] / total[total > 0]
    low, high = np.percentile(rates[1:], [2.5, 97.5], axis=0)
    a_rate, lower, upper = (round(float(value), 4) for value in (rates[0], low, high))
    winners, choices = [_winner(vote) for vote in votes], [choice for *_, choice in votes]
    counts = (winners.count(a), winners.count(b), choices.count("tie"), choices.count("both_bad"))
    return PairRating(a, b, len(votes), *counts, a_rate, lower, upper)


def _bradley_terry(wins: np.ndarray) -> np.ndarray:
    """Ratings of every sample. `wins`: (samples, models, models); returns (samples, models)."""
    played, won = wins + wins.transpose(0, 2, 1), wins.sum(2)
    models = wins.shape[1]
    strength = np.zeros(won.shape)  # natural logarithms; each group keeps the mean 0
    for _ in range(MAX_ITERATIONS):
        p = 1 / (1 + np.exp(strength[:, None, :] - strength[:, :, None]))  # [sample, i, j]: i beats j
        gradient = won - (played * p).sum(2)
        if np.abs(gradient).max() < 1e-9:
            break
        curve = played * p * (1 - p)
        # The two small terms make the matrix invertible along the groups' means, which the likelihood ignores.
        hessian = np.einsum("sij,ik->sik", curve, np.eye(models)) - curve + 1 / models + 1e-9 * np.eye(models)
        strength += np.clip(np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0], -2, 2)
    rating: np.ndarray = 1000 + 400 / np.log(10) * strength
    return rating


def _groups(met: np.ndarray) -> list[int]:
    """A number for each model: the same for models that met, directly or through others. `met`: (models, models)."""
    number = list(range(len(met)))
    for i, j in zip(*np.nonzero(met), strict=True):
        number = [number[i] if old == number[j] else old for old in number]
    return [sorted(set(number)).index(old) for old in number]
