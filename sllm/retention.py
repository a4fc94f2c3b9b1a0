"""What tuning took away: how much worse a model predicts general Korean than its base does.

Two figures on plain texts that no task is about (sample_data/probe.txt, without a chat template): bits per character,
lower is better, and the KL divergence of the base from the tuned model in nats per token, which also grows where the
predictions only change.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sllm import chat

PROBE = Path(__file__).resolve().parent.parent / "sample_data" / "probe.txt"
SMALL = 20  # of its texts, for the end of a training run
SAMPLES = 2000  # of the bootstrap
SEED = 42
SMALL_MODEL = 2**26  # weights
LOGITS = 2**25  # held at a time: 128 MiB in float32, 128 positions of a vocabulary of 262,144


@dataclass(frozen=True, eq=False)
class Retention:
    """Measurements of each text: arrays of (texts,) float64, and `texts_hash`, the sha256 of the texts.

    A text's first token is left out where nothing stands before it, as without BOS.

    Attributes:
        characters: that were predicted.
        tokens: that were predicted.
        base_bits: of the text with the base model. bits: with the tuned model.
        kl: KL(base || tuned) over the whole vocabulary, nats, mean over the text's tokens.
    """

    characters: np.ndarray
    tokens: np.ndarray
    base_bits: np.ndarray
    bits: np.ndarray
    kl: np.ndarray
    texts_hash: str

    @property
    def summary(self) -> dict[str, Any]:
        """For run.json and reports. Intervals are 95 % ones, of a bootstrap over the texts.

        `base_bits_per_character` and `bits_per_character` (tuned), their `difference` and `difference_interval`;
        `worse`: the interval is above 0; `kl` (nats per token) and `kl_interval`; `texts` and `texts_hash`.
        """
        base, base_samples = ratio(self.base_bits, self.characters)
        tuned, samples = ratio(self.bits, self.characters)
        kl, kl_samples = ratio(self.kl * self.tokens, self.tokens)
        low, high = interval(samples - base_samples)
        return {
            "texts": len(self.tokens),
            "texts_hash": self.texts_hash,
            "base_bits_per_character": base,
            "bits_per_character": tuned,
            "difference": tuned - base,
            "difference_interval": [low, high],
            "worse": low > 0,
            "kl": kl,
            "kl_interval": list(interval(kl_samples)),
        }


def ratio(numerators: np.ndarray, denominators: np.ndarray, seed: int = SEED) -> tuple[float, np.ndarray]:
    """Ratio of two sums over texts, and that of bootstrap samples of the texts: (SAMPLES,).

    The same count and seed draw the same samples, so that two models' ratios of the same texts are paired.
    """
    count = len(numerators)
    drawn = np.random.default_rng(seed).integers(count, size=(SAMPLES, count))
    samples = numerators[drawn].sum(1) / denominators[drawn].sum(1)
    return float(numerators.sum() / denominators.sum()), samples


def interval(samples: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of bootstrap samples (percentiles)."""
    return float(np.percentile(samples, 2.5)), float(np.percentile(samples, 97.5))


def probe(count: int | None = None, *, path: Path = PROBE) -> list[str]:
    """General Korean texts, one a line: all of sample_data/probe.txt, or the first `count`, which are as mixed."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()][:count]


def measure(model: Any, tokenizer: Any, texts: Sequence[str], base: Any = None) -> Retention:
    """Measure what a tuned model kept of its base. Long texts are cut at the models' context length.

    The models may be in training: nothing of theirs is changed but for the time of the call, and no random number is
    drawn. Computed in the autocast that is active, a text at a time, with float32 probabilities.

    Args:
        model: the tuned model. Without `base` it is a peft.PeftModel, whose base is itself without any adapter: a
            reference adapter beside it is left out, too.
        base: another loaded model with the same vocabulary.
    Raises:
        ValueError: there is no base to compare with, its vocabulary is another, or a text has nothing to predict.
    """
    if base is None and not hasattr(model, "disable_adapter"):
        raise ValueError("a model without an adapter can only be compared with another: give its base")
    models = [model] if base is None else [model, base]
    lengths = [getattr(one.config.get_text_config(), "max_position_embeddings", None) for one in models]
    limit = min(filter(None, lengths), default=None)
    encoded = [_encode(tokenizer, text, limit) for text in texts]
    with _evaluating(models):
        measured = [_compare(model, base, ids) for ids, _ in encoded]
    base_bits, bits, kl = np.array(measured).T
    return Retention(
        characters=np.array([characters for _, characters in encoded], dtype=float),
        tokens=np.array([len(ids) - 1 for ids, _ in encoded], dtype=float),
        base_bits=base_bits, bits=bits, kl=kl,
        texts_hash=hashlib.sha256("\n".join(texts).encode()).hexdigest(),
    )  # fmt: skip


def change(summary: dict[str, Any]) -> str:
    """`1.920 → 1.950 bits per character (+0.030, -0.010 to +0.070)`, of a `Retention.summary`."""
    low, high = summary["difference_interval"]
    values = f"{summary['base_bits_per_character']:.3f} → {summary['bits_per_character']:.3f} bits per character"
    return f"{values} ({summary['difference']:+.3f}, {low:+.3f} to {high:+.3f})"


def sentence(summary: dict[str, Any], before: float | None = None) -> str:
    """A line about a `Retention.summary`. `before`: bits per character of the model that the run started from."""
    said = change(summary) + (f", {before:.3f} before this run" if before is not None else "")
    if not summary["worse"]:
        return f"general Korean: {said}"
    return (
        f"general Korean became worse: {said}; a lower learning rate, fewer epochs or general rows in the training set "
        "keep more of it"
    )


def token_bits(model: Any, ids: Sequence[int], first: int = 1) -> np.ndarray:
    """Bits of the tokens ids[first:], each given all before it: (len(ids) - first,) float64. `first`: at least 1."""
    import torch

    with torch.no_grad():
        parts = [_bits(_log_probabilities(model, ids, *part), ids, *part) for part in _parts(model, ids, first)]
    bits: np.ndarray = torch.cat(parts).cpu().numpy()
    return bits


def _compare(model: Any, base: Any, ids: Sequence[int]) -> tuple[float, float, float]:
    """(bits with the base, bits with the tuned model, mean KL in nats) of a text's tokens."""
    import torch

    base_bits = bits = kl = 0.0
    for part in _parts(model, ids, 1):
        with torch.no_grad():
            with nullcontext() if base is not None else model.disable_adapter():
                before = _log_probabilities(model if base is None else base, ids, *part)
            after = _log_probabilities(model, ids, *part).to(before.device)
            if before.shape != after.shape:
                raise ValueError(f"vocabularies of {before.shape[1]:,} and {after.shape[1]:,} entries: another base?")
            base_bits += _bits(before, ids, *part).sum().item()
            bits += _bits(after, ids, *part).sum().item()
            divergence = torch.nn.functional.kl_div(after, before, reduction="none", log_target=True)
            kl += divergence.sum(dtype=torch.float64).item()
    return base_bits, bits, kl / (len(ids) - 1)


def _parts(model: Any, ids: Sequence[int], first: int) -> Iterator[tuple[int, int]]:
    """The tokens ids[first:] as (start, end), so that the logits of a part are at most LOGITS numbers."""
    size = max(1, LOGITS // model.config.get_text_config().vocab_size)
    for start in range(first, len(ids), size):
        yield start, min(start + size, len(ids))


def _log_probabilities(model: Any, ids: Sequence[int], start: int, end: int) -> Any:
    """Of every entry of the vocabulary at the place of the tokens ids[start:end]: (end - start, vocabulary) float32.

    For a later part all that stands before it is computed once more: there the model is asked for some logits only.
    """
    import torch

    inputs = torch.tensor([ids[: end - 1]], device=model.device)
    some = {"logits_to_keep": end - start} if start > 1 else {}
    logits = model(input_ids=inputs, use_cache=False, **some).logits[0]  # (end - start, vocabulary)
    return logits.float().log_softmax(-1)


def _bits(log_probabilities: Any, ids: Sequence[int], start: int, end: int) -> Any:
    """(end - start,) float64"""
    import torch

    targets = torch.tensor(ids[start:end], device=log_probabilities.device)[:, None]
    return log_probabilities.gather(1, targets)[:, 0].double() / -np.log(2)


def _encode(tokenizer: Any, text: str, limit: int | None) -> tuple[list[int], int]:
    """(token ids, characters of all but the first)"""
    text = chat.nfc(text)
    ids = tokenizer(text)["input_ids"]
    kept = ids[:limit]
    if len(kept) < 2:
        raise ValueError(f"a text of {len(ids)} tokens, of which {len(kept)} fit, has nothing to predict: {text!r}")
    left_out = [tokenizer.decode(part, skip_special_tokens=True) for part in (ids[:1], ids[len(kept) :])]
    return kept, len(text) - sum(map(len, left_out))


@contextmanager
def _evaluating(models: Sequence[Any]) -> Iterator[None]:
    """Evaluation mode, and afterwards the one from before; which weights are trained, too: peft's `disable_adapter`
    turns it on for an adapter that was loaded frozen. A small model has one thread: beside another process, threads
    that wait for each other after each of its short operations took a minute instead of a second."""
    import torch

    modes = [model.training for model in models]
    threads = torch.get_num_threads()
    trained = [(weight, weight.requires_grad) for model in models for weight in model.parameters()]
    for model in models:
        model.eval()
    if sum(weight.numel() for weight in models[0].parameters()) < SMALL_MODEL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)
        for weight, requires_grad in trained:
            weight.requires_grad_(requires_grad)
