"""Records that judge answers → drafts of preference rows: pairs in their many forms, scores, rankings. Standard library
only."""

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from sllm.data.dialogue_texts import dialogue_turns
from sllm.data.drafts import Draft, Record, Turn, columns, system, turns, unused

PROMPT_KEYS = ("prompt", "conversations", "conversation", "question", "query", "instruction", "질문", "지시", "input")
RANKED = tuple(f"completion_{number}" for number in range(20))
_LISTS = ("completions", "answers", "responses", "generations", "candidates")
_SCORES = ("scores", "ratings", "rewards", "ranks", "ranking")  # beside a list of texts
_TEXTS = ("response", "text", "content", "answer", "completion", "output")
_MARKED = ("human:", "인간:", "사용자:", "### human", "### 질문", "### 사용자", "[inst]", "<s>[inst]", "<|im_start|>")
# UltraFeedback's overall_score has 1s that were meant as 10s; fine-grained_score is the mean of its four ratings.
_ITEM_SCORES = ("fine-grained_score", "overall_score", "score", "rating", "rank")


def preference(record: Record) -> list[Draft]:
    """Chosen and rejected answers: texts, turns, whole conversations, or HH's conversations in one text."""
    found = columns(tuple(record), "chosen", "rejected")
    good, bad = record.get(found.get("chosen", "chosen")), record.get(found.get("rejected", "rejected"))
    prompt, ignored = _prompt(record)
    chosen, rejected = _answer(good), _answer(bad)
    if not chosen or not rejected:
        raise ValueError(f"no {'chosen' if not chosen else 'rejected'} answer")
    if not prompt and len(chosen) == 1 and isinstance(good, str):
        raise ValueError("no user turn: chosen and rejected are texts, so the question has to be in prompt")
    if any(turn.get("weight", 1) != 1 for turn in (chosen[-1], rejected[-1])):
        raise ValueError("weight is not 1: both answers of a pair are learned from")
    for messages in (prompt, chosen, rejected):
        for turn in messages:
            turn.pop("weight", None)
    if chosen[0]["role"] != "assistant":
        prompt, chosen, rejected = _shared_prompt(prompt, chosen, rejected)
    if len(chosen) != 1 or len(rejected) != 1:
        raise ValueError("chosen and rejected are one assistant turn each")
    return [Draft({"prompt": prompt, "chosen": chosen, "rejected": rejected}, ignored=ignored)]


def _shared_prompt(
    prompt: list[Turn], chosen: list[Turn], rejected: list[Turn]
) -> tuple[list[Turn], list[Turn], list[Turn]]:
    """Of whole conversations, whose last turns answer the same prompt."""
    shared = chosen[:-1]
    if rejected[:-1] != shared:
        raise ValueError("chosen and rejected do not share their prompt")
    lead = [turn for turn in prompt if turn["role"] == "system"]
    if lead and shared and shared[0]["role"] != "system":
        shared = lead + shared
    without_system = shared if lead else [turn for turn in shared if turn["role"] != "system"]
    if without_system[: len(prompt)] != prompt:
        raise ValueError("prompt differs from the one in chosen")
    return shared, chosen[-1:], rejected[-1:]


def _prompt(record: Record) -> tuple[list[Turn], tuple[str, ...]]:
    """The turns before the answers, and the filled keys that say the same otherwise and are not used."""
    filled = [key for key in PROMPT_KEYS if record.get(key) not in (None, "", [])]
    if not filled:
        return system(record), ()
    key, *others = filled
    value = record[key]
    if isinstance(value, str):
        if key == "instruction" and "input" in others and isinstance(record["input"], str):
            value, others = f"{value}\n\n{record['input']}", [other for other in others if other != "input"]
        found = _marked(value) or turns(value, "user")
    else:
        found = turns([value] if isinstance(value, dict) else value, "user")
    return system(record) + found, tuple(other for other in others if record[other] != record[key])


def _answer(value: object) -> list[Turn]:
    if isinstance(value, str):
        return _marked(value) or turns(value, "assistant")
    if isinstance(value, dict):
        is_turn = {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()
        key = None if is_turn else _text_key(value)
        return turns(value[key] if key else [value], "assistant")
    return turns(value, "assistant")


def _text_key(value: object) -> str | None:
    """Where an answer as an object has its text."""
    return next((key for key in _TEXTS if isinstance(value, dict) and isinstance(value.get(key), str)), None)


def _marked(text: str) -> list[Turn] | None:
    """HH's conversations in one text, which begin with `Human:`, and others with such a beginning."""
    head = text.lstrip()[:20].lower()
    return dialogue_turns(text) if head.startswith(_MARKED) else None


def ranked_completions(record: Record) -> Iterator[Draft]:
    """KoRLHF's rows: `ranking` has the rank of completion_0, completion_1, …, 0 for the best; each pair of different
    rank is a row."""
    texts = [record[key] for key in RANKED if record.get(key) is not None]
    listed = record["ranking"] if isinstance(record.get("ranking"), list) else []
    ranks = [rank for rank in map(_number, listed) if rank is not None]
    if not texts or len(ranks) != len(texts) or len(listed) != len(texts):
        raise ValueError(f"no ranking: it has the rank of each of the {len(texts)} completions")
    ordered = sorted(zip(ranks, texts, strict=True), key=_first)
    pairs = [(better, worse) for better, worse in combinations(ordered, 2) if better[0] < worse[0]]
    if not pairs:
        raise ValueError("the answers are ranked alike: none is better than another")
    prompt, ignored = _prompt(record)
    for (_, good), (_, bad) in pairs:
        body = {"prompt": [*prompt], "chosen": turns(good, "assistant"), "rejected": turns(bad, "assistant")}
        yield Draft(body, ignored=ignored)


def scored_answers(record: Record) -> list[Draft]:
    """UltraFeedback, Nectar and the like: several answers with scores, or with ranks, 1 for the best. The best and the
    worst make a pair; which of equal ones is taken does not depend on anything but their order."""
    key = next((key for key in _LISTS if isinstance(record.get(key), list)), None)
    if key is None:
        raise ValueError(f"answers is not a list: none of {', '.join(_LISTS)} is one")
    scored, ignored = _scored(record, key)
    if len(scored) < 2:
        raise ValueError(f"no scores: fewer than two of the {key} have one")
    (best, good), (worst, bad) = max(scored, key=_first), min(scored, key=_first)
    if best == worst:
        raise ValueError("the answers are rated alike: none is better than another")
    prompt, others = _prompt(record)
    return [Draft({"prompt": prompt, "chosen": _answer(good), "rejected": _answer(bad)}, ignored=ignored + others)]


def _scored(record: Record, key: str) -> tuple[list[tuple[float, Any]], tuple[str, ...]]:
    """(score, answer) of each that has one, higher is better."""
    column = next((name for name in _SCORES if isinstance(record.get(name), list)), None)
    beside: list[Any] = record[column] if column else []
    sign = -1.0 if column in ("ranks", "ranking") else 1.0
    scored, ignored = [], []
    for number, item in enumerate(record[key]):
        name = next((name for name in _ITEM_SCORES if isinstance(item, dict) and item.get(name) is not None), None)
        value = _number(item[name]) if name else _number(beside[number]) if number < len(beside) else None
        if value is None:
            ignored.append(f"{key} without a score")
        else:
            scored.append((-value if name == "rank" else value if name else sign * value, item))
        ignored += unused(key, item, (name, _text_key(item), "role", "content", "from", "value"))
    return scored, tuple(dict.fromkeys(ignored))


def _number(value: object) -> float | None:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _first(pair: tuple[float, Any]) -> float:
    return float(pair[0])


def is_scored(record: Record) -> bool:
    """A list of answers as objects, or as texts beside a list of scores."""
    for key in _LISTS:
        value = record.get(key)
        if isinstance(value, list) and value:
            return isinstance(value[0], dict) or any(isinstance(record.get(name), list) for name in _SCORES)
    return False
