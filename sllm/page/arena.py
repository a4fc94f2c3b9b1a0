"""The arena: two models answer one question side by side, and a vote says which did better."""

import asyncio
import random
import secrets
import uuid
from contextlib import aclosing

import chainlit as cl

from sllm.chatstore import Answer, NotStored
from sllm.page.answers import AUTHOR, Writing, again_action, pieces, say_problem, waiting_text
from sllm.page.server import Model, Problem
from sllm.page.session import Page, rater, said, said_so_far, sampling
from sllm.page.tables import show

SHOW_SECONDS = 0.1  # between two looks at a comparison that is being written


async def compare(page: Page, messages: list[dict], *, again: dict | None = None) -> None:
    """Two models, drawn by chance, answer at once, side by side and without their names. `again`: the task that asks
    the same once more, where it is one; in a chat its question does."""
    text = said()
    try:
        models = await page.server.models(patient=True)
    except Problem as problem:
        return await say_problem(problem, {})
    if len(models) < 2:
        return await say_problem(Problem("missing", text["arena_few"].format(count=len(models))), {})
    pair = random.SystemRandom().sample(models, 2)
    sides = [Writing(), Writing()]
    comparison = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
    element = cl.CustomElement(name="Arena", id=comparison, props={})
    element.props = arena_props(comparison, sides, "writing", text)
    message = cl.Message(content="", author=AUTHOR, elements=[element])
    await message.send()
    body = sampling() | {"messages": messages}

    async def write(side: Writing, model: Model) -> None:
        async def waiting(problem: Problem, seconds: float, turn: int) -> None:
            side.waiting = waiting_text(problem, seconds, turn)

        try:
            async with aclosing(pieces(page, "chat/completions", body | {"model": model.id}, waiting)) as answer_pieces:
                async for piece in answer_pieces:
                    side.take(piece)
                    side.waiting = "" if side.text else side.waiting
            if not side.text.strip():
                raise Problem("empty")
        except Problem as problem:
            side.problem = problem
        side.end()

    async def look() -> None:
        seen = None
        while True:
            await asyncio.sleep(SHOW_SECONDS)
            now = [(side.shown, side.waiting) for side in sides]
            if now != seen:
                seen = now
                element.props = arena_props(comparison, sides, "writing", text)
                await cl.context.emitter.send_element(element.to_dict())

    looking = asyncio.create_task(look())
    stopped = False
    try:
        async with asyncio.TaskGroup() as group:
            for side, model in zip(sides, pair, strict=True):
                group.create_task(write(side, model))
    except asyncio.CancelledError:
        stopped = True
    finally:
        looking.cancel()
    problem = next((side.problem for side in sides if side.problem), None)
    task = again and again["task"]
    of_task = {"messages": messages} if task else {}  # as a task's answer it begins the conversation afresh
    again = again or {"until": message.id}
    state = "stopped" if stopped or problem or not all(side.text for side in sides) else "vote"
    if state == "vote":
        answers = [
            Answer(
                id=f"{comparison}-{place}", conversation=cl.context.session.thread_id, rater=rater(), model=model.id,
                prompt=messages, text=side.text, finish_reason=side.finish_reason,
                sampling={name: value for name, value in body.items() if name != "messages"},
                template_hash=model.template_hash, task=task,
            )
            for place, side, model in zip(("left", "right"), sides, pair, strict=True)
        ]  # fmt: skip
        try:
            await asyncio.to_thread(page.store.add_comparison, comparison, *answers)
        except NotStored as error:
            state = "stopped"
            await cl.context.emitter.send_toast(text["not_stored"].format(why=error), "error")
    if sides[0].text:
        message.metadata = {"role": "answer", "text": sides[0].text, "again": again, "comparison": comparison} | of_task
    element.props = arena_props(comparison, sides, state, text)
    message.actions = [again_action(again)] if not problem else []
    await message.update()
    if stopped:
        await cl.context.emitter.send_toast(text["stopped"], "info")
    elif problem:
        await say_problem(problem, again)


def arena_props(comparison: str, sides: list[Writing], state: str, text: dict, voted: dict | None = None) -> dict:
    """What the browser gets to know: no name before the vote."""
    return {
        "comparison": comparison,
        "state": state,
        "left": sides[0].shown,
        "right": sides[1].shown,
        "waiting": [side.waiting for side in sides],
        "words": {
            name: text[name]
            for name in ("arena_ask", "arena_writing", "arena_left", "arena_right",
                         "vote_left", "vote_right", "vote_tie", "vote_both_bad")
        },
    } | (voted or {})  # fmt: skip


async def take_vote(page: Page, comparison: str, choice: str) -> dict:
    text = said()
    found = await asyncio.to_thread(page.store.comparison, comparison)
    if not found or found.left.conversation != cl.context.session.thread_id or found.left.rater != rater():
        await cl.context.emitter.send_toast(text["arena_lost"], "error")
        return {"ok": False}
    try:
        await asyncio.to_thread(page.store.vote, comparison, choice)
    except (NotStored, ValueError, KeyError) as error:
        await cl.context.emitter.send_toast(text["not_stored"].format(why=error), "error")
        return {"ok": False}
    sides = [Writing(shown=show(found.left.text)), Writing(shown=show(found.right.text))]
    voted = {
        "choice": choice, "names": [found.left.model, found.right.model],
        "voted": text["arena_voted"].format(
            choice=text[f"vote_{choice}"], left=found.left.model, right=found.right.model
        ),
    }  # fmt: skip
    message = next((m for m in said_so_far() if (m.metadata or {}).get("comparison") == comparison), None)
    if message is None:
        return {"ok": True}
    element = cl.CustomElement(name="Arena", id=comparison, props={}, for_id=message.id)
    element.props = arena_props(comparison, sides, "voted", text, voted)
    message.elements = [element]
    preferred = found.right if choice == "right" else found.left  # the conversation goes on from what was liked
    message.metadata = message.metadata | {"text": preferred.text}
    await message.update()
    return {"ok": True}
