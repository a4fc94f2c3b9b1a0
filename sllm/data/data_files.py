"""Files as they lie on disk → streams of their bytes: folders, globs, zip archives, compressed files. Standard library
only; zstandard through pyarrow."""

import bz2
import glob
import gzip
import lzma
import os
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sllm import cli
from sllm.data.file_problems import UnreadableFile

_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_PACKED_SUFFIXES = {".gz", ".bz2", ".xz", ".zst"}
_KINDS = {
    ".json": "JSON", ".jsonl": "JSON", ".ndjson": "JSON", ".csv": "CSV or TSV", ".tsv": "CSV or TSV",
    ".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Arrow", ".xlsx": "Excel", ".xls": "Excel",
}  # fmt: skip
_DAMAGE = (
    EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError,
    struct.error, OverflowError, MemoryError,
)  # fmt: skip
_SPLIT = re.compile(r"(?<![a-z])(train|valid|test|dev)", re.IGNORECASE)


class Stream:
    """The unpacked bytes of a file. What can be read of a damaged one is returned before UnreadableFile is raised."""

    def __init__(self, name: str, raw: IO[bytes], packed: str | None):
        self.packed = packed  # how: "gzip", …
        self._name, self._raw, self._kind = name, raw, packed or "zip"
        self._bytes, self._count, self._damage = _unpacked(raw, packed), 0, ""
        self._part = 2**16 if packed == "zstd" else 2**18  # Arrow returns nothing of a part that is cut off

    def read(self, size: int) -> bytes:
        """`size` bytes; fewer only at the end."""
        parts, missing = [], size
        while missing and not self._damage:
            try:
                part = self._bytes.read1(min(missing, self._part))
            except _DAMAGE as error:
                self._damage = str(error) or type(error).__name__
                break
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        if self._damage and not parts:
            what = f"the {self._kind} data is damaged or cut off after {self._count:,} bytes of text"
            raise UnreadableFile(self._name, [(0, f"{what} ({self._damage}); get the file again")])
        self._count += size - missing
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def position(self) -> int:
        """How much of the file on disk has been read, in bytes."""
        return self._raw.tell()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._bytes.close()
        self._raw.close()


def _unpacked(raw: IO[bytes], packed: str | None) -> Any:
    if packed == "zstd":
        import pyarrow

        return pyarrow.CompressedInputStream(pyarrow.PythonFile(raw), "zstd")
    if packed == "gzip":
        return gzip.GzipFile(fileobj=raw)
    return raw if packed is None else {"bzip2": bz2.BZ2File, "xz": lzma.LZMAFile}[packed](raw)


@dataclass(frozen=True)
class DataFile:
    """A file, or a member of a zip archive.

    Attributes:
        name: as errors name it: its path, and for a member `archive.zip/name`.
        path: the file on disk.
        size: bytes that it takes there.
    """

    name: str
    path: str
    size: int
    start: Callable[[], IO[bytes]] = field(repr=False, compare=False)

    @property
    def suffix(self) -> str:
        return suffix_of(self.name)

    def open(self) -> Stream:
        """UnreadableFile if it cannot be read from its start on."""
        try:
            raw = self.start()
            head = raw.read(6)
            raw.seek(0)
        except _DAMAGE as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UnreadableFile(self.name, [(0, f"cannot be read ({reason})")]) from None
        packed = next((kind for magic, kind in _PACKED.items() if head.startswith(magic)), None)
        return Stream(self.name, raw, packed)


def suffix_of(name: str) -> str:
    """`.jsonl` of `rows.JSONL.gz`."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in _PACKED_SUFFIXES else path.suffix


def data_files(path: str) -> tuple[list[DataFile], list[str]]:
    """The files that a path, a folder or a glob names, in sorted order, and notes about those that are left out."""
    if not os.path.lexists(path) and glob.has_magic(path):
        found = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
        if not found:
            raise UnreadableFile(path, [(0, "no file matches; check the path")])
        return [file for name in found for file in _expanded(name)], []
    try:
        folder = os.path.isdir(path)
        return _in_folder(path) if folder else (_expanded(path), [])
    except FileNotFoundError:
        raise UnreadableFile(path, [(0, "missing; check the path")]) from None
    except (OSError, ValueError) as error:
        raise UnreadableFile(path, [(0, f"cannot be read ({getattr(error, 'strerror', error)})")]) from None


def _in_folder(folder: str) -> tuple[list[DataFile], list[str]]:
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        names += [os.path.join(parent, name) for name in files if not name.startswith(".")]
    if os.path.join(folder, "run.json") in names:
        raise UnreadableFile(folder, [(0, f"a folder that a stage wrote; name a file in it: {folder}/train.jsonl")])
    names.sort(key=lambda name: name.split(os.sep))
    chosen, notes = _of_one_kind(folder, names)
    return [file for name in chosen for file in _expanded(name)], notes


def _of_one_kind(whole: str, names: list[str]) -> tuple[list[str], list[str]]:
    """Those of the files that hold records, and the archives among them; UnreadableFile unless all are of one kind."""
    kinds = {name: _KINDS[suffix_of(name)] for name in names if suffix_of(name) in _KINDS}
    chosen = [name for name in names if name in kinds or suffix_of(name) == ".zip"]
    if len({*kinds.values()}) > 1:
        counts = ", ".join(f"{count} {kind}" for kind, count in Counter(kinds.values()).items())
        first = Path(chosen[0]).suffix
        raise UnreadableFile(whole, [(0, f"files of several kinds ({counts}); name one: '{whole}/**/*{first}'")])
    if not chosen:
        listed = ", ".join(_KINDS)
        raise UnreadableFile(whole, [(0, f"no file with records in it; those that are read end in {listed} or .zip")])
    others = Counter(Path(name).suffix or "without a suffix" for name in {*names} - {*chosen})
    notes = [f"left out: {', '.join(f'{n} {suffix}' for suffix, n in others.most_common(8))}"] if others else []
    splits = {match[1].lower() for name in chosen for match in [_SPLIT.search(name[len(whole) :])] if match}
    if len(splits) > 1:
        notes.append(f"the files of {', '.join(sorted(splits))} are read together; to read one, name its files")
    return chosen, notes


def _expanded(name: str) -> list[DataFile]:
    size = os.stat(name).st_size
    if not os.path.isfile(name):
        raise UnreadableFile(name, [(0, "no plain file, and it is read more than once; write its content to a file")])
    with open(name, "rb") as file:
        head = file.read(4)
    plain = DataFile(name, name, size, lambda: open(name, "rb"))
    if head not in (b"PK\3\4", b"PK\5\6"):
        return [plain]
    try:
        archive = zipfile.ZipFile(name)
        members = [info for info in archive.infolist() if not info.is_dir()]
        names = {info.filename for info in members}
    except _DAMAGE as error:
        join = f"or join its parts: cat {name}.part* > whole.zip"
        raise UnreadableFile(name, [(0, f"a damaged zip archive ({error}); get it again, {join}")]) from None
    if {"[Content_Types].xml", "mimetype"} & names:  # a workbook or document of an office program
        return [plain]
    return list(_members(name, archive, members))


def _members(path: str, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> Iterator[DataFile]:
    named = {_member_name(info): info for info in members}
    visible = [n for n in named if not any(part.startswith((".", "__MACOSX")) for part in n.split("/"))]
    if inner := [name for name in visible if suffix_of(name) == ".zip"]:
        raise UnreadableFile(path, [(0, f"{cli.plural(len(inner), 'zip archive')} inside it; unpack it: unzip {path}")])
    chosen, _ = _of_one_kind(path, sorted(visible, key=lambda name: name.split("/")))
    if any(named[name].flag_bits & 1 for name in chosen):
        raise UnreadableFile(path, [(0, f"encrypted; unpack it with its password: 7z x {path}")])
    for name in chosen:
        info = named[name]
        yield DataFile(f"{path}/{name}", path, info.compress_size, lambda info=info: archive.open(info))  # type: ignore[misc]


def _member_name(info: zipfile.ZipInfo) -> str:
    """Windows writes Korean names in CP949 without saying so; zipfile then reads them as CP437."""
    if info.flag_bits & 0x800:
        return info.filename
    for encoding in ("utf-8", "cp949"):
        try:
            return info.filename.encode("cp437").decode(encoding)
        except UnicodeError:
            continue
    return info.filename
