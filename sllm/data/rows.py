"""A row with its origin, and the rows that a run leaves out. Standard library only."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sllm import cli, tasks
from sllm.cli import InputError
from sllm.data.json_reader import SHOWN, format_problems
from sllm.data.json_writer import write_jsonl

MAX_LOST_SHARE = 0.05  # of a file's rows, whether they are skipped or lose their whole answer to truncation
FILE = "skipped_rows.jsonl"


class Row(dict[str, Any]):
    """A converted row, equal to the dict that goes to disk.

    Attributes:
        file, line: where it was read; None for rows that were made, not read.
        ignored: its filled keys that are not used.
        context: the text that it is about, if the row had a key for it; rows of one context stay in one split.
    """

    __slots__ = ("context", "file", "ignored", "line")

    def __init__(self, values: dict[str, Any], *, ignored: tuple[Any, ...] = (), context: str | None = None):
        super().__init__(values)
        self.file: str | None = None
        self.line: int | None = None
        self.ignored, self.context = ignored, context

    def at(self, file: str | None, line: int | None) -> "Row":
        """The row, with the place where it was read."""
        self.file, self.line = file, line
        return self


def source_of(row: dict[str, Any]) -> str:
    """`rows.jsonl:17 (t1-3)`, or only the id for a row that was not read from a file."""
    file, line = getattr(row, "file", None), getattr(row, "line", None)
    return f"{file}:{line} ({row['id']})" if file else f"row {row['id']}"


def ignored_keys(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Key → how many of `rows` have it, for every key that is not used; the most frequent first."""
    counts = Counter(key for row in rows for key in getattr(row, "ignored", ()))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def unknown_tasks(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Task labels that are not in the task table, with their counts. They are labels only: no rules apply."""
    return unknown_task_labels(Counter(row["task"] for row in rows))


def unknown_task_labels(counts: Counter[str | None]) -> dict[str, int]:
    """The same from the counts of all labels."""
    return {label: counts[label] for label in sorted(filter(None, counts)) if label not in tasks.TASKS}


def notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines to print about rows that were read: keys that are not used, and task labels that look mistyped."""
    return ignored_note(ignored_keys(rows)) + [f"warning: {text}" for text in near_misses(unknown_tasks(rows))]


def ignored_note(counts: dict[str, int]) -> list[str]:
    """One line that lists the ignored keys; none if there are none."""
    listed = [f"{key} ({cli.plural(count, 'row')})" for key, count in counts.items()]
    return [f"ignored keys: {', '.join(cli.shorten(listed, SHOWN))}"] if counts else []


def near_misses(labels: dict[str, int]) -> list[str]:
    """What was probably meant, for each unknown task label that resembles a task id."""
    return [
        f"task {label!r} ({cli.plural(count, 'row')}) is not a task id and is kept as a label; "
        f"{' or '.join(task_ids)} was probably meant"
        for label, count in labels.items()
        if (task_ids := tasks.similar_task_ids(label))
    ]


class Skipped:
    """The rows that a run leaves out, with the reasons: none, or with `allow` at most `share` of the rows of each file.

    One object is used for a whole run: what reads and tokenizes rows adds to it and calls `check`. `rows`: {"file",
    "line", "id", "reason"} of each, in the order in which they were found.
    """

    def __init__(self, allow: bool = False, *, share: float = MAX_LOST_SHARE):
        self.allow, self.share = allow, share
        self.rows: list[dict[str, Any]] = []
        self._read: Counter[str | None] = Counter()
        self._reasons: dict[int, str] = {}  # by id(row)

    def expect(self, file: str | None, count: int) -> None:
        """`file` has `count` rows, good and bad ones."""
        self._read[file] = max(count, self._read[file])

    def add(self, row: dict[str, Any], reason: str) -> None:
        """Leave out a converted row."""
        self._reasons[id(row)] = reason
        self.add_line(getattr(row, "file", None), getattr(row, "line", None), reason, row["id"])

    def add_line(self, file: str | None, line: int | None, reason: str, name: str | None = None) -> None:
        """Leave out a line that could not be read as a row."""
        self.rows.append({"file": file, "line": line, "id": name, "reason": reason})

    def add_lines(self, file: str, count: int, refused: Iterable[tuple[int, str]]) -> None:
        """Leave out lines of `file`, which has `count` rows, in the order of lines."""
        self.expect(file, count)
        for line, reason in sorted(refused):
            self.add_line(file, line, reason)

    def reason(self, row: dict[str, Any]) -> str | None:
        """Why a converted row was left out; None for one that was not."""
        return self._reasons.get(id(row))

    def check(self) -> None:
        """InputError if bad rows are not allowed or too many; it names every one of them."""
        problems = []
        for file, entries, count in self._by_file():
            acceptable = len(entries) <= self.share * self._read[file]
            if self.allow and acceptable:
                continue
            problems += _format_entries(file, entries)
            if self.allow:
                problems.append(
                    f"{file or 'the rows'}: {count} cannot be used, and --skip_bad_rows leaves out at most "
                    f"{self.share:.0%}; correct them, or let prepare_data.py reject them"
                )
            elif acceptable:
                problems.append(f"{file or 'the rows'}: --skip_bad_rows leaves out such rows ({count})")
        if problems:
            raise InputError(problems)

    def lines(self) -> list[str]:
        """Lines to print: how many rows of which file, then the first ones with their reasons."""
        lines = []
        for file, entries, count in self._by_file():
            lines.append(f"skipped {count} of {file or 'the data'}:")
            lines += [f"  {line}" for line in _format_entries(file, entries)]
        return lines

    def _by_file(self) -> Iterator[tuple[str | None, list[dict[str, Any]], str]]:
        """(file, its skipped rows, `3 of 40 rows`) of each file."""
        for file in dict.fromkeys(entry["file"] for entry in self.rows):
            entries = [entry for entry in self.rows if entry["file"] == file]
            yield file, entries, f"{len(entries):,} of {self._read[file]:,} rows"

    def write(self, folder: str | Path) -> Path | None:
        """skipped_rows.jsonl in `folder`, one line for each skipped row; no file if there are none."""
        if not self.rows:
            return None
        path = Path(folder) / FILE
        write_jsonl(path, self.rows)
        return path


def _format_entries(file: str | None, entries: list[dict[str, Any]]) -> list[str]:
    texts = [f"row {e['id']}: {e['reason']}" if e["id"] is not None else e["reason"] for e in entries]
    if file is not None:
        return format_problems(file, [(e["line"] or 0, text) for e, text in zip(entries, texts, strict=True)])
    return cli.shorten(texts, SHOWN)
