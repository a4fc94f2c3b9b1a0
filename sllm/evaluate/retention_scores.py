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
    """What `sllm.measure_retention` found of each model, as scores of each text.

    Args:
        models: name → `texts_hash`, `summary`, and arrays of (texts,): characters, tokens, bits, and kl; `summary` and
            `kl` are None where there is no base to compare with.
    """
    scores = {}
    for name, found in models.items():
        # so scaled, the means are ratios of sums: of all bits to all characters, of all nats to all tokens
        characters, tokens = np.array(found["characters"]), np.array(found["tokens"])
        kl = np.array(found["kl"] if found["kl"] is not None else [math.nan] * len(tokens))
        scores[name] = {
            "bits_per_character": np.array(found["bits"]) / characters.mean(),
            "kl": kl * tokens / tokens.mean(),
        }
    first = next(iter(models.values()))
    count = len(first["characters"])
    details = {name: found["summary"] for name, found in models.items()}
    return Measured(SUITE, [f"text-{i + 1}" for i in range(count)], [None] * count, scores, details,
                    {"texts_hash": first["texts_hash"]}, [{}] * count)  # fmt: skip
