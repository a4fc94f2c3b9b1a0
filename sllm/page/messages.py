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
    """A conversation: a tree of messages. Messages that follow the same one are branches (an edited question, a
    regenerated answer). `leaf`: the last message of the branch that is shown; `settings`, `profile`: as last set."""

    id: str
    owner: str
    name: str = ""
    created_at: str = field(default_factory=now)
    profile: str | None = None
    settings: dict = field(default_factory=dict)
    leaf: str | None = None
    messages: dict[str, Message] = field(default_factory=dict)  # oldest first

    def path(self, to: str | None = None) -> list[Message]:
        """The messages from the first one to `to`, or to the end of the branch that is shown."""
        path: dict[str, Message] = {}
        id = to or self.leaf
        while id and id not in path and (message := self.messages.get(id)):
            path[id] = message
            id = message.parent
        return list(path.values())[::-1]

    def branches(self, message: Message) -> list[Message]:
        """The message and its alternatives, oldest first."""
        if message.role not in ("question", "answer"):
            return [message]
        return [m for m in self.messages.values() if m.parent == message.parent and m.role == message.role]

    def prompt(self, to: Message, system_prompt: str) -> list[dict]:
        """The messages to send for an answer to `to`: those on the path to it.

        Of several answers to one question the last counts (older versions stored them one after another); a question
        without an answer is left out; a task starts from scratch.
        """
        messages: list[dict] = []
        for message in self.path(to.id):
            metadata = message.metadata
            if message.role == "question":
                file = metadata.get("file")
                if messages and messages[-1]["role"] == "user":
                    messages.pop()
                content = f"{file}\n\n{message.content}" if file else message.content
                messages.append({"role": "user", "content": content})
            elif message.role == "answer" and metadata.get("text"):
                if metadata.get("messages"):
                    messages = list(metadata["messages"])
                elif messages and messages[-1]["role"] == "assistant":
                    messages.pop()
                messages.append({"role": "assistant", "content": metadata["text"]})
        if system_prompt and not (messages and messages[0]["role"] == "system"):
            messages.insert(0, {"role": "system", "content": system_prompt})
        return messages

    def question_of(self, message: Message) -> Message | None:
        """The question or the task that an answer or a problem belongs to."""
        questions = (m for m in reversed(self.path(message.id)) if m.role in ("question", "task"))
        return next(questions, None)
