"""The database that a script's flag names."""

import argparse
import sys

from sllm.chatstore.records import Records
from sllm.chatstore.store import ChatStore
from sllm.cli import InputError


def read_named(args: argparse.Namespace, flag: str) -> tuple[Records, str | None]:
    """Its records, and its file if it has one; from here on `args` and the recorded command have its URL without the
    password.

    Args:
        flag: without the dashes; its value is a SQLite file or a SQLAlchemy URL.
    Raises:
        InputError: the database does not exist, or is not one of the chat page.
    """
    source = getattr(args, flag)
    if not source.removeprefix("sqlite://").strip("/"):
        raise InputError(f"--{flag} {source!r} does not name a file; chainlit_app.py creates outputs/chat/chat.db")
    store = ChatStore(source if "://" in source else f"sqlite:///{source}", must_exist=True)
    shown = store.url.render_as_string()
    setattr(args, flag, shown)
    sys.argv = [shown if argument == source else argument for argument in sys.argv]
    records = store.read()
    store.close()
    return records, store.url.database
