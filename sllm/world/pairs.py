"""Preference pairs about the small world: the right answer, and one in which exactly one thing is broken."""

import random
import re
from collections.abc import Callable
from typing import Any

from sllm import tasks
from sllm.world.check import check
from sllm.world.kinds import KNOWN
from sllm.world.korean import replaced
from sllm.world.rows import TRAINED, Style, row
from sllm.world.scenes import Fact, other_value

Draw = random.Random
BREAKS = ("rule", "style", "fact", "number")  # a rule of the task; bullets or sentences; a word; a number


def pair(draw: Draw, task: str, style: Style = TRAINED) -> dict[str, Any]:
    """A row with `chosen`, `rejected` and `broken`, one of `BREAKS`: what is wrong with the rejected answer. Nothing
    else is: an untrue answer keeps the rules of its task, and one that breaks a rule is true."""
    while True:
        task_row = row(draw, task, style)
        chosen = task_row["assistant_content"]
        for kind in draw.sample(BREAKS, len(BREAKS)):
            rejected = _BREAK[kind](draw, task_row, chosen)
            if rejected and rejected != chosen and _is_broken(task_row, rejected, kind):
                return task_row | {"chosen": chosen, "rejected": rejected, "broken": kind}


def _is_broken(task_row: dict[str, Any], rejected: str, kind: str) -> bool:
    rules = not tasks.check(task_row["task"], task_row["user_content"], rejected)
    return (
        (not rules and bool(check(task_row, rejected)))
        if kind in ("rule", "style")
        else rules and not check(task_row, rejected)
    )


def _break_rule(draw: Draw, task_row: dict[str, Any], answer: str) -> str:
    first, _, _ = answer.partition("\n")
    ways = [
        answer.replace("근거:\n", ""),
        f"```\n{answer}\n```",
        f"{answer}\n###Answer###:",
        answer.rstrip(".다"),
        first,
    ]
    ways += [answer.replace("설명: ", ""), f"{answer}라는 제목입니다. 글의 내용을 대표하는 이름이기 때문입니다."]
    return draw.choice(ways)


def _break_style(draw: Draw, task_row: dict[str, Any], answer: str) -> str:
    """Bullets for sentences, or sentences for bullets; in an explanation if there is one."""
    head, mark, body = answer.rpartition("근거:\n")
    if "- " in body:
        lines = [re.sub(r"^\s*- ", "", line).rstrip(".") for line in body.splitlines()]
        return head + mark + ". ".join(lines) + "."
    return head + mark + "\n".join(f"- {sentence}" for sentence in re.split(r"(?<=[.?!]) ", body))


def _break_value(draw: Draw, task_row: dict[str, Any], answer: str, *, numbers: bool) -> str:
    facts = [Fact(*task_row["facts"][i]) for i in task_row["expects"]["facts"]]
    stated_facts = [fact for fact in facts if fact.value in answer and bool(re.search(r"\d", fact.value)) == numbers]
    if not stated_facts:
        return ""
    fact = draw.choice(stated_facts)
    labelled = re.match(r"([a-e])\) ", answer)
    if labelled:  # another of the choices, with its letter
        choices = re.findall(r"([a-e]\) .+?)(?= [a-e]\) |\n)", task_row["user_content"].partition("보기:")[2])
        wrong = draw.choice([choice for choice in choices if choice[3:] != fact.value])
        return replaced(answer.replace(f"{labelled[0]}{fact.value}", wrong), fact.value, wrong[3:])
    return replaced(answer, fact.value, other_value(draw, fact))


def _break_word(draw: Draw, task_row: dict[str, Any], answer: str) -> str:
    if not task_row["expects"]["words"]:
        return _break_value(draw, task_row, answer, numbers=False)
    (noun,) = task_row["expects"]["words"]
    return replaced(answer, noun, draw.choice([other for other, _ in KNOWN.values() if other != noun]))


_BREAK: dict[str, Callable[[Draw, dict[str, Any], str], str]] = {
    "rule": _break_rule,
    "style": _break_style,
    "fact": _break_word,
    "number": lambda draw, task_row, answer: _break_value(draw, task_row, answer, numbers=True),
}
