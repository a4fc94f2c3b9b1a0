"""Rows whose answers are rated → preference pairs.

Read are answers in a list (UltraFeedback's `completions`, Nectar's `answers`), `completion_0`, `completion_1`, … with
their `ranking` (KoRLHF), rows of one answer with a score, and rows of one answer with a label (KTO). Rows of one answer
belong together where their prompts are equal.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from sllm.data import converters, readers
from sllm.data.preferences import Answer, CollectedPairs, pair_up, prompt_key

_LISTS = ("completions", "responses", "answers", "candidates", "generations", "outputs")
_TEXTS = ("response", "completion", "answer", "output", "text", "content")
_SCORE_LISTS = ("scores", "ratings", "rewards", "ranks")
# The mean of UltraFeedback's aspects comes before its overall_score, of which many are known to be wrong.
_SCORES = ("fine-grained_score", "fine_grained_score", "annotations", "overall_score", "score", "rating", "reward",
           "rank")  # fmt: skip
_PROMPTS = ("prompt", "question", "query", "user_content")


@dataclass
class RatedFile:
    """A file's answers by prompt, each with all its scores, and the rows that cannot be used: {"file", "line",
    "reason"}."""

    path: str
    answers: dict[str, dict[str, list[Answer]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    rows: int = 0
    rejects: list[dict[str, Any]] = field(default_factory=list)


def read(path: str, *, score_key: str | None = None) -> RatedFile:
    """Every row of a file of any kind that `sllm.data.readers` knows.

    Args:
        score_key: where the score of an answer is; default: the first of `_SCORES` that it has.
    Raises:
        InputError: the file cannot be read.
    """
    file = RatedFile(path)
    for block in readers.open_source(path).blocks():
        for line, record in block.records():
            file.rows += 1
            try:
                if isinstance(record, readers.Unreadable):
                    raise ValueError(record.reason)
                for answer in list(_answers(record, score_key)):  # all of a row, or none
                    file.answers[prompt_key(answer.prompt)][answer.text].append(answer)
            except ValueError as error:
                file.rejects.append({"file": path, "line": line, "reason": str(error)})
    return file


def pairs(file: RatedFile, *, pairing: str, limit: int | None, min_margin: float | None) -> CollectedPairs:
    """Pairs of the answers to each prompt; the score of an answer that was rated several times is the mean.

    Args:
        pairing, limit, min_margin: as `preferences.pair_up`; None: any difference.
    """
    collected = CollectedPairs()
    for by_text in file.answers.values():
        answers = [_mean(rated) for rated in by_text.values()]
        made, excess = pair_up(answers, pairing, min_margin=min_margin or 0.0, limit=limit)
        collected.dropped["more pairs than --pairs_per_prompt"] += excess * (pairing != "best_worst")
        if len(answers) < 2:
            collected.dropped["prompts with only one rated answer"] += 1
        elif not made:
            collected.dropped["prompts whose answers are rated alike (--min_margin)"] += 1
        for chosen, rejected in made:
            collected.add(chosen, rejected, "ratings", keep_truncated=False)
    return collected


def _mean(rated: Sequence[Answer]) -> Answer:
    score = fmean(answer.score or 0.0 for answer in rated)
    return Answer(rated[0].prompt, rated[0].text, rated[0].model, rated[0].task, score=round(score, 4))


def _answers(row: dict[str, Any], score_key: str | None) -> Iterator[Answer]:
    """ValueError with the reason why a row cannot be used."""
    if "chosen" in row and "rejected" in row:
        raise ValueError("a pair already: train_LoRA_DPO.py reads it as it is")
    used, rated = _rated(row, score_key)
    rest = {name: value for name, value in row.items() if name not in used}
    turns = _prompt(rest)
    for text, score, model in rated:
        answer = text if isinstance(text, list) else [{"role": "assistant", "content": text}]
        converted = converters.convert(rest | {"messages": turns + answer}, "messages")
        *prompt, last = converted["messages"]
        prompt = [{"role": turn["role"], "content": turn["content"]} for turn in prompt]
        yield Answer(prompt, last["content"], model, converted["task"], score=score)


def _rated(row: dict[str, Any], score_key: str | None) -> tuple[set[str], list[tuple[Any, float, str]]]:
    """(keys that were read, (text, score, model) of each answer)."""
    name = next((name for name in _LISTS if isinstance(row.get(name), list) and row[name]), None)
    if name and _is_messages(row[name]):
        name = None
    if name:
        scores = next((key for key in _SCORE_LISTS if isinstance(row.get(key), list)), None)
        if scores:
            return {name, scores}, list(_parallel(row[name], row[scores], negate=scores == "ranks"))
        return {name}, [_of_item(item, number, score_key) for number, item in enumerate(row[name], 1)]
    if isinstance(row.get("ranking"), list):
        names = [f"completion_{number}" for number in range(len(row["ranking"]))]
        texts = [row[name] for name in names if name in row]
        return {*names, "ranking"}, list(_parallel(texts, row["ranking"], negate=True))
    used = {*_TEXTS, *_SCORES, "label", "kto_tag", "model", *([score_key] if score_key else [])}
    text = next((row[key] for key in ("completion", *_TEXTS) if row.get(key) is not None), None)
    if text is None and isinstance(row.get("messages"), list):
        text = []  # it is the last of them
    if text is None:
        raise ValueError(f"no rated answers: it has the keys {', '.join(map(repr, list(row)[:8]))}; known are "
                         f"{', '.join(_LISTS)} (lists), completion_0 … with ranking, and {', '.join(_TEXTS)} with a "
                         "score or a label")  # fmt: skip
    label = row["label"] if row.get("label") is not None else row.get("kto_tag")
    score = float(label) if isinstance(label, bool) and not score_key else _score(row, score_key)
    return used, [(text, score, str(row.get("model") or ""))]


def _is_messages(value: list[Any]) -> bool:
    return isinstance(value[0], dict) and "role" in value[0]


def _parallel(texts: list[Any], scores: list[Any], *, negate: bool) -> Iterator[tuple[Any, float, str]]:
    """`negate`: ranks, of which 0 or 1 is the best."""
    if len(texts) != len(scores):
        raise ValueError(f"{len(texts)} answers, but {len(scores)} scores or ranks")
    for text, score in zip(texts, scores, strict=True):
        number = _number(score)
        if number is None:
            raise ValueError(f"a score is not a number: {score!r}")
        yield text, -number if negate else number, ""


def _of_item(item: Any, number: int, score_key: str | None) -> tuple[Any, float, str]:
    if not isinstance(item, dict):
        raise ValueError(f"answer {number} has no score: the row has none of {', '.join(_SCORE_LISTS)}")
    text = next((item[key] for key in _TEXTS if item.get(key) is not None), None)
    if text is None:
        raise ValueError(f"answer {number} has no text: it has the keys {', '.join(map(repr, list(item)[:8]))}")
    try:
        return text, _score(item, score_key), str(item.get("model") or "")
    except ValueError as error:
        raise ValueError(f"answer {number}: {error}") from None


def _score(values: dict[str, Any], score_key: str | None) -> float:
    for key in (score_key,) if score_key else _SCORES:
        value = values.get(key)
        number = _aspects(value) if key == "annotations" else _number(value)
        if number is not None:
            return -number if key == "rank" else number
    raise ValueError(f"no score: {score_key or ', '.join(_SCORES)} is not there, or not a number")


def _aspects(annotations: Any) -> float | None:
    """The mean rating of UltraFeedback's aspects: {aspect: {"Rating": "4"}}; "N/A" does not count."""
    each = annotations.values() if isinstance(annotations, dict) else []
    ratings = [_number(aspect.get("Rating")) for aspect in each if isinstance(aspect, dict)]
    known = [rating for rating in ratings if rating is not None]
    return fmean(known) if known else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _prompt(rest: dict[str, Any]) -> list[Any]:
    """The turns before the answer; takes the keys that it reads out of `rest`. The system prompt stays there:
    `converters.convert` puts it in front."""
    if isinstance(rest.get("messages"), list):
        return list(rest.pop("messages"))
    if rest.get("instruction") is not None:
        parts = [rest.pop("instruction"), rest.pop("input", None)]
        if not all(isinstance(part, str | None) for part in parts):
            raise ValueError("instruction or input is not text")
        return [{"role": "user", "content": "\n\n".join(part for part in parts if part and part.strip())}]
    name = next((name for name in _PROMPTS if rest.get(name) is not None), None)
    if name is None:
        raise ValueError(f"no prompt: known are messages, instruction, {', '.join(_PROMPTS)}")
    prompt = rest.pop(name)
    if isinstance(prompt, str) and "Human:" in prompt and "\n\nAssistant:" in prompt:
        raise ValueError("the prompt is a transcript (Human: … Assistant: …): write it as a list of messages")
    return prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
