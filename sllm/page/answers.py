"""Answers: requested, streamed, stored piece by piece, and the message when they fail."""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

from sllm.chatstore import StoredAnswer
from sllm.page import view
from sllm.page.api_client import MAX_RETRIES, ApiClient, Chunk, ModelInfo, Problem
from sllm.page.chat_session import RequestContext
from sllm.page.conversation import Conversation
from sllm.page.markdown import Markdown, render
from sllm.page.messages import Message, ThreadMissing, new_id
from sllm.page.view import AUTHOR

SAVE_SECONDS = 1.0  # at most this much of an answer is lost when the page is killed
SHOW_SECONDS = 0.1  # between two updates: a browser draws the whole answer each time, and can freeze over every token
log = logging.getLogger(__name__)


@dataclass
class StreamingAnswer(Chunk):
    """The chunks of an answer so far. `text`: as the model wrote it; `rendered`: as the page shows it."""

    problem: Problem | None = None
    waiting: str = ""
    markdown: Markdown = field(default_factory=Markdown)

    @property
    def rendered(self) -> str:
        return self.markdown.rendered

    def add(self, chunk: Chunk) -> None:
        self.text += chunk.text
        self.finish_reason = chunk.finish_reason or self.finish_reason
        self.conformance = chunk.conformance or self.conformance
        self.messages = chunk.messages or self.messages
        self.markdown.feed(chunk.text)

    def fail(self, error: Exception) -> None:
        if not isinstance(error, Problem):
            log.error("unexpected error", exc_info=error)
            error = Problem("bug", type(error).__name__)
        self.problem, self.finish_reason = error, "broken"


async def stream(
    server: ApiClient, path: str, body: dict, text: dict, show_waiting: Callable[[str], Awaitable[None]]
) -> AsyncIterator[Chunk]:
    """The server's chunks; temporary problems before the first text are retried.

    Args:
        text: of the interface. show_waiting: called with a message before each wait.
    """
    for retries in itertools.count():
        has_text = False
        try:
            async with aclosing(server.answer(path, body)) as chunks:
                async for chunk in chunks:
                    has_text = has_text or bool(chunk.text)
                    yield chunk
            return
        except Problem as problem:
            if has_text:
                problem.kind = "broken"
                raise
            seconds = problem.wait(retries)
            if seconds is None:
                raise
            reason, retry = text[problem.kind], retries + 1
            await show_waiting(
                text["waiting"].format(reason=reason, seconds=round(seconds), retry=retry, max_retries=MAX_RETRIES)
            )
            await asyncio.sleep(seconds)


async def find_model(server: ApiClient, profile: str | None) -> ModelInfo:
    """The profile's model. A server that is down or loading may be ready for the request itself, which is retried."""
    is_chosen = profile not in (None, "-")
    try:
        models = await server.models(patient=True)
    except Problem as problem:
        if not is_chosen or problem.wait(0) is None:
            raise
        models = []
    by_id = {model.id: model for model in models}
    return by_id.get(profile) or (ModelInfo(profile) if is_chosen else models[0])


@dataclass
class Reply:
    """One answer to a question or a task, from the request to the last token.

    `path`, `body`: of the request. `messages`: the prompt, if it is known before the server answers.
    """

    conversation: Conversation
    request: RequestContext
    question: Message
    path: str
    body: dict
    model: ModelInfo
    messages: list[dict] | None

    def __post_init__(self) -> None:
        self.message = Message("answer", parent=self.question.id, author=AUTHOR, run=new_id(), streaming=True)
        self.answer = StreamingAnswer()

    async def run(self) -> None:
        """Stream the answer into a message, and store it as it comes."""
        stopped = await self.write()
        await asyncio.shield(self.finish(stopped))  # a late Stop does not leave it unfinished

    async def write(self) -> bool:
        """Stream the answer; returns whether it was stopped."""
        conversation, answer, text = self.conversation, self.answer, self.request.text
        show = partial(conversation.stream, self.message)
        shown, saved = 0.0, 0.0
        try:
            await conversation.start_answer(self.message)
            async with aclosing(stream(conversation.page.server, self.path, self.body, text, show)) as chunks:
                async for chunk in chunks:
                    answer.add(chunk)
                    if answer.rendered and time.monotonic() - shown > SHOW_SECONDS:
                        shown = time.monotonic()
                        await show(answer.rendered)
                    if answer.text.strip() and time.monotonic() - saved > SAVE_SECONDS:
                        saved = time.monotonic()
                        await conversation.save(self.message, answer=self._stored("broken"))  # until it has ended
        except asyncio.CancelledError:
            stopped = not conversation.closing
            answer.finish_reason = "stopped" if stopped else "broken"
            return stopped
        except ThreadMissing:
            raise
        except Exception as error:
            answer.fail(error)  # what has arrived is kept
        if not answer.text.strip() and not answer.problem:
            answer.problem = Problem("empty")
        return False

    async def finish(self, stopped: bool) -> None:
        """Store the whole answer, and report what went wrong. An empty answer is removed."""
        conversation, message, answer, text = self.conversation, self.message, self.answer, self.request.text
        answer.markdown.close()
        message.content, message.streaming = answer.rendered, False
        after = self.question
        if answer.text.strip():
            if answer.conformance:
                message.elements = {new_id(): ("Verdict", verdict(answer.conformance, text))}
            stored = self._stored(answer.finish_reason)
            if not stored:
                await conversation.toast(text["not_stored"].format(reason=text["prompt_unknown"]))
            await conversation.update(message, answer=stored)
            after = message
        elif message.id in conversation.messages:
            await conversation.drop(message)
        if stopped:
            await conversation.toast(text["stopped"], "info")
        elif answer.problem:
            await report_problem(conversation, answer.problem, after, text)
        elif answer.finish_reason == "length":
            await conversation.toast(text["cut"], "info")

    def _stored(self, finish_reason: str | None) -> StoredAnswer | None:
        """The answer for the chat store; None if its prompt is not known. Updates the message's metadata too."""
        answer, task = self.answer, self.question.metadata.get("task")
        prompt = answer.messages or self.messages
        self.message.metadata = {"text": answer.text} | ({"messages": prompt, "task": task} if task else {})
        if not prompt:
            return None
        return StoredAnswer(
            id=self.message.run, conversation=self.conversation.thread.id, user_id=self.request.user,
            model=self.model.id, prompt=prompt, text=answer.text, finish_reason=finish_reason,
            sampling=self.request.sampling(), template_hash=self.model.template_hash, task=task,
        )  # fmt: skip


async def report_problem(conversation: Conversation, problem: Problem, after: Message, text: dict) -> None:
    """What went wrong and what to do, with a button to try again; the question stays."""
    await conversation.add(view.problem(problem.kind, after, text, render(problem.detail)))


def verdict(conformance: dict, text: dict) -> dict:
    """The verdicts of a task's rules on its answer, as the properties of the element."""
    rules = [
        {"name": text["rules"].get(rule["rule"], rule["rule"]), "ok": rule["ok"], "reason": rule.get("reason")}
        for rule in conformance.get("rules", [])
    ]
    summary = text["verdict_ok" if conformance.get("ok") else "verdict_broken"]
    return {"ok": bool(conformance.get("ok")), "summary": summary, "rules": rules}
