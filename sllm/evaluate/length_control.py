"""How often would a model win if its answers were as long as the other's? After Dubois et al., Length-Controlled
AlpacaEval (2024), without their term for the difficulty of an instruction."""

import numpy as np

from sllm.evaluate.statistics import LEVEL, SEED, Scores

RESAMPLES = 1_000
MAX_ITERATIONS = 50  # of Newton's method, which requires about six
TIES = ((1.0, 0.5), (-1.0, 0.5))  # (x, weight) of an added tie: without it, a model that always wins has no finite fit


def win_rate(outcomes: Scores, differences: Scores, questions: Scores) -> tuple[float, float, float]:
    """The win rate at no difference in length, and its 95 % interval (percentiles of a bootstrap over the questions).

    A logistic regression of the outcome on x = tanh(d / standard deviation of d), where d is the difference.

    Args:
        outcomes: (n,) 1 where the model won, 0.5 for a tie.
        differences: (n,) its answer's length minus the other's.
        questions: (n,) the number of the question of each.
    """
    spread = float(differences.std())
    x = np.tanh(differences / spread) if spread else np.zeros(len(differences))
    _, question = np.unique(questions, return_inverse=True)
    units = int(question.max()) + 1
    drawn = np.random.default_rng(SEED).integers(units, size=(RESAMPLES, units))
    drawn = np.stack([np.bincount(row, minlength=units) for row in [np.arange(units), *drawn]])
    intercepts, _ = fit(outcomes, x, drawn[:, question].astype(float))
    rates = 1 / (1 + np.exp(-intercepts))
    low, high = np.percentile(rates[1:], [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=0)
    return float(rates[0]), float(low), float(high)


def fit(outcomes: Scores, x: Scores, weights: Scores) -> tuple[Scores, Scores]:
    """Intercept and slope of each weighting of the outcomes, both (weightings,), by Newton's method.

    Args:
        outcomes, x: (n,)
        weights: (weightings, n)
    """
    added = np.array(TIES)
    x = np.concatenate([x, added[:, 0]])
    y = np.concatenate([outcomes, np.full(len(added), 0.5)])
    w = np.concatenate([weights, np.tile(added[:, 1], (len(weights), 1))], axis=1)  # (weightings, n + 2)
    features = np.stack([np.ones_like(x), x])  # (2, n + 2)
    beta = np.zeros((len(w), 2))
    for _ in range(MAX_ITERATIONS):
        p = 1 / (1 + np.exp(-(beta @ features)))
        gradient = (w * (y - p)) @ features.T
        if np.abs(gradient).max() < 1e-9:
            break
        hessian = np.einsum("sn,in,jn->sij", w * p * (1 - p), features, features, optimize=True)
        beta += np.clip(np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0], -2, 2)
    return beta[:, 0], beta[:, 1]
