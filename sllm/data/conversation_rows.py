"""Records that hold a conversation → drafts of rows: messages, sharegpt, prompt and completion, marked texts, trees of
replies. Standard library only."""

from collections.abc import Iterable, Iterator
from typing import Any

from sllm.data.dialogue_texts import dialogue_turns
from sllm.data.drafts import Draft, Record, Refused, Turn, filled_value, is_turns, single, text_of, turns
from sllm.data.json_reader import kind_of

CONVERSATION_KEYS = ("conversations", "conversation", "dialogue", "dialog", "dialogs", "chat", "turns", "대화")
PLAIN_TEXT = (
    "no question and answer in the text: texts such as this are for generate_data.py --contexts, which writes task "
    "rows about them"
)


def messages(record: Record) -> list[Draft]:
    value = record["messages"]
    if not isinstance(value, list):
        raise ValueError(f"messages is not a list: {kind_of(value)}")
    if value and isinstance(value[0], dict) and "from" in value[0]:
        return _sharegpt_turns(value)
    return single(turns(value, "user"))


def has_conversation(record: Record) -> bool:
    return any(is_turns(record.get(key)) for key in CONVERSATION_KEYS)


def sharegpt(record: Record) -> list[Draft]:
    value = filled_value(record, *CONVERSATION_KEYS)
    if not isinstance(value, list):
        raise ValueError(f"conversations is not a list: {kind_of(value)}")
    return _sharegpt_turns(value)


def _sharegpt_turns(value: list[Any]) -> list[Draft]:
    """Conversations cut out of a longer one may start with an answer or end with a question; what is between can be
    learned. Two turns of one role in a row stay a fault: whether a turn is missing between them cannot be known."""
    found = turns(value, "user")
    ignored = []
    start = next((n for n, turn in enumerate(found) if turn["role"] != "system"), 0)
    if found[start:] and found[start]["role"] == "assistant":
        del found[start]
        ignored.append("answer before the first question")
    return single(found, ignored=tuple(ignored), open_ended=True)


def prompt_completion(record: Record) -> list[Draft]:
    label = kto_label(record)
    if label is not None and not isinstance(label, bool):
        raise ValueError(f"label is neither true nor false: {label!r}")
    return single(turns(record.get("prompt"), "user") + turns(record.get("completion"), "assistant"))


def kto_label(record: Record) -> object:
    """KTO's label of a completion: true is a good answer, false a bad one."""
    return record["label"] if record.get("label") is not None else record.get("kto_tag")


def is_marked_text(record: Record) -> bool:
    text = record.get("text")
    return isinstance(text, str) and dialogue_turns(text) is not None


def marked_text(record: Record) -> list[Draft]:
    found = dialogue_turns(text_of(record, "text"))
    if found is None:
        raise ValueError(PLAIN_TEXT)
    return single(found)


def oasst(record: Record) -> Iterable[Draft | Refused]:
    """The conversation of the replies ranked best, of OpenAssistant's trees; a reply without a rank comes last."""
    found: list[Turn] = []
    node, others = record.get("prompt"), 0
    while isinstance(node, dict):
        found += turns([{"role": node.get("role"), "content": node.get("text")}], "user")
        replies = [reply for reply in _listed(node.get("replies")) if not reply.get("deleted")]
        others += max(len(replies) - 1, 0)
        node = min(replies, key=_rank, default=None)
    ignored = ("lower-ranked replies",) if others else ()
    return single(found, id=record.get("message_tree_id"), ignored=ignored, open_ended=True)


def _listed(value: object) -> Iterator[dict[str, Any]]:
    yield from (item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def _rank(reply: dict[str, Any]) -> float:
    rank = reply.get("rank")
    return rank if isinstance(rank, int | float) and not isinstance(rank, bool) else float("inf")
