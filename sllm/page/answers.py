"""Answers: asked for, streamed, kept in the chat store, and what is said when they fail."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

import chainlit as cl

from sllm.chatstore import Answer, NotStored
from sllm.page.server import TURNS, Model, Piece, Problem
from sllm.page.session import SETTINGS, Page, rater, said
from sllm.page.tables import Tables, show

AUTHOR = "sLLM"  # of every answer; Chainlit finds no picture for names with Korean or a slash in them


@dataclass
class Writing:
    """An answer while it is written. `text` is the model's own, `shown` what the page renders."""

    text: str = ""
    shown: str = ""
    finish_reason: str | None = None
    conformance: dict | None = None
    messages: list[dict] | None = None
    problem: Problem | None = None
    waiting: str = ""
    tables: Tables = field(default_factory=Tables)

    def take(self, piece: Piece) -> str:
        """Add a piece; returns what is new to show."""
        self.text += piece.text
        self.finish_reason = piece.finish_reason or self.finish_reason
        self.conformance = piece.conformance or self.conformance
        self.messages = piece.messages or self.messages
        new = self.tables.feed(piece.text)
        self.shown += new
        return new

    def end(self) -> str:
        rest = self.tables.close()
        self.shown += rest
        return rest


def in_background(work) -> None:
    """Run what a button asked for as the session's task, so that the page shows it running and Stop stops it."""

    async def run() -> None:
        await cl.context.emitter.task_start()
        try:
            async with cl.Step(name="on_message", type="run"):  # thumbs and the copy button belong to a run
                await work
        except Exception as error:
            logging.getLogger(__name__).exception("a bug")
            await say_problem(Problem("bug", type(error).__name__), {})
        finally:
            await cl.context.emitter.task_end()

    cl.context.session.current_task = asyncio.create_task(run())


async def pieces(page: Page, path: str, body: dict, waiting) -> AsyncIterator[Piece]:
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
                raise
            if problem.kind == "broken":  # before anything came
                problem.kind = "down"
            seconds = problem.wait(turn)
            if seconds is None:
                raise
            turn += 1
            await waiting(problem, seconds, turn)
            await asyncio.sleep(seconds)


def waiting_text(problem: Problem, seconds: float, turn: int) -> str:
    text = said()
    return text["waiting"].format(why=text[problem.kind], seconds=round(seconds), turn=turn, turns=TURNS)


async def find_model(page: Page, profile: str | None) -> Model:
    """The profile's model. A server that is down or loading may be up when it is asked for the answer, which waits."""
    named = profile not in (None, "-")
    try:
        models = await page.server.models(patient=True)
    except Problem as problem:
        if not named or problem.wait(0) is None:
            raise
        models = []
    known = {model.id: model for model in models}
    return known.get(profile) or (Model(profile) if named else models[0])


async def answer(
    page: Page, path: str, body: dict, model: Model, messages: list[dict] | None, *, again: dict,
    task: str | None = None,
) -> None:  # fmt: skip
    """Stream one answer into a message, keep it, and put its buttons under it."""
    text = said()
    message = cl.Message(content="", author=AUTHOR)
    writing = Writing()

    async def waiting(problem: Problem, seconds: float, turn: int) -> None:
        writing.waiting = waiting_text(problem, seconds, turn)
        await message.stream_token(writing.waiting, is_sequence=True)

    stopped = False
    try:
        async with aclosing(pieces(page, path, body, waiting)) as answer_pieces:
            async for piece in answer_pieces:
                new = writing.take(piece)
                if new and writing.waiting:
                    writing.waiting = ""
                    await message.stream_token(new, is_sequence=True)
                elif new:
                    await message.stream_token(new)
    except asyncio.CancelledError:
        stopped, writing.finish_reason = True, "stopped"
    except Problem as problem:
        writing.problem, writing.finish_reason = problem, "broken"
    if not (writing.text.strip() or writing.problem or stopped):
        writing.problem = Problem("empty")
    writing.end()
    message.content = writing.shown
    again = again or {"until": message.id}
    if writing.text:
        messages = writing.messages or messages
        message.metadata = {"role": "answer", "text": writing.text, "again": again}
        if task:
            message.metadata["messages"] = messages
        kept = {name: value for name, value in body.items() if name in (*SETTINGS, "seed")}
        try:
            if not messages:
                raise NotStored("the server did not say what it asked the model")
            await asyncio.to_thread(
                page.store.add_answer,
                Answer(
                    id=cl.context.current_run.id, conversation=cl.context.session.thread_id, rater=rater(),
                    model=model.id, prompt=messages, text=writing.text, finish_reason=writing.finish_reason,
                    sampling=kept, template_hash=model.template_hash, task=task,
                ),
            )  # fmt: skip
        except NotStored as error:
            await cl.context.emitter.send_toast(text["not_stored"].format(why=error), "error")
        if writing.conformance:
            message.elements = [verdict(writing.conformance, text)]
        message.actions = [] if writing.problem else [again_action(again)]
        await message.send()
    elif writing.waiting:
        await message.remove()
    if stopped:
        await cl.context.emitter.send_toast(text["stopped"], "info")
    elif writing.problem:
        await say_problem(writing.problem, again if writing.text or task else {})
    elif writing.finish_reason == "length":
        await cl.context.emitter.send_toast(text["cut"], "info")


async def say_problem(problem: Problem, again: dict) -> None:
    """What went wrong and what to do, with a button that tries again; the question stays where it is."""
    text = said()
    detail = f"\n\n> {show(problem.detail)}" if problem.detail else ""
    message = cl.Message(content=f"⚠️ **{text[problem.kind]}** {text[problem.kind + '_do']}{detail}", author=AUTHOR)
    message.is_error = True
    again = again or {"until": message.id}
    message.metadata = {"role": "problem", "again": again}
    message.actions = [again_action(again, "retry")]
    await message.send()


def again_action(payload: dict, word: str = "again") -> cl.Action:
    label = said()[word]
    if word == "retry":
        return cl.Action(name="again", payload=payload, label=label, icon="rotate-cw")
    return cl.Action(name="again", payload=payload, tooltip=label, icon="refresh-cw")


def verdict(conformance: dict, text: dict) -> cl.CustomElement:
    rules = [
        {"name": text["rules"].get(rule["rule"], rule["rule"]), "ok": rule["ok"], "reason": rule.get("reason")}
        for rule in conformance.get("rules", [])
    ]
    word = text["verdict_ok" if conformance.get("ok") else "verdict_broken"]
    return cl.CustomElement(name="Verdict", props={"ok": bool(conformance.get("ok")), "word": word, "rules": rules})
