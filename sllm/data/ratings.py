"""Which model wins: win rates and Bradley–Terry ratings of pairwise votes, with bootstrap intervals.

A vote for neither (a tie, or both bad) counts half a win for each side. Ratings maximise the Bradley–Terry likelihood
(Biometrika 39, 1952) by Newton's method, with one imagined tie for every two models that met, so that a model which won
every vote has a finite rating; on Elo's scale, 400 · log10, around 1,000 in each group of models that met, directly or
through others: ratings of different groups do not compare.
"""

from itertools import combinations

import numpy as np

ROUNDS = 100  # of Newton's method, which needs about ten


def rate(votes: list[tuple[str, str, str]], *, samples: int = 1000, seed: int = 42) -> dict:
    """
    Args:
        votes: (left model, right model, choice), choices as `chatstore.CHOICES`.
        samples: bootstrap resamples of the votes; intervals are the 2.5th and 97.5th percentile.
    Returns:
        {"models": [{"model", "rating", "low", "high", "group", "votes", "wins", "losses", "ties"}, best first],
         "pairs": [{"a", "b", "votes", "a_wins", "b_wins", "ties", "both_bad", "a_rate", "low", "high"}]}
    """
    names = sorted({name for left, right, _ in votes for name in (left, right)})
    if not names:
        return {"models": [], "pairs": []}
    index = {name: number for number, name in enumerate(names)}
    ends = np.array([(index[left], index[right]) for left, right, _ in votes])  # (votes, 2)
    score = np.array([{"left": 1.0, "right": 0.0}.get(choice, 0.5) for *_, choice in votes])
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(votes), size=(samples, len(votes)))
    weights = np.stack([np.bincount(row, minlength=len(votes)) for row in [np.arange(len(votes)), *drawn]])
    wins = np.zeros((samples + 1, len(names), len(names)))  # [sample, i, j]: wins of i over j
    for vote, (left, right) in enumerate(ends):
        wins[:, left, right] += weights[:, vote] * score[vote]
        wins[:, right, left] += weights[:, vote] * (1 - score[vote])
    met = (wins[0] + wins[0].T) > 0
    groups = _groups(met)
    ratings = _bradley_terry(wins + 0.5 * met)
    low, high = np.percentile(ratings[1:], [2.5, 97.5], axis=0)
    models = []
    for name, number in index.items():
        mine = [(left, right, choice) for left, right, choice in votes if name in (left, right)]
        won = sum((left if choice == "left" else right) == name for left, right, choice in mine if choice in SIDES)
        lost = sum((right if choice == "left" else left) == name for left, right, choice in mine if choice in SIDES)
        models.append(
            {
                "model": name, "rating": round(float(ratings[0, number]), 1),
                "low": round(float(low[number]), 1), "high": round(float(high[number]), 1),
                "group": groups[number], "votes": len(mine),
                "wins": won, "losses": lost, "ties": len(mine) - won - lost,
            }
        )  # fmt: skip
    models.sort(key=lambda entry: (entry["group"], -entry["rating"]))
    pairs = []
    for a, b in combinations([entry["model"] for entry in models], 2):
        i, j = index[a], index[b]
        both = [(left, choice) for left, right, choice in votes if {left, right} == {a, b}]
        if not both:
            continue
        total = wins[:, i, j] + wins[:, j, i]
        rates = wins[total > 0, i, j] / total[total > 0]
        bounds = np.percentile(rates[1:], [2.5, 97.5])
        a_wins = sum((left == a) == (choice == "left") for left, choice in both if choice in SIDES)
        b_wins = sum((left == b) == (choice == "left") for left, choice in both if choice in SIDES)
        count = [choice for _, choice in both].count
        pairs.append(
            {
                "a": a, "b": b, "votes": len(both), "a_wins": a_wins, "b_wins": b_wins, "ties": count("tie"),
                "both_bad": count("both_bad"), "a_rate": round(float(rates[0]), 4),
                "low": round(float(bounds[0]), 4), "high": round(float(bounds[1]), 4),
            }
        )  # fmt: skip
    return {"models": models, "pairs": pairs}


SIDES = ("left", "right")


def _bradley_terry(wins: np.ndarray) -> np.ndarray:
    """Ratings of every sample. `wins`: (samples, models, models); returns (samples, models)."""
    played, won = wins + wins.transpose(0, 2, 1), wins.sum(2)
    models = wins.shape[1]
    strength = np.zeros(won.shape)  # natural logarithms; each group keeps the mean 0
    for _ in range(ROUNDS):
        p = 1 / (1 + np.exp(strength[:, None, :] - strength[:, :, None]))  # [sample, i, j]: i beats j
        gradient = won - (played * p).sum(2)
        if np.abs(gradient).max() < 1e-9:
            break
        curve = played * p * (1 - p)
        # the two small terms make the matrix invertible along what the likelihood does not see, the groups' means
        hessian = np.einsum("sij,ik->sik", curve, np.eye(models)) - curve + 1 / models + 1e-9 * np.eye(models)
        strength += np.clip(np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0], -2, 2)
    return 1000 + 400 / np.log(10) * strength


def _groups(met: np.ndarray) -> list[int]:
    """A number for each model: the same for models that met, directly or through others. `met`: (models, models)."""
    number = list(range(len(met)))
    for i, j in zip(*np.nonzero(met), strict=True):
        number = [number[i] if old == number[j] else old for old in number]
    return [sorted(set(number)).index(old) for old in number]


def plot(found: dict, path: str) -> None:
    """Ratings and win rates with their intervals, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models, pairs = found["models"][::-1], found["pairs"][::-1]
    size = 0.45 * (len(models) + len(pairs)) + 2.2
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(8, size), height_ratios=[len(models) + 1, len(pairs) + 1], layout="constrained"
    )
    for axis, entries, value, label in (
        (above, models, "rating", lambda entry: f"{entry['model']}  ({entry['votes']} votes)"),
        (below, pairs, "a_rate", lambda entry: f"{entry['a']} over {entry['b']}  ({entry['votes']} votes)"),
    ):
        middle = [entry[value] for entry in entries]
        errors = [
            [max(0, entry[value] - entry["low"]) for entry in entries],
            [max(0, entry["high"] - entry[value]) for entry in entries],
        ]
        axis.errorbar(middle, range(len(entries)), xerr=errors, fmt="o", color="#2456d6", capsize=4)
        axis.set_yticks(range(len(entries)), [label(entry) for entry in entries])
        axis.set_ylim(-0.6, len(entries) - 0.4)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    above.set_title("Bradley–Terry rating, 95 % bootstrap interval", loc="left", fontsize=11)
    below.set_title("Win rate (ties half), 95 % bootstrap interval", loc="left", fontsize=11)
    below.set_xlim(-0.03, 1.03)
    below.axvline(0.5, color="#888", linewidth=1, linestyle=":")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
