"""What tokenizing rows found: how many tokens, and what is truncated."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypedDict

import numpy as np

from sllm.cli import InputError
from sllm.data.rows import MAX_LOST_SHARE

Array: TypeAlias = np.ndarray
# Of a row: the sequences or pairs that are kept of it; their tokens and those that are supervised; the longest one
# before truncation; how many are truncated, and how many of them lose their whole answer.
COUNTS = ("sequences", "tokens", "supervised_tokens", "longest", "truncated", "dropped")
SHOWN = 20  # truncated rows in the statistics, the longest first


class TokenStats(TypedDict, total=False):
    """What tokenizing rows of SFT (`sequences`, `supervised_tokens`) or DPO (`pairs`) found; kept in run.json.

    `tokens` counts a pair's prompt once for each side. `truncated` and `dropped` count sequences or pairs: those that
    lost their end, and those that lost their whole answer. `longest_truncated` lists up to `SHOWN` rows.
    """

    rows: int
    sequences: int
    pairs: int
    tokens: int
    supervised_tokens: int
    truncated: int
    dropped: int
    max_length: int
    longest: int
    truncated_rows: int
    longest_truncated: list[dict[str, Any]]  # {"row": where it was read, "tokens"}


def statistics(
    counts: Array, source: Callable[[int], str], max_length: int, *, pairs: bool, strict: bool
) -> TokenStats:
    """Statistics of rows.

    Args:
        counts: (rows, len(COUNTS)). source: of a row, where it was read.
        strict: more than 5 % of the sequences or pairs may not be lost to truncation. Not where such rows are skipped.
    Raises:
        InputError: they are.
    """
    sequences, tokens, supervised, longest, truncated, dropped = counts.T
    long = np.flatnonzero(truncated)
    worst = long[np.argsort(-longest[long], kind="stable")][:SHOWN].tolist()
    total = len(counts) if pairs else int(dropped.sum() + sequences.sum())
    if strict and dropped.sum() > MAX_LOST_SHARE * total:
        raise InputError(
            f"{dropped.sum()} of {total} rows lose their whole answer at {max_length} tokens (at most "
            f"{MAX_LOST_SHARE:.0%} may; {source(worst[0])} has {longest[worst[0]]}); raise --max_seq_length or shorten "
            "the prompts"
        )
    if pairs:
        stats: TokenStats = {"rows": len(counts), "pairs": int(sequences.sum()), "tokens": int(tokens.sum())}
    else:
        stats = {
            "rows": len(counts),
            "sequences": int(sequences.sum()),
            "tokens": int(tokens.sum()),
            "supervised_tokens": int(supervised.sum()),
        }
    return stats | {
        "truncated": int(truncated.sum()),
        "dropped": int(dropped.sum()),
        "max_length": max_length,
        "longest": int(longest.max(initial=0)),
        "truncated_rows": len(long),
        "longest_truncated": [{"row": source(row), "tokens": int(longest[row])} for row in worst],
    }


def without_room(counts: Array, max_length: int) -> dict[int, str]:
    """Row → the reason, for rows that lose their whole answer to truncation."""
    lost = np.flatnonzero((counts[:, 0] == 0) & (counts[:, 5] > 0)).tolist()
    return {
        row: f"no room for its answer: {counts[row, 3]} tokens of at most {max_length}; shorten the row or raise "
        "--max_seq_length"
        for row in lost
    }


def truncation_summary(stats: TokenStats, *, context_length: int | None = None) -> list[str]:
    """Lines to print about the truncated rows: how many, the longest, and the length that fits them all, but none above
    `context_length`, the positions of the model."""
    if not stats["truncated_rows"]:
        return []
    worst = [f"{long['row']} has {long['tokens']:,} tokens" for long in stats["longest_truncated"][:3]]
    if more := stats["truncated_rows"] - len(worst):
        worst.append(f"{more:,} more")
    length = 1 << (stats["longest"] - 1).bit_length()  # a round one: the next power of two
    remedy = f"--max_seq_length {length} holds all"
    if context_length is not None and length > context_length:
        fit = (
            f"--max_seq_length {context_length} holds all"
            if stats["longest"] <= context_length
            else "split or shorten these rows"
        )
        remedy = f"the model holds {context_length:,}: {fit}"
    count, limit = f"{stats['truncated_rows']:,} of {stats['rows']:,} rows", f"{stats['max_length']:,} tokens"
    lost = f", {stats['dropped']:,} with nothing left to learn" if stats["dropped"] else ""
    return [f"warning: {count} are truncated at {limit}{lost}: {', '.join(worst)}; {remedy}"]
