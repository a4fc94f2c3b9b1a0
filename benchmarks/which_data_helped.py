"""Which data helped: train once on all sources and once without each of them, and measure held-out rows.

A source is a file of --trainset_path, or with --by task the rows of one task. Every training has the same number of
rows (--max_rows) and optimizer steps: what is left out is replaced by rows of the others. --seeds trains everything
again, with other rows drawn, in another order; a first look with one seed can be continued with more of them
(--resume). Flags behind -- go to train_LoRA_SFT.py.

Test rows that overlap with a training row are left out. Writes results.json, losses.jsonl (the loss of each test row
with each model), effects.png and the adapters to --output_dir.

    python benchmarks/which_data_helped.py --trainset_path a.jsonl b.jsonl c.jsonl --testset_path test.jsonl \\
        --model_id sample_data/tiny_base --seeds 3 -- --learning_rate 2e-3 --train_epochs 1
"""

import json
import math
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sllm import checkpoint, cli  # noqa: E402
from sllm.cli import InputError  # noqa: E402

SETTINGS = "settings.json"
OURS = "trainset_path validation_path model_id output_dir seed overwrite resume preview dry_run packing".split()


def build_parser():
    from sllm.evaluate.flags import OF_ANSWERS

    p = cli.parser(__doc__, "benchmarks/which_data_helped.py")
    add = p.add_argument
    add("--trainset_path", nargs="+", required=True, metavar="FILE", help="training rows: a source each; or a folder "
        "of prepare_data.py with --by task")  # fmt: skip
    add("--testset_path", nargs="+", default=[], metavar="FILE", help="held-out rows with answers, of what the model "
        "is meant to do; default: test.jsonl of a prepared folder")  # fmt: skip
    add("--by", choices=("source", "task"), default="source", help="what is left out: a file, or the rows of a task")
    add("--only", nargs="+", default=[], metavar="NAME", help="leave out these sources only; default: each")
    add("--model_id", required=True, help="what is trained: a model or adapter folder, or a Hub id")
    add("--max_rows", type=cli.positive_int, default=2000, help="rows of each training")
    add("--max_test_rows", type=cli.positive_int, default=1000, help="held-out rows, drawn at random")
    add("--seeds", type=cli.integer(1, 100), default=3, metavar="N", help="train everything N times")
    add("--suites", nargs="+", choices=OF_ANSWERS, default=[], metavar="SUITE", help="let evaluate_model.py ask every "
        f"model the test rows, and compare the scores too: {', '.join(OF_ANSWERS)}")  # fmt: skip
    add("--max_tokens", type=cli.positive_int, default=512, help="with --suites: most tokens of an answer")
    add("training_flags", nargs="*", metavar="-- FLAGS", help="flags of train_LoRA_SFT.py")
    cli.add_output_flags(p, "outputs/which_data_helped", resume="continue; trainings that are finished are kept")
    return p


def main(args) -> dict:
    started, out = time.monotonic(), Path(args.output_dir)
    import numpy as np

    from sllm.data import hold_out, leave_out, splits
    from sllm.data.json_writer import write_json, write_jsonl
    from sllm.evaluate import ablation

    # ── inputs ──
    training, _, sources, test, *_ = cli.collect_errors(
        lambda: training_arguments(args),
        lambda: checkpoint.require_model(args.model_id),
        lambda: leave_out.read_sources(args.trainset_path, args.by),
        lambda: read_test(args),
        lambda: checkpoint.check_output(out, overwrite=args.overwrite, resume=args.resume),
    )
    if unknown := [name for name in args.only if name not in sources]:
        raise InputError(f"--only {' '.join(unknown)}: not among the sources {', '.join(sources)}")
    test = held_out(test, sources, args.max_test_rows)
    left_out = [name for name in sources if name in (args.only or sources)]
    size = min(args.max_rows, sum(map(len, sources.values())))
    steps = training_steps(training, size)
    settings = {
        "model": {args.model_id: checkpoint.folder_hash(args.model_id)},
        "rows": {path: checkpoint.folder_hash(path) for path in args.trainset_path},
        "by": args.by,
        "max_rows": size,
        "max_steps": steps,
        "training_flags": args.training_flags,
    }
    if args.resume:
        check_settings(out, settings)
    checkpoint.require_distinct(out, args.model_id, *args.trainset_path, *args.testset_path)
    checkpoint.prepare_output(out, overwrite=args.overwrite, resume=args.resume)
    write_json(out / SETTINGS, settings)
    write_jsonl(out / "test.jsonl", with_facts(test))

    # ── train ──
    folders = train_all(sources, left_out, size, steps, args)

    # ── measure ──
    of_answers = measure_answers(folders, args, left_out, test) if args.suites else []  # while the GPU is free
    losses = measure_losses({None: args.model_id, **folders}, test, training)
    measured = [as_measured("held-out loss", losses, args.seeds, left_out, lower=True, share=False), *of_answers]
    if too_long := sum(map(math.isnan, losses[None])):
        cli.say("note", f"{cli.plural(too_long, 'test row')} longer than --max_seq_length: no loss is measured")
    if too_long == len(test):
        raise InputError(f"no test row fits in --max_seq_length {training.max_seq_length}")
    contexts = splits.group(*hold_out.keys_of(test).T).tolist()
    groups = [row["task"] or Path(row.file or "").stem for row in test]  # rows without a task: by file
    analyses = [ablation.analyse(one, contexts, groups) for one in measured]

    # ── results ──
    counts = leave_out.quotas(sources, size)
    rows = {name: f"{counts[name]:,} of {len(sources[name]):,}" for name in left_out}
    sentences = []
    for one, analysis in zip(measured, analyses, strict=True):
        sentences += [ablation.sentence(one, analysis, name) for name in left_out]
        print(f"\n{ablation.tables(one, analysis, rows)}")
    base, whole = (float(np.nanmean(values)) for values in (losses[None], measured[0].whole))
    print("\ngain: what is lost where the source is left out and its place is taken by the others\n"
          f"in brackets: 95 % intervals over contexts{' and seeds' if args.seeds > 1 else ', of this training alone'}; "
          "p: corrected (Holm); *: p ≤ 0.05, corrected for all of the table\n"
          f"held-out loss: {base:.3f} untrained, {whole:.3f} with all sources\n")  # fmt: skip
    print("\n".join(sentences))
    ablation.plot(measured[0], analyses[0], out / "effects.png")
    write_jsonl(out / "losses.jsonl", lines_of(test, contexts, losses))
    results = {"settings": settings, "seeds": args.seeds, "test_rows": len(test), "loss": {"base": base, "all": whole},
               "measures": analyses, "sentences": sentences, "versions": checkpoint.versions()}  # fmt: skip
    write_json(out / "results.json", cli.json_safe(results))
    verdicts = {name: found["verdict"] for name, found in analyses[0]["sources"].items()}
    checkpoint.write_run(out, "ablation", args, parents=[*args.trainset_path, *test_files(args), args.model_id],
                         data={"rows": counts, "test_rows": len(test)}, metrics=verdicts,
                         seconds=time.monotonic() - started)  # fmt: skip
    return {"stage": "ablation", "output_dir": str(out), "test_rows": len(test), "verdicts": verdicts}


# ── inputs ──


def training_arguments(args):
    """The arguments of every training; wrong ones end this process with train_LoRA_SFT.py's own error."""
    import train_LoRA_SFT

    problems = [
        f"{word}: every training has its own; leave it out"
        if word != "--packing"
        else "--packing: its steps hold different numbers of rows, and trainings could not be compared"
        for word in args.training_flags
        if word.partition("=")[0].removeprefix("--") in OURS
    ]
    if problems:
        raise InputError(problems)
    required = ["--trainset_path", "rows", "--model_id", args.model_id]
    return train_LoRA_SFT.build_parser().parse_args([*required, *args.training_flags])


def training_steps(training, rows: int) -> int:
    if training.max_steps > 0:
        return training.max_steps
    return math.ceil(math.ceil(rows / (training.batch_size * training.gradient_accum_steps)) * training.train_epochs)


def test_files(args) -> list[Path]:
    paths = args.testset_path or [path for path in args.trainset_path if Path(path).is_dir()]
    return [Path(path) / "test.jsonl" if Path(path).is_dir() else Path(path) for path in paths]


def read_test(args) -> list:
    from sllm.data import formats

    paths = test_files(args)
    if not paths:
        raise InputError("--testset_path: name held-out rows; prepare_data.py splits them off (test.jsonl)")
    files = cli.collect_errors(*(lambda path=path: formats.load_rows(path, "sft") for path in paths))
    return [row for rows in files for row in rows]


def held_out(test: list, sources: dict, most: int) -> list:
    """At most `most` test rows, without those that overlap with a training row; says how many these are."""
    from sllm.data import leave_out

    found = leave_out.overlapping(test, sources)
    overlapping = set().union(*found.values())
    if overlapping:
        of = ", ".join(f"{name} ({len(rows)})" for name, rows in found.items() if rows)
        cli.say("note", f"{len(overlapping)} of {cli.plural(len(test), 'test row')} overlap with training rows and are "
                f"left out: {of}")  # fmt: skip
    places = [i for i in range(len(test)) if i not in overlapping]
    if len(places) < 2:
        raise InputError("--testset_path: nothing is held out: its rows are among those of --trainset_path")
    return [test[i] for i in sorted(random.Random(0).sample(places, min(most, len(places))))]


def with_facts(test: list) -> list:
    """The rows as they are written for evaluate_model.py: where all have facts of the small world, with these."""
    from sllm import world
    from sllm.data import formats

    facts = {path: world.read_facts(path) for path in {row.file for row in test}}
    known = [facts[row.file].get(row["id"]) for row in test]
    formats.unique_ids(test)
    if None in known:
        return test
    return [raw | {"id": row["id"]} for raw, row in zip(known, test, strict=True)]


def check_settings(out: Path, settings: dict) -> None:
    """InputError where the finished trainings were of other rows or flags."""
    path = out / SETTINGS
    if not path.is_file():
        raise InputError(f"{out} has no {SETTINGS}, so there is nothing to resume; leave out --resume")
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [f"{name} was {before.get(name)}, now {value}" for name, value in settings.items()
               if before.get(name) != value]  # fmt: skip
    if changed:
        raise InputError(f"{out} has trainings of other settings ({'; '.join(changed)}); use the same, or --overwrite")


# ── work ──


def run(log: Path, script: str, *words: object) -> None:
    """A script of ours in a process of its own; what it prints goes to `log`."""
    head, dashes, flags = cli.command_line(drop=["--overwrite", "--resume"]).partition(" -- ")
    resume = f"{head} --resume{dashes}{flags}"
    try:
        with log.open("w", encoding="utf-8") as file:
            done = start([sys.executable, str(ROOT / script), *map(str, words)], file)
    except KeyboardInterrupt:
        raise cli.Interrupted(resume) from None
    if done:
        lines = log.read_text(encoding="utf-8").splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        raise InputError([*errors, f"{script} failed, see {log}; to continue: {resume}"])


def start(command: list[str], log) -> int:
    return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode


def train_all(sources: dict, left_out: list, size: int, steps: int, args) -> dict:
    """(seed, the source that is left out, or None) → adapter folder; those that are finished are kept."""
    from sllm.data import leave_out
    from sllm.data.json_writer import write_jsonl

    models = [(seed, name) for seed in range(1, args.seeds + 1) for name in (None, *left_out)]
    cli.say("sources", ", ".join(f"{name} ({cli.plural(len(rows), 'row')})" for name, rows in sources.items()))
    cli.say("trainings", f"{len(models)}: {cli.plural(args.seeds, 'seed')} × all and without each of "
            f"{cli.plural(len(left_out), 'source')}, each {size:,} rows, {steps:,} steps")  # fmt: skip
    folders = {}
    clock, trained = time.monotonic(), 0
    for number, (seed, name) in enumerate(models, 1):
        drawn = leave_out.draw(sources, size, seed, without=name)
        folder = folders[seed, name] = Path(args.output_dir) / f"seed{seed}" / (f"without_{name}" if name else "all")
        repeated = f", each {size / drawn.different:.1f} times" if drawn.different < size else ""
        cli.say(f"[{number}/{len(models)}]", f"{folder}: {drawn.different:,} different rows{repeated}")
        if checkpoint.read_run(folder) is None:
            folder.parent.mkdir(exist_ok=True)
            write_jsonl(f"{folder}.jsonl", drawn.rows)
            train(folder, steps, seed, args)
            trained += 1
            minutes = (time.monotonic() - clock) / trained * (len(models) - number) / 60
            cli.say("", f"done; about {minutes:.0f} min of training left")
        checkpoint.require(folder, stage="sft")
    return folders


def train(folder: Path, steps: int, seed: int, args) -> None:
    """An adapter from the rows beside its folder, without its checkpoints."""
    own = ("--trainset_path", f"{folder}.jsonl", "--model_id", args.model_id, "--output_dir", folder)
    fixed = ("--report_to", "none", *args.training_flags, "--max_steps", steps, "--seed", seed, "--overwrite")
    run(Path(f"{folder}.log"), "train_LoRA_SFT.py", *own, *fixed)
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path)


def measure_losses(models: dict, rows: list, training) -> dict:
    """Of each model the mean loss of each row's supervised tokens, in nats: (rows,); NaN where a row is too long."""
    import numpy as np
    from peft import PeftModel
    from transformers.utils import logging

    from sllm import chat
    from sllm.bits_per_character import answer_bits
    from sllm.train import memory, with_peft

    logging.disable_progress_bar()
    settings = {"bits": 16, "max_seq_length": 0, "train": False, "gradient_checkpointing": False}
    losses, model = {}, None
    for key, folder in models.items():
        cli.say("measuring", f"{folder}: {cli.plural(len(rows), 'row')}")
        base, adapter = checkpoint.require_model(str(folder))
        model = model or with_peft.load_model(base, adapter=None, dtype=training.dtype, **settings).eval()
        tokenizer = chat.load_tokenizer(str(folder))
        chat.set_chat_template(tokenizer, training.chat_template if key is None else "auto")
        tuned = PeftModel.from_pretrained(model, adapter).eval() if adapter else model
        bits, tokens = answer_bits(tuned, tokenizer, rows, memory.max_length(training, base))
        losses[key] = bits / tokens * np.log(2)
        if adapter:
            has_modules = bool(tuned.peft_config["default"].modules_to_save)
            model = None if has_modules else tuned.unload()  # such modules have replaced those of the base
    return losses


def measure_answers(folders: dict, args, left_out: list, rows: list) -> list:
    """Scores of the answers by each suite of --suites, asked and scored by evaluate_model.py."""
    import numpy as np

    from sllm.evaluate import evaluation

    out = Path(args.output_dir)
    asked = [f"{model_name(key)}={folder}" for key, folder in folders.items()]
    run(out / "answers.log", "evaluate_model.py", "--models", *asked, "--suites", *args.suites, "--testset_path",
        out / "test.jsonl", "--max_tokens", args.max_tokens, "--output_dir", out / "answers",
        "--resume" if (out / "answers").exists() else "--overwrite")  # fmt: skip
    evaluated = evaluation.load(out / "answers")
    of_models = {key: evaluation.scores_of(evaluated, model_name(key)) for key in folders}
    measured = []
    for suite in args.suites:
        described = evaluated.results["suites"][suite]
        metric = described["metrics"][described["headline"]]
        scores = {
            key: np.array([of[suite].get(row["id"], np.nan) for row in rows]) for key, of in of_models.items()
        }  # fmt: skip
        measured.append(as_measured(f"share of “{metric['en']}”", scores, args.seeds, left_out,
                                    lower=metric["lower"], share=metric["unit"] == "share"))  # fmt: skip
    return measured


def as_measured(title: str, scores: dict, seeds: int, left_out: list, *, lower: bool, share: bool):
    import numpy as np

    from sllm.evaluate.ablation import Measured

    of = {name: np.stack([scores[seed, name] for seed in range(1, seeds + 1)]) for name in (None, *left_out)}
    return Measured(title, lower, share, of.pop(None), of)


def lines_of(test: list, contexts: list, losses: dict):
    """Of losses.jsonl: each test row with its loss by every model."""
    for i, row in enumerate(test):
        of_row = {model_name(key): float(values[i]) for key, values in losses.items()}
        yield {"id": row["id"], "task": row["task"], "context": contexts[i], "loss": cli.json_safe(of_row)}


def model_name(key: tuple | None) -> str:
    if key is None:
        return "untrained"
    seed, name = key
    return f"seed{seed}_{f'without_{name}' if name else 'all'}"


if __name__ == "__main__":
    cli.run(main, build_parser())
