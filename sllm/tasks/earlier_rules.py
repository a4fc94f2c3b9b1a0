"""The rules that the earlier tasks (`sllm.tasks.earlier`) need beside those of `sllm.tasks.rules`."""

import math
import re

from sllm.tasks.rules import Fields, lines_of, size_of, source_of
from sllm.tasks.table import Task

_NUMBER = re.compile(r"문장\s*(\d{1,3})\s*:")


def _one_line(task: Task, fields: Fields, answer: str) -> str | None:
    count = len(lines_of(answer))
    return None if count == 1 else f"한 줄이 아니라 {count}줄입니다"


def _chars(task: Task, fields: Fields, answer: str) -> str | None:
    """Spaces count, unlike in `length`: a limit of 50 characters is what a reader counts."""
    least, most = task.chars or (0, math.inf)
    size = len(answer)
    if size < least:
        return f"공백을 포함해 {size}자입니다 ({least}자 이상)"
    return None if size <= most else f"공백을 포함해 {size}자입니다 ({most}자 이하)"


def _bare(text: str) -> str:
    """Without HTML tags, white space, and quotation marks or periods at the ends."""
    return re.sub(r"</?[A-Za-z][^<>]*>|\s", "", text).strip("\"'“”‘’.")


def _quoted(text: str, source: str) -> str | None:
    """Is each sentence of the text in the source as it is?"""
    pieces = [piece for piece in re.split(r"\n|(?<=[.!?…])\s", text) if _bare(piece)]
    whole = _bare(source)
    missing = next((piece for piece in pieces if _bare(piece) not in whole), None)
    if missing or not pieces:
        return f"본문에 그대로 있지 않습니다: {(missing or text).strip()[:30]!r}"
    return None


def _verbatim(task: Task, fields: Fields, answer: str) -> str | None:
    return _quoted(answer, source_of(task, fields))


def _evidence(task: Task, fields: Fields, answer: str) -> str | None:
    """Behind the answer's first line."""
    _, _, evidence = answer.partition("\n")
    if size_of(evidence) < 10:
        return "첫 줄 아래에 근거가 없습니다"
    return _quoted(evidence, source_of(task, fields))


def _answerable(task: Task, fields: Fields, answer: str) -> str | None:
    """The earlier rows give a reason of a few words before the verdict."""
    verdict = re.fullmatch(r"(?:.{1,30}\s)?답변할 수 (?:있음|없음)\.?", answer)
    return None if verdict else "'답변할 수 있음' 또는 '답변할 수 없음'이 아닙니다"


def tags(answer: str) -> list[str]:
    """The keywords of a comma list, white space normalized."""
    return [tag for part in answer.split(",") if (tag := " ".join(part.split()).strip("."))]


def _tags(task: Task, fields: Fields, answer: str) -> str | None:
    words = tags(answer)
    if len(words) < 2:
        return f"쉼표로 구분한 키워드가 {len(words)}개입니다 (2개 이상)"
    if long := next((word for word in words if len(word) > 30), None):
        return f"키워드가 아니라 긴 말입니다: {long[:30]!r}"
    return None if len(set(words)) == len(words) else "같은 키워드가 되풀이됩니다"


def _gap(task: Task, fields: Fields, answer: str) -> str | None:
    """The numbers that are missing: those the instruction names, or those between the given ones."""
    given, written = ({*_NUMBER.findall(text)} for text in (source_of(task, fields), answer))
    if not _NUMBER.match(answer):
        return "'문장2 : …'처럼 빠진 번호로 시작하지 않습니다"
    named = {*re.findall(r"문장\s*(\d{1,3})", str(fields.get("question", "")))} - given
    between = {str(n) for n in range(1, max(map(int, given), default=1))} - given
    expected = named or between
    if written & given or (expected and written != expected):
        asked = f" (문장{', '.join(sorted(expected))}이 빠졌습니다)" if expected else ""
        return f"채울 문장이 아닙니다: 문장{', '.join(sorted(written))}{asked}"
    return None


EARLIER_RULES = {
    "one_line": _one_line, "chars": _chars, "verbatim": _verbatim, "evidence": _evidence, "answerable": _answerable,
    "tags": _tags, "gap": _gap,
}  # fmt: skip
