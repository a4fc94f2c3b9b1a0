"""Conversations as the database has them: messages, what is shown with them, names, owners, thumbs and logins.

The tables are those that Chainlit's own SQLAlchemy layer expects, so that databases of older versions open as they are.
What Chainlit has no column for is in `steps.metadata`: a message's role, and the message that it follows (`parent`).
Messages that follow the same one are branches; `threads.metadata.leaf` says where the branch ends that was shown last.
Functions block; the page calls them in threads.
"""

import json
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import sqlalchemy as sa

from sllm.chatstore import ChatStore, NotStored, StoredAnswer

_TYPES = {"key": sa.String(64), "unique": sa.String(200), "index": sa.String(64), "text": sa.Text,
          "boolean": sa.Boolean, "integer": sa.Integer}  # fmt: skip
_metadata = sa.MetaData()


def _table(name: str, /, **columns: str) -> sa.Table:
    return sa.Table(name, _metadata, *(
        sa.Column(column, _TYPES[kind], primary_key=kind == "key", unique=kind == "unique", index=kind == "index")
        for column, kind in columns.items()
    ))  # fmt: skip


_users = _table("users", id="key", identifier="unique", metadata="text", createdAt="text")
_threads = _table(
    "threads", id="key", createdAt="text", name="text", userId="text", userIdentifier="text", tags="text",
    metadata="text",
)  # fmt: skip
_steps = _table(
    "steps", id="key", name="text", type="text", threadId="index", parentId="text", streaming="boolean",
    waitForAnswer="boolean", isError="boolean", metadata="text", tags="text", input="text", output="text",
    createdAt="text", command="text", start="text", end="text", generation="text", showInput="text", language="text",
    indent="integer", defaultOpen="boolean", modes="text", autoCollapse="boolean", icon="text",
)  # fmt: skip
_elements = _table(
    "elements", id="key", threadId="index", type="text", url="text", chainlitKey="text", name="text", display="text",
    objectKey="text", size="text", page="integer", language="text", forId="text", mime="text", props="text",
    autoPlay="boolean", playerConfig="text",
)  # fmt: skip
_feedbacks = _table("feedbacks", id="key", forId="index", threadId="text", value="integer", comment="text")
_logins = _table("sllm_logins", id="key", identifier="index", credential="text", expires="text")


class Missing(Exception):
    """The conversation does not exist; it may have been deleted."""


@dataclass
class Message:
    """One message of a conversation.

    `role`: question, command, task, note, answer or problem. `parent`: the message that it follows. `run`: of an
    answer, its id in the chat store, which thumbs refer to. `metadata`: what else the role needs; none of it goes to
    the browser. `elements`: name → properties of what is shown with it, by id.
    """

    role: str
    content: str = ""
    parent: str | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    author: str = ""
    created_at: str = field(default_factory=lambda: now())
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
    """A conversation. `settings` and `profile`: as its owner last set them; `leaf`: where what is shown ends."""

    id: str
    owner: str
    name: str = ""
    created_at: str = field(default_factory=lambda: now())
    profile: str | None = None
    settings: dict = field(default_factory=dict)
    leaf: str | None = None
    messages: dict[str, Message] = field(default_factory=dict)  # oldest first


@dataclass(frozen=True)
class Login:
    """`credential`: of the password that it was made with; another password ends it."""

    id: str
    user: str
    credential: str
    expires: datetime


class ThreadStore:
    """The page's own tables, in the chat store's database."""

    def __init__(self, store: ChatStore):
        self.store, self.engine = store, store.engine
        _metadata.create_all(self.engine)

    # ── people ──

    def user(self, identifier: str) -> dict | None:
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(_users).where(_users.c.identifier == identifier)).mappings().first()
        return row and {name: row[name] for name in ("id", "identifier", "createdAt")}

    def add_user(self, identifier: str) -> dict:
        if found := self.user(identifier):
            return found
        row = {"id": str(uuid.uuid4()), "identifier": identifier, "createdAt": now(), "metadata": "{}"}
        with self.store.transaction() as connection:
            connection.execute(_users.insert().values(row))
        return {name: row[name] for name in ("id", "identifier", "createdAt")}

    def logins(self) -> list[Login]:
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(_logins)).all()
        return [Login(row.id, row.identifier, row.credential, datetime.fromisoformat(row.expires)) for row in rows]

    def add_login(self, login: Login) -> None:
        with self.store.transaction() as connection:
            connection.execute(_logins.delete().where(_logins.c.expires < datetime.now(UTC).isoformat()))
            row = {"id": login.id, "identifier": login.user, "credential": login.credential,
                   "expires": login.expires.isoformat()}  # fmt: skip
            connection.execute(_logins.insert().values(row))

    def end_login(self, id: str) -> None:
        with self.store.transaction() as connection:
            connection.execute(_logins.delete().where(_logins.c.id == id))

    # ── conversations ──

    def owner(self, thread: str) -> str | None:
        with self.engine.connect() as connection:
            return connection.execute(sa.select(_threads.c.userIdentifier).where(_threads.c.id == thread)).scalar()

    def has_message(self, id: str) -> bool:
        with self.engine.connect() as connection:
            return connection.execute(sa.select(_steps.c.id).where(_steps.c.id == id)).first() is not None

    def load(self, id: str) -> Thread | None:
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(_threads).where(_threads.c.id == id)).mappings().first()
            if row is None or row["userIdentifier"] is None:  # older pages made threads again that had been deleted
                return None
            steps, elements = (
                connection.execute(sa.select(table).where(table.c.threadId == id)).mappings().all()
                for table in (_steps, _elements)
            )
            runs = [step["parentId"] for step in steps if step["parentId"]]
            thumbs = connection.execute(sa.select(_feedbacks).where(_feedbacks.c.forId.in_(runs))).mappings().all()
        metadata = _object(row["metadata"])
        thread = Thread(
            id, row["userIdentifier"], row["name"] or "", row["createdAt"] or "", metadata.get("chat_profile"),
            metadata.get("chat_settings") or {}, metadata.get("leaf"),
        )  # fmt: skip
        before = None
        for step in sorted(steps, key=lambda step: step["createdAt"] or ""):
            if "message" not in (step["type"] or ""):  # runs: they are made from the answers in them
                continue
            message = _message(step, before)
            if message.parent and message.parent not in thread.messages:  # it was never stored
                message.parent = before
            before = message.id
            thread.messages[message.id] = message
        for message in thread.messages.values():
            _give_fields_to_task(thread, message)
            message.thumb = next((dict(thumb) for thumb in thumbs if thumb["forId"] == message.run), None)
        for element in elements:
            if message := thread.messages.get(element["forId"]):
                _give_element(message, element["id"], element["name"], _object(element["props"]))
        if thread.leaf not in thread.messages:
            thread.leaf = before
        return thread

    def create(self, thread: Thread) -> None:
        with self.store.transaction() as connection:
            user = connection.execute(sa.select(_users.c.id).where(_users.c.identifier == thread.owner)).scalar()
            row = {"id": thread.id, "createdAt": thread.created_at, "name": thread.name, "userId": user,
                   "userIdentifier": thread.owner, "metadata": _thread_metadata(thread)}  # fmt: skip
            connection.execute(_threads.insert().values(row))

    def save(
        self, thread: Thread, messages: Iterable[Message] = (), *, answer: StoredAnswer | None = None,
        comparison: tuple[str, StoredAnswer, StoredAnswer] | None = None,
    ) -> None:  # fmt: skip
        """Messages as they are now, what the thread says of itself, and an answer or a comparison for the chat store,
        in one transaction.

        Raises:
            Missing: the conversation was deleted meanwhile; nothing is written.
            NotStored: the database refuses, or a message's id belongs to another conversation.
        """
        with self.store.transaction() as connection:
            changed = {"name": thread.name, "metadata": _thread_metadata(thread)}
            if not connection.execute(_threads.update().where(_threads.c.id == thread.id).values(changed)).rowcount:
                raise Missing(thread.id)
            for message in messages:
                _put(connection, _steps, _step_row(thread.id, message), thread.id)
                for id, (name, props) in message.elements.items():
                    row = {"id": id, "threadId": thread.id, "type": "custom", "name": name, "display": "inline",
                           "forId": message.id, "mime": "application/json", "props": _json(props)}  # fmt: skip
                    _put(connection, _elements, row, thread.id)
            if answer:
                self.store.put_answer(answer, connection)
            if comparison:
                self.store.add_comparison(*comparison, connection)

    def remove(self, thread: Thread, message: Message) -> None:
        with self.store.transaction() as connection:
            connection.execute(_elements.delete().where(_elements.c.forId == message.id))
            connection.execute(_steps.delete().where(_steps.c.id == message.id))
            values = {"metadata": _thread_metadata(thread)}
            connection.execute(_threads.update().where(_threads.c.id == thread.id).values(values))

    def rename(self, id: str, name: str) -> None:
        with self.store.transaction() as connection:
            connection.execute(_threads.update().where(_threads.c.id == id).values({"name": name}))

    def delete(self, id: str) -> None:
        """The conversation with everything in it: messages, files, answers, thumbs and votes."""
        with self.store.transaction() as connection:
            self.store.forget(id, connection)
            steps = sa.select(_steps.c.id).where(_steps.c.threadId == id)
            runs = sa.select(_steps.c.parentId).where(_steps.c.threadId == id, _steps.c.parentId.is_not(None))
            connection.execute(_feedbacks.delete().where(_feedbacks.c.forId.in_(runs) | _feedbacks.c.forId.in_(steps)))
            connection.execute(_elements.delete().where(_elements.c.threadId == id))
            connection.execute(_steps.delete().where(_steps.c.threadId == id))
            connection.execute(_threads.delete().where(_threads.c.id == id))

    def list(self, user: str, word: str, *, first: int, start: int) -> tuple[list[Thread], bool]:
        """A page of a user's conversations, the newest first, and whether there are more.

        Args:
            user: identifier. word: that a name, a message or an answer contains; "": any.
        """
        pattern = word.lower()
        for sign in ("\\", "%", "_"):
            pattern = pattern.replace(sign, f"\\{sign}")
        pattern = f"%{pattern}%"
        last = sa.select(sa.func.max(_steps.c.createdAt)).where(_steps.c.threadId == _threads.c.id).scalar_subquery()
        query = sa.select(_threads.c.id, _threads.c.name, _threads.c.createdAt, last.label("last")).where(
            _threads.c.userIdentifier == user, last.is_not(None)
        )
        if word:
            said = sa.select(_steps.c.threadId).where(sa.func.lower(_steps.c.output).like(pattern, escape="\\"))
            # What a task was asked with is in its row's metadata.
            metadata = sa.func.lower(_steps.c.metadata)
            fields = sa.select(_steps.c.threadId).where(
                metadata.like('%"role": "task"%'), metadata.like(pattern, escape="\\")
            )
            query = query.where(
                sa.func.lower(_threads.c.name).like(pattern, escape="\\")
                | _threads.c.id.in_(said)
                | _threads.c.id.in_(fields)
                | _threads.c.id.in_(self.store.conversations_like(pattern))
            )
        query = query.order_by(last.desc(), _threads.c.id).limit(first + 1).offset(start)
        with self.engine.connect() as connection:
            rows = connection.execute(query).all()
        found = [Thread(row.id, user, row.name or "", row.createdAt or "") for row in rows[:first]]
        return found, len(rows) > first

    # ── thumbs ──

    def set_thumb(self, user: str, answer: str, value: int, comment: str | None) -> str:
        """A thumb, in the chat store and as the page shows it; returns its id.

        Raises:
            NotStored: there is no such answer. PermissionError: it is the answer to somebody else."""
        kept = self.store.answer(answer)
        if kept is None:
            raise NotStored("there is no answer to judge")
        if kept.rater != user:
            raise PermissionError("only who asked judges an answer")
        row = {"id": str(uuid.uuid4()), "forId": answer, "threadId": kept.conversation, "value": value,
               "comment": comment}  # fmt: skip
        with self.store.transaction() as connection:
            self.store.set_thumb(answer, value, comment, connection)
            connection.execute(_feedbacks.delete().where(_feedbacks.c.forId == answer))
            connection.execute(_feedbacks.insert().values(row))
        return row["id"]

    def remove_thumb(self, user: str, id: str) -> str | None:
        """The answer that the thumb was for; None: there is no such thumb. PermissionError: it is somebody else's."""
        with self.engine.connect() as connection:
            answer = connection.execute(sa.select(_feedbacks.c.forId).where(_feedbacks.c.id == id)).scalar()
        kept = answer and self.store.answer(answer)
        if kept and kept.rater != user:
            raise PermissionError("only who asked judges an answer")
        with self.store.transaction() as connection:
            if kept:
                self.store.set_thumb(answer, None, connection=connection)
            connection.execute(_feedbacks.delete().where(_feedbacks.c.id == id))
        return answer


def _put(connection: sa.Connection, table: sa.Table, row: dict, thread: str) -> None:
    """Insert or replace a row of a conversation; NotStored where the id is another conversation's."""
    found = connection.execute(sa.select(table.c.threadId).where(table.c.id == row["id"])).scalar()
    if found is None:
        connection.execute(table.insert().values(row))
    elif found != thread:
        raise NotStored("this id belongs to another conversation")
    else:
        connection.execute(table.update().where(table.c.id == row["id"]).values(row))


def _step_row(thread: str, message: Message) -> dict:
    metadata = message.metadata | {"role": message.role, "parent": message.parent}
    return {
        "id": message.id, "threadId": thread, "name": message.author, "type": message.type, "parentId": message.run,
        "output": message.content, "createdAt": message.created_at, "start": message.created_at,
        "end": message.created_at, "streaming": message.streaming, "isError": message.role == "problem",
        "command": message.metadata.get("command"), "metadata": _json(metadata),
    }  # fmt: skip


def _message(step, before: str | None) -> Message:
    """`before`: the message before it in time, which rows of older versions follow."""
    metadata = _object(step["metadata"])
    role = metadata.pop("role", None) or ("question" if step["type"] == "user_message" else "note")
    user = step["type"] == "user_message"
    return Message(
        role, step["output"] or "", metadata.pop("parent", before), step["id"], step["name"] or "",
        step["createdAt"] or "", None if user else step["parentId"], bool(step["streaming"]), metadata,
    )  # fmt: skip


def _give_element(message: Message, id: str, name: str, props: dict) -> None:
    """What older versions did not keep with an element, or lost, is made up for."""
    if name == "TaskForm":
        props.setdefault("form", message.id)
    elif name == "Arena" and message.role == "note":  # an insert had overtaken its update
        message.role = "answer"
        message.metadata |= {"comparison": id, "text": props.get("left") or props.get("right") or ""}
    message.elements[id] = (name, props)


def _give_fields_to_task(thread: Thread, message: Message) -> None:
    """Older versions kept what a task was asked with beside its answers."""
    fields = (message.metadata.pop("again", None) or {}).get("fields")
    before: Message | None = message
    while fields and before and before.role != "task":
        before = thread.messages.get(before.parent or "")
    if fields and before:
        before.metadata.setdefault("fields", fields)
        # It was Markdown with the fields in it, which are shown by themselves now.
        before.content = re.sub(r"\A\*\*(.*?)\*\* `(.*?)`.*", r"\1 (\2)", before.content, flags=re.DOTALL)


def _thread_metadata(thread: Thread) -> str:
    return _json({"chat_profile": thread.profile, "chat_settings": thread.settings, "leaf": thread.leaf})


def _object(text: str | None) -> dict:
    """A JSON object; {} for what is none, as in a row that was half written."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _json(value) -> str:
    return json.dumps(value, ensure_ascii=False)


def now() -> str:
    """The time as Chainlit writes it; microseconds keep what is said in one order."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
