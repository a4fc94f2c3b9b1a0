"""What a conversation is made of: threads of messages."""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime


def now() -> str:
    """The time as Chainlit writes it; messages are sorted by it, down to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def new_id() -> str:
    return str(uuid.uuid4())


class ThreadMissing(Exception):
    """The conversation does not exist; it may have been deleted."""


@dataclass
class Message:
    """One message of a conversation.

    `role`: question, command, task, note, answer or problem. `parent`: the message that it follows. `run`: of an
    answer, its id in the chat store, which thumbs refer to. `metadata`: what else the role needs; none of it goes to
    the browser. `elements`: id → (name, properties) of what is shown with it.
    """

    role: str
    content: str = ""
    parent: str | None = None
    id: str = field(default_factory=new_id)
    author: str = ""
    created_at: str = field(default_factory=now)
    run: str | None = None
    streaming: bool = False
    metadata: dict = field(default_factory=dict)
    elements: dict[str, tuple[str, dict]] = field(default_factory=dict)
    thumb: dict | None = None

    @property
    def type(self) -> str:
        return "user_message" if self.role in ("question", "command", "task") else "assistant_message"


@dataclass
class Thread:
    """A conversation. `settings` and `profile`: as its owner last set them; `leaf`: the last message of the branch that
    is shown."""

    id: str
    owner: str
    name: str = ""
    created_at: str = field(default_factory=now)
    profile: str | None = None
    settings: dict = field(default_factory=dict)
    leaf: str | None = None
    messages: dict[str, Message] = field(default_factory=dict)  # oldest first
