"""Speed and memory of the training scripts, one backend and one precision in one process: the model is reloaded for
each case, everything is imported and compiled once. Each case's result is a line of FILE as soon as it is known.

    python benchmarks/gpu/speed.py FILE --backend unsloth --bits 16 --model_id … --cases "sft padded" dpo …
"""

import argparse
import functools
import gc
import importlib
import json
import shutil
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from sllm.train import metrics, trainers  # noqa: E402

PROBE = trainers.probe
# case: script, and its flags
CASES = {
    "sft padded": ("train_LoRA_SFT", ["--no-padding_free"]),
    "sft packed": ("train_LoRA_SFT", ["--packing", "--batch_size", "1"]),
    "sft long": ("train_LoRA_SFT", ["--no-padding_free", "--batch_size", "1", "--gradient_accum_steps", "1"]),
    "dpo padded": ("train_LoRA_DPO", ["--batch_size", "2"]),
}


def build_parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("file", type=Path, help="gets a JSON line for each case")
    p.add_argument("--backend", choices=("unsloth", "peft"))
    p.add_argument("--bits", default="16")
    p.add_argument("--model_id")
    p.add_argument("--data", type=Path, help="folder with rows.jsonl, long.jsonl and pairs.jsonl")
    p.add_argument("--cases", nargs="+", choices=CASES, default=[])
    p.add_argument("--length", type=int, help="--max_seq_length of all cases but the long one")
    p.add_argument("--long", type=int, help="--max_seq_length of the long one")
    p.add_argument("--batch_size", default="4")
    p.add_argument("--gradient_accum_steps", default="2")
    p.add_argument("--lora_r", default="64")
    p.add_argument("--warm_up", type=int, help="steps that are not counted")
    p.add_argument("--steps", type=int, help="steps that are")
    p.add_argument("--until", type=float, default=float("inf"), help="begin no case after this Unix time")
    p.add_argument("--peak", action="store_true", help="only measure what the device can do: a large matrix product")
    return p


def main(args) -> None:
    if args.peak:
        return write(args.file, peak())
    for case in args.cases:
        if time.time() > args.until:
            write(args.file, {"case": case, "failed": "not measured: out of time"})
            continue
        started = time.monotonic()
        try:
            results = measure(args, case)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            results = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]}
        write(args.file, {"case": case, **results, "wall_seconds": round(time.monotonic() - started, 1)})


def measure(args, case: str) -> dict:
    """Run the script and read its own figures off metrics.jsonl and run.json."""
    import torch

    script, own = CASES[case]
    rows = "pairs" if script == "train_LoRA_DPO" else "long" if case == "sft long" else "rows"
    out = args.file.parent / "run"
    length = args.long if case == "sft long" else args.length
    flags = [
        "--trainset_path", args.data / f"{rows}.jsonl", "--model_id", args.model_id, "--backend", args.backend,
        "--bits", args.bits, "--max_seq_length", length, "--batch_size", args.batch_size, "--gradient_accum_steps",
        args.gradient_accum_steps, "--lora_r", args.lora_r, "--max_steps", args.warm_up + args.steps, "--save_steps",
        10_000, "--report_to", "none", "--output_dir", out, "--overwrite", *own,
    ]  # fmt: skip
    trainers.probe = functools.partial(PROBE, count=8)  # 128 rows before and after would cost more than the steps
    sys.argv = [f"{script}.py", *map(str, flags)]
    module = importlib.import_module(script)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    left = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0  # of the case before
    module.main(module.build_parser().parse_args(sys.argv[1:]))
    steps = [row for row in metrics.read_metrics(out) if "tokens_per_second" in row]
    tokens = [row["num_tokens"] - (before["num_tokens"] if before else 0)
              for before, row in zip([None, *steps], steps, strict=False)]  # fmt: skip
    seconds = [count / max(row["tokens_per_second"], 1) for count, row in zip(tokens, steps, strict=True)]
    counted = slice(args.warm_up, None)
    results = {
        "tokens": sum(tokens[counted]),
        "seconds": round(sum(seconds[counted]), 3),
        "tokens_per_second": round(sum(tokens[counted]) / sum(seconds[counted]), 1),
        "step_seconds": [round(value, 3) for value in seconds],
        "losses": [row["loss"] for row in steps],
        "peak_memory_bytes": steps[-1].get("peak_memory_bytes", peak_resident()) - left,
        "left_bytes": left,
    }
    shutil.rmtree(out)
    return results


def peak_resident() -> int:
    """Largest resident memory of this process so far: what stands for a GPU's where there is none."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024


def peak() -> dict:
    """FLOP/s of the largest square product that fits easily, bf16 on a GPU and float32 without one; median of runs."""
    import statistics

    import torch

    gpu = torch.cuda.is_available()
    size, dtype, device = (16384, torch.bfloat16, "cuda") if gpu else (1024, torch.float32, "cpu")
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for turn in range(25):
        started = time.perf_counter()
        product = left @ right
        if gpu:
            torch.cuda.synchronize()
        if turn >= 5:
            seconds.append(time.perf_counter() - started)
    assert product.isfinite().all()
    results = {"flops": 2 * size**3 / statistics.median(seconds), "matmul": f"{size}², {str(dtype)[6:]}"}
    if gpu:
        name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
        results |= {"device": name, "memory_bytes": memory}
    return results | {"device": results.get("device", "CPU")}


def write(file: Path, results: dict) -> None:
    with file.open("a") as out:
        out.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main(build_parser().parse_args())
