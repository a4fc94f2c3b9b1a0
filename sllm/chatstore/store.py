"""The store: one transaction for each write, checked by reading it back."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from sllm.chatstore.records import Records, answer_problem, read_records
from sllm.chatstore.tables import CHOICES, REQUIRED_TABLES, Base, ChangedVote, Comparison, StoredAnswer, Thumb, now
from sllm.cli import InputError

_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


class NotStored(Exception):
    """A write did not reach the database."""


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


class ChatStore:
    """The database behind a URL; missing tables are created.

    Args:
        must_exist: a database that the page has not written to is an error, and nothing is written to it.
    Raises:
        InputError: the database cannot be opened.
    """

    def __init__(self, url: str, *, must_exist: bool = False):
        self.url = sync_url(url)
        self._is_sqlite = self.url.get_backend_name() == "sqlite"
        file = self.url.database if self._is_sqlite and self.url.database != ":memory:" else None
        if file and must_exist and not Path(file).is_file():
            raise InputError(f"{file} does not exist; chatting with chainlit_app.py creates it")
        if file:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
        self._uses_wal = bool(file) and not must_exist
        name = self.url.render_as_string()
        try:
            self.engine = sa.create_engine(self.url, pool_pre_ping=True)
            if self._uses_wal:
                sa.event.listen(self.engine, "connect", _prepare_sqlite)
            if not must_exist:
                Base.metadata.create_all(self.engine)
            tables = sa.inspect(self.engine).get_table_names()
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            raise InputError(f"database {name} does not open: {_first_line(error)}") from error
        if missing := [table for table in REQUIRED_TABLES if table not in tables]:
            raise InputError(f"{name} is not a database of chainlit_app.py: it has no {', '.join(missing)}")
        self._has_changed_votes = ChangedVote.__tablename__ in tables  # an older page's database has none
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    def close(self) -> None:
        if self._uses_wal:  # everything into the one file that people copy
            with contextlib.suppress(sa.exc.SQLAlchemyError), self.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        self.engine.dispose()

    # ── writing: `session` is that of a caller's transaction, to be part of it ──

    @contextlib.contextmanager
    def transaction(self, session: Session | None = None) -> Iterator[Session]:
        """All or nothing; NotStored if the database refuses."""
        if session is not None:
            yield session
            return
        try:
            with self._sessions.begin() as session:
                yield session
        except sa.exc.SQLAlchemyError as error:
            raise NotStored(_first_line(error)) from error

    def put_answer(self, answer: StoredAnswer, session: Session | None = None) -> None:
        """Add an answer, or update it with what has been written of it since."""
        # The prompt of a task is known once it has answered; that of a chat, which may be long, does not change.
        names = ("text", "finish_reason", "prompt") if answer.task else ("text", "finish_reason")
        changed = {name: getattr(answer, name) for name in names}
        with self.transaction(session) as session:
            update = sa.update(StoredAnswer).where(StoredAnswer.id == answer.id).values(changed)
            if session.execute(update).rowcount:
                _read_back(session, StoredAnswer, answer.id, changed)
            else:
                _add(session, answer)

    def add_comparison(self, id: str, left: StoredAnswer, right: StoredAnswer, session: Session | None = None) -> None:
        """Both answers and that they were shown together, in one transaction."""
        with self.transaction(session) as session:
            _add(session, left, right, Comparison(id, left, right))

    def vote(self, comparison: str, choice: str) -> Comparison:
        """The first vote is made before the names are shown, and stays; a later one is kept beside it as `changed`.

        Raises:
            KeyError: the comparison does not exist."""
        if choice not in CHOICES:
            raise ValueError(f"choice {choice!r} is not one of {', '.join(CHOICES)}")
        values = {"choice": choice, "time": now()}
        with self.transaction() as session:
            unvoted = sa.update(Comparison).where(Comparison.id == comparison, Comparison.choice.is_(None))
            if session.execute(unvoted.values(values)).rowcount:
                _read_back(session, Comparison, comparison, values)
            elif session.get(Comparison, comparison) is None:
                raise KeyError(comparison)
            else:
                session.execute(sa.delete(ChangedVote).where(ChangedVote.comparison_id == comparison))
                _add(session, ChangedVote(comparison, **values))
        stored = self.comparison(comparison)
        if stored is None:  # one of its answers is damaged
            raise KeyError(comparison)
        return stored

    def set_thumb(
        self, answer: str, value: int | None, comment: str | None = None, session: Session | None = None
    ) -> None:
        """1 up, 0 down, None removes it.

        Raises:
            KeyError: the answer does not exist."""
        with self.transaction(session) as session:
            if session.scalar(sa.select(StoredAnswer.id).where(StoredAnswer.id == answer)) is None:
                raise KeyError(answer)
            session.execute(sa.delete(Thumb).where(Thumb.answer_id == answer))
            if value is not None:
                _add(session, Thumb(answer, value, comment))

    def delete_conversation(self, conversation: str, session: Session | None = None) -> None:
        """Its answers, thumbs and votes."""
        answers = sa.select(StoredAnswer.id).where(StoredAnswer.conversation == conversation)
        comparisons = sa.select(Comparison.id).where(Comparison.left_id.in_(answers))
        with self.transaction(session) as session:
            session.execute(sa.delete(Thumb).where(Thumb.answer_id.in_(answers)))
            session.execute(sa.delete(ChangedVote).where(ChangedVote.comparison_id.in_(comparisons)))
            session.execute(sa.delete(Comparison).where(Comparison.left_id.in_(answers)))
            session.execute(sa.delete(StoredAnswer).where(StoredAnswer.conversation == conversation))

    # ── reading ──

    def answer(self, id: str) -> StoredAnswer | None:
        """None if it does not exist or cannot be used."""
        with self._sessions() as session:
            stored = session.get(StoredAnswer, id)
        return stored if stored and not answer_problem(stored) else None

    def comparison(self, id: str) -> Comparison | None:
        """None if it does not exist or one of its answers cannot be used."""
        with self._sessions() as session:
            comparison = session.get(Comparison, id)
            if comparison is None:
                return None
            comparison.changed = self._changed_votes(session).get(id)
            answers = (comparison.left, comparison.right)
        return comparison if all(stored and not answer_problem(stored) for stored in answers) else None

    def read(self) -> Records:
        """Everything, as it is at one moment; damaged rows become rejects with a reason."""
        with self._sessions() as session:
            if not self._is_sqlite:
                return read_records(session, self._changed_votes(session))
            connection = session.connection()
            connection.exec_driver_sql("BEGIN")  # its driver would begin at the first write only
            driver = connection.connection.dbapi_connection
            driver.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
            try:
                return read_records(session, self._changed_votes(session))
            finally:
                driver.text_factory = str

    def _changed_votes(self, session: Session) -> dict[str, str]:
        if not self._has_changed_votes:
            return {}
        votes = session.scalars(sa.select(ChangedVote).where(ChangedVote.choice.in_(CHOICES)))
        return {vote.comparison_id: vote.choice for vote in votes}


def _add(session: Session, *rows: Base) -> None:
    session.add_all(rows)
    session.flush()
    for row in rows:
        mapper = sa.inspect(type(row))
        written = {column.key: getattr(row, column.key) for column in mapper.column_attrs}
        _read_back(session, type(row), mapper.primary_key_from_instance(row)[0], written)


def _read_back(session: Session, kind: type[Base], id: str, written: dict) -> None:
    """In the same transaction, which no other writer can get between."""
    columns = [getattr(kind, name) for name in written]
    stored = session.execute(sa.select(*columns).where(sa.inspect(kind).primary_key[0] == id)).first()
    if stored is None or tuple(stored) != tuple(written.values()):
        raise NotStored(f"{kind.__tablename__} {id} reads back differently from what was written")


def _first_line(error: Exception) -> str:
    """The driver's own sentence of an SQLAlchemy error."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _prepare_sqlite(connection, _) -> None:
    """Concurrent readers and writers, nothing lost when the process is killed, and waiting for locks."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
