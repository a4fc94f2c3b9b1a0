"""The answers of a model behind an OpenAI-compatible API, in a file like those of vllm_inference.py."""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sllm import checkpoint, cli
from sllm.api_calls import Client, Completion, Request
from sllm.cli import InputError


def client(model: str, args: Namespace, journal: Path | None = None) -> Client:
    return Client(
        model, args.api_base_url, journal=journal, api_key_env=args.api_key_env, concurrency=args.api_concurrency
    )


def parameters(args: Namespace) -> dict[str, Any]:
    return {"max_tokens": args.max_tokens, "temperature": args.temperature, "seed": args.seed}


def check(models: Sequence[str], args: Namespace) -> None:
    """InputError for an address, key, model or parameter that is wrong."""
    for model in models:
        client(model, args).check(parameters(args))


def write(model: str, rows: Sequence[dict[str, Any]], args: Namespace, path: Path) -> None:
    """Ask every row --n times; what is answered already, in the journal beside the file, is not asked again.

    Raises:
        InputError: rows are left without an answer, with the reason; the others are kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    asked = client(model, args, path.with_suffix(".calls.jsonl"))
    requests = [
        Request(f"{row['id']}#{sample}", row["messages"], parameters(args) | {"seed": args.seed + sample})
        for row in rows for sample in range(args.n)
    ]  # fmt: skip
    results = asked.ask_all(requests, lambda completion: completion, noun="answer")
    asked.journal.close()
    failed = [result for result in results if result.value is None]
    if failed:
        raise InputError(f"{cli.plural(len(failed), 'answer')} of {model} failed ({failed[0].reason}); to continue: "
                         f"{cli.command_line(drop=['--overwrite'], add=['--resume'])}")  # fmt: skip
    completions = [result.value for result in results if result.value]
    each = [completions[i : i + args.n] for i in range(0, len(completions), args.n)]
    lines = [json.dumps(_line(row, own), ensure_ascii=False) for row, own in zip(rows, each, strict=True)]
    checkpoint.write_atomically(path, "\n".join(lines) + "\n")
    record = {
        "parents": [{"path": model}], "versions": checkpoint.versions(),
        "data": {"settings": parameters(args) | {"model": model, "api": args.api_base_url, "adapter": None}},
    }  # fmt: skip
    checkpoint.write_atomically(path.with_suffix(".run.json"), json.dumps(record, ensure_ascii=False) + "\n")


def _line(row: dict[str, Any], answers: Sequence[Completion]) -> dict[str, Any]:
    line = {"id": row["id"], "task": row["task"], "messages": row["messages"], "output": answers[0].text,
            "reference": row.get("reference"), "finish_reason": answers[0].finish_reason or "stop"}  # fmt: skip
    if len(answers) > 1:
        line |= {
            "outputs": [one.text for one in answers],
            "finish_reasons": [one.finish_reason or "stop" for one in answers],
        }
    return line
