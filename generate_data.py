"""Contexts × tasks → training rows, written by a teacher: any model behind an OpenAI-compatible API.

Reads rows with a context (JSON, CSV, Parquet, …), plain text or documents. For each context and task the teacher writes
the question where the task needs one, and the answer. Every answer is checked against the rules of its task, and for
grounds in the context; where a rule is broken the teacher is asked again, with its answer and the rule. System prompts
vary, from a plain sentence to a role with steps and constraints.

Writes train.jsonl (rows for prepare_data.py and the trainers), rejects.jsonl (answers that were not used, with the
reason), teacher_calls.jsonl (every call, so that --resume repeats none), teacher.json, report.json and run.json into
--output_dir. The API key is read from the environment.

    python generate_data.py --contexts sample_data/task_rows.jsonl --tasks task01_01 task08 --dry_run
"""

import time
from urllib.parse import urlsplit

from sllm import api_calls, checkpoint, cli, licenses, tasks
from sllm.cli import InputError
from sllm.data.json_writer import write_json

PARAMETERS = {"temperature": 0.7, "max_tokens": 2048}


def build_parser():
    p = cli.parser(__doc__, __file__)
    group = p.add_argument_group("contexts")
    group.add_argument("--contexts", nargs="+", required=True, metavar="FILE", help="rows with a context, in any "
                       "form that prepare_data.py opens; .txt (blocks between empty lines); documents: .pdf, .html, "
                       ".htm, .md, .markdown, .docx, .hwpx, .hwp; or a folder")  # fmt: skip
    group.add_argument("--context_key", metavar="KEY", help="of the rows; default: found (context, text, 본문, …)")
    group.add_argument("--min_context_chars", type=cli.positive_int, default=100, help="shorter ones are rejected")
    group.add_argument(
        "--max_context_chars", type=cli.integer(200, 10**6), default=2000, help="longer ones are cut between sentences"
    )
    group = p.add_argument_group("rows")
    group.add_argument("--tasks", nargs="+", required=True, metavar="TASK", help="task08_02, both forms of a family: "
                       "task08, or all")  # fmt: skip
    group.add_argument(
        "--rows_per_context", type=cli.integer(1, 1000), default=1, help="of each task, from each context"
    )
    group.add_argument("--max_rows", type=cli.positive_int, metavar="N", help="stop after so many rows")
    group.add_argument("--max_attempts", type=cli.integer(1, 100), default=3, help="to get an answer that keeps the "
                       "rules, before it is rejected")  # fmt: skip
    group.add_argument("--seed", type=cli.seed, default=42, help="of what varies between rows")
    group.add_argument("--license", metavar="NAME", help="licence of the contexts, such as cc-by-sa-4.0, for "
                       "run.json")  # fmt: skip
    group.add_argument("--dry_run", action="store_true", help="show prompts, number of calls and tokens; ask nothing")
    group = p.add_argument_group("teacher")
    api_calls.add_flags(group, "teacher")
    group.add_argument("--teacher_parameters", type=api_calls.parameters, default={}, metavar="JSON", help="more "
                       "parameters of the API, or others than temperature 0.7 and max_tokens 2048; null leaves one "
                       "out")  # fmt: skip
    cli.add_output_flags(p, "outputs/generated", resume="continue: no call is made again")
    return p


def task_ids(names: list[str]) -> list[str]:
    """InputError for names that are none."""
    chosen, problems = [], []
    for name in names:
        family = [task_id for task_id in tasks.TASKS if task_id.startswith(f"{name}_")]
        ids = list(tasks.TASKS) if name == "all" else [name] if name in tasks.TASKS else family
        meant = tasks.similar_task_ids(name)
        known = f"did you mean {' or '.join(meant)}?" if meant else f"known: {', '.join(tasks.TASKS)}"
        problems += [] if ids else [f"--tasks {name}: not a task; {known}"]
        chosen += ids
    if problems:
        raise InputError(problems)
    return list(dict.fromkeys(chosen))


def check_flags(args) -> None:
    problems = [] if args.dry_run else api_calls.flag_problems(args, "teacher")
    if args.min_context_chars > args.max_context_chars:
        problems.append("--min_context_chars is above --max_context_chars")
    if args.overwrite and args.resume:
        problems.append("--overwrite and --resume exclude each other")
    if problems:
        raise InputError(problems)


def check_output(args) -> None:
    if not args.dry_run:
        checkpoint.check_output(args.output_dir, overwrite=args.overwrite, resume=args.resume)
    if args.overwrite:
        checkpoint.require_distinct(args.output_dir, *args.contexts)


def main(args) -> dict:
    from sllm.data.teacher import contexts as texts
    from sllm.data.teacher import dry_run, settings, writing

    started = time.monotonic()
    _, _, chosen, contexts = cli.collect_errors(
        lambda: check_flags(args),
        lambda: check_output(args),
        lambda: task_ids(args.tasks),
        lambda: texts.load(
            args.contexts, key=args.context_key, least=args.min_context_chars, most=args.max_context_chars
        ),
    )
    parameters = PARAMETERS | {"seed": args.seed} | args.teacher_parameters
    for note in contexts.notes:
        cli.say("note", note)
    cli.say("contexts", f"{contexts.read:,} read, {len(contexts.used):,} used, {len(contexts.rejects):,} rejected")
    if args.dry_run:
        return dry_run.show(contexts, chosen, args)

    recorded = settings.choose(args, parameters)
    out = checkpoint.prepare_output(args.output_dir, overwrite=args.overwrite, resume=args.resume)
    (out / checkpoint.RUN_FILE).unlink(missing_ok=True)  # of a finished run that grows: its rows are written anew
    write_json(out / writing.SETTINGS, recorded)
    how = "structured output" if recorded["structured"] else "JSON in text: it refuses response_format"
    cli.say("teacher", f"{args.teacher_model} at {urlsplit(args.teacher_base_url).netloc}, {how}")
    client = api_calls.from_flags(args, "teacher", out / writing.JOURNAL)
    written, seconds = writing.write(
        client, contexts, args, chosen, out, structured=recorded["structured"], parameters=parameters
    )
    report = writing.report(written, contexts, client, seconds)
    report["sha256"] = {name: checkpoint.file_hash(out / name) for name in ("train.jsonl", "rejects.jsonl")}
    write_json(out / "report.json", report)
    sources = [
        {
            "path": path,
            "sha256": checkpoint.folder_hash(path),
            "kept": count,
            "license": args.license or contexts.licenses.get(path),
        }
        for path, count in written.files.items()
    ]
    writing.show(report)
    for note in licenses.notes(None, sources):
        cli.say("note", note)
    if not written.rows():
        raise InputError(settings.nothing_written(report, out))
    data = {"kind": "training", "rows": {"train": written.rows()}, "sha256": report["sha256"],
            "teacher": recorded, "sources": sources}  # fmt: skip
    checkpoint.write_run(out, "data", args, parents=args.contexts, data=data, seconds=time.monotonic() - started)
    usage = {key: report["usage"][key] for key in ("calls", "new_calls", "prompt_tokens", "completion_tokens", "cost")}
    counts = {key: report["rows"][key] for key in ("written", "rejected", "missing")}
    return {"stage": "data", "output_dir": str(out), **counts, **usage, "rows_per_second": report["rows_per_second"]}


if __name__ == "__main__":
    cli.run(main, build_parser())
