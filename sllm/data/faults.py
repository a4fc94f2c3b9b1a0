"""The faults of a row, and its unused keys. Standard library only.

Rows are counted by the text of a reason before the first ":" or ";".
"""

import re
from collections.abc import Iterable
from typing import Any

from sllm.data.drafts import role_of
from sllm.data.json_reader import kind_of

# Keys for what cannot be trained here: if one of them is filled, the row is refused, with its name and place.
_TOOLS = "{} cannot be trained here: {}write the call into the content, or remove the key"
_MEDIA = "{} cannot be trained here: {}only text is; remove the key or the row"
_REASONING = "{} is not read: {}write it into the content as <think>…</think> if it is to be learned, or remove the key"
_SWITCH = '{} is not read: {}write "weight": 0 for an answer that is not to be learned, or remove the key'
_REFUSED = (
    dict.fromkeys("tools functions tool_calls function_call tool_call_id".split(), _TOOLS)
    | dict.fromkeys("image images video videos audio audios".split(), _MEDIA)
    | {"reasoning_content": _REASONING}
)
_REFUSED_IN_MESSAGES = (
    _REFUSED
    | dict.fromkeys("reasoning reasoning_details thinking thought thoughts".split(), _REASONING)
    | dict.fromkeys("train training trainable loss loss_mask masked".split(), _SWITCH)
)
_TURN = {"role", "content"}
_ROLES = ("user", "assistant", "system")
_TOOL_ROLES = {"tool", "function", "observation", "function_call", "function_response", "tool_call", "tool_response"}
_BROKEN = re.compile("[\ud800-\udfff\ufffd\0]")


def key_faults(record: dict[str, Any], unused: Iterable[str]) -> tuple[list[str], list[str]]:
    """Of the keys that nothing uses: the ignored ones, and the faults of those that refuse the row. A key with the
    value null is skipped."""
    ignored, faults = [], []
    for key in unused:
        value = record[key]
        if value is None or (key in ("label", "kto_tag") and isinstance(value, bool)):
            continue
        if value and key in _REFUSED:
            faults.append(_REFUSED[key].format(key, ""))
        else:
            ignored.append(key)
    return ignored, faults


def turn_leftovers(
    record: dict[str, Any], keys: Iterable[str], weighted: bool, ignored: list[str], faults: list[str]
) -> None:
    """Add what is not used of the turns under `keys`, each thing once. `weighted`: an answer may have a weight."""
    for key in keys:
        value = record.get(key)
        turns = value if isinstance(value, list) else [value]
        for number, turn in enumerate(turns, 1):
            if isinstance(turn, dict) and turn.keys() != _TURN:
                _leftovers_of_turn(turn, number, weighted, ignored, faults)


def _leftovers_of_turn(
    turn: dict[str, Any], number: int, weighted: bool, ignored: list[str], faults: list[str]
) -> None:
    used = ("role", "content") if "role" in turn and "content" in turn else ("from", "value", "role", "content")
    for key, value in turn.items():
        if key in used or value is None:
            continue
        if key == "weight" and weighted and role_of(turn.get("role", turn.get("from"))) == "assistant":
            continue
        if key in _REFUSED_IN_MESSAGES and (value or value is False):
            faults.append(_REFUSED_IN_MESSAGES[key].format(key, f"message {number}; "))
        elif f"message {key}" not in ignored:
            ignored.append(f"message {key}")


def contradictions(row: dict[str, Any]) -> list[str]:
    """Scores of a pair that rate the rejected answer higher."""
    faults = []
    for stem in ("score", "rating", "reward"):
        for good, bad in ((f"{stem}_chosen", f"{stem}_rejected"), (f"chosen_{stem}", f"rejected_{stem}")):
            chosen, rejected = row.get(good), row.get(bad)
            if isinstance(chosen, int | float) and isinstance(rejected, int | float) and chosen < rejected:
                faults.append(f"{good} is below {bad}: {chosen} < {rejected}; exchange the answers or remove the row")
    if isinstance(row.get("margin"), int | float) and row["margin"] < 0:
        faults.append(f"margin is below 0: {row['margin']}; exchange the answers or remove the row")
    return faults


def faults_of(turns: list[dict[str, Any]], *, answered: bool) -> list[str]:
    """Everything wrong with a conversation."""
    faults: list[str] = []
    for number, turn in enumerate(turns, 1):
        content = turn["content"]
        is_sound = isinstance(content, str) and "weight" not in turn and not (blank(turn) or broken(content))
        if not is_sound or turn["role"] not in _ROLES:
            faults += _faults_of_turn(turn, f"message {number}")
    roles = [turn["role"] for turn in turns]
    alternating = roles[1:] if roles[:1] == ["system"] else roles
    if not any(fault.startswith(("unknown role", "tool turn")) for fault in faults):
        if answered and "assistant" not in roles:
            faults.append("no assistant turn")
        elif "user" not in roles:
            faults.append("no user turn")
        elif any(role != _ROLES[i % 2] for i, role in enumerate(alternating)):
            order = " ".join(roles[:8])
            faults.append(f"roles out of order: {order} (system only first, then user and assistant in turn)")
        elif answered and roles[-1] != "assistant":
            faults.append("no answer to the last user turn")
        elif answered and all(turn.get("weight") == 0 for turn in turns if turn["role"] == "assistant"):
            faults.append("nothing to learn: every answer has the weight 0")
    return faults


def _faults_of_turn(turn: dict[str, Any], message: str) -> list[str]:
    role, content, faults = turn["role"], turn["content"], []
    if isinstance(role, str) and role in _TOOL_ROLES:
        faults.append(f"tool turn: {message} ({role}) cannot be trained here; write the call into the content")
    elif role not in _ROLES:
        faults.append(f"unknown role: {role!r} in {message} (system, user, assistant)")
    if not isinstance(content, str):
        faults.append(f"content is not text: {kind_of(content)}{_part_types(content)} in {message}")
    elif blank(turn):
        faults.append(f"empty {'answer' if role == 'assistant' else f'{role} content'}: {message}")
    elif place := broken(content):
        faults.append(f"broken character: {place} in {message}, lost when the text was decoded")
    if isinstance(turn.get("weight"), bool) or turn.get("weight", 1) not in (0, 1):
        faults.append(f"weight is neither 0 nor 1: {turn['weight']!r} in {message}")
    elif "weight" in turn:
        turn["weight"] = int(turn["weight"])
    return faults


def _part_types(content: object) -> str:
    """` of text, image_url`: what OpenAI's content parts hold."""
    parts = content if isinstance(content, list) else []
    types = [part["type"] for part in parts if isinstance(part, dict) and "type" in part]
    return f" of {', '.join(map(str, dict.fromkeys(types)))}" if types else ""


def blank(turn: dict[str, Any]) -> bool:
    """No visible character."""
    content = turn["content"]
    return isinstance(content, str) and not any(c.isprintable() and not c.isspace() for c in content)


def broken(text: str) -> str | None:
    """The position of the first invalid character: half a surrogate pair, U+FFFD, a null."""
    try:
        text.encode()
        if "\ufffd" not in text and "\0" not in text:
            return None
    except UnicodeEncodeError:
        pass
    match = _BROKEN.search(text)
    return f"U+{ord(match[0]):04X} at character {match.start()}" if match else None
