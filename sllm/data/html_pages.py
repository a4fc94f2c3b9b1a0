"""The part of a web page that an answer stands in: a table, or the section between two headings. Standard library only.

KorQuAD 2 asks about whole Wikipedia pages, of 200,000 characters and more: nothing of that size can be trained on, and
the answer is in one section or table of it.
"""

import html
import re
from typing import NamedTuple

_MARKUP = re.compile(r"<(?:html|body|table|tr|td|ul|ol|li|p|div|h[1-6]|br)\b[^<>]*>", re.IGNORECASE)
_HEADING = re.compile(r"<h[1-6]\b", re.IGNORECASE)
_TABLE = re.compile(r"<(/?)table\b[^<>]*>", re.IGNORECASE)
_UNSEEN = re.compile(r"<(script|style|head)\b|<(!)--|<(!doctype)", re.IGNORECASE)
_UNSEEN_ENDS = {
    "!": re.compile("-->"),
    "!doctype": re.compile(">"),
    **{name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in ("script", "style", "head")},
}
_CELL_END = re.compile(r"</t[dh]\s*>\s*(?=<t[dh]\b)", re.IGNORECASE)
_LINE_END = re.compile(r"</(?:p|div|tr|li|h[1-6]|table|ul|ol|dd|dt|caption)\s*>|<br\s*/?>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_TABLE_TAG = re.compile(r"<(/?)(table|caption|thead|tbody|tr|th|td)\b([^<>]*)>", re.IGNORECASE)
_SPAN = re.compile(r"\b((?:row|col)span)\s*=\s*[\"']?(\d+)", re.IGNORECASE)


class Excerpt(NamedTuple):
    """`text`: HTML of a table, else plain text. `is_table`: which of them."""

    text: str
    is_table: bool


def is_html(text: str) -> bool:
    return _MARKUP.search(text) is not None


def excerpt(page: str, start: int, end: int) -> Excerpt:
    """What the characters from `start` to `end` of a page stand in: the outermost table that holds them all, its markup
    kept to rows, cells and spans; else the section."""
    for first, last in _tables(page):
        if first <= start and end <= last:
            return Excerpt(_table(page[first:last]), True)
    headings = [match.start() for match in _HEADING.finditer(page)]
    first = max((position for position in headings if position <= start), default=0)
    last = min((position for position in headings if position >= end), default=len(page))
    return Excerpt(plain(page[first:last]), False)


def _tables(page: str) -> list[tuple[int, int]]:
    """(first, last) position of each outermost table."""
    found, depth, first = [], 0, 0
    for tag in _TABLE.finditer(page):
        if not tag[1]:
            first = first if depth else tag.start()
            depth += 1
        elif depth:
            depth -= 1
            if not depth:
                found.append((first, tag.end()))
    return found


def _table(markup: str) -> str:
    """The table with its cells' texts, without links, styles and classes."""
    pieces, position = [], 0
    for tag in _TABLE_TAG.finditer(markup):
        pieces.append(" ".join(plain(markup[position : tag.start()]).split()))
        spans = "".join(f' {name.lower()}="{number}"' for name, number in _SPAN.findall(tag[3]) if number != "1")
        pieces.append(f"<{tag[1]}{tag[2].lower()}{spans}>")
        position = tag.end()
    return "".join(pieces)


def plain(markup: str) -> str:
    """The text of HTML: a line for each block, the cells of a table's row between bars."""
    text = _LINE_END.sub("\n", _CELL_END.sub(" | ", _seen(markup)))
    lines = (" ".join(line.split()) for line in html.unescape(_TAG.sub("", text)).split("\n"))
    return "\n".join(line for line in lines if line)


def _seen(markup: str) -> str:
    """Without scripts, styles and comments; what is not closed stays."""
    pieces, position, unclosed = [], 0, set()
    for opening in _UNSEEN.finditer(markup):
        name = next(filter(None, opening.groups())).lower()
        if opening.start() < position or name in unclosed:
            continue
        closing = _UNSEEN_ENDS[name].search(markup, opening.end())
        if not closing:
            unclosed.add(name)
            continue
        pieces.append(markup[position : opening.start()])
        position = closing.end()
    return "".join([*pieces, markup[position:]])
