"""Which of two answers a judge prefers, asked in both orders. Only a preference that does not depend on the order
counts; all else is a tie."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sllm import bradley_terry
from sllm.api_calls import Request, Result
from sllm.evaluate import length_control, statistics
from sllm.evaluate.answers import AnsweredBy
from sllm.evaluate.statistics import Scores
from sllm.evaluate.suites import Question

ORDERS = ("A", "B")  # the place in which the first answer is shown


@dataclass(frozen=True)
class Match:
    """Two answers to one question. `verdicts`: with the first answer in place A, then in B: "first", "second" or "tie"
    each, None where the judge did not answer; empty where the answers are identical, and nobody was asked."""

    question: int
    first: str
    second: str
    difference: int  # characters of the first answer minus those of the second
    verdicts: tuple[str | None, ...]

    @property
    def outcome(self) -> float:
        """Of the first: 1 won, 0 lost, 0.5 a tie; NaN where a verdict is missing."""
        if None in self.verdicts:
            return float("nan")
        agreed = self.verdicts[0] if len(set(self.verdicts)) == 1 else "tie"
        return {"first": 1.0, "second": 0.0}.get(str(agreed), 0.5)

    @property
    def is_asked(self) -> bool:
        return bool(self.verdicts)


Ask = Callable[[list[Request]], list[Result[str]]]
MakeRequest = Callable[[str, str, str], Request]  # label, answer A, answer B
Asked = tuple[tuple[str | None, ...], list[Result[str]]]  # verdicts as in `Match`, and what the calls brought


def both_orders(pairs: Sequence[tuple[str, str, str, MakeRequest]], ask: Ask) -> list[Asked]:
    """
    Args:
        pairs: (label, first answer, second answer, how to ask) each.
    """
    requests = []
    for label, first, second, make in pairs:
        if first.strip() != second.strip():
            requests += [make(f"{label} AB", first, second), make(f"{label} BA", second, first)]
    results = iter(ask(requests))
    verdicts: list[Asked] = []
    for _, first, second, _ in pairs:
        if first.strip() == second.strip():
            verdicts.append(((), []))
            continue
        asked = [next(results), next(results)]
        verdicts.append((tuple(_verdict(result, place) for result, place in zip(asked, ORDERS, strict=True)), asked))
    return verdicts


def _verdict(result: Result[str], place: str) -> str | None:
    if result.value is None:
        return None
    return "tie" if result.value == "C" else "first" if result.value == place else "second"


def play(
    questions: Sequence[Question], models: Sequence[AnsweredBy], make: Callable[..., Request], ask: Ask
) -> tuple[list[Match], dict[str, list[Result[str]]]]:
    """Every two models on every question, the k-th answer of one against the k-th of the other; and the results of the
    calls by model.

    Args:
        make: (label, question, answers) → the request.
    """
    places, pairs = [], []
    for (i, question), (one, other) in itertools.product(enumerate(questions), itertools.combinations(models, 2)):
        answers = zip(one.answers[question.id], other.answers[question.id], strict=False)
        for k, (first, second) in enumerate(answers):
            label = f"pairwise {one.name} {other.name} {question.id}#{k}"
            pairs.append((label, first.text, second.text, _maker(make, question)))
            places.append((i, one.name, other.name, len(first.text) - len(second.text)))
    matches, results = [], {model.name: list[Result[str]]() for model in models}
    for place, (verdicts, asked) in zip(places, both_orders(pairs, ask), strict=True):
        matches.append(Match(*place, verdicts))
        results[place[1]] += asked
        results[place[2]] += asked
    return matches, results


def _maker(make: Callable[..., Request], question: Question) -> MakeRequest:
    return lambda label, first, second: make(label, question, (first, second))


def scores(matches: Sequence[Match], names: Sequence[str], questions: int) -> dict[str, dict[str, Scores]]:
    """Each model's share of wins over all the others, ties half: (questions,), NaN where none of a question's matches
    has an outcome."""
    won: dict[str, list[list[float]]] = {name: [[] for _ in range(questions)] for name in names}
    for match in matches:
        if not np.isnan(match.outcome):
            won[match.first][match.question].append(match.outcome)
            won[match.second][match.question].append(1 - match.outcome)
    return {
        name: {"win_rate": np.array([np.mean(values) if values else np.nan for values in each])}
        for name, each in won.items()
    }


def describe(matches: Sequence[Match], names: Sequence[str]) -> dict[str, Any]:
    """JSON of every pair of models, of who won how often (`wins`: first name over second, ties half), and ratings."""
    pairs = [
        _pair([match for match in matches if (match.first, match.second) == pair])
        for pair in itertools.combinations(names, 2)
    ]
    wins: dict[str, dict[str, float]] = {name: {} for name in names}
    for pair in pairs:
        won = pair["wins"] + pair["ties"] / 2
        wins[pair["first"]][pair["second"]] = won
        wins[pair["second"]][pair["first"]] = pair["wins"] + pair["ties"] + pair["losses"] - won
    known = [match for match in matches if not np.isnan(match.outcome)]
    choices = {1.0: "left", 0.0: "right", 0.5: "tie"}
    votes = [(match.first, match.second, choices[match.outcome]) for match in known]
    ratings = bradley_terry.rate(votes, questions=[match.question for match in known])
    asked = [match for match in known if match.is_asked]
    return {
        "pairs": pairs,
        "wins": wins,
        "ratings": [asdict(model) for model in ratings.models],
        "order_consistency": _order_consistency(asked),
        "first_place_share": _first_place_share(asked),
    }


def _pair(matches: list[Match]) -> dict[str, Any]:
    known = [match for match in matches if not np.isnan(match.outcome)]
    asked = [match for match in known if match.is_asked]
    outcomes = np.array([match.outcome for match in known])
    differences = np.array([float(match.difference) for match in known])
    questions = np.array([match.question for match in known])
    pair: dict[str, Any] = {
        "first": matches[0].first,
        "second": matches[0].second,
        "matches": len(matches),
        "failed": len(matches) - len(known),
        "identical": len(known) - len(asked),
        "wins": int((outcomes == 1).sum()),
        "losses": int((outcomes == 0).sum()),
        "ties": int((outcomes == 0.5).sum()),
        "order_consistency": _order_consistency(asked),
        "first_place_share": _first_place_share(asked),
        "first_longer_share": float((differences > 0).mean()) if known else None,
        "win_rate": None,
        "length_controlled": None,
    }
    if known:
        by_question = np.array([outcomes[questions == number].mean() for number in np.unique(questions)])
        names = ("value", "low", "high")
        pair["win_rate"] = asdict(statistics.mean(by_question))
        controlled = length_control.win_rate(outcomes, differences, questions)
        pair["length_controlled"] = dict(zip(names, controlled, strict=True))
    return pair


def _order_consistency(asked: Sequence[Match]) -> dict[str, Any] | None:
    """The share of the matches in which both orders have the same verdict."""
    same = np.array([float(len(set(match.verdicts)) == 1) for match in asked])
    return asdict(statistics.mean(same)) if asked else None


def _first_place_share(asked: Sequence[Match]) -> float | None:
    """Of the verdicts that are no ties: how many name the answer that is shown first; without a bias, half of them."""
    decided = [
        verdict == winner
        for match in asked
        for verdict, winner in zip(match.verdicts, ("first", "second"), strict=True)
        if verdict != "tie"
    ]
    return float(np.mean(decided)) if decided else None
