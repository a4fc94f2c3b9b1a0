"""What another model says about the answers: scores of each answer, and which of two is better.

Any OpenAI-compatible API can be the judge. A verdict that cannot be read is asked for again, and then counts as
failed; it never counts as a score. Scores keep their own scale (SCALES of `sllm.verdicts`).

    judged = judge(questions, models, args, Path("outputs/evaluation"))
    judged.scores["rubric"]["sft"]["overall"]  # (questions,)
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sllm import api_calls, checkpoint, cli, verdicts
from sllm.api_calls import Client, Completion, Request, Result
from sllm.evaluate import agreement, judge_flags, pairwise
from sllm.evaluate.answers import AnsweredBy
from sllm.evaluate.judge_flags import JOURNAL, PROMPTS
from sllm.evaluate.statistics import LEVEL, SEED, Scores
from sllm.evaluate.suites import Question

if TYPE_CHECKING:
    from sllm.chatstore import Comparison

PARAMETERS = {"temperature": 0, "max_tokens": 1024, "seed": SEED}
TEMPERATURE_AGAIN = 0.7  # of a second attempt
TOP_LOGPROBS = 20  # the most that OpenAI and vLLM return
RESAMPLES = 1_000
WIN_RATE = {"win_rate": (0, 1)}


@dataclass(frozen=True)
class Judged:
    """
    Attributes:
        scores: kind → model → metric → (questions,) float64, NaN where the judge failed; the first metric of a kind is
            its headline. A question that was answered several times has the mean over its answers.
        bounds: kind → metric → the least and the most that it can be.
        details: JSON: the judge, its prompts, failures, pairs, ratings, scores relative to the reference model,
            agreement with votes, tokens and cost.
    """

    scores: dict[str, dict[str, dict[str, Scores]]]
    bounds: dict[str, dict[str, tuple[int, int]]]
    details: dict[str, Any]


class _Judge:
    """The client, and how it is asked. `failures`: model → Result.failure → count, for each kind. `prompts`: what was
    asked, by its label."""

    def __init__(self, client: Client, args: argparse.Namespace):
        self.client, self.args = client, args
        self.failures: dict[str, dict[str, Counter[str]]] = {}
        self.prompts: dict[str, list[dict[str, str]]] = {}

    def request(self, kind: str, label: str, question: Question, answers: Sequence[str]) -> Request:
        prompt = verdicts.prompt(
            kind, self.args.judge_language, question.messages, answers, reference=question.reference, task=question.task
        )
        self.prompts[label] = prompt
        weighted = self.args.judge_logprobs and kind in judge_flags.SINGLE
        return Request(
            label, prompt, parameters(self.args, weighted=weighted),
            {"temperature": TEMPERATURE_AGAIN} if "temperature" not in self.args.judge_parameters else {},
            verdicts.VERDICT_TOKENS if weighted else 0,
        )  # fmt: skip

    def better(self, requests: list[Request], *, noun: str = "comparison") -> list[Result[str]]:
        return self.client.ask_all(requests, verdicts.better, attempts=self.args.judge_attempts, noun=noun)

    def count(self, kind: str, model: str, results: Sequence[Result[Any]]) -> None:
        counter = self.failures.setdefault(kind, {}).setdefault(model, Counter())
        counter.update(result.failure for result in results if result.failure)


def parameters(args: argparse.Namespace, *, weighted: bool) -> dict[str, Any]:
    """Of the API. `weighted`: with log-probabilities."""
    logprobs = {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if weighted else {}
    given: dict[str, Any] = args.judge_parameters
    return PARAMETERS | logprobs | given


def check(args: argparse.Namespace, models: Sequence[str]) -> None:
    """Ask the judge one short question, so that an address, key, model or parameter which is wrong is said before any
    of the models is asked; writes nothing.

    Raises:
        InputError: as `judge_flags.check_flags` and `sllm.api_calls.Client.check`.
    """
    judge_flags.check_flags(args, models)
    weighted = args.judge_logprobs and any(kind in judge_flags.SINGLE for kind in judge_flags.kinds(args, models))
    client = api_calls.from_flags(args, "judge")
    client.check(parameters(args, weighted=weighted))


def judge(
    questions: Sequence[Question],
    models: Sequence[AnsweredBy],
    args: argparse.Namespace,
    folder: Path,
    votes: Sequence["Comparison"] = (),
) -> Judged:
    """Ask the judge about every answer, but for what the journal in `folder` holds already. Shows progress.

    Args:
        args: with the flags of `judge_flags.add_flags`.
        votes: comparisons of the chat page's database (`ChatStore.read().comparisons`), to measure agreement with.
    Raises:
        InputError: the flags are wrong, or the judge cannot be asked; cli.Interrupted: by Ctrl-C.
    """
    names = [model.name for model in models]
    judge_flags.check_flags(args, names)
    chosen = judge_flags.kinds(args, names)
    asked = _Judge(api_calls.from_flags(args, "judge", folder / JOURNAL), args)
    scores: dict[str, dict[str, dict[str, Scores]]] = {}
    details: dict[str, Any] = {"weighted": {}}
    for kind in chosen:
        cli.say("judging", f"{kind}, by {args.judge_model}")
        if kind == "pairwise":
            matches, results = pairwise.play(questions, models, partial(asked.request, kind), asked.better)
            for name in names:
                asked.count(kind, name, results[name])
            scores[kind] = pairwise.scores(matches, names, len(questions))
            details["pairwise"] = pairwise.describe(matches, names)
        else:
            scores[kind], details["weighted"][kind] = _single(asked, kind, questions, models)
    if votes:
        cli.say("judging", f"{cli.plural(len(votes), 'comparison')} of the arena")
        details["agreement"] = agreement.measure(votes, partial(asked.request, "pairwise"), asked.better)
    if args.judge_reference:
        details["relative"] = {
            kind: _relative(scores[kind], args.judge_reference) for kind in chosen if kind in judge_flags.SINGLE
        }
    asked.client.journal.close()
    lines = [json.dumps({"label": label, "messages": prompt}, ensure_ascii=False) for label, prompt in
             asked.prompts.items()]  # fmt: skip
    checkpoint.write_atomically(folder / PROMPTS, "\n".join(lines) + "\n")
    details |= _record(asked, chosen)
    _say_failures(asked, details)
    bounds = {kind: verdicts.SCALES.get(kind, WIN_RATE) for kind in chosen}
    return Judged(scores, bounds, cli.json_safe(details))


def _single(
    asked: _Judge, kind: str, questions: Sequence[Question], models: Sequence[AnsweredBy]
) -> tuple[dict[str, dict[str, Scores]], dict[str, float | None]]:
    """Scores by model and metric, and by model the share of them that are weighted by probabilities."""
    places, requests = [], []
    for model in models:
        for i, question in enumerate(questions):
            for k, answer in enumerate(model.answers[question.id]):
                places.append((model.name, i))
                requests.append(asked.request(kind, f"{kind} {model.name} {question.id}#{k}", question, [answer.text]))

    def parse(completion: Completion) -> dict[str, tuple[float, bool]]:
        return verdicts.scores(kind, completion)

    results = asked.client.ask_all(requests, parse, attempts=asked.args.judge_attempts, noun="answer")
    scores, weighted = {}, {}
    for model in models:
        own = [(i, result) for (name, i), result in zip(places, results, strict=True) if name == model.name]
        asked.count(kind, model.name, [result for _, result in own])
        given: list[list[dict[str, tuple[float, bool]]]] = [[] for _ in questions]
        for i, result in own:
            if result.value is not None:
                given[i].append(result.value)
        scores[model.name] = {
            metric: np.array([np.mean([values[metric][0] for values in each]) if each else np.nan for each in given])
            for metric in verdicts.SCALES[kind]
        }
        flags = [flag for each in given for values in each for _, flag in values.values()]
        weighted[model.name] = float(np.mean(flags)) if flags else None
    return scores, weighted


def _relative(scores: dict[str, dict[str, Scores]], reference: str) -> dict[str, dict[str, Any]]:
    """Each model's mean in % of the reference model's, by metric, over the questions that both have a score for, with a
    95 % interval (percentiles of a bootstrap over the questions)."""
    relative: dict[str, dict[str, Any]] = {}
    for name, metrics in scores.items():
        for metric, values in metrics.items() if name != reference else ():
            others = scores[reference][metric]
            both = np.flatnonzero(~np.isnan(values) & ~np.isnan(others))
            if not len(both) or not others[both].sum():
                continue
            drawn = np.random.default_rng(SEED).choice(both, size=(RESAMPLES, len(both)))
            below = others[drawn].sum(1)
            shares = 100 * values[drawn].sum(1)[below > 0] / below[below > 0]
            low, high = np.percentile(shares, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=0)
            share = float(100 * values[both].sum() / others[both].sum())
            relative.setdefault(name, {})[metric] = {
                "value": share,
                "low": float(low),
                "high": float(high),
                "n": len(both),
            }
    return relative


def _record(asked: _Judge, chosen: Sequence[str]) -> dict[str, Any]:
    args = asked.args
    return {
        "model": args.judge_model,
        "base_url": args.judge_base_url,
        "language": args.judge_language,
        "kinds": list(chosen),
        "reference": args.judge_reference,
        "parameters": parameters(args, weighted=args.judge_logprobs),
        "attempts": args.judge_attempts,
        "templates": {kind: verdicts.template_hash(kind, args.judge_language) for kind in chosen},
        "failures": {
            kind: {model: dict(counter) for model, counter in of_kind.items()}
            for kind, of_kind in asked.failures.items()
        },
        "failed_calls": {
            failure: {"count": sum(reasons.values()), "reasons": dict(reasons.most_common(10))}
            for failure, reasons in asked.client.failures.items()
        },
        "usage": asdict(asked.client.tally) | {"price": args.judge_price},
    }


def _say_failures(asked: _Judge, details: dict[str, Any]) -> None:
    usage = details["usage"]
    cost = "" if usage["cost"] is None else f", cost {usage['cost']:,.2f}"
    tokens = f"{usage['prompt_tokens']:,} tokens in, {usage['completion_tokens']:,} out"
    cli.say("judge", f"{cli.plural(usage['calls'], 'call')} ({usage['new_calls']:,} now), {tokens}{cost}")
    for failure, reasons in asked.client.failures.items():
        count, (reason, _) = sum(reasons.values()), reasons.most_common(1)[0]
        if failure == api_calls.UNPARSED:
            text = f"{cli.plural(count, 'verdict')} could not be read and counted as failed"
        else:
            what = "not answered" if failure == api_calls.UNANSWERED else "not made"
            text = f"{cli.plural(count, 'call')} {what}; --resume makes {'it' if count == 1 else 'them'} again"
        cli.say("note", f"{text} (mostly: {reason})")
