"""Sentence pairs and texts with labels → instruction rows whose answers are Korean words. Standard library only.

A number says nothing by itself: only those of datasets that are known by their columns are worded (NSMC, PAWS-X, XNLI,
KLUE, kor_hate); any other is refused.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from sllm.data import wordings
from sllm.data.drafts import Draft, Record, Refused, columns, question_and_answer, text_of
from sllm.data.wordings import draw

_NLI = {
    "entailment": "함의", "neutral": "중립", "contradiction": "모순", "함의": "함의", "중립": "중립", "모순": "모순",
}  # fmt: skip
_NUMBERED_NLI = {**_NLI, "0": "함의", "1": "중립", "2": "모순"}  # XNLI's, SNLI's and KLUE's
_SAME = {"1": "같음", "0": "다름", "true": "같음", "false": "다름", "같음": "같음", "다름": "다름"}
_SAME_IS_0 = {**_SAME, "0": "같음", "1": "다름"}
_SENTIMENT = {
    "0": "부정", "1": "긍정", "negative": "부정", "positive": "긍정", "neg": "부정", "pos": "긍정", "부정": "부정",
    "긍정": "긍정",
}  # fmt: skip
_TOPICS = ("IT과학", "경제", "사회", "생활문화", "세계", "스포츠", "정치")  # KLUE's order
_HATE = {"hate": "혐오 표현", "offensive": "공격적 표현", "none": "문제 없음"}
_BIAS = {"gender": "성별 편견", "others": "기타 편견", "none": "편견 없음"}
_YES = {"true": "있음", "false": "없음", "1": "있음", "0": "없음"}
# kor_hate as it is on the Hub: the order of its class labels.
_NUMBERED_HATE = {**_HATE, "0": _HATE["hate"], "1": _HATE["offensive"], "2": _HATE["none"]}
_NUMBERED_BIAS = {**_BIAS, "0": _BIAS["none"], "1": _BIAS["gender"], "2": _BIAS["others"]}


def _worded(value: object, words: dict[str, str], key: str) -> str:
    """The word for a label; ValueError for one that has none. Unlabelled pairs of SNLI and MNLI have "-" or -1."""
    text = str(value).strip()
    if isinstance(value, float) and value.is_integer():
        text = str(int(value))
    if isinstance(value, str | int | float) and (word := words.get(text.lower())):
        return word
    if text in ("", "-", "-1", "None"):
        raise ValueError(f"no label: {key} is {text or 'empty'}")
    raise ValueError(f"unknown label: {text[:40]!r} in {key}; write the label in words: {', '.join({*words.values()})}")


def nli(record: Record) -> list[Draft]:
    found = columns(tuple(record), "premise", "hypothesis", "label")
    premise, hypothesis = text_of(record, found["premise"]), text_of(record, found["hypothesis"])
    words = _NUMBERED_NLI if found["premise"] == "premise" else _NLI  # other sentence pairs have other numbers
    answer = _worded(record.get(found["label"]), words, found["label"])
    question = f"{draw(wordings.NLI, premise + hypothesis)}\n\n전제: {premise}\n가설: {hypothesis}"
    return [question_and_answer(question, answer, task="nli", context=premise)]


def same_meaning(record: Record) -> list[Draft]:
    """PAWS-X and MRPC: 1 is a paraphrase."""
    found = columns(tuple(record), "premise", "hypothesis", "label")
    pair = text_of(record, found["premise"]), text_of(record, found["hypothesis"])
    answer = _worded(record.get(found["label"]), _SAME, found["label"])
    return [_about_pair(wordings.SAME_MEANING, pair, answer, "paraphrase_identification")]


def question_pairs(record: Record) -> list[Draft]:
    """Quora's: 1 is a duplicate."""
    return _question_pair(record, _SAME)


def question_pairs_0_same(record: Record) -> list[Draft]:
    """The Korean question pairs (songys/Question_pair), whose `is_duplicate` is 0 for the same question."""
    return _question_pair(record, _SAME_IS_0)


def _question_pair(record: Record, words: dict[str, str]) -> list[Draft]:
    pair = text_of(record, "question1"), text_of(record, "question2")
    answer = _worded(record.get("is_duplicate"), words, "is_duplicate")
    return [_about_pair(wordings.SAME_QUESTION, pair, answer, "question_pairs", name="질문")]


def zero_is_same(records: Sequence[Record]) -> bool | None:
    """Do the questions of `is_duplicate` 0 resemble each other more than those of 1? None if that is unclear."""
    shares: dict[str, list[float]] = {"0": [], "1": []}
    for record in records:
        first, second = ({*pairwise(str(record.get(key)))} for key in ("question1", "question2"))
        label = str(record.get("is_duplicate")).strip()
        if label in shares and first | second:
            shares[label].append(len(first & second) / len(first | second))
    if not shares["0"] or not shares["1"]:
        return None
    zero, one = (sum(values) / len(values) for values in (shares["0"], shares["1"]))
    return None if abs(zero - one) < 0.05 else zero > one


def similarity(record: Record) -> list[Draft]:
    """KorSTS's and KLUE's scores from 0 to 5."""
    found = columns(tuple(record), "premise", "hypothesis")
    pair = text_of(record, found["premise"]), text_of(record, found["hypothesis"])
    score: Any = record.get("score")
    if score is None and isinstance(record.get("labels"), dict):
        score = record["labels"].get("real-label", record["labels"].get("label"))
    try:
        number = float(score) if not isinstance(score, bool) else -1.0
    except (TypeError, ValueError):
        raise ValueError(f"unknown label: {str(score)[:40]!r} is no score from 0 to 5") from None
    if not 0 <= number <= 5:
        raise ValueError(f"unknown label: {str(score)[:40]!r} is no score from 0 to 5")
    return [_about_pair(wordings.SIMILARITY, pair, f"{number:.1f}점", "sentence_similarity")]


def _about_pair(
    phrasings: Sequence[str], pair: tuple[str, str], answer: str, task: str, *, name: str = "문장"
) -> Draft:
    first, second = pair
    question = f"{draw(phrasings, first + second)}\n\n{name} 1: {first}\n{name} 2: {second}"
    return question_and_answer(question, answer, task=task, context=first)


def sentiment(record: Record) -> list[Draft]:
    """NSMC: 0 is negative."""
    text = text_of(record, "document")
    return [_about_text(wordings.SENTIMENT, text, _worded(record.get("label"), _SENTIMENT, "label"), "sentiment")]


def topic(record: Record) -> list[Draft]:
    """KLUE's YNAT, also as Dacon has it (`topic_idx`)."""
    text, words = text_of(record, "title"), {name.lower(): name for name in _TOPICS}
    words |= {str(number): name for number, name in enumerate(_TOPICS)}
    key = "label" if "label" in record else "topic_idx"
    answer = _worded(record.get(key), words, key)
    phrasings = [phrasing.format(labels=", ".join(_TOPICS)) for phrasing in wordings.TOPIC]
    return [_about_text(phrasings, text, answer, "topic")]


def hate_speech(record: Record) -> Iterator[Draft | Refused]:
    """BEEP!: a row for each of its labels."""
    text = text_of(record, "comments")
    for key, phrasings, words in (
        ("hate", wordings.HATE, _NUMBERED_HATE),
        ("bias", wordings.BIAS, _NUMBERED_BIAS),
        ("contain_gender_bias", wordings.GENDER_BIAS, _YES),
    ):
        if record.get(key) is not None:
            try:
                yield _about_text(phrasings, text, _worded(record[key], words, key), f"hate_speech_{key}")
            except ValueError as error:
                yield Refused(str(error))


def labelled_text(record: Record) -> list[Draft]:
    """Any text whose label is a word."""
    found = columns(tuple(record), "label", "labelled")
    text, label = text_of(record, found["labelled"]), record.get(found["label"])
    if isinstance(label, str) and label.strip() and not label.strip().lstrip("-").replace(".", "").isdecimal():
        return [_about_text(wordings.CATEGORY, text, label, "classification")]
    raise ValueError(f"label is not a word: {str(label)[:40]!r} in {found['label']}; write what it means")


def _about_text(phrasings: Sequence[str], text: str, answer: str, task: str) -> Draft:
    return question_and_answer(f"{draw(phrasings, text)}\n\n{text}", answer, task=task, context=text)
