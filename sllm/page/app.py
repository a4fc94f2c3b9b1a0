"""The page as an ASGI app: Chainlit's, with our callbacks, without the routes that are not used, behind our middleware.

Importing this imports Chainlit, which reads its settings at once: `launch` prepares them first.
"""

import re

import chainlit as cl
from chainlit import server as chainlit
from chainlit.config import config
from chainlit.types import ChatProfile, Starter

from sllm.page import files, security, sockets
from sllm.page.api_client import ARENA, KINDS, ApiClient, ModelInfo, Problem
from sllm.page.buttons import Buttons
from sllm.page.chat_session import Page, is_integer, toast, translations
from sllm.page.conversations import Conversations, is_thread_id
from sllm.page.logins import Logins
from sllm.page.translations import texts_for


def create(page: Page, *, host: str, users_file: str | None) -> security.Security:
    """
    Args:
        host: that the page listens on. users_file: of the users who may log in; None: no login is needed.
    """
    logins = Logins(users_file, page) if users_file else None
    _install_callbacks(page, Conversations(page), logins)
    security.close_routes(chainlit.app)
    files.install_upload(chainlit.app, page.max_file_bytes)
    # A message may be as long as a file; a longer one is refused with a reason, not by closing the connection.
    chainlit.sio.eio.max_http_buffer_size = security.longest_body(page.max_file_bytes)
    html = chainlit.get_html_template("")
    _patch_site(page.server, "password" if logins else "none")

    async def owns(user: str, thread: str) -> bool:
        return is_thread_id(thread) and await page.read(page.threads.owner, thread) == user

    hosts = None if logins else (*security.LOCAL_HOSTS, host.lower())
    return security.Security(chainlit.app, html, hosts, logins, owns, page.max_file_bytes)


def _patch_site(server: ApiClient, auth: str) -> None:
    get_html, get_help = chainlit.get_html_template, chainlit.get_markdown_str

    def html(root_path: str) -> str:
        """Without the fonts and style sheets that Chainlit's page loads from other hosts."""
        page = re.sub(r"<link[^>]*https://[^>]*>", "", get_html(root_path))
        return page.replace("<body>", f'<body data-auth="{auth}">')

    def help_text(root: str, language: str) -> str:
        """The browser requests it again after choosing a model: by then the models are known."""
        names = ", ".join(f"`{model.id}`" for model in server.last_models)
        return get_help(root, language).replace("{models}", f": {names}" if names else "")

    chainlit.get_html_template, chainlit.get_markdown_str = html, help_text


def _install_callbacks(page: Page, conversations: Conversations, logins: Logins | None) -> None:
    cl.data_layer(lambda: conversations)
    _install_logins(logins)
    _install_welcome(page)
    Buttons(conversations).install()
    sockets.install(conversations, logins)

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
        async with conversations.opened(cl.context.session) as conversation:
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

    # Chainlit's decorator would turn a wrong password into an HTTPException.
    config.code.password_auth_callback = log_in


def _install_welcome(page: Page) -> None:
    @cl.set_chat_profiles
    async def profiles(user, language) -> list[ChatProfile]:
        text = texts_for(language)
        try:
            return _profiles(await page.server.models(), text, page.welcome)
        except Problem:
            return [ChatProfile(name="-", display_name=text["no_models"], markdown_description=text["no_models_about"])]

    @cl.set_starters
    async def starters(user, language) -> list[Starter]:
        text = texts_for(language)
        choose, questions = text["task_starter"], page.starters or text["starters"]
        return [
            Starter(label=choose, message=choose, command=text["task"], icon="/public/task.svg"),
            *(Starter(label=question, message=question, icon="/public/ask.svg") for question in questions),
        ]


def _profiles(models: list[ModelInfo], text: dict, welcome: str) -> list[ChatProfile]:
    best = min(models, key=lambda model: KINDS.index(model.kind) if model.kind in KINDS else len(KINDS))
    profiles, below = [], f"\n\n{welcome}" if welcome else ""
    for model in models:
        about = text[f"{model.kind if model.kind in KINDS else 'other'}_about"].format(id=model.id)
        profiles.append(ChatProfile(model.id, about + below, icon="/public/model.svg", default=model.id == best.id))
    if len(models) > 1:
        about = text["arena_about"] + below
        profiles.append(ChatProfile(ARENA, about, display_name=text["arena"], icon="/public/arena.svg"))
    return profiles
