"""Raw rows → train.jsonl, valid.jsonl and test.jsonl.

Reads JSON or JSON Lines files. The format of each file is detected: system_user_assistant (system_prompt, user_content,
assistant_content, task), messages, prompt/completion, alpaca (instruction, input or context, output) or preference
(prompt, chosen, rejected). Rows that share a context stay in one split. Rows that cannot be used go to rejects.jsonl
with file, line and reason; unused keys are named. With --model_id every row is checked as that model's trainer will:
special tokens, the chat template, the length.

Writes train.jsonl, valid.jsonl, test.jsonl, rejects.jsonl, report.json (counts by file, reason, task and split,
lengths, rule conformance) and run.json into --output_dir.

    python prepare_data.py --input_path sample_data/task_rows.jsonl --output_dir outputs/data
"""

import time
from collections import Counter
from pathlib import Path

from sllm import checkpoint, cli
from sllm.data import formats, input_files, splits
from sllm.data.input_files import InputFile
from sllm.data.json_writer import jsonl, write_json


def build_parser():
    p = cli.parser(__doc__, __file__)
    p.add_argument("--input_path", nargs="+", required=True, metavar="FILE", help="rows: .jsonl or .json")
    p.add_argument("--valid_ratio", type=cli.fraction, default=0.05, help="share of the rows for valid.jsonl; 0: none")
    p.add_argument("--test_ratio", type=cli.fraction, default=0.05, help="share of the rows for test.jsonl; 0: none")
    p.add_argument("--seed", type=cli.seed, default=42, help="random seed of the split")
    p.add_argument("--model_id", metavar="ID", help="check every row with the tokenizer of this model folder or Hub id")
    p.add_argument("--chat_template", default="auto", metavar="NAME|FILE", help="with --model_id: as in training")
    p.add_argument(
        "--max_seq_length", type=cli.positive_int, default=8192, help="with --model_id: tokens; capped by the model's"
    )
    p.add_argument(
        "--skip_bad_rows", action="store_true", help="reject lines that are not JSON too, at most 5%% of a file"
    )
    p.add_argument("--strict", action="store_true", help="stop without writing if any row cannot be used")
    cli.add_output_flags(p, "outputs/data")
    return p


def check_flags(args) -> None:
    problems = []
    if args.valid_ratio + args.test_ratio >= 1:
        problems.append("--valid_ratio and --test_ratio leave nothing to train on; their sum has to be below 1")
    counts = Counter(str(Path(path).resolve()) for path in args.input_path)
    problems += [f"{path} is named twice in --input_path" for path, count in counts.items() if count > 1]
    if args.model_id is None and (args.chat_template != "auto" or args.max_seq_length != 8192):
        problems.append("--chat_template and --max_seq_length are for the check of --model_id; add --model_id")
    if problems:
        raise cli.InputError(problems)


def check_paths(args) -> None:
    reads = (*args.input_path, args.model_id, args.chat_template)
    cli.collect_errors(
        lambda: checkpoint.check_output(args.output_dir, overwrite=args.overwrite),
        lambda: checkpoint.require_model(args.model_id) if args.model_id else None,
        lambda: checkpoint.require_distinct(args.output_dir, *reads) if args.overwrite else None,
    )


def check_with_model(args, files: list[InputFile]) -> dict:
    """Encode every row as the trainer of --model_id will; rows that it would refuse become rejects of their file."""
    from sllm import chat
    from sllm.data import tokenize
    from sllm.train import memory

    base, _ = checkpoint.require_model(args.model_id)
    tokenizer = chat.load_tokenizer(args.model_id)
    chat.check_probe(tokenizer, checkpoint.read_run(args.model_id), args.model_id)
    template = chat.set_chat_template(tokenizer, args.chat_template)
    print(f"checking {sum(len(file.rows) for file in files):,} rows as the trainer of {args.model_id} will")
    stats = input_files.encode(files, tokenizer, memory.max_length(args, base))
    for line in tokenize.truncation_summary(stats, context_length=memory.context_length(base)):
        print(line)
    return {"model_id": args.model_id, "chat_template": template, **stats}


def read_files(args) -> list[InputFile]:
    """InputError with everything that is wrong with the files."""
    problems, files, seen = [], [], {}
    for path in dict.fromkeys(args.input_path):
        file, faults = input_files.read_input(path, seen, skip_bad_rows=args.skip_bad_rows)
        files.append(file)
        problems += faults or file.problems(strict=args.strict)
    preference = [file.path for file in files if file.format == "preference"]
    training = [file.path for file in files if file.format not in (None, "preference")]
    if preference and training:
        problems.append(
            f"preference rows ({', '.join(preference)}) and training rows ({', '.join(training)}) cannot share an "
            "output; prepare them in two runs"
        )
    if problems:
        raise cli.InputError(problems)
    return files


def main(args) -> dict:
    started = time.monotonic()
    *_, files = cli.collect_errors(lambda: check_flags(args), lambda: check_paths(args), lambda: read_files(args))
    checked = check_with_model(args, files) if args.model_id else None
    if problems := [problem for file in files for problem in file.problems(strict=args.strict)]:
        raise cli.InputError(problems)

    rows = [row for file in files for row in file.rows]
    renamed = formats.unique_ids(rows)
    groups = splits.group(rows)
    split_names = splits.split(rows, groups, valid=args.valid_ratio, test=args.test_ratio, seed=args.seed)
    report = splits.report(files, rows, groups, split_names) | {"ids_renamed": renamed, "model_check": checked}

    texts = {
        f"{name}.jsonl": jsonl(row for row, split_name in zip(rows, split_names, strict=True) if split_name == name)
        for name in splits.SPLITS
    }
    texts["rejects.jsonl"] = jsonl(vars(reject) for file in files for reject in file.rejects)
    size = sum(len(text.encode()) for text in texts.values())
    checkpoint.require_disk(args.output_dir, size + 2**20, "the prepared data")
    out = checkpoint.prepare_output(args.output_dir, overwrite=args.overwrite)
    for name, text in texts.items():
        checkpoint.write_atomically(out / name, text)
    report["sha256"] = {name: checkpoint.file_hash(out / name) for name in texts}
    for file in report["files"]:
        file["sha256"] = checkpoint.file_hash(file["path"])
    write_json(out / "report.json", report)
    counts = {name: split["rows"] for name, split in report["splits"].items()}
    data = {"kind": report["kind"], "rows": counts, "refused": report["rows"]["refused"], "sha256": report["sha256"]}
    seconds = time.monotonic() - started
    checkpoint.write_run(out, "data", args, parents=args.input_path, data=data, seconds=seconds)

    show(report)
    asked_for = {"valid": args.valid_ratio, "test": args.test_ratio}
    if empty := [f"{name}.jsonl" for name, ratio in asked_for.items() if ratio and not counts[name]]:
        print(
            f"note: no rows for {' and '.join(empty)}: rows of one context stay together, and there are "
            f"{cli.plural(len(set(groups)), 'context')}"
        )
    return {"stage": "data", "output_dir": str(out), **report["rows"], **counts}


def show(report: dict) -> None:
    """The tables of files and splits, each followed by notes."""
    columns = ["path", "format", "read", "kept"]
    table = [[*(f[key] for key in columns), sum(f["refused"].values())] for f in report["files"]]
    print(cli.table(["file", *columns[1:], "refused"], table))
    for reason, number in report["refused"].items():
        print(f"  {number} refused: {reason}")
    for line in formats.ignored_note(report["ignored"]):
        print(f"  {line}")
    if report["unknown_tasks"]:
        labels = [f"{label} ({count:,})" for label, count in report["unknown_tasks"].items()]
        print(f"  labels that are not task ids, kept: {', '.join(cli.shorten(labels, 10))}")
    for warning in report["warnings"]:
        print(f"  warning: {warning}")
    kept = report["rows"]["kept"]
    table = [
        [name, split["rows"], f"{split['rows'] / kept:.1%}", split["groups"], len(split["tasks"])]
        for name, split in report["splits"].items()
    ]
    print("\n" + cli.table(["split", "rows", "share", "groups", "tasks"], table))


if __name__ == "__main__":
    cli.run(main, build_parser())
