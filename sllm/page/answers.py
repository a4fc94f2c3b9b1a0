"""Answers: asked for, streamed, stored piece by piece, and what is said when they fail."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

from sllm.chatstore import StoredAnswer
from sllm.page import view
from sllm.page.api_client import ARENA, MAX_RETRIES, Chunk, ModelInfo, Problem
from sllm.page.chat_session import SETTINGS, Asker, Page
from sllm.page.conversation import Conversation
from sllm.page.markdown import Markdown, show
from sllm.page.messages import Message, ThreadMissing
from sllm.page.view import AUTHOR

SAVE_SECONDS = 1.0  # of an answer at most are lost when the page is killed
log = logging.getLogger(__name__)
INCOMPLETE_REASONS = ("length", "stopped", "broken")


@dataclass
class StreamingAnswer:
    """An answer while it is written. `text` is the model's own, `markdown` what the page renders."""

    text: str = ""
    finish_reason: str | None = None
    conformance: dict | None = None
    messages: list[dict] | None = None
    problem: Problem | None = None
    waiting: str = ""
    markdown: Markdown = field(default_factory=Markdown)

    @property
    def shown(self) -> str:
        return self.markdown.shown

    def take(self, piece: Chunk) -> None:
        self.text += piece.text
        self.finish_reason = piece.finish_reason or self.finish_reason
        self.conformance = piece.conformance or self.conformance
        self.messages = piece.messages or self.messages
        self.markdown.feed(piece.text)


async def pieces(page: Page, path: str, body: dict, waiting) -> AsyncIterator[Chunk]:
    """The server's pieces; while none has come, what passes is waited for. `waiting`: told of each wait."""
    turn = 0
    while True:
        begun = False
        try:
            async with aclosing(page.server.answer(path, body)) as answer:
                async for piece in answer:
                    begun = begun or bool(piece.text)
                    yield piece
            return
        except Problem as problem:
            if begun:
                problem.kind = "broken"
                raise
            seconds = problem.wait(turn)
            if seconds is None:
                raise
            turn += 1
            await waiting(problem, seconds, turn)
            await asyncio.sleep(seconds)


def waiting_text(problem: Problem, seconds: float, turn: int, text: dict) -> str:
    return text["waiting"].format(why=text[problem.kind], seconds=round(seconds), turn=turn, turns=MAX_RETRIES)


async def find_model(page: Page, profile: str | None) -> ModelInfo:
    """The profile's model. A server that is down or loading may be up when it is asked for the answer, which waits."""
    named = profile not in (None, "-")
    try:
        models = await page.server.models(patient=True)
    except Problem as problem:
        if not named or problem.wait(0) is None:
            raise
        models = []
    known = {model.id: model for model in models}
    return known.get(profile) or (ModelInfo(profile) if named else models[0])


async def respond(page: Page, conversation: Conversation, asker: Asker, question: Message) -> None:
    """Answer a question, by the model that its conversation is with."""
    from sllm.page.arena import compare

    messages = conversation.prompt(question, asker.system_prompt)
    if asker.profile == ARENA:
        return await compare(page, conversation, asker, question, messages)
    try:
        model = await find_model(page, asker.profile)
    except Problem as problem:
        return await say_problem(conversation, problem, question, asker.text)
    body = asker.sampling() | {"model": model.id, "messages": messages}
    await answer(page, conversation, asker, question, "chat/completions", body, model, messages)


async def answer(
    page: Page, conversation: Conversation, asker: Asker, asked: Message, path: str, body: dict, model: ModelInfo,
    messages: list[dict] | None,
) -> None:  # fmt: skip
    """Stream one answer into a message and store it as it comes.

    Args:
        asked: the question or the task. messages: what the model is sent, where that is known before it answers.
    """
    reply = Reply(page, conversation, asker, asked, path, body, model, messages)
    stopped = await reply.write()
    await asyncio.shield(reply.finish(stopped))  # a late Stop does not leave it half shown


class Reply:
    """One answer, from its question to its last word. Arguments: as of `answer`."""

    def __init__(
        self, page: Page, conversation: Conversation, asker: Asker, asked: Message, path: str, body: dict,
        model: ModelInfo, messages: list[dict] | None,
    ):  # fmt: skip
        self.page, self.conversation, self.asker, self.asked = page, conversation, asker, asked
        self.path, self.body, self.model, self.messages = path, body, model, messages
        self.message = Message("answer", parent=asked.id, author=AUTHOR, run=str(uuid.uuid4()), streaming=True)
        self.writing = StreamingAnswer()
        self.shown = False

    async def write(self) -> bool:
        """The answer as it comes; returns whether it was stopped."""
        conversation, writing = self.conversation, self.writing
        saved: float | None = None
        try:
            await conversation.start_answer(self.message)
            async with aclosing(pieces(self.page, self.path, self.body, self._show_waiting)) as answer_pieces:
                async for piece in answer_pieces:
                    writing.take(piece)
                    if writing.shown:
                        await self._show(writing.shown)
                    if writing.text.strip() and (saved is None or time.monotonic() - saved > SAVE_SECONDS):
                        saved = time.monotonic()
                        await conversation.save(self.message, **self._stored("broken"))  # until it has ended
        except asyncio.CancelledError:
            stopped = not conversation.closing
            writing.finish_reason = "stopped" if stopped else "broken"
            return stopped
        except Problem as problem:
            writing.problem, writing.finish_reason = problem, "broken"
        except ThreadMissing:
            raise
        except Exception as error:  # what came is kept all the same
            log.exception("a bug")
            writing.problem, writing.finish_reason = Problem("bug", type(error).__name__), "broken"
        if not writing.text.strip() and not writing.problem:
            writing.problem = Problem("empty")
        return False

    async def finish(self, stopped: bool) -> None:
        """Store the whole answer, and say what went wrong. An answer without a word is none."""
        conversation, message, writing, text = self.conversation, self.message, self.writing, self.asker.text
        writing.markdown.close()
        message.content, message.streaming = writing.shown, False
        after = self.asked
        if writing.text.strip():
            if writing.conformance:
                message.elements = {str(uuid.uuid4()): ("Verdict", verdict(writing.conformance, text))}
            stored = self._stored(writing.finish_reason)
            if not stored:
                await conversation.toast(text["not_stored"].format(why=text["prompt_unknown"]))
            await conversation.update(message, **stored)
            after = message
        elif message.id in conversation.messages:
            await conversation.drop(message)
        if stopped:
            await conversation.toast(text["stopped"], "info")
        elif writing.problem:
            await say_problem(conversation, writing.problem, after, text)
        elif writing.finish_reason == "length":
            await conversation.toast(text["cut"], "info")

    async def _show_waiting(self, problem: Problem, seconds: float, turn: int) -> None:
        self.writing.waiting = waiting_text(problem, seconds, turn, self.asker.text)
        await self._show(self.writing.waiting)

    async def _show(self, now: str) -> None:
        """The text as it is now; only what is new is sent, where it goes on from what was shown."""
        message = self.message
        if not self.shown:
            self.shown, message.content = True, now
            await self.conversation.start_stream(message)
        elif now.startswith(message.content):
            await self.conversation.stream(message, now[len(message.content) :])
        else:
            await self.conversation.stream(message, now, replace=True)

    def _stored(self, finish_reason: str | None) -> dict:
        """What to store of the answer: in the chat store too, where its prompt is known."""
        writing, task = self.writing, self.asked.metadata.get("task")
        prompt = writing.messages or self.messages
        self.message.metadata = {"text": writing.text} | ({"messages": prompt, "task": task} if task else {})
        if not prompt:
            return {}
        return {
            "answer": StoredAnswer(
                id=self.message.run, conversation=self.conversation.thread.id, user_id=self.asker.user,
                model=self.model.id, prompt=prompt, text=writing.text, finish_reason=finish_reason,
                template_hash=self.model.template_hash, task=task,
                sampling={name: value for name, value in self.body.items() if name in (*SETTINGS, "seed")},
            )
        }  # fmt: skip


async def say_problem(conversation: Conversation, problem: Problem, after: Message, text: dict) -> None:
    """What went wrong and what to do, with a button that tries again; the question stays where it is."""
    await conversation.add(view.problem(problem.kind, after, text, show(problem.detail)))


def verdict(conformance: dict, text: dict) -> dict:
    """What a task's rules say of its answer, as the properties of what is shown."""
    rules = [
        {"name": text["rules"].get(rule["rule"], rule["rule"]), "ok": rule["ok"], "reason": rule.get("reason")}
        for rule in conformance.get("rules", [])
    ]
    word = text["verdict_ok" if conformance.get("ok") else "verdict_broken"]
    return {"ok": bool(conformance.get("ok")), "word": word, "rules": rules}
