"""Score the answers of any number of models with intervals, test whether one is better than another, and write a
report that opens in a browser without a network.

Reads, for each model, the file of answers that vllm_inference.py wrote, or a model or adapter folder (or Hub id), which
is asked first; the rows of --testset_path where one of them has to be asked, or where its rows carry facts to check
answers against. Writes results.json, answers.jsonl (every question with all answers and scores), report.html and
run.json to --output_dir.

    world        are the answers true? for rows of `python -m sllm.world`
    conformance  does an answer keep its task's rules, stop by itself, stay in Korean, not repeat itself?
    reference    how near is it to the reference: exact match and character F1, ROUGE, chrF++, choices, keywords
    judge        what another model says of the answers: scores, and which of two is better (--judge_model)
    zero_shot    which of the given answers is likeliest, on labelled Korean test sets (--zero_shot_path)
    lm_eval      tasks of EleutherAI's lm-evaluation-harness on the same engine (--lm_eval_tasks)
    retention    what tuning took away: bits per character and KL to the base on general Korean

    --gate OLD NEW   exit with 1 unless NEW is nowhere significantly worse than OLD, and better on --must_improve
    --doctor FOLDER  hold a model or adapter of any tool against what can be checked without its data

    python evaluate_model.py --models base=outputs/demo/compare/base.jsonl sft=outputs/demo/compare/sft.jsonl \\
        --testset_path sample_data/world/test_names.jsonl --output_dir outputs/evaluation
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from sllm import checkpoint, cli, world
from sllm.cli import InputError
from sllm.evaluate import flags
from sllm.gate_record import GATE

ROOT = Path(__file__).resolve().parent


def build_parser():
    p = cli.parser(__doc__, __file__)
    flags.add_flags(p)
    return p


def main(args) -> dict:
    from sllm.chatstore.command_line import read_named
    from sllm.data import formats
    from sllm.evaluate import answers, api_answers, doctor, evaluation, gate, held_out, judge, judge_suites
    from sllm.evaluate import model_results, report, tables, zero_shot  # isort: skip
    from sllm.serve import harness

    started, out = time.monotonic(), Path(args.output_dir)
    flags.check(args)
    if args.doctor:
        findings = doctor.examine(args.doctor, base_model=args.base_model, more={"base + adapter": is_base_and_adapter})
        return {"stage": "doctor", "folder": args.doctor, "checks": doctor.report(args.doctor, findings)}
    if not args.models:
        if args.report_only:
            report.write(evaluation.load(out), out)
            print(f"{out / evaluation.REPORT} is written")
        return {"stage": "evaluation", "output_dir": str(out), **(gate.decide_for(args, out) if args.gate else {})}

    # ── inputs ──
    of_models, names = flags.suites_of_models(args), [pair.partition("=")[0] for pair in args.models]
    models, _, facts, sets, *_ = cli.collect_errors(
        lambda: answers.named_models(args.models, args.testset_path, of_models, api=bool(args.api_base_url)),
        lambda: checkpoint.check_output(out, overwrite=args.overwrite, resume=args.resume),
        lambda: world.read_facts(args.testset_path),
        lambda: zero_shot.load(args.zero_shot_path, args.shots_path, args.num_shots, args.seed),
        lambda: harness.check_tasks(args.lm_eval_tasks, args.lm_eval_include_path),
        lambda: judge.check(args, names) if args.judge_model else None,
    )
    votes = read_named(args, "judge_chat_database")[0].comparisons if args.judge_chat_database else []
    if not args.resume:
        checkpoint.require_distinct(out, *flags.inputs(args), *(model.path for model in models.values()))
    files = {name: model.path for name, model in models.items() if model.path.is_file()}
    asked = {name: model for name, model in models.items() if name not in files}
    named, judged = flags.suites_of_answers(args), bool(args.judge_model)
    rows = formats.load_rows(args.testset_path, "prompts") if asked and flags.asks_rows(args) else []
    if files or rows:  # before anything is replaced, or a model asked
        questions = answers.read(files, facts)[0] if files else answers.questions(rows, facts)
        evaluation.choose_suites(named, questions, optional=judged)
    elif judged:
        raise InputError("--judge_model: name the questions, with --testset_path")
    if args.api_base_url:
        api_answers.check([str(model.path) for model in asked.values()], args)
    signatures = answers.signatures(models)
    checkpoint.prepare_output(out, overwrite=args.overwrite, resume=args.resume)

    # ── answers, log-likelihoods ──
    for name, model in asked.items() if args.api_base_url else ():
        api_answers.write(str(model.path), rows, args, out / "answers" / f"{name}.jsonl")
    for base, adapters in answers.by_base(asked).items():
        measure(base, adapters, of_models, args, out)
    files |= {name: out / "answers" / f"{name}.jsonl" for name in asked if rows}
    questions, answered, notes = answers.read({name: files[name] for name in models if name in files}, facts)
    suites = evaluation.choose_suites(named, questions, optional=judged) if files else []
    measured = [model_results.scores(suite, out, [*models], sets, args.zero_shot_styles) for suite in of_models]
    overlaps = held_out.find(signatures, held_out.items(questions, sets, measured))
    for note in [*notes, *zero_shot.notes(sets), *overlaps.notes]:
        cli.say("note", note)

    # ── scores ──
    (out / GATE).unlink(missing_ok=True)  # of older results
    by_judge = judge.judge(questions, answered, args, out, votes) if judged else None
    measured = [
        *evaluation.measure(questions, answered, suites),
        *(judge_suites.measured(by_judge, questions) if by_judge else []),
        *measured,
    ]
    evaluated = evaluation.evaluate(answers.sources(models, answered), questions, answered, measured, overlaps)
    evaluation.write(evaluated, out)
    report.write(evaluated, out)
    print(f"\n{tables.summary(evaluated.results)}\n\nreport: {out / evaluation.REPORT}")
    headlines = tables.headlines(evaluated.results)
    checkpoint.write_run(out, "evaluation", args, parents=[files.get(name, models[name].path) for name in models],
                         data={"questions": len(questions), "testset_path": args.testset_path}, metrics=headlines,
                         seconds=time.monotonic() - started)  # fmt: skip
    results = {"stage": "evaluation", "output_dir": str(out), "questions": len(questions), "models": headlines}
    return results | (gate.decide_for(args, out) if args.gate else {})


def measure(base: str, adapters: dict[str, str | None], suites: list[str], args, out: Path) -> None:
    """Ask the models of one base in processes of their own, whose memory is free again when they end."""
    commands = ["sllm.measure"] if flags.asks_rows(args) or {"zero_shot", "lm_eval"} & {*suites} else []
    commands += ["sllm.measure_retention"] if "retention" in suites else []
    job, resume = out / "job.json", cli.command_line(drop=["--overwrite"], add=["--resume"])
    more = {"base": base, "models": adapters, "suites": suites, "asks_rows": flags.asks_rows(args), "command": resume}
    job.write_text(json.dumps(vars(args) | more), encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    try:
        for command in commands:
            process = subprocess.Popen([sys.executable, "-m", command, str(job)], env=os.environ | {"PYTHONPATH": path})
            try:
                process.wait()
            except KeyboardInterrupt:  # it has the signal, too, and ends by itself
                process.wait()
                raise cli.Interrupted(resume) from None
            if process.returncode in (130, -signal.SIGINT):
                raise cli.Interrupted(resume)
            if process.returncode:
                names = ", ".join(adapters)
                raise InputError(f"{names} was not asked to the end, for the reason above; to continue: {resume}")
    finally:
        job.unlink()


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
