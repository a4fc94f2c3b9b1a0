"""Tokenized rows on disk: what a trainer reads of a large file is encoded once, and memory-mapped by every later run.

An entry is a folder, named by all that decides its contents (see `identity`):

    sequences.arrow  the token columns; `labels` are runs, see `sllm.data.labels`
    rows.arrow       numbers of each row, see `sllm.data.encoded_rows.Part`
    texts.npz        hashes of the texts, for training_texts.npz
    meta.json        what is to be said of the rows, and the sizes of the other files

It is written under another name, and renamed when it is whole. An entry that was not used for `UNUSED_DAYS` is removed
when another one is written.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sllm import checkpoint, hashes
from sllm.cli import InputError
from sllm.data.encoded_rows import Encoder, Joined, Part, Remarks, Texts
from sllm.disk import cannot_write, gib, write_atomically
from sllm.training_texts import Signature

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEQUENCES, ROWS, TEXTS, META = "sequences.arrow", "rows.arrow", "texts.npz", "meta.json"
UNUSED_DAYS = 30
_PACKAGE = Path(__file__).parent.parent
_CODE = ("data/*.py", "tasks/*.py", "chat.py", "turns.py", "text_hashes.py", "training_texts.py")
_LIBRARIES = ("tokenizers", "transformers", "jinja2")
_ARRAYS = ("runs", "counts", "wholes", "whole_counts")


def root(folder: str | None) -> Path:
    """--cache_dir, or a folder in the cache of Hugging Face's datasets."""
    if folder:
        return Path(folder)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    return Path(os.environ.get("HF_DATASETS_CACHE") or os.path.join(home, "datasets")) / "sllm_tokens"


def identity(path: str, row_format: str, encoder: Encoder) -> dict[str, Any]:
    """All that decides how the rows of a file are encoded: its content, the tokenizer with its chat template, the
    flags, and the code (of the same commit it is the same), so that no constant has to be kept up to date."""
    return {
        "data": checkpoint.file_hash(path),
        "format": row_format,
        "kind": encoder.kind,
        "tokenizer": tokenizer_hash(encoder.tokenizer),
        "max_length": encoder.max_length,
        "train_on_inputs": encoder.train_on_inputs,
        "code": _code_hash(),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    }


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """sha256 of what the tokenizer saves, its chat template included."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        digest = hashlib.sha256()
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                if path.name == "tokenizer_config.json":  # where it was read is no content
                    values = json.loads(content)
                    values.pop("name_or_path", None)
                    content = json.dumps(values, sort_keys=True).encode()
                digest.update(f"{path.relative_to(folder)} {len(content)}\n".encode() + content)
        return digest.hexdigest()


def _code_hash() -> str:
    paths = sorted(path for pattern in _CODE for path in _PACKAGE.glob(pattern))
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in paths)).hexdigest()


def entry_of(folder: Path, identity: dict[str, Any]) -> Path:
    return folder / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


# ── an entry ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Entry:
    """A whole entry; `sequences` and `rows` are memory-mapped."""

    folder: Path
    sequences: pa.Table
    rows: pa.Table
    remarks: Remarks
    created: str
    size: int

    def texts(self) -> Texts:
        with np.load(self.folder / TEXTS, allow_pickle=False) as file:
            rows, systems = (
                Signature(**{array: file[f"{name}_{array}"] for array in _ARRAYS}, every=int(file[f"{name}_every"]))
                for name in ("rows", "systems")
            )
            return Texts(rows, systems, file["system_hashes"], file["system_lengths"])


def read(folder: Path) -> Entry | None:
    """The entry; None where it is missing, or not whole."""
    try:
        meta = hashes.read_json(folder / META)
        sizes: dict[str, int] = meta["files"]
        if any((folder / name).stat().st_size != size for name, size in sizes.items()):
            return None
        sequences, rows = (_mapped(folder / name) for name in (SEQUENCES, ROWS))
        os.utime(folder / META)  # it was used
        remarks = Remarks.from_json(meta["remarks"])
        return Entry(folder, sequences, rows, remarks, meta["created"], sum(sizes.values()))
    except (OSError, InputError, pa.ArrowInvalid, LookupError, TypeError, ValueError):
        return None


def _mapped(path: Path) -> pa.Table:
    return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()


def write(folder: Path, identity: dict[str, Any], source: str, parts: Iterable[Part]) -> Entry:
    """Write an entry of the parts of `source`, one after another, and return it.

    Raises:
        InputError: the folder cannot be written, or its disk is full; or the source was changed meanwhile.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    before = os.stat(source)
    try:
        temporary.mkdir(parents=True)
        joined = _write_parts(temporary, parts)
        meta = {
            "source": str(Path(source).resolve()),
            "created": datetime.now().astimezone().isoformat(timespec="seconds"),
            "identity": identity,
            "remarks": joined.remarks.as_json(),
            "files": {name: (temporary / name).stat().st_size for name in (SEQUENCES, ROWS, TEXTS)},
        }
        write_atomically(temporary / META, json.dumps(meta, ensure_ascii=False))
        after = os.stat(source)
        if (before.st_size, before.st_mtime_ns, before.st_ino) != (after.st_size, after.st_mtime_ns, after.st_ino):
            raise InputError(f"{source} was changed while it was read; run again")
        if read(folder) is None:  # else another run was faster
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
    except OSError as error:
        raise _cannot_keep(folder.parent, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    entry = read(folder)
    if entry is None:
        raise InputError(f"{folder} cannot be read after it was written; name another folder with --cache_dir")
    return entry


def _write_parts(folder: Path, parts: Iterable[Part]) -> Joined:
    joined, writer = Joined(), None
    with open(folder / SEQUENCES, "wb") as file:
        for part in parts:
            writer = writer or pa.ipc.new_stream(file, part.sequences.schema)
            writer.write_table(part.sequences)
            joined.add(part)
        if writer:
            writer.close()
        _sync(file)
    with open(folder / ROWS, "wb") as file:
        with pa.ipc.new_stream(file, joined.rows.schema) as rows:
            rows.write_table(joined.rows)
        _sync(file)
    texts = joined.texts
    signatures = {"rows": texts.rows, "systems": texts.systems}
    names = (*_ARRAYS, "every")
    arrays = {f"{name}_{array}": getattr(each, array) for name, each in signatures.items() for array in names}
    with open(folder / TEXTS, "wb") as file:
        np.savez(file, system_hashes=texts.system_hashes, system_lengths=texts.system_lengths, **arrays)
        _sync(file)
    return joined


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _cannot_keep(folder: Path, error: OSError) -> InputError:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(
            f"the disk of {folder}, where tokenized rows are kept, is full; free some space, or name another folder "
            "with --cache_dir"
        )
    return InputError(f"{cannot_write(folder, error)} with --cache_dir")


def remove_unused(folder: Path) -> None:
    """Remove the entries that were not used for `UNUSED_DAYS`, and what killed runs left, and say so."""
    oldest, removed, size = time.time() - UNUSED_DAYS * 86400, 0, 0
    for entry in folder.iterdir() if folder.is_dir() else ():
        try:
            is_entry = (entry / META).is_file()
            used = (entry / META if is_entry else entry).stat().st_mtime
            if used < (oldest if is_entry else time.time() - 86400) and (is_entry or entry.name.startswith(".")):
                size += sum(path.stat().st_size for path in entry.iterdir())
                shutil.rmtree(entry)
                removed += 1
        except OSError:  # another run removes it
            continue
    if removed:
        print(f"tokens: {removed} not used for {UNUSED_DAYS} days removed from {folder}, {gib(size)}")
