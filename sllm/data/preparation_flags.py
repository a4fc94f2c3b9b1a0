"""The flags of prepare_data.py and their check. Standard library only."""

import argparse
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

from sllm import checkpoint, cli
from sllm.cli import InputError
from sllm.data.curation_flags import check_curation_flags
from sllm.data.limits import Limits


def add_selection_flags(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("which rows are drawn")
    group.add_argument(
        "--mix", nargs="+", type=weighted, metavar="FILE:SHARE", default=[],
        help="in place of --input_path: files and the shares of the rows that they give, such as a.jsonl:0.3 "
        "b.jsonl:0.7; as many rows as the files have for these shares, none twice",
    )  # fmt: skip
    group.add_argument("--max_rows", type=cli.positive_int, metavar="N", help="draw at most N rows")
    group.add_argument("--max_rows_per_task", type=cli.positive_int, metavar="N", help="draw at most N rows of a task")


def add_reading_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--encoding", metavar="NAME", help="of text files, such as cp949; default: found from the contents")
    p.add_argument(
        "--field_map", metavar="KEY=PATH,…", help="make rows of nested files: keys of a format, each with the JSONPath "
        "of its text, such as context=$.data[*].passage,question=$.data[*].question",
    )  # fmt: skip


def add_license_flag(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--license", nargs="+", default=[], metavar="NAME", help="licence of the files, such as cc-by-sa-4.0, or "
        "FILE=NAME of each; recorded, and told where it forbids commercial use; default: that of a Hub dataset",
    )  # fmt: skip


def licenses(args: Namespace) -> dict[str, str | None]:
    """The licence of each file, as --license says."""
    paths = input_paths(args)
    of_all = next((text for text in args.license if "=" not in text), None)
    named = dict(text.rsplit("=", 1) for text in args.license if "=" in text)
    return {path: named.get(path, of_all) for path in paths}


def add_duplicate_flags(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("duplicates and test sets")
    group.add_argument(
        "--near_duplicates", type=cli.between(0.51, 1), nargs="?", const=0.8, metavar="SHARE", help="reject rows whose "
        "context, question and answer are each alike those of an earlier row, by this share of their text; without a "
        "number 0.8. Equal rows are always rejected",
    )  # fmt: skip
    group.add_argument(
        "--decontaminate", nargs="+", default=[], metavar="FILE", help="reject rows that overlap with these test sets, "
        "as evaluate_model.py would find them",
    )  # fmt: skip


def add_model_flags(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("check with a model")
    group.add_argument("--model_id", metavar="ID", help="check every row with the tokenizer of this folder or Hub id")
    group.add_argument("--chat_template", default="auto", metavar="NAME|FILE", help="with --model_id: as in training")
    group.add_argument(
        "--max_seq_length", type=cli.positive_int, default=8192, help="with --model_id: tokens; capped by the model's"
    )


def weighted(text: str) -> tuple[str, float]:
    """An argument type: `FILE:SHARE`."""
    path, _, share = text.rpartition(":")
    if not path:
        raise argparse.ArgumentTypeError(f"{text!r} has no share; write FILE:SHARE, such as rows.jsonl:0.3")
    return path, cli.positive_float(share)


def input_paths(args: Namespace) -> list[str]:
    """The files of --input_path, or those of --mix."""
    return list(dict.fromkeys([*(args.input_path or []), *(path for path, _ in args.mix)]))


def limits(args: Namespace) -> Limits:
    """The share of each file by its number in `input_paths`, and the limits of rows."""
    mix = {number: share for number, (_, share) in enumerate(args.mix)}
    return Limits(mix or None, args.max_rows, args.max_rows_per_task)


def selection(args: Namespace) -> dict[str, Any]:
    """For the report: which rows are drawn."""
    given = {"--mix": dict(args.mix), "--max_rows": args.max_rows, "--max_rows_per_task": args.max_rows_per_task}
    return {flag: value for flag, value in given.items() if value}


def check(args: Namespace) -> None:
    """InputError with every flag that is wrong."""
    problems = []
    if args.valid_ratio + args.test_ratio >= 1:
        problems.append("--valid_ratio and --test_ratio leave nothing to train on; their sum has to be below 1")
    if bool(args.input_path) == bool(args.mix):
        problems.append("name the files with --input_path, or with their shares with --mix")
    named = [*(args.input_path or []), *(path for path, _ in args.mix)]
    counts = Counter(str(Path(path).resolve()) for path in named)
    flag = "--mix" if args.mix else "--input_path"
    problems += [f"{path} is named twice in {flag}" for path, count in counts.items() if count > 1]
    general = [text for text in args.license if "=" not in text]
    if len(general) > 1:
        problems.append(f"--license names {' and '.join(general)} for all files; write FILE=NAME for each")
    unknown = [text for text in args.license if "=" in text and text.rsplit("=", 1)[0] not in named]
    problems += [f"--license {text}: no such file among {', '.join(named) or 'none'}" for text in unknown]
    if args.model_id is None and (args.chat_template != "auto" or args.max_seq_length != 8192):
        problems.append("--chat_template and --max_seq_length are for the check of --model_id; add --model_id")
    try:
        check_curation_flags(args)
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(problems)


def check_paths(args: Namespace) -> None:
    """InputError with everything that is wrong with the output and the model."""
    reads = (*input_paths(args), args.model_id, args.chat_template)
    cli.collect_errors(
        lambda: checkpoint.check_output(args.output_dir, overwrite=replaces(args)),
        lambda: checkpoint.require_model(args.model_id) if args.model_id else None,
        lambda: checkpoint.require_distinct(args.output_dir, *reads) if args.overwrite else None,
    )


def replaces(args: Namespace) -> bool:
    """May --output_dir be emptied? Also what a stopped run has begun to write."""
    return bool(args.overwrite or (args.resume and (Path(args.output_dir) / checkpoint.UNFINISHED).exists()))
