"""Files → records, a block at a time: a file of any size is read in little memory, and its blocks are parsed in other
processes. Standard library only, until a file needs more.

A record is an object as the file has it; `sllm.data.converters` makes rows of it. Read are JSON Lines, JSON documents,
CSV, TSV, Parquet, Arrow, Excel and data sets of the Hub; compressed, in zip archives, in folders; in UTF-8, UTF-16,
UTF-32 and CP949. What a file is, is found from its contents.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sllm import cli
from sllm.cli import InputError
from sllm.data import encodings, hub_dataset, tables
from sllm.data.blocks import Block, Record, Unreadable
from sllm.data.data_files import DataFile, data_files
from sllm.data.detect import Contents, contents_of
from sllm.data.field_map import FieldMap, field_map
from sllm.data.file_problems import SHOWN, UnreadableFile

__all__ = ["Block", "FieldMap", "Record", "Source", "Unreadable", "UnreadableFile", "field_map", "open_source"]


@dataclass
class Source:
    """A file, a folder, an archive or a data set that is about to be read.

    Attributes:
        kind: what it is: "JSON Lines", "CSV", …
        notes: what a user should know of how it is read, such as its encoding. Grows while several files are read.
        license: as the data names it; None where it does not.
        revision: the commit of a data set of the Hub.
        files: the files on disk that are read, in order; none of the Hub's.
        size: bytes of them on disk; 0 if it is not known.
        position: how many of them have been read; grows with `blocks`.
    """

    path: str
    kind: str
    notes: list[str] = field(default_factory=list)
    license: str | None = None
    revision: str | None = None
    files: list[str] = field(default_factory=list)
    size: int = 0
    position: int = 0
    _start: Callable[["Source"], Iterator[Block]] = field(repr=False, default=lambda source: iter(()))

    def blocks(self) -> Iterator[Block]:
        """Its records in order, without a limit of size. InputError at the end where a part cannot be read: a damaged
        file, a JSON document with a mistake; with everything wrong at once."""
        found = False
        self.position = 0
        for block in self._start(self):
            found = True
            yield block
        if not found:
            raise UnreadableFile(self.path, [(0, "no rows in it; give a file that has some")])


def open_source(path: str | Path, *, field_map: FieldMap | None = None, encoding: str | None = None) -> Source:
    """What a path names: a file, a folder or a glob of files of one kind, a zip archive of them, `hub:owner/name`.

    Args:
        field_map: makes the records; see `sllm.data.field_map`.
        encoding: of text files; None finds it.
    Raises:
        InputError: it cannot be read at all: missing, empty, of an unknown kind.
    """
    name = str(path)
    if name.startswith(hub_dataset.PREFIX):
        return _hub_source(name, field_map)
    encoding = encoding and encodings.check(encoding)
    folder = Path(name).is_dir()
    saved = tables.saved_dataset(name) if folder else None
    files, notes = (saved[0], []) if saved else data_files(name)
    contents = _first_contents(files, encoding)
    kind = contents.kind if len(files) == 1 else f"{contents.kind}, {len(files):,} files"
    on_disk = {file.path: Path(file.path).stat().st_size for file in files}
    return Source(
        name, kind, notes, license=saved[1] if saved else _license_of(name) if folder else None, files=[*on_disk],
        size=sum(on_disk.values()), _start=lambda source: _read_files(source, files, contents, field_map, encoding),
    )  # fmt: skip


def _first_contents(files: list[DataFile], encoding: str | None) -> Contents:
    """The contents of the first file that can be read; InputError with what is wrong with each if none can."""
    problems = []
    for file in files:
        try:
            return contents_of(file, encoding)
        except UnreadableFile as error:
            if len(files) == 1:
                raise
            problems += error.problems
    raise InputError(cli.shorten(problems, SHOWN))


def _read_files(
    source: Source, files: list[DataFile], first: Contents, fields: FieldMap | None, encoding: str | None
) -> Iterator[Block]:
    problems, noted, done = [], set[str](), 0
    for file in files:
        try:
            contents = first if file == first.file else contents_of(file, encoding)
            for note in contents.notes:
                if note not in noted:
                    noted.add(note)
                    source.notes.append(note if len(files) == 1 else f"{file.name}: {note} (the first such file)")
            for block in contents.read(fields):
                source.position = done + min(block.end, file.size)
                yield block
        except UnreadableFile as error:
            if len(files) == 1:
                raise
            problems += error.problems
        done += file.size
        source.position = done
    if problems:
        raise InputError(cli.shorten(problems, SHOWN))


def _license_of(folder: str) -> str | None:
    """The licence in the data set card of a folder that was downloaded from the Hub."""
    with suppress(OSError, UnicodeDecodeError):
        card = (Path(folder) / "README.md").read_text(encoding="utf-8")
        front = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
        match = front and re.search(r"^license:\s*(?:-\s*)?(\S.*)$", front[1], re.MULTILINE)
        return match[1].strip("'\" ") if match else None
    return None


def _hub_source(name: str, fields: FieldMap | None) -> Source:
    found = hub_dataset.open_dataset(name)
    return Source(
        name, "Hub data set", found.notes, found.license, found.revision, _start=lambda _: found.read(name, fields)
    )
