"""Scores of one answer, by itself or against a reference: numbers from 0 to 1 unless it says otherwise.

chrF++ is sacrebleu's; exact match, character F1 and ROUGE are in `sllm.similarity`.
"""

import re
import unicodedata
from collections import Counter
from functools import cache
from typing import Any

from sllm import tasks
from sllm.similarity import exact_match, f1, kiwi
from sllm.tasks.table import CHOICE_LABELS

_FOREIGN = (
    "CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "CYRILLIC", "ARABIC", "HEBREW", "THAI", "LAO", "KHMER", "MYANMAR",
    "TIBETAN", "DEVANAGARI", "BENGALI", "TAMIL", "ARMENIAN", "GEORGIAN", "ETHIOPIC", "MONGOLIAN",
)  # fmt: skip
REPEATED = 4  # words of the n-grams that must not come back
_CHOICE = re.compile(rf"\s*\**\s*([{CHOICE_LABELS}])\s*[).]")
_YES_NO = re.compile(r"\s*\**\s*(예|아니요)(?![가-힣])")
_POLITE = re.compile(r"(?:요|니다|니까|시오|시다|소서|죠)$")  # sentence endings with 높임
_NOMINAL = re.compile(r"(?:음|ᆷ|기)$")  # of notes: no speech level


# ── against a reference ──


def keyword_f1(answer: str, reference: str) -> float:
    """F1 of the sets of keywords, as the reference writes them: "Keyword 1: …" or a comma list."""
    read = tasks.keywords if tasks.keywords(reference) else tasks.tags
    return f1(*(sorted(set(read(text))) for text in (answer, reference)))


def same_choice(answer: str, reference: str) -> float:
    """Is the letter of the choice the same? Its text, where the reference has no letter."""
    if _CHOICE.match(reference):
        return _same(_CHOICE, answer, reference)
    return exact_match(answer.partition("\n")[0], reference.partition("\n")[0])


def same_verdict(answer: str, reference: str) -> float:
    """Is the first word the same, 예 or 아니요?"""
    return _same(_YES_NO, answer, reference)


def _same(pattern: re.Pattern[str], answer: str, reference: str) -> float:
    given, expected = pattern.match(answer), pattern.match(reference)
    return float(bool(given and expected and given[1] == expected[1]))


def chrf(answer: str, reference: str) -> float:
    """chrF++ of one answer as sacrebleu has it, from 0 to 1."""
    return float(_chrf().sentence_score(answer, [reference]).score / 100)


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF(word_order=2)


# ── by itself ──


def hangul_share(answer: str) -> float | None:
    """Share of the letters that are Hangul; None for an answer without letters."""
    letters = [c for c in answer if c.isalpha()]
    return sum(_is_hangul(c) for c in letters) / len(letters) if letters else None


def foreign_script(answer: str, prompt: str) -> float:
    """1 if the answer has letters of another script that the prompt does not have. Latin and Greek letters are not
    meant: units and formulas have them in Korean texts too."""
    return float(any(unicodedata.name(c, "").startswith(_FOREIGN) and c not in prompt for c in answer))


def _is_hangul(character: str) -> bool:
    return "가" <= character <= "힣" or "ᄀ" <= character <= "ᇿ" or "ㄱ" <= character <= "ㆎ"


def broken_characters(answer: str) -> float:
    """1 if bytes were lost: U+FFFD."""
    return float("\ufffd" in answer)


def repetition(answer: str) -> float:
    """Share of the four-word sequences that came before already; 0 for a shorter answer."""
    words = answer.split()
    sequences = [tuple(words[i : i + REPEATED]) for i in range(len(words) - REPEATED + 1)]
    return 1 - len(set(sequences)) / len(sequences) if sequences else 0.0


def speech_levels(answer: str) -> float | None:
    """Share of the sentences that are in the answer's commoner speech level, polite (-습니다, -요) or plain (-다, -어).
    1: it is consistent. None: no sentence ends in a verb."""
    levels = Counter(filter(None, map(_speech_level, kiwi().split_into_sents(answer, return_tokens=True))))
    return max(levels.values()) / levels.total() if levels else None


def _speech_level(sentence: Any) -> str | None:
    endings = [token.form for token in sentence.tokens if token.tag == "EF" or (token.tag, token.form) == ("JX", "요")]
    if not endings or _NOMINAL.search(endings[-1]):
        return None
    return "polite" if _POLITE.search(endings[-1]) else "plain"


def length_ratio(answer: str, reference: str) -> float | None:
    """Characters of the answer for each of the reference, white space aside; 1 is equally long."""
    size = len(re.sub(r"\s", "", reference))
    return len(re.sub(r"\s", "", answer)) / size if size else None
