"""api_server.py beside vLLM's own OpenAI server: request throughput and time to first token, under vLLM's own load
generator (`vllm.benchmarks.serve`), streaming.

Both servers are up, with the same engine flags; only one is asked at a time. The turns alternate, and each figure is
the median of --rounds turns.

    python benchmarks/serve_speed.py
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUESTS = {1: 60, 8: 240, 32: 480, 128: 960}


def build_parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model_id", default=str(ROOT / "sample_data" / "tiny_base"))
    p.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32, 128])
    p.add_argument(
        "--request_rate", type=float, nargs="+",
        help="requests per second, arriving at random (Poisson), in place of --concurrency: a closed loop's first "
        "tokens also depend on how many of its streams happen to end together",
    )  # fmt: skip
    p.add_argument("--rounds", type=int, default=3, help="turns of each server at each concurrency")
    p.add_argument("--input_tokens", type=int, default=64)
    p.add_argument("--output_tokens", type=int, default=32)
    p.add_argument("--backend", choices=("openai", "openai-chat"), default="openai", help="completions, or chat")
    p.add_argument("--only", choices=("ours", "theirs"))
    p.add_argument("--before", metavar="FOLDER", help="a checkout of another commit, whose server takes turns too")
    p.add_argument("--cold", action="store_true", help="show each server's first load of 8 streams too")
    return p


def start(name: str, port: int, model: str, log, folder: Path = ROOT) -> subprocess.Popen:
    if name != "theirs":
        flags = f"--model_id {model} --served_model_name m --port {port} --max_running 256 --max_waiting 4096"
        words = ["api_server.py", *flags.split(), "--max_seq_length", "2048"]
    else:
        flags = f"--model {model} --served-model-name m --port {port} --max-num-seqs 256 --max-model-len 2048"
        flags += f" --dtype float32 --enforce-eager --generation-config vllm --kv-cache-memory-bytes {kv_bytes(model)}"
        flags += " --no-enable-log-requests --disable-uvicorn-access-log"
        flags += f" --chat-template {ROOT / 'templates' / 'chat' / 'chatml.jinja'}"  # which api_server.py chooses
        words = ["-m", "vllm.entrypoints.openai.api_server", *flags.split()]
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"}
    return subprocess.Popen([sys.executable, *words], cwd=folder, env=environment, stdout=log, stderr=log)


def kv_bytes(model: str) -> int:
    """What api_server.py gives its own engine."""
    code = f"""
from sllm.serve import engine, environment
environment.set_environment()
settings = engine.options({model!r}, adapters=[], dtype="auto", max_model_len=2048, kv_tokens=256 * 2048)
print(settings["kv_cache_memory_bytes"])
"""
    return int(
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    )


def wait(port: int, path: str, process: subprocess.Popen) -> float:
    started = time.monotonic()
    while True:
        if process.poll() is not None:
            raise SystemExit(f"the server on port {port} ended with {process.returncode}")
        with contextlib.suppress(OSError):
            if urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).status == 200:
                return time.monotonic() - started
        time.sleep(0.5)


def write_prompts(args, count: int, seed: int) -> Path:
    """Prompts of --input_tokens tokens each, cut from the texts of the sample rows at places drawn by `seed`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model_id)
    rows = (ROOT / "sample_data" / "task_rows.jsonl").read_text(encoding="utf-8").splitlines()
    text = " ".join(json.loads(row)["user_content"].replace("###", "") for row in rows)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    draw = random.Random(seed)
    starts = [draw.randrange(len(ids) - args.input_tokens) for _ in range(count)]
    prompts = [tokenizer.decode(ids[start : start + args.input_tokens]).strip("\ufffd") for start in starts]
    file = Path(tempfile.gettempdir()) / f"serve_speed_{os.getpid()}.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
    return file


def load(args, port: int, concurrency: int, seed: int, requests: int | None = None, rate: float | None = None) -> dict:
    """One turn of vLLM's load generator, `concurrency` requests at a time or `rate` a second; its own figures."""
    from vllm.benchmarks import serve

    parser = argparse.ArgumentParser()
    serve.add_cli_args(parser)
    endpoint = "/v1/completions" if args.backend == "openai" else "/v1/chat/completions"
    requests = requests or REQUESTS.get(concurrency, 8 * concurrency)
    flags = f"--backend {args.backend} --base-url http://127.0.0.1:{port} --endpoint {endpoint} --model {args.model_id}"
    flags += f" --served-model-name m --ignore-eos --num-prompts {requests}"
    flags += f" --request-rate {rate}" if rate else f" --max-concurrency {concurrency}"
    if args.backend == "openai":
        flags += (
            f" --dataset-name random --random-input-len {args.input_tokens} --random-output-len {args.output_tokens}"
        )
    else:  # random tokens may spell a control token, which api_server.py refuses in a message
        flags += f" --dataset-name custom --dataset-path {write_prompts(args, requests, seed)} --skip-chat-template"
        flags += f" --custom-output-len {args.output_tokens}"
    flags += f" --seed {seed} --temperature 0 --num-warmups 0 --ready-check-timeout-sec 0 --disable-tqdm"
    flags += " --percentile-metrics ttft,tpot,e2el --metric-percentiles 50,99"
    with contextlib.redirect_stdout(io.StringIO()):
        found = asyncio.run(serve.main_async(parser.parse_args(flags.split())))
    if found["failed"]:
        raise SystemExit(f"{found['failed']} requests failed on port {port}")
    return found


def main(args) -> None:
    names = [args.only] if args.only else ["theirs", *(["before"] if args.before else []), "ours"]
    ports = {name: 18100 + number for number, name in enumerate(names)}
    folder = Path(tempfile.mkdtemp())
    processes = {}
    try:
        for name in names:
            with open(folder / f"{name}.log", "w") as log:
                place = Path(args.before).resolve() if name == "before" else ROOT
                processes[name] = start(name, ports[name], args.model_id, log, place)
            seconds = wait(ports[name], "/health" if name == "theirs" else "/ready", processes[name])
            print(f"{name}: ready after {seconds:.0f} s, log in {folder / name}.log", flush=True)
        if args.cold:
            for name in names:
                cold = load(args, ports[name], 8, 999, 40)
                print(
                    f"{name}: first load of 8 streams: p99 TTFT {cold['p99_ttft_ms']:,.0f} ms, "
                    f"{cold['request_throughput']:.1f} req/s",
                    flush=True,
                )
        for name in names:
            load(args, ports[name], 32, 998, 128)  # not counted
        rows = []
        for value in args.request_rate or args.concurrency:
            found = {name: [] for name in names}
            for turn in range(args.rounds):
                for name in names if turn % 2 == 0 else reversed(names):
                    if args.request_rate:
                        found[name].append(load(args, ports[name], 32, turn, rate=value))
                    else:
                        found[name].append(load(args, ports[name], value, turn))
            for name in names:
                keys = ("request_throughput", "median_ttft_ms", "mean_ttft_ms", "p99_ttft_ms", "median_tpot_ms")
                rows.append([value, name, *(statistics.median(run[key] for run in found[name]) for key in keys)])
                print(json.dumps(rows[-1]), flush=True)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait(60)
    title = "requests/s" if args.request_rate else "concurrency"
    print(f"\n| {title} | server | req/s | p50 TTFT ms | mean TTFT ms | p99 TTFT ms | time per token ms |")
    print("|---|---|---|---|---|---|---|")
    by = {(row[0], row[1]): row for row in rows}
    for value in args.request_rate or args.concurrency:
        for name in names:
            row = by[value, name]
            peers = [by[value, peer] for peer in names if name == "ours" and peer != "ours"]
            cells = [
                f"{figure:,.1f}" + "".join(f" ({figure / peer[column]:.2f}×)" for peer in peers)
                for column, figure in enumerate(row[2:], 2)
            ]
            print(f"| {value} | {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(build_parser().parse_args())
