"""Reading everything, checked row by row: another program, a full disk or a person may have damaged some of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.orm import Session

from sllm.chatstore.tables import CHOICES, Base, Comparison, StoredAnswer, Thumb


@dataclass(frozen=True)
class Reject:
    """A row that cannot be used: its table, its key, and why."""

    table: str
    id: str
    reason: str


@dataclass
class Records:
    """Everything in the store, oldest first; what cannot be used is in `rejects`."""

    answers: dict[str, StoredAnswer] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    thumbs: list[Thumb] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


def read_records(session: Session, changed: dict[str, str]) -> Records:
    """Everything in the database, as it is in one transaction. What refers to a rejected row is rejected too.

    Args:
        changed: comparison id → the vote after the names were shown.
    """
    rejects: list[Reject] = []

    def usable(kind: type[Base], problem: Callable[..., str | None], *args: object) -> list:
        rows = []
        for row in session.scalars(sa.select(kind).order_by(kind.time, *sa.inspect(kind).primary_key)).all():
            if reason := problem(row, *args):
                rejects.append(Reject(kind.__tablename__, str(sa.inspect(row).identity[0]), reason))
            else:
                rows.append(row)
        return rows

    answers = {answer.id: answer for answer in usable(StoredAnswer, answer_problem)}
    comparisons = usable(Comparison, _comparison_problem, answers)
    for comparison in comparisons:
        comparison.changed = changed.get(comparison.id)
    return Records(answers, comparisons, usable(Thumb, _thumb_problem, answers), rejects)


def answer_problem(answer: StoredAnswer) -> str | None:
    """Why an answer cannot be used; None if it can."""
    if problem := _prompt_problem(answer.prompt):
        return problem
    if answer.sampling is None:
        return "sampling is not a JSON object"
    for name in ("conversation", "user_id", "model", "text", "time", "finish_reason", "template_hash", "task"):
        value = getattr(answer, name)
        optional = name in ("finish_reason", "template_hash", "task")
        if not isinstance(value, str) and not (optional and value is None):
            return f"{name} is missing or is not text"
    try:
        json.dumps([answer.text, answer.task, answer.prompt], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "text or prompt is not valid UTF-8"
    return None


def _prompt_problem(prompt: list | None) -> str | None:
    """Why a prompt cannot be trained on: it has to be messages, the last of which is the user's."""
    if not prompt:
        return "prompt is not a JSON list of messages"
    for message in prompt:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return "prompt has a message without text"
        if message.get("role") not in ("system", "user", "assistant"):
            return f"prompt has a message of role {message.get('role')!r}"
    if prompt[-1]["role"] != "user":
        return "prompt does not end with a question"
    return None


def _comparison_problem(comparison: Comparison, answers: dict[str, StoredAnswer]) -> str | None:
    for side in ("left", "right"):
        if getattr(comparison, f"{side}_id") not in answers or getattr(comparison, side) is None:
            return f"the {side} answer is missing or rejected"
    if comparison.choice not in (*CHOICES, None):
        return f"choice {comparison.choice!r} is not one of {', '.join(CHOICES)}"
    if comparison.left.prompt != comparison.right.prompt:
        return "the two answers are to different prompts"
    return None


def _thumb_problem(thumb: Thumb, answers: dict[str, StoredAnswer]) -> str | None:
    if thumb.answer_id not in answers or thumb.answer is None:
        return "the answer is missing or rejected"
    if thumb.value not in (0, 1):
        return f"value {thumb.value!r} is neither 1 (up) nor 0 (down)"
    return None
