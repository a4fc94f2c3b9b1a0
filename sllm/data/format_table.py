"""The table of the formats of records, and which of them a record has. Standard library only."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sllm.data import comprehension_rows as comprehension
from sllm.data import conversation_rows as conversation
from sllm.data import instruction_rows as instruction
from sllm.data import labelled_rows as labelled
from sllm.data import preference_rows as preferences
from sllm.data import unknown_formats
from sllm.data.drafts import SYSTEM, Expand, Record, columns


class Format(NamedTuple):
    """How a record is recognised, and what is made of it.

    Attributes:
        marks: a record has the format if it has all keys, or columns, of one of these; `columns` of `sllm.data.drafts`
            are written "<question>" and stand for any of their names.
        expand: a record → drafts of rows. It yields `Refused` for a part that gives no row, and raises ValueError with
            the reason if the record cannot be read at all.
        others: the other keys that it uses.
        turns: its keys that hold turns; what is not used of them is listed too.
        shape: what else a record has to be, where keys do not tell.
        kind: what its rows are for, "training" or "preference".
    """

    marks: tuple[tuple[str, ...], ...]
    expand: Expand
    others: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()
    shape: Callable[[Record], bool] | None = None
    kind: str = "training"


_QA = "<answer>", "<question>"
_PAIR = "<premise>", "<hypothesis>"
_TURNS = conversation.CONVERSATION_KEYS
_LISTS = [("prompt", name) for name in ("completions", "answers", "responses", "generations", "candidates")]
_LISTS += [("instruction", name) for _, name in _LISTS]

# Add a format here. A record has the first format that fits, so the more specific ones come first; a file has the
# format of most of its records.
FORMATS: dict[str, Format] = {
    "preference": Format(
        (("<chosen>",), ("<rejected>",)), preferences.preference, ("<chosen>", "<rejected>", *preferences.PROMPT_KEYS),
        turns=("prompt", "chosen", "rejected", "conversations"), kind="preference",
    ),
    "ranked_completions": Format(
        (("prompt", "completion_0", "completion_1"), ("instruction", "completion_0", "completion_1")),
        preferences.ranked_completions, (*preferences.RANKED, "ranking", *preferences.PROMPT_KEYS), kind="preference",
    ),
    "scored_answers": Format(
        tuple(_LISTS), preferences.scored_answers,
        (*preferences.PROMPT_KEYS, "scores", "ratings", "rewards", "ranks", "ranking"), shape=preferences.is_scored,
        kind="preference",
    ),
    "messages": Format((("messages",),), conversation.messages, turns=("messages",)),
    "sharegpt": Format(
        tuple((key,) for key in _TURNS), conversation.sharegpt, _TURNS, turns=_TURNS,
        shape=conversation.has_conversation,
    ),
    "system_user_assistant": Format(
        (("user_content",), ("assistant_content",)), instruction.system_user_assistant,
        ("user_content", "assistant_content"), turns=("user_content", "assistant_content"),
    ),
    "self_instruct": Format((("instruction", "instances"),), instruction.self_instruct),
    "alpaca": Format(
        (("instruction",),), instruction.alpaca, ("input", "context", "output", "response", "history"),
        turns=("history",),
    ),
    "input_output": Format(
        (("input", "output"),), instruction.input_output, ("Task_name", "task_name"), turns=("input", "output"),
    ),
    "squad": Format(
        (("paragraphs",), ("qas",), ("question", "context", "answers"), ("question", "context", "answer")),
        comprehension.squad, ("answer", "answers", "is_impossible", "guid"),
        shape=lambda record: "paragraphs" in record or "qas" in record or comprehension.is_squad_row(record),
    ),
    "multiple_choice": Format(
        (*((*_QA, key) for key in instruction.CHOICE_KEYS), (*_QA, "A", "B", "C")), instruction.multiple_choice,
        (*instruction.LETTERS, "context"),
    ),
    "question_pairs": Format((("question1", "question2", "is_duplicate"),), labelled.question_pairs),
    "question_pairs_0_same": Format((("question1", "question2", "is_duplicate"),), labelled.question_pairs_0_same),
    "sentence_similarity": Format(
        ((*_PAIR, "score"), (*_PAIR, "labels")), labelled.similarity,
        shape=lambda record: "score" in record or isinstance(record.get("labels"), dict),
    ),
    "same_meaning": Format(
        (("id", *_PAIR, "label"),), labelled.same_meaning,
        shape=lambda record: "sentence1" in record and str(record["label"]) in ("0", "1"),
    ),
    "nli": Format(((*_PAIR, "<label>"),), labelled.nli),
    "sentiment": Format(
        (("id", "document", "label"),), labelled.sentiment, shape=lambda record: len(str(record["label"])) < 9
    ),
    "hate_speech": Format(
        (("comments", "hate"), ("comments", "bias"), ("comments", "contain_gender_bias")), labelled.hate_speech,
        ("hate", "bias", "contain_gender_bias"),
    ),
    "topic": Format((("guid", "title", "label"), ("title", "topic_idx")), labelled.topic),
    "question_answer": Format((_QA,), instruction.question_answer, ("<context>",)),
    "summary": Format((("<summary>", "<context>"),), instruction.summary),
    "labelled_text": Format((("<label>", "<labelled>"),), labelled.labelled_text),
    "oasst_tree": Format((("message_tree_id", "prompt"),), conversation.oasst),
    "prompt_completion": Format(
        (("prompt",), ("completion",)), conversation.prompt_completion,
        ("prompt", "completion", "label", "kto_tag"), turns=("prompt", "completion"),
    ),
    "marked_text": Format((("text",),), conversation.marked_text, shape=conversation.is_marked_text),
}  # fmt: skip
ALIASES = {"original": "system_user_assistant"}
_COMMON = {"id", "guid", "task", *SYSTEM}


class Plan(NamedTuple):
    """What a format does with a record of certain keys."""

    fits: bool
    unused: tuple[Any, ...]
    is_judged: bool  # a label that is false makes it a bad answer, as KTO's


@lru_cache(maxsize=4096)
def plan(name: str, keys: tuple[Any, ...]) -> Plan:
    """`name`: a format's; `keys`: a record's. Files have few sets of keys, so that this is worked out once for each."""
    form = FORMATS[name]
    wanted = [*dict.fromkeys(key for mark in (*form.marks, form.others) for key in mark)]
    found = columns(keys, *(key[1:-1] for key in wanted if key.startswith("<")))
    present = {*keys, *(f"<{role}>" for role in found)}
    used = {*wanted, *found.values(), *_COMMON}
    is_judged = not used & {"label", "kto_tag"} or name == "prompt_completion"
    return Plan(
        any(present.issuperset(mark) for mark in form.marks), tuple(k for k in keys if k not in used), is_judged
    )


def format_of(record: Record) -> str | None:
    """The name of the first format that fits."""
    keys = tuple(record)
    fitting = (name for name in FORMATS if plan(name, keys).fits)
    return next((name for name in fitting if not (shape := FORMATS[name].shape) or shape(record)), None)


def detect(records: Sequence[Record]) -> str:
    """The format of a file, judged by some of its records: that of most of them.

    Raises:
        ValueError: none of them has a known format, or what it is cannot be told; it says what is near, and what to do.
    """
    counts = Counter(name for name in map(format_of, records) if name)
    if not counts:
        raise ValueError(unknown_formats.advice(records[0] if records else {}, _known_keys()))
    name = counts.most_common(1)[0][0]
    if name != "question_pairs":
        return name
    zero_is_same = labelled.zero_is_same([record for record in records if format_of(record) == name])
    if zero_is_same is None:
        raise ValueError(
            "question pairs whose is_duplicate may mean either: Quora's is 1 for the same question (--input_format "
            "question_pairs), that of the Korean pairs 0 (--input_format question_pairs_0_same)"
        )
    return "question_pairs_0_same" if zero_is_same else name


def kind_of_format(name: str) -> str:
    """ "training" or "preference"."""
    return FORMATS[ALIASES.get(name, name)].kind


def _known_keys() -> dict[str, list[tuple[str, ...]]]:
    """Format → the sets of keys that mark it, columns by their plain names."""
    return {name: [tuple(key.strip("<>") for key in mark) for mark in form.marks] for name, form in FORMATS.items()}
