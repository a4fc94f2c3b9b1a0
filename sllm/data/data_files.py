"""Files as they lie on disk → streams of their bytes: folders, globs, zip archives, compressed files. Standard library
only; zstandard through pyarrow."""

import bz2
import codecs
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
    notes: list[str] = []
    try:
        if not os.path.lexists(path) and glob.has_magic(path):
            names = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
            if not names:
                raise UnreadableFile(path, [(0, "no file matches; check the path")])
            files, empty = _expanded(names)
        elif os.path.isdir(path):
            files, empty, notes = _in_folder(path)
        else:
            files, empty = _expanded([path])
    except FileNotFoundError:
        raise UnreadableFile(path, [(0, "missing; check the path")]) from None
    except (OSError, ValueError) as error:
        raise UnreadableFile(path, [(0, f"cannot be read ({getattr(error, 'strerror', error)})")]) from None
    if not files:
        raise UnreadableFile(path, [(0, "no rows in it; give a file that has some")])
    if empty:
        notes.append(f"left out: {cli.plural(len(empty), 'empty file')}: {', '.join(cli.shorten(empty, 5))}")
    return files, notes


def files_in(folder: str) -> tuple[list[str], list[str]]:
    """The files in a folder at any depth, in sorted order, and notes about the folders in it that are left out: hidden
    ones and outputs of a stage, so that a stage that writes into its input folder does not read what it wrote."""
    names, left_out = [], []
    for parent, folders, files in os.walk(folder):
        if "run.json" in files and parent != folder:
            left_out.append(f"{parent} (a stage wrote it)")
            folders.clear()
            continue
        hidden = [name for name in folders if name.startswith((".", "__MACOSX"))]
        left_out += [f"{os.path.join(parent, name)} (hidden)" for name in hidden]
        folders[:] = [name for name in folders if name not in hidden]
        names += [os.path.join(parent, name) for name in files if not name.startswith(".")]
    names.sort(key=lambda name: name.split(os.sep))
    listed = ", ".join(cli.shorten(sorted(left_out), 5))
    return names, [f"left out: {cli.plural(len(left_out), 'folder')}: {listed}"] if left_out else []


def _in_folder(folder: str) -> tuple[list[DataFile], list[str], list[str]]:
    """The files, the names of empty ones and notes."""
    names, folder_notes = files_in(folder)
    if os.path.join(folder, "run.json") in names:
        raise UnreadableFile(folder, [(0, f"a folder that a stage wrote; name a file in it: {folder}/train.jsonl")])
    chosen, notes = _with_records(folder, names)
    files, empty = _expanded(chosen)
    without_rows = {*empty}
    filled = [name for name in chosen if name not in without_rows and suffix_of(name) in _KINDS]
    _require_one_kind(folder, filled, f"name one: '{folder}/**/*{Path(filled[0]).suffix}'" if filled else "")
    return files, empty, folder_notes + notes


def _with_records(whole: str, names: list[str]) -> tuple[list[str], list[str]]:
    """Those of the files whose suffix says that they hold records, the archives among them, and notes."""
    chosen = [name for name in names if suffix_of(name) in {*_KINDS, ".zip"}]
    if not chosen:
        listed = ", ".join(_KINDS)
        raise UnreadableFile(whole, [(0, f"no file with records in it; those that are read end in {listed} or .zip")])
    others = Counter(Path(name).suffix or "without a suffix" for name in {*names} - {*chosen})
    notes = [f"left out: {', '.join(f'{n} {suffix}' for suffix, n in others.most_common(8))}"] if others else []
    splits = {match[1].lower() for name in chosen for match in [_SPLIT.search(name[len(whole) :])] if match}
    if len(splits) > 1:
        notes.append(f"the files of {', '.join(sorted(splits))} are read together; to read one, name its files")
    return chosen, notes


def _require_one_kind(whole: str, names: list[str], fix: str) -> None:
    counts = Counter(_KINDS[suffix_of(name)] for name in names)
    if len(counts) > 1:
        listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        raise UnreadableFile(whole, [(0, f"files of several kinds ({listed}); {fix}")])


def _expanded(names: list[str]) -> tuple[list[DataFile], list[str]]:
    """The files, with the members of archives in their place, and the names of the empty ones, which are left out."""
    files: list[DataFile] = []
    empty: list[str] = []
    for name in names:
        found = _opened(name)
        filled: list[DataFile] = []
        for file in found:
            if _is_blank(file):
                empty.append(file.name)
            else:
                filled.append(file)
        if not found:
            empty.append(name)
        members = [file.name for file in filled if file.name != name]
        _require_one_kind(name, members, f"unpack it first, and name the files of one kind: unzip {name}")
        files += filled
    return files, empty


def _is_blank(file: DataFile) -> bool:
    """Nothing but white space and a byte order mark; not if it is damaged, which is reported when it is read."""
    blank = codecs.BOM_UTF8 + b" \t\r\n\v\f"
    try:
        with file.open() as stream:
            part = stream.read(2**12)
            if part.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                blank += codecs.BOM_UTF16_LE + b"\0"
            while part and not part.strip(blank):
                part = stream.read(2**12)
            return not part
    except UnreadableFile:
        return False


def _opened(name: str) -> list[DataFile]:
    """The file, or the members of an archive that hold records; none of an archive without members."""
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
    return list(_members(name, archive, members)) if members else []


def _members(path: str, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> Iterator[DataFile]:
    named = {_member_name(info): info for info in members}
    visible = [n for n in named if not any(part.startswith((".", "__MACOSX")) for part in n.split("/"))]
    if inner := [name for name in visible if suffix_of(name) == ".zip"]:
        raise UnreadableFile(path, [(0, f"{cli.plural(len(inner), 'zip archive')} inside it; unpack it: unzip {path}")])
    chosen, _ = _with_records(path, sorted(visible, key=lambda name: name.split("/")))
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
