"""What tuning took away, as scores of each text of a probe; see `sllm.retention`."""

import math
from typing import Any

import numpy as np

from sllm.evaluate.suites import Measured, Metric, Suite

SUITE = Suite("retention", "일반 한국어 유지", "Retention", (
    Metric("bits_per_character", "일반 한국어 (글자당 비트)", "General Korean, bits per character", lower=True,
           unit="bits", most=math.inf),
    Metric("kl", "기반 모델과의 KL (토큰당 nat)", "KL to the base, nats per token", lower=True,
           unit="bits", most=math.inf),
), "the model itself", items="texts of the probe")  # fmt: skip


def measured(models: dict[str, dict[str, Any]]) -> Measured:
    """Args:
    models: name → `texts_hash`, and arrays of (texts,): characters, bits, and kl (None without a base).
    """
    scores, worse = {}, {}
    for name, found in models.items():
        characters = np.array(found["characters"])
        # so scaled, their mean is the ratio of all bits to all characters
        bits = np.array(found["bits"]) / characters.mean()
        kl = np.array(
            [math.nan if value is None else value for value in found["kl"] or [None] * len(bits)], dtype=float
        )
        scores[name] = {"bits_per_character": bits, "kl": kl}
        worse[name] = found["summary"]
    count = len(next(iter(models.values()))["characters"])
    return Measured(SUITE, [f"text-{i + 1}" for i in range(count)], [None] * count, scores, worse, [{}] * count)
