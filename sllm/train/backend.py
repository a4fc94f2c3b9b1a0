"""Which library trains: chosen once, with the reason said."""

import importlib
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from sllm.cli import InputError
from sllm.train import arguments

DRIVER_FILES = (Path("/proc/driver/nvidia/version"), Path("/sys/module/nvidia/version"))
DEVICE = Path("/dev/nvidia0")


@dataclass(frozen=True)
class Choice:
    """The backend and why. `module` imports it; unsloth has to come before trl, transformers and peft."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"

    def module(self) -> ModuleType:
        return importlib.import_module(f"sllm.train.with_{self.name}")


def load(choice: Choice, args) -> ModuleType | None:
    """The chosen backend's module; None where nothing will be trained (--preview, --dry_run), as importing it takes
    time. Raises InputError for a quantisation or dtype that it does not have."""
    arguments.resolve_quantization(args, choice)
    return None if args.preview or args.dry_run else choice.module()


def choose(name: str) -> Choice:
    """`auto` takes unsloth on a CUDA GPU and peft elsewhere; an explicit choice that is not available fails.

    Raises:
        InputError: unsloth was requested, but no CUDA GPU was found or it is not installed; or there is an NVIDIA GPU
            that torch cannot use, where training on the CPU is unlikely to be intended (`peft` insists on it).
    """
    if name == "peft":
        return Choice("peft", "requested")
    if unusable := unusable_gpu():
        raise InputError(f"{unusable}; or train with --backend peft, on the CPU where the GPU cannot be used")
    missing = _why_not_unsloth()
    if missing and name == "unsloth":
        raise InputError(f"--backend unsloth: {missing}; use --backend peft")
    if missing:
        return Choice("peft", missing)
    return Choice("unsloth", "requested" if name == "unsloth" else "there is a CUDA GPU")


def _why_not_unsloth() -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA GPU found"
    if importlib.util.find_spec("unsloth") is None:
        return "unsloth is not installed (pip install -r requirements.txt)"
    return None


def unusable_gpu() -> str | None:
    """An NVIDIA GPU or driver that this torch cannot compute with: what is there, and what fixes it. None where there
    is none, where it works, or where CUDA_VISIBLE_DEVICES hides it on purpose."""
    if torch.cuda.is_available():
        return _too_old_gpu()
    driver = nvidia_driver()
    if driver is None or os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return None
    if torch.version.cuda is None:
        return (
            f"there is an NVIDIA driver ({driver}), but torch {torch.__version__} is built for the CPU: "
            "pip install -r requirements.txt in a fresh environment"
        )
    try:
        torch.cuda.init()
        reason = "no device is visible"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0][:160]
    needs = {"12": "525", "13": "580"}.get(torch.version.cuda.partition(".")[0])
    return (
        f"there is an NVIDIA driver ({driver}), but CUDA does not work with it: {reason}. torch {torch.__version__} is "
        f"built for CUDA {torch.version.cuda}{f', which needs driver {needs} or newer' if needs else ''}: update the "
        "driver"
    )


def nvidia_driver() -> str | None:
    """Version of the NVIDIA driver of this machine ("unknown version" where only its device is there), or None."""
    for path in DRIVER_FILES:
        if path.is_file():
            match = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", path.read_text(errors="replace"))
            return match[0] if match else "unknown version"
    return "unknown version" if DEVICE.exists() else None


def _too_old_gpu() -> str | None:
    """torch has compiled kernels for some architectures only: its builds for CUDA 13 begin with Turing (7.5)."""
    capability = torch.cuda.get_device_capability(0)
    compiled = [int(name.removeprefix("sm_").rstrip("af")) for name in torch.cuda.get_arch_list() if "sm_" in name]
    if not compiled or capability[0] * 10 + capability[1] >= min(compiled):
        return None
    oldest = divmod(min(compiled), 10)
    return (
        f"{torch.cuda.get_device_name(0)} has compute capability {capability[0]}.{capability[1]}, and torch "
        f"{torch.__version__} computes on {oldest[0]}.{oldest[1]} and newer only: use a newer card, or a torch "
        "built for CUDA 12"
    )


def choose_merge(name: str) -> Choice:
    """What merges: tensor by tensor unless unsloth is requested, as its merge holds the whole model."""
    if name == "auto":
        return Choice("peft", "tensor by tensor, in little memory; --backend unsloth for its own merge")
    return choose(name)


def merge_by_unsloth(adapter: Path, base: Path, out: Path, dtype: str) -> None:
    """unsloth's own merge, in a process of its own: it patches transformers, which the parity check has to use as it
    is, and its GPU memory comes back."""
    in_own_process(_merge_by_unsloth, adapter, base, out, dtype)


def in_own_process(function, *arguments) -> None:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(function, *arguments).result()


def _merge_by_unsloth(adapter: Path, base: Path, out: Path, dtype: str) -> None:
    from sllm import chat
    from sllm.train import with_unsloth

    settings = {"dtype": dtype, "bits": 16, "max_seq_length": 2048, "train": False, "gradient_checkpointing": False}
    model = with_unsloth.load_model(str(base), adapter=str(adapter), **settings)
    with_unsloth.save_merged(model, str(out), chat.load_tokenizer(str(adapter)))
