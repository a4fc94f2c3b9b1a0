"""What Chainlit's routes ask of its data layer: users, the list of conversations, renaming, deleting, thumbs.

Chainlit's own SQLAlchemy layer is not used: it logs SQL errors and goes on as if nothing had happened, writes ids that
browsers choose into its SQL, makes conversations again that were deleted, and keeps no order between two writes.
Messages are not written through this interface at all, but by `conversation.Conversation`.
"""

import uuid
from contextvars import ContextVar

from chainlit.data.base import BaseDataLayer
from chainlit.types import PageInfo, PaginatedResponse
from chainlit.user import PersistedUser

from sllm.page import view
from sllm.page.chat_session import Page
from sllm.page.conversations import Conversations

_asking: ContextVar[str] = ContextVar("asking", default="")  # the user of the request at hand


def is_thread_id(text: str) -> bool:
    """Browsers say which conversation they want."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


class History(BaseDataLayer):
    def __init__(self, page: Page, conversations: Conversations):
        self.page, self.conversations = page, conversations

    # ── people ──

    async def get_user(self, identifier: str) -> PersistedUser | None:
        # Chainlit asks for the user of every request before it handles it, and does not say later who that was.
        _asking.set(identifier)
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
        found = await self.conversations.get(thread_id)
        return found and view.thread(found)

    async def update_thread(self, thread_id: str, name: str | None = None, **_) -> None:
        """Renaming; all else that Chainlit would write here is the conversation's own business."""
        if name is not None:
            await self.conversations.rename(thread_id, name)

    async def delete_thread(self, thread_id: str) -> None:
        await self.conversations.delete(thread_id)

    async def list_threads(self, pagination, filters) -> PaginatedResponse:
        start = int(pagination.cursor) if (pagination.cursor or "").isdigit() else 0
        user = _asking.get()  # here: the thread that reads has a context of its own
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
        return await self.conversations.set_thumb(_asking.get(), feedback.forId, feedback.value, feedback.comment)

    async def delete_feedback(self, feedback_id: str) -> bool:
        await self.conversations.remove_thumb(_asking.get(), feedback_id)
        return True

    # ── what Chainlit would write of messages: `Conversation` does ──

    async def create_element(self, element) -> None: ...

    async def get_element(self, thread_id: str, element_id: str) -> None: ...

    async def delete_element(self, element_id: str, thread_id: str | None = None) -> None: ...

    async def create_step(self, step_dict) -> None: ...

    async def update_step(self, step_dict) -> None: ...

    async def delete_step(self, step_id: str) -> None: ...

    async def get_favorite_steps(self, user_id: str) -> list:
        return []

    async def build_debug_url(self) -> str:
        return ""

    async def close(self) -> None: ...
