"""Which rows belong together, and which split they go to."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from sllm import tasks
from sllm.data.rows import Row

Array: TypeAlias = np.ndarray
SPLITS = ("train", "valid", "test")
_CONTEXT = re.compile(r"###Context###:(.*?)(?:###Question###:|###Answer###:|\Z)", re.DOTALL)


def prompt_and_answer(row: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """The turns that ask, and the text that answers (of a preference row, the chosen one)."""
    if "messages" in row:
        return row["messages"][:-1], row["messages"][-1]["content"]
    return row["prompt"], row["chosen"][0]["content"]


def context_key(row: dict[str, Any]) -> str:
    """What a row is about: its task's context, table, text or title; else its own `context` key; else the section
    labelled `Context`; else the first user turn. White space and Unicode composition are ignored."""
    user = _first_user_turn(row)
    source = tasks.TASKS[row["task"]].source if row["task"] in tasks.TASKS else None
    context = str(tasks.split_user_turn(row["task"], user).get(source, "")) if source else ""
    context = context or getattr(row, "context", None) or ""
    if not context.strip():
        labelled = _CONTEXT.search(user)
        context = labelled[1] if labelled and labelled[1].strip() else user
    return _normal(str(context))


def keys(row: dict[str, Any]) -> tuple[str, str]:
    """What keeps rows together: those that share a context or their first user turn."""
    return context_key(row), _normal(_first_user_turn(row))


def hash_of(text: bytes) -> int:
    """64 bits."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def group(contexts: Array, turns: Array) -> Array:
    """(rows,) a group number for each row: rows that share a context or their first user turn, directly or through
    other rows, share the number. `contexts` and `turns`: (rows,) hashes of `keys`."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(contexts)
    _, numbers = np.unique(np.concatenate([contexts, turns]), return_inverse=True)
    edges: Any = (np.ones(2 * count, bool), (np.tile(np.arange(count), 2), count + numbers))
    size = count + (int(numbers.max()) + 1 if count else 0)
    _, components = connected_components(coo_array(edges, shape=(size, size)), directed=False)
    groups: Array = components[:count]
    return groups


def split(
    groups: Array, tasks: Sequence[str | None], task_of: Array, contexts: Array, *, valid: float, test: float, seed: int
) -> Array:
    """(rows,) the number of each row's split in `SPLITS`.

    Groups are ordered by task, and within a task by a hash of the seed and their content (so the order of the input
    does not matter). Each goes to the split that is furthest behind its share of the rows placed so far. So the
    result is within half a group of the requested ratios, and each task is spread in the same way: a task with two
    groups or more due in a split (its groups × the ratio) appears there, and rarer tasks take turns. A group with
    several tasks counts as the rarest of them. Valid and test get no group that would exceed their share by more than
    half of it: with a few rows, or a few huge groups, they stay empty. Train is never empty.

    Args:
        tasks: the different tasks; `task_of`: (rows,) number of each row's.
        contexts: (rows,) hashes of what the rows are about.
    """
    numbers, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    frequency = np.bincount(task_of, minlength=len(tasks))
    by_rarity = sorted(range(len(tasks)), key=lambda i: (frequency[i], str(tasks[i])))
    draws = [hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in tasks]
    task_rank = np.argsort(by_rarity)[task_of]  # 0: the rarest
    rarest = np.full(len(numbers), len(tasks))
    np.minimum.at(rarest, members, task_rank)
    drawn: Array = np.full(len(numbers), 2**64 - 1, np.uint64)
    np.minimum.at(drawn, members, draw(contexts, seed))
    place_of_task = np.argsort(sorted(range(len(tasks)), key=draws.__getitem__))[np.array(by_rarity, int)[rarest]]
    split_of_group: Array = np.zeros(len(numbers), np.uint8)
    shares, placed, total = (1 - valid - test, valid, test), [0, 0, 0], len(groups)
    for i in np.lexsort((drawn, place_of_task)).tolist():
        size = int(sizes[i])
        # One more row, not `size` more: otherwise a large group would always go to train.
        due, best = sum(placed) + 1, 0
        for side in (1, 2):
            fits = placed[side] + size / 2 <= shares[side] * total + 1e-9
            if fits and due > 1 and shares[side] * due - placed[side] > shares[best] * due - placed[best]:
                best = side
        placed[best] += size
        split_of_group[i] = best
    split_of_row: Array = split_of_group[members]
    return split_of_row


def draw(hashes: Array, seed: int) -> Array:
    """A random number of 64 bits for each hash, the same for the same seed (SplitMix64's finalizer)."""
    start = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:8], "little")
    values: Array = hashes ^ np.uint64(start)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    values = values ^ (values >> np.uint64(31))
    return values


def swapped_pairs(rows: list[Row]) -> list[Row]:
    """The preference rows whose chosen answer breaks a rule of its task where the rejected one keeps all."""

    def broken(row: Row, side: str) -> bool:
        return bool(tasks.check(row["task"], row["prompt"][-1]["content"], row[side][0]["content"]))

    known = [
        row for row in rows if row["task"] in tasks.TASKS and sum(turn["role"] == "user" for turn in row["prompt"]) == 1
    ]
    return [row for row in known if broken(row, "chosen") and not broken(row, "rejected")]


def _first_user_turn(row: dict[str, Any]) -> str:
    return next(str(turn["content"]) for turn in prompt_and_answer(row)[0] if turn["role"] == "user")


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
