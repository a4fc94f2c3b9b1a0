"""Log-likelihoods of the choices of a labelled test set by evaluate_model.py's suite and by lm-evaluation-harness, on
one engine, in turns: the largest difference, and the seconds of each.

    python benchmarks/zero_shot.py --model_id sample_data/tiny_base --zero_shot_path kornli_dev.tsv
"""

import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sllm import cli


def build_parser():
    p = cli.parser(__doc__, "benchmarks/zero_shot.py")
    p.add_argument("--model_id", required=True, help="a base or merged model")
    p.add_argument("--zero_shot_path", required=True, help="a labelled test set")
    p.add_argument("--limit", type=cli.positive_int, help="only the first items")
    p.add_argument("--rounds", type=cli.positive_int, default=3, help="of each, in turns")
    return p


def main(args) -> dict:
    from sllm.serve import engine, environment, harness, model_info

    environment.set_environment()
    from sllm import chat
    from sllm.evaluate import zero_shot

    tokenizer = chat.load_tokenizer(args.model_id)
    [test_set] = zero_shot.load([args.zero_shot_path], [], 0, 42)
    test_set = dataclasses.replace(test_set, items=test_set.items[: args.limit])
    context = min(2048, model_info.context_length(args.model_id) or 2048)
    llm = engine.load(args.model_id, dtype="float32", max_model_len=context, kv_tokens=2**17)

    def ours() -> list[list[float]]:
        def score(pairs):
            found = dict(engine.log_likelihoods(llm, pairs))
            return [found[i] for i in range(len(pairs))]

        return zero_shot.measure(tokenizer, [test_set], ["plain"], score)[test_set.name]["plain"]

    def theirs(folder: Path) -> list[list[float]]:
        found = harness.evaluate(llm, args.model_id, None, tasks=["same_items"],
                                 task_manager=harness.task_manager(str(folder)))  # fmt: skip
        samples = sorted(found["samples"]["same_items"], key=lambda sample: sample["doc_id"])
        return [[float(value) for value, _ in sample["filtered_resps"]] for sample in samples]

    seconds: dict[str, list[float]] = {"ours": [], "lm-eval": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_task(folder, test_set.items)
        ours(), theirs(folder)  # kernels for each shape are made once
        for _ in range(args.rounds):
            for who, run in (("ours", ours), ("lm-eval", lambda: theirs(folder))):
                started = time.monotonic()
                values = run()
                seconds[who].append(time.monotonic() - started)
                if who == "ours":
                    own = values
    largest = max(abs(a - b) for one, other in zip(own, values, strict=True) for a, b in zip(one, other, strict=True))
    rows = [(who, f"{min(each):.1f}", f"{max(each):.1f}") for who, each in seconds.items()]
    print(cli.table(["", "seconds, least", "most"], rows))
    print(f"{len(own)} items, {sum(map(len, own))} choices; largest difference {largest:.1e}")
    return {"items": len(own), "largest_difference": largest, "seconds": seconds}


def write_task(folder: Path, items) -> None:
    """The same contexts and choices as a task of the harness."""
    rows = [{"context": item.context, "choices": item.choices, "label": item.label} for item in items]
    (folder / "items.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    task = {"task": "same_items", "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / "items.jsonl")}}, "test_split": "test",
            "output_type": "multiple_choice", "doc_to_text": "{{context}}", "doc_to_choice": "{{choices}}",
            "doc_to_target": "label", "metric_list": [{"metric": "acc"}]}  # fmt: skip
    (folder / "same_items.yaml").write_text(json.dumps(task))  # JSON is YAML


if __name__ == "__main__":
    cli.run(main, build_parser())
