"""The file system around an output: may it be written, is there room, and writing that is never seen half done.

Standard library only.
"""

import errno
import os
import shutil
from pathlib import Path

from sllm.cli import InputError


def nearest_folder(path: Path) -> Path:
    """The path itself where it exists, else the nearest parent that does."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def require_writable(folder: Path) -> None:
    """OSError for a folder in which nothing can be written, found without writing."""
    parent = nearest_folder(folder)
    if not parent.is_dir():
        raise NotADirectoryError(20, "a file is in the way", str(parent))
    if any(len(os.fsencode(part)) > os.pathconf(parent, "PC_NAME_MAX") for part in folder.parts):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(13, "no permission to write", str(parent))


def cannot_write(folder: Path, error: OSError) -> InputError:
    path_note = f": {error.filename}" if error.filename and str(error.filename) != str(folder) else ""
    return InputError(f"{folder} cannot be written ({error.strerror or error}{path_note}); name another folder")


def require_disk(folder: str | Path, needed: int, purpose: str) -> None:
    """InputError unless the file system of `folder` has `needed` bytes free."""
    parent = nearest_folder(Path(folder))
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise InputError(
            f"{purpose} needs {gib(needed)} of disk and {parent} has {gib(free)} free; free some, or write elsewhere"
        )


def gib(size: float) -> str:
    """Bytes for people: '3.20 GiB', and below a tenth of one '12.5 MiB', '3.1 KiB' or '40 bytes'."""
    if size >= 2**30 / 10:
        return f"{size / 2**30:.2f} GiB"
    for unit, unit_size in (("MiB", 2**20), ("KiB", 2**10)):
        if size >= unit_size:
            return f"{size / unit_size:.1f} {unit}"
    return f"{size:.0f} bytes"


def write_atomically(path: Path, text: str) -> None:
    """Write beside the file, flush to disk, then rename: a reader sees the old text or the new, never half. Nothing
    is left beside it when that fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        try:  # noqa: SIM105
            temporary.unlink(missing_ok=True)
        except OSError:
            pass  # the first error is the one to tell
        raise
