"""The page's behaviour, as Chainlit callbacks. What a model was asked, and what it wrote, goes to the chat store; what
the page shows is Chainlit's history."""

import asyncio

import chainlit as cl
from chainlit.context import init_ws_context
from chainlit.server import sio
from chainlit.session import WebsocketSession
from chainlit.types import ChatProfile, Starter

from sllm.page import users
from sllm.page.answers import again_action, answer, find_model, in_background, say_problem
from sllm.page.arena import compare, take_vote
from sllm.page.forms import open_form, read_files, run_task
from sllm.page.history import History
from sllm.page.server import KINDS, Problem
from sllm.page.session import ARENA, Page, conversation, forget_after, is_integer, open_session, said, sampling
from sllm.page.words import words


def install(page: Page) -> None:
    """Register everything with Chainlit."""
    history = History(page.store)
    cl.data_layer(lambda: history)

    if page.users is None:

        @cl.header_auth_callback
        async def local_user(headers) -> cl.User:
            return cl.User(identifier="local", display_name="local")
    else:

        @cl.password_auth_callback
        async def log_in(name: str, password: str) -> cl.User | None:
            if await users.check(page.users, name, password):
                return cl.User(identifier=name)
            return None

    @cl.set_chat_profiles
    async def profiles(user, language) -> list[ChatProfile]:
        text = words(language)
        try:
            models = await page.server.models()
        except Problem:
            return [ChatProfile(name="-", display_name=text["no_models"], markdown_description=text["no_models_about"])]
        best = max(models, key=lambda model: -KINDS.index(model.kind) if model.kind in KINDS else -len(KINDS)).id
        found = [
            ChatProfile(
                name=model.id,
                markdown_description=text[f"{model.kind if model.kind in KINDS else 'other'}_about"].format(
                    id=model.id
                ),
                icon="/public/model.svg",
                default=model.id == best,
            )
            for model in models
        ]
        if len(models) > 1:
            about = text["arena_about"]
            icon = "/public/arena.svg"
            found.append(ChatProfile(name=ARENA, display_name=text["arena"], markdown_description=about, icon=icon))
        return found

    @cl.set_starters
    async def starters(user, language) -> list[Starter]:
        text = words(language)
        choose, icon = text["task_starter"], "/public/task.svg"
        return [
            Starter(label=choose, message=choose, command=text["task"], icon=icon),
            *(Starter(label=asked, message=asked, icon="/public/ask.svg") for asked in text["starters"]),
        ]

    @cl.on_chat_start
    async def start() -> None:
        await open_session(page, {})
        try:
            await page.server.models()
        except Problem as problem:
            await cl.context.emitter.send_toast(f"{said()[problem.kind]} {said()[problem.kind + '_do']}", "error")

    @cl.on_chat_resume
    async def resume(thread) -> None:
        await open_session(page, cl.context.session.chat_settings or {})
        steps = [step for step in thread["steps"] if (step.get("metadata") or {}).get("again")]
        if steps and cl.user_session.get("resumed") != thread["id"]:  # a page that reconnects has the button already
            cl.user_session.set("resumed", thread["id"])
            await again_action(steps[-1]["metadata"]["again"]).send(for_id=steps[-1]["id"])

    @cl.on_settings_update
    async def settings_changed(settings: dict) -> None:
        seed = str(settings.get("seed") or "").strip()
        if seed and not is_integer(seed):
            await cl.context.emitter.send_toast(said()["seed_wrong"].format(seed=seed[:40]), "error")
        else:
            await cl.context.emitter.send_toast(said()["settings_kept"], "success")

    @cl.on_message
    async def on_message(message: cl.Message) -> None:
        # Chainlit forgets the task of a message that was edited, and Stop would have nothing to stop.
        cl.context.session.current_task = asyncio.current_task()
        text, problems = await read_files(page, message)
        for problem in problems:
            await cl.context.emitter.send_toast(problem, "error")
        if message.command or text and not message.content.strip():
            message.metadata = (message.metadata or {}) | {"role": "command"}
            await message.update()
            asked = "" if message.content == said()["task_starter"] else message.content
            await open_form(page, context=text, question=asked)
            return
        if text:
            message.metadata = (message.metadata or {}) | {"file": text}
            await message.update()
        await respond(page)

    # Chainlit's own answer to Stop is a message in English.
    @sio.on("stop")
    async def stop(sid) -> None:
        if session := WebsocketSession.get(sid):
            init_ws_context(session)
            if session.current_task:
                session.current_task.cancel()

    @cl.action_callback("again")
    async def again(action: cl.Action) -> None:
        payload = action.payload
        if payload.get("task"):
            in_background(run_task(page, payload["task"], payload.get("fields") or {}, again=True))
        else:
            in_background(respond(page, until=payload.get("until")))

    @cl.action_callback("task_open")
    async def task_open(action: cl.Action) -> None:
        await open_form(page)

    @cl.action_callback("task_run")
    async def task_run(action: cl.Action) -> None:
        in_background(run_task(page, str(action.payload["task"]), dict(action.payload["fields"])))

    @cl.action_callback("vote")
    async def vote(action: cl.Action) -> dict:
        return await take_vote(page, str(action.payload.get("comparison")), str(action.payload.get("choice")))


async def respond(page: Page, until: str | None = None) -> None:
    if until:
        await forget_after(until)
    messages = conversation(until)
    if not messages or messages[-1]["role"] != "user":
        return
    profile = cl.context.session.chat_profile
    if profile == ARENA:
        return await compare(page, messages)
    try:
        model = await find_model(page, profile)
    except Problem as problem:
        return await say_problem(problem, {})
    body = sampling() | {"model": model.id, "messages": messages}
    await answer(page, "chat/completions", body, model, messages, again={})
