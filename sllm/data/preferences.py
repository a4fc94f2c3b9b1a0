"""Votes and thumbs of the chat page → preference pairs, each with its origin, and counts of what was dropped.

Only the first vote on a comparison counts: it was made before the names of the models were shown.
Other sources of pairs (several samples of one model, a teacher's judgement) yield `Pair`s too; `merge` joins them all.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, product
from math import gcd, lcm
from typing import Any

from sllm.chatstore import INCOMPLETE_REASONS, Records, StoredAnswer, Thumb


@dataclass(frozen=True)
class Pair:
    """One judgement: of two answers to a prompt, `chosen` is the better one. `source`: vote or thumbs."""

    chosen: StoredAnswer
    rejected: StoredAnswer
    user_id: str
    source: str

    @property
    def key(self) -> tuple[str, str, str]:
        """The prompt and both texts: equal judgements have equal keys."""
        return _prompt_key(self.chosen), self.chosen.text, self.rejected.text


@dataclass
class PreferenceEntry:
    """One row of the output, and its origin."""

    row: dict[str, Any]
    source: str
    judgements: int
    user_ids: list[str]
    models: dict[str, str]  # of chosen and rejected

    @property
    def origin(self) -> dict[str, Any]:
        return {"id": self.row["id"]} | {name: value for name, value in vars(self).items() if name != "row"}


@dataclass
class CollectedPairs:
    """`dropped`: how many judgements for which reason; `contradictions`: pairs judged both ways, {"prompt", "for",
    "against", "kept"} with user ids; `capped`: prompts with more pairs of thumbs than are kept, {"prompt", "up",
    "down", "kept"}."""

    pairs: list[Pair] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    contradictions: list[dict[str, Any]] = field(default_factory=list)
    capped: list[dict[str, Any]] = field(default_factory=list)

    def add(self, chosen: StoredAnswer, rejected: StoredAnswer, source: str, *, keep_truncated: bool) -> None:
        if chosen.text == rejected.text:
            self.dropped["both answers are the same"] += 1
        elif not chosen.text.strip() or not rejected.text.strip():
            self.dropped["an answer is empty"] += 1
        elif chosen.finish_reason in INCOMPLETE_REASONS and not keep_truncated:
            self.dropped["the chosen answer was cut off"] += 1
        else:
            users = " and ".join(sorted({chosen.user_id, rejected.user_id}))
            self.pairs.append(Pair(chosen, rejected, users, source))


def from_chat(records: Records, *, keep_truncated: bool = False, max_pairs_per_prompt: int = 10) -> CollectedPairs:
    """Pairs from votes, and from up and down thumbs on answers to the same prompt.

    Args:
        keep_truncated: keep chosen answers that were cut off; training on them teaches to stop in mid-sentence.
        max_pairs_per_prompt: of thumbs; 60 up and 60 down would be 3,600 rows of one question. The pairs kept use every
            answer as evenly as possible.
    """
    collected = CollectedPairs()
    for comparison in records.comparisons:
        left, right = comparison.left, comparison.right
        if comparison.choice in ("left", "right"):
            chosen, rejected = (left, right) if comparison.choice == "left" else (right, left)
            collected.add(chosen, rejected, "vote", keep_truncated=keep_truncated)
        elif comparison.choice:
            collected.dropped["tie" if comparison.choice == "tie" else "both bad"] += 1
    by_prompt: dict[str, dict[str, list[Thumb]]] = defaultdict(lambda: defaultdict(list))
    for thumb in records.thumbs:
        by_prompt[_prompt_key(thumb.answer)][thumb.answer.text].append(thumb)
    for answers in by_prompt.values():
        up, down = _agreed_thumbs(answers.values(), collected)
        for liked, disliked in islice(balanced_pairs(up, down), max_pairs_per_prompt):
            for thumb_up, thumb_down in product(liked, disliked):
                collected.add(thumb_up.answer, thumb_down.answer, "thumbs", keep_truncated=keep_truncated)
        if (excess := len(up) * len(down) - max_pairs_per_prompt) > 0:
            collected.dropped["more pairs of thumbs than --max_pairs_per_prompt"] += excess
            counts = {"up": len(up), "down": len(down), "kept": max_pairs_per_prompt}
            collected.capped.append({"prompt": up[0][0].answer.prompt} | counts)
    return collected


def _agreed_thumbs(
    answers: Iterable[list[Thumb]], collected: CollectedPairs
) -> tuple[list[list[Thumb]], list[list[Thumb]]]:
    """(up, down): the thumbs of each answer, of those whose thumbs agree."""
    by_value: dict[int, list[list[Thumb]]] = {0: [], 1: []}
    for thumbs in answers:
        users = {value: sorted(t.answer.user_id for t in thumbs if t.value == value) for value in (0, 1)}
        if users[0] and users[1]:
            collected.dropped["an answer with thumbs up and down"] += len(thumbs)
            prompt = thumbs[0].answer.prompt
            collected.contradictions.append({"prompt": prompt, "for": users[1], "against": users[0], "kept": False})
        else:
            by_value[thumbs[0].value].append(thumbs)
    return by_value[1], by_value[0]


def balanced_pairs(up: list[Any], down: list[Any]) -> Iterator[tuple[Any, ...]]:
    """Every pair of an `up` and a `down`, in an order that uses each as often as the others on its side, wherever it is
    cut off."""
    if not up or not down:
        return
    for shift in range(gcd(len(up), len(down))):
        for n in range(lcm(len(up), len(down))):
            yield up[n % len(up)], down[(n + shift) % len(down)]


def merge(collected: CollectedPairs) -> list[PreferenceEntry]:
    """One entry for every pair of answers.

    Equal judgements become one row; a user counts once for each direction. If a pair was judged both ways, the majority
    decides, and an even split drops it; both are added to `collected.contradictions`.
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
    """`pairs`: equal judgements."""
    chosen, rejected = pairs[0].chosen, pairs[0].rejected
    row = {
        "id": _id(pairs[0].key),
        "task": chosen.task,
        "prompt": chosen.prompt,
        "chosen": [{"role": "assistant", "content": chosen.text}],
        "rejected": [{"role": "assistant", "content": rejected.text}],
    }
    models = {"chosen": chosen.model, "rejected": rejected.model}
    return PreferenceEntry(row, pairs[0].source, len(pairs), sorted({pair.user_id for pair in pairs}), models)


def unpaired(records: Records, *, keep_truncated: bool = False) -> tuple[list[dict[str, Any]], Counter[str]]:
    """KTO's rows, {"id", "task", "prompt", "completion", "label"}, from thumbs and votes; "both bad" labels both
    answers false. An answer that was judged both ways is dropped and counted."""
    judgements = [(thumb.answer, bool(thumb.value)) for thumb in records.thumbs]
    for comparison in records.comparisons:
        if comparison.choice in ("left", "right", "both_bad"):
            judgements += [(comparison.left, comparison.choice == "left")]
            judgements += [(comparison.right, comparison.choice == "right")]
    labels: dict[tuple[str, str], set[bool]] = defaultdict(set)
    answers: dict[tuple[str, str], StoredAnswer] = {}
    for answer, is_good in judgements:
        key = (_prompt_key(answer), answer.text)
        labels[key].add(is_good)
        answers[key] = answer
    rows, dropped = [], Counter[str]()
    for key, answer in answers.items():
        if len(labels[key]) == 2:
            dropped["judged both ways"] += 1
        elif not answer.text.strip():
            dropped["an answer is empty"] += 1
        elif labels[key] == {True} and answer.finish_reason in INCOMPLETE_REASONS and not keep_truncated:
            dropped["a liked answer was cut off"] += 1
        else:
            completion = [{"role": "assistant", "content": answer.text}]
            row = {"id": _id(key), "task": answer.task, "prompt": answer.prompt, "completion": completion}
            rows.append(row | {"label": labels[key] == {True}})
    return rows, dropped


def _prompt_key(answer: StoredAnswer) -> str:
    return json.dumps(answer.prompt, ensure_ascii=False, sort_keys=True)


def _id(key: tuple[Any, ...]) -> str:
    return "chat-" + hashlib.sha256(json.dumps(key, ensure_ascii=False).encode()).hexdigest()[:12]
