"""The task types (`table`, `earlier`), their requests (`turns`) and the machine-checkable rules of their answers
(`conformance`)."""

from sllm.tasks.conformance import Failure, check
from sllm.tasks.earlier import EARLIER, task_id_of
from sllm.tasks.earlier_rules import tags
from sllm.tasks.rules import keywords
from sllm.tasks.table import ORIGINAL, Task
from sllm.tasks.turns import (
    TASKS,
    WrongFields,
    build_messages,
    build_user_turn,
    get,
    similar_task_ids,
    split_user_turn,
)

__all__ = [
    "EARLIER", "ORIGINAL", "TASKS", "Failure", "Task", "WrongFields", "build_messages", "build_user_turn", "check",
    "get", "keywords", "similar_task_ids", "split_user_turn", "tags", "task_id_of",
]  # fmt: skip
