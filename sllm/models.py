"""The model that a stage reads: whole, unchanged, and an adapter on the base that it was trained on, by content.

Standard library only.
"""

import difflib
import os
from pathlib import Path

from sllm import finite, hashes, hub, runs
from sllm.cli import InputError
from sllm.hashes import is_adapter
from sllm.runs import short


def require_model(model_id: str, *, base_model: str | None = None) -> tuple[str, str | None]:
    """Check a model or adapter before anything heavy is imported.

    Returns:
        (base, adapter): the model to load, and the adapter folder on it or None.
    Raises:
        InputError: folder missing, unfinished or changed since it was written, no tokenizer, a Hub id that cannot be
            had, an adapter whose base is missing or has other contents than the one it was trained on.
    """
    if not Path(model_id).exists():
        similar = _similar_folder(Path(model_id))
        hint = f"; did you mean {similar}?" if similar else ""
        if hub.is_id(model_id):
            hub.require(model_id, hint)
            return model_id, None
        raise InputError(
            f"model folder {model_id} is missing; give a folder with config.json, or a Hub id (org/name){hint}"
        )
    folder = Path(model_id)
    problems = _of_folder(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        problems.append(f"{folder} has no tokenizer (tokenizer.json); copy the base model's tokenizer files into it")
    if is_adapter(folder):
        base, base_problems = _find_base(folder, base_model)
        problems += base_problems
    elif base_model:
        problems.append(f"--base_model {base_model}: {folder} is a full model and has no base; leave the flag out")
    if problems:
        raise InputError(problems)
    return (base, model_id) if is_adapter(folder) else (model_id, None)


def _similar_folder(path: Path) -> Path | None:
    """A model or adapter beside the folder that is missing, with a similar name."""
    models = {file.parent for name in ("config.json", "adapter_config.json") for file in path.parent.glob(f"*/{name}")}
    close = difflib.get_close_matches(path.name, [model.name for model in models], 1)
    return path.parent / close[0] if close else None


def require_base(adapter: str | Path, base: str) -> None:
    """InputError unless the adapter was trained on `base`: by what its stage recorded, else by its config."""
    record = runs.read_run(adapter) or {}
    if _contents(record):
        wrong = _mismatch(Path(adapter), record, base)
        if wrong:
            raise InputError(wrong)
        return
    recorded_base = hashes.read_json(Path(adapter) / "adapter_config.json").get("base_model_name_or_path") or ""
    if recorded_base != base and (_identity(base) is None or _identity(recorded_base) != _identity(base)):
        raise InputError(
            f"adapter {adapter} was trained on {recorded_base}, which is not {base}; serve it on its own base"
        )


def notes(model_id: str | Path, base: str | None = None) -> list[str]:
    """What could not be verified of a model that `require_model` accepted: lines to print, none where all was.

    Args:
        base: the base of an adapter, as `require_model` returned it.
    """
    if not Path(model_id).is_dir():
        return hub.notes(str(model_id))
    record = runs.read_run(model_id)
    texts = runs.notes(model_id, record)
    if not is_adapter(model_id) or base is None:
        return texts
    texts += hub.notes(base)
    recorded, contents = _contents(record or {}), _identity(base)
    if recorded and recorded == contents:
        return texts
    if not recorded:
        texts.append(f"{model_id} does not record the hash of its base; {base} is assumed to be it")
    elif contents is None:
        texts.append(f"{base} is not on this machine yet, so it is not compared with the base of {model_id}")
    else:
        path = record["base"]["path"]
        texts.append(
            f"{model_id} was trained on {path}, which is quantised; {base} is assumed to be its 16-bit original"
        )
    return texts + (runs.notes(base, runs.read_run(base)) if Path(base).is_dir() else [])


def base_record(product: str | Path, base: str | None) -> dict | None:
    """What `run.json` keeps of the base that a product was made with.

    Returns:
        path (absolute, or the Hub id); relative: the same seen from the product, None where they share no folder but
        the root; hash, weights: `hashes.Identity`, or None where it is not on this machine; commit of a Hub id's
        copy; quantised: are its own files quantised?
    """
    if not base:
        return None
    folder = _folder(base)
    identity = hashes.identity(folder) if folder and hashes.has_all_weights(folder) else hashes.Identity(None, None)
    record = {"path": base, "relative": None, **identity._asdict(), "commit": None, "quantised": _is_quantised(base)}
    if Path(base).is_dir():
        path, product = os.path.realpath(base), os.path.realpath(product)
        one_tree = os.path.commonpath([path, product]) != os.path.sep
        return record | {"path": path, "relative": os.path.relpath(path, product) if one_tree else None}
    return record | {"commit": hub.commit(base)}


def find(folder: str | Path, record: dict, path: str) -> str:
    """A path that `folder`'s `run.json` names, where it lies now: as written, else moved along with the folder."""
    if os.path.exists(path) or not record.get("folder"):
        return path
    moved = os.path.normpath(os.path.join(folder, os.path.relpath(path, record["folder"])))
    return moved if os.path.exists(moved) else path


def _of_folder(folder: Path) -> list[str]:
    """What is wrong with the folder itself."""
    record = runs.read_run(folder)
    problems = runs.problems(folder, record)
    if problems and record is None:
        raise InputError(problems)  # what else it lacks is not new
    if not is_adapter(folder) and not (folder / "config.json").is_file():
        unfinished = "; resume the run that writes it with --resume" if any(folder.glob("checkpoint-*")) else ""
        raise InputError(f"{folder} is neither a model (config.json) nor an adapter{unfinished}")
    weights = hashes.weight_files(folder)
    missing_files = [name for name in weights if not (folder / name).is_file()]
    if not weights:
        problems.append(f"{folder} has no weights (*.safetensors)")
    elif missing_files and not problems:
        problems.append(
            f"{folder}: {', '.join(missing_files)} is missing, which {weights[0]} names; get the folder again"
        )
    if not problems:
        damaged = [name for name in weights if name.endswith(".safetensors") and hashes.is_damaged(folder / name)]
        problems += [f"{folder / name} is damaged or cut off; get it again" for name in damaged]
    if not problems and not (record or {}).get("files"):  # what our stages write is finite
        problems += finite.problems(folder)
    return problems


def _find_base(adapter: Path, base_model: str | None) -> tuple[str, list[str]]:
    """(base, what is wrong): --base_model, else the place in the adapter's config, else, where that is as it was
    written, the same seen from the folder as it lies now: base and adapter may have been moved together."""
    record = runs.read_run(adapter) or {}
    config = hashes.read_json(adapter / "adapter_config.json").get("base_model_name_or_path") or ""
    base_entry = record.get("base") or {}
    candidates = [base_model] if base_model else [config]
    if (
        not base_model
        and base_entry.get("relative")
        and os.path.realpath(config) == os.path.realpath(base_entry["path"])
    ):
        candidates.append(os.path.normpath(adapter / base_entry["relative"]))
    first = None
    for candidate in candidates:
        if candidate and (Path(candidate) / "config.json").is_file():
            problems = _of_folder(Path(candidate)) or [_mismatch(adapter, record, candidate)]
        elif hub.is_id(candidate):
            hub.require(candidate)
            problems = [_mismatch(adapter, record, candidate)]
        else:
            continue
        problems = [line for line in problems if line]
        if not problems:
            return candidate, []
        first = first or (candidate, problems)
    message = f"adapter {adapter}: its base model {candidates[0] or '(none named)'} is missing; name it: --base_model"
    return first or (candidates[0], [message])


def _mismatch(adapter: Path, record: dict, base: str) -> str | None:
    """What to say of a base whose weights or config are not those that the adapter was trained on."""
    recorded, actual = _contents(record), _identity(base)
    if None in (recorded, actual) or recorded == actual:
        return None
    base_entry = record["base"]
    if base_entry.get("quantised") and not _is_quantised(base):
        return None  # trained in 4 bits, and used with its original: no hash can tell, the shapes have to
    accept = f"or, if the change is intended: python -m sllm.accept {adapter} --base_model {base}"
    current_path = find(adapter, record, base_entry["path"])
    if os.path.realpath(base) == os.path.realpath(current_path):
        return (
            f"adapter {adapter}: its base model {base} has changed since (weights and config {short(actual)}, recorded "
            f"{short(recorded)}); restore it, or train again, {accept}"
        )
    return (
        f"adapter {adapter} was trained on {base_entry['path']} (weights and config {short(recorded)}), which is not "
        f"{base} ({short(actual)}); name that one: --base_model, {accept}"
    )


def _contents(record: dict) -> str | None:
    """The hash of weights and config that a `run.json` has of its base."""
    return (record.get("base") or {}).get("weights")


def _identity(base: str) -> str | None:
    """Hash of a base's weights and config; None for what is not on this machine."""
    folder = _folder(base)
    return hashes.identity(folder).weights if folder and hashes.has_all_weights(folder) else None


def _folder(base: str) -> Path | None:
    return Path(base) if Path(base).is_dir() else hub.snapshot(base)


def _is_quantised(base: str) -> bool:
    folder = _folder(base)
    config = folder / "config.json" if folder else None
    return bool(config and config.is_file() and hashes.read_json(config).get("quantization_config"))
