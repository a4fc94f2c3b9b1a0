"""Guarantee 5: the merged weights answer as base + adapter does.

The reference is the base with the adapter put on by peft itself, so a mistake in the merge's own arithmetic shows.
Both models compute in fp32 from weights that stay on disk.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sllm import chat
from sllm.merge.streamed import StreamedModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPTS = [
    "대한민국의 수도는 어디인가요?",
    "건강하게 사는 방법을 세 가지만 알려 주세요.",
    "‘가는 말이 고와야 오는 말이 곱다’는 무슨 뜻인가요?",
]
# The merged model may differ from base + adapter by what rounding does, which is measured. A merge that rounds just
# as peft's arithmetic does has a ratio of 1.0; the rest is room for one that sums in another order.
MAX_FACTOR, RMS_FACTOR = 2, 1.25


@dataclass(frozen=True)
class Parity:
    """What was compared, in logits: differences of base + adapter and the merged model, and their bounds."""

    prompts: int
    tokens: int
    max_difference: float
    bound: float
    rms_difference: float
    rms_bound: float
    rms_effect: float  # of the adapter itself: base against base + adapter
    near_ties: int
    mismatches: list[str]

    @property
    def passed(self) -> bool:
        close = self.max_difference <= self.bound and self.rms_difference <= self.rms_bound
        return close and not self.mismatches  # a NaN compares as not close

    @property
    def lossy(self) -> bool:
        """Rounding takes more than a quarter of what the adapter does: its changes are small beside the weights."""
        return self.rms_difference > self.rms_effect / 4

    def __str__(self) -> str:
        return (
            f"{self.prompts} prompts × {self.tokens} greedy tokens: {len(self.mismatches)} differ, "
            f"{self.near_ties} near-ties | largest logit difference {self.max_difference:.4g} (bound {self.bound:.4g})"
            f" | rms {self.rms_difference:.4g} (bound {self.rms_bound:.4g}, the adapter's effect {self.rms_effect:.4g})"
        )


def check(
    base: str | Path, adapter: str | Path, merged: str | Path, tokenizer: "PreTrainedTokenizerBase",
    dtype: torch.dtype, *, tokens: int | None = None,
) -> Parity:  # fmt: skip
    """Compare greedy tokens and logits of base + adapter with those of the merged folder.

    Greedy tokens are decoded by the adapter's model; the merged one reads the same sequence and has to choose the
    same token at every position, which is the same as decoding alike. A different choice counts as a near-tie,
    and passes, where the adapter's own two logits are closer than the bound.

    The bound is measured, not guessed: what the logits move by when the adapter is added to the weights by peft's
    own arithmetic and those are rounded to `dtype`, which no 16-bit merge can avoid.

    Args:
        dtype: of the merged weights.
        tokens: greedy tokens per prompt; None: 16, and 4 where every token means reading gigabytes.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reference = StreamedModel(base, device, adapter=adapter)
    tokens = tokens or (16 if reference.size < 2**30 else 4)
    conversations = [chat.probe(tokenizer)["messages"], *([{"role": "user", "content": text}] for text in PROMPTS)]
    rows = [chat.prompt_ids(tokenizer, messages) for messages in conversations]
    starts = [len(row) for row in rows]
    clock = ProgressTimer(tokens + 3)

    for step in range(tokens):
        expected = reference.logits(rows)
        clock.step("base + adapter")
        if step < tokens - 1:
            for row, logits in zip(rows, expected, strict=True):
                row.append(int(logits[-1].argmax()))
    effect = _difference(expected, reference.logits(rows, adapted=False))
    clock.step("base")
    reference.merge_and_round(dtype)
    rounding = _difference(expected, reference.logits(rows))
    clock.step("base + adapter, rounded")
    del reference
    actual = StreamedModel(merged, device).logits(rows)
    clock.step("merged")

    largest, rms = _difference(expected, actual)
    scale = max(logits.abs().max().item() for logits in expected)  # fp32 itself, summed in another order
    bound, rms_bound = MAX_FACTOR * rounding[0] + 1e-4 * scale, RMS_FACTOR * rounding[1] + 1e-5 * scale
    near_ties, mismatches = 0, []
    for number, (before, after, start) in enumerate(zip(expected, actual, starts, strict=True), 1):
        for position in range(start - 1, len(before)):
            reference_token, merged_token = int(before[position].argmax()), int(after[position].argmax())
            gap = (before[position, reference_token] - before[position, merged_token]).item()
            if reference_token != merged_token and gap <= bound:
                near_ties += 1
            elif reference_token != merged_token:
                texts = [repr(tokenizer.decode([token])) for token in (reference_token, merged_token)]
                mismatches.append(f"prompt {number}, token {position - start + 2}: {texts[0]} became {texts[1]}")
    return Parity(len(rows), tokens, largest, bound, rms, rms_bound, effect[1], near_ties, mismatches)


def _difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> tuple[float, float]:
    """Largest and root-mean-square difference of the logits of all rows."""
    largest, squares, count = 0.0, 0.0, 0
    for a_row, b_row in zip(a, b, strict=True):
        gap = (a_row - b_row).abs()
        if not torch.isfinite(gap).all():
            return math.inf, math.inf
        largest = max(largest, gap.max().item())
        squares += gap.square().sum(dtype=torch.float64).item()
        count += gap.numel()
    return largest, math.sqrt(squares / count)


class ProgressTimer:
    """A line every few seconds, where passes over the weights are slow enough for anyone to wonder."""

    def __init__(self, passes: int):
        self.passes, self.done = passes, 0
        self.started = self.last_line = time.monotonic()

    def step(self, model: str) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.last_line > 3:
            seconds_left = (now - self.started) / self.done * (self.passes - self.done)
            print(f"parity: pass {self.done}/{self.passes} | {model} | ETA {seconds_left:.0f} s")
            self.last_line = now
