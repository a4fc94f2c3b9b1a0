"""The page's site, its secret, and its life from the first request to the last. Chainlit is set up through files and
environment variables that it reads when it is imported."""

import asyncio
import gc
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from socket import socket

from sllm.page.translations import TRANSLATIONS

SITE = Path(__file__).resolve().parent / "site"


def serve(args: Namespace, sock: socket, started) -> None:
    """Serve the page until it is told to stop.

    Args:
        args: of chainlit_app.py. sock: bound. started: called with the database's URL, without its password, before
            the first request.
    """
    with tempfile.TemporaryDirectory(prefix="sllm-page-") as root:
        prepare_site(Path(root))
        set_environment(args, root)

        import uvicorn

        from sllm.chatstore import ChatStore

        store = ChatStore(args.database_url)

        from chainlit import server as chainlit
        from chainlit.config import config

        from sllm.page import app, files, security
        from sllm.page.api_client import ApiClient
        from sllm.page.chat_session import Page
        from sllm.page.conversations import Conversations
        from sllm.page.history import is_thread_id
        from sllm.page.logins import Logins

        config.run.host, config.run.port, config.run.headless = args.host, sock.getsockname()[1], True
        server = ApiClient(args.api_base_url, args.api_key, timeout=args.timeout)
        page = Page(server, store, args.system_prompt, args.max_file_mb)
        conversations = Conversations(page)
        logins = Logins(args.users_file, page) if args.auth == "password" else None
        app.install(page, conversations, logins)
        security.close_routes(chainlit.app)
        files.install_upload(chainlit.app, page.max_file_bytes)
        # A message may be as long as a file; what is longer is refused with a reason, not by cutting the connection.
        longest = security.longest_body(page.max_file_bytes)
        chainlit.sio.eio.max_http_buffer_size = longest

        async def owns(user: str, thread: str) -> bool:
            return is_thread_id(thread) and await page.read(page.threads.owner, thread) == user

        async def shut_down() -> None:
            await conversations.close()
            await page.write(store.close)

        template, help_text = chainlit.get_html_template, chainlit.get_markdown_str
        body = f'<body data-auth="{args.auth}">'
        chainlit.get_html_template = lambda root_path: security.strip_external_links(template(root_path)).replace(
            "<body>", body
        )
        # The browser asks again once it has chosen a model: by then the server has said which there are.
        chainlit.get_markdown_str = lambda root, language: _name_models(help_text(root, language), server)
        names = (*security.LOCAL_HOSTS, args.host.lower()) if args.auth == "none" else None
        guarded = security.Security(chainlit.app, template(""), names, logins, owns, page.max_file_bytes)
        started(store.url.render_as_string())
        gc.collect()
        gc.freeze()  # what is loaded stays; looking through it again would hold every chat up for 150 ms
        # asyncio accepts up to `backlog` connections before it looks at anything else
        settings = uvicorn.Config(
            _at_the_end(guarded, shut_down), log_level="error", timeout_graceful_shutdown=2, backlog=32,
            ws_max_size=longest,
        )  # fmt: skip
        # uvicorn's own `run` would switch asyncio's debug mode off, which tells what blocks the page.
        asyncio.run(uvicorn.Server(settings).serve(sockets=[sock]))


def _name_models(text: str, server) -> str:
    names = ", ".join(f"`{model.id}`" for model in server.last_models)
    return text.replace("{models}", f": {names}" if names else "")


def _at_the_end(app, shut_down):
    """The app, with `shut_down` called once uvicorn has closed every connection; Chainlit then ends the process."""

    async def wrapped(scope, receive, send) -> None:
        async def told() -> dict:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await shut_down()
            return message

        await app(scope, told if scope["type"] == "lifespan" else receive, send)

    return wrapped


def prepare_site(root: Path) -> None:
    """Chainlit writes beside its settings: it gets a copy of them. Who reads neither Korean nor English reads Korean,
    as our own words do."""
    shutil.copytree(SITE, root, dirs_exist_ok=True)
    translations = Path(find_spec("chainlit").origin).parent / "translations"
    target = root / ".chainlit" / "translations"
    target.mkdir(parents=True)
    (root / "config.toml").rename(root / ".chainlit" / "config.toml")
    korean = _translated(translations / "ko.json", TRANSLATIONS["ko"])
    for file in translations.glob("*.json"):
        text = _translated(file, TRANSLATIONS["en"]) if file.stem.startswith("en") else korean
        (target / file.name).write_text(text, encoding="utf-8")
    (target / "ko-KR.json").write_text(korean, encoding="utf-8")


def _translated(file: Path, changes: dict[str, str]) -> str:
    words = json.loads(file.read_text(encoding="utf-8"))
    for path, text in changes.items():
        *parents, name = path.split(".")
        at = words
        for parent in parents:
            at = at[parent]
        at[name] = text
    return json.dumps(words, ensure_ascii=False)


def set_environment(args: Namespace, root: str) -> None:
    """The secret signs logins; it lasts as long as the database's folder."""
    os.environ["CHAINLIT_APP_ROOT"] = root
    if "CHAINLIT_AUTH_SECRET" not in os.environ:
        folder = Path("outputs/chat")
        if args.database_url.startswith("sqlite:///"):
            folder = Path(args.database_url.removeprefix("sqlite:///")).parent
        file = folder / "secret"
        if not file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            new = folder / f"secret.{os.getpid()}"
            new.touch(mode=0o600)
            new.write_text(secrets.token_hex(32))
            new.replace(file)
        # Who came in while there were no passwords has to log in.
        os.environ["CHAINLIT_AUTH_SECRET"] = hashlib.sha256(file.read_bytes() + args.auth.encode()).hexdigest()
