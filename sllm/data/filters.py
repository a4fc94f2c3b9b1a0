"""Checks of a converted row's texts. Standard library only.

A row has "messages", or "prompt", "chosen" and "rejected": lists of turns. Each filter of `FILTERS` returns None, or
the reason to refuse the row, "kind: detail"; rows are counted by the text before the first ":" or ";".

Most texts need one look, of a few microseconds for 800 characters; more is computed only where that does not decide.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sllm import tasks
from sllm.data.characters import broken_encoding, texts


@dataclass(frozen=True)
class Thresholds:
    """What the filters allow.

    Attributes:
        min_hangul: share of an answer's letters that are Hangul; a syllable counts as two, as in the rule "korean".
        prompt_chars, answer_chars: least and most characters, without white space at the ends.
        max_repeated: share of an answer's sequences of four words, or of its characters, that repeat earlier ones.
    """

    min_hangul: float = 0.3
    prompt_chars: tuple[int, int] = (1, 32_000)
    answer_chars: tuple[int, int] = (1, 16_000)
    max_repeated: float = 0.5


def answers(row: dict[str, Any]) -> list[tuple[str, str]]:
    """(place, text) of each answer that is learned; the rejected one of a pair may be bad on purpose."""
    return [(place, text) for place, text, is_answer in texts(row) if is_answer and place != "rejected"]


def _encoding(row: dict[str, Any], limits: Thresholds) -> str | None:
    for place, text, _ in texts(row):
        if fault := broken_encoding(text):
            return f"broken encoding: {fault} in {place}"
    return None


# What is not prose: code, tables, formulas, addresses, marks of lists. Each expression takes time in proportion
# to a text's length: what is not closed goes on to the end, and white space is not given back (*+).
_MARKUP = re.compile(
    r"```.*?(?:```|\Z)|<(table|pre|code|script|style)\b.*?(?:</\1>|\Z)|</?[A-Za-z!][^<>]*>|`[^`\n]+`|\$[^$\n]+\$|"
    r"\\[A-Za-z]+|https?://[^\s<>]+|(?<![A-Za-z0-9_.+-])[A-Za-z0-9_.+-]++@[A-Za-z0-9.-]+",
    re.DOTALL,
)
_CODE_LINE = re.compile(
    r"^[ \t]*+(?:\|.*"
    r"|(?!.*[가-힣])(?:.*[{}\[\]=;<>_\\]|.*\w\(|#|//|--|\$ |>>>|(?:import|from|return|class|SELECT)\b|else:).*)$|"
    r"^[ \t]*+(?:[-*•]|\d+[.)])[ \t]+",
    re.MULTILINE,
)


def _prose(text: str) -> str:
    return _CODE_LINE.sub(" ", _MARKUP.sub(" ", text))


_HANGUL_BYTES = bytes(range(0xAC, 0xD8))  # the first byte of a syllable in UTF-16
_OTHER_LANGUAGE = re.compile(
    r"영어|영문|영작|번역|통역|외국어|한문|한자|[일불독]어로|(?:일본|중국|독일|프랑스|스페인|러시아|베트남|이탈리아|태국|몽골|아랍|라틴)어|"
    r"translat|english|japanese|chinese|french|german|spanish",
    re.IGNORECASE,
)
FEWEST_LETTERS = 20  # a shorter answer may be a name: NATO


def hangul_share(text: str) -> float:
    """Share of Hangul among the letters of the running text, code, tags, formulas and addresses aside, a syllable
    counted as two letters; 1 if there are fewer than FEWEST_LETTERS."""
    letters = [c for c in _prose(text) if c.isalpha()]
    hangul = sum("가" <= c <= "힣" or "ᄀ" <= c <= "ᇿ" or "ㄱ" <= c <= "ㅣ" for c in letters)
    return 2 * hangul / (len(letters) + hangul) if len(letters) >= FEWEST_LETTERS else 1.0


def _language(row: dict[str, Any], limits: Thresholds) -> str | None:
    """An answer has to be Korean, unless a question names another language or a translation, or holds the answer (a
    name in a text). The language of a question tells nothing: an English text may be summed up in Korean."""
    for place, text in answers(row):
        high = text.encode("utf-16-be", "surrogatepass")[::2]
        least = 2 * (len(high) - len(high.translate(None, _HANGUL_BYTES)))  # as if all else were foreign letters
        if least >= limits.min_hangul * (len(high) + least / 2) or (share := hangul_share(text)) >= limits.min_hangul:
            continue
        turns = (turn for key in ("messages", "prompt") for turn in row.get(key, ()) if turn["role"] == "user")
        questions = "\n".join(turn["content"] for turn in turns)
        if not _OTHER_LANGUAGE.search(questions) and text.strip() not in questions:
            return f"not Korean: {share:.0%} of the letters of {place} are Hangul (at least {limits.min_hangul:.0%})"
    return None


def _length(row: dict[str, Any], limits: Thresholds) -> str | None:
    prompt = 0
    for place, text, is_answer in texts(row):
        size = len(text.strip())
        if not is_answer:
            prompt += size
        elif wrong := _out_of_bounds(size, limits.answer_chars):
            return f"answer too {wrong} in {place}"
    wrong = _out_of_bounds(prompt, limits.prompt_chars)
    return f"prompt too {wrong}" if wrong else None


def _out_of_bounds(size: int, bounds: tuple[int, int]) -> str | None:
    least, most = bounds
    if least <= size <= most:
        return None
    return f"{'short' if size < least else 'long'}: {size:,} characters ({least:,} to {most:,})"


_SEQUENCE = 4  # words
FEWEST_WORDS = 15
_LONG_WORD = 60  # characters
_LOOP = re.compile(r"(\S{1,20}?)\1{9,}")  # 하하하하하하하하하하


def repeated_share(text: str, threshold: float = 0.0) -> tuple[float, str]:
    """How much of a text says the same again, and what it says: the share of its sequences of four words that came
    before, or of its characters that are one part of up to 20 ten times or more in a row. Code, tables and tags do not
    count, so that a table with many equal cells has 0. A share that is not above `threshold` may be given as 0."""
    if "<" in text or "`" in text or "|" in text:
        text = _prose(text)
    words = text.split()
    # A sequence that came before ends in a word that did: there are at most as many as words that came before.
    again = len(words) >= FEWEST_WORDS and len(words) - len({*words}) > threshold * (len(words) - _SEQUENCE + 1)
    if len(max(words, key=len, default="")) >= _LONG_WORD:
        size = len(text.strip())
        for loop in _LOOP.finditer(text):
            if len(loop[0]) >= max(_LONG_WORD, threshold * size) and any(map(str.isalnum, loop[1])):
                return len(loop[0]) / size, loop[1]
    words = _prose(text).split() if again else []
    if len(words) < FEWEST_WORDS:
        return 0.0, ""
    counts = Counter(zip(*(words[i:] for i in range(_SEQUENCE)), strict=False))
    return 1 - len(counts) / counts.total(), " ".join(counts.most_common(1)[0][0])


def _repetition(row: dict[str, Any], limits: Thresholds) -> str | None:
    most = limits.max_repeated
    for place, text in answers(row):
        share, part = repeated_share(text, most)
        if share > most:
            return f"repetition: {share:.0%} of {place} repeats what came before (at most {most:.0%}), {part!r}"
    return None


def _conformance(row: dict[str, Any], limits: Thresholds) -> str | None:
    """Of a preference row only the chosen answer: the rejected one may have been rejected for it."""
    *prompt, answer = row.get("messages") or row["prompt"] + (row.get("chosen") or row["completion"])
    if row["task"] not in tasks.TASKS or sum(turn["role"] == "user" for turn in prompt) != 1:
        return None
    failures = tasks.check(row["task"], prompt[-1]["content"], answer["content"])
    return "; ".join(f"breaks the task's rule {failure.rule}: {failure.reason}" for failure in failures) or None


class Filter(NamedTuple):
    check: Callable[[dict[str, Any], Thresholds], str | None]
    help: str


# Add a filter here. They are applied in this order.
FILTERS = {
    "encoding": Filter(_encoding, "characters that were lost or garbled when a text was decoded"),
    "language": Filter(_language, "an answer that is not Korean where the question asks for no other language"),
    "length": Filter(_length, "a prompt or an answer that is too short or too long"),
    "repetition": Filter(_repetition, "an answer that says the same over and over"),
    "conformance": Filter(_conformance, "an answer that breaks a rule of its task (docs/tasks.md)"),
}
