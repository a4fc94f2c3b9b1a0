"""Users and logins in the database. Functions block; the page calls them in threads."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from sllm.chatstore import ChatStore
from sllm.page import schema
from sllm.page.messages import new_id, now


@dataclass(frozen=True)
class Login:
    """`credential`: hash of the password hash that it was made with; a new password ends it."""

    id: str
    user: str
    credential: str
    expires: datetime


class AccountStore:
    def __init__(self, store: ChatStore):
        self.store, self.engine = store, store.engine
        schema.metadata.create_all(self.engine)

    def user(self, identifier: str) -> Mapping | None:
        columns = (schema.users.c[name] for name in ("id", "identifier", "createdAt"))
        with self.engine.connect() as connection:
            query = sa.select(*columns).where(schema.users.c.identifier == identifier)
            return connection.execute(query).mappings().first()

    def add_user(self, identifier: str) -> Mapping:
        if user := self.user(identifier):
            return user
        user = {"id": new_id(), "identifier": identifier, "createdAt": now()}
        with self.store.transaction() as session:
            session.execute(schema.users.insert().values(user | {"metadata": {}}))
        return user

    def logins(self) -> list[Login]:
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(schema.logins)).all()
        return [Login(row.id, row.identifier, row.credential, datetime.fromisoformat(row.expires)) for row in rows]

    def add_login(self, login: Login) -> None:
        row = {"id": login.id, "identifier": login.user, "credential": login.credential,
               "expires": login.expires.isoformat()}  # fmt: skip
        expired = schema.logins.c.expires < datetime.now(UTC).isoformat()
        with self.store.transaction() as session:
            session.execute(schema.logins.delete().where(expired))
            session.execute(schema.logins.insert().values(row))

    def end_login(self, id: str) -> None:
        with self.store.transaction() as session:
            session.execute(schema.logins.delete().where(schema.logins.c.id == id))
