"""How long and how much memory the stages take at the size of real data: preparation, and SFT up to its first step.

Writes files of rows that are like those of the small world (their texts numbered, so that no two are equal). Prepares
each with prepare_data.py (only converted, checked, de-duplicated and split; as by default, with texts repaired and
counted; with near-duplicates), beside `datasets.map` with the same conversion alone. Then trains for one step with an
empty cache of tokens and again with a full one. Prints rows/s or seconds until the first step, and the largest resident
memory of all processes together.

    python benchmarks/data_size.py --rows 15000 150000 --output_dir outputs/data_size
"""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sllm import cli

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "sample_data" / "tiny_base"
WORLD = ROOT / "sample_data" / "world" / "train.jsonl"


def build_parser():
    p = cli.parser(__doc__, __file__)
    p.add_argument("--rows", nargs="+", type=cli.positive_int, default=[15_000, 150_000], help="rows of each file")
    p.add_argument("--model_id", default=str(BASE), help="what is trained")
    p.add_argument("--max_seq_length", type=cli.positive_int, default=512, help="tokens")
    p.add_argument("--stages", nargs="+", choices=("prepare", "train"), default=["prepare", "train"])
    p.add_argument("--keep", action="store_true", help="keep the files and the cache")
    cli.add_output_flags(p, "outputs/data_size")
    return p


def write_rows(path: Path, count: int) -> None:
    """`count` rows of the small world, each with its number in the question and in the answer."""
    rows = [json.loads(line) for line in WORLD.read_text(encoding="utf-8").splitlines()]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            row = rows[number % len(rows)]
            numbered = row | {key: f"{row[key]} ({number})" for key in ("id", "user_content", "assistant_content")}
            file.write(json.dumps(numbered, ensure_ascii=False) + "\n")


PREPARE = {
    "convert, check, exact duplicates, split": ["--filter", "none", "--no-normalise"],
    "the same, texts repaired and counted (default)": [],
    "the same with near-duplicates": ["--near_duplicates"],
}
# What prepare_data.py does to a row of this format at the least, by datasets' own means.
MAP = """
import sys
from datasets import load_dataset
def convert(row):
    turns = [("system", row["system_prompt"]), ("user", row["user_content"]), ("assistant", row["assistant_content"])]
    messages = [{"role": role, "content": text} for role, text in turns if text]
    return {"id": str(row["id"]), "task": row["task"], "messages": messages}
rows = load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=sys.argv[2])
rows = rows.map(convert, remove_columns=rows.column_names, num_proc=int(sys.argv[3]))
rows.to_json(sys.argv[4], force_ascii=False)
"""


def prepare(rows: Path, count: int, out: Path) -> list[dict]:
    """Rows/s and memory of each way to prepare a file."""
    from sllm.data import parallel

    commands = {
        name: [
            sys.executable,
            "prepare_data.py",
            "--input_path",
            rows,
            "--output_dir",
            out / "data",
            "--overwrite",
            *more,
        ]
        for name, more in PREPARE.items()
    }
    cache = out / "datasets_cache"
    commands["datasets.map, conversion alone"] = [
        sys.executable, "-c", MAP, rows, cache, parallel.cores(), out / "mapped.jsonl",
    ]  # fmt: skip
    results = []
    for name, command in commands.items():
        found = measured(list(map(str, command)))
        results.append({"rows": count, "stage": name, "rows_per_second": count / found["seconds"], **found})
        print(json.dumps(results[-1]), flush=True)
    shutil.rmtree(cache)
    (out / "mapped.jsonl").unlink()
    return results


def measured(command: list[str]) -> dict[str, float]:
    """Run a command; returns its seconds, those until a training's first step, and the largest resident memory in bytes
    of its processes together: `rss`, in which a page that two share counts twice, and `pss`, in which it counts
    once."""
    import psutil

    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = {"rss": 0, "pss": 0}

    def watch() -> None:
        while process.poll() is None:
            try:
                parent = psutil.Process(process.pid)
                infos = [each.memory_full_info() for each in (parent, *parent.children(recursive=True))]
            except psutil.Error:
                continue
            for name in peak:
                peak[name] = max(peak[name], sum(getattr(info, name) for info in infos))
            time.sleep(0.5)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    found: dict[str, float] = {}
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if line.startswith("tokens:"):
            print(line, end="")
        if line.startswith("step    1/"):
            found["first_step_seconds"] = time.monotonic() - started
    if process.wait():
        raise cli.CheckFailed(f"{' '.join(command)} failed: {''.join(lines[-5:])}")
    found["seconds"] = time.monotonic() - started
    watcher.join()
    return found | {f"peak_{name}": value for name, value in peak.items()}


def main(args) -> dict:
    from sllm import checkpoint

    out = checkpoint.prepare_output(args.output_dir, overwrite=args.overwrite)
    results, prepared = [], []
    for count in args.rows:
        rows, cache = out / f"rows_{count}.jsonl", out / f"tokens_{count}"
        write_rows(rows, count)
        prepared += prepare(rows, count, out) if "prepare" in args.stages else []
        for name in ("cold", "warm") if "train" in args.stages else ():
            command = [
                sys.executable, "train_LoRA_SFT.py", "--trainset_path", rows, "--model_id", args.model_id,
                "--max_steps", 1, "--max_seq_length", args.max_seq_length, "--cache_dir", cache.resolve(),
                "--output_dir", out / "sft", "--overwrite", "--report_to", "none",
            ]  # fmt: skip
            found = {"rows": count, "cache": name, **measured(list(map(str, command)))}
            results.append(found)
            print(json.dumps(found))
        if not args.keep:
            rows.unlink()
            shutil.rmtree(cache, ignore_errors=True)
    gib = checkpoint.gib
    table = [
        (f"{r['rows']:,}", r["stage"], f"{r['rows_per_second']:,.0f}", gib(r["peak_rss"]), gib(r["peak_pss"]))
        for r in prepared
    ]
    print(cli.table(["rows", "preparation", "rows/s", "peak RSS", "peak PSS"], table))
    table = [
        (f"{r['rows']:,}", r["cache"], f"{r['first_step_seconds']:.1f}", gib(r["peak_rss"]), gib(r["peak_pss"]))
        for r in results
    ]
    print(cli.table(["rows", "tokens", "seconds to the first step", "peak RSS", "peak PSS"], table))
    checkpoint.write_run(out, "benchmark", args, metrics={"prepared": prepared, "runs": results})
    return {"stage": "benchmark", "prepared": prepared, "runs": results}


if __name__ == "__main__":
    cli.run(main, build_parser())
