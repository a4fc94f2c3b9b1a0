"""Several answers of a model to each prompt → preference pairs of better and worse ones, and the best of each prompt as
an SFT row (rejection sampling)."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from sllm import cli, output_lines
from sllm.cli import InputError
from sllm.data import answer_scores
from sllm.data.answer_scores import Question
from sllm.data.preferences import Answer, CollectedPairs, pair_up, prompt_key
from sllm.progress import counter

MIN_MARGIN = 0.1  # of scores from 0 to 1


@dataclass
class Candidates:
    """The answers to each prompt. `left_out`: how many answers for which reason; `unasked`: prompts that were
    skipped."""

    questions: list[Question] = field(default_factory=list)
    answers: list[list[Answer]] = field(default_factory=list)  # of each question, each text once
    left_out: Counter[str] = field(default_factory=Counter)
    unasked: int = 0


def read(files: Sequence[str | Path], facts: Mapping[str, dict[str, Any]]) -> Candidates:
    """The answers of all files, by their prompts: with --n samples in one file, or of several models in several.

    Args:
        facts: rows of `python -m sllm.world` by their ids, where the prompts are of these.
    Raises:
        InputError: with all that is wrong: files that are not of answers, facts of other prompts.
    """
    each = cli.collect_errors(*(partial(output_lines.read, Path(file)) for file in files))
    candidates, places, problems = Candidates(), dict[str, int](), list[str]()
    for file, lines in zip(files, each, strict=True):
        problems += facts_problems(file, lines, facts)
        model = str(output_lines.source(Path(file)).get("model", file))
        for line in lines.values():
            if line["finish_reason"] == output_lines.SKIPPED:
                candidates.unasked += 1
                continue
            place = places.setdefault(prompt_key(line["messages"]), len(places))
            if place == len(candidates.questions):
                candidates.questions.append(question_of(line, facts))
                candidates.answers.append([])
            _add(candidates, place, line, model)
    if problems:
        raise InputError(problems)
    return candidates


def _add(candidates: Candidates, place: int, line: dict[str, Any], model: str) -> None:
    answers = candidates.answers[place]
    for text, reason in zip(line["outputs"], line["finish_reasons"], strict=True):
        if not text.strip():
            candidates.left_out["empty"] += 1
        elif any(answer.text == text for answer in answers):
            candidates.left_out["the same as another"] += 1
        else:
            answers.append(Answer(line["messages"], text, model, line["task"], reason))


def question_of(line: dict[str, Any], facts: Mapping[str, dict[str, Any]]) -> Question:
    return Question(line["id"], line["task"], line["messages"], line.get("reference"), facts.get(line["id"]))


def facts_problems(
    file: str | Path, lines: Mapping[str, dict[str, Any]], facts: Mapping[str, dict[str, Any]]
) -> list[str]:
    """What is wrong if the facts are not of the prompts that were answered."""
    other = [
        id
        for id, line in lines.items()
        if id in facts
        and unicodedata.normalize("NFC", facts[id]["user_content"]) != line["messages"][-1]["content"]
    ]  # fmt: skip
    if not other:
        return []
    return [
        f"{file}: {cli.plural(len(other), 'row')} of --trainset_path, {other[0]} the first, ask something else than "
        "the answered rows of the same id; name the file that was asked"
    ]


Judge = Callable[[list[tuple[Question, str]]], tuple[list[float | None], dict[str, Any]]]


def score(candidates: Candidates, weights: Mapping[str, float], judge: Judge | None = None) -> dict[str, Any]:
    """Give every answer its score; returns JSON of the judge's calls. Shows progress.

    Args:
        judge: as `answer_scores.judge`; answers that it does not score are left out.
    Raises:
        InputError: there is nothing to score the answers by.
    """
    flat = [(q, a) for q, answers in zip(candidates.questions, candidates.answers, strict=True) for a in answers]
    texts = [(question, answer.text) for question, answer in flat]
    judged, calls = judge(texts) if judge else ([None] * len(flat), {})
    report, scored = counter(len(flat), "answer"), dict[int, Answer]()
    for (question, answer), verdict in zip(flat, judged, strict=True):
        report(0)
        if judge and verdict is None:
            candidates.left_out["not scored by the judge"] += 1
            continue
        found = answer_scores.parts(question, answer.text)
        if verdict is not None:
            found["judge"] = round(verdict, 4)
        if (total := answer_scores.total(found, weights)) is None:
            candidates.left_out["nothing to score by"] += 1
            continue
        scored[id(answer)] = replace(answer, score=total, parts=found)
    if flat and not scored:
        reasons = [f"{count} {reason}" for reason, count in candidates.left_out.items()]
        raise InputError(f"no answer could be scored ({', '.join(reasons)}); give rows with a task, a reference or "
                         "facts (--trainset_path), or a judge (--judge_model)")  # fmt: skip
    candidates.answers = [[scored[id(a)] for a in answers if id(a) in scored] for answers in candidates.answers]
    return calls


def pairs(
    candidates: Candidates,
    *,
    pairing: str,
    limit: int | None,
    min_margin: float | None,
    keep_imperfect: bool = False,
    keep_truncated: bool = False,
) -> CollectedPairs:
    """Better and worse answers to the same prompt.

    Args:
        pairing, limit: as `preferences.pair_up`.
        min_margin: None: MIN_MARGIN.
        keep_imperfect: keep chosen answers that break a rule or are not true.
    """
    collected = CollectedPairs()
    if candidates.unasked:
        collected.dropped["prompts that the model was not asked"] += candidates.unasked
    margin = MIN_MARGIN if min_margin is None else min_margin

    def may_choose(answer: Answer) -> bool:
        complete = keep_truncated or not answer.is_truncated
        return complete and (keep_imperfect or answer_scores.is_good(answer.parts))

    for answers in candidates.answers:
        if len(answers) < 2:
            collected.dropped["prompts with no two different answers"] += 1
        elif not any(map(may_choose, answers)):
            collected.dropped["prompts without an answer that can be chosen: all are cut off, break a rule or are not "
                              "true"] += 1  # fmt: skip
        else:
            made, excess = pair_up(answers, pairing, min_margin=margin, limit=limit, may_choose=may_choose)
            collected.dropped["more pairs than --pairs_per_prompt"] += excess * (pairing != "best_worst")
            if not made:
                collected.dropped["prompts whose answers score alike (--min_margin)"] += 1
            for chosen, rejected in made:
                collected.add(chosen, rejected, "samples", keep_truncated=keep_truncated)
    return collected


def best_rows(candidates: Candidates) -> list[dict[str, Any]]:
    """SFT rows: the best answer to each prompt, where it is complete, keeps all rules, and is true if that is known."""
    rows = []
    for question, answers in zip(candidates.questions, candidates.answers, strict=True):
        good = [answer for answer in answers if answer_scores.is_good(answer.parts) and not answer.is_truncated]
        if good:
            best = max(good, key=lambda answer: answer.score or 0.0)
            turn = {"role": "assistant", "content": best.text}
            rows.append({"id": question.id, "task": question.task, "messages": [*question.messages, turn]})
    return rows
