"""Reading comprehension in SQuAD's layouts (KorQuAD 1 and 2, KLUE-MRC) → rows of the extractive tasks. Standard library
only.

An answer has to stand in its context. Of several answers the first that does is taken. A question that cannot be
answered becomes a row of the answerability task; in a file that has such questions, so does every second of the others,
so that the answer to that task is not always the same.
"""

import re
import zlib
from collections.abc import Iterator
from typing import Any

from sllm import tasks
from sllm.data.drafts import Draft, Record, Refused, question_and_answer, unused
from sllm.data.html_pages import excerpt, is_html, plain
from sllm.data.json_reader import kind_of

ANSWERABLE, SHORT_ANSWER, LONG_ANSWER, TABLE_ANSWER = "kositp01", "kositp09", "kositp10", "kositp17"
LONGEST_SHORT_ANSWER = 50  # characters: the rule of the short answers' tasks
_USED = {"question", "id", "guid", "answers", "answer", "is_impossible"}
_FLAT = {*_USED, "context", "qas"} - {"id", "guid"}  # of a row, or of a paragraph
_SPACE = re.compile(r"[\s|]+")


def is_squad_row(record: Record) -> bool:
    """A question with its context and the answers as objects."""
    answers = record.get("answers") if record.get("answers") is not None else record.get("answer")
    return isinstance(answers, dict) or (isinstance(answers, list) and all(isinstance(a, dict) for a in answers))


def squad(record: Record) -> Iterator[Draft | Refused]:
    """The questions of an article, of a paragraph or of a flat row."""
    own = {key: value for key, value in record.items() if key in _FLAT}  # for nothing, beside paragraphs
    if "paragraphs" in record:
        if not isinstance(record["paragraphs"], list):
            raise ValueError(f"paragraphs is not a list: {kind_of(record['paragraphs'])}")
        for number, paragraph in enumerate(record["paragraphs"], 1):
            if isinstance(paragraph, dict):
                ignored = unused("article", own, ()) + unused("paragraph", paragraph, ("context", "qas"))
                yield from _paragraph(paragraph, ignored)
            else:
                yield Refused(f"paragraph is not an object: {kind_of(paragraph)}, paragraph {number}")
    elif "qas" in record:
        yield from _paragraph(record, unused("article", own, ("context", "qas")))
    else:
        yield from _question(record, record.get("context"), ())


def _paragraph(paragraph: dict[str, Any], ignored: tuple[str, ...]) -> Iterator[Draft | Refused]:
    questions = paragraph.get("qas")
    if not isinstance(questions, list):
        yield Refused(f"qas is not a list: {kind_of(questions)}")
        return
    for number, question in enumerate(questions, 1):
        if isinstance(question, dict):
            yield from _question(question, paragraph.get("context"), ignored + unused("qas", question, _USED))
        else:
            yield Refused(f"question is not an object: {kind_of(question)}, question {number}")


def _question(question: dict[str, Any], context: object, ignored: tuple[str, ...]) -> Iterator[Draft | Refused]:
    name = next((question[key] for key in ("id", "guid") if question.get(key) not in (None, "")), None)
    try:
        for draft in _drafts(question, context, name):
            yield draft._replace(ignored=ignored, part=question)
    except ValueError as error:
        place = f"question {name}" if isinstance(name, str | int) else "a question without an id"
        yield Refused(f"{error}: {place}", question)


def _drafts(question: dict[str, Any], context: object, name: object) -> Iterator[Draft]:
    asked, impossible = question.get("question"), question.get("is_impossible")
    if not isinstance(context, str) or not context.strip():
        raise ValueError("empty context" if isinstance(context, str) else f"context is not text ({kind_of(context)})")
    if not isinstance(asked, str) or not asked.strip():
        raise ValueError("empty question" if isinstance(asked, str) else f"question is not text ({kind_of(asked)})")
    if impossible is True:
        yield _answerability(context, asked, "답변할 수 없음", name)
        return
    yield _answered(context, asked, _located(context, question), name)
    if impossible is False and not zlib.crc32(f"{name}{asked}".encode("utf-8", "surrogatepass")) % 2:
        yield _answerability(context, asked, "답변할 수 있음", None if name is None else f"{name}-answerability")


def _answerability(context: str, asked: str, answer: str, name: object) -> Draft:
    text = plain(context) if is_html(context) else context
    return _task_row(ANSWERABLE, {"context": text, "question": asked}, answer, name)


def _located(context: str, question: dict[str, Any]) -> tuple[int, int]:
    """Where the answer stands: at `answer_start`, or where its text occurs first."""
    candidates = _candidates(question)
    if not candidates:
        raise ValueError("no answer")
    for text, start in candidates:
        if isinstance(start, int) and start >= 0 and context.startswith(text, start):
            return start, start + len(text)
    for text, _ in candidates:
        if (start := context.find(text)) >= 0:
            return start, start + len(text)
        if (start := context.find(text.strip())) >= 0:
            return start, start + len(text.strip())
    raise ValueError("answer not found in the context")


def _candidates(question: dict[str, Any]) -> list[tuple[str, object]]:
    """(text, answer_start) of each answer that has a text: `answers` as objects, or as an object of lists; `answer`."""
    answers = question.get("answers") if question.get("answers") is not None else question.get("answer")
    if isinstance(answers, dict) and isinstance(answers.get("text"), list):
        starts = answers.get("answer_start")
        starts = starts if isinstance(starts, list) else []
        pairs = [(text, starts[n] if n < len(starts) else None) for n, text in enumerate(answers["text"])]
    else:
        listed = answers if isinstance(answers, list) else [answers]
        pairs = [(a.get("text"), a.get("answer_start")) if isinstance(a, dict) else (a, None) for a in listed]
    return [(text, start) for text, start in pairs if isinstance(text, str) and text.strip()]


def _answered(context: str, asked: str, place: tuple[int, int], name: object) -> Draft:
    start, end = place
    answer, is_table, shown = context[start:end], False, context
    if is_html(context):
        shown, is_table = excerpt(context, start, end)
        answer = plain(answer)
        if not answer or _letters(answer) not in _letters(plain(shown)):
            raise ValueError("answer not found in the text of the page")
    if len(answer) > LONGEST_SHORT_ANSWER or "\n" in answer.strip():
        return _task_row(LONG_ANSWER, {"context": plain(shown) if is_table else shown, "question": asked}, answer, name)
    if is_table:
        return _task_row(TABLE_ANSWER, {"table": shown, "question": asked}, answer, name)
    return _task_row(SHORT_ANSWER, {"context": shown, "question": asked}, answer, name)


def _letters(text: str) -> str:
    """Without white space and the bars between cells, which depend on where a text is cut."""
    return _SPACE.sub("", text)


def _task_row(task: str, fields: dict[str, str], answer: str, name: object) -> Draft:
    messages = tasks.build_messages(task, dict(fields))
    draft = question_and_answer(
        messages[-1]["content"], answer, id=name, task=task, context=next(iter(fields.values()))
    )
    draft.body["messages"][:0] = messages[:-1]
    return draft
