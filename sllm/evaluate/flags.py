"""The flags of evaluate_model.py, and what must not be given together. Imports nothing heavy."""

import argparse
from pathlib import Path

from sllm import api_calls, cli
from sllm.cli import InputError
from sllm.evaluate import judge_flags

OF_ANSWERS = ("world", "conformance", "reference")  # suites that look at the answers to a test set
OF_MODELS = ("zero_shot", "lm_eval", "retention")  # that ask the model itself
SUITES = (*OF_ANSWERS, "judge", *OF_MODELS)


def add_flags(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("models")
    group.add_argument("--models", nargs="+", default=[], metavar="NAME=PATH", help="a name to show, and a file of "
                       "answers, a model or an adapter")  # fmt: skip
    group.add_argument("--testset_path", metavar="FILE", help="rows to ask; those of the small world have facts")
    group.add_argument("--suites", nargs="+", choices=SUITES, metavar="SUITE", help=f"what to measure: "
                       f"{', '.join(SUITES)}; default: all that the other flags and the rows allow")  # fmt: skip
    group.add_argument("--api_base_url", metavar="URL", help="of an OpenAI-compatible API, with the /v1; "
                       "then --models takes NAME=MODEL, as the API names the model")  # fmt: skip
    group.add_argument("--api_key_env", default="OPENAI_API_KEY", metavar="VARIABLE", help="environment variable with "
                       "the API key; local servers need none")  # fmt: skip
    group.add_argument("--api_concurrency", type=cli.integer(1, 1024), default=8, help="calls at a time")
    group = p.add_argument_group("answers of models that are asked (more flags: vllm_inference.py)")
    group.add_argument("--max_tokens", type=cli.positive_int, default=512, help="most tokens of an answer")
    group.add_argument("--temperature", type=cli.between(0, 2), default=0.0, help="0: always the likeliest token")
    group.add_argument("--n", type=cli.integer(1, 1024), default=1, help="answers to each question")
    group.add_argument("--seed", type=cli.seed, default=42, help="of the sampling, and of the examples")
    group.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32"), help="of weights")
    group.add_argument("--max_seq_length", type=cli.positive_int, default=8192, help="tokens; capped by the model's")
    group = p.add_argument_group("zero_shot")
    group.add_argument("--zero_shot_path", nargs="+", default=[], metavar="FILE", help="labelled test sets: KoBEST, "
                       "KLUE, KorNLI, NSMC, question pairs, BEEP!, CLIcK as published")  # fmt: skip
    group.add_argument("--zero_shot_styles", nargs="+", choices=("plain", "chat"), default=["plain"], metavar="STYLE",
                       help="plain text, chat template, or both; models are compared by the first")  # fmt: skip
    group.add_argument("--num_shots", type=cli.integer(0, 64), default=0, help="examples before each question")
    group.add_argument("--shots_path", nargs="+", default=[], metavar="FILE", help="training files to take them from, "
                       "one for each test set")  # fmt: skip
    group = p.add_argument_group("lm_eval")
    group.add_argument("--lm_eval_tasks", nargs="+", default=[], metavar="TASK", help="tasks of EleutherAI's harness")
    group.add_argument("--lm_eval_include_path", metavar="FOLDER", help="tasks of your own, as YAML")
    group.add_argument("--lm_eval_num_fewshot", type=cli.integer(0, 64), metavar="N", help="default: each task's own")
    group.add_argument("--lm_eval_limit", type=cli.positive_int, metavar="N", help="only the first N of each task")
    group.add_argument("--lm_eval_chat", action="store_true", help="ask through the chat template")
    group = p.add_argument_group("retention")
    group.add_argument("--probe_path", metavar="FILE", help="texts, a line each; default: sample_data/probe.txt")
    judge_flags.add_flags(p)
    group = p.add_argument_group("gate")
    group.add_argument("--gate", nargs=2, metavar=("OLD", "NEW"), help="names of two models, or two folders that this "
                       "script wrote, each with one model")  # fmt: skip
    group.add_argument("--must_improve", nargs="+", default=[], metavar="SUITE", help="suites on which "
                       "NEW has to be significantly better")  # fmt: skip
    group = p.add_argument_group("doctor")
    group.add_argument("--doctor", metavar="FOLDER", help="check a model or adapter folder, and nothing else")
    group.add_argument("--base_model", metavar="FOLDER", help="base of the adapter; default: the one that it names")
    cli.add_output_flags(p, "outputs/evaluation", resume="keep what --output_dir has already")
    group.add_argument("--report_only", action="store_true", help="write report.html of --output_dir again")


def check(args: argparse.Namespace) -> None:
    """InputError for flags that contradict each other."""
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
    if args.suites and suites_of_answers(args) and not args.testset_path and not _has_answers(args):
        problems.append(f"--suites {' '.join(suites_of_answers(args) or [])}: name the questions with --testset_path")
    if args.probe_path and args.suites and "retention" not in args.suites:
        problems.append("--probe_path: only with --suites retention")
    if args.shots_path and not args.num_shots:
        problems.append("--shots_path: say how many examples: --num_shots 4")
    if not args.judge_model and (args.judge_base_url or args.judge_kinds or args.judge_chat_database):
        problems.append("--judge_base_url, --judge_kinds, --judge_chat_database: only with --judge_model")
    if args.api_base_url:
        problems += api_calls.address_problems("--api_base_url", args.api_base_url, args.api_key_env)
    for suite, flag in (("zero_shot", "zero_shot_path"), ("lm_eval", "lm_eval_tasks"), ("judge", "judge_model")):
        if args.suites and (suite in args.suites) != bool(getattr(args, flag)):
            problems.append(f"--suites {suite} and --{flag} belong together: give both, or neither")
    if problems:
        raise InputError(problems)


def _has_answers(args: argparse.Namespace) -> bool:
    return any(Path(pair.partition("=")[2]).is_file() for pair in args.models)


def suites_of_models(args: argparse.Namespace) -> list[str]:
    """Those of `OF_MODELS` that are to be measured."""
    retention = args.probe_path or "retention" in (args.suites or [])
    given = (args.zero_shot_path, args.lm_eval_tasks, retention)
    return [suite for suite, wanted in zip(OF_MODELS, given, strict=True) if wanted]


def suites_of_answers(args: argparse.Namespace) -> list[str] | None:
    """Those of `OF_ANSWERS` that are named; None: all that the questions allow."""
    return None if args.suites is None else [suite for suite in OF_ANSWERS if suite in args.suites]


def asks_rows(args: argparse.Namespace) -> bool:
    """Are the models asked the rows of --testset_path?"""
    wanted = args.suites is None or args.judge_model or suites_of_answers(args)
    return bool(args.testset_path and wanted)


def inputs(args: argparse.Namespace) -> list[str | None]:
    """The files and folders that flags name."""
    lists = [*args.zero_shot_path, *args.shots_path]
    return [args.testset_path, args.probe_path, args.lm_eval_include_path, *lists]
