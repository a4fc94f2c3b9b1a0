"""Rows → the token columns that TRL trains on, cut to length and counted. Nothing is dropped in silence."""

from sllm import chat
from sllm.cli import InputError

IGNORED = -100  # label of a token that is not supervised (PyTorch's cross-entropy ignore_index)
MAX_LOST_SHARE = 0.05


def sft_columns(tokenizer, rows: list[dict], max_length: int, *, train_on_inputs: bool = False):
    """Training rows as `input_ids` and `labels`.

    Args:
        max_length: tokens; a longer sequence loses its end.
        train_on_inputs: supervise every token instead of the assistant's alone.
    Returns:
        (columns, stats): columns {"input_ids": [[int]], "labels": [[int]]}, one entry a sequence; stats with
        rows, sequences, tokens, supervised_tokens, truncated, dropped, longest.
    Raises:
        InputError: rows that cannot be rendered, all of them; or more than 5 % lost to truncation.
    """
    columns: dict[str, list] = {"input_ids": [], "labels": []}
    problems, longest, truncated, dropped = [], 0, 0, 0
    end = chat.end_of_turn(tokenizer)[1]
    for row in rows:
        try:
            examples = chat.encode(tokenizer, row["messages"])
        except (ValueError, InputError) as error:
            problems.append(f"row {row['id']}: {error}")
            continue
        for example in examples:
            ids, mask = example.input_ids[:max_length], example.completion_mask[:max_length]
            if example.input_ids[-1] != end or not example.completion_mask[-1]:
                problems.append(f"row {row['id']}: its end-of-turn token would not be learned (guarantee 2)")
                continue
            longest = max(longest, len(example.input_ids))
            truncated += len(example.input_ids) > max_length
            if not any(mask):
                dropped += 1
                continue
            columns["input_ids"].append(ids)
            labels = ids if train_on_inputs else [i if m else IGNORED for i, m in zip(ids, mask, strict=True)]
            columns["labels"].append(list(labels))
    _report(problems)
    _refuse_losses(dropped, dropped + len(columns["input_ids"]), max_length)
    stats = {
        "rows": len(rows),
        "sequences": len(columns["input_ids"]),
        "tokens": sum(map(len, columns["input_ids"])),
        "supervised_tokens": sum(label != IGNORED for labels in columns["labels"] for label in labels),
        "truncated": truncated,
        "dropped": dropped,
        "longest": longest,
    }
    return columns, stats


def dpo_columns(tokenizer, rows: list[dict], max_length: int):
    """Preference rows as `prompt_ids`, `chosen_ids` and `rejected_ids`.

    Returns:
        (columns, stats): stats with rows, tokens (prompts counted once for each side), truncated, dropped, longest.
    Raises:
        InputError: pairs that cannot be rendered or whose two sides render alike, all of them; or more than
            5 % lost to truncation.
    """
    columns: dict[str, list] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    problems, longest, truncated, dropped, tokens = [], 0, 0, 0, 0
    for row in rows:
        try:
            sides = {name: chat.completion_ids(tokenizer, row["prompt"] + row[name]) for name in ("chosen", "rejected")}
        except (ValueError, InputError) as error:
            problems.append(f"pair {row['id']}: {error}")
            continue
        if sides["chosen"] == sides["rejected"]:
            problems.append(f"pair {row['id']}: chosen and rejected render to the same tokens, so there is no choice")
            continue
        prompt = chat.prompt_ids(tokenizer, row["prompt"])
        room = max_length - len(prompt)
        longest = max(longest, len(prompt) + max(map(len, sides.values())))
        truncated += any(len(ids) > room for ids in sides.values())
        if room < 1 or sides["chosen"][:room] == sides["rejected"][:room]:
            dropped += 1
            continue
        columns["prompt_ids"].append(prompt)
        for name, ids in sides.items():
            columns[f"{name}_ids"].append(ids[:room])
            tokens += len(prompt) + len(ids[:room])
    _report(problems)
    _refuse_losses(dropped, len(rows), max_length)
    return columns, {
        "rows": len(rows),
        "pairs": len(columns["prompt_ids"]),
        "tokens": tokens,
        "truncated": truncated,
        "dropped": dropped,
        "longest": longest,
    }


def as_sequences(columns: dict) -> dict:
    """Preference columns as prompt + chosen, prompt + rejected, …: `input_ids` and `labels` in SFT's form."""
    sequences: dict[str, list] = {"input_ids": [], "labels": []}
    for prompt, *sides in zip(columns["prompt_ids"], columns["chosen_ids"], columns["rejected_ids"], strict=True):
        for ids in sides:
            sequences["input_ids"].append(prompt + ids)
            sequences["labels"].append([IGNORED] * len(prompt) + ids)
    return sequences


def _report(problems: list[str], shown: int = 20) -> None:
    if problems:
        more = [f"… and {len(problems) - shown} more"] if len(problems) > shown else []
        raise InputError(problems[:shown] + more)


def _refuse_losses(dropped: int, total: int, max_length: int) -> None:
    if dropped > MAX_LOST_SHARE * total:
        raise InputError(
            f"{dropped} of {total} rows lose their whole answer at {max_length} tokens (at most "
            f"{MAX_LOST_SHARE:.0%} may); raise --max_seq_length or shorten the prompts"
        )
