"""How alike an answer and its reference are: numbers from 0 to 1.

Exact match and character F1 are KorQuAD 1.0's (Lim et al., 2019); ROUGE is rouge-score's.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

_QUOTES = re.compile("['\"《》<>〈〉()‘’]")
_WORDS = {"SL", "SH", "SN"}  # Latin letters, Hanja, numbers: the symbols of Kiwi's tag set that are words


def normalize(text: str) -> str:
    """KorQuAD 1.0's normalization: quotes and brackets become spaces, punctuation goes, white space is one space."""
    text = _QUOTES.sub(" ", text).lower()
    return " ".join("".join(c for c in text if c not in string.punctuation).split())


def exact_match(answer: str, reference: str) -> float:
    return float(normalize(answer) == normalize(reference))


def char_f1(answer: str, reference: str) -> float:
    """F1 of the characters that both have, without their order; white space does not count."""
    return f1([*normalize(answer).replace(" ", "")], [*normalize(reference).replace(" ", "")])


def f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    """Of two bags of anything."""
    common = sum((Counter(answer) & Counter(reference)).values())
    return 2 * common / (len(answer) + len(reference)) if common else 0.0


def rouge(answer: str, reference: str, *, by: str) -> dict[str, float]:
    """ROUGE-1, -2 and -L (F1) as rouge-score has them. `by`: "morphemes" (Kiwi's) or "characters"."""
    scores = _rouge_scorer(by).score(reference, answer)
    return {name: score.fmeasure for name, score in scores.items()}


@cache
def _rouge_scorer(by: str) -> Any:
    from rouge_score import rouge_scorer

    class Tokenizer:
        @staticmethod
        def tokenize(text: str) -> list[str]:
            return morphemes(text) if by == "morphemes" else [c for c in text if not c.isspace()]

    return rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Tokenizer())


@cache
def kiwi() -> Any:
    from kiwipiepy import Kiwi

    return Kiwi()


@lru_cache(maxsize=64)
def morphemes(text: str) -> list[str]:
    """The forms of a text's morphemes, without punctuation."""
    return [token.form for token in kiwi().tokenize(text) if not token.tag.startswith("S") or token.tag in _WORDS]
