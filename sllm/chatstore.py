"""Conversations, thumbs and arena votes: what the chat page hears from people, and what preference data is made of.

Tables of our own, beside those that Chainlit keeps its history in. Every write is one transaction and is read back,
and an error is raised: a vote that the page thanks for is on the disk. Functions block; the page calls them in threads.

    store = ChatStore("sqlite:///outputs/chat/chat.db")
    store.put_answer(StoredAnswer(id="a1", conversation="c1", rater="local", model="sft", prompt=[…], text="…"))
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
    sa.Column("choice", sa.String(10)),  # one of CHOICES, made blind; NULL: shown, not voted on
    sa.Column("time", sa.String(40), nullable=False),
)
_changed_votes = sa.Table(  # made after the names were shown: kept apart, and never trained on
    "sllm_changed_votes",
    _metadata,
    sa.Column("comparison", sa.ForeignKey("sllm_comparisons.id"), primary_key=True),
    sa.Column("choice", sa.String(10), nullable=False),
    sa.Column("time", sa.String(40), nullable=False),
)
_OLDER = ("sllm_answers", "sllm_thumbs", "sllm_comparisons")  # what every database of this page has


@dataclass(frozen=True)
class StoredAnswer:
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
    """Two answers to one prompt, side by side. `choice`: the first vote, one of CHOICES, made before the names were
    shown; None before it. `changed`: what the same person chose after the names were shown."""

    id: str
    left: StoredAnswer
    right: StoredAnswer
    choice: str | None
    time: str
    changed: str | None = None


@dataclass(frozen=True)
class Thumb:
    """`value`: 1 up, 0 down."""

    answer: StoredAnswer
    value: int
    comment: str | None
    time: str


@dataclass(frozen=True)
class Reject:
    """A row that cannot be used: its table, its key, and why."""

    table: str
    id: str
    reason: str


@dataclass
class Records:
    """Everything in the store, oldest first; what cannot be used is in `rejects`."""

    answers: dict[str, StoredAnswer] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    thumbs: list[Thumb] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


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
                known = set(sa.inspect(self.engine).get_table_names())
                self._has_changed_votes = _changed_votes.name in known
            else:
                if file:
                    sa.event.listen(self.engine, "connect", _prepare_sqlite)
                _metadata.create_all(self.engine)
                known = set(_metadata.tables)
                self._has_changed_votes = True
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            said = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise InputError(f"database {self.url.render_as_string()} does not open: {said}") from error
        if missing := [name for name in _OLDER if name not in known]:
            named = self.url.render_as_string()
            raise InputError(f"{named} is no database of chainlit_app.py: it has no {', '.join(missing)}")

    def close(self) -> None:
        if self.file:  # all of it into the file that people copy
            with contextlib.suppress(sa.exc.SQLAlchemyError), self.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        self.engine.dispose()

    # ── writing ──

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """All or nothing; NotStored where the database refuses."""
        try:
            with self.engine.begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise NotStored(str(getattr(error, "orig", None) or error).splitlines()[0]) from error

    def put_answer(self, answer: StoredAnswer, connection: sa.Connection | None = None) -> None:
        """Add an answer, or replace it by what has been written of it since.

        Args:
            connection: of a transaction of the caller's, to be part of it.
        """
        if connection is None:
            with self.transaction() as connection:
                return self.put_answer(answer, connection)
        row = _row(answer)
        # The prompt of a task is known once it has answered; that of a chat, which may be long, does not change.
        changed = {name: row[name] for name in ("text", "finish_reason", *(["prompt"] if answer.task else []))}
        if connection.execute(_answers.update().where(_answers.c.id == answer.id).values(changed)).rowcount:
            _read_back(connection, _answers, {"id": answer.id} | changed)
        else:
            _insert(connection, _answers, row)

    def add_comparison(
        self, id: str, left: StoredAnswer, right: StoredAnswer, connection: sa.Connection | None = None
    ) -> None:
        """Both answers and that they were shown together, in one transaction."""
        if connection is None:
            with self.transaction() as connection:
                return self.add_comparison(id, left, right, connection)
        for answer in (left, right):
            _insert(connection, _answers, _row(answer))
        row = {"id": id, "left": left.id, "right": right.id, "choice": None, "time": now()}
        _insert(connection, _comparisons, row)

    def vote(self, comparison: str, choice: str) -> Comparison:
        """The first vote is made before the names are shown, and stays; a later one is kept beside it as `changed`.

        Raises:
            KeyError: there is no such comparison."""
        if choice not in CHOICES:
            raise ValueError(f"choice {choice!r} is none of {', '.join(CHOICES)}")
        row = {"choice": choice, "time": now()}
        with self.transaction() as connection:
            first = connection.execute(
                _comparisons.update()
                .where(_comparisons.c.id == comparison, _comparisons.c.choice.is_(None))
                .values(row)
            ).rowcount
            if first:
                _read_back(connection, _comparisons, {"id": comparison} | row)
            elif not connection.execute(sa.select(_comparisons.c.id).where(_comparisons.c.id == comparison)).first():
                raise KeyError(comparison)
            else:
                connection.execute(_changed_votes.delete().where(_changed_votes.c.comparison == comparison))
                _insert(connection, _changed_votes, {"comparison": comparison} | row)
        found = self.comparison(comparison)
        assert found is not None
        return found

    def set_thumb(
        self, answer: str, value: int | None, comment: str | None = None, connection: sa.Connection | None = None
    ) -> None:
        """1 up, 0 down, None takes it back.

        Raises:
            KeyError: there is no such answer."""
        if connection is None:
            with self.transaction() as connection:
                return self.set_thumb(answer, value, comment, connection)
        if not connection.execute(sa.select(_answers.c.id).where(_answers.c.id == answer)).first():
            raise KeyError(answer)
        connection.execute(_thumbs.delete().where(_thumbs.c.answer == answer))
        if value is not None:
            _insert(connection, _thumbs, {"answer": answer, "value": value, "comment": comment, "time": now()})

    def forget(self, conversation: str, connection: sa.Connection | None = None) -> None:
        """A conversation that was deleted takes its answers, thumbs and votes along."""
        if connection is None:
            with self.transaction() as connection:
                return self.forget(conversation, connection)
        ids = sa.select(_answers.c.id).where(_answers.c.conversation == conversation)
        shown = sa.select(_comparisons.c.id).where(_comparisons.c.left.in_(ids))
        connection.execute(_thumbs.delete().where(_thumbs.c.answer.in_(ids)))
        connection.execute(_changed_votes.delete().where(_changed_votes.c.comparison.in_(shown)))
        connection.execute(_comparisons.delete().where(_comparisons.c.left.in_(ids)))
        connection.execute(_answers.delete().where(_answers.c.conversation == conversation))

    # ── reading ──

    def answer(self, id: str) -> StoredAnswer | None:
        """None where there is none, or none that can be used."""
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(_answers).where(_answers.c.id == id)).mappings().first()
        with contextlib.suppress(ValueError):
            return row and _answer(row)
        return None

    def comparison(self, id: str) -> Comparison | None:
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(_comparisons).where(_comparisons.c.id == id)).first()
            changed = self._changed(connection).get(id)
        if row is None:
            return None
        left, right = self.answer(row.left), self.answer(row.right)
        if left is None or right is None:
            return None
        return Comparison(row.id, left, right, row.choice, row.time, changed)

    def read(self) -> Records:
        """Everything, as it is at one moment. Rows that another program, a full disk or a hand has spoilt are
        rejects with a reason; whatever refers to them is one too."""
        records = Records()
        with self.engine.connect() as connection:
            if self.url.get_backend_name() == "sqlite":
                connection.exec_driver_sql("BEGIN")  # its driver would begin at the first write only
                driver = connection.connection.dbapi_connection
                driver.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
            try:
                answers, comparisons, thumbs = (
                    connection.execute(sa.select(table).order_by(table.c.time, table.primary_key.columns[0]))
                    .mappings()
                    .all()
                    for table in (_answers, _comparisons, _thumbs)
                )
                changed = self._changed(connection)
            finally:
                if self.url.get_backend_name() == "sqlite":
                    driver.text_factory = str

        def reject(table: sa.Table, id: object, reason: str) -> None:
            records.rejects.append(Reject(table.name, str(id), reason))

        for row in answers:
            try:
                records.answers[row["id"]] = _answer(row)
            except ValueError as error:
                reject(_answers, row["id"], str(error))
        for row in comparisons:
            left, right = (records.answers.get(row[side]) for side in ("left", "right"))
            if left is None or right is None:
                reject(_comparisons, row["id"], f"the {'right' if left else 'left'} answer is missing or rejected")
            elif row["choice"] not in (*CHOICES, None):
                reject(_comparisons, row["id"], f"choice {row['choice']!r} is none of {', '.join(CHOICES)}")
            elif left.prompt != right.prompt:
                reject(_comparisons, row["id"], "the two answers are to different prompts")
            else:
                records.comparisons.append(
                    Comparison(row["id"], left, right, row["choice"], row["time"], changed.get(row["id"]))
                )
        for row in thumbs:
            answer = records.answers.get(row["answer"])
            if answer is None:
                reject(_thumbs, row["answer"], "the answer is missing or rejected")
            elif row["value"] not in (0, 1):
                reject(_thumbs, row["answer"], f"value {row['value']!r} is neither 1 (up) nor 0 (down)")
            else:
                records.thumbs.append(Thumb(answer, row["value"], row["comment"], row["time"]))
        return records

    def answers(self) -> list[StoredAnswer]:
        return list(self.read().answers.values())

    def comparisons(self) -> list[Comparison]:
        return self.read().comparisons

    def thumbs(self) -> list[Thumb]:
        return self.read().thumbs

    @staticmethod
    def conversations_like(pattern: str) -> sa.Select:
        """The ids of the conversations with an answer like `pattern` (in lower case, escaped by a backslash)."""
        return sa.select(_answers.c.conversation).where(sa.func.lower(_answers.c.text).like(pattern, escape="\\"))

    def _changed(self, connection: sa.Connection) -> dict[str, str]:
        if not self._has_changed_votes:  # a database of an older page, which is only read
            return {}
        rows = connection.execute(sa.select(_changed_votes).where(_changed_votes.c.choice.in_(CHOICES)))
        return {row.comparison: row.choice for row in rows}


def _row(answer: StoredAnswer) -> dict:
    values = asdict(answer)
    return values | {"prompt": _json(answer.prompt), "sampling": _json(answer.sampling), "time": answer.time or now()}


def _insert(connection: sa.Connection, table: sa.Table, row: dict) -> None:
    connection.execute(table.insert().values(row))
    _read_back(connection, table, row)


def _read_back(connection: sa.Connection, table: sa.Table, row: dict) -> None:
    """In the same transaction, which another writer cannot get in between."""
    key = next(iter(table.primary_key.columns))
    columns = [table.c[name] for name in row]
    found = connection.execute(sa.select(*columns).where(key == row[key.name])).mappings().first()
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


def _answer(row) -> StoredAnswer:
    """
    Raises:
        ValueError: the row is not a whole, sound answer.
    """
    values = dict(row)
    try:
        prompt, sampling = json.loads(values["prompt"]), json.loads(values["sampling"])
    except (TypeError, ValueError, RecursionError):
        raise ValueError("prompt or sampling is not JSON") from None
    if problem := _prompt_problem(prompt):
        raise ValueError(problem)
    if not isinstance(sampling, dict):
        raise ValueError("sampling is not an object")
    for name in ("conversation", "rater", "model", "text", "time", "finish_reason", "template_hash", "task"):
        optional = name in ("finish_reason", "template_hash", "task")
        if not isinstance(values[name], str) and not (optional and values[name] is None):
            raise ValueError(f"{name} is missing or is not text")
    try:
        json.dumps([values["text"], values["task"], prompt], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("text or prompt is not valid UTF-8") from None
    return StoredAnswer(**values | {"prompt": prompt, "sampling": sampling})


def _prompt_problem(prompt) -> str | None:
    """What keeps a prompt from being trained on: it is messages, of which the last is the user's."""
    if not isinstance(prompt, list) or not prompt:
        return "prompt is not a list of messages"
    for message in prompt:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return "prompt has a message without text"
        if message.get("role") not in ("system", "user", "assistant"):
            return f"prompt has a message of role {message.get('role')!r}"
    if prompt[-1]["role"] != "user":
        return "prompt does not end with a question"
    return None
