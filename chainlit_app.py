"""A chat page for the models of an OpenAI-compatible server: api_server.py, or any other.

Talks to the server over HTTP only; browsers never see its key. Writes the conversations, thumbs and votes to a
database, from which build_preferences.py makes training data. Every flag but --add_user can be set by an environment
variable: its name in capitals after SLLM_ (SLLM_API_BASE_URL, SLLM_API_KEY, SLLM_DATABASE_URL, …).

    python chainlit_app.py --api_base_url http://127.0.0.1:8000/v1
    python chainlit_app.py --users_file users.txt --add_user minji
    python chainlit_app.py --host 0.0.0.0 --auth password --users_file users.txt
"""

import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from sllm import cli, network
from sllm.cli import InputError


def build_parser():
    p = cli.parser(__doc__, __file__)
    group = p.add_argument_group("server")
    group.add_argument("--api_base_url", default="http://127.0.0.1:8000/v1", help="address of the server, with /v1")
    group.add_argument("--api_key", help="of the server; prefer SLLM_API_KEY, which process lists do not show")
    group.add_argument("--timeout", type=cli.positive_float, default=120.0, help="seconds without data from the server")
    group = p.add_argument_group("page")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on")
    group.add_argument("--port", type=int, default=8501, help="0: any free port")
    group.add_argument("--system_prompt", default="", help="of new conversations; users can change it")
    group.add_argument("--welcome", default="", metavar="TEXT", help="line on the first page, below the model")
    group.add_argument("--starters_path", metavar="FILE", help="questions to start from on the first page, one a line")
    group.add_argument("--max_file_mb", type=cli.positive_float, default=1.0, help="largest file or message, in MiB")
    group.add_argument(
        "--database_url",
        default="sqlite:///outputs/chat/chat.db",
        help="any SQLAlchemy URL, such as postgresql://user:password@host/name",
    )
    group = p.add_argument_group("access control")
    group.add_argument("--auth", choices=("none", "password"), default="none", help="none: this machine only")
    group.add_argument("--users_file", metavar="FILE", help="name:hash lines, for --auth password")
    group.add_argument("--add_user", metavar="NAME", help="add a user to --users_file (reads a password), and exit")
    defaults = vars(p.parse_args([]))
    del defaults["add_user"]
    # a flag overrides its variable
    p.set_defaults(**{name: os.environ.get(f"SLLM_{name.upper()}", default) for name, default in defaults.items()})
    return p


def main(args) -> dict | None:
    if args.add_user:
        return add_user(args)
    starters, *_ = cli.collect_errors(
        lambda: read_starters(args.starters_path), lambda: check_flags(args), lambda: check_users(args)
    )
    sock = network.bind(args.host, args.port)
    address = network.url(args.host, sock)
    from sllm.page import launch

    launch.serve(args, sock, address, starters)
    return {"stage": "chat", "address": address}


def check_flags(args) -> None:
    problems = []
    url = urlsplit(args.api_base_url)
    if url.scheme not in ("http", "https") or not url.netloc:
        problems.append(f"--api_base_url {args.api_base_url} is not an address such as http://127.0.0.1:8000/v1")
    if ":memory:" in args.database_url or args.database_url in ("sqlite://", "sqlite:///"):
        problems.append(f"--database_url {args.database_url} is not permanent; name a file")
    if args.auth not in ("none", "password"):
        problems.append(f"--auth {args.auth} is neither none nor password")
    if not 0 <= args.port < 65536:
        problems.append(f"--port {args.port} is not a port")
    if args.auth == "none" and not network.is_loopback(args.host):
        problems.append(f"--host {args.host} is open to other machines; use --auth password with a --users_file")
    if args.auth == "password" and not args.users_file:
        problems.append("--auth password requires --users_file; --add_user NAME writes one")
    if problems:
        raise InputError(problems)


def read_starters(path: str | None) -> list[str] | None:
    """The lines of the file, or None without one."""
    if not path:
        return None
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"--starters_path {path}: {error.strerror}") from None
    except UnicodeError:
        raise InputError(f"--starters_path {path} is not UTF-8") from None
    questions = [line.strip() for line in lines if line.strip()]
    if not questions:
        raise InputError(f"--starters_path {path} has no line")
    return questions


def check_users(args) -> None:
    from sllm.page import users

    if args.auth == "password" and args.users_file:
        users.read(args.users_file)


def add_user(args) -> dict:
    from getpass import getpass

    from sllm.page import users

    if not args.users_file:
        raise InputError("--add_user requires --users_file, the file to write")
    password = getpass(f"password of {args.add_user}: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    users.add(args.users_file, args.add_user, password)
    return {"stage": "user", "name": args.add_user, "users_file": args.users_file}


if __name__ == "__main__":
    cli.run(main, build_parser())
