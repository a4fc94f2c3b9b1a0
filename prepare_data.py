"""Raw rows → train.jsonl, valid.jsonl and test.jsonl.

Reads JSON, JSON Lines, CSV, TSV, Parquet, Arrow and Excel files, compressed ones, folders and zip archives of them, and
data sets of the Hub (hub:owner/name). The format of the records is detected (docs/prepare_data.md lists them); nested
ones become rows with --field_map. Texts are repaired, and equal rows refused; filters, near-duplicates, personal data
and test sets have flags. Rows that share a context stay in one split. Rows that cannot be used go to rejects.jsonl with
file, line and reason. With --model_id every row is checked as that model's trainer will.

Writes train.jsonl, valid.jsonl, test.jsonl, rejects.jsonl, report.json (counts by file, reason, task and split,
lengths, rule conformance), report.html and run.json into --output_dir. A run that was stopped continues with --resume.

    python prepare_data.py --input_path sample_data/task_rows.jsonl --output_dir outputs/data
"""

import time

from sllm import checkpoint, cli


def build_parser():
    from sllm.data import converters, curation_flags, preparation_flags

    p = cli.parser(__doc__, __file__)
    p.add_argument("--input_path", nargs="+", metavar="FILE", help="files, folders, zip archives, hub:owner/name")
    preparation_flags.add_reading_flags(p)
    p.add_argument("--input_format", choices=list(converters.FORMATS), help="of all files; default: detected")
    preparation_flags.add_license_flag(p)
    p.add_argument("--valid_ratio", type=cli.fraction, default=0.05, help="share of the rows for valid.jsonl; 0: none")
    p.add_argument("--test_ratio", type=cli.fraction, default=0.05, help="share of the rows for test.jsonl; 0: none")
    p.add_argument("--seed", type=cli.seed, default=42, help="random seed of the split and of the rows that are drawn")
    p.add_argument("--num_proc", type=cli.positive_int, metavar="N", help="processes; default: one for each core")
    p.add_argument(
        "--skip_bad_rows", action="store_true", help="reject lines that are not JSON too, at most 5%% of a file"
    )
    p.add_argument("--strict", action="store_true", help="stop without writing if any row cannot be used")
    preparation_flags.add_duplicate_flags(p)
    preparation_flags.add_selection_flags(p)
    curation_flags.add_curation_flags(p)
    preparation_flags.add_model_flags(p)
    cli.add_output_flags(p, "outputs/data", resume="continue a run that was stopped")
    return p


def check_with_model(args, state, processes: int) -> dict:
    """Encode every row as the trainer of --model_id will; rows that it would refuse are dropped."""
    from sllm.data import model_check, token_stats
    from sllm.train import memory

    base, _ = checkpoint.require_model(args.model_id)
    _, template = model_check.load(args)
    print(f"checking {int(state.kept.sum()):,} rows as the trainer of {args.model_id} will")
    stats = model_check.check(state, args, memory.max_length(args, base), processes)
    for line in token_stats.truncation_summary(stats, context_length=memory.context_length(base)):
        print(line)
    return {"model_id": args.model_id, "chat_template": template, **stats}


def main(args) -> dict:
    from sllm import licenses
    from sllm.data import (
        data_report,
        model_check,
        parallel,
        preparation,
        preparation_flags,
        reading,
        report_page,
        row_passes,
        selection,
        split_files,
        splits,
        work_folder,
    )  # fmt: skip
    from sllm.data.json_writer import write_json

    started = time.monotonic()
    processes = args.num_proc or parallel.cores()
    paths = preparation_flags.input_paths(args)
    sources = [preparation.SourceCounts(path, license=name) for path, name in preparation_flags.licenses(args).items()]
    try:
        cli.collect_errors(lambda: preparation_flags.check(args), lambda: preparation_flags.check_paths(args))
    except cli.InputError as error:
        raise cli.InputError(error.problems + reading.first_problems(sources, args)) from None
    opened, test_sets = reading.open_all(sources, args)
    size = sum(source.size for source in opened)
    checkpoint.require_disk(args.output_dir, 3 * size + 2**20, "the prepared data")  # twice while it is written

    with work_folder.of(args, [name for source in sources for name in source.files]) as folder:
        # ── read ──
        state = preparation.Preparation(folder, sources)
        state.resume()
        reading.read(state, opened, args, processes=processes)
        reading.require_usable(state, args)
        compared = row_passes.run(state, args, test_sets, processes)
        reading.require_usable(state, args)
        checked = check_with_model(args, state, processes) if args.model_id else None
        reading.require_usable(state, args)
        warnings = selection.draw(state, preparation_flags.limits(args), args.seed)

        # ── split ──
        rows, (tasks, task_of_facts) = state.index[state.kept], state.tasks
        groups = splits.group(rows["context"], rows["turn"])
        ratios = {"valid": args.valid_ratio, "test": args.test_ratio}
        task_of = task_of_facts[rows["facts"]]
        sides = splits.split(groups, tasks, task_of, rows["context"], **ratios, seed=args.seed)
        report = data_report.report(state, groups, sides)
        report["warnings"] += warnings
        report["selection"] = preparation_flags.selection(args)

        # ── write ──
        out = checkpoint.prepare_output(args.output_dir, overwrite=preparation_flags.replaces(args))
        report |= {"ids_renamed": split_files.write(state, sides, out), "model_check": checked, **compared}
        texts = model_check.rendered(state, args, report_page.sample(state)) if args.model_id else {}
        report_page.write(state, report, out, texts)
        names = [*(f"{name}.jsonl" for name in splits.SPLITS), "rejects.jsonl"]
        report["sha256"] = {name: checkpoint.file_hash(out / name) for name in names}
        for entry, source in zip(report["files"], sources, strict=True):
            entry |= {"sha256": reading.hash_of(source), "revision": source.revision, "files": len(source.files)}
        write_json(out / "report.json", report)
        counts = {name: split["rows"] for name, split in report["splits"].items()}
        data = {"kind": report["kind"], "rows": counts, "refused": report["rows"]["refused"],
                "sha256": report["sha256"], "sources": data_report.sources(report)}  # fmt: skip
        checkpoint.write_run(out, "data", args, parents=paths, data=data, seconds=time.monotonic() - started)

    show(report)
    for note in licenses.notes(None, data["sources"]):
        print(f"note: {note}")
    if empty := [f"{name}.jsonl" for name, ratio in ratios.items() if ratio and not counts[name]]:
        contexts = cli.plural(len({*groups.tolist()}), "context")
        print(f"note: no rows for {' and '.join(empty)}: rows of one context stay together, and there are {contexts}")
    return {"stage": "data", "output_dir": str(out), **report["rows"], **counts}


def show(report: dict) -> None:
    """The tables of files and splits, each followed by notes."""
    from sllm.data import rows

    columns = ["path", "format", "read", "kept"]
    table = [[*(f[key] for key in columns), sum(f["refused"].values())] for f in report["files"]]
    print(cli.table(["file", *columns[1:], "refused"], table))
    for file in report["files"]:
        for note in file["notes"]:
            print(f"  {file['path']}: {note}")
    for reason, number in report["refused"].items():
        print(f"  {number:,} refused: {reason}")
    if report["rows"]["not_drawn"]:
        print(f"  {report['rows']['not_drawn']:,} not drawn, by {', '.join(report['selection'])}")
    for note, number in report["notes"].items():
        print(f"  {number:,} {note}")
    for line in rows.ignored_note(report["ignored"]):
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
