"""What a folder is, by the contents of the files that decide its answers. Standard library only.

Large files are hashed once: their hashes are kept in `$XDG_CACHE_HOME/sllm/hashes.json` (`~/.cache` where that is not
set), by path, size, times and inode. Names of folders, times and `run.json` do not count, so that a copy of a model is
the same model.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sllm.cli import InputError

CACHED_FROM = 2**23  # bytes; smaller files are hashed faster than the cache is read and written
SETTLED = 2 * 10**9  # ns; a file as young as this may change once more within one tick of the file system's clock
_ENTRIES = 4096
_in_memory: dict[str, list] = {}  # what this process hashed, where the cache cannot be written

TOKENIZER_FILES = (
    "tokenizer*.json tokenizer.model *.tiktoken spiece.model sentencepiece.bpe.model special_tokens_map.json "
    "added_tokens.json vocab.json vocab.txt merges.txt chat_template.jinja chat_template.json "
    "additional_chat_templates/*.jinja"
).split()
TRAINING_TEXTS = "training_texts.npz"  # `sllm.training_texts`: what it was trained on, which no answer depends on
SPLITS = ("train.jsonl", "valid.jsonl", "test.jsonl", "kto.jsonl")
# Keys that say where a file came from and what wrote it, and nothing about what the model answers.
NOT_CONTENT = {
    "config.json": ("_name_or_path", "transformers_version"),
    "adapter_config.json": ("base_model_name_or_path",),
}
_WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


class Identity(NamedTuple):
    """sha256 over contents: of everything that decides the answers, and of weights and config alone."""

    hash: str | None
    weights: str | None


def is_adapter(folder: str | Path) -> bool:
    return (Path(folder) / "adapter_config.json").is_file()


def weight_files(folder: str | Path) -> list[str]:
    """Names of the files that a loader takes the weights from, with their index: safetensors first, as loaders do.

    Files that an index names are listed whether they exist or not.

    Raises:
        InputError: the index cannot be read.
    """
    folder = Path(folder)
    if is_adapter(folder):
        return [name for name in _ADAPTER_WEIGHTS if (folder / name).is_file()][:1]
    for single, index in _WEIGHTS:
        if (folder / single).is_file():
            return [single]
        if (folder / index).is_file():
            weight_map = read_json(folder / index).get("weight_map")
            if not weight_map or not is_weight_map(weight_map):
                raise InputError(f"{folder / index} names no weight files (weight_map); get the folder again")
            return [index, *sorted(set(weight_map.values()))]
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    return [path.name for path in weights if path.is_file()]


def is_weight_map(content: object) -> bool:
    """Is this the map of tensors to file names that a weight index holds?"""
    return isinstance(content, dict) and all(isinstance(name, str) for name in content.values())


def safetensors_header(path: Path) -> tuple[int, dict[str, dict]]:
    """(where the data start, tensor name → its "dtype", "shape" and "data_offsets") of a safetensors file: 8 bytes of
    header length, the header in JSON, the data. ValueError where the file has no such header."""
    with open(path, "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        if start > path.stat().st_size:
            raise ValueError("cut off")
        header = json.loads(file.read(start - 8))
    if not isinstance(header, dict):
        raise ValueError("not a JSON object")
    header.pop("__metadata__", None)
    return start, header


def is_damaged(path: Path) -> bool:
    """Is a safetensors file shorter or longer than its header says, or the header unreadable?"""
    try:
        start, header = safetensors_header(path)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        return path.stat().st_size != start + end
    except (ValueError, TypeError, LookupError):
        return True


def has_all_weights(folder: Path) -> bool:
    """Are all of a folder's weight files there? In the Hub's cache they come one after another."""
    names = weight_files(folder)
    return bool(names) and all((folder / name).is_file() for name in names)


def deciding_files(folder: str | Path) -> list[str]:
    """Names of the files that decide what a folder's product is: a model's or an adapter's, else the rows."""
    folder = Path(folder)
    weights = weight_files(folder)
    config = "adapter_config.json" if is_adapter(folder) else "config.json"
    if not weights and not (folder / config).is_file():
        return [name for name in SPLITS if (folder / name).is_file()]
    paths = [path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()]
    tokenizer = sorted({path.relative_to(folder).as_posix() for path in paths})
    return [*weights, *([config] if (folder / config).is_file() else []), *tokenizer]


def content_hashes(folder: str | Path, names: Sequence[str]) -> dict[str, str]:
    """sha256 of each file; of a config, its values without those that say where it came from, in any order."""
    folder = Path(folder)
    files = [name for name in names if name not in NOT_CONTENT]
    hashes = dict(zip(files, file_hashes([folder / name for name in files]), strict=True))
    for name in names:
        if name in NOT_CONTENT:
            content = {key: value for key, value in read_json(folder / name).items() if key not in NOT_CONTENT[name]}
            hashes[name] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {name: hashes[name] for name in names}


def identity(folder: str | Path) -> Identity:
    """A folder's identity; (None, None) where nothing in it decides any answer, weights None where there are none.

    Raises:
        InputError: a config is not JSON, or a file that the index names is missing.
    """
    folder = Path(folder)
    names, weights = deciding_files(folder), weight_files(folder)
    missing = [name for name in weights if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: {', '.join(missing)} is missing, which {weights[0]} names; get the folder again")
    hashes = content_hashes(folder, names)
    of_model = {name: value for name, value in hashes.items() if name in weights or name in NOT_CONTENT}
    return Identity(_combined(hashes) if hashes else None, _combined(of_model) if weights else None)


def folder_hash(path: str | Path) -> str | None:
    """sha256 of a file; of what decides a folder's product; the commit of a Hub id's copy in the cache; else None."""
    if Path(path).is_file():
        return file_hash(path)
    if Path(path).is_dir():
        return identity(path).hash
    from sllm import hub

    return hub.commit(str(path))


def file_hash(path: str | Path) -> str:
    return file_hashes([Path(path)])[0]


def file_hashes(paths: Sequence[Path]) -> list[str]:
    """sha256 of each file, from the cache where a file did not change; says how far it is when that takes long."""
    progress = _Progress(paths)
    return [_file_hash(path, progress) for path in paths]


def read_json(path: Path, fault: str = "cannot be read", fix: str = "get the folder again") -> dict:
    """A JSON object. InputError, which words it as `fault` and `fix`, for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; {fix}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} {fault} ({error}); {fix}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a JSON object; {fix}")
    return content


def _combined(hashes: dict[str, str]) -> str:
    return hashlib.sha256("".join(f"{name} {value}\n" for name, value in sorted(hashes.items())).encode()).hexdigest()


# ── files ──────────────────────────────────────────────────────────────────────────────────────────────────


def _file_hash(path: Path, progress: "_Progress") -> str:
    size, done = path.stat().st_size, progress.done
    if size < CACHED_FROM:
        return _read(path, progress)
    digest = remembered(path, "", lambda: _read(path, progress))
    progress.done = done + size  # read or not
    return digest


def remembered(path: Path, question: str, compute: Callable[[], str]) -> str:
    """What `compute` says of a large file; from the cache where the file did not change since.

    Args:
        question: what is computed: "" for the sha256.
    """
    path = path.resolve()
    started, key = time.time_ns(), f"{path}#{question}" if question else str(path)
    version = _version(path)
    for entry in (_in_memory.get(key), _load().get(key)):
        if isinstance(entry, list) and entry[:-1] == version:
            return entry[-1]
    value = compute()
    _, modified, changed, _ = version
    if max(modified, changed) < started - SETTLED and _version(path) == version:
        _in_memory[key] = [*version, value]
        _remember(key, _in_memory[key])
    return value


def _version(path: Path) -> list[int]:
    """What changes when a file does. The change time is there because a copying tool may set the other one back."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _read(path: Path, progress: "_Progress") -> str:
    digest, block = hashlib.sha256(), memoryview(bytearray(2**22))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
            progress.add(count)
    return digest.hexdigest()


class _Progress:
    """A line after 2 s of hashing, then one every 5 s."""

    def __init__(self, paths: Sequence[Path]):
        self.folder = paths[0].parent if paths else None
        self.size = sum(path.stat().st_size for path in paths if path.exists())
        self.done, self.started = 0, time.monotonic()
        self.next = self.started + 2

    def add(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now < self.next or self.done >= self.size:
            return
        self.next = now + 5
        seconds_left = (now - self.started) / self.done * (self.size - self.done)
        done, size = self.done / 2**30, self.size / 2**30
        print(f"hashing {self.folder}: {done:.1f} of {size:.1f} GiB, {seconds_left:.0f} s left", flush=True)


def _cache_file() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "sllm" / "hashes.json"


def _load() -> dict:
    try:
        content = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _remember(key: str, entry: list) -> None:
    """Add an entry to what the file holds by now; of two processes that write at once, one's entry may be lost."""
    cache = _cache_file()
    temporary = cache.with_name(f".{cache.name}.{os.getpid()}")
    entries = _load()
    entries.pop(key, None)  # the newest entry stands last
    entries[key] = entry
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(dict(list(entries.items())[-_ENTRIES:])), encoding="utf-8")
        temporary.replace(cache)
    except OSError:  # a home that cannot be written to, or a full disk: the next run hashes again
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
