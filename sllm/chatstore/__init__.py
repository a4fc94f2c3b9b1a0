"""Conversations, thumbs and arena votes: what users of the chat page tell, and what preference data is made of.

Our own tables, beside those that Chainlit keeps its history in. Every write is one transaction and is read back, and an
error is raised where it fails: a vote that the page confirms is on the disk. Functions block; the page calls them in
threads.

    store = ChatStore("sqlite:///outputs/chat/chat.db")
    store.put_answer(StoredAnswer(id="a1", conversation="c1", user_id="local", model="sft", prompt=[…], text="…"))
    store.set_thumb("a1", 1, "정확하다")
"""

from sllm.chatstore.records import Records, Reject
from sllm.chatstore.store import ChatStore, NotStored
from sllm.chatstore.tables import CHOICES, Comparison, StoredAnswer, Thumb

__all__ = ["CHOICES", "ChatStore", "Comparison", "NotStored", "Records", "Reject", "StoredAnswer", "Thumb"]
