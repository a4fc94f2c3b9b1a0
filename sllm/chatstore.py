"""Conversations, thumbs and arena votes: what the chat page hears from people, and what preference data is made of.

Tables of our own, beside those that Chainlit keeps its history in. Every write is one transaction and is read back,
and an error is raised: a vote that the page thanks for is on the disk. Functions block; the page calls them in threads.

    store = ChatStore("sqlite:///outputs/chat/chat.db")
    store.add_answer(Answer(id="a1", conversation="c1", rater="local", model="sft", prompt=[…], text="…"))
    store.set_thumb("a1", 1, "정확하다")
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from sllm.cli import InputError

CHOICES = ("left", "right", "tie", "both_bad")

_metadata = sa.MetaData()
_answers = sa.Table(
    "sllm_answers",
    _metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("conversation", sa.String(64), nullable=False, index=True),
    sa.Column("rater", sa.String(200), nullable=False),
    sa.Column("model", sa.String(500), nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),  # JSON: the messages as they were sent
    sa.Column("text", sa.Text, nullable=False),  # as the model wrote it, not as the page shows it
    sa.Column("finish_reason", sa.String(40)),
    sa.Column("sampling", sa.Text, nullable=False),  # JSON
    sa.Column("template_hash", sa.String(64)),
    sa.Column("task", sa.String(40)),
    sa.Column("time", sa.String(40), nullable=False),
)
_thumbs = sa.Table(
    "sllm_thumbs",
    _metadata,
    sa.Column("answer", sa.ForeignKey("sllm_answers.id"), primary_key=True),
    sa.Column("value", sa.Integer, nullable=False),  # 1 up, 0 down
    sa.Column("comment", sa.Text),
    sa.Column("time", sa.String(40), nullable=False),
)
_comparisons = sa.Table(
    "sllm_comparisons",
    _metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("left", sa.ForeignKey("sllm_answers.id"), nullable=False),
    sa.Column("right", sa.ForeignKey("sllm_answers.id"), nullable=False),
    sa.Column("choice", sa.String(10)),  # one of CHOICES; NULL: shown, not voted on
    sa.Column("time", sa.String(40), nullable=False),
)


@dataclass(frozen=True)
class Answer:
    """One answer that somebody was shown. `prompt`: messages, the system prompt among them; `sampling`: the parameters
    that were sent; `template_hash`: SHA-256 of the chat template, where the server says it; `rater`: who asked."""

    id: str
    conversation: str
    rater: str
    model: str
    prompt: list[dict]
    text: str
    finish_reason: str | None = None
    sampling: dict = field(default_factory=dict)
    template_hash: str | None = None
    task: str | None = None
    time: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt, side by side. `choice`: one of CHOICES, or None before the vote."""

    id: str
    left: Answer
    right: Answer
    choice: str | None
    time: str


@dataclass(frozen=True)
class Thumb:
    """`value`: 1 up, 0 down."""

    answer: Answer
    value: int
    comment: str | None
    time: str


class NotStored(Exception):
    """A write did not arrive in the database."""


def sync_url(url: str) -> sa.URL:
    """The URL with a driver that works in threads; InputError for what is no URL.

    PostgreSQL is spoken to with psycopg, which has both kinds of calls."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        raise InputError(
            f"--database_url {url!r} is no SQLAlchemy URL, such as sqlite:///outputs/chat/chat.db"
        ) from error
    drivers = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
    backend = parsed.drivername.partition("+")[0]
    return parsed.set(drivername=drivers.get(backend, parsed.drivername))


class ChatStore:
    """The database behind a URL; its tables are made where they are missing.

    Args:
        must_exist: a database that no page has written to is an error, and left as it is.
    Raises:
        InputError: the database cannot be opened.
    """

    def __init__(self, url: str, *, must_exist: bool = False):
        self.url = sync_url(url)
        file = self.url.database if self.url.get_backend_name() == "sqlite" else None
        if file and file != ":memory:":
            if must_exist and not Path(file).is_file():
                raise InputError(f"{file} does not exist; chatting with chainlit_app.py makes it")
            Path(file).parent.mkdir(parents=True, exist_ok=True)
        try:
            self.engine = sa.create_engine(self.url, pool_pre_ping=True)
            self.file = None if must_exist else file
            if must_exist:
                known = sa.inspect(self.engine).get_table_names()
            else:
                if file:
                    sa.event.listen(self.engine, "connect", _prepare_sqlite)
                _metadata.create_all(self.engine)
                known = _metadata.tables
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            said = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise InputError(f"database {self.url.render_as_string()} does not open: {said}") from error
        if missing := [name for name in _metadata.tables if name not in known]:
            named = self.url.render_as_string()
            raise InputError(f"{named} is no database of chainlit_app.py: it has no {', '.join(missing)}")

    def close(self) -> None:
        if self.file:  # all of it into the file that people copy
            with contextlib.suppress(sa.exc.SQLAlchemyError), self.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        self.engine.dispose()

    # ── writing ──

    def add_answer(self, answer: Answer) -> None:
        with self._transaction() as connection:
            _insert(connection, _answers, _row(answer))

    def add_comparison(self, id: str, left: Answer, right: Answer) -> None:
        """Both answers and that they were shown together, in one transaction."""
        with self._transaction() as connection:
            for answer in (left, right):
                _insert(connection, _answers, _row(answer))
            row = {"id": id, "left": left.id, "right": right.id, "choice": None, "time": now()}
            _insert(connection, _comparisons, row)

    def vote(self, comparison: str, choice: str) -> None:
        """One vote a comparison; a second one replaces the first.

        Raises:
            KeyError: there is no such comparison."""
        if choice not in CHOICES:
            raise ValueError(f"choice {choice!r} is none of {', '.join(CHOICES)}")
        change = {"choice": choice, "time": now()}
        with self._transaction() as connection:
            found = connection.execute(_comparisons.update().where(_comparisons.c.id == comparison).values(change))
            if not found.rowcount:
                raise KeyError(comparison)
            _read_back(connection, _comparisons, {"id": comparison} | change)

    def set_thumb(self, answer: str, value: int | None, comment: str | None = None) -> None:
        """1 up, 0 down, None takes it back.

        Raises:
            KeyError: there is no such answer."""
        row = {"answer": answer, "value": value, "comment": comment, "time": now()}
        with self._transaction() as connection:
            if not connection.execute(sa.select(_answers.c.id).where(_answers.c.id == answer)).first():
                raise KeyError(answer)
            connection.execute(_thumbs.delete().where(_thumbs.c.answer == answer))
            if value is not None:
                _insert(connection, _thumbs, row)

    def forget(self, conversation: str) -> None:
        """A conversation that was deleted takes its answers, thumbs and votes along."""
        ids = sa.select(_answers.c.id).where(_answers.c.conversation == conversation)
        with self._transaction() as connection:
            connection.execute(_thumbs.delete().where(_thumbs.c.answer.in_(ids)))
            connection.execute(_comparisons.delete().where(_comparisons.c.left.in_(ids)))
            connection.execute(_answers.delete().where(_answers.c.conversation == conversation))

    # ── reading ──

    def answer(self, id: str) -> Answer | None:
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(_answers).where(_answers.c.id == id)).mappings().first()
        return row and _answer(row)

    def answers(self) -> list[Answer]:
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(_answers).order_by(_answers.c.time, _answers.c.id)).mappings().all()
        return [_answer(row) for row in rows]

    def comparisons(self) -> list[Comparison]:
        """Every comparison, oldest first, voted on or not; less those that somebody deletes meanwhile."""
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(_comparisons).order_by(_comparisons.c.time, _comparisons.c.id)).all()
        answers = {answer.id: answer for answer in self.answers()}
        return [
            Comparison(row.id, answers[row.left], answers[row.right], row.choice, row.time)
            for row in rows
            if row.left in answers and row.right in answers
        ]

    def comparison(self, id: str) -> Comparison | None:
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(_comparisons).where(_comparisons.c.id == id)).first()
        return row and Comparison(row.id, self.answer(row.left), self.answer(row.right), row.choice, row.time)

    def thumbs(self) -> list[Thumb]:
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(_thumbs).order_by(_thumbs.c.time, _thumbs.c.answer)).all()
        answers = {answer.id: answer for answer in self.answers()}
        return [Thumb(answers[row.answer], row.value, row.comment, row.time) for row in rows if row.answer in answers]

    # ── how ──

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self.engine.begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise NotStored(str(getattr(error, "orig", None) or error).splitlines()[0]) from error


def _row(answer: Answer) -> dict:
    values = asdict(answer)
    return values | {"prompt": _json(answer.prompt), "sampling": _json(answer.sampling), "time": answer.time or now()}


def _insert(connection: sa.Connection, table: sa.Table, row: dict) -> None:
    connection.execute(table.insert().values(row))
    _read_back(connection, table, row)


def _read_back(connection: sa.Connection, table: sa.Table, row: dict) -> None:
    """In the same transaction, which another writer cannot get in between."""
    key = next(iter(table.primary_key.columns))
    found = connection.execute(sa.select(table).where(key == row[key.name])).mappings().first()
    if found is None or any(found[name] != value for name, value in row.items()):
        raise NotStored(f"{table.name} {row[key.name]} reads back otherwise than it was written")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _prepare_sqlite(connection, _) -> None:
    """Readers and writers side by side, nothing lost when the process is killed, and patience with each other."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _json(value) -> str:
    return json.dumps(value, ensure_ascii=False)


def _answer(row) -> Answer:
    values = dict(row)
    return Answer(**values | {"prompt": json.loads(values["prompt"]), "sampling": json.loads(values["sampling"])})
