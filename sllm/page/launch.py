"""The page's server, its site, and its secret. Chainlit is configured through files and environment variables, which
it reads when it is imported."""

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

from sllm import cli
from sllm.page.translations import CHAINLIT_TEXTS

SITE = Path(__file__).resolve().parent / "site"


def serve(args: Namespace, sock: socket, address: str, starters: list[str] | None) -> None:
    """Serve the page until it is stopped. `args`: of chainlit_app.py; `sock`: bound to `address`, a URL; `starters`: of
    `Page`."""
    with tempfile.TemporaryDirectory(prefix="sllm-page-") as root:
        prepare_site(Path(root))
        set_environment(args, root)

        from sllm.chatstore import ChatStore

        store = ChatStore(args.database_url)  # may fail, and is quicker to import than the rest

        import uvicorn
        from chainlit.config import config

        from sllm.page import app
        from sllm.page.api_client import ApiClient
        from sllm.page.chat_session import Page

        config.run.host, config.run.port, config.run.headless = args.host, sock.getsockname()[1], True
        server = ApiClient(args.api_base_url, args.api_key, timeout=args.timeout)
        page = Page(server, store, args.system_prompt, args.max_file_mb, args.welcome, starters)
        users_file = args.users_file if args.auth == "password" else None
        asgi_app = app.create(page, host=args.host, users_file=users_file)
        settings = uvicorn.Config(
            asgi_app, log_level="error", timeout_graceful_shutdown=2, ws_max_size=asgi_app.longest_body,
            timeout_keep_alive=75,  # longer than clients and proxies keep one, or a request meets a closing connection
            backlog=32,  # asyncio accepts up to this many connections before it does anything else
        )  # fmt: skip
        cli.say("server", args.api_base_url)
        cli.say("database", store.url.render_as_string())
        cli.say("page", address)
        gc.collect()
        gc.freeze()  # the loaded modules stay: scanning them again would pause every chat for 150 ms
        # uvicorn's own `run` would switch off asyncio's debug mode, which reports what blocks the page.
        asyncio.run(uvicorn.Server(settings).serve(sockets=[sock]))


def prepare_site(root: Path) -> None:
    """A copy of the site: Chainlit writes next to its settings. Browsers in neither Korean nor English get Korean, as
    with our own texts."""
    shutil.copytree(SITE, root, dirs_exist_ok=True)
    translations = Path(find_spec("chainlit").origin).parent / "translations"
    target = root / ".chainlit" / "translations"
    target.mkdir(parents=True)
    (root / "config.toml").rename(root / ".chainlit" / "config.toml")
    korean = _translated(translations / "ko.json", CHAINLIT_TEXTS["ko"])
    for file in translations.glob("*.json"):
        text = _translated(file, CHAINLIT_TEXTS["en"]) if file.stem.startswith("en") else korean
        (target / file.name).write_text(text, encoding="utf-8")
    (target / "ko-KR.json").write_text(korean, encoding="utf-8")
    for suffix in ("", "_ko", "_ko-KR", "_en", "_en-US"):
        shutil.copy(SITE / f"help_{'en' if 'en' in suffix else 'ko'}.md", root / f"chainlit{suffix}.md")


def _translated(file: Path, changes: dict[str, str]) -> str:
    texts = json.loads(file.read_text(encoding="utf-8"))
    for path, text in changes.items():
        *parents, name = path.split(".")
        node = texts
        for parent in parents:
            node = node[parent]
        node[name] = text
    return json.dumps(texts, ensure_ascii=False)


def set_environment(args: Namespace, root: str) -> None:
    """The secret signs logins; it is kept in the database's folder."""
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
        # Those who entered while no password was required have to log in.
        os.environ["CHAINLIT_AUTH_SECRET"] = hashlib.sha256(file.read_bytes() + args.auth.encode()).hexdigest()
