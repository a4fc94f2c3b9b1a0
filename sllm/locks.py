"""One run writes an output at a time: a lock that names its holder. Standard library only.

The lock is the kernel's (`flock` on a small file), so that it ends with the process that holds it, however that ends;
what the file says is for the person who is refused.
"""

import atexit
import fcntl
import json
import os
import socket
import time
from datetime import datetime
from pathlib import Path

from sllm.cli import InputError, command_line

LOCK = ".lock"  # in a folder that a run writes
_held: dict[Path, int] = {}  # lock file → descriptor


def of_folder(folder: str | Path) -> Path:
    return Path(folder) / LOCK


def of_file(path: str | Path) -> Path:
    path = Path(path)
    return path.with_name(f".{path.name}{LOCK}")


def take(lock: Path) -> None:
    """Hold the lock until `release`, or the end of this process. Its own lock is taken again without a word.

    Raises:
        InputError: another process holds it; says which.
    """
    lock = lock.absolute()
    if lock in _held:
        if _is(lock, _held[lock]):
            return
        os.close(_held.pop(lock))  # its folder was removed meanwhile
    for _ in range(10):
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if _acquire(descriptor):
            if _is(lock, descriptor):
                break
            os.close(descriptor)  # the one before released it, and removed the file, between our two steps
        else:
            os.close(descriptor)
            time.sleep(0.02)  # held, or just being looked at
    else:
        raise InputError(_refusal(lock))
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "command": command_line()}
    holder["since"] = datetime.now().astimezone().isoformat(timespec="seconds")
    _held[lock] = descriptor
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, json.dumps(holder, ensure_ascii=False).encode() + b"\n")
    except OSError:  # a full disk
        release(lock)
        raise


def release(lock: Path) -> None:
    """Let go of the lock and remove its file; nothing where this process does not hold it."""
    lock = lock.absolute()
    descriptor = _held.pop(lock, None)
    if descriptor is None:
        return
    try:
        if _is(lock, descriptor):
            lock.unlink()  # before it is let go of: who takes it next has a file of their own
    except OSError:
        pass
    finally:
        os.close(descriptor)


def require_free(lock: Path) -> None:
    """InputError where another process holds the lock. Touches nothing."""
    if lock.absolute() in _held:
        return
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        free = _acquire(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)
    if not free:
        raise InputError(_refusal(lock))


def _acquire(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nothing is known, so nothing is refused
        return True
    return True


def _is(lock: Path, descriptor: int) -> bool:
    """Is the open file still the one of that name?"""
    try:
        return os.path.samestat(lock.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _refusal(lock: Path) -> str:
    output = lock.parent if lock.name == LOCK else lock.with_name(lock.name[1 : -len(LOCK)])
    try:
        holder = json.loads(lock.read_text(encoding="utf-8"))
        owner = f"process {holder['pid']} on {holder['host']} since {holder['since']}: `{holder['command']}`"
    except (OSError, ValueError, KeyError, TypeError):
        owner = "which just started"
    return f"{output} is being written by another run ({owner}); wait for it, stop it, or choose another output folder"


def _leave() -> None:
    for lock in list(_held):
        release(lock)


def _in_child() -> None:
    """A forked child shares the lock's open file: without this it would hold on to it after its parent's end."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


atexit.register(_leave)
os.register_at_fork(after_in_child=_in_child)
