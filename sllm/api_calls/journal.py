"""The journal of calls to a model's API: every finished call, so that none is made again. Standard library only."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# A token, and the log-probabilities (natural logarithm) of the tokens that could have stood in its place.
TokenLogprobs = tuple[str, dict[str, float]]


@dataclass(frozen=True)
class Completion:
    """What the API answered. `logprobs`: of the last tokens, where they were asked for and came back; `usage_known`:
    whether the service counted the tokens."""

    text: str
    finish_reason: str | None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usage_known: bool = True
    logprobs: list[TokenLogprobs] = field(default_factory=list)


class Journal:
    """JSON lines, one for each finished call, in `completions` by their keys. Lines that are not whole, as a killed run
    leaves them, are passed over: the call is made again.

    Args:
        path: made, with its folder, when there is something to write; None writes nothing.
    """

    def __init__(self, path: Path | None):
        self.completions: dict[str, Completion] = {}
        self._path = path
        self._descriptor: int | None = None
        content = path.read_bytes() if path and path.exists() else b""
        for line in content.split(b"\n"):
            try:
                entry = json.loads(line)
                self.completions[entry["key"]] = _completion(entry["completion"])
            except (ValueError, LookupError, TypeError):
                continue
        self._is_torn = bool(content) and not content.endswith(b"\n")

    def add(self, key: str, label: str, attempt: int, completion: Completion) -> None:
        """On the disk when this returns, as far as another process is concerned."""
        entry = {"key": key, "label": label, "attempt": attempt, "completion": asdict(completion)}
        content = json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        if self._path and self._descriptor is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            content = b"\n" * self._is_torn + content
        while content and self._descriptor is not None:  # a full disk takes a part, and says so at the next write
            content = content[os.write(self._descriptor, content) :]
        self.completions[key] = completion

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self._is_torn = False


def _completion(entry: dict[str, Any]) -> Completion:
    logprobs = [(token, dict(others)) for token, others in entry["logprobs"]]
    return Completion(**entry | {"logprobs": logprobs})
