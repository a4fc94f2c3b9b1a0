"""The page's behaviour, as Chainlit callbacks: who logs in, which models there are, and what buttons and forms do."""

import contextlib
from collections.abc import AsyncIterator

import chainlit as cl
from chainlit.config import config
from chainlit.types import ChatProfile, Starter

from sllm.page import sockets
from sllm.page.api_client import ARENA, KINDS, Problem
from sllm.page.arena import take_vote
from sllm.page.chat_session import Page, asker, is_integer, toast, translations
from sllm.page.conversation import Conversation
from sllm.page.conversations import Conversations
from sllm.page.forms import answer_again, open_form, send_form
from sllm.page.history import History
from sllm.page.logins import Logins
from sllm.page.messages import Message
from sllm.page.translations import words


def install(page: Page, conversations: Conversations, logins: Logins | None) -> None:
    """Register everything with Chainlit. `logins`: None where nobody has to log in."""
    history = History(page, conversations)
    cl.data_layer(lambda: history)
    _install_logins(logins)
    _install_welcome(page)
    _install_buttons(page, conversations)
    sockets.install(page, conversations, logins)

    @cl.on_chat_resume
    async def resume(thread) -> None:
        """Tells Chainlit's page that conversations can be opened again; `sockets` does it."""

    @cl.on_settings_update
    async def settings_changed(settings: dict) -> None:
        seed = str(settings.get("seed") or "").strip()
        if seed and not is_integer(seed):
            await toast(translations()["seed_wrong"].format(seed=seed[:40]))
        else:
            await toast(translations()["settings_kept"], "success")
        async with sockets.opened(conversations, cl.context.session) as conversation:
            if conversation:
                conversation.thread.settings = dict(cl.context.session.chat_settings)
                await conversation.save()


def _install_logins(logins: Logins | None) -> None:
    if logins is None:

        @cl.header_auth_callback
        async def local_user(headers) -> cl.User:
            return cl.User(identifier="local", display_name="local")

        return

    async def log_in(name: str, password: str) -> cl.User | None:
        if login := await logins.check(name, password):
            return cl.User(identifier=name, metadata={"login": login})
        return None

    # Chainlit's decorator would make a wrong password of an HTTPException.
    config.code.password_auth_callback = log_in


def _install_welcome(page: Page) -> None:
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


def _install_buttons(page: Page, conversations: Conversations) -> None:
    @contextlib.asynccontextmanager
    async def pressed(action: cl.Action) -> AsyncIterator[tuple[Conversation | None, Message | None]]:
        """The conversation of the tab in which a button was pressed, and the message that it is for."""
        async with sockets.opened(conversations, cl.context.session) as conversation:
            if conversation is None:
                await toast(translations()["conversation_deleted"], "info")
            yield conversation, conversation and conversation.messages.get(action.payload.get("message"))

    async def again(action: cl.Action) -> None:
        async with pressed(action) as (conversation, message):
            asked = message and conversation.asked_by(message)
            if not asked:
                return
            problem = message if message.role == "problem" else None
            asker = sockets.asker_of(page, conversation)
            work = answer_again(page, conversation, asker, asked, problem=problem)
            if not conversation.run(work, text=translations(), alone=True):
                await toast(translations()["busy"], "info")

    cl.action_callback("again")(again)
    cl.action_callback("retry")(again)

    @cl.action_callback("branch")
    async def branch(action: cl.Action) -> None:
        async with pressed(action) as (conversation, message):
            if message and conversation.running:
                await toast(translations()["busy"], "info")
            elif message:
                branches = conversation.branches(message)
                step = 1 if action.payload.get("step") == 1 else -1
                await conversation.show_branch(branches[(branches.index(message) + step) % len(branches)])

    @cl.action_callback("task_edit")
    async def task_edit(action: cl.Action) -> None:
        async with pressed(action) as (conversation, message):
            asked = message and conversation.asked_by(message)
            if asked and asked.role == "task":
                metadata = asked.metadata
                work = open_form(
                    page, conversation, translations(), task=metadata["task"], values=metadata.get("fields")
                )
                conversation.run(work, text=translations(), alone=True)

    @cl.action_callback("task_run")
    async def task_run(action: cl.Action) -> dict:
        async with pressed(action) as (conversation, _):
            payload = action.payload
            if not conversation or not isinstance(payload.get("fields"), dict):
                return {"state": "refused"}
            state = await send_form(
                page, conversation, sockets.asker_of(page, conversation), str(payload.get("form")),
                str(payload.get("task")), payload["fields"],
            )  # fmt: skip
            if state == "busy":
                await toast(translations()["busy"], "info")
            return {"state": state}

    @cl.action_callback("vote")
    async def vote(action: cl.Action) -> dict:
        async with pressed(action) as (conversation, _):
            comparison, choice = (str(action.payload.get(name)) for name in ("comparison", "choice"))
            ok = bool(conversation) and await take_vote(page, conversation, asker(), comparison, choice)
            return {"ok": ok}
