"""What a format makes of a record: drafts of rows, which `sllm.data.converters` checks. Standard library only.

Texts are kept byte for byte. Whatever cannot be read raises ValueError with the reason, in the form of
`sllm.data.faults`.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from sllm.data.json_reader import kind_of

Record: TypeAlias = dict[str, Any]
Turn: TypeAlias = dict[str, Any]  # role, content and, of an assistant's, weight


class Refused(NamedTuple):
    """A row that cannot be used, or a part of a record that gives none. `part`: that part; None: all of the record."""

    reason: str
    part: Record | None = None


class Draft(NamedTuple):
    """A row before its checks.

    Attributes:
        body: {"messages"} or {"prompt", "chosen", "rejected"}, each a list of turns.
        id, task: where they are not the record's own.
        context: the text that it is about; rows of one context stay in one split.
        ignored: what inside the record is not used.
        part: what of the record it is made of, where that is not all.
        open_ended: a last question without an answer is left out where answers are required.
    """

    body: dict[str, list[Turn]]
    id: object = None
    task: object = None
    context: str | None = None
    ignored: tuple[str, ...] = ()
    part: Record | None = None
    open_ended: bool = False


Expand: TypeAlias = Callable[[Record], Iterable[Draft | Refused]]

SYSTEM = ("system_prompt", "system", "시스템", "시스템프롬프트", "시스템 프롬프트")
_ROLES = {
    "human": "user", "user": "user", "사용자": "user", "질문자": "user", "prompter": "user",
    "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant", "bot": "assistant", "bard": "assistant",
    "bing": "assistant", "model": "assistant", "챗봇": "assistant", "system": "system", "시스템": "system",
}  # fmt: skip

# What a column is, by its name in lower case: the more specific names come first.
COLUMNS = {
    "question": "question query q 질문 질의 물음 문제 문의 instruction prompt 지시 지시문 지시사항 명령어 명령 user "
    "input 입력",
    "context": "context passage document article paragraph 지문 본문 문맥 맥락 문서 원문 기사 단락 dialogue 대화 "
    "input 입력",
    "answer": "answer response output reply a 답변 응답 대답 답 정답 출력 assistant",
    "summary": "summary highlights abstract 요약 요약문 요약본",
    "chosen": "chosen 좋은답변 좋은_답변 선호 선호답변",
    "rejected": "rejected 나쁜답변 나쁜_답변 비선호 비선호답변",
    "premise": "premise 전제 sentence1 sentence_1 문장1",
    "hypothesis": "hypothesis 가설 sentence2 sentence_2 문장2",
    "labelled": "document text comment comments sentence review 문장 리뷰 댓글 본문 내용 title 제목",
    "label": "gold_label label labels 라벨 레이블 분류 감정",
}
_NAMES = {role: names.split() for role, names in COLUMNS.items()}


@lru_cache(maxsize=1024)
def columns(keys: tuple[str, ...], *roles: str) -> dict[str, str]:
    """The key for each of `roles`, as far as there is one; none is used twice."""
    lower = {key.strip().lower(): key for key in reversed(keys) if isinstance(key, str)}
    found: dict[str, str] = {}
    for role in roles:
        free = (lower[name] for name in _NAMES[role] if name in lower and lower[name] not in found.values())
        if key := next(free, None):
            found[role] = key
    return found


def text_of(record: Record, key: str) -> str:
    """A text of the record; ValueError for any other value."""
    value = record.get(key)
    if not isinstance(value, str):
        raise ValueError(f"content is not text: {kind_of(value)} in {key!r}")
    return value


def turns(value: object, role: str) -> list[Turn]:
    """A text is one turn of `role`, a list is messages (role and content, or sharegpt's from and value), None is
    nothing."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"content is not text: {kind_of(value)} for the {role} turn")
    return [_turn(turn, number) for number, turn in enumerate(value, 1)]


def _turn(turn: object, number: int) -> Turn:
    if not isinstance(turn, dict):
        raise ValueError(f"message without role and content: message {number} is {kind_of(turn)}")
    if "role" in turn and "content" in turn:
        role, content = turn["role"], turn["content"]
    elif "from" in turn and "value" in turn:
        role, content = turn["from"], turn["value"]
    else:
        keys = ", ".join(map(repr, turn))
        raise ValueError(f"message without role and content: message {number} has the keys {keys}")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        if content[0].keys() == {"type", "text"} and content[0]["type"] == "text":
            content = content[0]["text"]  # OpenAI's content parts: one text is that text
    role = role_of(role)
    if role == "assistant" and turn.get("weight") is not None:
        return {"role": role, "content": content, "weight": turn["weight"]}
    return {"role": role, "content": content}


def role_of(name: Any) -> Any:
    """The role that a name stands for ("gpt" is "assistant"); any other value as it is."""
    return (_ROLES.get(name) or _ROLES.get(name.strip().lower(), name)) if isinstance(name, str) else name


def is_turns(value: object) -> bool:
    """A list of messages, judged by the first."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and ({"role", "content"} <= first.keys() or {"from", "value"} <= first.keys())


def system(record: Record) -> list[Turn]:
    return turns(filled_value(record, *SYSTEM), "system")


def filled_value(record: Record, *names: str) -> object:
    """The value of the key that is filled; ValueError if two of them differ."""
    present = {name: record[name] for name in names if record.get(name) is not None}
    if len(present) < 2:
        return next(iter(present.values()), None)
    filled = {name: value for name, value in present.items() if not (isinstance(value, str) and not value.strip())}
    first, *others = (filled or present).values()
    if any(value != first for value in others):
        raise ValueError(f"{' and '.join(filled or present)} differ: keep one of them")
    return first


def unused(name: str, value: object, used: Iterable[str | None]) -> tuple[str, ...]:
    """The filled keys of an object inside a record that are not used, each with the name of its place."""
    if not isinstance(value, dict):
        return ()
    return tuple(f"{name} {key}" for key, item in value.items() if key not in used and item not in (None, "", [], {}))


def single(messages: list[Turn], **about: Any) -> list[Draft]:
    """One training row."""
    return [Draft({"messages": messages}, **about)]


def question_and_answer(question: str, answer: str | None, **about: Any) -> Draft:
    messages = [{"role": "user", "content": question}]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return Draft({"messages": messages}, **about)
