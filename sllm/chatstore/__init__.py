"""Conversations, thumbs and arena votes: the feedback of the chat page's users, and the source of preference data.

Our own tables, beside those that Chainlit keeps its history in. Every write is one transaction and is read back, and an
error is raised where it fails: a vote that the page confirms is on the disk. Functions block; the page calls them in
threads.

    store = ChatStore("sqlite:///outputs/chat/chat.db")
    store.put_answer(StoredAnswer(id="a1", conversation="c1", user_id="local", model="sft", prompt=[…], text="…"))
    store.set_thumb("a1", 1, "정확하다")
"""

from sllm.chatstore.records import Records
from sllm.chatstore.store import ChatStore, NotStored
from sllm.chatstore.tables import CHOICES, INCOMPLETE_REASONS, Comparison, StoredAnswer, Thumb

__all__ = [
    "CHOICES", "INCOMPLETE_REASONS", "ChatStore", "Comparison", "NotStored", "Records", "StoredAnswer", "Thumb",
]  # fmt: skip
