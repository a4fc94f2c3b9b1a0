"""gate.json: may a model be released? evaluate_model.py writes it (`sllm.evaluate.gate`), merged_weights.py requires
it. Standard library only."""

import json
from pathlib import Path
from typing import Any

from sllm import checkpoint
from sllm.cli import InputError
from sllm.hashes import file_hash

GATE, RESULTS = "gate.json", "results.json"


def require(folder: str | Path, adapter: str | Path) -> list[dict[str, Any]]:
    """The headline scores of `adapter`, which has to have passed the gate in `folder`.

    Returns:
        for each suite: its English name, metric, unit, value, low, high (95 % interval) and n, of what is held out.
    Raises:
        InputError: gate.json is missing or outdated, the model did not pass, or another model was evaluated.
    """
    path, command = Path(folder) / GATE, f"`python evaluate_model.py --gate OLD NEW --output_dir {folder} …`"
    record, results = _read(path), _read(path.with_name(RESULTS))
    if not {"passed", "reasons", "new", "new_name", "new_source", "results"} <= record.keys():
        raise InputError(f"--require_gate {folder}: {path} is damaged; make it again: {command}")
    if record["results"] != file_hash(path.with_name(RESULTS)):
        raise InputError(f"--require_gate {folder}: {RESULTS} is newer than {GATE}; decide again: {command}")
    if not record["passed"]:
        raise InputError(f"--require_gate {folder}: {record['new']} did not pass: {'; '.join(record['reasons'])}")
    source = record["new_source"]
    settings = source.get("settings") or source  # of answers, or of a model that was asked in other ways
    if "adapter" not in settings:
        raise InputError(
            f"--require_gate {folder}: it is not recorded which model gave the answers of {record['new']}; evaluate "
            f"answers of vllm_inference.py, or the model itself: {command}"
        )
    if settings["adapter"] != checkpoint.folder_hash(adapter):
        raise InputError(
            f"--require_gate {folder}: {record['new']} is another model than {adapter} (its adapter has another hash); "
            f"evaluate this one: {command}"
        )
    scores = results["models"][record["new_name"]]["scores"]
    found = []
    for name, suite in results["suites"].items():
        if suite["headline"] in scores[name]:
            metric, mean = suite["metrics"][suite["headline"]], scores[name][suite["headline"]]
            words = {"suite": suite["en"], "metric": metric["en"], "unit": metric.get("unit", "share")}
            found.append(words | {key: mean.get("clean", mean)[key] for key in ("value", "low", "high", "n")})
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(
            f"--require_gate {path.parent}: no {path.name}; make it with `python evaluate_model.py --gate OLD NEW "
            f"--output_dir {path.parent} …`"
        ) from None
    return record
