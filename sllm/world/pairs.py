"""Preference pairs about the small world: the right answer, and one in which exactly one thing is broken."""

import random
import re
from collections.abc import Callable
from typing import Any

from sllm import tasks
from sllm.world.check import check
from sllm.world.kinds import KNOWN
from sllm.world.korean import Word, replaced
from sllm.world.rows import TRAINED, Style, row
from sllm.world.scenes import Fact, other_value

Draw = random.Random
_LABELLED = re.compile(r"[a-e]\) ")
BREAKS = (
    "rule",  # a rule of the task
    "style",  # bullets for sentences, or sentences for bullets
    "fact",  # a word
    "number",
    "letter",  # that of another choice: untrue, and against a rule
)


def pair(draw: Draw, task: str, style: Style = TRAINED) -> dict[str, Any]:
    """A row with `chosen`, `rejected` and `broken`, one of `BREAKS`: what is wrong with the rejected answer. Nothing
    else is: an untrue answer keeps the rules of its task, and one that breaks a rule is true; a wrong letter does
    neither."""
    while True:
        task_row = row(draw, task, style)
        chosen = task_row["assistant_content"]
        kinds = draw.sample(BREAKS, len(BREAKS))
        if draw.random() < 0.5:  # rules are what most pairs are about
            kinds = ["letter", "rule", *kinds]
        for kind in kinds:
            rejected = _BREAK[kind](draw, task_row, chosen)
            if rejected and rejected != chosen and _is_broken(task_row, rejected, kind):
                return task_row | {"chosen": chosen, "rejected": rejected, "broken": kind}


def _is_broken(task_row: dict[str, Any], rejected: str, kind: str) -> bool:
    rules = not tasks.check(task_row["task"], task_row["user_content"], rejected)
    true = bool(check(task_row, rejected))
    expected = {"rule": (False, True), "style": (False, True), "letter": (False, False)}
    return (rules, true) == expected.get(kind, (True, False))


def _break_rule(draw: Draw, task_row: dict[str, Any], answer: str) -> str:
    """For titles, articles and keywords mostly the mistake that only they can have."""
    first, _, _ = answer.partition("\n")
    ways = [answer.replace("근거:\n", ""), f"```\n{answer}\n```", f"{answer}\n###Answer###:", answer.rstrip(".다")]
    ways += [answer.replace("설명: ", "")]
    own = []
    if task_row["task"].startswith("task10"):  # too short
        own = [re.split(r"(?<=[.]) ", first)[0]]
    elif task_row["task"] == "task02":  # more than a title
        own = [f"{Word(answer):이라/라}는 제목입니다. 글의 내용을 대표하는 이름이기 때문입니다."]
    elif "Keyword 2: " in answer:  # the same keyword twice
        keyword = first.removeprefix("Keyword 1: ")
        own = [re.sub(r"(?<=Keyword 2: ).*", keyword, answer)]
    return draw.choice(own if own and draw.random() < 0.7 else [first, *ways])


def _break_letter(draw: Draw, task_row: dict[str, Any], answer: str) -> str:
    """The letter of another choice in front of the right one."""
    labelled = _LABELLED.match(answer)
    letters = [choice[:3] for choice in _choices(task_row) if not answer.startswith(choice[:3])]
    return f"{draw.choice(letters)}{answer[labelled.end() :]}" if labelled else ""


def _choices(task_row: dict[str, Any]) -> list[str]:
    """The choices of a question, each with its letter."""
    return re.findall(r"([a-e]\) .+?)(?= [a-e]\) |\n)", task_row["user_content"].partition("보기:")[2])


def _break_style(draw: Draw, task_row: dict[str, Any], answer: str) -> str:
    """Bullets for sentences, or sentences for bullets; in an explanation if there is one."""
    head, mark, body = answer.rpartition("근거:\n")
    if "- " in body:
        sentences = [line for line in body.splitlines() if line.endswith(".")]
        return head + mark + " ".join(re.sub(r"^\s*- ", "", line) for line in sentences)
    return head + mark + "\n".join(f"- {sentence}" for sentence in re.split(r"(?<=[.?!]) ", body))


def _break_value(draw: Draw, task_row: dict[str, Any], answer: str, *, numbers: bool) -> str:
    facts = [Fact(*task_row["facts"][i]) for i in task_row["expects"]["facts"]]
    stated_facts = [fact for fact in facts if fact.value in answer and bool(re.search(r"\d", fact.value)) == numbers]
    if not stated_facts:
        return ""
    fact = draw.choice(stated_facts)
    labelled = _LABELLED.match(answer)
    if labelled:  # another of the choices, with its letter
        wrong = draw.choice([choice for choice in _choices(task_row) if choice[3:] != fact.value])
        return replaced(answer.replace(f"{labelled[0]}{fact.value}", wrong), fact.value, wrong[3:])
    return replaced(answer, fact.value, other_value(draw, fact))


def _break_word(draw: Draw, task_row: dict[str, Any], answer: str) -> str:
    if not task_row["expects"]["words"]:
        return _break_value(draw, task_row, answer, numbers=False)
    (noun,) = task_row["expects"]["words"]
    first, end, rest = answer.partition("다.")
    return replaced(first, noun, draw.choice([other for other, _ in KNOWN.values() if other != noun])) + end + rest


_BREAK: dict[str, Callable[[Draw, dict[str, Any], str], str]] = {
    "rule": _break_rule,
    "style": _break_style,
    "fact": _break_word,
    "letter": _break_letter,
    "number": lambda draw, task_row, answer: _break_value(draw, task_row, answer, numbers=True),
}
