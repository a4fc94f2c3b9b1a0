"""report.html of a preparation: one page, without a network, of what went in, what came out, and what was refused."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from sllm import checkpoint, tasks
from sllm.data import personal_data
from sllm.data.json_writer import jsonl
from sllm.data.preparation import Preparation, kind_of_reason
from sllm.data.splits import Array

TEMPLATE = Path(__file__).resolve().parent.parent.parent / "templates" / "report" / "data.html.jinja"
EXAMPLES = 3  # of each reason
SHOWN_ROWS = 10
SHOWN_CHARACTERS = 1200  # of a text; the rest is in the files
BINS = 32


def write(state: Preparation, report: dict[str, Any], folder: Path, rendered: dict[int, str] | None = None) -> None:
    """The page, beside the files that it is about.

    Args:
        rendered: the rows of `sample` as text with the chat template's marks; None: as turns.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"short": _short, "number": "{:,}".format, "share": "{:.1%}".format}
    index = state.index[state.kept]
    page: str = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report, histograms={name: histogram(index[name]) for name in report["characters"]},
        by_source_and_task=_by_source_and_task(state, index), task_names=_task_names(report["tasks"]),
        examples=_examples(folder / "rejects.jsonl"), rendered=rendered or {},
        rows={number: state.row(number) for number in sample(state)},
    )  # fmt: skip
    page = page.encode("utf-8", "replace").decode()  # a file name may be no text
    checkpoint.write_atomically(folder / "report.html", page)


def sample(state: Preparation) -> list[int]:
    """The numbers of ten kept rows, at random but the same each time, in the order of the files."""
    kept = np.flatnonzero(state.kept)
    drawn = kept[np.argsort(state.index["content"][kept], kind="stable")[:SHOWN_ROWS]]
    return sorted(drawn.tolist())


def histogram(values: Array) -> dict[str, Any]:
    """Shares of the fullest bin, (`BINS`,), up to the 99th percentile; what is longer is in the last one."""
    most = max(1, int(np.percentile(values, 99)))
    counts, _ = np.histogram(np.minimum(values, most), BINS, (0, most))
    return {"bars": [float(count) for count in counts / max(1, counts.max())], "most": most}


def _by_source_and_task(state: Preparation, index: Array) -> dict[str, dict[str, int]]:
    """Rows of each file by task, the most frequent first."""
    names, task_of_facts = state.tasks
    table: dict[str, dict[str, int]] = {}
    sources = state.source_of_row[state.kept]
    for number, file in enumerate(state.sources):
        counts = np.bincount(task_of_facts[index["facts"][sources == number]], minlength=len(names))
        order = np.argsort(-counts, kind="stable")
        table[file.path] = {names[i] or "–": int(counts[i]) for i in order.tolist() if counts[i]}
    return table


def _task_names(labels: dict[str, int]) -> dict[str, tuple[str, str]]:
    known = {label: tasks.TASKS[label] for label in labels if label in tasks.TASKS}
    return {label: (task.name_ko, task.name_en) for label, task in known.items()}


def _examples(rejects: Path) -> dict[str, list[dict[str, Any]]]:
    """The first rows that were refused for each reason."""
    examples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with rejects.open(encoding="utf-8") as file:
        for line in file:
            reject = json.loads(line)
            chosen = examples[kind_of_reason(reject["reason"])]
            if len(chosen) < EXAMPLES:
                row = reject["row"]
                chosen.append(reject | {"row": None if row is None else jsonl([row]).rstrip("\n")})
    return dict(examples)


def _short(text: str) -> str:
    text = personal_data.mask(text)[0]  # a page is passed on
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} … (+{len(text) - SHOWN_CHARACTERS:,})"
