"""From what the teacher wrote to a training row, or to the rules that it breaks, each with its reason in Korean.

The first line of a multiple choice or yes/no answer, and the line `근거:`, are put together here, so that they are
right by construction; what is said below them is checked.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from sllm import tasks
from sllm.api_calls import Completion, Request
from sllm.data import faults
from sllm.data.teacher import plans
from sllm.data.teacher.plans import Plan
from sllm.tasks import Failure
from sllm.tasks.table import CHOICE_LABELS

Parts = Mapping[str, Any]
LONGEST_QUESTION, LONGEST_CHOICE, LONGEST_TITLE = 300, 150, 60  # characters
_FENCE = re.compile(r"\A```(?:json)?\s*(.*?)\s*```\Z", re.DOTALL)
_REFUSAL = re.compile(
    r"\A\W*(?:죄송|유감|미안)[^.!?\n]{0,100}?(?:없습니다|없어요|않습니다|못합니다|어렵습니다|어려워요|없음)"
    r"|\A\W*(?:저는 )?(?:AI|인공지능)[^.!?\n]{0,20}(?:로서|이므로|이기 때문에|이라서)"
    r"|\A[^.!?\n]{0,80}(?:도와|제공해|작성해|답변해|알려) ?드릴 수 (?:없습니다|없어요)"
    r"|\A\W*(?:I'm sorry|I am sorry|Sorry, |I can(?:no|')t|As an AI)",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"<\|[\w ]+\|>|</?s>|</?(?:bos|eos|pad|unk|start_of_turn|end_of_turn|think)>|\[/?INST\]")
_CHOICE_NAME = re.compile(r"(?<![A-Za-z(])[a-e]\)|보기\s*(?:[A-Ea-e](?![A-Za-z])|[1-5①-⑤])|[1-5]번 (?:보기|선택지)")
_CHOICE_LABEL = re.compile(r"(?:[A-Ea-e]|[1-5])[).:]\s|[①-⑤]")
_POINTS_AT_TEXT = re.compile(
    r"(?:본문|제시문|지문)(?:에서|의 내용|에 (?:따르|나오|나온|나와|언급|제시|의하))"
    r"|(?:위|이|아래|해당) 글(?=[은는이을에의과도,.\s])|윗글|주어진 (?:글|자료|텍스트|내용)|글쓴이|\bcontext\b",
    re.IGNORECASE,
)


class Broken(ValueError):
    """An answer that cannot be used, and why: at least one failure."""

    def __init__(self, *failures: Failure):
        self.failures = failures
        super().__init__("; ".join(f"{failure.rule}: {failure.reason}" for failure in failures))


def read(plan: Plan, completion: Completion) -> dict[str, Any]:
    """The training row {"id", "task", "messages"}. Raises Broken."""
    text = _visible(completion)
    parts: Parts = _object(text, plan.asked) if plan.asked else {"answer": text}
    broken = _broken_parts(plan, parts)
    if broken:
        raise Broken(*broken)
    fields, answer = _fields(plan, parts), _answer(plan, parts)
    user = tasks.build_user_turn(plan.task.id, fields)
    broken = [*tasks.check(plan.task.id, fields, answer), *_broken_answer(plan, parts, answer)]
    if plan.system_prompt and tasks.split_user_turn(plan.task.id, user) != fields:
        broken.append(Failure("form", "질문이나 보기의 형식이 자료의 라벨과 섞여 다시 읽을 수 없습니다"))
    if broken:
        raise Broken(*broken)
    system = [{"role": "system", "content": plan.system_prompt}] if plan.system_prompt else []
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return {"id": plan.id, "task": plan.task.id, "messages": system + turns}


def revise(plan: Plan, request: Request, completion: Completion, error: ValueError) -> Request:
    """What the teacher is asked after an answer that cannot be used: with that answer and what is wrong with it. Longer
    histories are not sent: each attempt sees the last answer alone."""
    failures = error.failures if isinstance(error, Broken) else (Failure("unusable", str(error)),)
    kind, first = failures[0].rule, plan.messages[0]["content"]
    if kind == "empty":
        return request
    said = plans.again(kind, failures)
    if kind == "truncated":  # half an answer would only be repeated
        return replace(request, messages=[{"role": "user", "content": f"{first}\n\n{said}"}])
    turns = [{"role": "assistant", "content": completion.text}, {"role": "user", "content": said}]
    return replace(request, messages=[*plan.messages, *turns])


def _visible(completion: Completion) -> str:
    """Without reasoning."""
    _, separator, answer = completion.text.rpartition("</think>")
    text = (answer if separator else completion.text).strip()
    if completion.finish_reason == "length" or (not separator and "<think>" in text):
        raise Broken(Failure("truncated", "답이 중간에 끊겼습니다"))
    is_refusal = not text.startswith(("{", "```")) and _REFUSAL.search(text[:200])
    if completion.finish_reason == "content_filter" or is_refusal:
        raise Broken(Failure("refusal", f"답하지 않고 거절했습니다: {text[:30]!r}"))
    if not text:
        raise Broken(Failure("empty", "답이 비어 있습니다"))
    return text


def _object(text: str, asked: tuple[str, ...]) -> Parts:
    """The JSON object, with these keys and no others."""
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "too deep")
        raise Broken(Failure("json", f"JSON 객체 하나로 읽을 수 없습니다 ({reason})")) from None
    if not isinstance(value, dict):
        raise Broken(Failure("json", "JSON 객체가 아닙니다"))
    failures = [Failure("json", f"키 {key!r}가 없습니다") for key in asked if key not in value]
    failures += [Failure("json", f"요청하지 않은 키 {str(key)[:30]!r}가 있습니다") for key in value if key not in asked]
    for key in asked:
        texts = value.get(key, "") if key in plans.LISTS else [value.get(key, "")]
        if key in value and not (
            isinstance(texts, list) and texts and all(isinstance(part, str) and part.strip() for part in texts)
        ):
            kind = "빈 곳이 없는 문자열의 배열" if key in plans.LISTS else "비어 있지 않은 문자열"
            failures.append(Failure("json", f"{key!r}의 값이 {kind}이 아닙니다"))
    if failures:
        raise Broken(*failures)
    return {key: [part.strip() for part in v] if isinstance(v, list) else v.strip() for key, v in value.items()}


def _broken_parts(plan: Plan, parts: Parts) -> list[Failure]:
    """What is wrong with the parts before they are put together."""
    failures = []
    if "table" in parts and (reason := _table_fault(parts["table"], plan.context.text)):
        failures.append(Failure("table", reason))
    if "title" in parts and ("\n" in parts["title"] or len(parts["title"]) > LONGEST_TITLE):
        failures.append(Failure("form", f"제목은 한 줄로 {LONGEST_TITLE}자 이내여야 합니다"))
    if "question" in parts:
        failures += _question_faults(plan, parts["question"])
    if "wrong" in parts:
        failures += _choice_faults(plan, parts)
    if plan.verdict and parts.get("verdict") != plan.verdict:
        failures.append(
            Failure("verdict", f"질문의 답이 {plan.verdict!r}가 아닙니다: {parts.get('verdict', '')[:20]!r}")
        )
    if "evidence" in parts and plan.verdict != plans.VERDICTS["answerable"][1]:
        source = _plain(str(_fields(plan, parts).get(plan.task.source or "", "")))
        missing = next((quote for quote in parts["evidence"] if not _plain(quote) or _plain(quote) not in source), None)
        if missing is not None:
            failures.append(Failure("evidence", f"근거로 옮긴 부분이 글에 그대로 있지 않습니다: {missing[:40]!r}"))
    return failures


def _question_faults(plan: Plan, question: str) -> list[Failure]:
    failures = []
    if "\n" in question or "보기:" in question or not 5 <= len(question) <= LONGEST_QUESTION:
        failures.append(Failure("question", f"질문은 한 줄로 5자 이상 {LONGEST_QUESTION}자 이하여야 합니다"))
    hangul = sum("가" <= c <= "힣" for c in question)
    if 2 * hangul < sum(c.isalpha() for c in question):
        failures.append(Failure("korean", "질문이 한국어가 아닙니다"))
    if not plan.task.source and (found := _POINTS_AT_TEXT.search(question)):
        failures.append(Failure("self_contained", f"질문이 모델이 보지 못하는 글을 가리킵니다: {found[0]!r}"))
    return failures


def _choice_faults(plan: Plan, parts: Parts) -> list[Failure]:
    choices, failures = [parts["correct"], *parts["wrong"]], []
    if len(choices) != plan.choices:
        failures.append(Failure("choices", f"오답 보기가 {len(choices) - 1}개입니다 ({plan.choices - 1}개)"))
    if len({_plain(choice) for choice in choices}) < len(choices):
        failures.append(Failure("choices", "같은 보기가 있습니다"))
    long = next((choice for choice in choices if "\n" in choice or len(choice) > LONGEST_CHOICE), None)
    named = next((choice for choice in choices if _CHOICE_LABEL.match(choice)), None)
    if long is not None:
        failures.append(Failure("choices", f"보기는 한 줄로 {LONGEST_CHOICE}자 이내여야 합니다: {long[:30]!r}"))
    if named is not None:
        failures.append(Failure("choices", f"보기에 기호나 번호가 붙어 있습니다: {named[:30]!r}"))
    if found := _CHOICE_NAME.search(parts.get("explanation", "")):
        failures.append(Failure("choices", f"설명에서 보기를 기호나 번호로 불렀습니다: {found[0]!r}"))
    return failures


def _broken_answer(plan: Plan, parts: Parts, answer: str) -> list[Failure]:
    failures, said = [], str(parts.get("explanation", answer))
    if found := _CONTROL.search(answer) or _CONTROL.search(str(plan.fields)):
        failures.append(Failure("control", f"모델의 제어 토큰이 들어 있습니다: {found[0]!r}"))
    if broken := faults.broken(answer):
        failures.append(Failure("broken", f"깨진 글자가 있습니다: {broken}"))
    if _REFUSAL.search(said[:200]):
        failures.insert(0, Failure("refusal", f"답하지 않고 거절했습니다: {said[:30]!r}"))
    if not plan.task.source and (found := _POINTS_AT_TEXT.search(answer)):
        failures.append(Failure("self_contained", f"답이 모델이 보지 못하는 글을 가리킵니다: {found[0]!r}"))
    return failures


def _fields(plan: Plan, parts: Parts) -> dict[str, str | list[str]]:
    """Of the user turn, those that the teacher wrote too."""
    fields = plan.fields | {name: parts[name] for name in ("table", "title", "question") if name in parts}
    if "wrong" in parts:
        choices = list(parts["wrong"])
        choices.insert(plan.right, parts["correct"])
        fields["choices"] = choices
    return fields


def _answer(plan: Plan, parts: Parts) -> str:
    if "answer" in parts:
        return str(parts["answer"])
    head = parts.get("verdict", "")
    if "correct" in parts:
        label = f"{CHOICE_LABELS[plan.right]}) " if plan.system_prompt else ""
        head = f"{label}{parts['correct']}"
    if "explanation" in parts:
        explanation = re.sub(r"\A\**근거\**\s*:\**\s*", "", parts["explanation"])
        return f"{head}\n근거:\n{explanation}"
    return "\n".join([head, *parts["evidence"]]) if "evidence" in plan.task.rules else str(head)


def _plain(text: str) -> str:
    """Without tags, white space and quotation marks, to look a quotation up."""
    return re.sub(r"</?[A-Za-z][^<>]*>|[\s\"'“”‘’]", "", text)


class _Table(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[int] = []  # cells of each
        self.fault: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("table", "thead", "tbody", "tr", "th", "td", "br", "caption"):
            self.fault = self.fault or f"표에 쓸 수 없는 태그가 있습니다: <{tag}>"
        if tag == "tr":
            self.rows.append(0)
        elif tag in ("th", "td"):
            span = next((int(v) for name, v in attrs if name == "colspan" and v and v.isdigit()), 1)
            if self.rows:
                self.rows[-1] += span
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.fault = self.fault or f"표의 태그가 맞지 않습니다: </{tag}>"


def _table_fault(table: str, context: str) -> str | None:
    parser = _Table()
    parser.feed(table)
    if not re.fullmatch(r"<table\b.*</table>", table, re.DOTALL) or parser.open or table.count("<table") != 1:
        return "HTML 표 하나(<table>…</table>)가 아닙니다"
    if parser.fault:
        return parser.fault
    if len(parser.rows) < 3 or max(parser.rows) < 2:
        return "표는 머리글 행을 빼고 두 행 이상, 두 열 이상이어야 합니다"
    numbers, known = (
        set(re.findall(r"\d{2,}", re.sub(r"(?<=\d),(?=\d{3})", "", re.sub(r"<[^<>]+>", " ", text))))
        for text in (table, context)
    )
    invented = sorted(numbers - known)
    return f"글에 없는 수가 표에 있습니다: {', '.join(invented[:5])}" if invented else None
