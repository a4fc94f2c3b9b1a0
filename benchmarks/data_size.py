"""How long and how much memory the stages take at the size of real data: SFT up to its first step, cold and warm.

Writes files of rows that are like those of the small world (their texts numbered, so that no two are equal), trains for
one step with an empty cache of tokens and again with a full one, and prints a line for each: seconds until the first
step is done, and the largest resident memory of all processes together.

    python benchmarks/data_size.py --rows 15000 150000 --output_dir outputs/data_size
"""

import json
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


def measured(command: list[str]) -> dict[str, float]:
    """Run a training; returns the seconds until its first step is done, and the largest resident memory in bytes of its
    processes together: `rss`, in which a page that two share counts twice, and `pss`, in which it counts once."""
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
    watcher.join()
    return found | {f"peak_{name}": value for name, value in peak.items()}


def main(args) -> dict:
    from sllm import checkpoint

    out = checkpoint.prepare_output(args.output_dir, overwrite=args.overwrite)
    results = []
    for count in args.rows:
        rows, cache = out / f"rows_{count}.jsonl", out / f"tokens_{count}"
        write_rows(rows, count)
        for name in ("cold", "warm"):
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
            for path in sorted(cache.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
    gib = checkpoint.gib
    table = [
        (f"{r['rows']:,}", r["cache"], f"{r['first_step_seconds']:.1f}", gib(r["peak_rss"]), gib(r["peak_pss"]))
        for r in results
    ]
    print(cli.table(["rows", "tokens", "seconds to the first step", "peak RSS", "peak PSS"], table))
    checkpoint.write_run(out, "benchmark", args, metrics={"runs": results})
    return {"stage": "benchmark", "runs": results}


if __name__ == "__main__":
    cli.run(main, build_parser())
