"""Score the answers of any number of models with intervals, test whether one is better than another, and write a
report that opens in a browser without a network.

Reads, for each model, the file of answers that vllm_inference.py wrote, or a model or adapter folder (or Hub id), which
is asked first; the rows of --testset_path where one of them has to be asked, or where its rows carry facts to check
answers against. Writes results.json, answers.jsonl (every question with all answers and scores), report.html and
run.json to --output_dir.

    world        are the answers true? for rows of `python -m sllm.world`
    conformance  does an answer keep its task's rules, stop by itself, stay in Korean, not repeat itself?
    reference    how near is it to the reference: exact match and character F1, ROUGE, chrF++, choices, keywords

    --gate OLD NEW   exit with 1 unless NEW is nowhere significantly worse than OLD, and better on --must_improve
    --doctor FOLDER  hold a model or adapter of any tool against what can be checked without its data

    python evaluate_model.py --models base=outputs/demo/compare/base.jsonl sft=outputs/demo/compare/sft.jsonl \\
        --testset_path sample_data/world/test_names.jsonl --output_dir outputs/evaluation
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

from sllm import checkpoint, cli
from sllm.cli import InputError
from sllm.gate_record import GATE

SUITES = ("world", "conformance", "reference")


def build_parser():
    p = cli.parser(__doc__, __file__)
    group = p.add_argument_group("models")
    group.add_argument("--models", nargs="+", default=[], metavar="NAME=PATH", help="a name to show, and a file of "
                       "answers, a model or an adapter")  # fmt: skip
    group.add_argument("--testset_path", metavar="FILE", help="rows to ask; those of the small world have facts")
    group.add_argument("--suites", nargs="+", choices=SUITES, metavar="SUITE", help="what to measure: world, "
                       "conformance, reference; default: all that the rows allow")  # fmt: skip
    group = p.add_argument_group("answers of models that are asked (more flags: vllm_inference.py)")
    group.add_argument("--max_tokens", type=cli.positive_int, default=512, help="most tokens of an answer")
    group.add_argument("--temperature", type=cli.between(0, 2), default=0.0, help="0: always the likeliest token")
    group.add_argument("--n", type=cli.integer(1, 1024), default=1, help="answers to each question")
    group.add_argument("--seed", type=cli.seed, default=42, help="of the sampling")
    group.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32"), help="of weights")
    group = p.add_argument_group("gate")
    group.add_argument("--gate", nargs=2, metavar=("OLD", "NEW"), help="names of two models, or two folders that this "
                       "script wrote, each with one model")  # fmt: skip
    group.add_argument("--must_improve", nargs="+", default=[], choices=SUITES, metavar="SUITE", help="suites on which "
                       "NEW has to be significantly better")  # fmt: skip
    group = p.add_argument_group("doctor")
    group.add_argument("--doctor", metavar="FOLDER", help="check a model or adapter folder, and nothing else")
    group.add_argument("--base_model", metavar="FOLDER", help="base of the adapter; default: the one that it names")
    cli.add_output_flags(p, "outputs/evaluation", resume="keep the answers that --output_dir has already")
    group.add_argument("--report_only", action="store_true", help="write report.html of --output_dir again")
    return p


def main(args) -> dict:
    from sllm.evaluate import answers, doctor, evaluation, report

    started, out = time.monotonic(), Path(args.output_dir)
    check_flags(args)
    if args.doctor:
        findings = doctor.examine(args.doctor, base_model=args.base_model, more={"base + adapter": is_base_and_adapter})
        return {"stage": "doctor", "folder": args.doctor, "checks": doctor.report(args.doctor, findings)}
    if not args.models:
        if args.report_only:
            report.write(evaluation.load(out), out)
            print(f"{out / evaluation.REPORT} is written")
        return {"stage": "evaluation", "output_dir": str(out), **(decide(args, out) if args.gate else {})}

    # ── inputs ──
    models, _, facts = cli.collect_errors(
        lambda: answers.named_paths(args.models, args.testset_path),
        lambda: checkpoint.check_output(out, overwrite=args.overwrite, resume=args.resume),
        lambda: answers.read_facts(args.testset_path),
    )
    if not args.resume:
        checkpoint.require_distinct(out, args.testset_path, *models.values())
    given = {name: path for name, path in models.items() if path.is_file()}
    if given:  # before anything is replaced, or a model asked
        evaluation.choose_suites(args.suites if given == models else None, answers.read(given, facts)[0])
    checkpoint.prepare_output(out, overwrite=args.overwrite, resume=args.resume)

    # ── answers ──
    files = {name: given[name] if name in given else ask(name, path, args, out) for name, path in models.items()}
    questions, answered, notes = answers.read(files, facts)
    suites = evaluation.choose_suites(args.suites, questions)
    for note in notes:
        cli.say("note", note)
    cli.say("questions", f"{len(questions)}, suites: {', '.join(suite.name for suite in suites)}")

    # ── scores ──
    (out / GATE).unlink(missing_ok=True)  # of older results
    evaluated = evaluation.evaluate(questions, answered, suites)
    evaluation.write(evaluated, out)
    report.write(evaluated, out)
    print(f"\n{evaluation.tables(evaluated.results)}\n\nreport: {out / evaluation.REPORT}")
    headlines = evaluation.headlines(evaluated.results)
    data = {"questions": len(questions), "testset_path": args.testset_path}
    checkpoint.write_run(out, "evaluation", args, parents=list(files.values()), data=data, metrics=headlines,
                         seconds=time.monotonic() - started)  # fmt: skip
    results = {"stage": "evaluation", "output_dir": str(out), "questions": len(questions), "models": headlines}
    return results | (decide(args, out) if args.gate else {})


def check_flags(args) -> None:
    names = [pair.partition("=")[0] for pair in args.models]
    problems = []
    if not (args.models or args.report_only or args.gate or args.doctor):
        problems.append("name models: --models NAME=PATH …")
    if args.doctor and (args.models or args.report_only or args.gate):
        problems.append("--doctor: not with --models, --gate or --report_only")
    if args.base_model and not args.doctor:
        problems.append("--base_model: only with --doctor")
    if args.report_only and args.models:
        problems.append("--report_only reads --output_dir: leave out --models")
    if args.must_improve and not args.gate:
        problems.append("--must_improve: only with --gate OLD NEW")
    if args.gate and args.gate[0] == args.gate[1]:
        problems.append(f"--gate {' '.join(args.gate)}: name two different models")
    for name in args.gate or []:
        if args.models and name not in names:
            problems.append(f"--gate {name}: not among --models {' '.join(names)}")
    if args.n > 1 and not args.temperature:
        problems.append(f"--n {args.n}: greedy answers are identical; sample with --temperature 0.7")
    if problems:
        raise InputError(problems)


def decide(args, out: Path) -> dict:
    """The gate's verdict. CheckFailed with its reasons where NEW does not pass."""
    from sllm.evaluate import gate

    verdict, folder = gate.run(*args.gate, out, args.must_improve)
    if not verdict.passed:
        raise cli.CheckFailed(f"{args.gate[1]} does not pass: {'; '.join(verdict.reasons)}")
    print(f"{args.gate[1]} passes")
    return {
        "output_dir": str(folder),
        "gate": "passed",
        "differences": {name: d["value"] for name, d in verdict.differences.items()},
    }


def ask(name: str, model: Path, args, out: Path) -> Path:
    """Answer the test set in a process of its own, whose memory is free again when it ends."""
    path = out / "answers" / f"{name}.jsonl"
    words = {"model_id": model, "testset_path": args.testset_path, "output_path": path, "max_tokens": args.max_tokens,
             "temperature": args.temperature, "n": args.n, "seed": args.seed, "dtype": args.dtype}  # fmt: skip
    print(f"\n── {name} ──", flush=True)
    flags = [str(word) for flag, value in words.items() for word in (f"--{flag}", value)]
    flags += ["--resume"] if args.resume else []
    done = subprocess.run([sys.executable, str(Path(__file__).with_name("vllm_inference.py")), *flags])
    resume = cli.command_line(drop=["--overwrite"], add=["--resume"])
    if done.returncode in (130, -signal.SIGINT):
        raise cli.Interrupted(resume)
    if done.returncode:
        raise InputError(f"{name} was not asked to the end, for the reason above; to continue: {resume}")
    return path


def is_base_and_adapter(folder) -> str:
    """Of a model that merged_weights.py merged, where what it was merged from is still there."""
    from sllm.evaluate.model_folder import NotChecked
    from sllm.merge import compare

    record = checkpoint.read_run(folder.path) or {}
    if record.get("stage") != "merged":
        raise NotChecked("not a merge of this tool")
    adapter = Path(checkpoint.find(folder.path, record, record["parents"][0]["path"]))
    base = Path(checkpoint.find(folder.path, record, record["base"]["path"]))
    if not (adapter.is_dir() and base.is_dir()):
        raise NotChecked(f"{adapter if base.is_dir() else base} is not there any more")
    return compare.compare(folder.path, base, adapter)


if __name__ == "__main__":
    cli.run(main, build_parser())
