"""From converted rows to splits: which rows belong together, which split they go to, and the report."""

import hashlib
import math
import random
import re
import statistics
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, TypeVar

from sllm import tasks
from sllm.cli import InputError
from sllm.data.input_files import InputFile, RejectedRow
from sllm.data.rows import Row, ignored_keys, near_misses, unknown_tasks

R = TypeVar("R", bound=dict[str, Any])  # a row
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


def group(rows: Sequence[dict[str, Any]]) -> list[int]:
    """A group number for each row: rows that share a context or their first user turn, directly or through other
    rows, share the number."""
    parent: list[int] = []
    seen: dict[str, int] = {}

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, row in enumerate(rows):
        parent.append(i)
        for key in (context_key(row), _normal(_first_user_turn(row))):
            parent[root(i)] = root(seen.setdefault(key, i))
    return [root(i) for i in range(len(rows))]


def split(rows: list[dict[str, Any]], groups: list[int], *, valid: float, test: float, seed: int) -> list[str]:
    """The split of each row: "train", "valid" or "test".

    Groups are ordered by task, and within a task by a hash of the seed and their content (so the order of the input
    does not matter). Each goes to the split that is furthest behind its share of the rows placed so far. So the
    result is within half a group of the requested ratios, and each task is spread in the same way: a task with two
    groups or more due in a split (its groups × the ratio) appears there, and rarer tasks take turns. A group with
    several tasks counts as the rarest of them. Valid and test get no group that would exceed their share by more than
    half of it: with a few rows, or a few huge groups, they stay empty. Train is never empty.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for i, number in enumerate(groups):
        members[number].append(i)
    frequency = Counter(row["task"] for row in rows)

    def draw(text: str) -> str:
        return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()

    def order(number: int) -> tuple[str, str]:
        task = min((rows[i]["task"] for i in members[number]), key=lambda name: (frequency[name], str(name)))
        return draw(str(task)), draw(min(context_key(rows[i]) for i in members[number]))

    shares = {"train": 1 - valid - test, "valid": valid, "test": test}
    placed: Counter[str] = Counter()
    split_names = [""] * len(rows)
    for number in sorted(members, key=order):
        size = len(members[number])
        # One more row, not `size` more: otherwise a large group would always go to train.
        behind = {name: share * (placed.total() + 1) - placed[name] for name, share in shares.items()}
        fits = [name for name in ("valid", "test") if placed[name] + size / 2 <= shares[name] * len(rows) + 1e-9]
        name = max(("train", *fits), key=behind.__getitem__) if placed else "train"
        placed[name] += size
        for i in members[number]:
            split_names[i] = name
    return split_names


def hold_out(rows: list[R], size: float, seed: int) -> tuple[list[R], list[R]]:
    """Split `size` rows (a share, below 1) off at random, whole groups at a time; order is kept on both sides.
    InputError if nothing would be left to train on."""
    count = math.ceil(size * len(rows)) if size < 1 else int(size)
    if not count:
        return rows, []
    members = defaultdict(list)
    for i, number in enumerate(group(rows)):
        members[number].append(i)
    held_out: set[int] = set()
    for number in random.Random(seed).sample(list(members), len(members)):
        if len(held_out) < count:
            held_out.update(members[number])
    if len(held_out) == len(rows):
        raise InputError(f"--val_set_size {size:g} leaves none of {len(rows)} rows to train on")
    return [row for i, row in enumerate(rows) if i not in held_out], [rows[i] for i in sorted(held_out)]


def lengths(texts: list[str]) -> dict[str, float]:
    """Characters: least, median, 95th percentile (nearest rank), most."""
    sizes = sorted(map(len, texts))
    p95 = sizes[max(-(-len(sizes) * 95 // 100) - 1, 0)]
    return {"min": sizes[0], "median": statistics.median(sizes), "p95": p95, "max": sizes[-1]}


def characters(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Lengths of the prompts (all turns together) and of the answers; of both answers for preference rows."""
    pairs = [prompt_and_answer(row) for row in rows]
    counts = {
        "prompt": lengths(["".join(turn["content"] for turn in prompt) for prompt, _ in pairs]),
        "answer": lengths([answer for _, answer in pairs]),
    }
    if "rejected" in rows[0]:
        counts["rejected"] = lengths([row["rejected"][0]["content"] for row in rows])
    return counts


def conformance(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each known task: answers checked, how many pass all rules, and how many fail each rule. Only conversations
    with one question, since the rules read a labelled user turn. Nothing is refused for it."""
    by_task: dict[str, dict[str, Any]] = {}
    for row in rows:
        prompt, answer = prompt_and_answer(row)
        if row["task"] not in tasks.TASKS or sum(turn["role"] == "user" for turn in prompt) != 1:
            continue
        counts = by_task.setdefault(row["task"], {"answers": 0, "conform": 0, "broken": Counter()})
        failures = tasks.check(row["task"], prompt[-1]["content"], answer)
        counts["answers"] += 1
        counts["conform"] += not failures
        counts["broken"].update(failure.rule for failure in failures)
    return dict(sorted(by_task.items()))


def swapped_pairs(rows: list[Row]) -> list[Row]:
    """The preference rows whose chosen answer breaks a rule of its task where the rejected one keeps all."""

    def broken(row: Row, side: str) -> bool:
        return bool(tasks.check(row["task"], row["prompt"][-1]["content"], row[side][0]["content"]))

    known = [
        row for row in rows if row["task"] in tasks.TASKS and sum(turn["role"] == "user" for turn in row["prompt"]) == 1
    ]
    return [row for row in known if broken(row, "chosen") and not broken(row, "rejected")]


def report(
    files: list[InputFile], rows: list[dict[str, Any]], groups: list[int], split_names: list[str]
) -> dict[str, Any]:
    """The content of report.json: counts by file, reason, task and split, lengths, conformance, unused keys. `rows` are
    the kept rows of all files; `groups` and `split_names` are theirs."""
    rejects = [reject for file in files for reject in file.rejects]
    labels = unknown_tasks(rows)
    splits = {}
    for name in SPLITS:
        members = [i for i, split_name in enumerate(split_names) if split_name == name]
        counts = _by_task([rows[i] for i in members])
        splits[name] = {"rows": len(members), "groups": len({groups[i] for i in members}), "tasks": counts}
    return {
        "kind": "preference" if "chosen" in rows[0] else "training",
        "files": [
            {
                "path": file.path,
                "format": file.format,
                "read": file.row_count,
                "kept": len(file.rows),
                "refused": _by_reason(file.rejects),
                "ignored": ignored_keys(file.rows),
            }
            for file in files
        ],
        "rows": {"read": sum(file.row_count for file in files), "kept": len(rows), "refused": len(rejects)},
        "refused": _by_reason(rejects),
        "ignored": ignored_keys(rows),
        "tasks": _by_task(rows),
        "unknown_tasks": labels,
        "warnings": near_misses(labels),
        "splits": splits,
        "characters": characters(rows),
        "conformance": conformance(rows),
    }


def _by_reason(rejects: list[RejectedRow]) -> dict[str, int]:
    """Rows by the first reason of each, without its details."""
    kinds = ("duplicate" if r.reason.startswith("duplicate of ") else r.reason for r in rejects)
    return dict(Counter(kind.partition("; ")[0].partition(":")[0] for kind in kinds).most_common())


def _by_task(rows: list[dict[str, Any]]) -> dict[str, int]:
    return dict(sorted(Counter(row["task"] or "none" for row in rows).items()))


def _first_user_turn(row: dict[str, Any]) -> str:
    return next(str(turn["content"]) for turn in prompt_and_answer(row)[0] if turn["role"] == "user")


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
