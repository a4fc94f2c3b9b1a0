"""The flags of `sllm.evaluate.judge`: for the script's parser, so without numpy."""

import argparse
from collections.abc import Sequence

from sllm import api_calls, cli
from sllm.cli import InputError

SINGLE = ("rubric", "total", "mt_bench")  # one answer at a time
KINDS = (*SINGLE, "pairwise")
JOURNAL, PROMPTS = "judge_calls.jsonl", "judge_prompts.jsonl"


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("judge")
    api_calls.add_flags(group, "judge")
    group.add_argument("--judge_kinds", nargs="+", choices=KINDS, metavar="KIND", help="rubric: five criteria, 1–5; "
                       "total: 0–5; mt_bench: 1–10; pairwise: which of two answers is better; default: rubric, and "
                       "pairwise where there are two models")  # fmt: skip
    group.add_argument("--judge_language", choices=("ko", "en"), default="ko", help="of the prompts")
    group.add_argument(
        "--judge_reference", metavar="NAME", help="one of --models: tell the others' scores in %% of its"
    )
    group.add_argument("--judge_logprobs", action=cli.BOOLEAN, default=True, help="weight scores by the probabilities "
                       "of their tokens, where the API returns them (G-Eval)")  # fmt: skip
    group.add_argument("--judge_attempts", type=cli.integer(1, 100), default=3, help="to get a verdict that can be "
                       "read, before it counts as failed")  # fmt: skip
    group.add_argument("--judge_parameters", type=api_calls.parameters, default={}, metavar="JSON", help="more "
                       "parameters of the API, or others than temperature 0, max_tokens 1024 and seed 42: "
                       '{"reasoning_effort": "low", "max_tokens": null}; null leaves one out')  # fmt: skip
    group.add_argument("--judge_chat_database", metavar="DB", help="measure how often the judge agrees with the arena "
                       "votes in the chat page's database: a SQLite file or a SQLAlchemy URL")  # fmt: skip


def kinds(args: argparse.Namespace, models: Sequence[str]) -> list[str]:
    """Those named, or the default ones, in the order of KINDS."""
    named = args.judge_kinds or ["rubric", *(["pairwise"] if len(models) > 1 else [])]
    return [kind for kind in KINDS if kind in named]


def check_flags(args: argparse.Namespace, models: Sequence[str]) -> None:
    """InputError with all that is wrong, if a judge is to be asked about these models."""
    problems = api_calls.flag_problems(args, "judge")
    if args.judge_reference and args.judge_reference not in models:
        problems.append(f"--judge_reference {args.judge_reference}: not among --models {' '.join(models)}")
    if "pairwise" in (args.judge_kinds or []) and len(models) < 2:
        problems.append("--judge_kinds pairwise: name two models or more")
    if problems:
        raise InputError(problems)
