"""Flags that vllm_inference.py and api_server.py share, and the server's own. Imports nothing heavy, so that `--help`
answers at once."""

import argparse
from pathlib import Path

from sllm import cli
from sllm.serve.dtypes import KV_CACHE_DTYPES, QUANTIZATIONS, resolve_dtype
from sllm.serve.model_info import LORA_RANKS

SAMPLE_DATA = Path(__file__).resolve().parent.parent.parent / "sample_data"
SAMPLE_ROWS, EARLIER_SAMPLE_ROWS = SAMPLE_DATA / "task_rows.jsonl", SAMPLE_DATA / "earlier_task_rows.jsonl"
SAMPLING = "temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty".split()
ENGINE = "dtype quantization kv_cache_dtype enforce_eager gpu_memory_utilization seed".split()  # as vLLM calls them
PARALLEL = {
    "tensor_parallel_size": "accelerators that share each layer",
    "pipeline_parallel_size": "groups of accelerators that share the layers out",
    "data_parallel_size": "copies of the model",
}


def add_engine_flags(group) -> None:
    """How the model is loaded."""
    group.add_argument("--chat_template", default="auto", metavar="NAME|FILE", help="auto: the folder's, else chatml")
    group.add_argument(
        "--dtype", choices=("auto", "bfloat16", "float16", "float32"), default="auto",
        help="auto: the model's own on a GPU, float32 without one (greedy answers are then the same in any batch)",
    )  # fmt: skip
    group.add_argument(
        "--quantization", choices=QUANTIZATIONS,
        help="make the weights of a 16-bit model smaller while they are loaded; one that is quantised needs no flag",
    )  # fmt: skip
    group.add_argument("--kv_cache_dtype", choices=KV_CACHE_DTYPES, default="auto", help="auto: the model's")
    group.add_argument("--max_seq_length", type=cli.positive_int, default=8192, help="tokens; capped by the model's")
    group.add_argument(
        "--gpu_memory_utilization", type=cli.between(0.01, 1), default=0.9, help="share of the GPU's memory"
    )
    group.add_argument("--enforce_eager", action=cli.BOOLEAN, default=None, help="do not compile; always so on a CPU")


def precision(args) -> str:
    """What the model computes in, by the flags."""
    cache = f"KV cache {args.kv_cache_dtype}" if args.kv_cache_dtype != "auto" else None
    return ", ".join(filter(None, [resolve_dtype(args.dtype, args.quantization), args.quantization, cache]))


def add_sampling_flags(group, *, temperature: float) -> None:
    group.add_argument(
        "--max_tokens", type=cli.positive_int, default=1024,
        help="tokens of an answer at most, capped by what the context leaves",
    )  # fmt: skip
    group.add_argument("--temperature", type=cli.between(0, 2), default=temperature, help="0: greedy")
    group.add_argument("--top_p", type=cli.between(1e-6, 1), default=1.0, help="1: all tokens")
    group.add_argument("--top_k", type=cli.integer(-1, 2**31 - 1), default=0, help="0 or -1: all tokens")
    group.add_argument("--min_p", type=cli.between(0, 1), default=0.0, help="0: all tokens")
    group.add_argument("--presence_penalty", type=cli.between(-2, 2), default=0.0, help="0: none")
    group.add_argument("--frequency_penalty", type=cli.between(-2, 2), default=0.0, help="0: none")
    group.add_argument("--repetition_penalty", type=cli.between(0.01, 100), default=1.0, help="1: none")


def add_parallel_flags(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("more than one accelerator (vLLM's own)")
    for name, meaning in PARALLEL.items():
        group.add_argument(f"--{name}", type=cli.positive_int, default=1, help=meaning)
    group.add_argument(
        "--distributed_executor_backend", choices=("mp", "ray", "uni"), help="ray: over several machines"
    )


def add_lora_flags(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("LoRA while running")
    group.add_argument(
        "--max_loras", type=cli.integer(0, 1024), default=0,
        help="adapters; 0: as many as --lora_modules, and at least 8 with an admin key",
    )  # fmt: skip
    group.add_argument(
        "--max_lora_rank", type=int, choices=(0, *LORA_RANKS), default=0, metavar="N",
        help="0: that of --lora_modules, and at least 64 where there is an admin key",
    )  # fmt: skip


def add_access_flags(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("access control")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on")
    group.add_argument("--port", type=cli.integer(0, 65535), default=8000, help="0: any free one")
    group.add_argument(
        "--api_key", action="append", default=[], metavar="[NAME:]KEY",
        help="may be repeated; better in SLLM_API_KEYS (separated by commas), which process lists do not show",
    )  # fmt: skip
    group.add_argument("--api_keys_file", metavar="FILE", help="one [NAME:]KEY a line; read again on SIGHUP")
    group.add_argument(
        "--admin_key", action="append", default=[], metavar="[NAME:]KEY",
        help="for loading and unloading adapters; better in SLLM_ADMIN_KEY. Without one that is off",
    )  # fmt: skip
    group.add_argument("--allow_anonymous", action="store_true", help="accept requests of other machines without a key")
    group.add_argument("--allowed_hosts", nargs="+", default=[], metavar="NAME", help="names that the Host header may "
                       "have; default: loopback names where --host is one, else any")  # fmt: skip
    group.add_argument("--allowed_origins", nargs="+", default=[], metavar="URL", help="origins that CORS allows")
    group.add_argument("--rate_limit_rpm", type=cli.positive_int, metavar="N", help="requests a minute for each key")
    group.add_argument("--max_body_mb", type=cli.positive_float, default=4.0, help="largest request")


def add_task_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument_group("tasks").add_argument(
        "--task_examples", nargs="+", default=[str(SAMPLE_ROWS), str(EARLIER_SAMPLE_ROWS)], metavar="FILE",
        help="rows: the first one of each task is its example in /v1/tasks and in the forms of the chat page",
    )  # fmt: skip


def add_load_flags(p: argparse.ArgumentParser):
    group = p.add_argument_group("load")
    group.add_argument(
        "--max_num_seqs", "--max_running", type=cli.positive_int, default=256,
        help="sequences in a batch, for each copy of the model",
    )  # fmt: skip
    group.add_argument(
        "--max_waiting", type=cli.integer(0, 2**31 - 1), default=256, help="queued sequences; more are answered 429"
    )
    group.add_argument("--request_timeout", type=cli.positive_float, default=600.0, help="seconds; then 504")
    group.add_argument(
        "--shutdown_timeout", "--drain_seconds", type=cli.nonnegative_float, default=30.0,
        help="seconds to finish running answers after SIGTERM",
    )  # fmt: skip
    return group
