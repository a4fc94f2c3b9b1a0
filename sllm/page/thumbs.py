"""Thumbs in the database. Functions block; the page calls them in threads."""

import sqlalchemy as sa

from sllm.chatstore import ChatStore, NotStored
from sllm.page.messages import new_id
from sllm.page.schema import feedbacks


class ThumbStore:
    """Each thumb is stored twice: in the chat store, and as Chainlit's page shows it."""

    def __init__(self, store: ChatStore):
        self.store = store

    def set(self, user: str, answer_id: str, value: int, comment: str | None) -> str:
        """Returns the id of the thumb.

        Raises:
            NotStored: the answer does not exist. PermissionError: another user asked for it."""
        answer = self.store.answer(answer_id)
        if answer is None:
            raise NotStored("this answer does not exist")
        _check_user(user, answer.user_id)
        row = {"id": new_id(), "forId": answer_id, "threadId": answer.conversation, "value": value, "comment": comment}
        with self.store.transaction() as session:
            self.store.set_thumb(answer_id, value, comment, session)
            session.execute(feedbacks.delete().where(feedbacks.c.forId == answer_id))
            session.execute(feedbacks.insert().values(row))
        return row["id"]

    def remove(self, user: str, id: str) -> str | None:
        """Returns the id of the answer that the thumb was for; None: the thumb does not exist.

        Raises:
            PermissionError: another user asked for the answer."""
        with self.store.engine.connect() as connection:
            answer_id = connection.execute(sa.select(feedbacks.c.forId).where(feedbacks.c.id == id)).scalar()
        answer = answer_id and self.store.answer(answer_id)
        if answer:
            _check_user(user, answer.user_id)
        with self.store.transaction() as session:
            if answer:
                self.store.set_thumb(answer_id, None, session=session)
            session.execute(feedbacks.delete().where(feedbacks.c.id == id))
        return answer_id


def _check_user(user: str, owner: str) -> None:
    if user != owner:
        raise PermissionError("only the user who asked can rate an answer")
