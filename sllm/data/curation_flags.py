"""The flags of `sllm.data.curation`: which rows are refused for their texts, and what is repaired or masked."""

import argparse

from sllm import cli
from sllm.cli import InputError
from sllm.data.filters import FILTERS, Thresholds

PERSONAL_DATA = ("keep", "mask", "reject")
_FILTER_OF = {
    "min_hangul": "language", "prompt_chars": "length", "answer_chars": "length", "max_repeated": "repetition",
}  # fmt: skip


def add_curation_flags(parser: argparse.ArgumentParser) -> None:
    """--normalise, --filter with its thresholds, --personal_data. Thresholds that are not given are None."""
    default, filters = Thresholds(), "; ".join(f"{name}: {entry.help}" for name, entry in FILTERS.items())
    group = parser.add_argument_group("texts of rows")
    group.add_argument("--normalise", action=cli.BOOLEAN, default=True, help="compose characters (Unicode NFC: jamo to "
                       "syllables), plain line ends and spaces, no zero-width characters")  # fmt: skip
    group.add_argument("--filter", nargs="+", choices=(*FILTERS, "none"), default=["encoding"], metavar="NAME",
                       help=f"refuse rows; others only count. {filters}; none: none of these")  # fmt: skip
    group.add_argument("--min_hangul", type=cli.fraction, metavar="SHARE", help="language: least share, 0 to 1, of "
                       f"Hangul among the letters of an answer; default: {default.min_hangul}")  # fmt: skip
    for name, whose in (("prompt_chars", "all turns of a prompt"), ("answer_chars", "an answer")):
        least, most = getattr(default, name)
        group.add_argument(f"--{name}", type=cli.integer(0, 10**9), nargs=2, metavar=("LEAST", "MOST"),
                           help=f"length: characters of {whose}; default: {least} {most}")  # fmt: skip
    group.add_argument("--max_repeated", type=cli.fraction, metavar="SHARE", help="repetition: most, 0 to 1, of an "
                       f"answer that may repeat what came before in it; default: {default.max_repeated}")  # fmt: skip
    group.add_argument("--personal_data", choices=PERSONAL_DATA, default="keep", help="resident and foreigner, phone, "
                       "card, account, passport and licence numbers, e-mail addresses. keep: count the rows; mask: "
                       "write [전화번호] and the like instead; reject: refuse the rows")  # fmt: skip


def check_curation_flags(args: argparse.Namespace) -> None:
    """InputError with everything wrong with the flags."""
    problems = []
    if "none" in args.filter and len(args.filter) > 1:
        problems.append(f"--filter {' '.join(args.filter)}: none stands alone")
    for flag, name in _FILTER_OF.items():
        value = getattr(args, flag)
        if value is not None and name not in args.filter:
            problems.append(f"--{flag} is for the filter {name}: add {name} to --filter")
        if isinstance(value, list) and value[0] > value[1]:
            problems.append(f"--{flag} {value[0]} {value[1]}: the least is above the most")
    if problems:
        raise InputError(problems)
