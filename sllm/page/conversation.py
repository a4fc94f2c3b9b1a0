"""An open conversation: its thread of messages, its tabs, and what is running in it.

Every change goes through `Conversation`: it is stored in order, and shown in every tab that has the conversation open,
with the answer that is being written. Nothing is removed except by deleting the conversation.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace

from chainlit.server import sio

from sllm.chatstore import NotStored, StoredAnswer
from sllm.page import view
from sllm.page.chat_session import Page, translations
from sllm.page.messages import Message, Thread, ThreadMissing

log = logging.getLogger(__name__)


class Conversation:
    """
    Args:
        text: the interface texts, in the language of the user who opened it.
        stored: whether the database has it; a new one is stored with its first message.
        idle: called when nothing runs in it, or nothing uses it any more.
    """

    def __init__(self, page: Page, thread: Thread, text: dict, *, stored: bool, idle: "Callable[[Conversation], None]"):
        self.page, self.thread, self.text = page, thread, text
        self.messages, self.room = thread.messages, f"conversation-{thread.id}"
        self.tabs: set[str] = set()  # socket ids
        self.tasks: set[asyncio.Task] = set()
        self.active_handlers = 0  # how many are using it
        self.deleted = self.closing = False
        self.idle = idle
        self._stored = stored
        self._unsaved: list[dict] = []  # what the database refused, to be stored with the next message
        self._ending: asyncio.Task | None = None
        self._one_at_a_time = asyncio.Lock()

    @property
    def running(self) -> bool:
        return bool(self.tasks)

    # ── changing it ──

    async def add(self, message: Message) -> None:
        """Append a message, store it, and then show it."""
        self.place(message)
        await self.save(message)
        await self.emit("new_message", view.step(self.thread, message))
        await self._show_around(message)

    def place(self, message: Message) -> None:
        """Make it the end of the branch that is shown."""
        self.messages[message.id] = message
        self.thread.leaf = message.id

    async def update(self, message: Message, *, answer: StoredAnswer | None = None) -> None:
        """Show a changed message; it is stored first, so that whatever can be rated is in the database."""
        await self.save(message, answer=answer)
        await self.emit("update_message", view.step(self.thread, message))
        if message.run and not message.streaming:
            await self.emit("update_message", view.run_step(self.thread, message))
        await self._show_around(message)

    async def drop(self, message: Message) -> None:
        """Remove a message: an empty answer, a problem that is being retried. What follows it then follows the message
        before it."""
        del self.messages[message.id]
        if self.thread.leaf == message.id:
            self.thread.leaf = message.parent
        children = [other for other in self.messages.values() if other.parent == message.id]
        for child in children:
            child.parent = message.parent
        for id in filter(None, (message.id, message.run)):
            await self.emit("delete_message", {"id": id})
        if self._stored and not self.deleted:
            with contextlib.suppress(NotStored):
                await self.page.write(self.page.threads.remove, replace(self.thread, messages={}), message)
            await self.save(*children)

    async def save(
        self, *messages: Message, answer: StoredAnswer | None = None,
        comparison: tuple[str, StoredAnswer, StoredAnswer] | None = None,
    ) -> bool:  # fmt: skip
        """Store messages as they are now; returns when they are on the disk. What the database refuses is reported, and
        stored with the next message.

        Returns:
            whether everything is stored.
        Raises:
            ThreadMissing: the conversation has been deleted."""
        if self.deleted:
            raise ThreadMissing(self.thread.id)
        thread = replace(self.thread, messages={})
        copies = [
            replace(message, metadata=dict(message.metadata), elements=dict(message.elements)) for message in messages
        ]
        new, self._stored = not self._stored, True
        write = {"messages": copies, "answer": answer, "comparison": comparison}
        writes, self._unsaved = [*self._unsaved, write], []

        def job() -> tuple[list, NotStored | None]:
            if new:
                self.page.threads.create(thread)
            refused, reason = [], None
            for write in writes:  # separately: a refused one does not prevent the others
                try:
                    self.page.threads.save(thread, **write)
                except NotStored as error:
                    refused.append(write)
                    reason = error
            return refused, reason

        try:
            refused, reason = await self.page.write(job)
        except NotStored as error:
            self._stored, refused, reason = False, writes, error
        self._unsaved = [*refused, *self._unsaved]
        if reason:
            await self.toast(self.text["not_stored"].format(reason=reason))
        return not refused

    async def show_branch(self, message: Message) -> None:
        """Show this branch instead of its alternatives, down to its newest messages."""
        leaf = message
        while children := [m for m in self.messages.values() if m.parent == leaf.id]:
            leaf = children[-1]
        self.thread.leaf = leaf.id
        await self.show()
        await self.save()

    # ── showing it ──

    async def emit(self, event: str, data: object) -> None:
        await sio.emit(event, data, room=self.room)

    async def toast(self, message: str, kind: str = "error") -> None:
        await self.emit("toast", {"message": message, "type": kind})

    async def stream(self, message: Message, text: str) -> None:
        """Show the text of a message so far; only the new part is sent if it continues what was shown. Nothing is
        awaited between the change and its sending: a tab that opens meanwhile gets it either from `show` or from here.
        """
        before, message.content = message.content, text
        if not before:
            return await self.emit("stream_start", view.step(self.thread, message))
        continues = text.startswith(before)
        new = text[len(before) :] if continues else text
        token = {"id": message.id, "token": new, "isSequence": not continues, "isInput": False}
        await self.emit("stream_token", token)

    async def show(self, tab: str | None = None) -> None:
        """Send everything, to all tabs or to one of them."""
        to, question = tab or self.room, None
        await sio.emit("resume_thread", view.thread(self), to=to)
        for message in self.thread.path():
            question = message if message.role in ("question", "task") else question
            await self._show_actions(message, question, to)

    async def start_answer(self, message: Message) -> None:
        """Show that an answer is coming, before its first token."""
        self.place(message)
        await self.emit("new_message", view.run_step(self.thread, message))

    async def _show_around(self, message: Message) -> None:
        for element in view.elements(self, message):
            await self.emit("element", element)
        await self._show_actions(message, self.thread.question_of(message), self.room)

    async def _show_actions(self, message: Message, question: Message | None, to: str) -> None:
        """Chainlit's page adds every action that it is sent: one that it may have already is removed first."""
        for action in view.actions(self, message, question):
            await sio.emit("remove_action", action, to=to)
            await sio.emit("action", action, to=to)

    async def join(self, tab: str) -> bool:
        """Send a tab all further events. False: it has disconnected."""
        try:
            await sio.enter_room(tab, self.room)
        except ValueError:
            return False
        self.tabs.add(tab)
        return True

    async def open_tab(self, tab: str) -> None:
        """Show the conversation in a tab, with the answer that is being written and all further events."""
        if not await self.join(tab):
            return
        await sio.emit("first_interaction", {"interaction": "resume", "thread_id": self.thread.id}, to=tab)
        await self.show(tab)
        if self.running:
            await sio.emit("task_start", {}, to=tab)

    # ── running ──

    @contextlib.contextmanager
    def keep_open(self) -> Iterator[None]:
        """Keep it in memory while a handler uses it, whether a tab has it open or not."""
        self.active_handlers += 1
        try:
            yield
        finally:
            self.active_handlers -= 1
            self.idle(self)

    def run(self, work: Coroutine, *, alone: bool = False) -> bool:
        """Run `work` after what is running already; every tab can stop it. False: it was to run alone, and something is
        running."""
        if alone and self.running:
            work.close()
            return False
        text = self.text = translations()

        async def job() -> None:
            await self.emit("task_start", {})
            try:
                async with self._one_at_a_time:
                    await work
            except ThreadMissing:
                pass
            except Exception as error:
                log.exception("unexpected error")
                await self.toast(f"{text['page_bug']} ({type(error).__name__})")

        def ended(task: asyncio.Task) -> None:  # also of one that was stopped before it started
            work.close()
            self.tasks.discard(task)
            if not self.running:
                self._ending = asyncio.create_task(self._end())

        task = asyncio.create_task(job())
        self.tasks.add(task)
        task.add_done_callback(ended)
        return True

    async def _end(self) -> None:
        last = self.messages.get(self.thread.leaf or "")
        if last and last.role in ("question", "task") and not (self.deleted or self.closing):
            await self.add(view.problem("unanswered", last, self.text))  # it was stopped before the first token
        if not self.running:
            await self.emit("task_end", {})
            self.idle(self)

    def stop(self) -> None:
        for task in self.tasks:
            if not task.cancelling():  # a second click must not interrupt the final save
                task.cancel()
