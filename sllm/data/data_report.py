"""report.json of a preparation."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from sllm.data.preparation import NOT_DRAWN, Preparation, SourceCounts
from sllm.data.rows import near_misses, unknown_task_labels
from sllm.data.splits import SPLITS, Array


def report(state: Preparation, groups: Array, sides: Array) -> dict[str, Any]:
    """Counts by file, reason, task and split, lengths, conformance, unused keys.

    Args:
        groups, sides: (kept rows,) the group of each, and the number of its split.
    """
    rows, sources = state.index[state.kept], state.source_of_row[state.kept]
    total = Counter[str]()
    for file in state.sources:
        total.update(file.refused)
    read = sum(file.read for file in state.sources)
    labels = unknown_task_labels(_by(state, rows, lambda facts: [facts.task]))
    not_drawn = total[NOT_DRAWN]
    if read != len(rows) + total.total():
        raise AssertionError(f"{read} rows were read, {len(rows)} are kept and {total.total()} refused")
    return {
        "kind": "preference" if (rows["rejected"] > 0).any() else "training",
        "files": [_file(state, rows[sources == i], file) for i, file in enumerate(state.sources)],
        "rows": {"read": read, "kept": len(rows), "refused": total.total() - not_drawn, "not_drawn": not_drawn},
        "refused": {reason: count for reason, count in total.most_common() if reason != NOT_DRAWN},
        "ignored": _sorted(_by(state, rows, lambda facts: facts.ignored)),
        "notes": _sorted(_by(state, rows, lambda facts: facts.notes)),
        "tasks": _by_task(state, rows),
        "unknown_tasks": labels,
        "warnings": near_misses(labels),
        "splits": {
            name: {
                "rows": int((sides == i).sum()),
                "groups": len(np.unique(groups[sides == i])),
                "tasks": _by_task(state, rows[sides == i]),
            }
            for i, name in enumerate(SPLITS)
        },
        "characters": characters(rows),
        "conformance": _conformance(state, rows),
    }


def sources(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What run.json says of each input."""
    return [{key: file[key] for key in ("path", "sha256", "license", "kept")} for file in report["files"]]


def _file(state: Preparation, rows: Array, file: SourceCounts) -> dict[str, Any]:
    return {
        "path": file.path,
        "format": file.format,
        "kind": file.kind,
        "notes": file.notes,
        "license": file.license,
        "records": file.records,
        "read": file.read,
        "kept": len(rows),
        "refused": dict(file.refused.most_common()),
        "ignored": _sorted(_by(state, rows, lambda facts: facts.ignored)),
    }


def _by(state: Preparation, rows: Array, values: Any) -> Counter[Any]:
    """How many rows have each of `values(facts)`."""
    counts = Counter[Any]()
    for number, count in enumerate(np.bincount(rows["facts"], minlength=len(state.facts)).tolist()):
        if count:
            counts.update(dict.fromkeys(values(state.facts[number]), count))
    return counts


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _by_task(state: Preparation, rows: Array) -> dict[str, int]:
    counts = _by(state, rows, lambda facts: [facts.task or "none"])
    return dict(sorted(counts.items()))


def characters(rows: Array) -> dict[str, dict[str, float]]:
    """Characters of the prompts (all turns together) and of the answers; of both answers for preference rows."""
    names = ["prompt", "answer", *(["rejected"] if (rows["rejected"] > 0).any() else [])]
    return {name: lengths(rows[name]) for name in names}


def lengths(values: Array) -> dict[str, float]:
    """Least, median, 95th percentile (nearest rank), most."""
    if not len(values):
        return {"min": 0, "median": 0.0, "p95": 0, "max": 0}
    values = np.sort(values)
    p95 = int(values[max(-(-len(values) * 95 // 100) - 1, 0)])
    return {"min": int(values[0]), "median": float(np.median(values)), "p95": p95, "max": int(values[-1])}


def _conformance(state: Preparation, rows: Array) -> dict[str, dict[str, Any]]:
    """For each known task: answers checked, how many pass all rules, and how many fail each rule."""
    by_task: dict[str, dict[str, Any]] = {}
    for number, count in enumerate(np.bincount(rows["facts"], minlength=len(state.facts)).tolist()):
        facts = state.facts[number]
        if count and facts.task and facts.failures is not None:
            counts = by_task.setdefault(facts.task, {"answers": 0, "conform": 0, "broken": Counter()})
            counts["answers"] += count
            counts["conform"] += 0 if facts.failures else count
            counts["broken"].update(dict.fromkeys(facts.failures, count))
    return dict(sorted(by_task.items()))


def merge_stats(parts: Sequence[dict[str, Any]], shown: int) -> dict[str, Any]:
    """The statistics of tokenizing (`sllm.data.tokenize.TokenStats`) of several blocks of rows, as one."""
    total: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if name == "longest_truncated":
                both = total.get(name, []) + value
                total[name] = sorted(both, key=lambda entry: -entry["tokens"])[:shown]
            elif name in ("max_length", "longest"):
                total[name] = max(total.get(name, 0), value)
            else:
                total[name] = total.get(name, 0) + value
    return total
