r"""Answers in the Markdown of Chainlit's page: HTML tables as Markdown, `\(…\)` and `\[…\]` as formulas, a dollar
sign escaped where it does not start a formula, and a colon in front of a word, which remark takes for a directive."""

import re

from sllm.page.html_tables import Tables

_SPECIAL = re.compile(r"```|~~~|`+|\\\[|\\\(|\\.|\$\$|\$|:(?=[^\W\d_])", re.DOTALL)
_INLINE = re.compile(r"\$(?![\s$])(?!\d[^$\n]*[가-힣])[^$\n]*(?<![\s\\])\$(?!\d)")  # pandoc's rule, and no prices
FENCES = ("```", "~~~")
MAX_OPEN = 4_000  # characters of one paragraph that are converted again when more text arrives


class Markdown:
    """Converts a stream of text; `rendered` is what the page shows of it so far."""

    def __init__(self) -> None:
        self.rendered = ""
        self._tables = Tables()
        self._settled = ""
        self._open = ""  # what later text may still change
        self._fence = ""  # of a long code block that has not ended

    @classmethod
    def of(cls, text: str) -> "Markdown":
        """Of a complete text."""
        markdown = cls()
        markdown.feed(text)
        markdown.close()
        return markdown

    def feed(self, text: str) -> None:
        self._add(self._tables.feed(text))

    def close(self) -> None:
        self._add(self._tables.close())

    def _add(self, text: str) -> None:
        self._open += text
        if self._fence:
            self._add_code()
        if not self._fence:
            self._settle()
        self.rendered = self._settled + (self._open if self._fence else with_formulas(self._open))

    def _settle(self) -> None:
        """Convert for good what later text cannot change."""
        end = self._open.rfind("\n\n") + 2
        while end > 1 and not _is_complete(self._open[:end]):
            end = self._open.rfind("\n\n", 0, end - 2) + 2
        if end > 1:
            self._settled += with_formulas(self._open[:end])
            self._open = self._open[end:]
        if len(self._open) <= MAX_OPEN:
            return
        self._fence = next((fence for fence in FENCES if self._open.count(fence) % 2), "")
        start = self._open.rfind(self._fence) + len(self._fence) if self._fence else len(self._open)
        self._settled += with_formulas(self._open[:start])
        self._open = self._open[start:]
        if self._fence:
            self._add_code()

    def _add_code(self) -> None:
        """A long code block passes unchanged, up to its end."""
        end = self._open.find(self._fence)
        stop = end + len(self._fence) if end >= 0 else max(len(self._open) - len(self._fence) + 1, 0)
        self._settled += self._open[:stop]
        self._open = self._open[stop:]
        if end >= 0:
            self._fence = ""


def render(text: str) -> str:
    """A complete text."""
    return Markdown.of(text).rendered


def _is_complete(text: str) -> bool:
    """No code block or formula continues after it."""
    return not (
        any(text.count(fence) % 2 for fence in FENCES) or text.count("$$") % 2 or text.count("\\[") > text.count("\\]")
    )


def with_formulas(text: str) -> str:
    """Formulas between dollar signs, other dollar signs and `:word` escaped; code stays as it is."""
    if not any(mark in text for mark in "$\\:"):
        return text
    parts: list[str] = []
    absent: set[str] = set()  # closing marks that are not in the rest: nothing is searched twice
    at = 0

    def closing(mark: str, start: int) -> int:
        end = -1 if mark in absent else text.find(mark, start)
        if end < 0:
            absent.add(mark)
        return end

    while match := _SPECIAL.search(text, at):
        mark, start, stop = match.group(), match.start(), match.end()
        converted = mark  # an escape, or a formula that does not end
        if mark == ":":
            converted = "\\:"
        elif mark.startswith(("`", "~")):
            end = closing(mark, stop)
            stop = end + len(mark) if end >= 0 else (len(text) if mark in FENCES else stop)
            converted = text[start:stop]
        elif mark in ("\\[", "\\("):
            end = closing("\\]" if mark == "\\[" else "\\)", stop)
            if end >= 0:
                formula, stop = text[stop:end].strip(), end + 2
                converted = f"\n$$\n{formula}\n$$\n" if mark == "\\[" else f"${formula}$"
        elif mark == "$$":
            end = closing("$$", stop)
            converted, stop = (text[start : end + 2], end + 2) if end >= 0 else ("\\$\\$", stop)
        elif mark == "$":
            inline = _INLINE.match(text, start)
            converted, stop = (inline.group(), inline.end()) if inline else ("\\$", stop)
        parts += text[at:start], converted
        at = stop
    return "".join(parts) + text[at:]
