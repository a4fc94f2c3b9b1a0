"""The texts that a teacher writes rows about, from rows, plain texts and documents."""

import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sllm import cli
from sllm.cli import InputError
from sllm.data import documents, faults, readers
from sllm.data.data_files import files_in
from sllm.data.json_reader import format_problems

# Keys of a context, the more specific ones first.
KEYS = "context passage paragraph document article text content body 본문 지문 문맥 원문 내용 input".split()
_IDS = ("id", "_id", "guid", "doc_id", "context_id", "document_id")
_LABELLED = re.compile(r"###Context###:(.*?)(?:###Question###:|###Answer###:|\Z)", re.DOTALL)
_LABEL = re.compile(r"###\s*(?:Context|Question|Answer)\s*###")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|\n+")
_TABLE = re.compile(r"<table\b.*?</table\s*>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Context:
    """`place`: file:line, or what else says where it was read; `file`: of --contexts."""

    id: str
    text: str
    title: str
    place: str
    file: str


@dataclass(frozen=True)
class RejectedContext:
    context_id: str
    place: str
    reason: str


@dataclass
class Contexts:
    """`read`: texts in the files, before long ones were cut; `notes`: lines to print; `licenses`: of the files that
    name one."""

    read: int
    used: list[Context]
    rejects: list[RejectedContext]
    notes: list[str]
    licenses: dict[str, str | None]


def load(paths: Sequence[str], *, key: str | None, least: int, most: int) -> Contexts:
    """The contexts of all files.

    Args:
        key: of the rows; None finds it.
        least: characters; shorter texts are rejected.
        most: characters; longer texts are cut at the ends of sentences, into parts of about the same length.
    Raises:
        InputError: everything that is wrong with the files; there is no context.
    """
    problems: list[str] = []
    found: list[Context | RejectedContext] = []
    notes = []
    licenses: dict[str, str | None] = {}
    for path in dict.fromkeys(paths):
        try:
            files, left_out = files_in(path) if Path(path).is_dir() else ([path], [])
            if Path(path).suffix.lower() == ".txt":
                found += _text_file(path, least)
            elif any(map(documents.is_document, files)):
                found += _documents(path)
                notes += [f"{path}: {note}" for note in left_out]
            else:
                source = readers.open_source(path)
                found += _rows(source, key)
                notes += [f"{path}: {note}" for note in source.notes]
                licenses[path] = source.license
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    checked = list(_checked((c for c in found if isinstance(c, Context)), least, most))
    used = _unique_ids([c for c in checked if isinstance(c, Context)])
    rejects = [c for c in [*found, *checked] if isinstance(c, RejectedContext)]
    if not used:
        reasons = cli.shorten([f"{reject.place}: {reject.reason}" for reject in rejects], 5)
        raise InputError(reasons or f"{', '.join(paths)}: no contexts; give a file that has some")
    return Contexts(len(found), used, rejects, notes, licenses)


def _rows(source: readers.Source, key: str | None) -> list[Context | RejectedContext]:
    path = source.path
    found: list[Context | RejectedContext] = []
    keys: dict[str, None] = {}
    is_found = False
    for block in source.blocks():
        for line, record in block.records():
            place, name = f"{path}:{line}", f"{Path(path).stem}-{line}"
            if isinstance(record, readers.Unreadable):
                found.append(RejectedContext(name, place, record.reason))
                continue
            keys |= dict.fromkeys(record)
            texts = list(_texts(record, key))
            is_found |= bool(texts)
            given = next((str(record[k]) for k in _IDS if isinstance(record.get(k), str | int)), name)
            numbers = [f"{given}-{n}" for n in range(1, len(texts) + 1)] if len(texts) > 1 else [given]
            found += [Context(n, text, title, place, path) for n, (text, title) in zip(numbers, texts, strict=False)]
            if not texts:
                found.append(
                    RejectedContext(given, place, f"no context: {'no text under ' + key if key else 'none found'}")
                )
    if not is_found:
        listed = f"its keys are {', '.join(cli.shorten(list(keys), 12))}" if keys else "it has no rows"
        wanted = f"no row has a text under {key!r}" if key else "no context found"
        raise InputError(format_problems(path, [(0, f"{wanted}; {listed}; name one with --context_key")]))
    return found


def _texts(record: dict[str, Any], key: str | None) -> Iterator[tuple[str, str]]:
    """(text, title) of each context of a row."""
    title = str(record["title"]) if isinstance(record.get("title"), str) else ""
    if key is None and isinstance(record.get("paragraphs"), list):  # SQuAD's layout
        for paragraph in record["paragraphs"]:
            if isinstance(paragraph, dict) and isinstance(paragraph.get("context"), str):
                yield paragraph["context"], title
        return
    for name in [key] if key else KEYS:
        if isinstance(record.get(name), str) and record[name].strip():
            labelled = _LABELLED.search(record[name])
            yield labelled[1] if labelled else record[name], title
            return
    if key is None:  # rows that are asked and answered: the section of the user turn
        for text in _strings(record.values()):
            if (labelled := _LABELLED.search(text)) and labelled[1].strip():
                yield labelled[1], title
                return


def _strings(values: Iterable[Any]) -> Iterator[str]:
    """The texts of a row, and of the messages in it."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from _strings(turn.get("content") for turn in value if isinstance(turn, dict))


def _text_file(path: str, least: int) -> Iterator[Context]:
    """Blocks between empty lines. A short one, such as a heading, goes with the block below it."""
    text, line, waiting, first = _decoded(path), 1, "", 1
    blocks = []
    for block in re.split(r"(\n[ \t]*\n\s*)", text.replace("\r\n", "\n")):
        if block.strip():
            first = first if waiting else line + (len(block) - len(block.lstrip("\n")))
            waiting = f"{waiting}\n\n{block.strip()}" if waiting else block.strip()
            if len(waiting) >= least:
                blocks.append((first, waiting))
                waiting = ""
        line += block.count("\n")
    if waiting and blocks:  # at the end of the file
        blocks[-1] = (blocks[-1][0], f"{blocks[-1][1]}\n\n{waiting}")
    elif waiting:
        blocks.append((first, waiting))
    if not blocks:
        raise InputError(f"{path}: no text in it; give a file that has some")
    for first, block in blocks:
        yield Context(f"{Path(path).stem}-{first}", block, "", f"{path}:{first}", path)


def _decoded(path: str) -> str:
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    for encoding in ("utf-16",) if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8-sig", "cp949"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise InputError(f"{path}: neither UTF-8, UTF-16 nor CP949; convert it to UTF-8")


def _documents(path: str) -> Iterator[Context]:
    for document in documents.read_documents(path):
        name, text, place = (str(document[key]) for key in ("id", "context", "source"))
        yield Context(name, text, document["title"] or "", place, path)


def _checked(contexts: Iterable[Context], least: int, most: int) -> Iterator[Context | RejectedContext]:
    """Normalised and cut; what cannot be used is rejected."""
    seen: dict[str, str] = {}
    for context in contexts:
        text = unicodedata.normalize("NFC", context.text.replace("\r\n", "\n")).strip()
        first = seen.setdefault(" ".join(text.split()), context.id)
        reason = _fault(text, least)
        if not reason and first != context.id:
            reason = f"duplicate of {first}"
        if reason:
            yield RejectedContext(context.id, context.place, reason)
            continue
        parts = cut(text, most)
        for number, part in enumerate(parts, 1):
            cut_part = replace(context, id=context.id if len(parts) == 1 else f"{context.id}.{number}", text=part)
            reason = f"too long: a table of {len(part)} characters" if len(part) > most else _fault(part, least)
            yield RejectedContext(cut_part.id, context.place, reason) if reason else cut_part


def _fault(text: str, least: int) -> str | None:
    if len(text) < least:
        return f"too short: {len(text)} characters"
    if label := _LABEL.search(text):
        return f"label of the prompt: {label[0]}"
    broken = faults.broken(text)
    return f"broken character: {broken}" if broken else None


def _unique_ids(contexts: list[Context]) -> list[Context]:
    taken: set[str] = set()
    unique = []
    for context in contexts:
        name, number = context.id, 1
        while name in taken:
            number += 1
            name = f"{context.id}#{number}"
        taken.add(name)
        unique.append(replace(context, id=name))
    return unique


def cut(text: str, most: int) -> list[str]:
    """Parts of at most `most` characters and about the same length, cut at ends of sentences; a sentence that is longer
    is cut between words, and a table never."""
    tables = [match.span() for match in _TABLE.finditer(text)]
    starts = [start for start, _ in tables]

    def in_table(position: int) -> bool:
        index = bisect_right(starts, position - 1) - 1
        return index >= 0 and position < tables[index][1]

    ends = [match.end() for match in _SENTENCE_END.finditer(text) if not in_table(match.end())]
    ends = sorted({*ends, *(place for table in tables for place in table)})
    parts, start = [], 0
    while (left := len(text) - start) > most:
        goal = start + left / math.ceil(left / most)
        near = ends[bisect_right(ends, start) : bisect_right(ends, start + most)]
        if near:
            at = min(near, key=lambda end: abs(end - goal))
        elif in_table(start + 1):
            at = next(stop for begin, stop in tables if begin <= start < stop)
        else:
            space = text.rfind(" ", start + 1, start + most)
            at = space + 1 if space > 0 else start + most
        parts.append(text[start:at].strip())
        start = at
    return [part for part in (*parts, text[start:].strip()) if part]
