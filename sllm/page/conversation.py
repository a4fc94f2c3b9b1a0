"""A conversation while somebody has it open: its messages as a tree of branches, its tabs, and what is running in it.

Everything that changes goes through `Conversation`: it is stored first-come-first-served, and shown in every tab that
has the conversation open, with the answer that is being written. A message that follows the same message as another is
a branch of it (an edited question, a regenerated answer); nothing is removed but by deleting the conversation.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace

from chainlit.server import sio

from sllm.chatstore import NotStored, StoredAnswer
from sllm.page import view
from sllm.page.chat_session import Page
from sllm.page.messages import Message, Thread, ThreadMissing

log = logging.getLogger(__name__)


class Conversation:
    """
    Args:
        text: the interface texts, in the language of the user who opened it.
        stored: whether the database has it; a new one is stored with its first message.
        idle: called when nothing runs in it any more.
    """

    def __init__(
        self, page: Page, thread: Thread, text: dict, *, stored: bool,
        idle: Callable[["Conversation"], None] = lambda conversation: None,
    ):  # fmt: skip
        self.page, self.thread, self.text = page, thread, text
        self.messages = thread.messages
        self.tabs: set[str] = set()  # socket ids
        self.tasks: set[asyncio.Task] = set()
        self.held = 0  # handlers that are at work on it
        self.deleted = self.closing = False
        self.idle = idle
        self._stored = stored
        self._unsaved: list[tuple] = []  # what the database refused, for the next time
        self._ending: asyncio.Task | None = None
        self._turn = asyncio.Lock()

    @property
    def room(self) -> str:
        return f"conversation-{self.thread.id}"

    @property
    def running(self) -> bool:
        return bool(self.tasks)

    # ── the tree ──

    def path(self, to: str | None = None) -> list[Message]:
        """The messages from the first one to `to`, or to the end of the branch that is shown."""
        found: dict[str, Message] = {}
        at = to or self.thread.leaf
        while at and at not in found and (message := self.messages.get(at)):
            found[at] = message
            at = message.parent
        return list(found.values())[::-1]

    def branches(self, message: Message) -> list[Message]:
        """The message and those that it can be exchanged for, oldest first."""
        if message.role not in ("question", "answer"):
            return [message]
        return [m for m in self.messages.values() if m.parent == message.parent and m.role == message.role]

    def prompt(self, to: Message, system_prompt: str) -> list[dict]:
        """The messages to send for an answer to `to`: what was said on the way to it.

        Of several answers to one question the last counts (older versions kept them one after another); a question
        that got none is left out; a task begins afresh.
        """
        messages: list[dict] = []
        for message in self.path(to.id):
            metadata = message.metadata
            if message.role == "question":
                file = metadata.get("file")
                if messages and messages[-1]["role"] == "user":
                    messages.pop()
                content = f"{file}\n\n{message.content}" if file else message.content
                messages.append({"role": "user", "content": content})
            elif message.role == "answer" and metadata.get("text"):
                if metadata.get("messages"):
                    messages = list(metadata["messages"])
                elif messages and messages[-1]["role"] == "assistant":
                    messages.pop()
                messages.append({"role": "assistant", "content": metadata["text"]})
        if system_prompt and not (messages and messages[0]["role"] == "system"):
            messages.insert(0, {"role": "system", "content": system_prompt})
        return messages

    def asked_by(self, message: Message) -> Message | None:
        """The question or the task that an answer or a problem belongs to."""
        for before in reversed(self.path(message.id)):
            if before.role in ("question", "task"):
                return before
        return None

    # ── changing it ──

    async def add(self, message: Message, **also) -> None:
        """Append a message, store it, and then show it. `also`: an answer or a comparison for the chat store."""
        self.place(message)
        await self.save(message, **also)
        await self.emit("new_message", view.step(self.thread, message))
        await self._show_around(message)

    def place(self, message: Message) -> None:
        """Make it the end of the branch that is shown."""
        self.messages[message.id] = message
        self.thread.leaf = message.id

    async def update(self, message: Message, **also) -> None:
        """A message that is shown already, as it is now; stored first, so that what can be voted on is there."""
        await self.save(message, **also)
        await self.emit("update_message", view.step(self.thread, message))
        if message.run and not message.streaming:
            await self.emit("update_message", view.run_step(self.thread, message))
        await self._show_around(message)

    async def drop(self, message: Message) -> None:
        """Take back a message: an answer without a word, a problem that is being retried. What follows it follows the
        message before it."""
        del self.messages[message.id]
        if self.thread.leaf == message.id:
            self.thread.leaf = message.parent
        after = [other for other in self.messages.values() if other.parent == message.id]
        for other in after:
            other.parent = message.parent
        for id in filter(None, (message.id, message.run)):
            await self.emit("delete_message", {"id": id})
        if self._stored and not self.deleted:
            with contextlib.suppress(NotStored):
                await self.page.write(self.page.threads.remove, replace(self.thread, messages={}), message)
            await self.save(*after)

    async def save(
        self,
        *messages: Message,
        answer: StoredAnswer | None = None,
        comparison: tuple[str, StoredAnswer, StoredAnswer] | None = None,
    ) -> bool:
        """Store messages as they are now; returns when they are on the disk. What the database refuses is said, and
        stored with the next message.

        Returns:
            whether everything is stored.
        Raises:
            ThreadMissing: the conversation was deleted meanwhile."""
        if self.deleted:
            raise ThreadMissing(self.thread.id)
        thread = replace(self.thread, messages={})
        copies = [
            replace(message, metadata=dict(message.metadata), elements=dict(message.elements)) for message in messages
        ]
        new, self._stored = not self._stored, True
        writes, self._unsaved = [*self._unsaved, (copies, answer, comparison)], []

        def job() -> tuple[list, NotStored | None]:
            if new:
                self.page.threads.create(thread)
            refused, why = [], None
            for write in writes:  # each by itself: one that the database refuses does not keep the others back
                try:
                    self.page.threads.save(thread, write[0], answer=write[1], comparison=write[2])
                except NotStored as error:
                    refused.append(write)
                    why = error
            return refused, why

        try:
            refused, why = await self.page.write(job)
        except NotStored as error:
            self._stored, refused, why = False, writes, error
        self._unsaved = [*refused, *self._unsaved]
        if why:
            await self.toast(self.text["not_stored"].format(why=why))
        return not refused

    async def show_branch(self, message: Message) -> None:
        """Exchange what is shown from `message`'s branches on; of what follows it, what was said last."""
        leaf = message
        while following := [m for m in self.messages.values() if m.parent == leaf.id]:
            leaf = following[-1]
        self.thread.leaf = leaf.id
        await self.show()
        await self.save()

    # ── showing it ──

    async def emit(self, event: str, data: object) -> None:
        await sio.emit(event, data, room=self.room)

    async def toast(self, message: str, kind: str = "error") -> None:
        await self.emit("toast", {"message": message, "type": kind})

    async def stream(self, message: Message, text: str, *, replace: bool = False) -> None:
        """More of a message, or all of it again. Nothing is awaited between the change and its sending: a tab that
        opens meanwhile has either seen it in `show`, or is sent it here."""
        message.content = text if replace else message.content + text
        token = {"id": message.id, "token": text, "isSequence": replace, "isInput": False}
        await self.emit("stream_token", token)

    async def show(self, tab: str | None = None) -> None:
        """Send everything, to all tabs or to one of them."""
        to, asked = tab or self.room, None
        await sio.emit("resume_thread", view.thread(self), to=to)
        for message in self.path():
            asked = message if message.role in ("question", "task") else asked
            await self._show_actions(message, asked, to)

    async def start_answer(self, message: Message) -> None:
        """Show that an answer is coming, before its first word."""
        self.place(message)
        await self.emit("new_message", view.run_step(self.thread, message))

    async def start_stream(self, message: Message) -> None:
        await self.emit("stream_start", view.step(self.thread, message))

    async def _show_around(self, message: Message) -> None:
        for element in view.elements(self, message):
            await self.emit("element", element)
        await self._show_actions(message, self.asked_by(message), self.room)

    async def _show_actions(self, message: Message, asked: Message | None, to: str) -> None:
        """Chainlit's page adds every action that it is sent: what it may have already is taken back first."""
        for action in view.actions(self, message, asked):
            await sio.emit("remove_action", action, to=to)
            await sio.emit("action", action, to=to)

    async def join(self, tab: str) -> bool:
        """Send a tab what comes. False: it is gone already."""
        try:
            await sio.enter_room(tab, self.room)
        except ValueError:
            return False
        self.tabs.add(tab)
        return True

    async def open_tab(self, tab: str) -> None:
        """Show the conversation in a tab, with the answer that is being written, and all that comes."""
        if not await self.join(tab):
            return
        await sio.emit("first_interaction", {"interaction": "resume", "thread_id": self.thread.id}, to=tab)
        await self.show(tab)
        if self.running:
            await sio.emit("task_start", {}, to=tab)

    # ── running ──

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keep it in memory while a handler is at work on it, whether a tab has it open or not."""
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1
            self.idle(self)

    def run(self, work: Coroutine, *, text: dict, alone: bool = False) -> bool:
        """Run what somebody asked for, one after another, as something that every tab can stop. False: it is to run
        alone, and something is running."""
        if alone and self.running:
            work.close()
            return False

        async def job() -> None:
            await self.emit("task_start", {})
            try:
                async with self._turn:
                    await work
            except ThreadMissing:  # deleted meanwhile
                pass
            except Exception as error:
                log.exception("a bug")
                await self.toast(f"{text['page_bug']} ({type(error).__name__})")

        def ended(task: asyncio.Task) -> None:  # also of one that was stopped before it began
            work.close()
            self.tasks.discard(task)
            if not self.running:
                self._ending = asyncio.create_task(self._end())

        self.text = text
        task = asyncio.create_task(job())
        self.tasks.add(task)
        task.add_done_callback(ended)
        return True

    async def _end(self) -> None:
        last = self.messages.get(self.thread.leaf or "")
        if last and last.role in ("question", "task") and not (self.deleted or self.closing):
            await self.add(view.problem("unanswered", last, self.text))  # it was stopped before the first word
        if not self.running:
            await self.emit("task_end", {})
            self.idle(self)

    def stop(self) -> None:
        for task in self.tasks:
            if not task.cancelling():  # a second click must not interrupt the final save
                task.cancel()
