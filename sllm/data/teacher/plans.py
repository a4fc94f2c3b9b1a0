"""What the teacher is asked for one row: its task, its text, and everything in which rows of one task differ.

Korean texts are in templates/tasks/. What varies follows from the seed, the text and the number of the row alone, so
that a run that continues asks the same.
"""

import hashlib
import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sllm import tasks
from sllm.data.teacher.contexts import Context
from sllm.tasks import Task

TEMPLATES = Path(__file__).resolve().parents[3] / "templates" / "tasks"
LEVELS = ("plain", "rules", "role", "steps")  # of system prompts, from the plainest to the one that asks the most
VERDICTS = {"yes_no": ("예", "아니요"), "answerable": ("답변할 수 있음", "답변할 수 없음")}
LISTS = ("wrong", "evidence")  # keys whose values are arrays
_FOCUSES = (
    "무엇, 누구, 언제, 어디", "까닭이나 원인", "방법이나 과정", "둘 이상의 비교", "결과나 영향, 뜻",
    "조건이나 예외, 범위", "여러 내용을 함께 살펴야 알 수 있는 점",
)  # fmt: skip
_RULE = re.compile(r"^\d+\. (.+)$", re.MULTILINE)
_TABLE = re.compile(r"(?:([^\n<>]{1,100})\n)?\s*(<table\b.*?</table\s*>)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Plan:
    """One row that is to be written.

    Attributes:
        fields: of the user turn, as far as they are known before the teacher answers.
        asked: the keys of the JSON object that the teacher writes; none: it writes the answer as plain text.
        verdict: what a yes/no question has to be answered with; the teacher alone would nearly always choose yes.
        choices: how many; the teacher's right one is put in the place `right`.
        level: of LEVELS; None for a task without a system prompt.
        messages: for the teacher.
    """

    id: str
    task: Task
    context: Context
    fields: dict[str, str | list[str]]
    asked: tuple[str, ...]
    verdict: str | None
    choices: int
    right: int
    system_prompt: str | None
    level: str | None
    messages: list[dict[str, str]]


def plan(context: Context, task_id: str, number: int, seed: int) -> Plan | str:
    """The row `number`, from 0, of a task about a context; or why there is none."""
    task = tasks.get(task_id)
    parts = _family(task_id.partition("_")[0])
    draw = random.Random(hashlib.sha256(f"{seed}\0{context.text}\0{task_id}".encode()).digest())
    first = {name: draw.randrange(10**6) for name in ("level", "focus", "verdict", "question", "words", "choices")}
    turn = {name: start + number for name, start in first.items()}
    source = _source(task, context, turn["words"])
    if source is None:
        return "the text is too short to be completed"
    fields: dict[str, str | list[str]] = {task.source: source} if task.source and source else {}
    if task.question:
        wordings = [task.question, *parts.questions.get(task.style, [])]
        if number >= len(wordings):
            return f"more rows than wordings of the question ({len(wordings)})"
        fields["question"] = wordings[turn["question"] % len(wordings)]
    level = LEVELS[turn["level"] % len(LEVELS)] if getattr(task, "labelled", True) else None
    system_prompt = _system_prompt(task, parts, level, turn["words"]) if level else None
    asked = _asked(task, fields)
    verdicts = next((words for rule, words in VERDICTS.items() if rule in task.rules), None)
    verdict = verdicts[turn["verdict"] % 2] if verdicts else None
    choices = 4 + turn["choices"] % 2
    shown = source or context.text
    prompt = _render(
        "teacher.jinja", task=task, parts=parts, asked=asked, verdict=verdict, choices=choices, source=shown,
        title=context.title, focus=_FOCUSES[turn["focus"] % len(_FOCUSES)], limits=_limits(task, shown),
        mark=hashlib.sha256(shown.encode()).hexdigest()[:8],
        instruction="\n\n".join([system_prompt or task.system_prompt, str(fields.get("question", ""))]).strip(),
    )  # fmt: skip
    return Plan(
        f"{context.id}-{task_id}-{number + 1}", task, context, fields, asked, verdict, choices,
        turn["words"] % choices, system_prompt, level, [{"role": "user", "content": prompt}],
    )  # fmt: skip


def pairs(count: int, task_ids: Sequence[str], rows_per_context: int) -> Iterator[tuple[int, str, int]]:
    """(context, task, number) of all rows. Each pass over the contexts takes another task for each of them, so that
    the first n rows are about as many contexts, and tasks, as can be."""
    for number in range(rows_per_context):
        for shift in range(len(task_ids)):
            for context in range(count):
                yield context, task_ids[(context + shift) % len(task_ids)], number


def again(kind: str, failures: Sequence[tasks.Failure]) -> str:
    """What the teacher is told about an answer that cannot be used."""
    return _render("again.jinja", kind=kind, failures=failures)


def schema(asked: Sequence[str]) -> dict[str, Any]:
    """`response_format` of an object with these keys."""
    text: dict[str, Any] = {"type": "string"}
    properties = {key: {"type": "array", "items": text} if key in LISTS else text for key in asked}
    given = {"type": "object", "properties": properties, "required": list(asked), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "row", "strict": True, "schema": given}}


@cache
def template_hash() -> str:
    """SHA-256 of all templates, so that it shows which prompts wrote a row."""
    digest = hashlib.sha256()
    for path in sorted(TEMPLATES.glob("*.jinja")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def size(text: str) -> int:
    """Characters without white space, as the length rules count."""
    return len("".join(text.split()))


def _asked(task: Task, fields: dict[str, str | list[str]]) -> tuple[str, ...]:
    """What the teacher has to write besides a plain answer, grounds before conclusions."""
    keys = [name for name in (task.source, "question") if name in task.fields and name not in fields]
    keys += ["correct", "wrong"] if "choices" in task.fields else []
    keys += ["verdict"] if any(rule in task.rules for rule in VERDICTS) else []
    if not keys:
        return ()
    if "evidence" in task.rules or ("grounded" in task.rules and "question" in task.fields):
        keys.append("evidence")
    if "rationale" in task.rules:
        keys.append("explanation")
    elif "choices" not in task.fields and "verdict" not in keys:
        keys.append("answer")
    return tuple(str(key) for key in keys)


def _source(task: Task, context: Context, number: int) -> str | None:
    """The text of the task's source field; "" where the teacher writes it or there is none; None: it cannot be made."""
    if task.source == "context":
        return context.text
    if task.source == "table":
        table = _TABLE.search(context.text)
        return "\n".join(filter(None, table.groups())) if table else ""
    if task.source != "text":
        return ""
    if "gap" in task.rules:
        sentences = [part.strip() for part in re.split(r"(?<=[.!?])\s+", context.text) if part.strip()][:9]
        left_out = 1 + number % max(len(sentences) - 2, 1)
        lines = [f"문장{i + 1} : {text}" for i, text in enumerate(sentences) if i != left_out]
        return "\n".join(lines) if len(lines) > 2 else None
    at = context.text.find(" ", int(len(context.text) * (0.4 + 0.3 * (number % 100) / 100)))  # in a sentence, too
    return context.text[:at].strip() if at >= 60 else None


def _limits(task: Task, shown: str) -> dict[str, Any]:
    """What the length rule asks of the answer, with a margin, as teachers count badly."""
    limits: dict[str, Any] = {"least": 0, "most": 0, "target": 0, "chars": ""}
    if task.length_ratio:
        least, most = task.length_ratio
        measured = 40 if task.source == "title" else size(shown)  # the longest title
        limits["least"] = math.ceil(1.05 * least * measured)
        limits["most"] = math.floor(0.95 * most * measured) if most < math.inf else 0
        limits["target"] = round(math.sqrt(least * most) * measured) if limits["most"] else 2 * limits["least"]
    least_chars, most_chars = getattr(task, "chars", None) or (0, math.inf)
    bounds = [f"{least_chars}자 이상"] if least_chars > 1 else []
    bounds += [f"{most_chars}자 이하"] if most_chars < math.inf else []
    return limits | {"chars": " ".join(bounds)}


def _system_prompt(task: Task, parts: Any, level: str, number: int) -> str:
    own, _, rules = task.system_prompt.partition("\n\n")
    leads = [own.removesuffix("다음 규칙을 지켜야 합니다.").strip(), *parts.leads]
    return _render(
        "system_prompt.jinja", task=task, level=level, lead=leads[number % len(leads)],
        role=parts.roles[number // 7 % len(parts.roles)], reader=parts.readers[number // 11 % len(parts.readers)],
        steps=parts.steps, constraints=parts.constraints, rules=_RULE.findall(rules),
    )  # fmt: skip


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATES)
    return Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)


@cache
def _family(name: str) -> Any:
    """The texts of a task family: `leads`, `roles`, `readers`, `steps`, `constraints`, `questions`, `asking`."""
    default = dict(vars(_environment().get_template("default.jinja").module))
    own = _environment().select_template([f"{name}.jinja", "default.jinja"]).module
    return SimpleNamespace(**default | vars(own))


def _render(name: str, **values: Any) -> str:
    text: str = _environment().get_template(name).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip()
