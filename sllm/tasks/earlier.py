"""The 22 task types of KOSITP, the original's data before the 23: rows of `input`, `output` and `Task_name`.

Ids are in the order of its own list. An `input` has no labels and no system prompt: it holds an instruction, a text, a
question and `보기 : …, …,`, as paragraphs. Types that are also among the 23 have ids of their own, as their rows look
different.
"""

import re
from math import inf
from typing import NamedTuple

from sllm.tasks.table import Task

_YES_NO = "'예' 또는 '아니요'"
_ONE_CHOICE = "보기에서 알맞은 답을 하나 골라 그대로 적어 주세요."
_QUOTE = "다음 줄에 근거가 되는 부분을 글에서 그대로 옮겨 적어 주세요."
_SHORT = (1, 50)  # characters: 50 are the limit of the original's simplifications
_WORD = (1, 4)  # 아니요.


class _Type(NamedTuple):
    """A type as its rows have it. `rules`: besides `clean`. The bounds are those of `Task`."""

    task_name: str
    name_ko: str
    name_en: str
    fields: tuple[str, ...]
    instruction: str
    style: str
    rules: tuple[str, ...]
    length_ratio: tuple[float, float] | None = None
    chars: tuple[int, float] | None = None


_TYPES = [
    _Type("Answerability_Classification", "답변 가능 여부", "Answerability", ("context", "question"),
          "주어진 글로 질문에 답할 수 있는지 판단해 '답변할 수 있음' 또는 '답변할 수 없음'으로만 답해 주세요.",
          "line", ("answerable",)),
    _Type("Summarization", "요약", "Summary", ("context",),
          "주어진 글을 글 길이의 3분의 1 이상으로 요약해 주세요.",
          "sentence", ("korean", "length", "sentence"), length_ratio=(1 / 3, 1.0)),
    _Type("Title_Generation", "제목 생성", "Title", ("context",),
          "주어진 글에 알맞은 제목을 50자 이하의 한 줄로 지어 주세요.",
          "line", ("korean", "one_line", "chars", "on_topic"), chars=_SHORT),
    _Type("Abstractive QA Objective", "생성형 객관식", "Abstractive multiple choice", ("question", "choices"),
          f"질문을 읽고 {_ONE_CHOICE}", "line", ("one_line", "choice")),
    _Type("Abstractive QA Subjective Short answer", "생성형 단답", "Abstractive short answer", ("question",),
          "질문에 50자 이하의 짧은 말로 답해 주세요.", "line", ("one_line", "chars"), chars=_SHORT),
    _Type("Abstractive QA Subjective Long answer", "생성형 장문", "Abstractive long answer", ("question",),
          "질문에 길고 자세하게 답해 주세요.", "sentence", ("korean", "chars", "sentence"), chars=(80, inf)),
    _Type("Extractive_QA_Objective", "추출형 객관식", "Extractive multiple choice", ("context", "question", "choices"),
          f"주어진 글을 바탕으로 {_ONE_CHOICE}", "line", ("one_line", "choice")),
    _Type("Extractive_QA_YesorNo", "추출형 예/아니요", "Extractive yes/no", ("context", "question"),
          f"주어진 글을 바탕으로 질문에 {_YES_NO}로만 답해 주세요.", "line", ("yes_no", "chars"), chars=_WORD),
    _Type("Extractive_QA_Short_Answer", "추출형 단답", "Extractive short answer", ("context", "question"),
          "주어진 글에서 질문의 답을 찾아 50자 이하로 짧게, 글에 나온 그대로 적어 주세요.",
          "line", ("one_line", "chars", "verbatim"), chars=_SHORT),
    _Type("Extractive_QA_Long_Answer", "추출형 장문", "Extractive long answer", ("context", "question"),
          "주어진 글에서 질문의 답이 되는 부분을 빠짐없이 찾아 그대로 옮겨 적어 주세요.",
          "sentence", ("chars", "verbatim"), chars=(30, inf)),
    _Type("Text_Completion", "글 완성", "Text completion", ("text",),
          "주어진 미완성 글에 이어질 내용을 써 주세요.", "sentence", ("korean", "no_repeat", "sentence")),
    _Type("Title2Contents_Generation", "제목으로 글쓰기", "Title to contents", ("title",),
          "주어진 제목에 맞는 글을 자세히 써 주세요.",
          "sentence", ("korean", "on_topic", "length", "sentence"), length_ratio=(5.0, inf)),
    _Type("Text_Simplification", "문장 단순화", "Simplification", ("context",),
          "주어진 글을 50자 이하의 한 문장으로 줄여 주세요.",
          "sentence", ("korean", "one_line", "chars", "sentence", "on_topic"), chars=_SHORT),
    _Type("Keyword_Tagging", "키워드 추출", "Keyword tagging", ("context",),
          "주어진 글을 대표하는 키워드를 쉼표로 구분해 한 줄로 적어 주세요.",
          "keywords", ("one_line", "tags", "grounded")),
    _Type("Text_Composition", "빠진 문장 쓰기", "Text composition", ("text",),
          "번호가 붙은 문장에서 번호가 빠진 문장을 앞뒤에 맞게 '문장번호 : 내용' 형식으로 써 주세요.",
          "sentence", ("korean", "gap", "sentence")),
    _Type("Summary_Expansion", "요약문 늘려 쓰기", "Summary expansion", ("context",),
          "주어진 요약문을 자세한 글로 늘려 써 주세요.",
          "sentence", ("korean", "on_topic", "length", "sentence"), length_ratio=(1.2, inf)),
    _Type("Table_QA_Short_Answer", "표 단답", "Table QA short answer", ("table", "question"),
          "주어진 표에서 질문의 답을 찾아 50자 이하로 짧게, 표에 나온 그대로 적어 주세요.",
          "line", ("one_line", "chars", "verbatim"), chars=_SHORT),
    _Type("Paraphrasing", "바꿔 쓰기", "Paraphrase", ("context",),
          "주어진 글을 뜻은 그대로 두고 다른 표현으로 바꿔 써 주세요.",
          "sentence", ("korean", "length", "reworded", "sentence"), length_ratio=(0.5, 1.6)),
    _Type("Table2Title", "표 제목 생성", "Table to title", ("table",),
          "주어진 표에 알맞은 제목을 50자 이하의 한 줄로 지어 주세요.",
          "line", ("korean", "one_line", "chars", "on_topic"), chars=_SHORT),
    _Type("Abstractive QA Yes or No", "생성형 예/아니요", "Abstractive yes/no", ("question",),
          f"질문에 {_YES_NO}로만 답해 주세요.", "line", ("yes_no", "chars"), chars=_WORD),
    _Type("Extractive_QA_Objective_Explanation", "추출형 객관식 (근거 포함)",
          "Extractive multiple choice with evidence", ("context", "question", "choices"),
          f"주어진 글을 바탕으로 {_ONE_CHOICE} {_QUOTE}", "sentence", ("choice", "evidence")),
    _Type("Extractive_QA_YesorNo_Explanation", "추출형 예/아니요 (근거 포함)",
          "Extractive yes/no with evidence", ("context", "question"),
          f"주어진 글을 바탕으로 질문에 {_YES_NO}로 답해 주세요. {_QUOTE}", "sentence", ("yes_no", "evidence")),
]  # fmt: skip


def _task(number: int, given: _Type) -> Task:
    return Task(
        f"kositp{number:02}", given.name_ko, given.name_en, given.fields,
        None if "question" in given.fields else given.instruction,
        given.style, given.instruction, (*given.rules, "clean"), given.length_ratio, given.chars, labelled=False,
    )  # fmt: skip


EARLIER: dict[str, Task] = {task.id: task for number, given in enumerate(_TYPES, 1) if (task := _task(number, given))}


def _normal(name: str) -> str:
    """The words that tell the types apart: "Title2Contents_Generation" and "Title to contents" are one name."""
    letters = re.sub(r"[^a-z0-9]", "", name.casefold().replace("2", "to"))
    return re.sub(r"subjective|generation|simplification(?=expansion)", "", letters)


# As the rows and KOSITP's list of tasks write them (with its misspelling), and the English names of the table.
_IDS = {_normal(given.task_name): id for given, id in zip(_TYPES, EARLIER, strict=True)}
_IDS |= {_normal(task.name_en): task.id for task in EARLIER.values()}
_IDS |= {"answerabliltyclassification": "kositp01", "tableqa": "kositp17"}


def task_id_of(name: str) -> str | None:
    """The id of an earlier row's `Task_name`; None for another name. Case, white space, `_` and `-` do not matter."""
    return name if name in EARLIER else _IDS.get(_normal(name))
