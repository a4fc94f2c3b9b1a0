"""What a suite found by asking a model, in a file of its own with what decided it, so that it is not asked again."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from sllm import checkpoint, cli
from sllm.evaluate import lm_eval_scores, retention_scores, zero_shot
from sllm.evaluate.suites import Measured
from sllm.evaluate.zero_shot import TestSet
from sllm.hashes import file_hash


def measure_once(
    path: Path, settings: dict[str, Any], inputs: Iterable[str | None], measure: Callable[[], Any], *, resume: bool
) -> None:
    """Write what `measure` returns, unless `resume` and it is there already, by the same settings.

    Args:
        inputs: files and folders that decide it, too; None is left out.
    """
    settings = cli.json_safe(settings | {"inputs": {name: _content(Path(name)) for name in inputs if name}})
    if resume and path.is_file():
        try:
            if json.loads(path.read_text(encoding="utf-8"))["settings"] == json.loads(json.dumps(settings)):
                cli.say(path.parent.name, "is there already")
                return
        except (ValueError, LookupError):
            pass  # of something else
    path.parent.mkdir(parents=True, exist_ok=True)
    record = cli.json_safe({"settings": settings, "found": measure()})
    checkpoint.write_atomically(path, json.dumps(record, ensure_ascii=False) + "\n")


def scores(suite: str, folder: Path, models: Sequence[str], sets: list[TestSet], styles: Sequence[str]) -> Measured:
    """What was found of every model, as scores."""
    of_models = {name: json.loads((folder / suite / f"{name}.json").read_text("utf-8"))["found"] for name in models}
    if suite == "zero_shot":
        return zero_shot.measured(sets, styles, of_models)
    if suite == "lm_eval":
        return lm_eval_scores.measured(of_models)
    return retention_scores.measured(of_models)


def _content(path: Path) -> Any:
    if path.is_dir():
        files = [one for one in sorted(path.rglob("*")) if one.is_file() and "__pycache__" not in one.parts]
        return {str(one.relative_to(path)): file_hash(one) for one in files}
    return file_hash(path)
