"""Files and rows in formats that are not supported: what they are, and the command that converts them.

Each command is one line of Python for this file, with its real columns; run in the repository's root it writes rows
that every script reads. Standard library only.
"""

import csv
import io
import json
import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_JSON_START = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*(?:[\[{]|\Z)")
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


def not_json(path: str | Path, raw: bytes) -> str | None:
    """What a file is that is not JSON, and how to convert it; None if it may be JSON."""
    if _JSON_START.match(raw):
        return None
    if binary := _binary(path, raw):
        return binary
    for encoding in ("utf-16",) if raw.startswith(UTF16_MARKS) else ("utf-8-sig", "cp949"):
        try:
            text = raw.decode(encoding).lstrip()
            break
        except UnicodeDecodeError:
            continue
    else:
        return None
    if text[:1] in ("{", "[") or "\n{" in text:
        return None
    with suppress(ValueError, RecursionError):
        json.loads(text.partition("\n")[0])
        return None
    return _separated(path, text, encoding) or (
        "not JSON: it is plain text; write one JSON object a line, such as "
        '{"instruction": "question", "output": "answer"}'
    )


def _binary(path: str | Path, raw: bytes) -> str | None:
    name, out = shlex.quote(str(path)), _output_file(path)
    if raw.startswith(b"PAR1"):
        return f"a Parquet file; convert it: {_pandas('read_parquet', path)}"
    if (raw.startswith(b"PK\x03\x04") and b"xl/" in raw) or raw.startswith(b"\xd0\xcf\x11\xe0"):
        return (
            "an Excel workbook; save its sheet as CSV UTF-8 and give that file, or (after pip install openpyxl): "
            + _pandas("read_excel", path)
        )
    if raw.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        code = "import datasets, sys; datasets.Dataset.from_file(sys.argv[1]).to_json(sys.argv[2], force_ascii=False)"
        return f"an Arrow file; convert it: python -c {shlex.quote(code)} {name} {out}"
    if raw.startswith(b"\x1f\x8b"):
        return f"compressed with gzip; unpack it: gunzip -k {name}"
    if raw.startswith(b"PK\x03\x04"):
        return f"a zip archive; unpack it: unzip {name}"
    if raw.startswith(b"SQLite format 3\0"):
        return f"a SQLite database; the chat page's becomes rows with: python build_preferences.py --from_chat {name}"
    if b"\0" in raw[:4096] and not raw.startswith(UTF16_MARKS):
        return "a binary file; give rows as .jsonl or .json"
    return None


def _pandas(reader: str, path: str | Path) -> str:
    write = 'to_json(sys.argv[2], orient="records", lines=True, force_ascii=False)'
    code = f"import pandas, sys; pandas.{reader}(sys.argv[1]).{write}"
    return f"python -c {shlex.quote(code)} {shlex.quote(str(path))} {_output_file(path)}"


def _separated(path: str | Path, text: str, encoding: str) -> str | None:
    """CSV or TSV: the command for its header; None for a text without columns."""
    header = text.partition("\n")[0]
    delimiter = "\t" if "\t" in header else max(",;|", key=header.count)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
    if delimiter == "\t" and len({line.count(delimiter) for line in text.split("\n") if line}) == 1:
        quoting = csv.QUOTE_NONE  # one record a line, so a quotation mark is just a character
    try:
        records = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting)
        rows = [row for _, row in zip(range(20), records, strict=False) if row]
    except csv.Error:
        return None
    has_csv_suffix = Path(path).suffix.lower() in (".csv", ".tsv")
    ragged = len(rows) < 2 or len({len(row) for row in rows}) > 1 or any(cell != cell.strip() for cell in rows[0])
    if len(rows[0]) < 2 or (ragged and not has_csv_suffix):
        return None
    columns = list(dict.fromkeys(column for column in rows[0] if column.strip()))
    if len({*columns} - {*_METADATA}) < 2:
        return None
    kind = "TSV" if delimiter == "\t" else "CSV"
    fields, left_out, recognised = _mapping(columns)
    names = "" if recognised else "; where the first line is a row, write column names above it"
    options = "" if delimiter == "," else f', delimiter="{delimiter}"'.replace("\t", "\\t")
    options += ", quoting=csv.QUOTE_NONE" if quoting == csv.QUOTE_NONE else ""
    source = f'csv.DictReader(open(sys.argv[1], encoding="{encoding}", newline=""){options})'
    code = f"import csv, json, sys; [print({_DUMP.format(fields)}) for r in {source}]"
    return f"a {kind} file; convert it{_notes(left_out, recognised)}{names}: {_command(code, path)}"


def unknown_rows(path: str | Path, row: dict[str, Any]) -> str | None:
    """The same for rows of an unknown format, judged by one of them; None if it is not recognised."""
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
