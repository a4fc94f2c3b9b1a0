"""Labelled Korean test sets as their authors publish them, as questions with the texts that may follow: natural
language inference, pairs of sentences, sentiment, hate speech, topics, causes, multiple choice.

The wording of KoBEST's tasks is that of EleutherAI's lm-evaluation-harness; the labels of the others are worded here.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sllm.chat import nfc
from sllm.cli import InputError, shorten


@dataclass(frozen=True)
class Item:
    """A context and the texts that may follow it after a space; `label`: the index of the right one."""

    id: str
    context: str
    choices: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Format:
    """A published test set. `columns`: that its rows have, by which it is known. `read`: context, choices and label of
    a row; ValueError or KeyError for one that is none."""

    name: str
    columns: tuple[str, ...]
    read: Callable[[dict[str, Any]], tuple[str, Sequence[str], int]]


NLI = {"entailment": 0, "neutral": 1, "contradiction": 2}
TOPICS = ("IT과학", "경제", "사회", "생활문화", "세계", "스포츠", "정치")  # of KLUE-YNAT, in the order of its numbers
HATE = ("none", "offensive", "hate")
LABELS = (
    "gold_label",
    "label",
    "labels",
    "is_duplicate",
    "hate",
    "choices",
    "answer",
    "Answer",
    "ANSWER",
    "Label",
)  # columns


def _index(value: Any, labels: Sequence[Any] = ()) -> int:
    """A label as a number: one of `labels`, or a number already."""
    if value in labels:
        return list(labels).index(value)
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"unknown label {value}")
    return int(value)


def _truth(value: Any) -> int:
    """True and False, however they are written."""
    return {"true": 1, "false": 0}[str(value).strip().lower()]


def _second(value: Any) -> int:
    """0 for the first and 1 for the second, counted from 1."""
    return int(value) - 1


def _nli(premise: str, hypothesis: str, label: Any) -> tuple[str, Sequence[str], int]:
    context = f"문장: {premise}\n질문: 이 문장에 따르면 ‘{hypothesis}’는 참인가요, 거짓인가요, 알 수 없나요?\n답:"
    return context, ("참", "알 수 없음", "거짓"), _index(label, tuple(NLI))


def _pair(first: str, second: str, same: int) -> tuple[str, Sequence[str], int]:
    return f"문장1: {first}\n문장2: {second}\n질문: 두 문장은 뜻이 같나요?\n답:", ("아니오", "예"), same


def _cause(premise: str, asked: str, choices: Sequence[str], label: int) -> tuple[str, Sequence[str], int]:
    link = {"원인": " 왜냐하면", "결과": " 그래서"}[asked.strip()]
    return premise.strip().removesuffix(".") + link, choices, label


def _same_meaning(word: str, first: str, second: str, label: int) -> tuple[str, Sequence[str], int]:
    return f"문장1: {first} 문장2: {second} 두 문장에서 {word}가 같은 뜻으로 쓰였나?", ("아니오", "예"), label


def _choice(row: dict[str, Any]) -> tuple[str, Sequence[str], int]:
    choices = row["choices"]
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise ValueError("choices is not a list of texts")
    paragraph = f"{row['paragraph'].strip()}\n" if (row.get("paragraph") or "").strip() else ""
    return f"{paragraph}질문: {row['question'].strip()}\n답:", choices, _index(row["answer"], choices)


FORMATS = (
    Format("KorNLI", ("sentence1", "sentence2", "gold_label"),
           lambda row: _nli(row["sentence1"], row["sentence2"], row["gold_label"])),
    Format("KLUE-NLI", ("premise", "hypothesis", "gold_label"),
           lambda row: _nli(row["premise"], row["hypothesis"], row["gold_label"])),
    Format("KLUE-NLI", ("premise", "hypothesis", "label"),
           lambda row: _nli(row["premise"], row["hypothesis"], row["label"])),
    Format("question pairs", ("question1", "question2", "is_duplicate"),  # its authors: 0 the same, 1 different
           lambda row: _pair(row["question1"], row["question2"], 1 - _index(row["is_duplicate"]))),
    Format("question pairs", ("question1", "question2", "label"),
           lambda row: _pair(row["question1"], row["question2"], 1 - _index(row["label"]))),
    Format("KLUE-STS", ("sentence1", "sentence2", "labels"),
           lambda row: _pair(row["sentence1"], row["sentence2"], _index(row["labels"]["binary-label"]))),
    Format("PAWS-X", ("sentence1", "sentence2", "label"),
           lambda row: _pair(row["sentence1"], row["sentence2"], _index(row["label"]))),
    Format("NSMC", ("document", "label"), lambda row: (
        f"영화평: {row['document']}\n질문: 이 영화평은 긍정적인가요, 부정적인가요?\n답:",
        ("부정", "긍정"), _index(row["label"]))),
    Format("BEEP!", ("comments", "hate"), lambda row: (
        f"댓글: {row['comments']}\n질문: 이 댓글은 혐오 표현인가요, 공격적인가요, 문제가 없나요?\n답:",
        ("문제 없음", "공격적", "혐오"), _index(row["hate"], HATE))),
    Format("KLUE-YNAT", ("title", "label"), lambda row: (
        f"기사 제목: {row['title']}\n질문: 이 기사의 분야는 무엇인가요?\n답:", TOPICS, _index(row["label"], TOPICS))),
    Format("KoBEST COPA", ("premise", "question", "alternative_1", "alternative_2", "label"), lambda row: _cause(
        row["premise"], row["question"], (row["alternative_1"], row["alternative_2"]), _index(row["label"]))),
    Format("KoBEST COPA", ("sentence", "question", "1", "2", "Answer"), lambda row: _cause(
        row["sentence"], row["question"], (row["1"], row["2"]), _second(row["Answer"]))),
    Format("KoBEST WiC", ("word", "context_1", "context_2", "label"), lambda row: _same_meaning(
        row["word"], row["context_1"], row["context_2"], _index(row["label"]))),
    Format("KoBEST WiC", ("Target", "SENTENCE1", "SENTENCE2", "ANSWER"), lambda row: _same_meaning(
        row["Target"], row["SENTENCE1"], row["SENTENCE2"], _truth(row["ANSWER"]))),
    Format("KoBEST HellaSwag", ("context", "ending_1", "ending_2", "ending_3", "ending_4", "label"), lambda row: (
        f"문장: {row['context']}", [row[f"ending_{i}"] for i in range(1, 5)], _index(row["label"]))),
    Format("KoBEST BoolQ", ("paragraph", "question", "label"), lambda row: (
        f"{row['paragraph']} 질문: {row['question']} 답변:", ("아니오", "예"), _index(row["label"]))),
    Format("KoBEST BoolQ", ("Text", "Question", "Answer"), lambda row: (
        f"{row['Text']} 질문: {row['Question']} 답변:", ("아니오", "예"), _truth(row["Answer"]))),
    Format("KoBEST SentiNeg", ("Text", "Label"), lambda row: (
        f"문장: {row['Text']} 긍부정:", ("부정", "긍정"), _index(row["Label"]))),
    Format("KoBEST SentiNeg", ("sentence", "label"), lambda row: (
        f"문장: {row['sentence']} 긍부정:", ("부정", "긍정"), _index(row["label"]))),
    Format("multiple choice (CLIcK)", ("question", "choices", "answer"), _choice),
)  # fmt: skip


def load(path: str | Path) -> tuple[str, list[Item], int]:
    """(name of the format, items, rows left out) of a .tsv, .csv, .json or .jsonl file, in its order. Published files
    have rows without a text, or with the label "-" where annotators did not agree; these are left out.

    Raises:
        InputError: not readable, none of the formats, or rows that are none, with their numbers.
    """
    rows = _rows(Path(path))
    format = next((f for f in FORMATS if all(column in rows[0] for column in f.columns)), None)
    if format is None:
        known = "; ".join(f"{f.name}: {', '.join(f.columns)}" for f in FORMATS)
        raise InputError(f"{path}: no test set that is known; its columns are {', '.join(rows[0])}. Known: {known}")
    texts = [column for column in format.columns if column not in LABELS]
    items, problems, left_out = [], [], 0
    for number, row in enumerate(rows, 1):
        if any(_is_empty(row.get(column)) for column in texts) or row.get(format.columns[-1]) == "-":
            left_out += 1
            continue
        try:
            if wrong := [column for column in texts if not isinstance(row[column], str)]:
                raise ValueError(f"{wrong[0]} is not a text")
            context, choices, label = format.read(row)
            if not 0 <= label < len(choices) or len(choices) < 2:
                raise ValueError(f"label {label} of {len(choices)} choices")
            if not all(isinstance(text, str) and text.strip() for text in (context, *choices)):
                raise ValueError("an empty text")
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            problems.append(f"{path}: row {number}: not a row of {format.name} ({_reason(error)})")
            continue
        items.append(Item(str(number), nfc(context.rstrip()), tuple(nfc(choice.strip()) for choice in choices), label))
    if problems:
        raise InputError(shorten(problems))
    if not items:
        raise InputError(f"{path}: no row has a text and a label")
    return format.name, items, left_out


def _is_empty(text: Any) -> bool:
    return text is None or (isinstance(text, str) and not text.strip())


def _reason(error: Exception) -> str:
    return f"{error} is missing, or no label" if isinstance(error, KeyError) else str(error)


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    try:
        if path.suffix in (".json", ".jsonl"):
            rows = (
                json.loads(text)
                if text.lstrip().startswith("[")
                else [json.loads(x) for x in text.split("\n") if x.strip()]
            )
        elif path.suffix == ".csv":
            import csv
            import io

            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        else:
            header, *cells = [line.rstrip("\r").split("\t") for line in text.split("\n") if line.strip()]
            rows = [dict(zip(header, map(_unquoted, row), strict=True)) for row in cells]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: neither tab-separated, CSV nor JSON ({error})") from None
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: no rows")
    return rows


def _unquoted(field: str) -> str:
    """Some of these files quote a field that has quotes in it, others leave quotes as they are."""
    inner = field[1:-1]
    quoted = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else field
