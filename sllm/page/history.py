"""Chainlit's history, in the same database as the votes: its SQLAlchemy data layer with the tables that it expects.

Chainlit logs SQL errors and goes on as if nothing had happened; here they are raised, so that a thumb that was not kept
is not thanked for. Lists and objects are stored as JSON, which every database has.
"""

import asyncio
import json
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime

import sqlalchemy as sa
from chainlit.data.sql_alchemy import SQLAlchemyDataLayer
from chainlit.element import CustomElement
from chainlit.types import PageInfo, PaginatedResponse

from sllm.chatstore import ChatStore, NotStored, sync_url

_TABLES = {
    "users": {"id": "key", "identifier": "unique", "metadata": "text", "createdAt": "text"},
    "threads": {
        "id": "key", "createdAt": "text", "name": "text", "userId": "text", "userIdentifier": "text", "tags": "text",
        "metadata": "text",
    },
    "steps": {
        "id": "key", "name": "text", "type": "text", "threadId": "index", "parentId": "text", "streaming": "boolean",
        "waitForAnswer": "boolean", "isError": "boolean", "metadata": "text", "tags": "text", "input": "text",
        "output": "text", "createdAt": "text", "command": "text", "start": "text", "end": "text", "generation": "text",
        "showInput": "text", "language": "text", "indent": "integer", "defaultOpen": "boolean", "modes": "text",
        "autoCollapse": "boolean", "icon": "text",
    },
    "elements": {
        "id": "key", "threadId": "index", "type": "text", "url": "text", "chainlitKey": "text", "name": "text",
        "display": "text", "objectKey": "text", "size": "text", "page": "integer", "language": "text", "forId": "text",
        "mime": "text", "props": "text", "autoPlay": "boolean", "playerConfig": "text",
    },
    "feedbacks": {
        "id": "key", "forId": "index", "threadId": "text", "value": "integer", "comment": "text",
    },
}  # fmt: skip
_TYPES = {"key": sa.String(64), "unique": sa.String(200), "index": sa.String(64), "text": sa.Text,
          "boolean": sa.Boolean, "integer": sa.Integer}  # fmt: skip


_asking: ContextVar[str | None] = ContextVar("asking", default=None)  # the user of the request at hand


def _check_id(thread_id: str) -> None:
    """Browsers choose the ids of conversations, and Chainlit writes them into its SQL as they are."""
    if str(uuid.UUID(thread_id)) != thread_id.lower():
        raise ValueError("no id of a conversation")


def create_tables(store: ChatStore) -> None:
    metadata = sa.MetaData()
    for name, columns in _TABLES.items():
        sa.Table(name, metadata, *(
            sa.Column(column, _TYPES[kind], primary_key=kind == "key", unique=kind == "unique", index=kind == "index")
            for column, kind in columns.items()
        ))  # fmt: skip
    metadata.create_all(store.engine)


class History(SQLAlchemyDataLayer):
    """
    Args:
        store: where thumbs and votes go; the history is kept in its database.
    """

    def __init__(self, store: ChatStore):
        url = sync_url(str(store.url.render_as_string(hide_password=False)))
        sqlite = url.get_backend_name() == "sqlite"
        if sqlite:
            url = url.set(drivername="sqlite+aiosqlite")
        super().__init__(url.render_as_string(hide_password=False), storage_provider=None)
        if sqlite:
            sa.event.listen(self.engine.sync_engine, "connect", _prepare)
        self.store = store

    async def execute_sql(self, query: str, parameters: dict):
        parameters = {
            name: json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value
            for name, value in parameters.items()
        }
        async with self.engine.begin() as connection:
            result = await connection.execute(sa.text(query), parameters)
            if not result.returns_rows:
                return result.rowcount
            return [_with_objects(dict(row._mapping)) for row in result.fetchall()]

    async def get_current_timestamp(self) -> str:
        return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    async def create_step(self, step_dict):
        unknown = set(step_dict) - set(_TABLES["steps"])
        await super().create_step({name: value for name, value in step_dict.items() if name not in unknown})

    async def update_step(self, step_dict):
        await self.create_step(step_dict)

    # ── thumbs ──

    async def get_user(self, identifier: str):
        # Chainlit asks for the user of every request before it handles it, and does not say later who that was.
        _asking.set(identifier)
        return await super().get_user(identifier)

    async def upsert_feedback(self, feedback) -> str:
        if feedback.id and await self._judged(feedback.id) not in (None, feedback.forId):
            raise PermissionError("this thumb belongs to another answer")
        await self._thumb(feedback.forId, feedback.value, feedback.comment)
        return await super().upsert_feedback(feedback)

    async def delete_feedback(self, feedback_id: str) -> bool:
        if answer := await self._judged(feedback_id):
            await self._thumb(answer, None, None)
        return await super().delete_feedback(feedback_id)

    async def _judged(self, feedback_id: str) -> str | None:
        found = await self.execute_sql('SELECT "forId" FROM feedbacks WHERE "id" = :id', {"id": feedback_id})
        return found[0]["forId"] if found else None

    async def _thumb(self, answer: str, value: int | None, comment: str | None) -> None:
        kept = await asyncio.to_thread(self.store.answer, answer)
        if kept is None:
            raise NotStored("there is no answer to judge")
        if kept.rater != _asking.get():
            raise PermissionError("only who asked judges an answer")
        await asyncio.to_thread(self.store.set_thumb, answer, value, comment)

    # ── conversations ──

    async def update_thread(self, thread_id: str, *values, **named) -> None:
        _check_id(thread_id)
        await super().update_thread(thread_id, *values, **named)

    async def get_all_user_threads(self, user_id=None, thread_id=None):
        if thread_id is not None:
            _check_id(thread_id)
        threads = await super().get_all_user_threads(user_id, thread_id)
        for element in (element for thread in threads or [] for element in thread["elements"]):
            element["props"] = json.loads(element["props"] or "{}")
        return threads

    async def list_threads(self, pagination, filters) -> PaginatedResponse:
        """A page of the list, the newest first; Chainlit's own reads every message of every conversation for it."""
        word = (filters.search or "").lower()
        for sign in ("\\", "%", "_"):
            word = word.replace(sign, f"\\{sign}")
        start = int(pagination.cursor or 0)
        rows = await self.execute_sql(
            """
            SELECT t."id", t."createdAt", t."name", t."userId", t."userIdentifier", MAX(s."createdAt") AS "last"
            FROM threads t LEFT JOIN steps s ON s."threadId" = t."id"
            WHERE t."userId" = :user_id AND EXISTS (
                SELECT 1 FROM steps f WHERE f."threadId" = t."id" AND LOWER(f."output") LIKE :word ESCAPE '\\'
            )
            GROUP BY t."id", t."createdAt", t."name", t."userId", t."userIdentifier"
            ORDER BY "last" DESC NULLS LAST, t."id" LIMIT :most OFFSET :start
            """,
            {"user_id": filters.userId, "word": f"%{word}%", "most": pagination.first + 1, "start": start},
        )
        more = {"tags": [], "metadata": {}, "steps": [], "elements": []}
        data = [{name: value for name, value in row.items() if name != "last"} | more for row in rows]
        end = start + pagination.first
        page = PageInfo(hasNextPage=len(rows) > pagination.first, startCursor=str(start), endCursor=str(end))
        return PaginatedResponse(pageInfo=page, data=data[: pagination.first])

    async def delete_thread(self, thread_id: str) -> None:
        await asyncio.to_thread(self.store.forget, thread_id)
        await super().delete_thread(thread_id)

    async def create_element(self, element) -> None:
        """Forms, verdicts and comparisons are kept as their properties; files were read into the conversation."""
        if not isinstance(element, CustomElement) or not element.for_id:
            return
        row = {name: value for name, value in element.to_dict().items() if value is not None}
        columns = ", ".join(f'"{name}"' for name in row)
        values = ", ".join(f":{name}" for name in row)
        updates = ", ".join(f'"{name}" = EXCLUDED."{name}"' for name in row if name != "id")
        await self.execute_sql(
            f'INSERT INTO elements ({columns}) VALUES ({values}) ON CONFLICT ("id") DO UPDATE SET {updates}', row
        )


def _prepare(connection, record) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _with_objects(row: dict) -> dict:
    for name, value in row.items():
        if isinstance(value, str) and name.rpartition("_")[2] in ("metadata", "generation", "tags", "modes"):
            row[name] = json.loads(value)
    return row
