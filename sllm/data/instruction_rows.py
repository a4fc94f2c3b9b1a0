"""Records with an instruction or a question and its answer → drafts of rows. Standard library only."""

from collections.abc import Iterator
from typing import Any

from sllm import tasks
from sllm.data.drafts import (
    Draft,
    Record,
    Refused,
    Turn,
    columns,
    filled_value,
    question_and_answer,
    single,
    text_of,
    turns,
    unused,
)
from sllm.data.json_reader import kind_of
from sllm.data.wordings import SUMMARY, draw

CHOICE_KEYS = ("choices", "options", "보기", "선택지")
LETTERS = "ABCDE"


def system_user_assistant(record: Record) -> list[Draft]:
    question, answer = turns(record.get("user_content"), "user"), turns(record.get("assistant_content"), "assistant")
    return single(question + answer)


def alpaca(record: Record) -> list[Draft]:
    parts = [record.get("instruction"), record.get("input")]
    parts += [record.get("context")] if record.get("context") not in parts else []
    question = _joined(parts, "instruction, input and context are")
    answer = filled_value(record, "output", "response")
    messages = _history(record.get("history"))
    messages += [*turns(question, "user"), *turns(answer, "assistant")]
    return single(messages, context=record.get("context"))


def _joined(parts: list[Any], which: str) -> str:
    if any(not isinstance(part, str) for part in parts if part is not None):
        raise ValueError(f"content is not text: {which}")
    return "\n\n".join(part for part in parts if part and part.strip())


def _history(value: object) -> list[Turn]:
    """Earlier rounds, [[question, answer], …], or messages."""
    if not value:
        return []
    if not isinstance(value, list):
        raise ValueError(f"history is not a list of questions and answers: {kind_of(value)}")
    if all(isinstance(item, dict) for item in value):
        return turns(value, "user")
    earlier = []
    for item in value:
        if not isinstance(item, list | tuple) or len(item) != 2:
            raise ValueError("history is not a list of questions and answers: each of its items is a pair of texts")
        earlier += [{"role": "user", "content": item[0]}, {"role": "assistant", "content": item[1]}]
    return earlier


def self_instruct(record: Record) -> Iterator[Draft | Refused]:
    """KULLM's rows: one instruction with several inputs and outputs."""
    if not isinstance(record["instances"], list):
        raise ValueError(f"instances is not a list: {kind_of(record['instances'])}")
    for number, instance in enumerate(record["instances"], 1):
        if not isinstance(instance, dict):
            yield Refused(f"instance without input and output: instance {number} is {kind_of(instance)}")
            continue
        try:
            question = _joined([record.get("instruction"), instance.get("input")], "instruction and input are")
        except ValueError as error:
            yield Refused(str(error))
            continue
        messages = [*turns(question, "user"), *turns(instance.get("output"), "assistant")]
        yield Draft({"messages": messages}, ignored=unused("instance", instance, ("input", "output")))


def input_output(record: Record) -> list[Draft]:
    """The earlier 22-task rows; a task that is not one of them is kept as a label."""
    name = filled_value(record, "Task_name", "task_name", "task")
    task = (tasks.task_id_of(name) or name) if isinstance(name, str) else name
    answer = turns(record.get("output"), "assistant")
    return single(turns(record.get("input"), "user") + answer, task=task)


def question_answer(record: Record) -> list[Draft]:
    """Columns of questions and answers under any of their usual names. With a context: see `about_context`."""
    found = columns(tuple(record), "answer", "question", "context")
    question, answer = text_of(record, found["question"]), record.get(found["answer"])
    if "context" in found and not blank_value(context := record.get(found["context"])):
        return [about_context(text_of({"context": context}, "context"), question, answer)]
    return [question_and_answer(question, answer)]


def about_context(context: str, question: str, answer: Any) -> Draft:
    """A question about a text in the labelled form of the tasks' user turns; no task's label, since the answer may have
    any form."""
    if not (context.strip() and question.strip()):
        return question_and_answer(question, answer, context=context)
    asked = tasks.build_user_turn("task08_02", {"context": context, "question": question})
    return question_and_answer(asked, answer, context=context)


def blank_value(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def summary(record: Record) -> list[Draft]:
    found = columns(tuple(record), "summary", "context")
    text, short = text_of(record, found["context"]), text_of(record, found["summary"])
    question = f"{draw(SUMMARY, text)}\n\n{text}"
    return [question_and_answer(question, short, task="summarization", context=text)]


def multiple_choice(record: Record) -> list[Draft]:
    """A question with choices, as a list or in the columns A, B, C …. The answer is a letter, a choice's text, or its
    number: from 1 on beside lettered columns (KMMLU), from 0 on beside a list (ARC, MMLU)."""
    found = columns(tuple(record), "question", "answer")
    question = text_of(record, found["question"])
    listed = filled_value(record, *CHOICE_KEYS)
    lettered = [record[letter] for letter in LETTERS if record.get(letter) is not None]
    choices = listed if isinstance(listed, list) else lettered
    if isinstance(listed, dict) and isinstance(listed.get("text"), list):
        choices = listed["text"]
    if len(choices) < 2 or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise ValueError("no choices: a question has two or more texts to choose from")
    number = _chosen(record.get(found["answer"]), choices, first=0 if choices is not lettered else 1)
    lines = "\n".join(f"{LETTERS[n] if n < 5 else n + 1}. {choice.strip()}" for n, choice in enumerate(choices))
    answer = lines.split("\n")[number] if number is not None else None
    context = record.get("context") if isinstance(record.get("context"), str) else None
    parts = [context, question, lines] if context else [question, lines]
    return [question_and_answer("\n\n".join(parts), answer, task="multiple_choice", context=context)]


def _chosen(answer: object, choices: list[str], *, first: int) -> int | None:
    """The position of the chosen one; None without an answer."""
    if blank_value(answer):
        return None
    text = str(answer).strip()
    if text in choices:
        return choices.index(text)
    if text.upper() in LETTERS[: len(choices)] and len(text) == 1:
        return LETTERS.index(text.upper())
    if text.isdecimal() and 0 <= int(text) - first < len(choices):
        return int(text) - first
    raise ValueError(f"the answer is none of the choices: {text[:40]!r}")
