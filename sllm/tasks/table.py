"""What a task type is, and the table of the original's 23. `sllm.tasks.earlier` has the 22 before them.

A task id is the original's: `task01_01` is the bullet form and `task01_02` the sentence form of one family.
Standard library only: the server lists the tasks before any engine is loaded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Field(NamedTuple):
    """What a request gives: the section of the user turn that carries it, a description, its type in JSON."""

    section: str
    description: str
    type: type = str


FIELDS = {
    "context": Field("Context", "본문"),
    "table": Field("Context", "HTML 표 (앞에 표의 제목을 붙일 수 있습니다)"),
    "title": Field("Context", "글의 제목"),
    "text": Field("Context", "미완성 글"),
    "question": Field("Question", "질문 또는 지시"),
    "choices": Field("Question", "보기 (2–5개)", list[str]),
}
CHOICE_LABELS = "abcde"


@dataclass(frozen=True)
class Task:
    """One task type.

    Attributes:
        fields: what a request must give, in order.
        question: the instruction used when the request gives no `question`; None where it has to.
        style: "bullet" or "sentence" for the answer's body (the explanation, where there is one),
            "line" for a single line, "keywords" for a keyword list.
        system_prompt: what the answer has to be; not a turn of its own where `labelled` is false.
        rules: names of the checks in `conformance` that the answer must pass.
        length_ratio: least and greatest length of the answer relative to the context, white space not
            counted; None where length is free.
        chars: least and greatest number of characters of the answer, spaces included; None where length is free.
        labelled: the sections of the user turn have labels (`###Context###:`), and the system prompt comes before it.
            Without labels the user turn is plain paragraphs, the first of which is the system prompt.
    """

    id: str
    name_ko: str
    name_en: str
    fields: tuple[str, ...]
    question: str | None
    style: str
    system_prompt: str
    rules: tuple[str, ...]
    length_ratio: tuple[float, float] | None = None
    chars: tuple[int, float] | None = None
    labelled: bool = True

    def __post_init__(self) -> None:
        if sum(FIELDS[name].section == "Context" for name in self.fields) > 1:
            raise ValueError(f"{self.id}: a user turn has one Context; give the task one field of that section")

    @property
    def source(self) -> str | None:
        """The field that fills the `Context` section, if the task has one."""
        return next((name for name in self.fields if FIELDS[name].section == "Context"), None)


_STYLE_KO = {"bullet": "개조식", "sentence": "서술식"}
_STYLE_RULES = {
    "bullet": (
        "{subject} '-'로 시작하는 글머리표를 써서 계층이 드러나게 작성합니다.",
        "Markdown으로 쓰되 코드 블록(```)은 쓰지 않습니다.",
    ),
    "sentence": ("{subject} 글머리표 없이 완결된 문장으로 작성합니다.",),
}
_CHOICE_RULE = "첫 줄에는 주어진 보기 가운데 하나만 골라 기호와 내용을 그대로 적습니다."
_YES_NO_RULE = "첫 줄에는 '예' 또는 '아니요'만 적습니다."
_RATIONALE_RULE = "다음 줄에 '근거:'라고 쓰고, 그 아래에 그렇게 답한 까닭을 자세히 설명합니다."
_GROUNDED_RULE = "Context에 있는 내용만 사용하고, Context 밖의 사실이나 수치는 쓰지 않습니다."
_TONE_RULE = "분석적이고 전문적인 어조를 유지합니다."


def _system_prompt(lead: str, rules: tuple[str, ...]) -> str:
    numbered = "\n".join(f"{i}. {rule}" for i, rule in enumerate(rules, 1))
    return f"{lead} 다음 규칙을 지켜야 합니다.\n\n{numbered}"


def _pair(
    family: str,
    name_ko: str,
    name_en: str,
    lead: str,
    rules: tuple[str, ...],
    *,
    fields: tuple[str, ...],
    checks: tuple[str, ...],
    subject: str,
    question: dict[str, str] | None = None,
    ratio: tuple[float, float] | None = None,
) -> Iterator[Task]:
    """The bullet (`_01`) and the sentence (`_02`) form of one family."""
    for suffix, style in (("01", "bullet"), ("02", "sentence")):
        style_rules = tuple(rule.format(subject=subject) for rule in _STYLE_RULES[style])
        yield Task(
            id=f"{family}_{suffix}",
            name_ko=f"{name_ko} ({_STYLE_KO[style]})",
            name_en=f"{name_en} ({style})",
            fields=fields,
            question=question[style] if question else None,
            style=style,
            system_prompt=_system_prompt(lead, rules + style_rules),
            rules=("korean", *checks, style, "clean"),
            length_ratio=ratio,
        )


_TASKS = [
    *_pair(
        "task01", "요약", "Summary",
        "주어진 Context를 요약해 주세요.",
        ("핵심 내용과 주요 요점을 빠짐없이 담습니다.", "글쓴이의 의도와 논리의 흐름을 바꾸지 않습니다.",
         "요약문은 Context 길이의 3분의 1 이상이어야 하며 Context보다 짧아야 합니다.", _TONE_RULE),
        fields=("context",), subject="요약문은", checks=("length",), ratio=(1 / 3, 1.0),
        question={"bullet": "주어진 글의 핵심을 글머리표로 나누어 요약해 주세요.",
                  "sentence": "주어진 글의 핵심을 완결된 문장으로 요약해 주세요."},
    ),
    Task(
        "task02", "제목 생성", "Title", ("context",), "주어진 글의 내용을 대표하는 제목을 지어 주세요.", "line",
        _system_prompt("주어진 Context의 제목을 지어 주세요.",
                       ("Context의 핵심 낱말을 포함합니다.", "20자, 6단어를 넘지 않는 한 줄로 씁니다.",
                        "Context에 없는 수치나 사실을 쓰지 않습니다.", "제목만 쓰고 다른 설명은 붙이지 않습니다.")),
        ("korean", "title", "on_topic", "clean"),
    ),
    *_pair(
        "task03", "생성형 객관식", "Abstractive multiple choice with explanation",
        "질문에 알맞은 답을 보기에서 고르고 근거를 설명해 주세요.",
        (_CHOICE_RULE, _RATIONALE_RULE, _TONE_RULE),
        fields=("question", "choices"), subject="근거는", checks=("choice", "rationale"),
    ),
    *_pair(
        "task04", "생성형 단답", "Abstractive short answer",
        "질문에 올바른 답변을 작성해 주세요.",
        ("질문이 묻는 것에 먼저 답하고 이어서 설명합니다.", "확실한 사실을 바탕으로 구체적으로 씁니다.", _TONE_RULE),
        fields=("question",), subject="답변은", checks=(),
    ),
    *_pair(
        "task05", "생성형 예/아니요", "Abstractive yes/no with explanation",
        "질문에 예 또는 아니요로 답하고 근거를 설명해 주세요.",
        (_YES_NO_RULE, _RATIONALE_RULE, _TONE_RULE),
        fields=("question",), subject="근거는", checks=("yes_no", "rationale"),
    ),
    *_pair(
        "task06", "추출형 객관식", "Extractive multiple choice with explanation",
        "Context를 바탕으로 질문에 알맞은 답을 보기에서 고르고 근거를 설명해 주세요.",
        (_CHOICE_RULE, _RATIONALE_RULE, _GROUNDED_RULE, _TONE_RULE),
        fields=("context", "question", "choices"), subject="근거는", checks=("choice", "rationale", "grounded"),
    ),
    *_pair(
        "task07", "추출형 예/아니요", "Extractive yes/no with explanation",
        "Context를 바탕으로 질문에 예 또는 아니요로 답하고 근거를 설명해 주세요.",
        (_YES_NO_RULE, _RATIONALE_RULE, _GROUNDED_RULE, _TONE_RULE),
        fields=("context", "question"), subject="근거는", checks=("yes_no", "rationale", "grounded"),
    ),
    *_pair(
        "task08", "추출형 단답", "Extractive short answer",
        "Context를 바탕으로 질문에 올바른 답변을 작성해 주세요.",
        ("질문이 묻는 것에 먼저 답하고 이어서 설명합니다.", _GROUNDED_RULE, _TONE_RULE),
        fields=("context", "question"), subject="답변은", checks=("grounded",),
    ),
    Task(
        "task09", "글 완성", "Text completion", ("text",),
        "주어진 글에 이어질 내용을 써서 글을 완성해 주세요.", "sentence",
        _system_prompt("Context는 끝맺지 않은 글입니다. 이어질 내용을 써 주세요.",
                       ("Context의 마지막 말에 자연스럽게 이어지게 씁니다.", "Context를 되풀이하지 않습니다.",
                        "구체적이고 논리적으로 쓰고, 글머리표 없이 완결된 문장으로 끝맺습니다.", _TONE_RULE)),
        ("korean", "no_repeat", "sentence", "clean"),
    ),
    *_pair(
        "task10", "제목으로 글쓰기", "Title to contents",
        "Context는 글의 제목입니다. 제목에 맞는 글을 써 주세요.",
        ("제목의 핵심 낱말을 다루며 제목에서 벗어나지 않습니다.",
         "구체적인 내용을 담아 제목보다 훨씬 길게 씁니다.", _TONE_RULE),
        fields=("title",), subject="글은", checks=("on_topic", "length"), ratio=(5.0, float("inf")),
        question={"bullet": "주어진 제목으로 글머리표를 써서 계층이 드러나는 글을 써 주세요.",
                  "sentence": "주어진 제목으로 완결된 문장의 글을 써 주세요."},
    ),
    Task(
        "task11", "키워드 추출", "Keyword tagging", ("context",),
        "주어진 글의 핵심 키워드를 뽑고 설명해 주세요.", "keywords",
        _system_prompt("Context에서 핵심 키워드를 뽑아 주세요.",
                       ("'Keyword 1: 낱말' 형식으로 쓰고 다음 줄에 '설명: 내용'을 씁니다.",
                        "키워드는 두 개 이상의 명사이며 Context에 나온 말이어야 합니다.",
                        "같은 키워드를 되풀이하지 않습니다.", "설명은 " + _GROUNDED_RULE)),
        ("korean", "keywords", "grounded", "clean"),
    ),
    *_pair(
        "task12", "표 질의응답", "Table QA (HTML)",
        "Context는 HTML로 된 표입니다. 표를 바탕으로 질문에 올바른 답변을 작성해 주세요.",
        ("질문이 묻는 것에 먼저 답하고 이어서 설명합니다.", _GROUNDED_RULE, _TONE_RULE),
        fields=("table", "question"), subject="답변은", checks=("grounded",),
    ),
    *_pair(
        "task13", "바꿔 쓰기", "Paraphrase",
        "Context의 뜻을 그대로 두고 다른 낱말과 문장 구조로 다시 써 주세요.",
        ("Context와 비슷한 길이로 씁니다.", "Context의 주장과 논리의 흐름을 왜곡하지 않습니다.",
         "Context의 문장을 그대로 옮기지 않습니다.", _TONE_RULE),
        fields=("context",), subject="글은", checks=("length", "reworded"), ratio=(0.5, 1.6),
        question={"bullet": "뜻을 유지하면서 글머리표를 써서 다른 표현으로 다시 써 주세요.",
                  "sentence": "뜻을 유지하면서 완결된 문장의 다른 표현으로 다시 써 주세요."},
    ),
]  # fmt: skip

ORIGINAL: dict[str, Task] = {task.id: task for task in _TASKS}
