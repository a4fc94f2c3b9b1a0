"""The small world: made-up things with facts drawn at random, rows of every task about them, and a check of what is
true. A tiny model can learn it, so that a demo and a test can show whether training teaches."""

from sllm.world.check import Truth, check, read_facts
from sllm.world.rows import TASKS, Style, chat_row, row

__all__ = ["TASKS", "Style", "Truth", "chat_row", "check", "read_facts", "row"]
