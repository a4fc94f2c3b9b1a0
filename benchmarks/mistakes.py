"""What a silent mistake costs: the same training with one mistake put in each time, and which check catches it.

Each mistake is put into the process of one stage. A stage that stops with an error is run again with its checks off, so
that the cost is known too. A call continues where an earlier one into the same folder stopped.

    python benchmarks/mistakes.py --seeds 1 2 3
"""

import argparse
import json
import random
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sllm import compare_outputs, hashes  # noqa: E402

WORLD = ROOT / "sample_data" / "world"
BASE = ROOT / "sample_data" / "tiny_base"
COMMON = ("--backend", "peft", "--train_epochs", "1", "--batch_size", "4", "--gradient_accum_steps", "1")
TRAINING = {
    "sft": ("train_LoRA_SFT.py", "--learning_rate", "2e-3", *COMMON),
    "dpo": ("train_LoRA_DPO.py", "--learning_rate", "5e-5", *COMMON),
}
Rows = list[dict]


@dataclass(frozen=True)
class Mistake:
    """One mistake.

    Attributes:
        about: what is wrong, for the table.
        stage: where it is put in: sft, dpo, merge or inference.
        patch: makes the mistake in the process of the stage.
        flags: of the stage, after the usual ones.
        rows: (training rows, test rows, draw) → the training rows with the mistake.
        check: what catches it, for the table; "" where nothing does.
        says: a part of the error or note of that check.
    """

    about: str
    stage: str = "sft"
    check: str = ""
    says: str = ""
    patch: Callable[[], None] = lambda: None
    flags: tuple[str, ...] = ()
    rows: Callable[[Rows, Rows, random.Random], Rows] = lambda rows, test, draw: rows


def _change_columns(change: Callable[[list[int], list[int]], tuple[list[int], list[int]]]) -> None:
    """Let every training row be `change(ids, labels)`."""
    from sllm.data import labels

    right = labels.with_labels

    def wrong(columns):
        columns = right(columns)
        changed = [change(*row) for row in zip(columns["input_ids"], columns["labels"], strict=True)]
        return columns | {"input_ids": [ids for ids, _ in changed], "labels": [labels for _, labels in changed]}

    labels.with_labels = wrong


def end_not_supervised() -> None:
    def without_end(ids, labels):
        end = next(label for label in reversed(labels) if label != -100)
        return ids, [-100 if label == end else label for label in labels]

    _change_columns(without_end)


def labels_shifted() -> None:
    _change_columns(lambda ids, labels: (ids, [*labels[1:], -100]))


def answers_cut() -> None:
    """Half of each answer, as a limit that is too low leaves it."""

    def half(ids, labels):
        cut = len(ids) - sum(label != -100 for label in labels) // 2
        return ids[:cut], labels[:cut]

    _change_columns(half)


def rows_see_each_other() -> None:
    import torch
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling as Collator

    right = Collator.torch_call

    def wrong(self, rows):
        batch = right(self, rows)
        batch["position_ids"] = torch.arange(batch["input_ids"].shape[1])[None]
        return batch

    Collator.torch_call = wrong


def mean_of_each_micro_batch() -> None:
    from sllm.train import trainers

    right = trainers.SFTTrainer.get_batch_samples
    trainers.SFTTrainer.get_batch_samples = lambda *args: (right(*args)[0], None)


def another_template() -> None:
    from sllm import chat

    right = chat.set_chat_template
    chat.set_chat_template = lambda tokenizer, name: right(tokenizer, "llama3")


def bos_twice() -> None:
    from sllm import chat

    right = chat.prompt_ids
    chat.prompt_ids = lambda tokenizer, messages: [tokenizer.bos_token_id, *right(tokenizer, messages)]


def reference_is_the_base() -> None:
    from trl.trainer import dpo_trainer

    right = dpo_trainer.use_adapter
    dpo_trainer.use_adapter = lambda model, adapter_name: right(model, None)  # None: without any adapter


def merge_times(factor: float) -> None:
    """The adapter goes into the weights so many times."""
    from sllm.merge import merge

    right = merge.read

    def wrong(*args):
        deltas, *rest = right(*args)
        return {name: replace(delta, scale=factor * delta.scale) for name, delta in deltas.items()}, *rest

    merge.read = wrong


def swap(pairs: Rows, test: Rows, draw: random.Random) -> Rows:
    swapped = set(draw.sample(range(len(pairs)), len(pairs) // 5))
    exchange = {"chosen": "rejected", "rejected": "chosen"}
    return [
        {exchange.get(key, key): value for key, value in row.items()} if i in swapped else row
        for i, row in enumerate(pairs)
    ]


def leak(rows: Rows, test: Rows, draw: random.Random) -> Rows:
    """The test rows in the place of as many others."""
    return [*rows[: len(rows) - len(test)], *test]


# fmt: off
MISTAKES = {
    "none": Mistake("no mistake"),
    "prompt": Mistake("the prompt is learned too (`--train_on_inputs`)", check="a note",
                      says="the prompts are learned too", flags=("--train_on_inputs",)),
    "end": Mistake("the end of the turn is not supervised, as where pad is the same token",
                   check="guarantee 2", says="(guarantee 2)", patch=end_not_supervised),
    "shift": Mistake("labels shifted by one", check="guarantee 2", says="(guarantee 2)", patch=labels_shifted),
    "cut": Mistake("truncated answers are kept", check="guarantee 2", says="end before their end-of-turn token",
                   patch=answers_cut),
    "mixed": Mistake("rows of a batch see each other", check="guarantee 6", says="see each other",
                     patch=rows_see_each_other, flags=("--padding_free",)),
    "micro": Mistake("accumulation takes the mean of each micro-batch", check="guarantee 8",
                     says="gradient accumulation changes", patch=mean_of_each_micro_batch,
                     flags=("--batch_size", "1", "--gradient_accum_steps", "4", "--no-padding_free")),
    "high": Mistake("learning rate ten times as high", check="the loss rose", says="the loss on the training rows rose",
                    flags=("--learning_rate", "2e-2")),
    "zero": Mistake("learning rate next to 0", check="a note", says="training changed little",
                    flags=("--learning_rate", "1e-9")),
    "leak": Mistake("the test rows are among the training rows", check="a note",
                    says="rows that the model was trained on", rows=leak),
    "template": Mistake("another template, and its end of turn, at inference", "inference",
                        check="guarantee 1", says="probe prompt differs", patch=another_template),
    "bos": Mistake("BOS twice at inference", "inference", check="guarantee 1", says="probe prompt differs",
                   patch=bos_twice),
    "unmerged": Mistake("the adapter is left out of the merged model", "merge", check="guarantee 5",
                        says="merge parity failed", patch=partial(merge_times, 0)),
    "twice": Mistake("the adapter is merged twice", "merge", check="guarantee 5", says="merge parity failed",
                     patch=partial(merge_times, 2)),
    "dpo": Mistake("DPO without a mistake", "dpo"),
    "reference": Mistake("DPO's reference is the base model", "dpo", check="guarantee 4",
                         says="the DPO reference is not", patch=reference_is_the_base),
    "swapped": Mistake("chosen and rejected swapped in 20 % of the pairs", "dpo", check="a note",
                       says="are they swapped?", rows=swap),
}
# fmt: on
BASELINES = ("none", "dpo")  # always run: what the others are compared with, and start from


def run_stage(name: str, mode: str, script: str, *flags: str) -> None:
    """Run a script with a mistake in it, in this process. `mode`: checked or unchecked."""
    if mode == "unchecked" and script == "vllm_inference.py":
        from sllm import chat

        chat.check_probe = lambda *args: None
    elif mode == "unchecked" and script == "merged_weights.py":
        from sllm.merge import parity

        parity.Parity.passed = True
    elif mode == "unchecked":
        from sllm.train import checks, gradient_checks

        checks.packing_isolation = lambda *args, **kwargs: 0.0
        checks.dpo_reference = lambda trainer: 0.0
        checks.require_learning = lambda *args: None
        gradient_checks.loss_mask = gradient_checks.accumulation_parity = lambda *args: {}
    MISTAKES[name].patch()
    sys.argv = [script, *flags]
    runpy.run_path(str(ROOT / script), run_name="__main__")


def stage(name: str, script: str, *flags: object) -> list[str]:
    """Run a script with a mistake in it; returns its errors and notes. One that stops with an error has then run
    without its checks."""
    done = _run(name, "checked", script, *flags)
    messages = _messages(done)
    if done.returncode and messages and name not in BASELINES:
        done = _run(name, "unchecked", script, *flags)
    if done.returncode:
        sys.exit(f"{name}: {script} failed\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return messages


def _run(name: str, mode: str, script: str, *flags: object) -> subprocess.CompletedProcess:
    command = [sys.executable, __file__, "stage", name, mode, script, *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def _messages(done: subprocess.CompletedProcess) -> list[str]:
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if line.startswith(("error: ", "note"))]


def measure(name: str, seed: int, args: argparse.Namespace) -> dict:
    """Train with a mistake, ask about the small world, and judge the answers."""
    mistake = MISTAKES[name]
    out = args.output_dir / str(seed)
    out.mkdir(parents=True, exist_ok=True)
    test = _read("test_names")[:: args.every]
    asked, answers = _write(out / "test.jsonl", test), out / f"{name}.jsonl"
    folder, messages = out / "none", []
    if mistake.stage in TRAINING:
        rows = _read("pairs") if mistake.stage == "dpo" else _read("train")[:: args.every]
        rows = _write(out / f"{name}.rows.jsonl", mistake.rows(rows, test, random.Random(seed)))
        parent, folder = folder if mistake.stage == "dpo" else BASE, out / name
        messages += stage(name, *TRAINING[mistake.stage], *mistake.flags, "--model_id", parent, "--trainset_path", rows,
                          "--seed", seed, "--output_dir", folder, "--overwrite")  # fmt: skip
    elif mistake.stage == "merge":
        merging = ("--model_id", folder, "--merged_weights_path", out / name, "--dtype", "float16", "--overwrite")
        folder = out / name
        messages += stage(name, "merged_weights.py", *merging)
    asking = name if mistake.stage == "inference" else "none"
    messages += stage(asking, "vllm_inference.py", "--model_id", folder, "--testset_path", asked, "--max_tokens", 160,
                      "--output_path", answers, "--overwrite")  # fmt: skip
    answered = compare_outputs.read(str(answers))
    verdicts = compare_outputs.verdicts_of(list(answered.values()), answered, compare_outputs.read_facts(str(asked)))
    return {"mistake": name, "seed": seed, **_settings(args), "messages": messages, **verdicts}


def _settings(args: argparse.Namespace) -> dict:
    """What runs of one table have in common."""
    return {
        "every": args.every,
        "base": hashes.file_hash(BASE / "model.safetensors"),
        "rows": hashes.folder_hash(WORLD),
    }


def _read(name: str) -> Rows:
    return [json.loads(line) for line in (WORLD / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def _write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def table(results: Rows) -> str:
    """Markdown: the mean share of each mistake over the seeds, with the 95 % interval that the number of questions
    gives. Seeds answer the same questions, so more of them do not narrow it."""
    lines = ["| mistake | true | rules kept | stopped | caught by |", "|---|---|---|---|---|"]
    for name, mistake in MISTAKES.items():
        runs = [result for result in results if result["mistake"] == name]
        if not runs:
            continue
        cells = [mistake.about]
        for column in ("true", "rules_passed", "stopped"):
            questions, right = len(runs[0][column]), sum(sum(run[column]) for run in runs)
            ratio = right / questions / len(runs)
            low, high = compare_outputs.interval(ratio, questions)
            cells.append(f"{100 * ratio:.0f} % ({100 * low:.0f}–{100 * high:.0f} %)")
        caught = all(mistake.says in "\n".join(run["messages"]) for run in runs)
        check = "–" if name in BASELINES else mistake.check if caught else "nothing"
        lines.append(f"| {' | '.join([*cells, check])} |")
    return "\n".join(lines)


def build_parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", nargs="+", choices=MISTAKES, default=list(MISTAKES), help="these, none and dpo")
    p.add_argument("--seeds", nargs="+", type=int, default=[1], help="of the training, and of the pairs swapped")
    p.add_argument("--every", type=int, default=2, help="use every n-th training row and test row")
    p.add_argument("--output_dir", type=Path, default=ROOT / "outputs" / "mistakes", help="all folders, results.jsonl")
    return p


def main() -> None:
    args = build_parser().parse_args()
    args.output_dir = args.output_dir.resolve()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / "results.jsonl"
    results = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    if any(result[key] != value for result in results for key, value in _settings(args).items()):
        sys.exit(f"error: {path} is of another base, other rows or another --every; take another --output_dir")
    for seed in args.seeds:
        for name in MISTAKES:
            is_done = any((result["mistake"], result["seed"]) == (name, seed) for result in results)
            if is_done or name not in {*BASELINES, *args.only}:
                continue
            results.append(result := measure(name, seed, args))
            _write(path, results)
            print(table([result]).splitlines()[-1], flush=True)
    print("\n" + table(results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["stage"]:  # a stage with a mistake in it: the process that `stage` starts
        run_stage(*sys.argv[2:])
    else:
        main()
