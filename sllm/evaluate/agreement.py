"""How often a judge agrees with the people who voted in the arena of the chat page."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from sllm.api_calls import Request
from sllm.evaluate import pairwise, statistics
from sllm.evaluate.pairwise import Ask, MakeRequest
from sllm.evaluate.suites import Question

if TYPE_CHECKING:
    from sllm.chatstore import Comparison

CHOICES = ("left", "right", "tie")
RESAMPLES = 1_000


def measure(comparisons: Sequence["Comparison"], make: Callable[..., Request], ask: Ask) -> dict[str, Any]:
    """JSON of how the judge's verdicts in both orders agree with the first votes; both bad counts as a tie.

    `agreement`: over all votes, and `agreement_decided`: over those where neither side says tie, with 95 % intervals.
    `kappa`: Cohen's, of left, right and tie: 0 is what chance would give, 1 is complete agreement.

    Args:
        make: (label, question, answers) → the request.
    """
    voted = [comparison for comparison in comparisons if comparison.choice]
    pairs = [
        (f"vote {comparison.id}", comparison.left.text, comparison.right.text, _maker(make, comparison))
        for comparison in voted
    ]
    people, judged = [], []
    for comparison, (verdicts, _) in zip(voted, pairwise.both_orders(pairs, ask), strict=True):
        if None not in verdicts:
            agreed = verdicts[0] if len(set(verdicts)) == 1 else "tie"
            judged.append({"first": "left", "second": "right"}.get(str(agreed), "tie"))
            people.append(comparison.choice if comparison.choice in ("left", "right") else "tie")
    same = np.array([float(vote == verdict) for vote, verdict in zip(people, judged, strict=True)])
    decided = np.array([vote != "tie" != verdict for vote, verdict in zip(people, judged, strict=True)], dtype=bool)
    codes = np.array([[CHOICES.index(choice) for choice in side] for side in (people, judged)], dtype=int)  # (2, votes)
    drawn = np.random.default_rng(statistics.SEED).integers(max(len(same), 1), size=(RESAMPLES, len(same)))
    kappas = [kappa(*codes[:, sample]) for sample in drawn] if len(same) else []
    known = [value for value in kappas if np.isfinite(value)]
    low, high = np.percentile(known, [2.5, 97.5], axis=0) if known else (np.nan, np.nan)
    table = {vote: {name: sum(pair == (vote, name) for pair in zip(people, judged, strict=True)) for name in CHOICES}
             for vote in CHOICES}  # fmt: skip
    return {
        "votes": len(voted),
        "failed": len(voted) - len(same),
        "agreement": asdict(statistics.mean(same)),
        "agreement_decided": asdict(statistics.mean(same[decided])),
        "kappa": {"value": kappa(*codes), "low": float(low), "high": float(high)},
        "table": table,  # vote → verdict → count
    }


def _maker(make: Callable[..., Request], comparison: "Comparison") -> MakeRequest:
    question = Question(comparison.id, comparison.left.task, comparison.left.prompt, None)
    return lambda label, first, second: make(label, question, (first, second))


def kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Cohen's kappa (1960) of two raters' choices, both (n,) of whole numbers; NaN where chance alone explains all."""
    if not len(first):
        return float("nan")
    choices = np.union1d(first, second)
    observed = float((first == second).mean())
    chance = float(sum((first == choice).mean() * (second == choice).mean() for choice in choices))
    return (observed - chance) / (1 - chance) if chance < 1 else float("nan")
