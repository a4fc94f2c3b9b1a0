"""Does an answer keep its task's rules? `check` runs the rules that the task table names and returns those that failed.

The rules measure form and grounding, not truth: an answer that passes may still be wrong.
"""

from dataclasses import dataclass

from sllm.tasks.earlier_rules import EARLIER_RULES
from sllm.tasks.rules import RULES
from sllm.tasks.turns import get, split_user_turn

_RULES = RULES | EARLIER_RULES


@dataclass(frozen=True)
class Failure:
    """One broken rule: its name in the task table, and why, in Korean."""

    rule: str
    reason: str


def check(task_id: str, user: str | dict[str, str | list[str]], answer: str) -> list[Failure]:
    """The rules of `task_id` that `answer` breaks; empty when it conforms. `user`: the labelled user turn, or its
    fields. ValueError if the task id is unknown."""
    task = get(task_id)
    fields = split_user_turn(task_id, user) if isinstance(user, str) else user
    if not answer.strip():
        return [Failure("not_empty", "답변이 비어 있습니다")]
    verdicts = ((rule, _RULES[rule](task, fields, answer.strip())) for rule in task.rules)
    return [Failure(rule, reason) for rule, reason in verdicts if reason]
