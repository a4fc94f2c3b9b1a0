"""Why an engine does not start, as one error line: the engine's own reason and what to do about it.

vLLM's engine is a second process under the server, and offline on a GPU: there this process only learns that the
other one has ended, and the reason is a traceback in the log. `errors_of` reads it from there.
"""

import copy
import json
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sllm.cli import InputError

MEMORY = "a smaller --max_seq_length, --dtype bfloat16, --quantization fp8 or --kv_cache_dtype fp8"
# What a reason says (its exception's name included) → what to do. The first that fits.
REMEDIES = (
    (r"architectures .* not supported", "this vLLM has no such architecture (config.json: architectures)"),
    (r"failed to be inspected",
     "vLLM cannot import its class of this architecture: models that see images need torchvision, which the CPU "
     "requirements leave out"),
    (r"does not recognize this architecture", "this transformers has no such model_type (config.json)"),
    (r"not support LoRA", "merge the adapter into its base: merged_weights.py"),
    (r"Safetensor|UnpicklingError|struct\.error|OverflowError|deserializ|not a valid JSON",
     "a file of the folder is damaged: copy it again, or write the folder again with --overwrite"),
    (r"not initialized from checkpoint|size of tensor|shape .*(mismatch|invalid)|no module or parameter named",
     "its weights are not those that config.json describes: copy the folder again"),
    (r"Free memory on device|Available memory on node",
     "end what else uses the memory, or lower --gpu_memory_utilization"),
    (r"No available memory for the cache|KV cache is needed|max seq len|cache blocks",
     f"where no memory is left for the KV cache: a higher --gpu_memory_utilization, {MEMORY}"),
    (r"out of memory|OutOfMemory|MemoryError|can't allocate|Cannot allocate|signal 9",
     f"memory is short: try {MEMORY}"),
    (r"attention heads|tensor.parallel|world.size|WORLD_SIZE|NUMA nodes", "choose another --tensor_parallel_size"),
    (r"max_model_len", "choose a smaller --max_seq_length"),
    (r"nvcc|ninja|FlashInfer|flashinfer", "set VLLM_USE_FLASHINFER_SAMPLER=0"),
    (r"driver version|no kernel image|CUDA error",
     "the NVIDIA driver or the card does not fit this torch (README: requirements)"),
    (r"[Qq]uantiz|ScaledMM|_scaled_", "choose another --quantization, or none"),
    (r"AttentionBackend|kv_cache_dtype|KV cache dtype", "choose another --kv_cache_dtype, or auto"),
)  # fmt: skip
_FAILED = "failed to start."  # how vLLM's log of a process that fails while it starts ends


@contextmanager
def errors_of(model: str) -> Iterator[None]:
    """Turn whatever goes wrong while an engine starts into one InputError. VLLM_LOGGING_LEVEL=DEBUG leaves the
    tracebacks where they are. Imports vLLM."""
    quiet = os.environ.get("VLLM_LOGGING_LEVEL") != "DEBUG"
    with (
        tempfile.TemporaryDirectory(prefix="engine-start-") as folder,
        _log_of_processes(Path(folder), quiet) as reasons,
    ):
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            if not quiet:
                traceback.print_exc()
            lines = reasons.read_text(encoding="utf-8").splitlines() if reasons.is_file() else []
            raise InputError(explain(model, error, [json.loads(line) for line in lines])) from error


@contextmanager
def _log_of_processes(folder: Path, quiet: bool) -> Iterator[Path]:
    """Have every process that vLLM starts meanwhile write why it fails to the file that is yielded. A forked process
    has this one's handlers; one that is spawned reads its logging from a file."""
    from vllm.logger import DEFAULT_LOGGING_CONFIG

    reasons, file, logger = folder / "reasons.jsonl", folder / "logging.json", logging.getLogger("vllm")
    options = {"path": str(reasons), "owner": os.getpid(), "quiet": quiet}
    config = copy.deepcopy(DEFAULT_LOGGING_CONFIG)
    config["handlers"]["reasons"] = {"class": f"{__name__}.{StartupErrorHandler.__name__}", **options}
    config["loggers"]["vllm"]["handlers"].append("reasons")
    if quiet:
        config["filters"] = {"quiet": {"()": f"{__name__}.{NoFailedStart.__name__}"}}
        config["handlers"]["vllm"]["filters"] = ["quiet"]
    file.write_text(json.dumps(config), encoding="utf-8")
    # The last process alive, Python's resource tracker, would warn of what those that failed have left.
    added = {"VLLM_LOGGING_CONFIG_PATH": str(file), "PYTHONWARNINGS": "ignore:resource_tracker:UserWarning"}
    added = {name: value for name, value in added.items() if name not in os.environ}
    reasons_handler, no_failed_start = StartupErrorHandler(**options), NoFailedStart()
    filtered = [*logger.handlers] if quiet else []
    os.environ.update(added)
    for handler in filtered:
        handler.addFilter(no_failed_start)
    logger.addHandler(reasons_handler)
    try:
        yield reasons
    finally:
        logger.removeHandler(reasons_handler)
        for handler in filtered:
            handler.removeFilter(no_failed_start)
        for name in added:
            del os.environ[name]


class NoFailedStart(logging.Filter):
    """Drops the tracebacks of processes that failed while they started."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().endswith(_FAILED)


class StartupErrorHandler(logging.Handler):
    """Writes why a process failed while it started, one JSON text a line, to a file that process `owner` reads."""

    def __init__(self, path: str, owner: int, quiet: bool):
        super().__init__(logging.ERROR)
        self.path, self.owner, self.quiet = Path(path), owner, quiet

    def emit(self, record: logging.LogRecord) -> None:
        if not record.exc_info or not record.getMessage().endswith(_FAILED) or not self.path.parent.is_dir():
            return
        error = record.exc_info[1]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(f"{type(error).__name__}: {_message(error)}") + "\n")
        if self.quiet and os.getpid() != self.owner:
            sys.stderr = open(os.devnull, "w")  # multiprocessing would print the traceback next


def explain(model: str, error: Exception, causes: list[str] = ()) -> str:
    """One line: what failed, why, and what to do. `causes`: what the engine's processes said, the first cause first."""
    reason, ended = f"{type(error).__name__}: {_message(error)}", ""
    if "initialization failed" in reason:  # the engine's process ended; what it died of is elsewhere
        killed = re.search(r"'[^']+': -(\d+)", str(error))
        ended = f"its process was ended by signal {killed[1]}" if killed else "its process ended; the reason is above"
    reason = causes[0] if causes else ended or reason
    remedy = next((remedy for pattern, remedy in REMEDIES if re.search(pattern, reason)), None)
    reason_text = re.sub(r"^(ValueError|ValidationError|RuntimeError|OSError): ", "", reason).rstrip(". ")
    return f"vLLM does not start with {model}: {reason_text}; {remedy or 'VLLM_LOGGING_LEVEL=DEBUG shows where'}"


def _message(error: BaseException) -> str:
    """The message on one line, without what pydantic puts around it and without lists of all that would be possible."""
    text = re.sub(r"^\d+ validation errors? for \w+\n(?:\S+\n)?\s*(?:Value error, )?", "", str(error))
    for end in (" [type=", " Supported architectures:", " To allow overriding"):
        text = text.split(end)[0]
    text = " ".join(text.split()) or "no message"
    return text if len(text) <= 300 else text[:299] + "…"
