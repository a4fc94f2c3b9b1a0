"""Licences of what a model is made of: recorded by prepare_data.py, listed in the model card, told where they forbid
commercial use."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sllm import runs

# Creative Commons' -NC-, and the words that other licences use.
_NON_COMMERCIAL = re.compile(
    r"(?<![a-z])nc(?![a-z])|non-?\s?commercial|research[\s_-]?(use[\s_-]?)?only|academic[\s_-]?(use|research|purpose)|비영리|비상업|상업적?\s?(이용|사용|목적)[^.]{0,8}(금지|불가|제한)|연구\s?(목적|용)",
    re.IGNORECASE,
)


def is_non_commercial(license: str | None) -> bool:
    """Does the name of a licence say that it forbids commercial use?"""
    return bool(license and _NON_COMMERCIAL.search(license))


def of_model(model: str | Path) -> str | None:
    """The licence in the model card (README.md) of a folder, or of the cached copy of a Hub id; None: not known."""
    from huggingface_hub import metadata_load, try_to_load_from_cache
    from yaml import YAMLError  # type: ignore[import-untyped]

    card = Path(model) / "README.md"
    if not Path(model).is_dir():
        try:
            cached = try_to_load_from_cache(str(model), "README.md")
        except ValueError:  # not the form of a Hub id
            return None
        if not isinstance(cached, str):
            return None
        card = Path(cached)
    try:
        entry = (metadata_load(card) or {}) if card.is_file() else {}
    except (OSError, ValueError, YAMLError):
        return None
    name = entry.get("license_name") if entry.get("license") == "other" else entry.get("license")
    return str(name) if name else None


def sources_of(trainset: str | Path) -> list[dict[str, Any]]:
    """The files that prepared rows come from, {"path", "license", "rows", …}, as prepare_data.py recorded them beside
    them. None for rows that it did not prepare."""
    path = Path(trainset)
    record = runs.read_run(path if path.is_dir() else path.parent) or {}
    sources = (record.get("data") or {}).get("sources") if record.get("stage") == "data" else None
    return list(sources or [])


def of_lineage(model: str | Path) -> list[dict[str, Any]]:
    """The sources of everything that `model` was trained on, as far as its run.json and its parents' say."""
    record = runs.read_run(model) if Path(model).is_dir() else None
    if not record:
        return []
    found = [source for parent in record.get("parents") or [] for source in of_lineage(parent["path"])]
    found += (record.get("data") or {}).get("sources") or []
    return list({json.dumps(source, sort_keys=True): source for source in found}.values())


def notes(base: str | Path | None, sources: Sequence[dict[str, Any]]) -> list[str]:
    """A line to print where a licence forbids commercial use: whose, and that the model must not be used so either."""
    named = [(Path(source["path"]).name, source.get("license")) for source in sources]
    named += [(str(base), of_model(base))] if base else []
    forbidding = dict.fromkeys(f"{name} ({license})" for name, license in named if is_non_commercial(license))
    if not forbidding:
        return []
    return [f"not for commercial use: {', '.join(forbidding)}; a model that is made of it must not be used so either"]
