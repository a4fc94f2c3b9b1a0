"""Raw rows → train.jsonl, valid.jsonl and test.jsonl.

Reads JSON or JSON Lines files, each in one of the formats original (system_prompt, user_content,
assistant_content, task), messages, prompt/completion, alpaca (instruction, input, output) or preference (prompt,
chosen, rejected), found out per file. Rows that share a context stay on one side of the split. What cannot be
used goes to rejects.jsonl with file, line and reason.

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
    p.add_argument("--seed", type=int, default=42, help="which groups of rows go where")
    p.add_argument("--strict", action="store_true", help="stop, writing nothing, if any row cannot be used")
    cli.add_output_flags(p, "outputs/data")
    return p


def check_usage(args) -> list[str]:
    """What is wrong with the command itself, before any file is read."""
    problems = []
    if args.valid_ratio + args.test_ratio >= 1:
        problems.append("--valid_ratio and --test_ratio leave nothing to train on; their sum has to stay below 1")
    out, seen = Path(args.output_dir).resolve(), set()
    for path in args.input_path:
        full = Path(path).resolve()
        if full in seen:
            problems.append(f"{path} is named twice in --input_path")
        if args.overwrite and out in full.parents:
            problems.append(f"{path} lies in {args.output_dir}, which --overwrite empties; name another --output_dir")
        seen.add(full)
    try:
        checkpoint.check_output(args.output_dir, overwrite=args.overwrite)
    except cli.InputError as error:
        problems += error.problems
    return problems


def read(path: str, seen: dict[str, str]) -> tuple[dict, list[str]]:
    """One file: its format, its rows, what is refused, and the problems that stop the whole run.

    Args:
        seen: conversation → file:line of the rows read before, for duplicates; grows.
    """
    from sllm.data import formats

    found, faults = formats.scan(path)
    file = {"path": path, "format": None, "read": len(found), "rows": [], "rejects": []}
    if found:
        try:
            file["format"] = formats.detect([row for _, row in found])
        except ValueError as error:
            return file, formats.listed(path, [*faults, (0, str(error))])
    for line, row in found:
        try:
            converted = formats.convert(row, file["format"])
            content = json.dumps({k: v for k, v in converted.items() if k not in ("id", "task")}, sort_keys=True)
            first = seen.setdefault(content, f"{path}:{line}")
            if first != f"{path}:{line}":
                raise ValueError(f"duplicate of {first}")
            file["rows"].append(converted)
        except ValueError as error:
            file["rejects"].append({"file": path, "line": line, "reason": str(error), "row": row})
    if faults:  # the file has to be mended anyway: name its refused rows along with them
        faults += [(reject["line"], reject["reason"]) for reject in file["rejects"]]
    return file, formats.listed(path, faults)


def refused(file: dict, strict: bool) -> list[str]:
    """The refused rows as problems, where they stop the run: under --strict, or when nothing else is left."""
    from sllm.data import formats

    if not file["rejects"] or file["rows"] and not strict:
        return []
    return formats.listed(file["path"], [(reject["line"], reject["reason"]) for reject in file["rejects"]])


def jsonl(rows: list[dict]) -> str:
    """JSON Lines with Korean as it is; a lone surrogate (only in a refused row) can only be written escaped."""
    lines = []
    for row in rows:
        line = json.dumps(row, ensure_ascii=False)
        lines.append(json.dumps(row) if any("\ud800" <= c <= "\udfff" for c in line) else line)
    return "".join(line + "\n" for line in lines)


def main(args) -> dict:
    from sllm.data import curate, formats

    started = time.monotonic()
    problems, files, seen = check_usage(args), [], {}
    for path in dict.fromkeys(args.input_path):
        file, faults = read(path, seen)
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

    rows = [row for file in files for row in file["rows"]]
    renamed = formats.unique_ids(rows)
    groups = curate.group(rows)
    sides = curate.split(rows, groups, valid=args.valid_ratio, test=args.test_ratio, seed=args.seed)

    report = curate.report(files, rows, groups, sides)
    report["ids_renamed"] = renamed

    texts = {
        f"{name}.jsonl": jsonl([r for r, s in zip(rows, sides, strict=True) if s == name]) for name in curate.SPLITS
    }
    texts["rejects.jsonl"] = jsonl([reject for file in files for reject in file["rejects"]])
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

    columns = ["path", "format", "read", "kept"]
    shown = [[*(f[key] for key in columns), sum(f["refused"].values())] for f in report["files"]]
    print(cli.table(["file", *columns[1:], "refused"], shown))
    for reason, number in report["refused"].items():
        print(f"  {number} refused: {reason}")
    shown = [
        [name, found["rows"], f"{found['rows'] / len(rows):.1%}", found["groups"], len(found["tasks"])]
        for name, found in report["splits"].items()
    ]
    print("\n" + cli.table(["split", "rows", "share", "groups", "tasks"], shown))
    return {"stage": "data", "output_dir": str(out), **report["rows"], **counts}


if __name__ == "__main__":
    cli.run(main, build_parser())
