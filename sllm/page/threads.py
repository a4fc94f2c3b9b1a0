"""Conversations and thumbs in the database. Functions block; the page calls them in threads.

What Chainlit has no column for is in `steps.metadata`: a message's role, and the message that it follows (`parent`).
Messages that follow the same one are branches; `threads.metadata.leaf` is the last message of the branch that is shown.
"""

import re
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from sllm.chatstore import ChatStore, NotStored, StoredAnswer
from sllm.page import view
from sllm.page.messages import Message, Thread, ThreadMissing, new_id
from sllm.page.schema import elements, feedbacks, steps, threads, users


class ThreadStore:
    """The conversations, in the chat store's database."""

    def __init__(self, store: ChatStore):
        self.store, self.engine = store, store.engine

    def owner(self, thread: str) -> str | None:
        return self._value(threads.c.userIdentifier, threads.c.id == thread)

    def has_message(self, id: str) -> bool:
        return self._value(steps.c.id, steps.c.id == id) is not None

    def load(self, id: str) -> Thread | None:
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(threads).where(threads.c.id == id)).mappings().first()
            if row is None or row["userIdentifier"] is None:  # older pages created deleted threads again
                return None
            step_rows, element_rows = (
                connection.execute(sa.select(table).where(table.c.threadId == id)).mappings().all()
                for table in (steps, elements)
            )
            runs = [step["parentId"] for step in step_rows if step["parentId"]]
            thumbs = connection.execute(sa.select(feedbacks).where(feedbacks.c.forId.in_(runs))).mappings().all()
        metadata = row["metadata"] or {}
        thread = Thread(
            id, row["userIdentifier"], row["name"] or "", row["createdAt"] or "", metadata.get("chat_profile"),
            metadata.get("chat_settings") or {}, metadata.get("leaf"),
        )  # fmt: skip
        previous = None
        for step in sorted(step_rows, key=lambda step: step["createdAt"] or ""):
            if "message" not in (step["type"] or ""):  # runs: they are made from the answers in them
                continue
            message = _message(step, previous)
            if message.parent and message.parent not in thread.messages:  # it was never stored
                message.parent = previous
            previous = message.id
            thread.messages[message.id] = message
        for message in thread.messages.values():
            _move_fields_to_task(thread, message)
            message.thumb = next((dict(thumb) for thumb in thumbs if thumb["forId"] == message.run), None)
        for element in element_rows:
            if message := thread.messages.get(element["forId"]):
                _add_element(message, element["id"], element["name"], element["props"] or {})
        if thread.leaf not in thread.messages:
            thread.leaf = previous
        return thread

    def create(self, thread: Thread) -> None:
        with self.store.transaction() as session:
            user = session.execute(sa.select(users.c.id).where(users.c.identifier == thread.owner)).scalar()
            row = {"id": thread.id, "createdAt": thread.created_at, "name": thread.name, "userId": user,
                   "userIdentifier": thread.owner, "metadata": _metadata(thread)}  # fmt: skip
            session.execute(threads.insert().values(row))

    def save(
        self, thread: Thread, messages: Iterable[Message] = (), *, answer: StoredAnswer | None = None,
        comparison: tuple[str, StoredAnswer, StoredAnswer] | None = None,
    ) -> None:  # fmt: skip
        """Messages as they are now, the thread's own fields, and an answer or a comparison for the chat store, in one
        transaction.

        Raises:
            ThreadMissing: the conversation has been deleted; nothing is written.
            NotStored: the database refuses, or a message's id belongs to another conversation.
        """
        with self.store.transaction() as session:
            changed = {"name": thread.name, "metadata": _metadata(thread)}
            if not session.execute(threads.update().where(threads.c.id == thread.id).values(changed)).rowcount:
                raise ThreadMissing(thread.id)
            for message in messages:
                metadata = message.metadata | {"role": message.role, "parent": message.parent}
                _put(session, steps, view.step(thread, message) | {"name": message.author, "metadata": metadata})
                for id, (name, props) in message.elements.items():
                    _put(session, elements, view.element(thread, message, id, name, props))
            if answer:
                self.store.put_answer(answer, session)
            if comparison:
                self.store.add_comparison(*comparison, session)

    def remove(self, thread: Thread, message: Message) -> None:
        with self.store.transaction() as session:
            session.execute(elements.delete().where(elements.c.forId == message.id))
            session.execute(steps.delete().where(steps.c.id == message.id))
            session.execute(threads.update().where(threads.c.id == thread.id).values(metadata=_metadata(thread)))

    def rename(self, id: str, name: str) -> None:
        with self.store.transaction() as session:
            session.execute(threads.update().where(threads.c.id == id).values(name=name))

    def delete(self, id: str) -> None:
        """The conversation with everything in it: messages, files, answers, thumbs and votes."""
        step_ids = sa.select(steps.c.id).where(steps.c.threadId == id)
        runs = sa.select(steps.c.parentId).where(steps.c.threadId == id, steps.c.parentId.is_not(None))
        with self.store.transaction() as session:
            self.store.delete_conversation(id, session)
            session.execute(feedbacks.delete().where(feedbacks.c.forId.in_(runs) | feedbacks.c.forId.in_(step_ids)))
            session.execute(elements.delete().where(elements.c.threadId == id))
            session.execute(steps.delete().where(steps.c.threadId == id))
            session.execute(threads.delete().where(threads.c.id == id))

    def list(self, user: str, search: str, *, first: int, start: int) -> tuple[list[Thread], bool]:
        """A page of a user's conversations, the newest first, and whether there are more.

        Args:
            user: identifier. search: text that a name, a message or an answer contains; "": any.
        """
        last = sa.select(sa.func.max(steps.c.createdAt)).where(steps.c.threadId == threads.c.id).scalar_subquery()
        query = sa.select(threads.c.id, threads.c.name, threads.c.createdAt).where(
            threads.c.userIdentifier == user, last.is_not(None)
        )
        if search:
            query = query.where(self._contains(search))
        query = query.order_by(last.desc(), threads.c.id).limit(first + 1).offset(start)
        with self.engine.connect() as connection:
            rows = connection.execute(query).all()
        return [Thread(row.id, user, row.name or "", row.createdAt or "") for row in rows[:first]], len(rows) > first

    def set_thumb(self, user: str, answer_id: str, value: int, comment: str | None) -> str:
        """Store a thumb twice: in the chat store, and as Chainlit's page shows it. Returns its id.

        Raises:
            NotStored: the answer does not exist. PermissionError: another user asked for it."""
        answer = self._answer_of(user, answer_id)
        if answer is None:
            raise NotStored("this answer does not exist")
        row = {"id": new_id(), "forId": answer_id, "threadId": answer.conversation, "value": value, "comment": comment}
        with self.store.transaction() as session:
            self.store.set_thumb(answer_id, value, comment, session)
            session.execute(feedbacks.delete().where(feedbacks.c.forId == answer_id))
            session.execute(feedbacks.insert().values(row))
        return row["id"]

    def remove_thumb(self, user: str, id: str) -> str | None:
        """Returns the id of the answer that the thumb was for; None: the thumb does not exist.

        Raises:
            PermissionError: another user asked for the answer."""
        answer_id = self._value(feedbacks.c.forId, feedbacks.c.id == id)
        answer = answer_id and self._answer_of(user, answer_id)
        with self.store.transaction() as session:
            if answer:
                self.store.set_thumb(answer_id, None, session=session)
            session.execute(feedbacks.delete().where(feedbacks.c.id == id))
        return answer_id

    def _answer_of(self, user: str, id: str) -> StoredAnswer | None:
        answer = self.store.answer(id)
        if answer and answer.user_id != user:
            raise PermissionError("only the user who asked can rate an answer")
        return answer

    def _value(self, column: sa.Column, condition: sa.ColumnElement[bool]):
        """The value in the first row that matches `condition`; None where no row matches."""
        with self.engine.connect() as connection:
            return connection.execute(sa.select(column).where(condition)).scalar()

    @staticmethod
    def _contains(search: str) -> sa.ColumnElement[bool]:
        pattern = re.sub(r"([\\%_])", r"\\\1", search.lower())
        pattern = f"%{pattern}%"

        def like(column: sa.Column) -> sa.ColumnElement[bool]:
            return sa.func.lower(sa.type_coerce(column, sa.Text)).like(pattern, escape="\\")

        is_task = sa.type_coerce(steps.c.metadata, sa.Text).like('%"role": "task"%')  # its fields are in the metadata
        messages = sa.select(steps.c.threadId).where(like(steps.c.output) | (is_task & like(steps.c.metadata)))
        answers = sa.select(StoredAnswer.conversation).where(like(StoredAnswer.text))
        return like(threads.c.name) | threads.c.id.in_(messages) | threads.c.id.in_(answers)


def _put(session: Session, table: sa.Table, row: dict) -> None:
    """Insert or replace a row of a conversation; NotStored if the id is another conversation's."""
    owner = session.execute(sa.select(table.c.threadId).where(table.c.id == row["id"])).scalar()
    if owner is None:
        session.execute(table.insert().values(row))
    elif owner != row["threadId"]:
        raise NotStored("this id belongs to another conversation")
    else:
        session.execute(table.update().where(table.c.id == row["id"]).values(row))


def _metadata(thread: Thread) -> dict:
    return {"chat_profile": thread.profile, "chat_settings": thread.settings, "leaf": thread.leaf}


def _message(step: sa.RowMapping, previous: str | None) -> Message:
    """`previous`: the message before it in time, which is the parent in rows of older versions."""
    metadata = dict(step["metadata"] or {})
    user = step["type"] == "user_message"
    role = metadata.pop("role", None) or ("question" if user else "note")
    return Message(
        role, step["output"] or "", metadata.pop("parent", previous), step["id"], step["name"] or "",
        step["createdAt"] or "", None if user else step["parentId"], bool(step["streaming"]), metadata,
    )  # fmt: skip


def _add_element(message: Message, id: str, name: str, props: dict) -> None:
    """Fills in what older versions did not store with an element, named differently, or lost."""
    for old, new in (("words", "texts"), ("word", "summary")):
        if old in props:
            props[new] = props.pop(old)
    if name == "TaskForm":
        props.setdefault("form", message.id)
    elif name == "Arena" and message.role == "note":  # an insert had overtaken its update
        message.role = "answer"
        message.metadata |= {"comparison": id, "text": props.get("left") or props.get("right") or ""}
    message.elements[id] = (name, props)


def _move_fields_to_task(thread: Thread, message: Message) -> None:
    """Older versions stored the fields of a task with its answers."""
    fields = (message.metadata.pop("again", None) or {}).get("fields")
    task: Message | None = message
    while fields and task and task.role != "task":
        task = thread.messages.get(task.parent or "")
    if fields and task:
        task.metadata.setdefault("fields", fields)
        # It was Markdown with the fields in it, which are shown separately now.
        task.content = re.sub(r"\A\*\*(.*?)\*\* `(.*?)`.*", r"\1 (\2)", task.content, flags=re.DOTALL)
