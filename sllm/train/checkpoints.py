"""Checkpoints of a training run that are known to be complete: each `checkpoint-N` gets a marker, written last, with
the hash of every file."""

import json
from pathlib import Path

from sllm import checkpoint, runs

COMPLETE = runs.COMPLETE


def mark_complete(folder: Path, arguments: dict) -> None:
    """Write the marker that makes a `checkpoint-N` complete: the sha256 of each of its files, and what the run was
    started with."""
    files = {str(path.relative_to(folder)): checkpoint.file_hash(path) for path in _files(folder)}
    checkpoint.write_atomically(folder / COMPLETE, json.dumps({"files": files, "arguments": arguments}))


def read_marker(folder: Path) -> dict:
    """{"files", "arguments"} of a checkpoint; ValueError with the reason where it cannot be resumed from."""
    try:
        marker = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        recorded, _ = marker["files"], marker["arguments"]
    except FileNotFoundError:
        raise ValueError("it was not written to its end") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"its {COMPLETE} file is damaged") from None
    present = {str(path.relative_to(folder)) for path in _files(folder)}
    faults = [f"{name} is missing" for name in sorted(recorded.keys() - present)]
    for name in sorted(recorded.keys() & present):
        if checkpoint.file_hash(folder / name) != recorded[name]:
            faults.append(f"{name} has changed")
    if faults:
        raise ValueError("; ".join(faults))
    return marker


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != COMPLETE]


def latest_checkpoint(folder: str | Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest `checkpoint-N` of a run whose files are just what was written, and why each newer one is not it.

    A kill can leave a half-written checkpoint behind, and files get lost or damaged later; resuming from one would
    end in another curve, or in a traceback.
    """
    folders = sorted(Path(folder).glob("checkpoint-[0-9]*"), key=lambda path: -int(path.name.split("-")[1]))
    passed_over = {}
    for path in folders:
        try:
            read_marker(path)
        except ValueError as error:
            passed_over[path] = str(error)
        else:
            return path, passed_over
    return None, passed_over
