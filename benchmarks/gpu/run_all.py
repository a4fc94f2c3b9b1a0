"""Everything that benchmarks/gpu/run.sh does: correctness, or speed and memory, or both, then the report.

Each half is planned for a limit of ten minutes on one H200 with 16 cores. Correctness: 27 commands for each of the two
small models (13 with unsloth, 14 with peft), 12 at a time, so five rounds of about a minute, most of which is importing
and compiling; a command that hangs is ended after 300 s. Speed: no case is begun after 480 s, and one may take 100 s.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent.parent)]

import correctness  # noqa: E402
import report  # noqa: E402
from models_and_data import MODELS, ROOT, write_pairs, write_rows  # noqa: E402

CASE_SECONDS = 100  # that a case which began in time may take
SIZES = {
    "full": {
        "model": "llama31-8b", "large": "solar-10.7b", "rows": 192, "median": 700, "longest": 4096, "long": 8192,
        "batch_size": 4, "gradient_accum_steps": 2, "lora_r": 64, "warm_up": 3, "steps": 6,
    },
    "small": {
        "model": "llama-small", "large": "none", "rows": 48, "median": 90, "longest": 256, "long": 512,
        "batch_size": 2, "gradient_accum_steps": 2, "lora_r": 8, "warm_up": 1, "steps": 2,
    },
}  # fmt: skip


def build_parser():
    p = argparse.ArgumentParser(
        prog="run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--out", type=Path, help="folder to write, emptied first; default: outputs/gpu or a folder in it")
    p.add_argument("--only", choices=("correctness", "speed"))
    p.add_argument("--small", action="store_true", help="tiny sizes for all that no flag names")
    p.add_argument("--backends", nargs="+", choices=("unsloth", "peft"), help="default: those that work here")
    p.add_argument("--small_models", nargs="+", choices=MODELS, default=["llama-small", "qwen3-small"])
    p.add_argument(
        "--at_once", type=int, help="commands of the correctness runs side by side; default: three of four cores"
    )
    p.add_argument("--deadline", type=float, default=480, help="seconds after which no further case is begun")
    p.add_argument("--model", choices=MODELS, help="that speed is measured on")
    p.add_argument("--large", choices=[*MODELS, "none"], help="that is measured in 4 bits as well")
    for name, about in (
        ("rows", "training rows, and half as many pairs"), ("median", "tokens of a row"),
        ("longest", "tokens of a row"), ("long", "tokens of the rows of the long case"),
        ("batch_size", "rows"), ("gradient_accum_steps", "batches"),
        ("lora_r", "rank"), ("warm_up", "steps that are not counted"), ("steps", "steps that are"),
    ):  # fmt: skip
        p.add_argument(f"--{name}", type=int, help=about)
    return p


def main(args) -> None:
    started = time.time()
    for name, value in SIZES["small" if args.small else "full"].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.out = (args.out or ROOT / "outputs" / "gpu" / (args.only or "")).resolve()
    backends = args.backends or available()
    if args.out.exists() and any(args.out.iterdir()):
        if not (args.out / "report.json").exists():
            raise SystemExit(f"error: {args.out} holds other things than a report; name another folder: --out")
        shutil.rmtree(args.out)
    args.out.mkdir(parents=True, exist_ok=True)
    results = {"when": datetime.now(UTC).isoformat(timespec="minutes"), "backends": backends, "machine": machine()}
    save(args, results)
    print(f"backends            {', '.join(backends)}", flush=True)
    if args.only != "speed":
        at_once = args.at_once or max(1, len(os.sched_getaffinity(0)) * 3 // 4)
        results["checks"] = correctness.run_checks(
            args.small_models, backends, args.out / "correctness", at_once, built
        )
        for check in results["checks"]:
            print(report.line(check), flush=True)
        results["not_run"] = correctness.not_run(backends)
        for reason in results["not_run"]:
            print(f"not run: {reason}", flush=True)
        save(args, results)
        print(f"correctness         {time.time() - started:.0f} s", flush=True)
    if args.only != "correctness":
        results["sizes"] = {name: getattr(args, name) for name in SIZES["full"]}
        speed(args, backends, started + args.deadline, results)
    save(args, results)
    print((args.out / "report.md").read_text(encoding="utf-8"))
    print(f"report              {args.out / 'report.md'}", flush=True)
    if any(not check["ok"] for check in results.get("checks", [])):
        raise SystemExit(1)


def speed(args, backends: list[str], until: float, results: dict) -> None:
    """Adds to `results`, and saves it after each process: a run that is cut short has its figures too."""
    folder = args.out / "speed"
    folder.mkdir()
    write_rows(folder / "rows.jsonl", args.rows, median=args.median, longest=args.longest)
    write_rows(folder / "long.jsonl", args.warm_up + args.steps, median=args.long, longest=args.long)
    write_pairs(folder / "pairs.jsonl", args.rows // 2, median=args.median, longest=args.longest)
    peak = child(folder / "peak.jsonl", "--peak")[0]
    if "failed" in peak:
        raise SystemExit(f"error: the device does not multiply: {peak['failed']}")
    results |= {"peak": peak, "runs": [], "parameters": {}}
    has_4bit = "unsloth" in backends  # bitsandbytes needs a GPU
    plans = [(args.model, backend, "16") for backend in backends] + [(args.model, "unsloth", "4")] * has_4bit
    plans += [(args.large, "unsloth", "4")] * (has_4bit and args.large != "none")
    for number, (model, backend, bits) in enumerate(plans):
        base = folder / model
        if time.time() > until:
            results["runs"].append({"model": model, "backend": backend, "bits": int(bits), "case": "—",
                                  "failed": "not measured: out of time"})  # fmt: skip
            continue
        if not base.exists():
            for other in plans[:number]:  # one model at a time: they are large
                shutil.rmtree(folder / other[0], ignore_errors=True)
            results["parameters"][model] = built(model, base)
        cases = ["sft packed", "sft padded", *(["sft long", "dpo padded"] if model == args.model else [])]
        rows = child(
            folder / f"{model}-{backend}-{bits}.jsonl", "--backend", backend, "--bits", bits, "--model_id", base,
            "--data", folder, "--length", min(args.longest, args.long), "--long", args.long, "--batch_size",
            args.batch_size, "--gradient_accum_steps", args.gradient_accum_steps, "--lora_r", args.lora_r, "--warm_up",
            args.warm_up, "--steps", args.steps, "--until", until, "--cases", *cases, until=until,
        )  # fmt: skip
        for row in rows:
            results["runs"].append({"model": model, "backend": backend, "bits": int(bits), **row})
            print(json.dumps(results["runs"][-1]), flush=True)
        save(args, results)
    for model in results["parameters"]:
        shutil.rmtree(folder / model, ignore_errors=True)
    save(args, results)


def child(file: Path, *words: object, until: float = float("inf")) -> list[dict]:
    """Run speed.py in a process of its own, whose memory goes back; its results, also when it died or hung."""
    command = [sys.executable, "benchmarks/gpu/speed.py", str(file), *map(str, words)]
    log = file.with_suffix(".log")
    with log.open("w") as out:
        try:
            left = None if until == float("inf") else until + CASE_SECONDS - time.time()
            code: object = subprocess.run(command, cwd=ROOT, stdout=out, stderr=out, timeout=left).returncode
        except subprocess.TimeoutExpired:
            code = "the deadline"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if code or not rows:
        rows.append({"case": "—", "failed": f"the process ended with {code}; see {log.name}"})
    for row in rows:
        if "failed" in row:
            row["log"] = log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]
    return rows


def built(name: str, folder: Path) -> int:
    """Build in a process of its own: this one holds no memory of the device."""
    code = f"from pathlib import Path; from models_and_data import build; print(build({name!r}, Path({str(folder)!r})))"
    env_path = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'benchmarks' / 'gpu')!r}]; "
    done = subprocess.run([sys.executable, "-c", env_path + code], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} cannot be built: {done.stderr[-2000:]}")
    return int(done.stdout.splitlines()[-1])


def available() -> list[str]:
    """The backends that train here, the one under test first and the one it is compared with last."""
    code = "from sllm.train import backend; print(backend.choose('auto').name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    if done.stdout.split()[-1] == "unsloth":
        return ["unsloth", "peft"]
    if shutil.which("nvidia-smi"):
        raise SystemExit("error: unsloth is not installed, and it is what this measures; or say --backends peft")
    return ["peft"]


def machine() -> dict:
    from sllm import checkpoint

    driver = ""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    results = {"python": platform.python_version(), "gpu": driver, **checkpoint.versions()}
    for name in ("bitsandbytes", "triton"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            results[name] = metadata.version(name)
    return results


def save(args, results: dict) -> None:
    (args.out / "report.json").write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (args.out / "report.md").write_text(report.markdown(results), encoding="utf-8")


if __name__ == "__main__":
    main(build_parser().parse_args())
