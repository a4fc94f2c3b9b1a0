"""A chat page for the models of an OpenAI-compatible server: api_server.py, or any other.

Talks to the server over HTTP only; keys stay here. Reads nothing else. Writes the conversations, thumbs and votes to a
database, from which build_preferences.py makes training data. Every flag can be an environment variable of the same
name in capitals (API_BASE_URL, API_KEY, DATABASE_URL, …).

    python chainlit_app.py --api_base_url http://127.0.0.1:8000/v1
    python chainlit_app.py --users_file users.txt --add_user minji
    python chainlit_app.py --host 0.0.0.0 --auth password --users_file users.txt
"""

import errno
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from sllm import cli
from sllm.cli import InputError

SITE = Path(__file__).resolve().parent / "sllm" / "page" / "site"


def build_parser():
    p = cli.parser(__doc__, __file__)
    group = p.add_argument_group("server")
    group.add_argument("--api_base_url", default="http://127.0.0.1:8000/v1", help="of the server, with its /v1")
    group.add_argument("--api_key", help="for the server; better as API_KEY, which process lists do not show")
    group.add_argument("--timeout", type=cli.positive_float, default=120.0, help="seconds without a word from it")
    group = p.add_argument_group("page")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on")
    group.add_argument("--port", type=int, default=8501, help="0: any free one")
    group.add_argument("--system_prompt", default="", help="that conversations start with; people can change it")
    group.add_argument("--max_file_mb", type=cli.positive_float, default=1.0, help="largest file that can be dropped")
    group.add_argument(
        "--database_url",
        default="sqlite:///outputs/chat/chat.db",
        help="any SQLAlchemy URL, such as postgresql://user:password@host/name",
    )
    group = p.add_argument_group("who may chat")
    group.add_argument("--auth", choices=("none", "password"), default="none", help="none: on this machine only")
    group.add_argument("--users_file", metavar="FILE", help="name:hash lines, for --auth password")
    group.add_argument("--add_user", metavar="NAME", help="ask for a password, write it to --users_file, and stop")
    for action in p._actions:  # a flag wins over its variable
        if action.dest not in ("help", "add_user"):
            p.set_defaults(**{action.dest: os.environ.get(action.dest.upper(), action.default)})
    return p


def main(args) -> dict | None:
    if args.add_user:
        return add_user(args)
    known = inputs(args)
    sock = bind(args.host, args.port)
    port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="sllm-page-") as root:
        prepare_site(Path(root))
        set_environment(args, root)

        import asyncio
        import gc

        import uvicorn

        from sllm.chatstore import ChatStore

        store = ChatStore(args.database_url)

        from chainlit import server as chainlit
        from chainlit.config import config

        from sllm.page import app, guard, history
        from sllm.page.server import Server
        from sllm.page.session import Page

        config.run.host, config.run.port, config.run.headless = args.host, port, True
        # Chainlit's own limit comes first and says less; ours is `files.read`'s.
        config.features.spontaneous_file_upload.max_size_mb = int(2 * args.max_file_mb) + 20
        history.create_tables(store)
        server = Server(args.api_base_url, args.api_key, timeout=args.timeout)
        app.install(Page(server, store, system_prompt=args.system_prompt, max_file_mb=args.max_file_mb, users=known))
        names = (*guard.CALLED_BY_NAME, args.host) if args.auth == "none" else None
        address = f"http://{f'[{args.host}]' if ':' in args.host else args.host}:{port}"
        print(f"server          {args.api_base_url}", flush=True)
        print(f"database        {store.url.render_as_string()}", flush=True)
        print(f"page            {address}", flush=True)
        template = chainlit.get_html_template
        chainlit.get_html_template = lambda root_path: guard.only_ours(template(root_path))
        guarded = guard.Guard(chainlit.app, template(""), names)
        gc.collect()
        gc.freeze()  # what is loaded stays; looking through it again would hold every chat up for 150 ms
        # asyncio accepts up to `backlog` connections before it looks at anything else
        settings = uvicorn.Config(
            at_the_end(guarded, store.close), log_level="error", timeout_graceful_shutdown=2, backlog=32
        )
        # uvicorn's own `run` would switch asyncio's debug mode off, which tells what blocks the page.
        asyncio.run(uvicorn.Server(settings).serve(sockets=[sock]))
    return {"stage": "chat", "address": address}


def at_the_end(app, close):
    """The app, with `close` called once uvicorn has closed every connection; Chainlit then ends the process itself."""

    async def wrapped(scope, receive, send) -> None:
        async def told() -> dict:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                close()
            return message

        await app(scope, told if scope["type"] == "lifespan" else receive, send)

    return wrapped


def inputs(args) -> dict[str, str] | None:
    """{user: hash}, or None without logins; everything wrong with the flags at once."""
    from sllm.page import users

    problems: list[str] = []
    url = urlsplit(args.api_base_url)
    if url.scheme not in ("http", "https") or not url.netloc:
        problems.append(f"--api_base_url {args.api_base_url} is no address, such as http://127.0.0.1:8000/v1")
    if ":memory:" in args.database_url or args.database_url in ("sqlite://", "sqlite:///"):
        problems.append(f"--database_url {args.database_url} would forget everything; name a file")
    if args.auth not in ("none", "password"):
        problems.append(f"AUTH {args.auth} is neither none nor password")
    if not 0 <= args.port < 65536:
        problems.append(f"--port {args.port} is not a port")
    if args.auth == "none" and not cli.is_loopback(args.host):
        problems.append(f"--host {args.host} lets other machines in; choose --auth password with a --users_file")
    known = None
    if args.auth == "password":
        if not args.users_file:
            problems.append("--auth password wants a --users_file; --add_user NAME writes one")
        else:
            try:
                known = users.read(args.users_file)
            except InputError as error:
                problems += error.problems
    if problems:
        raise InputError(problems)
    return known


def add_user(args) -> dict:
    from getpass import getpass

    from sllm.page import users

    if not args.users_file:
        raise InputError("--add_user wants a --users_file to write to")
    password = getpass(f"password of {args.add_user}: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    users.add(args.users_file, args.add_user, password)
    return {"stage": "user", "name": args.add_user, "users_file": args.users_file}


def bind(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"fails: {error.strerror}"
        raise InputError(f"{host}:{port} {why}; choose another --host or --port") from None
    return sock


def prepare_site(root: Path) -> None:
    """Chainlit writes beside its settings: it gets a copy of them. Who reads neither Korean nor English reads Korean,
    as our own words do."""
    from importlib.util import find_spec

    shutil.copytree(SITE, root, dirs_exist_ok=True)
    translations = Path(find_spec("chainlit").origin).parent / "translations"
    target = root / ".chainlit" / "translations"
    target.mkdir(parents=True)
    (root / "config.toml").rename(root / ".chainlit" / "config.toml")
    korean = (translations / "ko.json").read_text(encoding="utf-8")
    for stiff, plain in (
        ("스레드를 찾을 수 없습니다", "대화가 없습니다"), ("읽어보기", "도움말"), ("댓글 추가", "의견 쓰기"),
        ("귀하의 피드백...", "의견…"), ("피드백 제출", "보내기"), ("설정 패널", "설정"), ("스레드", "대화"),
    ):  # fmt: skip
        korean = korean.replace(stiff, plain)
    for file in translations.glob("*.json"):
        text = file.read_text(encoding="utf-8") if file.stem.startswith("en") else korean
        (target / file.name).write_text(text, encoding="utf-8")
    (target / "ko-KR.json").write_text(korean, encoding="utf-8")


def set_environment(args, root: str) -> None:
    """Chainlit reads these when it is imported. The secret signs logins; it lasts as long as the database's folder."""
    import hashlib
    import secrets

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
        # Who was taken off the list, or came in while there was none, has to log in again.
        users = Path(args.users_file).read_bytes() if args.auth == "password" else b""
        secret = file.read_bytes() + args.auth.encode() + users
        os.environ["CHAINLIT_AUTH_SECRET"] = hashlib.sha256(secret).hexdigest()


if __name__ == "__main__":
    cli.run(main, build_parser())
