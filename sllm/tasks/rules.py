"""The rules of the answers, those that the original's tasks need: each a function from (task, fields, answer) to the
reason it is broken, or None. `sllm.tasks.earlier_rules` has more.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from sllm.tasks.table import CHOICE_LABELS, Task

Fields = Mapping[str, Any]  # the parts of a user turn, by their names

_BULLET = re.compile(r"^\s*(?:[-*•◦]|\d+[.)])\s+\S")
_HEADING = re.compile(r"^\s*(?:#{1,6}\s+\S.*|\*\*[^*]+\*\*:?|\*\* .+ \*\*)\s*$")
# Answers come from models, and repeat themselves: each expression takes time in proportion to a text's length, so none
# has white space, or anything else, that two of its parts could share.
_RATIONALE = re.compile(r"^[ \t]*\**근거\**[ \t]*:[ \t]*\**", re.MULTILINE)
_MATH_OR_TAG = re.compile(r"\$[^$]+\$|<[^<>]+>")
_KEYWORD = re.compile(r"^[^\w\n]*(?:Keyword|키워드)[ \t]*\d+[^\w\n]*:\s*(\S.*)$", re.MULTILINE)
_EXPLANATION = re.compile(r"^[^\w\n]*설명[^\w\n]*:\s*\S", re.MULTILINE)
_SENTENCE_END = re.compile(r"[.!?…:][\"'”’)\]*]*$")


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def size_of(text: str) -> int:
    """Characters without white space: the measure of every length rule."""
    return len(re.sub(r"\s", "", text))


def source_of(task: Task, fields: Fields) -> str:
    return str(fields.get(task.source, "")) if task.source else ""


def _head_and_body(task: Task, answer: str) -> tuple[str, str]:
    """What stands before the `근거:` line, and the explanation below it. Without one: ("", answer) for
    tasks that have no explanation, (answer, "") for those that should."""
    if "rationale" not in task.rules:
        return "", answer
    match = _RATIONALE.search(answer)
    return (answer[: match.start()].strip(), answer[match.end() :].strip()) if match else (answer, "")


def _without_math(text: str) -> str:
    """Without \\(…\\), whatever is in it; one that is not closed stays."""
    parts, position = [], 0
    while (start := text.find("\\(", position)) >= 0 and (end := text.find("\\)", start)) >= 0:
        parts.append(text[position:start])
        position = end + 2
    return " ".join([*parts, text[position:]])


def _stems(text: str) -> set[str]:
    """First two syllables of each Hangul word (particles and endings follow the stem), whole other words."""
    words = re.findall(r"[가-힣]{2,}|[A-Za-z]{2,}", _MATH_OR_TAG.sub(" ", _without_math(text)))
    return {word[:2] if "가" <= word[0] <= "힣" else word.lower() for word in words}


def _korean(task: Task, fields: Fields, answer: str) -> str | None:
    letters = [c for c in _MATH_OR_TAG.sub(" ", answer) if c.isalpha()]
    hangul = 2 * sum("가" <= c <= "힣" for c in letters)  # a syllable block holds two or three letters
    other = sum(not "가" <= c <= "힣" for c in letters)
    share = hangul / max(hangul + other, 1)
    return None if share >= 0.5 else f"한국어 비율이 {share:.0%}로 절반에 못 미칩니다"


def _length(task: Task, fields: Fields, answer: str) -> str | None:
    min_ratio, max_ratio = task.length_ratio or (0.0, math.inf)
    size, reference = size_of(answer), size_of(source_of(task, fields))
    if size < min_ratio * reference:
        return f"{size}자로, 본문 {reference}자의 {min_ratio:.2f}배보다 짧습니다"
    if size > max_ratio * reference:
        return f"{size}자로, 본문 {reference}자의 {max_ratio:.2f}배보다 깁니다"
    return None


def _bullet(task: Task, fields: Fields, answer: str) -> str | None:
    _, body = _head_and_body(task, answer)
    lines = [line for line in lines_of(body) if not _HEADING.match(line)]
    bullets = sum(bool(_BULLET.match(line)) for line in lines)
    if bullets < 2:
        return f"글머리표로 시작하는 줄이 {bullets}개뿐입니다 (2개 이상)"
    return (
        None if 2 * bullets >= len(lines) else f"{len(lines)}줄 가운데 글머리표 줄이 {bullets}개로 절반에 못 미칩니다"
    )


def _sentence(task: Task, fields: Fields, answer: str) -> str | None:
    _, body = _head_and_body(task, answer)
    for line in lines_of(body):
        if _BULLET.match(line) or _HEADING.match(line):
            return f"글머리표나 제목 줄이 있습니다: {line.strip()[:30]!r}"
    last = lines_of(body)[-1].strip() if lines_of(body) else ""
    if last and (not _SENTENCE_END.search(last) or last.endswith(":")):
        return f"문장이 끝나지 않았습니다: …{last[-15:]!r}"
    return None


def _clean(task: Task, fields: Fields, answer: str) -> str | None:
    """A code fence around Markdown, or a label of the prompt written back, is the commonest leak."""
    if "```" in answer:
        return "코드 블록(```)이 있습니다"
    leaked = re.search(r"###\s*(?:\w+\s*###|(?:입력|출력)\s*:)", answer)
    return f"프롬프트의 라벨이 섞여 있습니다: {leaked[0]}" if leaked else None


def _title(task: Task, fields: Fields, answer: str) -> str | None:
    if len(lines_of(answer)) > 1:
        return "제목이 한 줄이 아닙니다"
    size, words = size_of(answer), len(answer.split())
    return None if size <= 20 and words <= 6 else f"{size}자 {words}단어입니다 (20자, 6단어 이내)"


def _on_topic(task: Task, fields: Fields, answer: str) -> str | None:
    shared = _stems(answer) & _stems(source_of(task, fields))
    return None if shared else "본문의 낱말이 하나도 없습니다"


def _choice(task: Task, fields: Fields, answer: str) -> str | None:
    if not task.labelled:
        return _one_of(fields.get("choices", []), answer)
    head, _ = _head_and_body(task, answer)
    head = head.splitlines()[0].strip() if head else ""
    choices = dict(zip(CHOICE_LABELS, fields.get("choices", []), strict=False))
    label = re.match(r"\**\s*([a-e])\s*[).]", head)
    text = re.sub(r"^\**\s*[a-e]\s*[).]\s*", "", head).strip("* .")
    by_text = [name for name, choice in choices.items() if choice.strip("* .") == text]
    if label and label[1] not in choices:
        return f"{label[1]})는 주어진 보기에 없습니다"
    if label and text and by_text != [label[1]]:
        return f"{label[1]}) 뒤의 내용이 그 보기와 다릅니다: {text[:30]!r}"
    return None if label or by_text else f"첫 줄이 주어진 보기가 아닙니다: {head[:30]!r}"


def _one_of(choices: list[str], answer: str) -> str | None:
    """Choices without letters. More than a request can have were a comma list with commas in the choices: several in a
    row may be one choice."""
    head, known = answer.splitlines()[0].strip(" ."), {choice.strip(" .") for choice in choices}
    if len(choices) > len(CHOICE_LABELS):
        known |= {", ".join(choices[i:j]).strip(" .") for i in range(len(choices)) for j in range(i + 2, i + 5)}
    return None if head in known else f"첫 줄이 주어진 보기가 아닙니다: {head[:30]!r}"


def _yes_no(task: Task, fields: Fields, answer: str) -> str | None:
    first = re.split(r"[\s.,!:]", answer.lstrip("*"), maxsplit=1)[0].strip("*")
    return None if first in ("예", "아니요") else f"'예' 또는 '아니요'로 시작하지 않습니다: {first[:15]!r}"


def _rationale(task: Task, fields: Fields, answer: str) -> str | None:
    if not _RATIONALE.search(answer):
        return "'근거:' 줄이 없습니다"
    body = _head_and_body(task, answer)[1]
    return None if size_of(body) >= 10 else "'근거:' 아래에 설명이 없습니다"


def _grounded(task: Task, fields: Fields, answer: str) -> str | None:
    source = f"{source_of(task, fields)} {fields.get('question', '')} {' '.join(fields.get('choices', []))}"
    numbers, known = (set(re.findall(r"\d{2,}", re.sub(r"(?<=\d),(?=\d{3})", "", text))) for text in (answer, source))
    if invented := sorted(numbers - known):
        return f"본문에 없는 수: {', '.join(invented[:5])}"
    stems = _stems(answer)
    share = len(stems & _stems(source)) / max(len(stems), 1)
    return None if share >= 0.4 else f"답변 낱말의 {share:.0%}만 본문에 있습니다 (40% 이상)"


def keywords(answer: str) -> list[str]:
    """The keywords of a keyword list ("Keyword 1: …"), without white space."""
    return [re.sub(r"[*\s]", "", word) for word in _KEYWORD.findall(answer)]


def _keywords(task: Task, fields: Fields, answer: str) -> str | None:
    words = keywords(answer)
    if len(words) < 2:
        return f"'Keyword 1: …' 줄이 {len(words)}개입니다 (2개 이상)"
    if len(set(words)) < len(words):
        return "같은 키워드가 되풀이됩니다"
    explained = len(_EXPLANATION.findall(answer))
    return None if explained == len(words) else f"키워드는 {len(words)}개인데 '설명:' 줄은 {explained}개입니다"


def _no_repeat(task: Task, fields: Fields, answer: str) -> str | None:
    opening = re.sub(r"\s+", " ", answer)[:30]
    return "본문을 되풀이하며 시작합니다" if opening in re.sub(r"\s+", " ", source_of(task, fields)) else None


def _reworded(task: Task, fields: Fields, answer: str) -> str | None:
    """At most half of the answer's three-word runs may stand in the context as they are."""

    def runs(text: str) -> list[tuple[str, ...]]:
        words = re.findall(r"\w+", text)
        return [tuple(words[i : i + 3]) for i in range(len(words) - 2)]

    source_runs, answer_runs = set(runs(source_of(task, fields))), runs(answer)
    share = sum(run in source_runs for run in answer_runs) / max(len(answer_runs), 1)
    return None if share <= 0.5 else f"세 낱말 묶음의 {share:.0%}를 본문에서 그대로 옮겼습니다 (50% 이하)"


RULES = {
    "korean": _korean, "length": _length, "bullet": _bullet, "sentence": _sentence, "clean": _clean,
    "title": _title, "on_topic": _on_topic, "choice": _choice, "yes_no": _yes_no, "rationale": _rationale,
    "grounded": _grounded, "keywords": _keywords, "no_repeat": _no_repeat, "reworded": _reworded,
}  # fmt: skip
