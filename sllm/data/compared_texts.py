"""The texts of a row that near-duplicates are told by: what it is about, what is asked, what is answered.

Rows of one task share instructions, and many questions are asked about one context on purpose. So the parts of a row
are compared each by itself, and rows are near-duplicates only if all of them are alike.
"""

import re
from typing import Any, NamedTuple

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


def differing(left: Parts, right: Parts) -> list[tuple[str, str]]:
    """The pairs of texts to compare of two rows' parts: those that differ. Of what is asked, the lines that both have
    are left out: an instruction, or a context that is not labelled, does not make two questions alike."""
    a, b = (dict.fromkeys(" ".join(line.split()) for line in asked.splitlines()) for asked in (left.asked, right.asked))
    left = left._replace(asked="\n".join(line for line in a if line not in b))
    right = right._replace(asked="\n".join(line for line in b if line not in a))
    return [pair for pair in zip(left, right, strict=True) if pair[0] != pair[1]]
