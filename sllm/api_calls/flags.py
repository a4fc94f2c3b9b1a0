"""The flags of a client of an API, for every script that has one; see `sllm.api_calls`."""

import argparse
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sllm import cli
from sllm.api_calls.client import Client


def add_flags(group: argparse._ActionsContainer, prefix: str) -> None:
    """--PREFIX_base_url and the others that `from_flags` reads."""
    flag = f"--{prefix}_"
    group.add_argument(f"{flag}base_url", metavar="URL", help="of any OpenAI-compatible API, with the /v1")
    group.add_argument(f"{flag}model", metavar="NAME", help="as the API calls it")
    group.add_argument(f"{flag}api_key_env", default="OPENAI_API_KEY", metavar="VARIABLE", help="environment variable "
                       "with the API key; local servers need none")  # fmt: skip
    group.add_argument(f"{flag}concurrency", type=cli.integer(1, 1024), default=8, help="calls at a time")
    group.add_argument(f"{flag}retries", type=cli.integer(0, 100), default=6, help="of a call that is not answered, "
                       "each later than the one before")  # fmt: skip
    group.add_argument(f"{flag}timeout", type=cli.positive_float, default=300.0, help="seconds for one whole answer")
    group.add_argument(f"{flag}price", type=cli.nonnegative_float, nargs=2, metavar=("IN", "OUT"), help="of a million "
                       "tokens of input and of output, to tell the cost")  # fmt: skip
    group.add_argument(f"{flag}max_cost", type=cli.positive_float, metavar="COST", help="start no more calls once so "
                       "much was spent, earlier runs included")  # fmt: skip


def parameters(text: str) -> dict[str, Any]:
    """An argument type: a JSON object, of parameters of the API."""
    try:
        given = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return given


def flag_problems(args: argparse.Namespace, prefix: str) -> list[str]:
    """What is wrong with the flags, if this API is to be called."""
    base_url, variable = getattr(args, f"{prefix}_base_url"), getattr(args, f"{prefix}_api_key_env")
    problems = address_problems(f"--{prefix}_base_url", base_url, variable)
    if not getattr(args, f"{prefix}_model"):
        problems.append(f"--{prefix}_model: name the model to ask")
    if getattr(args, f"{prefix}_max_cost") is not None and getattr(args, f"{prefix}_price") is None:
        problems.append(f"--{prefix}_max_cost: give the price, too: --{prefix}_price IN OUT")
    return problems


def address_problems(flag: str, base_url: str | None, variable: str) -> list[str]:
    """What is wrong with the address of an API. `variable`: of the environment, for its key."""
    if not base_url:
        return [f"{flag}: give the address of an OpenAI-compatible API, with the /v1"]
    if urlsplit(base_url).scheme not in ("http", "https") or not urlsplit(base_url).hostname:
        return [f"{flag} {base_url}: give an address like http://127.0.0.1:8000/v1"]
    if "@" in urlsplit(base_url).netloc or urlsplit(base_url).query:
        return [f"{flag}: flags are written to files; put the key into the environment variable {variable}"]
    return []


def from_flags(args: argparse.Namespace, prefix: str, journal: Path | None = None) -> Client:
    names = ("api_key_env", "concurrency", "retries", "timeout", "price", "max_cost")
    given = {name: getattr(args, f"{prefix}_{name}") for name in names}
    return Client(getattr(args, f"{prefix}_model"), getattr(args, f"{prefix}_base_url"), journal=journal, **given)
