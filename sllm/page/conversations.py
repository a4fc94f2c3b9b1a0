"""The conversations of the page: listed, opened, renamed, rated, deleted, and closed when the page stops.

They are the data layer of Chainlit's routes. Chainlit's own SQLAlchemy layer is not used: it logs SQL errors and
continues, writes ids that browsers choose into its SQL, creates deleted conversations again, and does not keep writes
in order. Messages are not written through this interface, but by `conversation.Conversation`.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from contextvars import ContextVar

from chainlit.context import init_ws_context
from chainlit.data.base import BaseDataLayer
from chainlit.session import WebsocketSession
from chainlit.types import PageInfo, PaginatedResponse
from chainlit.user import PersistedUser

from sllm.page import view
from sllm.page.arena import comparison_props
from sllm.page.chat_session import Page, translations
from sllm.page.conversation import Conversation
from sllm.page.messages import Message, Thread, now
from sllm.page.translations import KO

_current_user: ContextVar[str] = ContextVar("current_user", default="")  # of this request


def is_thread_id(text: str) -> bool:
    """Browsers choose the id; only a UUID is accepted."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


class Conversations(BaseDataLayer):
    """`by_id`: the conversations that are open in a tab, or in which something runs, by their ids."""

    def __init__(self, page: Page):
        self.page = page
        self.by_id: dict[str, Conversation] = {}
        self._loading = asyncio.Lock()
        self._started = now()

    async def get(self, id: str, text: dict | None = None) -> Conversation | None:
        """`text`: in the language of a user who opens it, and keeps it open at once; without, it is only read."""
        if conversation := self.by_id.get(id):
            return conversation
        async with self._loading:
            if conversation := self.by_id.get(id):
                return conversation
            thread = await self.page.read(self.page.threads.load, id)
            if thread is None:
                return None
            conversation = Conversation(self.page, thread, text or KO, stored=True, idle=self.close_idle)
            if text:
                self.by_id[id] = conversation
                conversation.active_handlers += 1  # until the caller keeps it open
                try:
                    await self._repair(conversation)
                finally:
                    conversation.active_handlers -= 1
            return conversation

    @contextlib.asynccontextmanager
    async def opened(self, session: WebsocketSession) -> AsyncIterator[Conversation | None]:
        """The conversation that a tab has open, kept in memory meanwhile; None: it is new, was deleted, or belongs to
        another user."""
        init_ws_context(session)
        id = session.thread_id
        conversation = await self.get(id, translations()) if is_thread_id(id) else None
        if conversation is None or conversation.thread.owner != session.user.identifier:
            yield None
            return
        with conversation.keep_open():
            yield conversation

    async def new(self, id: str, owner: str, text: dict) -> Conversation:
        async with self._loading:
            if id not in self.by_id or self.by_id[id].thread.owner != owner:
                self.by_id[id] = Conversation(self.page, Thread(id, owner), text, stored=False, idle=self.close_idle)
            return self.by_id[id]

    def close_tab(self, tab: str) -> None:
        for conversation in list(self.by_id.values()):
            if tab in conversation.tabs:
                conversation.tabs.discard(tab)
                self.close_idle(conversation)

    def close_idle(self, conversation: Conversation) -> None:
        in_use = conversation.tabs or conversation.running or conversation.active_handlers
        if not in_use and self.by_id.get(conversation.thread.id) is conversation:
            del self.by_id[conversation.thread.id]

    async def _repair(self, conversation: Conversation) -> None:
        """After the page was killed while it answered: the partial answer is kept, marked as interrupted, and can be
        requested again, as can an unanswered question. A comparison that an older page left unfinished gets the state
        of its answers."""
        text, changed = conversation.text, []

        def add_problem(kind: str, after: Message) -> None:
            problem = view.problem(kind, after, text)
            conversation.messages[problem.id] = problem
            if conversation.thread.leaf == after.id:
                conversation.thread.leaf = problem.id
            changed.append(problem)

        for message in list(conversation.messages.values()):
            if message.streaming and message.created_at < self._started:
                message.streaming = False
                changed.append(message)
                add_problem("broken", message)
            for id, (name, props) in message.elements.items():
                if name == "Arena" and props.get("state") == "writing" and not message.streaming:
                    stored = await self.page.read(self.page.store.comparison, id)
                    props = comparison_props(stored, text) if stored else props | {"state": "stopped"}
                    message.elements[id] = (name, props)
                    changed.append(message)
        last = conversation.messages.get(conversation.thread.leaf or "")
        if last and last.role in ("question", "task") and last.created_at < self._started:
            add_problem("unanswered", last)
        if changed:
            await conversation.save(*changed)

    # ── Chainlit's data layer ──

    async def get_user(self, identifier: str) -> PersistedUser | None:
        # Chainlit looks up the user of every request before it handles it, and does not pass the user on.
        _current_user.set(identifier)
        row = await self.page.read(self.page.accounts.user, identifier)
        return row and PersistedUser(**row)

    async def create_user(self, user) -> PersistedUser:
        return PersistedUser(**await self.page.write(self.page.accounts.add_user, user.identifier))

    async def get_thread_author(self, thread_id: str) -> str:
        return await self.page.read(self.page.threads.owner, thread_id) or ""

    async def get_thread(self, thread_id: str):
        if not is_thread_id(thread_id):
            return None
        conversation = await self.get(thread_id)
        return conversation and view.thread(conversation)

    async def update_thread(self, thread_id: str, name: str | None = None, **_) -> None:
        """Renaming; `Conversation` writes everything else."""
        if name is None:
            return
        if conversation := self.by_id.get(thread_id):
            conversation.thread.name = name
        await self.page.write(self.page.threads.rename, thread_id, name)

    async def delete_thread(self, thread_id: str) -> None:
        """Stops what runs in it; nothing more is written to it."""
        if conversation := self.by_id.pop(thread_id, None):
            conversation.deleted = True
            conversation.stop()
            await conversation.toast(conversation.text["conversation_deleted"], "info")
        await self.page.write(self.page.threads.delete, thread_id)

    async def list_threads(self, pagination, filters) -> PaginatedResponse:
        start = int(pagination.cursor) if (pagination.cursor or "").isdigit() else 0
        user = _current_user.get()  # here: the reading thread has another context
        rows, more = await self.page.read(
            lambda: self.page.threads.list(user, filters.search or "", first=pagination.first, start=start)
        )
        data = [
            {"id": row.id, "createdAt": row.created_at, "name": row.name, "userIdentifier": row.owner, "tags": [],
             "metadata": {}, "steps": [], "elements": []}
            for row in rows
        ]  # fmt: skip
        page = PageInfo(hasNextPage=more, startCursor=str(start), endCursor=str(start + pagination.first))
        return PaginatedResponse(pageInfo=page, data=data)

    async def upsert_feedback(self, feedback) -> str:
        user, answer, value, comment = _current_user.get(), feedback.forId, feedback.value, feedback.comment
        id = await self.page.write(self.page.threads.set_thumb, user, answer, value, comment)
        self._show_thumb(answer, {"id": id, "forId": answer, "value": value, "comment": comment})
        return id

    async def delete_feedback(self, feedback_id: str) -> bool:
        if answer := await self.page.write(self.page.threads.remove_thumb, _current_user.get(), feedback_id):
            self._show_thumb(answer, None)
        return True

    def _show_thumb(self, answer: str, thumb: dict | None) -> None:
        for conversation in self.by_id.values():
            for message in conversation.messages.values():
                if message.run == answer:
                    message.thumb = thumb

    async def _nothing(self, *args, **kwargs) -> None:
        """Messages: `Conversation` writes them."""

    create_element = get_element = delete_element = create_step = update_step = delete_step = _nothing

    async def get_favorite_steps(self, user_id: str) -> list:
        return []

    async def build_debug_url(self) -> str:
        return ""

    async def close(self) -> None:
        """Stop what runs, marked as interrupted, wait until it is stored, and close the database.

        Called when the page stops, after uvicorn has closed every connection; Chainlit then ends the process.
        """
        tasks = [task for conversation in self.by_id.values() for task in conversation.tasks]
        for conversation in self.by_id.values():
            conversation.closing = True
            conversation.stop()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        await self.page.write(self.page.store.close)
