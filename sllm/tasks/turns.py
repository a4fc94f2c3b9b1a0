"""All task types by their ids, and a request as the turns that a model is asked with.

The labelled user turn (`###Context###:` … `###Answer###:`) is the original's; the plain one is that of earlier rows. So
rows written for either train here unchanged.
"""

import re

from sllm.tasks.earlier import EARLIER
from sllm.tasks.table import CHOICE_LABELS, FIELDS, ORIGINAL, Task

TASKS: dict[str, Task] = ORIGINAL | EARLIER
Fields = dict[str, str | list[str]]

_CHOICES = re.compile(r"(?:\A|\n)[ \t]*보기[ \t]*:")
_COMMA = re.compile(r",\s+")
# How the earlier rows' instructions end: each is a request, which neither a text nor a question usually is.
_REQUEST = re.compile(r"(?:시오|세요|해라|하라|달라|줘|봐|바랍니다|드립니다|할 것)[.!~]*$")


class WrongFields(ValueError):
    """The fields given for a task are not its own; `field` is the first that is wrong."""

    def __init__(self, message: str, field: str):
        super().__init__(message)
        self.field = field


def get(task_id: str) -> Task:
    """The task of this id; ValueError naming the known ids otherwise."""
    if task_id not in TASKS:
        raise ValueError(f"unknown task id {task_id!r}; known: {', '.join(TASKS)}")
    return TASKS[task_id]


def similar_task_ids(label: str) -> list[str]:
    """The task ids that a label almost is (other case, separators or zeros: `task1_01`, `Task08_02`, `KOSITP-3`; a
    family whose forms have ids of their own: `task01`); empty where it is a label of another kind."""
    match = re.fullmatch(r"\W*(task|kositp)[\W_]*0*(\d+)(?:[\W_]+0*(\d+))?\W*", label, re.IGNORECASE)
    if label in TASKS or not match:
        return []
    family = f"{match[1].lower()}{match[2]:0>2}"
    exact = f"{family}_{match[3]:0>2}" if match[3] else family
    if exact in TASKS:
        return [exact]
    return [known for known in TASKS if known.partition("_")[0] == family]


def build_messages(task_id: str, fields: Fields) -> list[dict[str, str]]:
    """The messages of a request, as a trained model is asked: system and user, or user alone (`Task.labelled`)."""
    task, user = get(task_id), {"role": "user", "content": build_user_turn(task_id, fields)}
    return [{"role": "system", "content": task.system_prompt}, user] if task.labelled else [user]


def build_user_turn(task_id: str, fields: Fields) -> str:
    """The user turn of a request.

    Args:
        fields: the task's own fields; `choices` is a list of 2–5 strings, all else is text. `question`
            may replace the default instruction of a task that has one.
    Raises:
        WrongFields: naming every missing, unknown, empty or misshapen field at once.
    """
    task = get(task_id)
    problems = {name: f"unknown field {name!r}" for name in fields if name not in {*task.fields, "question"}}
    for name in task.fields:
        value = fields.get(name)
        if name == "choices" and value:
            if not isinstance(value, list) or not 2 <= len(value) <= 5 or not all(str(v).strip() for v in value):
                problems[name] = "choices must be a list of 2 to 5 non-empty texts"
        elif not value or not str(value).strip():
            problems[name] = f"missing field {name!r} ({FIELDS[name].description})"
    if problems:
        message = f"{task_id} requires {', '.join(task.fields)}: {'; '.join(problems.values())}"
        raise WrongFields(message, next(iter(problems)))
    question = str(fields.get("question") or task.question).strip()
    source = str(fields[task.source]).strip() if task.source else ""
    choices = [text.strip() for text in fields.get("choices", [])]
    return _labelled(question, source, choices) if task.labelled else _plain(task, question, source, choices)


def split_user_turn(task_id: str, user_content: str) -> Fields:
    """The fields of a user turn: the inverse of `build_user_turn`; absent sections are left out. Where sections have no
    labels, the instruction of a row is told from its text by how it ends."""
    task = get(task_id)
    return _split_labelled(task, user_content) if task.labelled else _split_plain(task, user_content)


def _labelled(question: str, source: str, choices: list[str]) -> str:
    if choices:
        question += "\n보기:" + " ".join(
            f"{label}) {text}" for label, text in zip(CHOICE_LABELS, choices, strict=False)
        )
    turn = f"###Question###:\n{question}\n\n###Answer###:"
    return f"###Context###:\n{source}\n\n{turn}" if source else turn


def _split_labelled(task: Task, user_content: str) -> Fields:
    body = user_content.rstrip().removesuffix("###Answer###:").rstrip()
    head, separator, question = body.rpartition("###Question###:")
    fields: Fields = {}
    context = (head if separator else body).strip().removeprefix("###Context###:").strip()
    if task.source and context:
        fields[task.source] = context
    question = question.strip() if separator else ""
    if "choices" in task.fields:
        question, _, listed = question.partition("보기:")
        parts = re.split(r"(?:^|\s)([a-e])\)\s*", listed.strip())
        fields["choices"] = [text.strip() for text in parts[2::2]]
    if question.strip():
        fields["question"] = question.strip()
    return fields


def _plain(task: Task, question: str, source: str, choices: list[str]) -> str:
    """Instruction, text, question and choices, an empty line between them."""
    question = re.sub(r"\n\s*\n", "\n", question)
    parts = [task.system_prompt, source, question] if "question" in task.fields else [question, source]
    if choices:
        choices = [" ".join(text.split()) for text in choices]
        has_comma = any("," in text for text in choices)
        parts.append("보기 :\n" + "\n".join(choices) if has_comma else f"보기 : {', '.join(choices)},")
    return "\n\n".join(part for part in parts if part)


def _split_plain(task: Task, user_content: str) -> Fields:
    """The earlier rows vary: the instruction stands before the text or behind it, the question at the end. Questions
    without a text have their instruction on the next line, or none."""
    fields: Fields = {}
    text = user_content.strip()
    if "choices" in task.fields and (listed := [*_CHOICES.finditer(text)]):
        lines = [line.strip() for line in text[listed[-1].end() :].splitlines() if line.strip()]
        comma_list = " ".join(lines).rstrip(", ")
        fields["choices"] = lines if len(lines) > 1 else [part.strip() for part in _COMMA.split(comma_list) if part]
        text = text[: listed[-1].start()].strip()
    asks = "question" in task.fields
    separator = "\n\n" if task.source or "\n\n" in text else "\n"
    parts = text.split(separator)
    if asks and task.source and len(parts) > 1:
        fields["question"] = parts.pop().strip()
    instruction, parts = _without_instruction(task, parts)
    if instruction and not asks:
        fields["question"] = instruction
    if rest := separator.join(parts).strip():
        fields[task.source or "question"] = rest
    return fields


def _without_instruction(task: Task, parts: list[str]) -> tuple[str, list[str]]:
    """The instruction, "" if none is found, and the other paragraphs."""
    first, last = parts[0].strip(), parts[-1].strip()
    if len(parts) == 1:
        return "", parts
    requests = [part for part in (first, last) if _REQUEST.search(part)]
    if first == task.system_prompt or (requests and min(requests, key=len) == first):
        return first, parts[1:]
    return (last, parts[:-1]) if requests else ("", parts)
