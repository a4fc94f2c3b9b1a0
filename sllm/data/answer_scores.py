"""How good an answer is: the rules of its task, what is true, how near it is to the reference, and what a judge says.

Each part is a number from 0 to 1, and the score is their mean, weighted by `preference_flags.WEIGHTS`, over the parts
that apply to the prompt. With these weights a true answer is above every one that states something false, whatever else
they are.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sllm import api_calls, similarity, tasks, verdicts, world
from sllm.api_calls import Client, Completion, Request
from sllm.data.preference_flags import WEIGHTS
from sllm.data.preferences import Messages

JUDGE = {"temperature": 0, "max_tokens": 1024, "seed": 42}  # parameters of its API
JUDGE_AGAIN = {"temperature": 0.7}  # after a verdict that could not be read
JUDGE_KIND, JUDGE_METRIC, JUDGE_MOST = "total", "score", 5


@dataclass(frozen=True, eq=False)
class Question:
    """A prompt, and what is known of the right answer. `facts`: the row of `python -m sllm.world` that it is, if it is
    one."""

    id: str
    task: str | None
    messages: Messages
    reference: str | None = None
    facts: dict[str, Any] | None = None


def parts(question: Question, text: str) -> dict[str, float]:
    """Of the answer `text`, without a judge.

    truth: 1 where it is true; 0.5 where nothing in it is false, but something is missing or was not asked; else 0.
    rules: the share of its task's rules that it keeps. reference: ROUGE-L (F1) of the morphemes.
    """
    found: dict[str, float] = {}
    if question.facts:
        truth = world.check(question.facts, text)
        found["truth"] = 1.0 if truth else 0.0 if truth.wrong or truth.invented else 0.5
    if question.task in tasks.TASKS and (rules := tasks.get(question.task).rules):
        broken = {failure.rule for failure in tasks.check(question.task, question.messages[-1]["content"], text)}
        found["rules"] = 0.0 if "not_empty" in broken else 1 - len(broken) / len(rules)
    if question.reference:
        found["reference"] = similarity.rouge(text, question.reference, by="morphemes")["rougeL"]
    return {name: round(value, 4) for name, value in found.items()}


def total(found: Mapping[str, float], weights: Mapping[str, float] = WEIGHTS) -> float | None:
    """The weighted mean of the parts; None where none of them counts."""
    weight = sum(weights[name] for name in found)
    return round(sum(weights[name] * value for name, value in found.items()) / weight, 4) if weight else None


def is_good(found: Mapping[str, float]) -> bool:
    """Does it keep all rules, and is it true, as far as that is known?"""
    return all(found.get(name, 1.0) == 1 for name in ("truth", "rules"))


def check_judge(args: argparse.Namespace) -> None:
    """Ask one short question. InputError for an address, key or model that is wrong."""
    api_calls.from_flags(args, "judge").check(JUDGE)


def judge(
    answers: Sequence[tuple[Question, str]], args: argparse.Namespace, journal: Path
) -> tuple[list[float | None], dict[str, Any]]:
    """The judge's score of each answer (0–5 points, divided by 5), None where it gave none; and JSON of its calls.

    Args:
        args: with the flags --judge_… of `sllm.data.preference_flags`.
        journal: scores that are in it are not asked for again.
    """
    client = api_calls.from_flags(args, "judge", journal)
    requests = [
        Request(
            f"{JUDGE_KIND} {question.id}#{number}",
            verdicts.prompt(
                JUDGE_KIND, args.judge_language, question.messages, [text], reference=question.reference,
                task=question.task,
            ),
            JUDGE, JUDGE_AGAIN,
        )
        for number, (question, text) in enumerate(answers)
    ]  # fmt: skip

    def parse(completion: Completion) -> float:
        return verdicts.scores(JUDGE_KIND, completion)[JUDGE_METRIC][0] / JUDGE_MOST

    results = client.ask_all(requests, parse, noun="answer")
    client.journal.close()
    return [result.value for result in results], calls_of(client)


def calls_of(client: Client) -> dict[str, Any]:
    """JSON of the calls of a client: counts, tokens, cost, and how many failed for which reason."""
    failures = {
        f"{failure} ({reason})": count
        for failure, reasons in client.failures.items()
        for reason, count in reasons.items()
    }
    return {"model": client.model, "base_url": client.base_url, **asdict(client.tally), "failures": failures}
