"""Which library trains: chosen once, with the reason said."""

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType

from sllm.cli import InputError


@dataclass(frozen=True)
class Choice:
    """The backend and why. `module` imports it; unsloth has to come before trl, transformers and peft."""

    name: str
    reason: str

    def module(self) -> ModuleType:
        return importlib.import_module(f"sllm.lora.with_{self.name}")


def choose(name: str) -> Choice:
    """`auto` takes unsloth on a CUDA GPU and peft elsewhere; an explicit choice that cannot be had fails.

    Raises:
        InputError: unsloth was asked for and there is no CUDA GPU, or it is not installed.
    """
    if name == "peft":
        return Choice("peft", "asked for")
    missing = _why_not_unsloth()
    if name == "unsloth":
        if missing:
            raise InputError(f"--backend unsloth: {missing}; use --backend peft")
        return Choice("unsloth", "asked for")
    return Choice("peft", missing) if missing else Choice("unsloth", "there is a CUDA GPU")


def _why_not_unsloth() -> str | None:
    import torch

    if not torch.cuda.is_available():
        return "there is no CUDA GPU"
    if importlib.util.find_spec("unsloth") is None:
        return "unsloth is not installed (pip install -r requirements.txt)"
    return None
