"""The arena: two models answer one question side by side, and a vote says which did better."""

import asyncio
import logging
import os.path
import random
import re
import secrets
import time
import uuid
from contextlib import aclosing

from sllm.chatstore import Comparison, NotStored, StoredAnswer
from sllm.page.answers import INCOMPLETE_REASONS, SAVE_SECONDS, StreamingAnswer, pieces, say_problem, waiting_text
from sllm.page.api_client import ModelInfo, Problem
from sllm.page.chat_session import Asker, Page
from sllm.page.conversation import Conversation
from sllm.page.messages import Message
from sllm.page.view import AUTHOR

SHOW_SECONDS = 0.1  # between two looks at a comparison that is being written
log = logging.getLogger(__name__)
SIDES = ("left", "right")


async def compare(page: Page, conversation: Conversation, asker: Asker, asked: Message, messages: list[dict]) -> None:
    """Two models, drawn by chance, answer at once, side by side and without their names."""
    text = asker.text
    try:
        models = await page.server.models(patient=True)
    except Problem as problem:
        return await say_problem(conversation, problem, asked, text)
    if len(models) < 2:
        problem = Problem("missing", text["arena_few"].format(count=len(models)))
        return await say_problem(conversation, problem, asked, text)
    pair = random.SystemRandom().sample(models, 2)
    comparison = Round(page, conversation, asker, asked, messages, models, pair)
    stopped = await comparison.write()
    await asyncio.shield(comparison.finish(stopped))  # a late Stop does not leave it half shown


class Round:
    """One comparison, from its question to its vote."""

    def __init__(
        self, page: Page, conversation: Conversation, asker: Asker, asked: Message, messages: list[dict],
        models: list[ModelInfo], pair: list[ModelInfo],
    ):  # fmt: skip
        self.page, self.conversation, self.asker, self.asked = page, conversation, asker, asked
        self.messages, self.models, self.pair = messages, models, pair
        self.writings = [StreamingAnswer(), StreamingAnswer()]
        self.id = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
        self.body = asker.sampling() | {"messages": messages}
        self.message = Message(
            "answer", parent=asked.id, author=AUTHOR, streaming=True, metadata={"comparison": self.id}
        )
        self.set_state("writing")

    def set_state(self, state: str) -> None:
        self.message.elements = {self.id: ("Arena", arena_props(self.id, self.writings, state, self.asker.text))}
        self.message.metadata["text"] = self.writings[0].text or self.writings[1].text

    async def write(self) -> bool:
        """Both answers; returns whether they were stopped."""
        stopped, progress = False, None
        try:
            await self.conversation.add(self.message)
            progress = asyncio.create_task(self._show_progress())
            async with asyncio.TaskGroup() as group:
                for writing, model in zip(self.writings, self.pair, strict=True):
                    group.create_task(self._write_side(writing, model))
        except asyncio.CancelledError:
            stopped = not self.conversation.closing
            for writing in self.writings:
                writing.finish_reason = writing.finish_reason or ("stopped" if stopped else "broken")
        finally:
            if progress:
                progress.cancel()
                await asyncio.gather(progress, return_exceptions=True)
        return stopped

    async def _write_side(self, writing: StreamingAnswer, model: ModelInfo) -> None:
        async def waiting(problem: Problem, seconds: float, turn: int) -> None:
            writing.waiting = waiting_text(problem, seconds, turn, self.asker.text)

        body = self.body | {"model": model.id}
        try:
            async with aclosing(pieces(self.page, "chat/completions", body, waiting)) as answer_pieces:
                async for piece in answer_pieces:
                    writing.take(piece)
                    writing.waiting = "" if writing.text else writing.waiting
            if not writing.text.strip():
                raise Problem("empty")
        except Problem as problem:
            writing.problem, writing.finish_reason = problem, "broken"
            problem.detail = _nameless(problem.detail, self.models)
        except Exception as error:  # what came is kept all the same
            log.exception("a bug")
            writing.problem, writing.finish_reason = Problem("bug", type(error).__name__), "broken"

    async def _show_progress(self) -> None:
        """What is new goes to the browser, not all of it again."""
        seen = [(writing.shown, writing.waiting) for writing in self.writings]
        saved = time.monotonic()
        while True:
            await asyncio.sleep(SHOW_SECONDS)
            changes = {}
            for number, writing in enumerate(self.writings):
                old, now = seen[number], (writing.shown, writing.waiting)
                if now != old:
                    seen[number] = now
                    at = len(os.path.commonprefix([old[0], now[0]]))
                    changes[SIDES[number]] = {"at": at, "text": now[0][at:], "waiting": now[1]}
            if changes:
                self.set_state("writing")  # what a tab is sent that opens meanwhile
                await self.conversation.emit("window_message", {"arena": self.id} | changes)
            if time.monotonic() - saved > SAVE_SECONDS:
                saved = time.monotonic()
                await self.conversation.save(self.message)

    async def finish(self, stopped: bool) -> None:
        """Store the comparison, and then offer the vote."""
        conversation, message, writings = self.conversation, self.message, self.writings
        for writing in writings:
            writing.markdown.close()
        problem = next((writing.problem for writing in writings if writing.problem), None)
        message.streaming = False
        if task := self.asked.metadata.get("task"):  # as a task's answer it begins the conversation afresh
            message.metadata |= {"messages": self.messages, "task": task}
        if stopped or problem or not all(writing.text for writing in writings):
            self.set_state("stopped")
        else:
            self.set_state("same" if writings[0].text == writings[1].text else "vote")
            if not await conversation.save(message, comparison=(self.id, *self._answers())):
                self.set_state("stopped")  # there is nothing to vote on
        await conversation.update(message)
        if stopped:
            await conversation.toast(self.asker.text["stopped"], "info")
        elif problem:
            await say_problem(conversation, problem, message, self.asker.text)

    def _answers(self) -> list[StoredAnswer]:
        return [
            StoredAnswer(
                id=f"{self.id}-{side}", conversation=self.conversation.thread.id, user_id=self.asker.user,
                model=model.id, prompt=self.messages, text=writing.text, finish_reason=writing.finish_reason,
                sampling={name: value for name, value in self.body.items() if name != "messages"},
                template_hash=model.template_hash, task=self.asked.metadata.get("task"),
            )
            for side, writing, model in zip(SIDES, self.writings, self.pair, strict=True)
        ]  # fmt: skip


def _nameless(detail: str, models: list[ModelInfo]) -> str:
    """The server's own sentence, which may name the model that is hidden until the vote."""
    for name in sorted((model.id for model in models), key=len, reverse=True):
        detail = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "…", detail)
    return detail


def arena_props(id: str, writings: list[StreamingAnswer], state: str, text: dict, voted: dict | None = None) -> dict:
    """What the browser gets to know: no name before the vote, but whether an answer was cut off."""
    return {
        "comparison": id,
        "state": state,
        "left": writings[0].shown,
        "right": writings[1].shown,
        "waiting": [writing.waiting for writing in writings],
        "cut": [
            text[f"arena_cut_{writing.finish_reason}"] if writing.finish_reason in INCOMPLETE_REASONS else ""
            for writing in writings
        ],
        "words": {
            name: text[name]
            for name in ("arena_ask", "arena_same", "arena_writing", "arena_left", "arena_right",
                         "vote_left", "vote_right", "vote_tie", "vote_both_bad")
        },
    } | (voted or {})  # fmt: skip


def comparison_props(found: Comparison, text: dict) -> dict:
    """Of a comparison that is stored, before its vote or after."""
    writings = []
    for answer in (found.left, found.right):
        writing = StreamingAnswer(text=answer.text, finish_reason=answer.finish_reason)
        writing.markdown.feed(answer.text)
        writing.markdown.close()
        writings.append(writing)
    if found.choice is None:
        return arena_props(found.id, writings, "same" if found.left.text == found.right.text else "vote", text)
    names = {"left": found.left.model, "right": found.right.model}
    voted = text["arena_voted"].format(choice=text.get(f"vote_{found.choice}", found.choice), **names)
    if found.changed and found.changed != found.choice:
        voted += " " + text["arena_changed"].format(choice=text.get(f"vote_{found.changed}", found.changed))
    more = {"choice": found.choice, "changed": found.changed, "names": list(names.values()), "voted": voted}
    return arena_props(found.id, writings, "voted", text, more)


async def take_vote(page: Page, conversation: Conversation, asker: Asker, id: str, choice: str) -> bool:
    """The first vote is blind, and is what trains; a later one, made when the names are known, is kept beside it."""
    text = asker.text
    found = await page.read(page.store.comparison, id)
    message = next((m for m in conversation.messages.values() if m.metadata.get("comparison") == id), None)
    if (
        not found
        or not message
        or found.left.conversation != conversation.thread.id
        or found.left.user_id != asker.user
    ):
        await conversation.toast(text["arena_lost"])
        return False
    try:
        found = await page.write(page.store.vote, id, choice)
    except (NotStored, ValueError, KeyError) as error:
        await conversation.toast(text["not_stored"].format(why=error))
        return False
    message.elements = {id: ("Arena", comparison_props(found, text))}
    liked = found.changed or found.choice
    preferred = found.right if liked == "right" else found.left  # the conversation goes on from what was liked
    message.metadata = message.metadata | {"text": preferred.text}
    await conversation.update(message)
    return True
