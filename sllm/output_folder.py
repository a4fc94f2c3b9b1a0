"""Output folders and files of a stage: what may be written over, and by one run at a time. Standard library only."""

import json
import os
import shutil
from pathlib import Path

from sllm import locks, runs
from sllm.cli import InputError, command_line
from sllm.disk import cannot_write, require_writable, write_atomically
from sllm.runs import RUN_FILE, UNFINISHED

# All that a run leaves which ended before its first checkpoint was complete: nothing that anyone would miss.
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
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        locks.require_free(locks.of_folder(folder))
        require_writable(folder)
    except OSError as error:
        raise cannot_write(folder, error) from None
    if not resume and not _is_failed_start(folder, names):
        if not overwrite:
            raise InputError(f"{folder} exists; replace it with --overwrite, or name another folder")
        if RUN_FILE not in names and UNFINISHED not in names:
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
        raise cannot_write(folder, error) from None
    return folder


def require_distinct(folder: str | Path, *reads: str | Path | None) -> None:
    """InputError where a folder that is going to be emptied is, or holds, something that the run reads.

    Args:
        reads: paths; None, and what does not exist here (a Hub id, a template's name), are passed over.
    """
    out = Path(folder).resolve()
    inside = [str(path) for path in reads if path and os.path.exists(path) and Path(path).resolve().is_relative_to(out)]
    problems = [
        f"{path} {'is' if Path(path).resolve() == out else 'lies in'} {folder}, which --overwrite empties, and this "
        "run reads it; name another output folder"
        for path in dict.fromkeys(inside)
    ]
    if problems:
        raise InputError(problems)


def _is_failed_start(folder: Path, names: list[str]) -> bool:
    """Does a folder of these files hold only what a run leaves that ended before its first complete checkpoint?"""
    created_here = UNFINISHED in names or names in ([], [locks.LOCK])
    complete = [path.parent.name for path in folder.glob(f"checkpoint-*/{runs.COMPLETE}")]
    return created_here and all(
        name in _FAILED_START
        or name.startswith(tuple(f".{file}." for file in _FAILED_START))  # beside a file that was being written
        or (name.startswith("checkpoint-") and name not in complete)
        for name in names
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


def hold(path: str | Path) -> None:
    """Hold the lock of an output that is a single file, until `release` or the end of this process.

    Raises:
        InputError: another run writes it, or its folder cannot be written.
    """
    try:
        locks.take(locks.of_file(path))
    except OSError as error:
        raise cannot_write(Path(path), error) from None


def release(path: str | Path) -> None:
    """Let go of what `hold` took."""
    locks.release(locks.of_file(path))


def require_free(path: str | Path) -> None:
    """InputError where another run holds this output file. Touches nothing."""
    locks.require_free(locks.of_file(path))
