"""Preference pairs of every source: what they are, which of several answers become pairs, and `merge`, which makes rows
of them.

The sources (`chat_votes`, `samples`, `teacher_pairs`, `rated_rows`) yield `CollectedPairs`; from there on all pairs are
treated alike.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from sllm.chatstore import INCOMPLETE_REASONS

Messages = list[dict[str, str]]
_ID_PREFIX = {"vote": "chat", "thumbs": "chat"}  # by source; others are named as they are


@dataclass(frozen=True)
class Answer:
    """An answer to a prompt.

    Attributes:
        finish_reason: as the server or vllm_inference.py says; None where it is not known.
        user_id: who judged it; empty where a program did.
        score: higher is better; None where there are only judgements.
        parts: what the score is made of.
    """

    prompt: Messages
    text: str
    model: str = ""
    task: str | None = None
    finish_reason: str | None = None
    user_id: str = ""
    score: float | None = None
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def is_truncated(self) -> bool:
        return self.finish_reason in INCOMPLETE_REASONS


@dataclass(frozen=True)
class Pair:
    """One judgement: of two answers to a prompt, `chosen` is the better one. `source`: vote, thumbs, samples, teacher
    or ratings. `user_id`: who judged."""

    chosen: Answer
    rejected: Answer
    user_id: str
    source: str

    @property
    def key(self) -> tuple[str, str, str]:
        """The prompt and both texts: equal judgements have equal keys."""
        return prompt_key(self.chosen.prompt), self.chosen.text, self.rejected.text


@dataclass
class PreferenceEntry:
    """One row of the output, and its origin. `scores`: of chosen and rejected with their parts, where they have any."""

    row: dict[str, Any]
    source: str
    judgements: int
    user_ids: list[str]
    models: dict[str, str]  # of chosen and rejected
    scores: dict[str, dict[str, float]] | None = None

    @property
    def origin(self) -> dict[str, Any]:
        values = {name: value for name, value in vars(self).items() if name != "row" and value is not None}
        return {"id": self.row["id"]} | values

    @property
    def margin(self) -> float | None:
        """How much higher the chosen answer is scored."""
        if "score_chosen" not in self.row:
            return None
        return float(self.row["score_chosen"] - self.row["score_rejected"])

    @property
    def length_difference(self) -> int:
        """Characters of the chosen answer minus those of the rejected one."""
        return len(self.row["chosen"][0]["content"]) - len(self.row["rejected"][0]["content"])


@dataclass
class CollectedPairs:
    """`dropped`: how many judgements for which reason; `contradictions`: pairs judged both ways, {"prompt", "for",
    "against", "kept"} with user ids; `capped`: prompts with more pairs of thumbs than are kept, {"prompt", "up",
    "down", "kept"}."""

    pairs: list[Pair] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    contradictions: list[dict[str, Any]] = field(default_factory=list)
    capped: list[dict[str, Any]] = field(default_factory=list)

    def add(self, chosen: Answer, rejected: Answer, source: str, *, keep_truncated: bool) -> None:
        if chosen.text == rejected.text:
            self.dropped["both answers are the same"] += 1
        elif not chosen.text.strip() or not rejected.text.strip():
            self.dropped["an answer is empty"] += 1
        elif chosen.is_truncated and not keep_truncated:
            self.dropped["the chosen answer was cut off"] += 1
        else:
            users = " and ".join(sorted({chosen.user_id or source, rejected.user_id or source}))
            self.pairs.append(Pair(chosen, rejected, users, source))

    def include(self, other: "CollectedPairs") -> None:
        """Add what another source has."""
        self.pairs += other.pairs
        self.dropped.update(other.dropped)
        self.contradictions += other.contradictions
        self.capped += other.capped


def pair_up(
    answers: Sequence[Answer],
    pairing: str,
    *,
    min_margin: float,
    limit: int | None,
    may_choose: Callable[[Answer], bool] = lambda answer: True,
) -> tuple[list[tuple[Answer, Answer]], int]:
    """(chosen, rejected) of the scored answers to one prompt, and how many pairs `limit` left out.

    Args:
        pairing: best_worst pairs the best answer with the worst, then the second best with the second worst, …;
            best_rest the best with each other one, the worst first; all any two, the largest difference first.
        min_margin: smallest difference of the scores; equal ones never make a pair.
        may_choose: of an answer; the others are only rejected ones.
    """
    ranked = sorted(answers, key=_score, reverse=True)
    better = [answer for answer in ranked if may_choose(answer)]
    if pairing == "best_worst":  # no answer twice: these meet where the margin is 0
        pairs = list(zip(better, reversed(ranked), strict=False))
    elif pairing == "best_rest":
        pairs = [(best, other) for best in better[:1] for other in reversed(ranked) if other is not best]
    else:
        pairs = sorted(product(better, ranked), key=_margin, reverse=True)
    apart = [pair for pair in pairs if _margin(pair) > 0 and _margin(pair) >= min_margin]
    return apart[:limit], len(apart) - len(apart[:limit])


def _score(answer: Answer) -> float:
    if answer.score is None:
        raise ValueError("an answer without a score")
    return answer.score


def _margin(pair: tuple[Answer, Answer]) -> float:
    return round(_score(pair[0]) - _score(pair[1]), 6)


def merge(collected: CollectedPairs) -> list[PreferenceEntry]:
    """One entry for every pair of answers.

    Equal judgements become one row; a user counts once for each direction, and so does a source without users. If a
    pair was judged both ways, the majority decides, and an even split drops it; both are added to
    `collected.contradictions`.
    """
    groups: dict[tuple[Any, ...], list[Pair]] = defaultdict(list)
    for pair in collected.pairs:
        prompt, *texts = pair.key
        groups[(prompt, *sorted(texts))].append(pair)
    entries = []
    for judged in groups.values():
        pairs = list({(pair.key, pair.user_id): pair for pair in judged}.values())
        collected.dropped["the same judgement again"] += len(judged) - len(pairs)
        best, votes = Counter(pair.key for pair in pairs).most_common(1)[0]
        agreeing = [pair for pair in pairs if pair.key == best]
        opposing = [pair for pair in pairs if pair.key != best]
        if opposing:
            users_for, users_against = (sorted(pair.user_id for pair in side) for side in (agreeing, opposing))
            contradiction = {"prompt": agreeing[0].chosen.prompt, "for": users_for, "against": users_against}
            collected.contradictions.append(contradiction | {"kept": votes > len(opposing)})
        if votes == len(opposing):
            collected.dropped["judged both ways equally often"] += len(pairs)
            continue
        collected.dropped["the same judgement again"] += votes - 1
        collected.dropped["outvoted"] += len(opposing)
        entries.append(_entry(agreeing))
    collected.dropped = +collected.dropped  # without the zeros
    return entries


def _entry(pairs: list[Pair]) -> PreferenceEntry:
    """`pairs`: equal judgements; the scores are those of the first that has some."""
    first = next((pair for pair in pairs if pair.chosen.score is not None), pairs[0])
    chosen, rejected = first.chosen, first.rejected
    sources = list(dict.fromkeys(pair.source for pair in pairs))
    row: dict[str, Any] = {
        "id": row_id(_ID_PREFIX.get(sources[0], sources[0]), first.key),
        "task": chosen.task,
        "prompt": chosen.prompt,
        "chosen": [{"role": "assistant", "content": chosen.text}],
        "rejected": [{"role": "assistant", "content": rejected.text}],
    }
    sides = {"chosen": chosen, "rejected": rejected}
    scores = None
    if chosen.score is not None and rejected.score is not None:
        row |= {f"score_{name}": answer.score for name, answer in sides.items()}
        scores = {name: {"score": answer.score or 0.0, **answer.parts} for name, answer in sides.items()}
    models = {name: answer.model for name, answer in sides.items()}
    users = sorted({pair.user_id for pair in pairs})
    return PreferenceEntry(row, " and ".join(sources), len(pairs), users, models, scores)


def prompt_key(prompt: Messages) -> str:
    return json.dumps(prompt, ensure_ascii=False, sort_keys=True)


def row_id(prefix: str, key: tuple[Any, ...]) -> str:
    return f"{prefix}-" + hashlib.sha256(json.dumps(key, ensure_ascii=False).encode()).hexdigest()[:12]
