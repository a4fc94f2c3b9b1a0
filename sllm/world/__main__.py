"""Rows, chats and preference pairs about a small made-up world, for training a tiny model and testing what it learned.

Every fact is drawn at random, so a right answer can only be read in the text; the test sets have other things than the
training rows. Each row keeps its facts, by which sllm.world.check tells whether an answer is true.

Writes train.jsonl and pairs.jsonl; test_names.jsonl (the phrasings of training), test_phrasings.jsonl (other ones) and
test_long.jsonl (texts about three things); plain.txt (for a base model: never in the form of a task); starters.txt
(questions for the first page of the chat); run.json.

    python -m sllm.world --output_dir outputs/world --rows 60
"""

import json
import random
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sllm import checkpoint, cli, tasks
from sllm.world import TASKS, Style, chat_row, pairs, plain, row

STYLES = {
    "test_names": Style(names=True),
    "test_phrasings": Style(names=True, unseen=True),
    "test_long": Style(names=True, long=True),
}


def build_parser() -> ArgumentParser:
    p = cli.parser(__doc__, "-m sllm.world")
    p.add_argument("--rows", type=cli.positive_int, default=60, help="training rows of each task, and of chats")
    p.add_argument("--pairs", type=cli.positive_int, default=12, help="preference pairs of each task")
    p.add_argument("--test_rows", type=cli.positive_int, default=10, help="rows of each task in each test set")
    p.add_argument("--documents", type=cli.positive_int, default=1000, help="plain texts")
    p.add_argument("--seed", type=cli.seed, default=42, help="random seed of everything")
    cli.add_output_flags(p, "outputs/world")
    return p


def main(args: Namespace) -> dict[str, Any]:
    started = time.monotonic()
    out = checkpoint.prepare_output(args.output_dir, overwrite=args.overwrite)
    files = {
        "train": _rows(args, "train", args.rows, Style()),
        "pairs": _distinct(args, "pairs", [(i, task) for i in range(args.pairs) for task in TASKS], _preference),
    }
    files |= {name: _rows(args, name, args.test_rows, style) for name, style in STYLES.items()}
    for name, rows in files.items():
        lines = (json.dumps({"id": f"{name}-{i}", **row}, ensure_ascii=False) for i, row in enumerate(rows))
        checkpoint.write_atomically(out / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))
    draw = random.Random(f"{args.seed} plain")
    texts = "\n\n".join(plain.document(draw) for _ in range(args.documents))
    checkpoint.write_atomically(out / "plain.txt", texts + "\n")
    open_questions = [row for row in files["test_names"] if "task" not in row and not row["expects"]["starts"]]
    chats = sorted((row["user_content"] for row in open_questions), key=len)
    starters = [*[chat for chat in chats if ". " in chat][:3], *chats[:1]]  # short texts, and a word
    checkpoint.write_atomically(out / "starters.txt", "".join(f"{question}\n" for question in starters))
    counts = {name: len(rows) for name, rows in files.items()} | {"documents": args.documents}
    cli.say("rows", ", ".join(f"{name} {count}" for name, count in counts.items()))
    checkpoint.write_run(out, "world", args, data=counts, seconds=time.monotonic() - started)
    return {"stage": "world", "output_dir": str(Path(out)), **counts}


def _draw(args: Namespace, *parts: object) -> random.Random:
    """A generator of its own for each row, so that a row stays as it is when others are added."""
    return random.Random(" ".join(map(str, (args.seed, *parts))))


def _rows(args: Namespace, name: str, count: int, style: Style) -> list[dict[str, Any]]:
    """`count` rows of each task, and as many chats."""

    def make(draw: random.Random, task: str) -> dict[str, Any]:
        return chat_row(draw, style) if task == "chat" else row(draw, task, style)

    wanted = [(i, task) for i in range(count) for task in TASKS] + [(i, "chat") for i in range(count)]
    return _distinct(args, name, wanted, make)


def _distinct(
    args: Namespace, name: str, wanted: list[tuple[int, str]], make: Callable[[random.Random, str], dict[str, Any]]
) -> list[dict[str, Any]]:
    """A row of its own for each number and task; fewer of a task of which there are no more."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for i, task in wanted:
        for attempt in range(20):
            made = make(_draw(args, name, i, task, attempt), task)
            key = task, made["user_content"] if "user_content" in made else made["prompt"][-1]["content"]
            if key not in rows:
                rows[key] = made
                break
    return list(rows.values())


def _preference(draw: random.Random, task: str) -> dict[str, Any]:
    """A pair in the format of preference rows."""
    pair = pairs.pair(draw, task)
    prompt = tasks.build_messages(task, tasks.split_user_turn(task, pair["user_content"]))
    answers = {side: [{"role": "assistant", "content": pair[side]}] for side in ("chosen", "rejected")}
    return {"task": task, "prompt": prompt, **answers, **{key: pair[key] for key in ("facts", "expects", "broken")}}


if __name__ == "__main__":
    cli.run(main, build_parser())
