"""Votes and thumbs of the chat page → preference pairs, each with where it comes from, and what became of the rest.

Only the first vote on a comparison counts: it was made before the names of the models were shown.
Other sources of pairs (several samples of one model, a teacher's judgement) yield `Pair`s too, and meet in `merge`.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, product
from math import gcd, lcm

from sllm.chatstore import Records, StoredAnswer, Thumb

INCOMPLETE_REASONS = ("length", "stopped", "broken")  # answers that did not end by themselves


@dataclass(frozen=True)
class Pair:
    """One judgement: of two answers to a prompt, `chosen` is the better one. `source`: vote or thumbs."""

    chosen: StoredAnswer
    rejected: StoredAnswer
    rater: str
    source: str

    @property
    def key(self) -> tuple[str, str, str]:
        """The prompt and both texts: equal judgements have equal keys."""
        return _prompt(self.chosen), self.chosen.text, self.rejected.text


@dataclass
class Found:
    """`pairs`; `dropped`: how many judgements for which reason; `contradictions`: pairs judged both ways, by whom;
    `capped`: prompts with more pairs of thumbs than were asked for, {"prompt", "up", "down", "kept"}."""

    pairs: list[Pair] = field(default_factory=list)
    dropped: Counter = field(default_factory=Counter)
    contradictions: list[dict] = field(default_factory=list)
    capped: list[dict] = field(default_factory=list)


def from_chat(records: Records, *, keep_truncated: bool = False, max_pairs_per_prompt: int = 10) -> Found:
    """Pairs of the arena's votes, and of up and down thumbs under answers to the same prompt.

    Args:
        keep_truncated: chosen answers that were cut off count too; training on them teaches to stop in mid-sentence.
        max_pairs_per_prompt: of thumbs; 60 up and 60 down would be 3,600 rows of one question. What is kept uses every
            answer as often as any other, as far as that goes.
    """
    found = Found()

    def judge(chosen: StoredAnswer, rejected: StoredAnswer, rater: str, source: str) -> None:
        if chosen.text == rejected.text:
            found.dropped["both answers are the same"] += 1
        elif not chosen.text.strip() or not rejected.text.strip():
            found.dropped["an answer is empty"] += 1
        elif chosen.finish_reason in INCOMPLETE_REASONS and not keep_truncated:
            found.dropped["the chosen answer was cut off"] += 1
        else:
            found.pairs.append(Pair(chosen, rejected, rater, source))

    for comparison in records.comparisons:
        left, right = comparison.left, comparison.right
        if comparison.choice == "left":
            judge(left, right, left.user_id, "vote")
        elif comparison.choice == "right":
            judge(right, left, left.user_id, "vote")
        elif comparison.choice:
            found.dropped["tie" if comparison.choice == "tie" else "both bad"] += 1
    by_prompt: dict[str, dict[str, list[Thumb]]] = defaultdict(lambda: defaultdict(list))
    for thumb in records.thumbs:
        by_prompt[_prompt(thumb.answer)][thumb.answer.text].append(thumb)
    for answers in by_prompt.values():
        sides: dict[int, list[list[Thumb]]] = {0: [], 1: []}  # the thumbs under each answer
        for thumbs in answers.values():
            raters = {value: sorted(t.answer.user_id for t in thumbs if t.value == value) for value in (0, 1)}
            if raters[0] and raters[1]:
                found.dropped["an answer with thumbs up and down"] += len(thumbs)
                found.contradictions.append(_contradiction(thumbs[0].answer, raters[1], raters[0], kept=False))
            else:
                sides[thumbs[0].value].append(thumbs)
        for liked, disliked in islice(balanced_pairs(sides[1], sides[0]), max_pairs_per_prompt):
            for up, down in product(liked, disliked):
                judge(up.answer, down.answer, " and ".join(sorted({up.answer.user_id, down.answer.user_id})), "thumbs")
        if (left := len(sides[1]) * len(sides[0]) - max_pairs_per_prompt) > 0:
            found.dropped["more pairs of thumbs than --max_pairs_per_prompt"] += left
            prompt, (up, down) = sides[1][0][0].answer.prompt, map(len, (sides[1], sides[0]))
            found.capped.append({"prompt": prompt, "up": up, "down": down, "kept": max_pairs_per_prompt})
    return found


def balanced_pairs(up: list, down: list) -> Iterator[tuple]:
    """Every pair of an `up` and a `down`, in an order in which each is used as often as any other on its side, wherever
    it is cut off."""
    if not up or not down:
        return
    for shift in range(gcd(len(up), len(down))):
        for n in range(lcm(len(up), len(down))):
            yield up[n % len(up)], down[(n + shift) % len(down)]


def merge(found: Found) -> list[dict]:
    """One entry for every pair of answers: {"row", "source", "judgements", "raters", "models"}.

    Equal judgements become one row; one rater counts once for each way. Where a pair was judged both ways, the majority
    decides, and an even split drops it; both are noted in `found.contradictions`.
    """
    groups: dict[tuple, list[Pair]] = defaultdict(list)
    for pair in found.pairs:
        prompt, *texts = pair.key
        groups[(prompt, *sorted(texts))].append(pair)
    entries = []
    for judged in groups.values():
        pairs = list({(pair.key, pair.rater): pair for pair in judged}.values())
        found.dropped["the same judgement again"] += len(judged) - len(pairs)
        ways = Counter(pair.key for pair in pairs)
        best, votes = ways.most_common(1)[0]
        against = len(pairs) - votes
        if against:
            sides = ([pair.rater for pair in pairs if (pair.key == best) == agreed] for agreed in (True, False))
            found.contradictions.append(_contradiction(pairs[0].chosen, *map(sorted, sides), kept=votes > against))
        if votes == against:
            found.dropped["judged both ways alike"] += len(pairs)
            continue
        agreeing = [pair for pair in pairs if pair.key == best]
        found.dropped["the same judgement again"] += votes - 1
        found.dropped["outvoted"] += against
        chosen, rejected = agreeing[0].chosen, agreeing[0].rejected
        entries.append(
            {
                "row": {
                    "id": _id(best),
                    "task": chosen.task,
                    "prompt": chosen.prompt,
                    "chosen": [{"role": "assistant", "content": chosen.text}],
                    "rejected": [{"role": "assistant", "content": rejected.text}],
                },
                "source": agreeing[0].source,
                "judgements": votes,
                "raters": sorted({pair.rater for pair in agreeing}),
                "models": {"chosen": chosen.model, "rejected": rejected.model},
            }
        )
    found.dropped = +found.dropped  # without the zeros
    return entries


def unpaired(records: Records, *, keep_truncated: bool = False) -> tuple[list[dict], Counter]:
    """KTO's rows, {"id", "task", "prompt", "completion", "label"}: answers that were liked or not, by thumb or vote; of
    two bad answers, both. An answer that was judged both ways is dropped and counted."""
    labels: dict[tuple[str, str], set[bool]] = defaultdict(set)
    dropped: Counter = Counter()
    answers: dict[tuple[str, str], StoredAnswer] = {}

    def judge(answer: StoredAnswer, good: bool) -> None:
        key = (_prompt(answer), answer.text)
        labels[key].add(good)
        answers[key] = answer

    for thumb in records.thumbs:
        judge(thumb.answer, bool(thumb.value))
    for comparison in records.comparisons:
        if comparison.choice in ("left", "right"):
            judge(comparison.left, comparison.choice == "left")
            judge(comparison.right, comparison.choice == "right")
        elif comparison.choice == "both_bad":
            judge(comparison.left, False)
            judge(comparison.right, False)
    rows = []
    for key, answer in answers.items():
        good = labels[key]
        if len(good) == 2:
            dropped["judged both ways"] += 1
        elif not answer.text.strip():
            dropped["an answer is empty"] += 1
        elif good == {True} and answer.finish_reason in INCOMPLETE_REASONS and not keep_truncated:
            dropped["a liked answer was cut off"] += 1
        else:
            completion = [{"role": "assistant", "content": answer.text}]
            row = {"id": _id(key), "task": answer.task, "prompt": answer.prompt, "completion": completion}
            rows.append(row | {"label": good == {True}})
    return rows, dropped


def _contradiction(answer: StoredAnswer, for_it: list[str], against: list[str], *, kept: bool) -> dict:
    return {"prompt": answer.prompt, "for": for_it, "against": against, "kept": kept}


def _prompt(answer: StoredAnswer) -> str:
    return json.dumps(answer.prompt, ensure_ascii=False, sort_keys=True)


def _id(key: tuple) -> str:
    return "chat-" + hashlib.sha256(json.dumps(key, ensure_ascii=False).encode()).hexdigest()[:12]
