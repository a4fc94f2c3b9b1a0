"""Reading `run.json`: is a folder complete, and are its files what the stage wrote? Standard library only."""

import json
import shlex
from pathlib import Path

from sllm import hashes

RUN_FILE = "run.json"
UNFINISHED = ".unfinished"
COMPLETE = "complete"  # in a checkpoint-N, written last
STAGE_COMMAND = {
    "base": "python -m sllm.tiny_base --output_dir {0}",
    "data": "python prepare_data.py --input_path FILE --output_dir {0}",
    "sft": "python train_LoRA_SFT.py --trainset_path data/train.jsonl --model_id MODEL --output_dir {0}",
    "dpo": "python train_LoRA_DPO.py --trainset_path pairs.jsonl --model_id SFT_ADAPTER --output_dir {0}",
    "merged": "python merged_weights.py --model_id ADAPTER --merged_weights_path {0}",
    "evaluation": "python evaluate_model.py --models NAME=PATH --output_dir {0}",
}
_EDITABLE = ("generation_config.json",)  # sampling defaults: recorded, and a change is told, not refused


def read_run(folder: str | Path) -> dict | None:
    """The folder's `run.json`, or None for a folder (or Hub id) that carries none. InputError for a damaged one."""
    path = Path(folder) / RUN_FILE
    return hashes.read_json(path) if path.is_file() else None


def recorded(folder: str | Path) -> dict[str, dict]:
    """What `run.json` keeps of the files that decide a folder's product, and of the signature of its training texts:
    name → sha256 of the content, and bytes.

    The sha256 of config.json and adapter_config.json is of their values, without those that say where they came from:
    a folder may be moved, and `bytes` is not compared.
    """
    folder = Path(folder)
    beside = (*_EDITABLE, hashes.TRAINING_TEXTS)
    names = [*hashes.deciding_files(folder), *(name for name in beside if (folder / name).is_file())]
    digests = hashes.content_hashes(folder, names)
    return {name: {"sha256": digests[name], "bytes": (folder / name).stat().st_size} for name in names}


def problems(folder: str | Path, record: dict | None) -> list[str]:
    """Everything that shows that a folder is not whole, or not what its stage wrote."""
    folder = Path(folder)
    if record is None:
        return [unfinished(folder)] if (folder / UNFINISHED).exists() else []
    files = record.get("files")
    if not files:
        return []
    changed = [f"{folder / name} {change}" for name, change in changes(folder, files).items() if name not in _EDITABLE]
    if not changed:
        return []
    command = STAGE_COMMAND.get(record.get("stage"), "the stage that wrote it").format(folder)
    repair = f"get the folder again, or make it again with `{command}`"
    return [f"{'; '.join(changed)}; {repair}; if the change is intended: python -m sllm.accept {folder}"]


def changes(folder: Path, files: dict[str, dict]) -> dict[str, str]:
    """Files that are no longer as recorded: name → what is wrong. Sizes first, because they cost nothing."""
    changed: dict[str, str] = {}
    present = []
    for name, known in files.items():
        path = folder / name
        if not path.is_file():
            changed[name] = "is missing"
        elif name not in hashes.NOT_CONTENT and path.stat().st_size != known["bytes"]:
            changed[name] = f"has {path.stat().st_size:,} bytes, {known['bytes']:,} were written"
        else:
            present.append(name)
    for name, value in hashes.content_hashes(folder, present).items():
        if value != files[name]["sha256"]:
            changed[name] = f"was changed since (sha256 {short(value)}, recorded {short(files[name]['sha256'])})"
    for name in hashes.deciding_files(folder):
        if name not in files:
            changed[name] = "was added since"
    return changed


def notes(folder: str | Path, record: dict | None) -> list[str]:
    """What is not verified of a folder that is accepted, for a stage to print."""
    if record is None:
        return [f"{folder} was not made here (it has no {RUN_FILE}): its weights are not verified"]
    if not record.get("files"):
        return [
            f"{folder} was made by an older version, whose {RUN_FILE} has no hashes of its files: its weights are not "
            f"verified; to record them as they are: python -m sllm.accept {folder}"
        ]
    edited = [name for name in _EDITABLE if name in changes(Path(folder), record["files"])]
    return [f"{Path(folder) / name} was edited since the folder was written" for name in edited]


def unfinished(folder: Path) -> str:
    """One line for a folder whose stage did not finish: how to continue."""
    resumable = any(folder.glob(f"checkpoint-*/{COMPLETE}")) or any(folder.glob("*_calls.jsonl"))  # of sllm.api_calls
    flag, other = ("--resume", "--overwrite") if resumable else ("--overwrite", "--resume")
    try:
        command = json.loads((folder / UNFINISHED).read_text(encoding="utf-8"))["command"]
        words = [word for word in shlex.split(command) if word not in (flag, other)] + [flag]
        again = f"`{shlex.join(words)}`"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # an empty one, or of an older version
        again = f"its own command and {flag}"
    verb = "resume it" if resumable else "start it over"
    state = f"is unfinished (no {RUN_FILE}): the run that writes it was stopped, or is still running"
    return f"{folder} {state}; {verb} with {again}"


def short(value: str | None) -> str:
    return f"{value[:12]}…" if value else "unknown"


def peak_rss() -> int:
    """Largest resident memory of this process so far, in bytes. VmHWM, because ru_maxrss may be a parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
