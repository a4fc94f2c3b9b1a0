"""What a run would ask, without asking."""

import math
from argparse import Namespace
from collections import Counter
from typing import Any

from sllm import cli
from sllm.data.teacher import writing
from sllm.data.teacher.contexts import Contexts

# Characters of the prompts and answers of sample_data/task_rows.jsonl for one token of Gemma 3's tokenizer: 1.9, 1.6.
CHARACTERS_PER_TOKEN = 1.7
ANSWER_CHARACTERS = 400  # where no rule says more; the question and its grounds included


def show(contexts: Contexts, task_ids: list[str], args: Namespace) -> dict[str, Any]:
    """Print the first prompt of each task and the table of the calls, and return the results of the run."""
    shown: set[str] = set()
    rows: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    answer_characters: Counter[str] = Counter()
    for plan in writing.planned(contexts.used, task_ids, args.rows_per_context, args.seed):
        if args.max_rows is not None and rows.total() >= args.max_rows:
            break
        if isinstance(plan, str):
            continue
        task, prompt = plan.task, plan.messages[0]["content"]
        if task.id not in shown:
            shown.add(task.id)
            print(f"\n── {task.id}, {plan.id}: {', '.join(plan.asked) or 'plain text'} ──\n{prompt}")
        least, most = task.length_ratio or (0.0, math.inf)
        rows[task.id] += 1
        characters[task.id] += len(prompt)
        answer_characters[task.id] += int(
            max(ANSWER_CHARACTERS, math.sqrt(least * most) * len(plan.context.text)) if most < math.inf
            else ANSWER_CHARACTERS
        )  # fmt: skip
    tokens = [round(counter.total() / CHARACTERS_PER_TOKEN) for counter in (characters, answer_characters)]
    table = [
        [
            task_id,
            rows[task_id],
            *(f"{c[task_id] / CHARACTERS_PER_TOKEN:,.0f}" for c in (characters, answer_characters)),
        ]
        for task_id in task_ids
    ]
    print("\n" + cli.table(["task", "calls", "tokens in", "tokens out"], table))
    cost = (
        sum(n * price for n, price in zip(tokens, args.teacher_price, strict=True)) / 1e6
        if args.teacher_price
        else None
    )
    said = f", cost about {cost:,.2f}" if cost is not None else ""
    cli.say("estimate", f"{rows.total():,} calls, up to {args.max_attempts} for each row where rules are broken; about "
            f"{tokens[0]:,} tokens in and {tokens[1]:,} out for one each{said}")  # fmt: skip
    return {"stage": "data", "dry_run": True, "calls": rows.total(), "prompt_tokens": tokens[0],
            "completion_tokens": tokens[1], "cost": cost}  # fmt: skip
