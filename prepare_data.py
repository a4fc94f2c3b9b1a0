"""Raw rows → train.jsonl, valid.jsonl and test.jsonl.

Reads JSON or JSON Lines files, each in one of the formats original (system_prompt, user_content,
assistant_content, task), messages, prompt/completion, alpaca (instruction, input or context, output) or preference
(prompt, chosen, rejected), found out per file. Rows that share a context stay on one side of the split. What cannot be
used goes to rejects.jsonl with file, line and reason; keys that nothing uses are named. With --model_id every row is
checked as that model's trainer will: special tokens, the chat template, the length.

Writes train.jsonl, valid.jsonl, test.jsonl, rejects.jsonl, report.json (counts by file, reason, task and split,
lengths, rule conformance) and run.json into --output_dir.

    python prepare_data.py --input_path sample_data/task_rows.jsonl --output_dir outputs/data
"""

import json
import time
from pathlib import Path

from sllm import checkpoint, cli


def build_parser():
    p = cli.parser(__doc__, __file__)
    p.add_argument("--input_path", nargs="+", required=True, metavar="FILE", help="rows: .jsonl or .json")
    p.add_argument("--valid_ratio", type=cli.fraction, default=0.05, help="share of the rows for valid.jsonl; 0: none")
    p.add_argument("--test_ratio", type=cli.fraction, default=0.05, help="share of the rows for test.jsonl; 0: none")
    p.add_argument("--seed", type=cli.seed, default=42, help="which groups of rows go where")
    p.add_argument("--model_id", metavar="ID", help="check every row with the tokenizer of this model folder or Hub id")
    p.add_argument("--chat_template", default="auto", metavar="NAME|FILE", help="with --model_id: as in training")
    p.add_argument(
        "--max_seq_length", type=cli.positive_int, default=8192, help="with --model_id: tokens; capped by the model's"
    )
    p.add_argument(
        "--skip_bad_rows", action="store_true", help="set lines that are no JSON aside too, at most 5%% of a file"
    )
    p.add_argument("--strict", action="store_true", help="stop, writing nothing, if any row cannot be used")
    cli.add_output_flags(p, "outputs/data")
    return p


def check_usage(args) -> list[str]:
    """What is wrong with the command itself, before any file is read."""
    problems = []
    if args.valid_ratio + args.test_ratio >= 1:
        problems.append("--valid_ratio and --test_ratio leave nothing to train on; their sum has to stay below 1")
    seen: set[Path] = set()
    for path in args.input_path:
        full = Path(path).resolve()
        if full in seen:
            problems.append(f"{path} is named twice in --input_path")
        seen.add(full)
    if args.model_id is None and (args.chat_template != "auto" or args.max_seq_length != 8192):
        problems.append("--chat_template and --max_seq_length are for the check of --model_id; name the model too")
    checks = [lambda: checkpoint.check_output(args.output_dir, overwrite=args.overwrite)]
    checks += [lambda: checkpoint.require_model(args.model_id)] if args.model_id else []
    reads = (*args.input_path, args.model_id, args.chat_template)
    checks += [lambda: checkpoint.require_distinct(args.output_dir, *reads)] if args.overwrite else []
    try:
        cli.collect_errors(*checks)
    except cli.InputError as error:
        problems += error.problems
    return problems


def read(path: str, seen: dict[str, str], *, skip_bad: bool = False) -> tuple[dict, list[str]]:
    """One file: its format, its rows, what is refused, and the problems that stop the whole run.

    Args:
        seen: conversation → file:line of the rows read before, for duplicates; grows.
        skip_bad: a few lines that are no JSON are refused rows, not problems.
    """
    from sllm.data import formats

    contents = formats.examine(path, each_line=skip_bad)
    found, faults, bad = contents.rows, sorted(contents.faults + contents.bad), []
    if skip_bad and len(contents.bad) <= formats.MAX_LOST_SHARE * (len(found) + len(contents.bad)):
        faults, bad = contents.faults, contents.bad
    elif skip_bad:  # a file in another encoding, rather than a few broken lines: say that once
        found, faults = formats.scan(path)
    file = {"path": path, "format": None, "read": len(found) + len(bad), "rows": []}
    file["rejects"] = [{"file": path, "line": line, "reason": reason, "row": None} for line, reason in bad]
    if found:
        try:
            file["format"] = formats.detect([row for _, row in found], path)
        except ValueError as error:
            return file, formats.format_problems(path, [*faults, (0, str(error))])
    for line, row in found:
        try:
            converted = formats.convert(row, file["format"])
            content = json.dumps({k: v for k, v in converted.items() if k not in ("id", "task")}, sort_keys=True)
            first = seen.setdefault(content, f"{path}:{line}")
            if first != f"{path}:{line}":
                raise ValueError(f"duplicate of {first}")
            file["rows"].append(converted.at(path, line))
        except ValueError as error:
            file["rejects"].append({"file": path, "line": line, "reason": str(error), "row": row})
    file["rejects"].sort(key=lambda reject: reject["line"])
    if faults:  # the file has to be corrected anyway: name its refused rows along with them
        faults += [(reject["line"], reject["reason"]) for reject in file["rejects"]]
    return file, formats.format_problems(path, faults)


def check_with_model(args, files: list[dict]) -> dict:
    """Encode every row as the trainer of --model_id will; what it would refuse moves to the rejects of its file."""
    from sllm import chat
    from sllm.data import tokenize, trial
    from sllm.train import memory

    base, _ = checkpoint.require_model(args.model_id)
    tokenizer = chat.load_tokenizer(args.model_id)
    chat.check_probe(tokenizer, checkpoint.read_run(args.model_id), args.model_id)
    template = chat.set_chat_template(tokenizer, args.chat_template)
    print(f"checking {sum(len(file['rows']) for file in files):,} rows as the trainer of {args.model_id} will")
    stats = trial.encode(files, tokenizer, memory.max_length(args, base))
    most = getattr(memory.model_config(base).get_text_config(), "max_position_embeddings", None)
    for line in tokenize.cut_summary(stats, most=most):
        print(line)
    return {"model_id": args.model_id, "chat_template": template, **stats}


def refused(file: dict, strict: bool) -> list[str]:
    """The refused rows as problems, where they stop the run: under --strict, or when nothing else is left."""
    from sllm.data import formats

    if not file["rejects"] or file["rows"] and not strict:
        return []
    return formats.format_problems(file["path"], [(reject["line"], reject["reason"]) for reject in file["rejects"]])


def main(args) -> dict:
    from sllm.data import formats, splits

    started = time.monotonic()
    problems, files, seen = check_usage(args), [], {}
    for path in dict.fromkeys(args.input_path):
        file, faults = read(path, seen, skip_bad=args.skip_bad_rows)
        files.append(file)
        problems += faults or refused(file, args.strict)
    preference = [file["path"] for file in files if file["format"] == "preference"]
    training = [file["path"] for file in files if file["format"] not in (None, "preference")]
    if preference and training:
        problems.append(
            f"preference rows ({', '.join(preference)}) and training rows ({', '.join(training)}) cannot share an "
            "output; prepare them in two runs"
        )
    if problems:
        raise cli.InputError(problems)
    checked = check_with_model(args, files) if args.model_id else None
    problems = [problem for file in files for problem in refused(file, args.strict)]
    if problems:
        raise cli.InputError(problems)

    rows = [row for file in files for row in file["rows"]]
    renamed = formats.unique_ids(rows)
    groups = splits.group(rows)
    split_names = splits.split(rows, groups, valid=args.valid_ratio, test=args.test_ratio, seed=args.seed)

    report = splits.report(files, rows, groups, split_names)
    report["ids_renamed"] = renamed
    report["model_check"] = checked

    texts = {
        f"{name}.jsonl": formats.jsonl([r for r, s in zip(rows, split_names, strict=True) if s == name])
        for name in splits.SPLITS
    }
    texts["rejects.jsonl"] = formats.jsonl([reject for file in files for reject in file["rejects"]])
    need = sum(len(text.encode()) for text in texts.values()) + 2**20
    checkpoint.require_disk(args.output_dir, need, "the prepared data")
    out = checkpoint.prepare_output(args.output_dir, overwrite=args.overwrite)
    for name, text in texts.items():
        checkpoint.write_atomically(out / name, text)
    report["sha256"] = {name: checkpoint.file_hash(out / name) for name in texts}
    for file in report["files"]:
        file["sha256"] = checkpoint.file_hash(file["path"])
    checkpoint.write_atomically(out / "report.json", json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    counts = {name: split["rows"] for name, split in report["splits"].items()}
    data = {"kind": report["kind"], "rows": counts, "refused": report["rows"]["refused"], "sha256": report["sha256"]}
    seconds = time.monotonic() - started
    checkpoint.write_run(out, "data", args, parents=args.input_path, data=data, seconds=seconds)

    show(report)
    return {"stage": "data", "output_dir": str(out), **report["rows"], **counts}


def show(report: dict) -> None:
    """The tables of files and splits, and under each what deserves a look."""
    from sllm.data import formats

    columns = ["path", "format", "read", "kept"]
    shown = [[*(f[key] for key in columns), sum(f["refused"].values())] for f in report["files"]]
    print(cli.table(["file", *columns[1:], "refused"], shown))
    for reason, number in report["refused"].items():
        print(f"  {number} refused: {reason}")
    for line in formats.ignored_note(report["ignored"]):
        print(f"  {line}")
    if report["unknown_tasks"]:
        labels = [f"{label} ({count:,})" for label, count in report["unknown_tasks"].items()]
        more = f" and {len(labels) - 10:,} more" if len(labels) > 10 else ""
        print(f"  labels that are no task ids, kept: {', '.join(labels[:10])}{more}")
    for warning in report["warnings"]:
        print(f"  warning: {warning}")
    kept = report["rows"]["kept"]
    shown = [
        [name, found["rows"], f"{found['rows'] / kept:.1%}", found["groups"], len(found["tasks"])]
        for name, found in report["splits"].items()
    ]
    print("\n" + cli.table(["split", "rows", "share", "groups", "tasks"], shown))


if __name__ == "__main__":
    cli.run(main, build_parser())
