"""What a line of an answer file says of its row, and the table of all lines."""

from collections import Counter

from sllm import cli
from sllm.generation import Generation, logprobs_of, text

SKIPPED = "skipped"  # finish_reason of a row that was not asked


def fields(
    tokenizer, group: list[Generation], stops: list[int], *, prompt_tokens: int, logprobs: int | None = None
) -> dict:
    """What a line says of a row's answers: of the first one, and with several of them a list of each; see
    vllm_inference.py."""
    first, outputs = group[0], [text(tokenizer, answer, stops) for answer in group]
    record = {
        "output": outputs[0],
        "finish_reason": first.finish_reason,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(first.token_ids),
    }
    if len(group) > 1:
        record["outputs"] = outputs
        record["finish_reasons"] = [answer.finish_reason for answer in group]
        record["completion_token_counts"] = [len(answer.token_ids) for answer in group]
    if logprobs is not None:
        each = [logprobs_of(tokenizer, answer, logprobs) for answer in group]
        record |= {"logprobs": each[0]} | ({"outputs_logprobs": each} if len(group) > 1 else {})
    return record


def skipped(reason: str, *, prompt_tokens: int) -> dict:
    """The line of a row that cannot be asked: there, so that line n answers row n and scores as no answer."""
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": 0}
    return {"output": "", "finish_reason": SKIPPED, **counts, "reason": reason}


def tokens_of(line: dict) -> int:
    """Tokens of all answers of a line."""
    return sum(line.get("completion_token_counts", [line["completion_tokens"]]))


def summary(lines: list[dict], new: int, seconds: float, load_seconds: float) -> dict:
    """Print a table by task, warn of empty answers, and return the results of the stage.

    Args:
        lines: every answer; the last `new` of them were made in `seconds`.
    """
    by_task: dict[str, list[dict]] = {}
    for line in lines:
        by_task.setdefault(line["task"] or "-", []).append(line)
    rows = [_row(task, by_task[task]) for task in sorted(by_task)]
    if len(rows) > 1:
        rows.append(_row("all", lines))
    print(cli.table(["task", "rows", "stop", "length", "prompt tokens", "answer tokens", "characters"], rows))
    answered = [line for line in lines if line["finish_reason"] != SKIPPED]
    skipped = [line["id"] for line in lines if line["finish_reason"] == SKIPPED]
    empty = [line["id"] for line in answered if not all(text.strip() for text in _texts(line))]
    for ids, state in ((skipped, "skipped"), (empty, "with an empty answer")):
        if ids:
            print(f"warning: {cli.plural(len(ids), 'row')} of {len(lines)} {state}: {', '.join(ids[:5])}"[:160])
    tokens = sum(tokens_of(line) for line in lines[len(lines) - new :])
    return {
        "rows": len(lines),
        "new_rows": new,
        "answers": sum(len(_texts(line)) for line in answered),
        "skipped": len(skipped),
        "finish_reasons": dict(Counter(reason for line in lines for reason in _reasons(line))),
        "empty": len(empty),
        "prompt_tokens": sum(line["prompt_tokens"] for line in lines),
        "completion_tokens": sum(map(tokens_of, lines)),
        "tokens_per_second": round(tokens / seconds, 1) if tokens and seconds else None,
        "load_seconds": round(load_seconds, 1),
    }


def _texts(line: dict) -> list[str]:
    return line.get("outputs", [line["output"]])


def _reasons(line: dict) -> list[str]:
    return line.get("finish_reasons", [line["finish_reason"]])


def _row(task: str, lines: list[dict]) -> list:
    """Counts of answers by how they ended; means by row of the prompt, and by answer of the rest."""
    reasons = Counter(reason for line in lines for reason in _reasons(line))
    answered = max(sum(reasons.values()), 1)
    prompts = sum(line["prompt_tokens"] for line in lines) / len(lines)
    tokens = sum(map(tokens_of, lines)) / answered
    characters = sum(len(text) for line in lines for text in _texts(line)) / answered
    means = (f"{mean:.1f}" for mean in (prompts, tokens, characters))
    return [task, len(lines), reasons["stop"], reasons["length"], *means]
