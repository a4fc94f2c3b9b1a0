"""Votes and thumbs of the chat page → preference pairs, and unpaired rows for KTO.

Only the first vote on a comparison counts: it was made before the names of the models were shown.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice, product
from math import gcd, lcm
from typing import Any

from sllm.chatstore import INCOMPLETE_REASONS, Records, StoredAnswer, Thumb
from sllm.data.preferences import Answer, CollectedPairs, prompt_key, row_id


def _answer(stored: StoredAnswer) -> Answer:
    return Answer(stored.prompt, stored.text, stored.model, stored.task, stored.finish_reason, stored.user_id)


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
            collected.add(_answer(chosen), _answer(rejected), "vote", keep_truncated=keep_truncated)
        elif comparison.choice:
            collected.dropped["tie" if comparison.choice == "tie" else "both bad"] += 1
    by_prompt: dict[str, dict[str, list[Thumb]]] = defaultdict(lambda: defaultdict(list))
    for thumb in records.thumbs:
        by_prompt[prompt_key(thumb.answer.prompt)][thumb.answer.text].append(thumb)
    for answers in by_prompt.values():
        up, down = _agreed_thumbs(answers.values(), collected)
        for liked, disliked in islice(balanced_pairs(up, down), max_pairs_per_prompt):
            for thumb_up, thumb_down in product(liked, disliked):
                pair = _answer(thumb_up.answer), _answer(thumb_down.answer)
                collected.add(*pair, "thumbs", keep_truncated=keep_truncated)
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
        key = (prompt_key(answer.prompt), answer.text)
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
            row = {"id": row_id("chat", key), "task": answer.task, "prompt": answer.prompt, "completion": completion}
            rows.append(row | {"label": labels[key] == {True}})
    return rows, dropped
