"""The tables. Column names and types are those of every database that the page has written, so that old ones open."""

import json
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column, relationship

CHOICES = ("left", "right", "tie", "both_bad")
INCOMPLETE_REASONS = ("length", "stopped", "broken")  # finish reasons of answers that were cut off


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class JsonText(sa.TypeDecorator):
    """JSON in a text column. Reads None where it is not valid JSON of type `kind`.

    Not sa.JSON: the columns of existing databases are text, which PostgreSQL would return undecoded; and one damaged
    row would raise instead of becoming a reject."""

    impl, cache_ok = sa.Text, True

    def __init__(self, kind: type):
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: object, dialect: sa.Dialect) -> str | None:
        return None if value is None else json.dumps(value, ensure_ascii=False)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> object:
        try:
            decoded = json.loads(value)
        except (TypeError, ValueError, RecursionError):
            return None
        return decoded if isinstance(decoded, self.kind) else None


class Base(MappedAsDataclass, DeclarativeBase):
    pass


class StoredAnswer(Base):
    """One answer that a user was shown. `prompt`: the messages as they were sent, the system prompt among them; `text`:
    as the model wrote it, not as the page shows it; `sampling`: the parameters that were sent; `template_hash`: SHA-256
    of the chat template, where the server reports it; `user_id`: who asked."""

    __tablename__ = "sllm_answers"

    id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    conversation: Mapped[str] = mapped_column(sa.String(64), index=True)
    user_id: Mapped[str] = mapped_column("rater", sa.String(200))
    model: Mapped[str] = mapped_column(sa.String(500))
    prompt: Mapped[list[dict]] = mapped_column(JsonText(list))
    text: Mapped[str] = mapped_column(sa.Text)
    finish_reason: Mapped[str | None] = mapped_column(sa.String(40), default=None)
    sampling: Mapped[dict] = mapped_column(JsonText(dict), default_factory=dict)
    template_hash: Mapped[str | None] = mapped_column(sa.String(64), default=None)
    task: Mapped[str | None] = mapped_column(sa.String(40), default=None)
    time: Mapped[str] = mapped_column(sa.String(40), default_factory=now)


class Thumb(Base):
    """`value`: 1 up, 0 down."""

    __tablename__ = "sllm_thumbs"

    answer_id: Mapped[str] = mapped_column("answer", sa.ForeignKey(StoredAnswer.id), primary_key=True)
    value: Mapped[int]
    comment: Mapped[str | None] = mapped_column(sa.Text, default=None)
    time: Mapped[str] = mapped_column(sa.String(40), default_factory=now)
    answer: Mapped[StoredAnswer] = relationship(init=False)


class Comparison(Base):
    """Two answers to one prompt, side by side. `choice`: the first vote, one of CHOICES, made before the names of the
    models were shown; None before it. `changed`: what the same user chose after the names were shown."""

    __tablename__ = "sllm_comparisons"

    id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    left_id: Mapped[str] = mapped_column("left", sa.ForeignKey(StoredAnswer.id), init=False)
    right_id: Mapped[str] = mapped_column("right", sa.ForeignKey(StoredAnswer.id), init=False)
    left: Mapped[StoredAnswer] = relationship(foreign_keys=left_id)
    right: Mapped[StoredAnswer] = relationship(foreign_keys=right_id)
    choice: Mapped[str | None] = mapped_column(sa.String(10), default=None)
    time: Mapped[str] = mapped_column(sa.String(40), default_factory=now)
    changed: str | None = None


class ChangedVote(Base):
    """A vote made after the names were shown: kept apart, and never trained on."""

    __tablename__ = "sllm_changed_votes"

    comparison_id: Mapped[str] = mapped_column("comparison", sa.ForeignKey(Comparison.id), primary_key=True)
    choice: Mapped[str] = mapped_column(sa.String(10))
    time: Mapped[str] = mapped_column(sa.String(40), default_factory=now)


# What every database of this page has: the table of changed votes came later.
REQUIRED_TABLES = tuple(table.__tablename__ for table in (StoredAnswer, Thumb, Comparison))
