"""The texts of a row that near-duplicates are told by: what it is about, what is asked, what is answered.

Rows of one task share instructions, and many questions are asked about one context on purpose. So the parts of a row
are compared each by itself, and rows are near-duplicates only if all of them are alike.
"""

import re
from bisect import bisect_left
from functools import lru_cache
from typing import Any, NamedTuple
from unicodedata import normalize

LONG = 200  # characters of a prompt that has a context
_CONTEXT = re.compile(r"###Context###:(.*?)(?=###Question###:|###Answer###:|\Z)", re.DOTALL)
_LABEL = re.compile(r"###(?:Question|Answer)###:")


class Parts(NamedTuple):
    """Of a row; "" where it has none."""

    task: str
    context: str
    asked: str
    answered: str
    rejected: str


def compared_texts(row: dict[str, Any]) -> Parts:
    """The parts of a converted row. System turns are left out: they are the frame of a task.

    The context is the section labelled `Context`; else the row's own `context`, where the prompt holds it; else the
    line with more than half of the prompt, if that is long. What is asked is the rest of the user turns; what is
    answered, all turns of the assistant (of a preference row, the chosen one).
    """
    turns = row["messages"] if "messages" in row else [*row["prompt"], *row["chosen"]]
    asked, answered = (
        "\n".join(turn["content"] for turn in turns if turn["role"] == role).strip() for role in ("user", "assistant")
    )
    context = getattr(row, "context", None) or ""
    if labelled := _CONTEXT.search(asked):
        context, asked = labelled[1], asked[: labelled.start()] + asked[labelled.end() :]
    else:
        if not context or context not in asked:
            lines = asked.splitlines()
            longest = max(lines, key=len, default="")
            context = longest if len(lines) > 1 and 2 * len(longest) > max(len(asked), LONG) else ""
        asked = asked.replace(context, "", 1)
    rejected = row["rejected"][0]["content"] if "rejected" in row else ""
    return Parts(row["task"] or "", context.strip(), _LABEL.sub("", asked).strip(), answered, rejected.strip())


def differing(left: Parts, right: Parts, third: Parts | None = None) -> list[tuple[str, str]]:
    """The pairs of texts to compare of two rows' parts: those that differ, without what does not make rows alike.

    Of what is asked, the lines that both have are left out: an instruction, or a context that is not labelled. Where
    many rows are alike, `third` is one more of them: what all three begin or end with is the frame of a task.
    """
    rows = (left, right) if third is None else (left, right, third)
    lines = [dict.fromkeys(" ".join(line.split()) for line in row.asked.splitlines()) for row in rows]
    both = lines[0].keys() & lines[1].keys()
    asked = ["\n".join(line for line in each if line not in both) for each in lines]
    parts = zip(*(row._replace(asked=text) for row, text in zip(rows, asked, strict=True)), strict=True)
    return [_without_frame(*texts) for texts in parts if texts[0] != texts[1]]


def _without_frame(left: str, right: str, third: str | None = None) -> tuple[str, str]:
    if third is None:
        return left, right
    texts = [_letters(text) for text in (left, right, third)]
    start = _shared(texts)
    texts = [text[start:] for text in texts]
    end = _shared([text[::-1] for text in texts])
    a, b = (text[: len(text) - end] for text in texts[:2])
    return (a, b) if a or b else (left, left)


def _shared(texts: list[str]) -> int:
    """How many characters all begin with."""
    least, most = min(texts), max(texts)
    return bisect_left(range(len(least)), True, key=lambda n: not most.startswith(least[: n + 1]))


@lru_cache(2**12)
def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, normalize("NFC", text.casefold()))) or text
