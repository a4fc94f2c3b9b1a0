"""The formats of rows that are read, and the conversion of one row. Standard library only.

Texts are kept byte for byte. Nothing is dropped silently: each key of a row is used, or is listed in `Row.ignored`, or
the row is refused.
"""

import hashlib
import json
from collections import Counter
from typing import Any, NamedTuple

from sllm.data import foreign
from sllm.data.faults import blank, broken, faults_of, leftovers
from sllm.data.json_reader import kind_of
from sllm.data.rows import Row

# A converter takes a row and returns {"messages"} or {"prompt", "chosen", "rejected"}, each a list of turns;
# it raises ValueError with the reason if the row cannot be read that way. `convert` checks the result.


def _turns(value: object, role: str) -> list[dict[str, Any]]:
    """A text is one turn of `role`, a list is messages, None is nothing."""
    if value is None or isinstance(value, str):
        return [] if value is None else [{"role": role, "content": value}]
    if not isinstance(value, list):
        raise ValueError(f"content is not text: {kind_of(value)} for the {role} turn")
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
            keys = f" has the keys {', '.join(map(repr, turn))}" if isinstance(turn, dict) else f" is {kind_of(turn)}"
            raise ValueError(f"message without role and content: message {number}{keys}")
    return [_turn(turn) for turn in value]


def _turn(turn: dict[str, Any]) -> dict[str, Any]:
    content = turn["content"]
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        if content[0].keys() == {"type", "text"} and content[0]["type"] == "text":
            content = content[0]["text"]  # OpenAI's content parts: one text is that text
    weighted = turn["role"] == "assistant" and turn.get("weight") is not None
    return {"role": turn["role"], "content": content} | ({"weight": turn["weight"]} if weighted else {})


def _system(row: dict[str, Any]) -> list[dict[str, Any]]:
    return _turns(_filled_value(row, "system_prompt", "system"), "system")


def _filled_value(row: dict[str, Any], *names: str) -> object:
    """The value of the key that is filled; ValueError if two of them differ."""
    present = {name: row[name] for name in names if row.get(name) is not None}
    filled = {name: value for name, value in present.items() if not (isinstance(value, str) and not value.strip())}
    if len(filled) > 1 and len({json.dumps(value) for value in filled.values()}) > 1:
        raise ValueError(f"{' and '.join(filled)} differ: keep one of them")
    return next(iter((filled or present).values()), None)


def _system_user_assistant(row: dict[str, Any]) -> dict[str, Any]:
    question, answer = _turns(row.get("user_content"), "user"), _turns(row.get("assistant_content"), "assistant")
    return {"messages": _system(row) + question + answer}


def _messages(row: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(row["messages"], list):
        raise ValueError(f"messages is not a list: {kind_of(row['messages'])}")
    return {"messages": _system(row) + _turns(row["messages"], "user")}


def _alpaca(row: dict[str, Any]) -> dict[str, Any]:
    if row.get("history"):
        raise ValueError("history is not read from alpaca rows: write the row as messages")
    parts = [row.get("instruction"), row.get("input")]
    parts += [row.get("context")] if row.get("context") not in parts else []
    if any(not isinstance(part, str) for part in parts if part is not None):
        raise ValueError("content is not text: instruction, input and context are")
    user = "\n\n".join(part for part in parts if part and part.strip())
    answer = _filled_value(row, "output", "response")
    return {"messages": _system(row) + _turns(user, "user") + _turns(answer, "assistant")}


def _prompt_completion(row: dict[str, Any]) -> dict[str, Any]:
    label = _label(row)
    if label is not None and not isinstance(label, bool):
        raise ValueError(f"label is neither true nor false: {label!r}")
    answer = _turns(row.get("completion"), "assistant")
    return {"messages": _system(row) + _turns(row.get("prompt"), "user") + answer}


def _preference(row: dict[str, Any]) -> dict[str, Any]:
    prompt = _system(row) + _turns(row.get("prompt"), "user")
    chosen, rejected = _turns(row.get("chosen"), "assistant"), _turns(row.get("rejected"), "assistant")
    if not chosen or not rejected:
        raise ValueError(f"no {'chosen' if not chosen else 'rejected'} answer")
    if not prompt and isinstance(row["chosen"], str):
        raise ValueError("no user turn: chosen and rejected are texts, so the question has to be in prompt")
    if any(turns[-1].get("weight", 1) != 1 for turns in (chosen, rejected)):
        raise ValueError("weight is not 1: both answers of a pair are learned from")
    for turns in (prompt, chosen, rejected):
        turns[:] = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    if chosen[0]["role"] != "assistant":  # whole conversations, whose last turns answer the same prompt
        shared = chosen[:-1]
        if rejected[:-1] != shared:
            raise ValueError("chosen and rejected do not share their prompt")
        system = [turn for turn in prompt if turn["role"] == "system"]
        if system and shared and shared[0]["role"] != "system":
            shared = system + shared
        without_system = shared if system else [turn for turn in shared if turn["role"] != "system"]
        if without_system[: len(prompt)] != prompt:
            raise ValueError("prompt differs from the one in chosen")
        prompt, chosen, rejected = shared, chosen[-1:], rejected[-1:]
    if len(chosen) != 1 or len(rejected) != 1:
        raise ValueError("chosen and rejected are one assistant turn each")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


# Add a format here: name → (keys that identify it, its other keys, converter). A row has the first format that one of
# its keys identifies, so the more specific names come first; a file has the format of most of its rows.
FORMATS = {
    "preference": (("chosen", "rejected"), ("prompt",), _preference),
    "messages": (("messages",), (), _messages),
    "system_user_assistant": (("user_content", "assistant_content"), (), _system_user_assistant),
    "alpaca": (("instruction",), ("input", "context", "output", "response", "history"), _alpaca),
    "prompt_completion": (("prompt", "completion"), ("label", "kto_tag"), _prompt_completion),
}
_ALIASES = {"original": "system_user_assistant"}
_COMMON = ("id", "task", "system_prompt", "system")
_USED = {name: {*marks, *others, *_COMMON} for name, (marks, others, _) in FORMATS.items()}


def format_of(row: dict[str, Any]) -> str | None:
    return next((name for name, (marks, *_) in FORMATS.items() if any(mark in row for mark in marks)), None)


def detect(rows: list[dict[str, Any]], path: str = "FILE") -> str:
    """The format of a file: that of most of its rows. ValueError if no row has a known format, with the command that
    converts the file if its format is recognised."""
    counts = Counter(name for name in map(format_of, rows) if name)
    if not counts:
        keys = ", ".join(map(repr, list(rows[0])[:8])) if rows else "none"
        known = "; ".join(f"{name} ({', '.join(marks)})" for name, (marks, *_) in FORMATS.items())
        advice = foreign.unknown_rows(path, rows[0]) if rows else None
        advice = advice or f"known, by their keys: {known}"
        raise ValueError(f"no known format: the rows have the keys {keys}; {advice}")
    name = counts.most_common(1)[0][0]
    if name == "messages" and {"from", "value"} <= foreign.first_turn(rows[0].get("messages")).keys():
        raise ValueError(f"messages without role and content; {foreign.unknown_rows(path, rows[0])}")
    return name


def convert(row: dict[str, Any], name: str, *, answered: bool = True) -> Row:
    """One row as it is written.

    Args:
        name: its format; "original" is accepted for "system_user_assistant".
        answered: a conversation has to end with the assistant's answer; False for prompts.
    Raises:
        ValueError: every reason why the row is refused, joined by "; ". Rows are counted by the text before the first
            ":" or ";".
    """
    name = _ALIASES.get(name, name)
    if format_of(row) != name:
        keys = ", ".join(map(repr, list(row)[:8]))
        raise ValueError(f"not a row of the file's format, {name}: it has the keys {keys or 'none'}")
    ignored, faults = leftovers(row, name, _USED[name])
    try:
        body = FORMATS[name][2](row)
    except ValueError as error:
        raise ValueError("; ".join([str(error), *faults])) from None
    for key in body:  # a blank system prompt counts as none
        body[key] = [t for t in body[key] if t["role"] != "system" or (t["content"] not in (None, "") and not blank(t))]
    if _label(row) is False and (answered or name == "preference"):
        faults.append(
            "label is false: a bad answer must not be learned; leave the row out, or give DPO (train_LoRA_DPO.py) a "
            "row with this answer as rejected and a good one as chosen"
        )
    elif _label(row) is False:  # the question can be used; the answer is not a reference
        while body["messages"] and body["messages"][-1]["role"] == "assistant":
            body["messages"].pop()
    if name == "preference":
        prompt, chosen, rejected = body["prompt"], body["chosen"], body["rejected"]
        both = faults_of(prompt + chosen, answered=True) + faults_of(prompt + rejected, answered=True)
        faults += dict.fromkeys(both)  # a fault of the prompt is in both
        if not faults and chosen[0]["content"].strip() == rejected[0]["content"].strip():
            faults.append("chosen and rejected are the same")
    else:
        faults += faults_of(body["messages"], answered=answered)
    labels = {key: row[key] for key in ("task", "id") if row.get(key) not in (None, "")}
    for key, value in labels.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            faults.append(f"{key} is neither text nor a number: {kind_of(value)}")
        elif broken(str(value)):
            faults.append(f"broken character: {broken(str(value))} in the {key}")
    if ignored and {"no assistant turn", "no user turn"} & {*faults}:
        faults.append(f"nothing reads the keys {', '.join(map(repr, ignored[:8]))}")
    if faults:
        raise ValueError("; ".join(faults))
    digest = hashlib.sha256(json.dumps(body, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
    converted = {"id": str(labels.get("id", digest[:12])), "task": str(labels["task"]) if "task" in labels else None}
    context = row.get("context") if name == "alpaca" else None
    return Row(converted | body, ignored=tuple(ignored), context=context)


class Refused(NamedTuple):
    """A row that cannot be used, or a part of a record that gives none."""

    reason: str


def rows_of(record: dict[str, Any], name: str, *, answered: bool = True) -> list[Row | Refused]:
    """The rows of one record of format `name`, in order: at least one, or one refusal. See `convert`."""
    try:
        return [convert(record, name, answered=answered)]
    except ValueError as error:
        return [Refused(str(error))]


def _label(row: dict[str, Any]) -> object:
    """KTO's label of a completion: true is a good answer, false a bad one. In other formats `label` may be anything."""
    return row["label"] if row.get("label") is not None else row.get("kto_tag")
