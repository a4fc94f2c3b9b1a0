"""The conversations of the page: opened, renamed, rated, deleted, and closed when the page stops."""

import asyncio

from sllm.page import view
from sllm.page.arena import comparison_props
from sllm.page.chat_session import Page
from sllm.page.conversation import Conversation
from sllm.page.messages import Message, Thread, now
from sllm.page.translations import KO


class Conversations:
    """The conversations that are open in a tab, or in which something runs."""

    def __init__(self, page: Page):
        self.page = page
        self.open: dict[str, Conversation] = {}
        self._loading = asyncio.Lock()
        self._started = now()

    async def get(self, id: str, text: dict | None = None) -> Conversation | None:
        """`text`: in the language of a user who opens it, and holds it at once; without, it is only read."""
        if conversation := self.open.get(id):
            return conversation
        async with self._loading:
            if conversation := self.open.get(id):
                return conversation
            thread = await self.page.read(self.page.threads.load, id)
            if thread is None:
                return None
            conversation = Conversation(self.page, thread, text or KO, stored=True, idle=self.close_idle)
            if text:
                self.open[id] = conversation
                conversation.holds += 1  # until the caller holds it
                try:
                    await self._repair(conversation)
                finally:
                    conversation.holds -= 1
            return conversation

    async def new(self, id: str, owner: str, text: dict) -> Conversation:
        async with self._loading:
            if id not in self.open or self.open[id].thread.owner != owner:
                self.open[id] = Conversation(self.page, Thread(id, owner), text, stored=False, idle=self.close_idle)
            return self.open[id]

    def close_tab(self, tab: str) -> None:
        for conversation in list(self.open.values()):
            if tab in conversation.tabs:
                conversation.tabs.discard(tab)
                self.close_idle(conversation)

    def close_idle(self, conversation: Conversation) -> None:
        in_use = conversation.tabs or conversation.running or conversation.holds
        if not in_use and self.open.get(conversation.thread.id) is conversation:
            del self.open[conversation.thread.id]

    async def rename(self, id: str, name: str) -> None:
        if conversation := self.open.get(id):
            conversation.thread.name = name
        await self.page.write(self.page.threads.rename, id, name)

    async def delete(self, id: str) -> None:
        """Stops what runs in it; nothing more is written to it."""
        if conversation := self.open.pop(id, None):
            conversation.deleted = True
            conversation.stop()
            await conversation.toast(conversation.text["conversation_deleted"], "info")
        await self.page.write(self.page.threads.delete, id)

    async def set_thumb(self, user: str, answer: str, value: int, comment: str | None) -> str:
        id = await self.page.write(self.page.threads.set_thumb, user, answer, value, comment)
        self._show_thumb(answer, {"id": id, "forId": answer, "value": value, "comment": comment})
        return id

    async def remove_thumb(self, user: str, id: str) -> None:
        if answer := await self.page.write(self.page.threads.remove_thumb, user, id):
            self._show_thumb(answer, None)

    def _show_thumb(self, answer: str, thumb: dict | None) -> None:
        for conversation in self.open.values():
            for message in conversation.messages.values():
                if message.run == answer:
                    message.thumb = thumb

    async def close(self) -> None:
        """Stop what runs, marked as interrupted, and wait until it is stored."""
        tasks = [task for conversation in self.open.values() for task in conversation.tasks]
        for conversation in self.open.values():
            conversation.closing = True
            conversation.stop()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

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
