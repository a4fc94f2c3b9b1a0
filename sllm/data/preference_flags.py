"""The flags of build_preferences.py, and what must not be given together. Imports nothing heavy."""

import argparse
from pathlib import Path

from sllm import api_calls, cli
from sllm.cli import InputError

PAIRINGS = ("best_worst", "best_rest", "all")
WEIGHTS = {"truth": 5.0, "rules": 2.0, "reference": 1.0, "judge": 1.0}  # of the parts of a sample's score


def add_flags(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("sources (one or several)")
    group.add_argument("--from_chat", metavar="DB", help="the chat page's database: a SQLite file or a SQLAlchemy URL")
    group.add_argument("--from_samples", nargs="+", default=[], metavar="FILE", help="several answers to each prompt: "
                       "what vllm_inference.py --n wrote, or files of several models")  # fmt: skip
    group.add_argument("--from_teacher", nargs="?", const="", metavar="FILE", help="a teacher's answers, to be chosen "
                       "against --student_answers; without FILE, --teacher_model is asked")  # fmt: skip
    group.add_argument("--from_ratings", nargs="+", default=[], metavar="FILE", help="rows whose answers have scores, "
                       "ranks or labels")  # fmt: skip
    _add_pairing_flags(p.add_argument_group("which answers become pairs"))
    _add_sampling_flags(p.add_argument_group("samples"))
    group = p.add_argument_group("teacher")
    group.add_argument("--student_answers", metavar="FILE", help="answers of the model that is to be trained, as "
                       "vllm_inference.py writes them")  # fmt: skip
    api_calls.add_flags(group, "teacher")
    group = p.add_argument_group("judge of samples")
    api_calls.add_flags(group, "judge")
    group.add_argument("--judge_language", choices=("ko", "en"), default="ko", help="of the prompts")
    group = p.add_argument_group("chat")
    group.add_argument(
        "--max_pairs_per_prompt", type=cli.integer(1, 1_000_000), default=10,
        help="most pairs of thumbs on one prompt; its answers are used equally often",
    )  # fmt: skip
    group.add_argument(
        "--bootstrap", type=cli.between(100, 10_000), default=1000, help="resamples for the intervals of the ratings"
    )
    group.add_argument("--kto", action="store_true", help="write unpaired rows of the chat for KTO too: kto.jsonl")


def _add_pairing_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--pairing", choices=PAIRINGS, default="best_worst", help="of the scored answers to a prompt: "
                       "the best with the worst (then the second best with the second worst, …), the best with each "
                       "other one, or any two")  # fmt: skip
    group.add_argument("--pairs_per_prompt", type=cli.integer(1, 1_000_000), metavar="N", help="most pairs of scored "
                       "answers to one prompt; default: 1 with best_worst, else no limit")  # fmt: skip
    group.add_argument("--min_margin", type=cli.nonnegative_float, help="smallest difference of two scores; default: "
                       "0.1 for samples, whose scores are from 0 to 1, and any difference for ratings")  # fmt: skip
    group.add_argument("--score_key", metavar="KEY", help="where --from_ratings finds the score of an answer")
    group.add_argument("--keep_imperfect", action="store_true", help="keep chosen samples that break a rule of their "
                       "task or are not true, if they are the best")  # fmt: skip
    group.add_argument(
        "--keep_truncated", "--keep_cut", action="store_true", help="keep chosen answers that were cut off"
    )
    group.add_argument("--balance_length", action="store_true", help="drop as few pairs as it takes for the chosen "
                       "answer to be the longer one in 49 to 51 %% of them, smallest margins first")  # fmt: skip
    group.add_argument("--seed", type=cli.integer(0, 2**31 - 1), default=42, help="of samples, balancing and resamples")


def _add_sampling_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model_id", help="sample the answers now, from this merged, base or adapter folder, or Hub id")
    group.add_argument("--adapter", metavar="FOLDER", help="LoRA adapter on --model_id, or on the base it names itself")
    group.add_argument("--trainset_path", metavar="FILE", help="the prompts to answer, or those that were answered: "
                       "rows of `python -m sllm.world` have the facts that decide what is true")  # fmt: skip
    group.add_argument("--limit", type=cli.positive_int, metavar="N", help="only the first N rows")
    group.add_argument("--n", type=cli.integer(2, 1024), default=8, help="answers to each prompt")
    group.add_argument("--temperature", type=cli.between(0.01, 2), default=0.8, help="of the sampling")
    group.add_argument("--top_p", type=cli.between(0.01, 1), default=1.0, help="of the sampling")
    group.add_argument("--max_tokens", type=cli.positive_int, default=512, help="most tokens of a sample, and of an "
                       "answer of the teacher")  # fmt: skip
    group.add_argument("--max_seq_length", type=cli.positive_int, default=8192, help="tokens; capped by the model's")
    group.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32"), help="of weights")
    group.add_argument("--score_weights", nargs="+", type=_weight, default=[], metavar="PART=WEIGHT",
                       help=f"of the parts of a score, {', '.join(WEIGHTS)}; default: "
                       f"{' '.join(f'{name}={weight:g}' for name, weight in WEIGHTS.items())}")  # fmt: skip
    group.add_argument("--best_as_sft", action="store_true", help="write the best sample of each prompt as an SFT row, "
                       "where it keeps all rules and is true: sft.jsonl")  # fmt: skip


def _weight(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in WEIGHTS:
        raise argparse.ArgumentTypeError(f"{text!r}: the parts are {', '.join(WEIGHTS)}, as in truth=5")
    return name, cli.nonnegative_float(value)


def asks_model(args: argparse.Namespace) -> bool:
    """Are answers sampled now?"""
    return bool(args.model_id or args.adapter)


def asks_teacher(args: argparse.Namespace) -> bool:
    return bool(args.from_teacher == "")


def prompts(args: argparse.Namespace) -> str | None:
    """--trainset_path, or the train.jsonl of prepare_data.py's folder."""
    path = args.trainset_path
    return str(Path(path) / "train.jsonl") if path and Path(path).is_dir() else path


def weights(args: argparse.Namespace) -> dict[str, float]:
    return WEIGHTS | dict(args.score_weights)


def limit(args: argparse.Namespace) -> int | None:
    """Most pairs of scored answers to one prompt."""
    return args.pairs_per_prompt or (1 if args.pairing == "best_worst" else None)


def check(args: argparse.Namespace) -> None:
    """InputError for flags that contradict each other, or that nothing would read."""
    problems = []
    sampled = asks_model(args) or args.from_samples
    if not (args.from_chat or sampled or args.from_teacher is not None or args.from_ratings):
        problems.append("name a source: --from_chat DB, --from_samples FILE, --model_id MODEL --trainset_path ROWS, "
                        "--from_teacher FILE or --from_ratings FILE")  # fmt: skip
    if asks_model(args) and args.from_samples:
        problems.append("--from_samples reads answers, --model_id makes them: give one of the two")
    if asks_model(args) and not args.trainset_path:
        problems.append("--model_id: name the prompts to answer: --trainset_path ROWS")
    if (args.from_teacher is not None) != bool(args.student_answers):
        problems.append("--from_teacher and --student_answers belong together: the teacher's answers are chosen "
                        "against those of the model that is to be trained")  # fmt: skip
    if asks_teacher(args):
        problems += api_calls.flag_problems(args, "teacher")
    elif args.teacher_base_url or args.teacher_model:
        problems.append("--teacher_base_url, --teacher_model: only with --from_teacher without a file")
    if args.judge_model or args.judge_base_url:
        problems += api_calls.flag_problems(args, "judge")
    given = {
        "--judge_model": args.judge_model and not sampled,
        "--best_as_sft": args.best_as_sft and not sampled,
        "--score_weights": args.score_weights and not sampled,
        "--keep_imperfect": args.keep_imperfect and not sampled,
    }
    problems += [f"{flag}: only for samples (--from_samples or --model_id)" for flag, unread in given.items() if unread]
    if args.limit and not asks_model(args):
        problems.append("--limit: only with --model_id; a file of answers is read whole")
    if args.kto and not args.from_chat:
        problems.append("--kto: only with --from_chat; rows of other sources are pairs")
    if args.score_key and not args.from_ratings:
        problems.append("--score_key: only with --from_ratings")
    if args.trainset_path and not (sampled or args.from_teacher is not None):
        problems.append("--trainset_path: only for samples and a teacher")
    if problems:
        raise InputError(problems)
