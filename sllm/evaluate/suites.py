"""What is measured: each suite's metrics, as functions of a question and one answer to it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from sllm import similarity, tasks, world
from sllm.evaluate import metrics
from sllm.evaluate.statistics import Scores


@dataclass(frozen=True)
class Answer:
    """`finish_reason` as vllm_inference.py writes it: stop, length, skipped."""

    text: str
    finish_reason: str


@dataclass(frozen=True, eq=False)
class Question:
    """A row that every model was asked. `facts`: the row of `python -m sllm.world` that it is, if it is one."""

    id: str
    task: str | None
    messages: list[dict[str, str]]
    reference: str | None
    facts: dict[str, Any] | None = None

    @property
    def prompt(self) -> str:
        return self.messages[-1]["content"]

    @property
    def rules(self) -> tuple[str, ...]:
        return tasks.get(self.task).rules if self.task in tasks.TASKS else ()


Score = Callable[[Question, Answer], float | None]


@dataclass(frozen=True)
class Metric:
    """What a number says. `score`: of a question and an answer to it, or None where it does not apply; without one, the
    suite measures the model in another way. `lower`: less of it is better. `neutral`: neither is. `unit`: share (shown
    in percent), ratio, score or bits. `least`, `most`: that it can be."""

    key: str
    name_ko: str
    name_en: str
    score: Score | None = None
    lower: bool = False
    neutral: bool = False
    unit: str = "share"
    least: float = 0.0
    most: float = 1.0


@dataclass(frozen=True)
class Suite:
    """`metrics[0]` is what two models are compared by, and what the gate looks at. `requires`: of a question. `items`:
    what it measures, if not answers to the questions of a test set."""

    name: str
    name_ko: str
    name_en: str
    metrics: tuple[Metric, ...]
    requires: str
    items: str = "questions"


@dataclass(frozen=True)
class Measured:
    """What a suite found of every model.

    Attributes:
        ids: of its items.
        tasks: of the items; None where an item has none.
        scores: model → metric → (items,); NaN where the metric does not apply.
        details: what else there is to say, as JSON.
        asked: how it was measured: scores by another way do not compare.
        items: for a suite that is not about the questions of a test set: what else belongs to each item, as JSON.
    """

    suite: Suite
    ids: list[str]
    tasks: list[str | None]
    scores: dict[str, dict[str, Scores]]
    details: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    items: list[dict[str, Any]] | None = None


def _alone(score: Callable[[str], float | None]) -> Score:
    """A metric of the answer alone."""
    return lambda question, answer: score(answer.text)


def _with_reference(score: Callable[[str, str], float | None], *rules: str) -> Score:
    """A metric of answer and reference, for the questions that have one; `rules`: and whose task has one of these."""

    def metric(question: Question, answer: Answer) -> float | None:
        if not question.reference or (rules and not set(rules) & set(question.rules)):
            return None
        return score(answer.text.strip(), question.reference)

    return metric


@lru_cache(maxsize=1024)
def _broken_rules(question: Question, answer: Answer) -> frozenset[str]:
    return frozenset(failure.rule for failure in tasks.check(question.task or "", question.prompt, answer.text))


def _rules_passed(question: Question, answer: Answer) -> float | None:
    return float(not _broken_rules(question, answer)) if question.rules else None


def _rule(name: str) -> Score:
    def passed(question: Question, answer: Answer) -> float | None:
        if name not in question.rules:
            return None
        return float(not _broken_rules(question, answer) & {name, "not_empty"})

    return passed


def _truth(read: Callable[[world.Truth], float], *, of_names: bool = False) -> Score:
    """`of_names`: only of things with made-up names; what common words mean a model may have learned before."""

    def score(question: Question, answer: Answer) -> float | None:
        if not question.facts or (of_names and not question.facts["expects"]["subject"]):
            return None
        return read(_check_truth(question, answer))

    return score


@lru_cache(maxsize=1024)
def _check_truth(question: Question, answer: Answer) -> world.Truth:
    return world.check(question.facts or {}, answer.text)


def _rouge(by: str, name: str) -> Score:
    return _with_reference(lambda answer, reference: _all_rouge(answer, reference, by)[name])


@lru_cache(maxsize=1024)
def _all_rouge(answer: str, reference: str, by: str) -> dict[str, float]:
    return similarity.rouge(answer, reference, by=by)


_RULES_KO = {
    "korean": "한국어", "length": "길이", "bullet": "글머리표", "sentence": "완결된 문장", "clean": "군더더기 없음",
    "title": "제목 형식", "on_topic": "주제 유지", "choice": "보기 선택", "yes_no": "예/아니요",
    "rationale": "근거 제시", "grounded": "본문 근거", "keywords": "키워드 형식", "no_repeat": "본문 반복 없음",
    "reworded": "바꿔 쓰기", "one_line": "한 줄", "chars": "글자 수", "verbatim": "본문 그대로",
    "evidence": "근거 인용", "answerable": "답변 가능 여부", "tags": "키워드 목록", "gap": "빠진 문장",
}  # fmt: skip

WORLD = Suite("world", "사실성", "Truth", (
    Metric("true", "사실인 답", "True answers", _truth(lambda truth: float(bool(truth)))),
    Metric("true_names", "사실인 답 (지어낸 이름)", "True, of made-up names",
           _truth(lambda truth: float(bool(truth)), of_names=True)),
    Metric("wrong", "틀린 사실", "States a wrong fact", _truth(lambda truth: float(bool(truth.wrong))), lower=True),
    Metric("invented", "없는 사실", "Invents a fact", _truth(lambda truth: float(bool(truth.invented))), lower=True),
    Metric("missing", "빠진 사실", "Misses a fact", _truth(lambda truth: float(bool(truth.missing))), lower=True),
), "facts, as in the rows of `python -m sllm.world`")  # fmt: skip

CONFORMANCE = Suite("conformance", "규칙 준수", "Conformance", (
    Metric("rules_passed", "모든 규칙 통과", "All rules passed", _rules_passed),
    *(Metric(f"rule_{name}", f"규칙: {ko}", f"Rule: {name}", _rule(name)) for name, ko in _RULES_KO.items()),
    Metric("stopped", "스스로 끝냄", "Stopped by itself", lambda _, answer: float(answer.finish_reason == "stop")),
    Metric("hangul", "한글 비율", "Share of Hangul", _alone(metrics.hangul_share), neutral=True),
    Metric("foreign_script", "다른 문자 섞임", "Foreign script",
           lambda question, answer: metrics.foreign_script(answer.text, str(question.messages)), lower=True),
    Metric("broken_characters", "깨진 문자", "Broken characters", _alone(metrics.broken_characters), lower=True),
    Metric("repetition", "반복", "Repetition", _alone(metrics.repetition), lower=True),
    Metric("speech_levels", "말투 일관성", "Consistent speech level", _alone(metrics.speech_levels)),
    Metric("length_ratio", "길이 (정답 대비)", "Length against the reference", _with_reference(metrics.length_ratio),
           neutral=True, unit="ratio", most=math.inf),
), "a task of the task table")  # fmt: skip

REFERENCE = Suite("reference", "정답과 비교", "Reference", (
    Metric("char_f1", "글자 F1", "Character F1", _with_reference(similarity.char_f1)),
    Metric("exact_match", "완전 일치", "Exact match", _with_reference(similarity.exact_match)),
    *(
        Metric(f"{key}_{by}", f"{name} ({ko})", f"{name} ({by})", _rouge(by, key))
        for by, ko in (("morphemes", "형태소"), ("characters", "글자"))
        for key, name in (("rouge1", "ROUGE-1"), ("rouge2", "ROUGE-2"), ("rougeL", "ROUGE-L"))
    ),
    Metric("chrf", "chrF++", "chrF++", _with_reference(metrics.chrf)),
    Metric("keyword_f1", "키워드 F1", "Keyword F1", _with_reference(metrics.keyword_f1, "keywords", "tags")),
    Metric("choice", "보기 정확도", "Choice accuracy", _with_reference(metrics.same_choice, "choice")),
    Metric("yes_no", "예/아니요 정확도", "Yes/no accuracy", _with_reference(metrics.same_verdict, "yes_no")),
), "a reference answer")  # fmt: skip

SUITES = {suite.name: suite for suite in (WORLD, CONFORMANCE, REFERENCE)}


def applicable(suite: Suite, questions: list[Question]) -> int:
    """How many questions have what the suite requires."""
    has: dict[str, Callable[[Question], bool]] = {
        "world": lambda question: bool(question.facts),
        "conformance": lambda question: bool(question.rules),
        "reference": lambda question: bool(question.reference),
    }
    return sum(map(has[suite.name], questions))


def score(suite: Suite, questions: list[Question], answers: dict[str, list[Answer]]) -> dict[str, Scores]:
    """Each metric's scores: (questions,), the mean over the answers to a question; NaN where it does not apply.

    Args:
        answers: by the id of the question, one or several.
    """
    scores = {metric.key: np.full(len(questions), np.nan) for metric in suite.metrics}
    for i, question in enumerate(questions):
        for metric in suite.metrics:  # inside, as they share what is computed of an answer
            assert metric.score
            values = [metric.score(question, answer) for answer in answers[question.id]]
            known = [value for value in values if value is not None]
            if known:
                scores[metric.key][i] = np.mean(known)
    return scores
