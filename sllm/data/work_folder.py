"""The folder in which a preparation collects its rows until it is done, beside its output. Standard library only."""

import json
import shutil
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sllm import cli, locks
from sllm.cli import InputError
from sllm.data.parallel import WorkerKilled
from sllm.disk import cannot_write, write_atomically

SETTINGS = "settings.json"
# What a run may be resumed with in another way.
_FREE = ("output_dir", "overwrite", "resume", "num_proc", "strict", "skip_bad_rows")


def path_of(output_dir: str | Path) -> Path:
    output = Path(output_dir).absolute()
    return output.with_name(f".{output.name}.unfinished")


@contextmanager
def of(args: Namespace, files: Sequence[str]) -> Iterator[Path]:
    """The folder, locked: empty, or with --resume as the stopped run left it. `files`: all that are read.

    It is removed at the end and where the input is bad. A run that is stopped otherwise leaves it, and `Interrupted`
    says how to continue.

    Raises:
        InputError: nothing to resume; or what was begun had other settings or other files.
    """
    folder = path_of(args.output_dir)
    settings = _settings(args, files)
    if args.resume:
        _require_same(folder, settings, args.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        locks.take(locks.of_folder(folder))
        if not args.resume:
            if (folder / SETTINGS).exists():
                print(
                    f"note: a run of {args.output_dir} was stopped before; this one begins again (--resume continues)"
                )
            for path in folder.iterdir():
                if path.name != locks.LOCK:
                    path.unlink()
            write_atomically(folder / SETTINGS, json.dumps(settings, ensure_ascii=False))
    except OSError as error:
        raise cannot_write(folder, error) from None
    try:
        yield folder
        shutil.rmtree(folder)
    except WorkerKilled as error:
        command = cli.command_line(drop=["--overwrite"], add=["--resume"])
        raise InputError(f"{error.problems[0]}; to resume: {command} --num_proc 1") from None
    except InputError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except KeyboardInterrupt:
        raise cli.Interrupted(cli.command_line(add=["--resume"])) from None
    finally:
        locks.release(locks.of_folder(folder))


def _settings(args: Namespace, files: Sequence[str]) -> dict[str, Any]:
    """All that decides the rows: the flags, and size and time of each file."""
    flags = {name: value for name, value in vars(args).items() if name not in _FREE}
    stats = {}
    for name in files:
        stat = Path(name).stat()
        stats[name] = [stat.st_size, stat.st_mtime_ns]
    settings: dict[str, Any] = json.loads(json.dumps({"flags": flags, "files": stats}, default=str))
    return settings


def _require_same(folder: Path, settings: dict[str, Any], output_dir: str) -> None:
    if not (folder / SETTINGS).exists():
        raise InputError(f"there is no stopped run of {output_dir} to resume; leave --resume out")
    before = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    both = before["flags"].keys() | settings["flags"].keys()
    changed = sorted(f"--{name}" for name in both if before["flags"].get(name) != settings["flags"].get(name))
    names = before["files"].keys() | settings["files"].keys()
    changed += sorted(name for name in names if before["files"].get(name) != settings["files"].get(name))
    if changed:
        raise InputError(f"{', '.join(changed)} changed since the run was stopped; leave --resume out to begin again")
