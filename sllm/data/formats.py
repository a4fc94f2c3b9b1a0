"""Rows as people have them → the rows of the hand-off (DESIGN §4). Standard library only.

    training    {"id", "task", "messages": [{"role", "content"}, …]}
    preference  {"id", "task", "prompt": [message, …], "chosen": [message], "rejected": [message]}

Texts are kept byte for byte. `load_rows` is strict, for trainers and inference; `prepare_data.py` sets refused
rows aside instead.
"""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

from sllm import checkpoint, tasks
from sllm.cli import InputError
from sllm.data.files import kind_of, listed, read_file, scan

__all__ = ["FORMATS", "convert", "detect", "format_of", "listed", "load_rows", "read_file", "scan", "unique_ids"]


# ── formats ────────────────────────────────────────────────────────────────────────────────────────────────
# A converter takes a row and returns {"messages"} or {"prompt", "chosen", "rejected"}, each a list of turns;
# it raises ValueError with the reason where the row cannot be read so. `convert` checks what comes back.


def _turns(value: object, role: str) -> list[dict]:
    """A text is one turn of `role`, a list is messages, None is nothing."""
    if value is None or isinstance(value, str):
        return [] if value is None else [{"role": role, "content": value}]
    if not isinstance(value, list):
        raise ValueError(f"content is not text: {kind_of(value)} for the {role} turn")
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
            raise ValueError(f"message without role and content: message {number}")
    return [{"role": turn["role"], "content": turn["content"]} for turn in value]


def _system(row: dict) -> list[dict]:
    return _turns(row.get("system_prompt") or row.get("system"), "system")


def _original(row: dict) -> dict:
    asked, answer = _turns(row.get("user_content"), "user"), _turns(row.get("assistant_content"), "assistant")
    return {"messages": _system(row) + asked + answer}


def _messages(row: dict) -> dict:
    if not isinstance(row["messages"], list):
        raise ValueError(f"messages is not a list: {kind_of(row['messages'])}")
    return {"messages": _system(row) + _turns(row["messages"], "user")}


def _alpaca(row: dict) -> dict:
    if row.get("history"):
        raise ValueError("history is not read from alpaca rows: write the row as messages")
    parts = [row.get("instruction"), row.get("input")]
    if any(not isinstance(part, str) for part in parts if part is not None):
        raise ValueError("content is not text: instruction and input are")
    user = "\n\n".join(part for part in parts if part and part.strip())
    return {"messages": _system(row) + _turns(user, "user") + _turns(row.get("output"), "assistant")}


def _prompt_completion(row: dict) -> dict:
    answer = _turns(row.get("completion"), "assistant")
    return {"messages": _system(row) + _turns(row.get("prompt"), "user") + answer}


def _preference(row: dict) -> dict:
    prompt = _system(row) + _turns(row.get("prompt"), "user")
    chosen, rejected = _turns(row.get("chosen"), "assistant"), _turns(row.get("rejected"), "assistant")
    if not chosen or not rejected:
        raise ValueError(f"no {'chosen' if not chosen else 'rejected'} answer")
    if chosen[0]["role"] != "assistant":  # whole conversations, whose last turns answer the same prompt
        shared = chosen[:-1]
        if rejected[:-1] != shared:
            raise ValueError("chosen and rejected do not share their prompt")
        system = [turn for turn in prompt if turn["role"] == "system"]
        if system and shared and shared[0]["role"] != "system":
            shared = system + shared
        said = shared if system else [turn for turn in shared if turn["role"] != "system"]
        if said[: len(prompt)] != prompt:
            raise ValueError("prompt differs from the one in chosen")
        prompt, chosen, rejected = shared, chosen[-1:], rejected[-1:]
    if len(chosen) != 1 or len(rejected) != 1:
        raise ValueError("chosen and rejected are one assistant turn each")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


# The place for more formats: name → (keys that mark a row of it, converter). A row is of the first format that
# one of its keys marks, so the more telling names come first; a file has the format of most of its rows.
FORMATS = {
    "preference": (("chosen", "rejected"), _preference),
    "messages": (("messages",), _messages),
    "original": (("user_content", "assistant_content"), _original),
    "alpaca": (("instruction",), _alpaca),
    "prompt_completion": (("prompt", "completion"), _prompt_completion),
}


def format_of(row: dict) -> str | None:
    return next((name for name, (marks, _) in FORMATS.items() if any(mark in row for mark in marks)), None)


def detect(rows: list[dict]) -> str:
    """The format of a file: that of most of its rows. ValueError when no row is of a known one."""
    counts = Counter(name for name in map(format_of, rows) if name)
    if not counts:
        known = "; ".join(f"{name} ({', '.join(marks)})" for name, (marks, _) in FORMATS.items())
        keys = ", ".join(map(repr, list(rows[0])[:8])) if rows else "none"
        raise ValueError(f"no known format: the rows have the keys {keys}; known, by their keys: {known}")
    return counts.most_common(1)[0][0]


def convert(row: dict, name: str, *, answered: bool = True) -> dict:
    """One row of format `name` as it goes to disk.

    Args:
        answered: a conversation has to end with the assistant's answer; False for prompts.
    Raises:
        ValueError: every reason why the row is refused, joined by "; ". What counts rows by reason takes the
            words before the first ":".
    """
    if format_of(row) != name:
        keys = ", ".join(map(repr, list(row)[:8]))
        raise ValueError(f"not a row of the file's format, {name}: it has the keys {keys or 'none'}")
    body = FORMATS[name][1](row)
    faults = []
    for key in body:  # a blank system prompt is no system prompt
        body[key] = [t for t in body[key] if t["role"] != "system" or t["content"] not in (None, "") and not _blank(t)]
    if name == "preference":
        faults += _faults(body["prompt"] + body["chosen"], answered=True)
        faults += [fault for fault in _faults(body["prompt"] + body["rejected"], answered=True) if fault not in faults]
        chosen, rejected = body["chosen"][0]["content"], body["rejected"][0]["content"]
        if not faults and chosen.strip() == rejected.strip():
            faults.append("chosen and rejected are the same")
    else:
        faults += _faults(body["messages"], answered=answered)
    task, name_given = row.get("task") or None, row.get("id")
    if task is not None and (not isinstance(task, str) or task not in tasks.TASKS):
        known = list(tasks.TASKS)
        faults.append(f"unknown task id: {task!r} (known: {known[0]} … {known[-1]}; none is fine too)")
    if isinstance(name_given, bool) or not isinstance(name_given, str | int | float | None):
        faults.append(f"id is no text or number: {kind_of(name_given)}")
    elif _broken(str(name_given)):
        faults.append(f"broken character: {_broken(str(name_given))} in the id")
    if faults:
        raise ValueError("; ".join(faults))
    digest = hashlib.sha256(json.dumps(body, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
    return {"id": digest[:12] if name_given in (None, "") else str(name_given), "task": task, **body}


def _faults(turns: list[dict], *, answered: bool) -> list[str]:
    """Everything wrong with a conversation."""
    faults = []
    for number, turn in enumerate(turns, 1):
        role, content, where = turn["role"], turn["content"], f"message {number}"
        if role not in ("system", "user", "assistant"):
            faults.append(f"unknown role: {role!r} in {where} (system, user, assistant)")
        if not isinstance(content, str):
            faults.append(f"content is not text: {kind_of(content)} in {where}")
        elif _blank(turn):
            faults.append(f"empty {'answer' if role == 'assistant' else f'{role} content'}: {where}")
        elif _broken(content):
            faults.append(f"broken character: {_broken(content)} in {where}, lost when the text was decoded")
    roles = [turn["role"] for turn in turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not any(fault.startswith("unknown role") for fault in faults):
        if answered and "assistant" not in roles:
            faults.append("no assistant turn")
        elif "user" not in roles:
            faults.append("no user turn")
        elif any(role != ("user", "assistant")[i % 2] for i, role in enumerate(spoken)):
            order = " ".join(roles[:8])
            faults.append(f"roles out of order: {order} (system only first, then user and assistant in turn)")
        elif answered and roles[-1] != "assistant":
            faults.append("no answer to the last user turn")
    return faults


def _blank(turn: dict) -> bool:
    """No character that one could see."""
    content = turn["content"]
    return isinstance(content, str) and not any(c.isprintable() and not c.isspace() for c in content)


def _broken(text: str) -> str | None:
    found = re.search("[\ud800-\udfff\ufffd\0]", text)
    return f"U+{ord(found[0]):04X} at character {found.start()}" if found else None


# ── for trainers and inference ─────────────────────────────────────────────────────────────────────────────


def load_rows(path: str | Path, kind: str) -> list[dict]:
    """Every row of a file, converted; one refused row refuses the file.

    Args:
        path: a file of any known format, or a folder that prepare_data.py wrote: its train.jsonl, and its
            test.jsonl for prompts.
        kind: "sft" (training rows), "preference" (preference rows) or "prompts" (rows of either sort, answered
            or not).
    Returns:
        Training or preference rows; for prompts {"id", "task", "messages", "reference"}: the conversation up to
        a user turn and the text that answered it (preference rows: chosen), or None. There, ids are unique.
    Raises:
        InputError: all that is wrong with the file, or that it is of the other sort.
    """
    if Path(path).is_dir():
        checkpoint.require(path, stage="data")
        path = Path(path) / ("test.jsonl" if kind == "prompts" else "train.jsonl")
    found, problems = scan(path)
    rows = []
    if found:
        try:
            name = detect([row for _, row in found])
        except ValueError as error:
            raise InputError(listed(path, [*problems, (0, str(error))])) from None
        if kind != "prompts" and (name == "preference") != (kind == "preference"):
            sort, reader = ("preference", "DPO") if name == "preference" else ("training", "SFT")
            raise InputError(f"{path} holds {sort} rows ({name}): train_LoRA_{reader}.py reads those")
        for number, row in found:
            try:
                rows.append(convert(row, name, answered=kind != "prompts"))
            except ValueError as error:
                problems.append((number, str(error)))
    if problems:
        raise InputError(listed(path, problems))
    if kind == "prompts":
        rows = [_prompt(row) for row in rows]
        unique_ids(rows)
    return rows


def _prompt(row: dict) -> dict:
    messages = row["prompt"] + row["chosen"] if "prompt" in row else row["messages"]
    reference = messages[-1]["content"] if messages[-1]["role"] == "assistant" else None
    asked = messages if reference is None else messages[:-1]
    return {"id": row["id"], "task": row["task"], "messages": asked, "reference": reference}


def unique_ids(rows: list[dict]) -> int:
    """Give a row whose id an earlier row has the next free `id#2`, `id#3`, …; returns how many were renamed."""
    taken, given, renamed = {row["id"] for row in rows}, set(), 0
    for row in rows:
        if row["id"] in given:
            number = 2
            while f"{row['id']}#{number}" in taken:
                number += 1
            row["id"] = f"{row['id']}#{number}"
            taken.add(row["id"])
            renamed += 1
        given.add(row["id"])
    return renamed
