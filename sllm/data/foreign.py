"""Rows in formats that are not supported: what they are, and the command that converts them.

Each command is one line of Python for this file, with its real columns; run in the repository's root it writes rows
that every script reads. Standard library only.
"""

import json
import shlex
from pathlib import Path
from typing import Any

# Common column names for a question, its context and an answer, the more specific ones first.
_QUESTION = "instruction question prompt query user q 질문 지시 지시문 명령어 문제 문의 input 입력".split()
_CONTEXT = "context passage document 본문 지문 문맥 맥락 input 입력".split()
_ANSWER = (
    "output answer response completion assistant a 답변 응답 대답 출력 답 정답 summary 요약 label gold_label".split()
)
# The better and the worse answer.
_PREFERENCE = (("chosen", "rejected"), ("좋은답변", "나쁜답변"), ("선호", "비선호"))
_METADATA = ("id", "task", "system_prompt", "system")  # columns that keep their names
# Rows with all of these keys are read as they are.
_READ_UNCHANGED = (
    {"instruction", "output"}, {"instruction", "response"}, {"prompt", "completion"}, {"messages"},
    {"user_content", "assistant_content"}, {"prompt", "chosen", "rejected"},
)  # fmt: skip
# A question about a text, with the sections that the tasks' user turns have: rows of one context stay together.
_QA = (
    '{{"id": r["id"], "user_content": "###Context###:\\n" + {context} + "\\n\\n###Question###:\\n" + r["question"] + '
    '"\\n\\n###Answer###:", "assistant_content": {answer}}}'
)
_DUMP = "json.dumps({}, ensure_ascii=False)"


def unknown_rows(path: str | Path, row: dict[str, Any]) -> str | None:
    """What rows of an unknown format are, judged by one of them, and the command that converts them; None if it is
    not recognised."""
    for key, value in row.items():
        turn = first_turn(value)
        if {"from", "value"} <= turn.keys() or {"role", "content"} <= turn.keys():
            return _conversations(path, key, turn)
    if isinstance(row.get("paragraphs"), list):
        loop = 'for a in rows for p in a["paragraphs"] for r in p["qas"] if r["answers"]'
        command = _over_rows(path, _QA.format(context='p["context"]', answer='r["answers"][0]["text"]'), loop)
        return f"this is SQuAD's (KorQuAD's) layout; convert it: {command}"
    if isinstance(row.get("answers"), dict) and {"question", "context"} <= row.keys():
        expression = _QA.format(context='r["context"]', answer='r["answers"]["text"][0]')
        command = _over_rows(path, expression, 'for r in rows if r["answers"]["text"]')
        return f"these are SQuAD's (KorQuAD's) rows; convert them: {command}"
    if {"input", "output"} <= row.keys():
        task = next((key for key in ("Task_name", "task_name", "task") if key in row), None)
        fields = '"prompt": r["input"], "completion": r["output"]' + (f', "task": r["{task}"]' if task else "")
        name = "KOSITP rows" if task == "Task_name" else "rows of input and output"
        return f"these are {name}; convert them: {_over_rows(path, f'{{{fields}}}')}"
    lists = [key for key, value in row.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) > 1:
        command = _over_rows(path, "r", f'for r in rows[0]["{lists[0]}"]')
        return f"these are several lists ({', '.join(lists)}); write each to a file, as this does the first: {command}"
    columns = [key for key, value in row.items() if isinstance(value, str)]
    if len({*columns} - {*_METADATA}) < 2:
        return "text without a question and an answer cannot be learned here" if "text" in columns else None
    fields, left_out, recognised = _mapping(columns)
    return f"convert them{_notes(left_out, recognised)}: {_over_rows(path, fields)}"


def first_turn(value: object) -> dict[str, Any]:
    """The first message of a list of messages; {} of anything else."""
    turn = value[0] if isinstance(value, list) and value else None
    return turn if isinstance(turn, dict) else {}


def _conversations(path: str | Path, key: str, turn: dict[str, Any]) -> str:
    other_fields = "**r" if key == "messages" else f'**r, "{key}": None'  # null: it is not reported as ignored
    if "role" in turn and "content" in turn:
        command = _over_rows(path, f'{{{other_fields}, "messages": r["{key}"]}}')
        return f"the messages are under {key!r}; rename it: {command}"
    roles = '{"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}'
    turns = f'[{{"role": roles.get(t["from"], t["from"]), "content": t["value"]}} for t in r["{key}"]]'
    command = _over_rows(path, f'{{{other_fields}, "messages": {turns}}}', setup=f"roles = {roles}; ")
    return f"these are ShareGPT rows ({key}: from, value); convert them: {command}"


def _mapping(columns: list[str]) -> tuple[str, list[str], bool]:
    """The converted row as a Python expression over r, the columns that it leaves out, and whether the columns were
    recognised by their names."""
    if any(keys <= set(columns) for keys in _READ_UNCHANGED):
        return "r", [], True
    contents = [c for c in columns if c not in _METADATA]
    metadata: dict[str, str | None] = {c: c for c in columns if c in _METADATA}
    parts, recognised = _preference_parts(contents) or _answer_parts(contents)
    return _fields(metadata | parts), [c for c in contents if c not in parts.values()], recognised


def _preference_parts(columns: list[str]) -> tuple[dict[str, str | None], bool] | None:
    """The column of each key of a preference pair, and whether the prompt was found by name; None without a pair."""
    for names in _PREFERENCE:
        chosen, rejected = (_find_column(columns, [name]) for name in names)
        others = [c for c in columns if c not in (chosen, rejected)]
        if chosen and rejected and others:
            question = _find_column(others, _QUESTION)
            return {"prompt": question or others[0], "chosen": chosen, "rejected": rejected}, bool(question)
    return None


def _answer_parts(columns: list[str]) -> tuple[dict[str, str | None], bool]:
    """The column of each key of a question with its answer, and whether both were found by their names."""
    answer = _find_column(columns, _ANSWER)
    question = _find_column([c for c in columns if c != answer], _QUESTION)
    recognised = bool(answer and question)
    answer = answer or [c for c in columns if c != question][-1]
    others = [c for c in columns if c not in (answer, question)]
    context = _find_column(others, _CONTEXT)
    if not question:  # the first column that is left, and the second one as its context
        question = next((c for c in others if c != context), others[0])
        context = next((c for c in (context, *others) if c not in (None, question)), None)
    return {"instruction": question, "input": context, "output": answer}, recognised


def _fields(parts: dict[str, str | None]) -> str:
    fields = ", ".join(f'"{key}": r[{json.dumps(c, ensure_ascii=False)}]' for key, c in parts.items() if c)
    return f"{{{fields}}}"


def _find_column(columns: list[str], names: list[str]) -> str | None:
    lower = {column.strip().lower(): column for column in columns}
    return next((lower[name] for name in names if name in lower), None)


def _notes(left_out: list[str], recognised: bool) -> str:
    notes = ["check which columns are the question and the answer"] if not recognised else []
    notes += [f"it leaves out {', '.join(left_out)}"] if left_out else []
    return f" ({'; '.join(notes)})" if notes else ""


def _over_rows(path: str | Path, expression: str, loop: str = "for r in rows", setup: str = "") -> str:
    start = (
        "import json, sys; from sllm.data.json_reader import read_file; rows = [r for _, r in read_file(sys.argv[1])]; "
    )
    return _command(f"{start}{setup}[print({_DUMP.format(expression)}) {loop}]", path)


def _command(code: str, path: str | Path) -> str:
    return f"python -c {shlex.quote(code)} {shlex.quote(str(path))} > {_output_file(path)}"


def _output_file(path: str | Path) -> str:
    """Never the file itself: the shell would empty it before it is read."""
    return shlex.quote(f"{Path(path).stem}_rows.jsonl")
