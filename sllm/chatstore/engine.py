"""Opening the database: the driver, SQLite's settings, and the tables."""

from pathlib import Path

import sqlalchemy as sa

from sllm.chatstore.tables import REQUIRED_TABLES, Base
from sllm.cli import InputError

_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


def sync_url(url: str) -> sa.URL:
    """The URL with a driver that works in threads (psycopg for PostgreSQL); InputError if it is not a URL."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:  # ValueError: a port that is not a number
        raise InputError(
            f"--database_url {url!r} is not a SQLAlchemy URL, such as sqlite:///outputs/chat/chat.db"
        ) from error
    backend = parsed.drivername.partition("+")[0]
    return parsed.set(drivername=_DRIVERS.get(backend, parsed.drivername))


def sqlite_file(url: sa.URL) -> str | None:
    file = url.database if url.get_backend_name() == "sqlite" else None
    return None if file == ":memory:" else file


def open_engine(url: sa.URL, *, must_exist: bool) -> tuple[sa.Engine, set[str]]:
    """The engine, and the tables that the database has; missing tables are created unless it `must_exist`.

    Raises:
        InputError: the database cannot be opened, or is not the page's.
    """
    file = sqlite_file(url)
    if file and must_exist and not Path(file).is_file():
        raise InputError(f"{file} does not exist; chatting with chainlit_app.py creates it")
    if file:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    name = url.render_as_string()
    try:
        engine = sa.create_engine(url, pool_pre_ping=True)
        if not must_exist:
            if file:
                sa.event.listen(engine, "connect", _prepare_sqlite)
            Base.metadata.create_all(engine)
        tables = set(sa.inspect(engine).get_table_names())
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        raise InputError(f"database {name} does not open: {first_line(error)}") from error
    if missing := [table for table in REQUIRED_TABLES if table not in tables]:
        raise InputError(f"{name} is not a database of chainlit_app.py: it has no {', '.join(missing)}")
    return engine, tables


def first_line(error: Exception) -> str:
    """The driver's own sentence of an SQLAlchemy error."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _prepare_sqlite(connection, _) -> None:
    """Concurrent readers and writers, nothing lost when the process is killed, and waiting for locks."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
