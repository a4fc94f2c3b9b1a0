"""The conversations of the page: opened, renamed, judged, deleted, and closed when the page stops."""

import asyncio

from sllm.page import view
from sllm.page.arena import comparison_props
from sllm.page.chat_session import Page
from sllm.page.conversation import Conversation
from sllm.page.messages import Message, Thread, now
from sllm.page.translations import KO


class Conversations:
    """The conversations that somebody has open, or in which something runs."""

    def __init__(self, page: Page):
        self.page = page
        self.open: dict[str, Conversation] = {}
        self._loading = asyncio.Lock()
        self._started = now()

    async def get(self, id: str, text: dict | None = None) -> Conversation | None:
        """`text`: of somebody who opens it, and holds it at once; without, it is only read."""
        if found := self.open.get(id):
            return found
        async with self._loading:
            if found := self.open.get(id):
                return found
            thread = await self.page.read(self.page.threads.load, id)
            if thread is None:
                return None
            conversation = Conversation(self.page, thread, text or KO, stored=True, idle=self.forget_idle)
            if text:
                self.open[id] = conversation
                conversation.held += 1  # until the caller holds it
                try:
                    await self._complete(conversation)
                finally:
                    conversation.held -= 1
            return conversation

    async def new(self, id: str, owner: str, text: dict) -> Conversation:
        async with self._loading:
            if id not in self.open or self.open[id].thread.owner != owner:
                self.open[id] = Conversation(self.page, Thread(id, owner), text, stored=False, idle=self.forget_idle)
            return self.open[id]

    def close_tab(self, tab: str) -> None:
        for conversation in list(self.open.values()):
            if tab in conversation.tabs:
                conversation.tabs.discard(tab)
                self.forget_idle(conversation)

    def forget_idle(self, conversation: Conversation) -> None:
        in_use = conversation.tabs or conversation.running or conversation.held
        if not in_use and self.open.get(conversation.thread.id) is conversation:
            del self.open[conversation.thread.id]

    async def rename(self, id: str, name: str) -> None:
        if found := self.open.get(id):
            found.thread.name = name
        await self.page.write(self.page.threads.rename, id, name)

    async def delete(self, id: str) -> None:
        """What runs in it ends, and nothing is written to it any more."""
        if found := self.open.pop(id, None):
            found.deleted = True
            found.stop()
            await found.toast(found.text["conversation_deleted"], "info")
        await self.page.write(self.page.threads.delete, id)

    async def set_thumb(self, user: str, answer: str, value: int, comment: str | None) -> str:
        id = await self.page.write(self.page.thumbs.set, user, answer, value, comment)
        self._note_thumb(answer, {"id": id, "forId": answer, "value": value, "comment": comment})
        return id

    async def remove_thumb(self, user: str, id: str) -> None:
        if answer := await self.page.write(self.page.thumbs.remove, user, id):
            self._note_thumb(answer, None)

    def _note_thumb(self, answer: str, thumb: dict | None) -> None:
        for conversation in self.open.values():
            for message in conversation.messages.values():
                if message.run == answer:
                    message.thumb = thumb

    async def close(self) -> None:
        """End what runs, as something that broke off, and wait until it is stored."""
        tasks = [task for conversation in self.open.values() for task in conversation.tasks]
        for conversation in self.open.values():
            conversation.closing = True
            conversation.stop()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    async def _complete(self, conversation: Conversation) -> None:
        """The page was killed while it answered: what came is kept as an answer that broke off, and can be asked for
        again, as can a question that got none. A comparison that an older page left unfinished is as its answers are.
        """
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
                    found = await self.page.read(self.page.store.comparison, id)
                    props = comparison_props(found, text) if found else props | {"state": "stopped"}
                    message.elements[id] = (name, props)
                    changed.append(message)
        last = conversation.messages.get(conversation.thread.leaf or "")
        if last and last.role in ("question", "task") and last.created_at < self._started:
            add_problem("unanswered", last)
        if changed:
            await conversation.save(*changed)
