"""The conversion of a record to rows, with their checks. `format_table` has the formats. Standard library only.

Texts are kept byte for byte. Nothing is dropped silently: each key of a record is used, or is listed in `Row.ignored`,
or the row is refused; a record gives at least one row or one refusal.
"""

import hashlib
import json
from typing import Any

from sllm.data.conversation_rows import kto_label
from sllm.data.drafts import Draft, Record, Refused, system
from sllm.data.faults import blank, broken, contradictions, faults_of, key_faults, turn_leftovers
from sllm.data.format_table import ALIASES, FORMATS, detect, format_of, kind_of_format, plan
from sllm.data.json_reader import kind_of
from sllm.data.rows import Row

__all__ = ["FORMATS", "Refused", "convert", "detect", "format_of", "kind_of_format", "rows_of"]

_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


def rows_of(record: Record, name: str, *, answered: bool = True) -> list[Row | Refused]:
    """The rows of one record, in order: at least one, or one refusal.

    Args:
        name: its format; "original" is accepted for "system_user_assistant".
        answered: a conversation has to end with the assistant's answer; False for prompts.
    Returns:
        Rows, and refusals with every reason, joined by "; ". Refusals are counted by the text before the first ":" or
        ";". Several rows of a record that has one id get it with a number behind it.
    """
    name = ALIASES.get(name, name)
    form, fit = FORMATS[name], plan(name, tuple(record))
    if not fit.fits:
        keys = ", ".join(map(repr, list(record)[:8]))
        return [Refused(f"not a row of the file's format, {name}: it has the keys {keys or 'none'}")]
    ignored, faults = key_faults(record, fit.unused)
    if form.turns:
        turn_leftovers(record, form.turns, form.kind == "training", ignored, faults)
    if form.kind == "preference":
        faults += contradictions(record)
    rows: list[Row | Refused] = []
    try:
        lead = system(record) if form.kind == "training" else []  # of a pair, it is part of the prompt
        for draft in form.expand(record):
            if isinstance(draft, Refused):
                rows.append(Refused("; ".join([draft.reason, *faults]), draft.part))
            else:
                if lead:
                    draft.body["messages"][:0] = [{**turn} for turn in lead]
                rows.append(_row(record, draft, ignored, faults, fit.is_judged, answered))
    except ValueError as error:
        rows.append(Refused("; ".join([str(error), *faults])))
    except RecursionError:
        rows.append(Refused("nested too deep: no format of rows is"))
    if len(rows) > 1 and (record_id := _id_of(record)) is not None:
        _number(rows, str(record_id))
    return rows or [Refused("no rows in it: its lists are empty")]


def _id_of(record: Record) -> object:
    return next((record[key] for key in ("id", "guid") if record.get(key) not in (None, "")), None)


def _number(rows: list[Row | Refused], record_id: str) -> None:
    for number, row in enumerate(rows, 1):
        if isinstance(row, Row) and row["id"] == record_id:
            row["id"] = f"{record_id}-{number}"


def convert(record: Record, name: str, *, answered: bool = True) -> Row:
    """The row of a record that gives one. ValueError with the reasons if it is refused. See `rows_of`."""
    rows = rows_of(record, name, answered=answered)
    if reasons := [row.reason for row in rows if isinstance(row, Refused)]:
        raise ValueError("; ".join(reasons))
    if len(rows) > 1:
        raise ValueError(f"several rows: the record gives {len(rows)}, which rows_of lists")
    (row,) = rows
    assert isinstance(row, Row)
    return row


def _row(
    record: Record, draft: Draft, ignored: list[str], record_faults: list[str], is_judged: bool, answered: bool
) -> Row | Refused:
    body, faults, extra = draft.body, [*record_faults], list(draft.ignored)
    for key, messages in body.items():  # a blank system prompt counts as none
        if any(turn["role"] == "system" for turn in messages):
            body[key] = [
                t for t in messages if t["role"] != "system" or (t["content"] not in (None, "") and not blank(t))
            ]
    is_pair = "chosen" in body
    if is_judged and kto_label(record) is False:
        if answered or is_pair:
            faults.append(
                "label is false: a bad answer must not be learned; leave the row out, or give DPO (train_LoRA_DPO.py) "
                "a row with this answer as rejected and a good one as chosen"
            )
        else:  # the question can be used; the answer is not a reference
            while body["messages"] and body["messages"][-1]["role"] == "assistant":
                body["messages"].pop()
    if is_pair:
        faults += _pair_faults(body, faults)
    else:
        messages = body["messages"]
        if draft.open_ended and answered and len(messages) > 2 and messages[-1]["role"] == "user":
            messages.pop()
            extra.append("question after the last answer")
        faults += faults_of(messages, answered=answered)
    task = draft.task if draft.task is not None else record.get("task")
    name = draft.id if draft.id is not None else _id_of(record)
    faults += _label_faults("task", task)
    faults += _label_faults("id", name)
    if ignored and faults and {"no assistant turn", "no user turn"} & {*faults}:
        faults.append(f"nothing reads the keys {', '.join(map(repr, ignored[:8]))}")
    if faults:
        return Refused("; ".join(faults), draft.part)
    row_id = str(name) if name not in (None, "") else hashlib.sha256(_encode(body).encode()).hexdigest()[:12]
    values = {"id": row_id, "task": str(task) if task not in (None, "") else None}
    return Row(values | body, ignored=(*ignored, *dict.fromkeys(extra)), context=draft.context)


def _pair_faults(body: dict[str, list[dict[str, Any]]], faults: list[str]) -> list[str]:
    prompt, chosen, rejected = body["prompt"], body["chosen"], body["rejected"]
    both = faults_of(prompt + chosen, answered=True) + faults_of(prompt + rejected, answered=True)
    found = list(dict.fromkeys(both))  # a fault of the prompt is in both
    if not found and not faults and chosen[0]["content"].strip() == rejected[0]["content"].strip():
        found.append("chosen and rejected are the same")
    return found


def _label_faults(key: str, value: object) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return [f"{key} is neither text nor a number: {kind_of(value)}"]
    place = broken(value) if isinstance(value, str) else None
    return [f"broken character: {place} in the {key}"] if place else []
