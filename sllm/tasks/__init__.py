"""The task types (`table`) and the machine-checkable rules of their answers (`conformance`)."""

from sllm.tasks.conformance import Failure, check, keywords
from sllm.tasks.table import (
    TASKS,
    Task,
    WrongFields,
    build_messages,
    build_user_turn,
    get,
    similar_task_ids,
    split_user_turn,
)

__all__ = [
    "TASKS", "Failure", "Task", "WrongFields", "build_messages", "build_user_turn", "check", "get",
    "keywords", "similar_task_ids", "split_user_turn",
]  # fmt: skip
