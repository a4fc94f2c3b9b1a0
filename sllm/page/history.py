"""The data layer of Chainlit's routes: users, the list of conversations, renaming, deleting, thumbs.

Chainlit's own SQLAlchemy layer is not used: it logs SQL errors and continues, writes ids that browsers choose into its
SQL, creates deleted conversations again, and does not keep writes in order. Messages are not written through this
interface, but by `conversation.Conversation`.
"""

import uuid
from contextvars import ContextVar

from chainlit.data.base import BaseDataLayer
from chainlit.types import PageInfo, PaginatedResponse
from chainlit.user import PersistedUser

from sllm.page import view
from sllm.page.chat_session import Page
from sllm.page.conversations import Conversations

_current_user: ContextVar[str] = ContextVar("current_user", default="")  # of this request


def is_thread_id(text: str) -> bool:
    """Browsers choose the id; only a UUID is accepted."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


class History(BaseDataLayer):
    def __init__(self, page: Page, conversations: Conversations):
        self.page, self.conversations = page, conversations

    # ── users ──

    async def get_user(self, identifier: str) -> PersistedUser | None:
        # Chainlit looks up the user of every request before it handles it, and does not pass the user on.
        _current_user.set(identifier)
        row = await self.page.read(self.page.accounts.user, identifier)
        return row and PersistedUser(**row)

    async def create_user(self, user) -> PersistedUser:
        return PersistedUser(**await self.page.write(self.page.accounts.add_user, user.identifier))

    # ── conversations ──

    async def get_thread_author(self, thread_id: str) -> str:
        return await self.page.read(self.page.threads.owner, thread_id) or ""

    async def get_thread(self, thread_id: str):
        if not is_thread_id(thread_id):
            return None
        conversation = await self.conversations.get(thread_id)
        return conversation and view.thread(conversation)

    async def update_thread(self, thread_id: str, name: str | None = None, **_) -> None:
        """Renaming; `Conversation` writes everything else."""
        if name is not None:
            await self.conversations.rename(thread_id, name)

    async def delete_thread(self, thread_id: str) -> None:
        await self.conversations.delete(thread_id)

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
        end = start + pagination.first
        page = PageInfo(hasNextPage=more, startCursor=str(start), endCursor=str(end))
        return PaginatedResponse(pageInfo=page, data=data)

    # ── thumbs ──

    async def upsert_feedback(self, feedback) -> str:
        return await self.conversations.set_thumb(_current_user.get(), feedback.forId, feedback.value, feedback.comment)

    async def delete_feedback(self, feedback_id: str) -> bool:
        await self.conversations.remove_thumb(_current_user.get(), feedback_id)
        return True

    # ── messages: `Conversation` writes them ──

    async def _nothing(self, *args, **kwargs) -> None: ...

    create_element = get_element = delete_element = create_step = update_step = delete_step = _nothing

    async def get_favorite_steps(self, user_id: str) -> list:
        return []

    async def build_debug_url(self) -> str:
        return ""

    async def close(self) -> None:
        """Called when the page stops, after uvicorn has closed every connection; Chainlit then ends the process."""
        await self.conversations.close()
        await self.page.write(self.page.store.close)
