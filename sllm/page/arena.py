"""The arena: two models answer one question side by side, and the user votes for the better answer."""

import asyncio
import os.path
import random
import re
import time
from contextlib import aclosing
from dataclasses import dataclass

from sllm.chatstore import Comparison, NotStored, StoredAnswer
from sllm.page.answers import SAVE_SECONDS, SHOW_SECONDS, StreamingAnswer, report_problem, stream
from sllm.page.api_client import ModelInfo, Problem
from sllm.page.chat_session import RequestContext
from sllm.page.conversation import Conversation
from sllm.page.markdown import Markdown
from sllm.page.messages import Message, new_id
from sllm.page.view import AUTHOR

SIDES = ("left", "right")
ARENA_TEXTS = (
    "arena_ask", "arena_same", "arena_writing", "arena_left", "arena_right",
    "vote_left", "vote_right", "vote_tie", "vote_both_bad",
)  # fmt: skip


async def compare(conversation: Conversation, request: RequestContext, question: Message, messages: list[dict]) -> None:
    """Two random models answer at once, side by side and without their names."""
    text = request.text
    try:
        models = await conversation.page.server.models(patient=True)
    except Problem as problem:
        return await report_problem(conversation, problem, question, text)
    if len(models) < 2:
        problem = Problem("missing", text["arena_few"].format(count=len(models)))
        return await report_problem(conversation, problem, question, text)
    comparison = ArenaComparison(conversation, request, question, messages, models)
    stopped = await comparison.write()
    await asyncio.shield(comparison.finish(stopped))  # a late Stop does not leave it unfinished


@dataclass
class ArenaComparison:
    """One comparison, from its question to its vote. `pair`: two of the server's models, drawn at random."""

    conversation: Conversation
    request: RequestContext
    question: Message
    messages: list[dict]
    models: list[ModelInfo]

    def __post_init__(self) -> None:
        self.pair = random.SystemRandom().sample(self.models, 2)
        self.answers = [StreamingAnswer(), StreamingAnswer()]
        self.id = new_id()
        self.body = self.request.sampling() | {"messages": self.messages}
        metadata = {"comparison": self.id}
        self.message = Message("answer", parent=self.question.id, author=AUTHOR, streaming=True, metadata=metadata)
        self.set_state("writing")

    def set_state(self, state: str) -> None:
        self.message.elements = {self.id: ("Arena", arena_props(self.id, self.answers, state, self.request.text))}
        self.message.metadata["text"] = self.answers[0].text or self.answers[1].text

    async def write(self) -> bool:
        """Stream both answers; returns whether they were stopped."""
        stopped, progress = False, None
        try:
            await self.conversation.add(self.message)
            progress = asyncio.create_task(self._show_progress())
            async with asyncio.TaskGroup() as group:
                for answer, model in zip(self.answers, self.pair, strict=True):
                    group.create_task(self._write_side(answer, model))
        except asyncio.CancelledError:
            stopped = not self.conversation.closing
            for answer in self.answers:
                answer.finish_reason = answer.finish_reason or ("stopped" if stopped else "broken")
        finally:
            if progress:
                progress.cancel()
                await asyncio.gather(progress, return_exceptions=True)
        return stopped

    async def _write_side(self, answer: StreamingAnswer, model: ModelInfo) -> None:
        async def show_waiting(message: str) -> None:
            answer.waiting = message

        server, text, body = self.conversation.page.server, self.request.text, self.body | {"model": model.id}
        try:
            async with aclosing(stream(server, "chat/completions", body, text, show_waiting)) as chunks:
                async for chunk in chunks:
                    answer.add(chunk)
                    answer.waiting = "" if answer.text else answer.waiting
            if not answer.text.strip():
                raise Problem("empty")
        except Exception as error:
            answer.fail(error)  # what has arrived is kept
            answer.problem.detail = _without_names(answer.problem.detail, self.models)

    async def _show_progress(self) -> None:
        """Only new text is sent to the browser."""
        sent = [(answer.rendered, answer.waiting) for answer in self.answers]
        saved = time.monotonic()
        while True:
            await asyncio.sleep(SHOW_SECONDS)
            changes = {}
            for number, answer in enumerate(self.answers):
                old, new = sent[number], (answer.rendered, answer.waiting)
                if new != old:
                    sent[number] = new
                    start = len(os.path.commonprefix([old[0], new[0]]))
                    changes[SIDES[number]] = {"at": start, "text": new[0][start:], "waiting": new[1]}
            if changes:
                self.set_state("writing")  # for tabs that open meanwhile
                await self.conversation.emit("window_message", {"arena": self.id} | changes)
            if time.monotonic() - saved > SAVE_SECONDS:
                saved = time.monotonic()
                await self.conversation.save(self.message)

    async def finish(self, stopped: bool) -> None:
        """Store the comparison, and then offer the vote."""
        conversation, message, answers = self.conversation, self.message, self.answers
        for answer in answers:
            answer.markdown.close()
        problem = next((answer.problem for answer in answers if answer.problem), None)
        message.streaming = False
        if task := self.question.metadata.get("task"):  # like a task's answer it starts the prompt from scratch
            message.metadata |= {"messages": self.messages, "task": task}
        if stopped or problem or not all(answer.text for answer in answers):
            self.set_state("stopped")
        else:
            self.set_state("same" if answers[0].text == answers[1].text else "vote")
            if not await conversation.save(message, comparison=(self.id, *self._stored_answers())):
                self.set_state("stopped")  # there is nothing to vote on
        await conversation.update(message)
        if stopped:
            await conversation.toast(self.request.text["stopped"], "info")
        elif problem:
            await report_problem(conversation, problem, message, self.request.text)

    def _stored_answers(self) -> list[StoredAnswer]:
        return [
            StoredAnswer(
                id=f"{self.id}-{side}", conversation=self.conversation.thread.id, user_id=self.request.user,
                model=model.id, prompt=self.messages, text=answer.text, finish_reason=answer.finish_reason,
                sampling=self.request.sampling(), template_hash=model.template_hash,
                task=self.question.metadata.get("task"),
            )
            for side, answer, model in zip(SIDES, self.answers, self.pair, strict=True)
        ]  # fmt: skip


def _without_names(detail: str, models: list[ModelInfo]) -> str:
    """The server's sentence without the names of models, which are hidden until the vote."""
    for name in sorted((model.id for model in models), key=len, reverse=True):
        detail = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "…", detail)
    return detail


def arena_props(id: str, answers: list[StreamingAnswer], state: str, text: dict) -> dict:
    """What the browser may know: before the vote no model names, but whether an answer was cut off."""
    return {
        "comparison": id,
        "state": state,
        "left": answers[0].rendered,
        "right": answers[1].rendered,
        "waiting": [answer.waiting for answer in answers],
        "cut": [text.get(f"arena_cut_{answer.finish_reason}", "") for answer in answers],
        "texts": {name: text[name] for name in ARENA_TEXTS},
    }


def comparison_props(comparison: Comparison, text: dict) -> dict:
    """Of a stored comparison, before or after its vote."""
    sides, choice, changed = (comparison.left, comparison.right), comparison.choice, comparison.changed
    answers = [StreamingAnswer(side.text, side.finish_reason, markdown=Markdown.of(side.text)) for side in sides]
    if choice is None:
        state = "same" if comparison.left.text == comparison.right.text else "vote"
        return arena_props(comparison.id, answers, state, text)
    left, right = comparison.left.model, comparison.right.model
    voted = text["arena_voted"].format(choice=text.get(f"vote_{choice}", choice), left=left, right=right)
    if changed and changed != choice:
        voted += " " + text["arena_changed"].format(choice=text.get(f"vote_{changed}", changed))
    vote = {"choice": choice, "changed": changed, "names": [left, right], "voted": voted}
    return arena_props(comparison.id, answers, "voted", text) | vote


async def take_vote(conversation: Conversation, request: RequestContext, id: str, choice: str) -> bool:
    """The first vote is blind and is used for training; a later one, made with the names known, is kept beside it."""
    text, page = request.text, conversation.page
    comparison = await page.read(page.store.comparison, id)
    message = next((m for m in conversation.messages.values() if m.metadata.get("comparison") == id), None)
    origin = comparison and (comparison.left.conversation, comparison.left.user_id)
    if not message or origin != (conversation.thread.id, request.user):
        await conversation.toast(text["arena_lost"])
        return False
    try:
        comparison = await page.write(page.store.vote, id, choice)
    except KeyError:  # an answer is damaged
        await conversation.toast(text["arena_lost"])
        return False
    except (NotStored, ValueError) as error:
        await conversation.toast(text["not_stored"].format(reason=error))
        return False
    message.elements = {id: ("Arena", comparison_props(comparison, text))}
    preferred = comparison.right if (comparison.changed or comparison.choice) == "right" else comparison.left
    message.metadata = message.metadata | {"text": preferred.text}  # the conversation continues from it
    await conversation.update(message)
    return True
