r"""Answers as Chainlit's page can show them: HTML tables as Markdown, `\(…\)` and `\[…\]` as formulas, and a dollar
sign as a dollar sign where it does not begin a formula."""

import re

from sllm.page.tables import Tables

_SPECIAL = re.compile(r"```|~~~|`+|\\\[|\\\(|\\.|\$\$|\$", re.DOTALL)
_INLINE = re.compile(r"\$(?![\s$])(?!\d[^$\n]*[가-힣])[^$\n]*(?<![\s\\])\$(?!\d)")  # pandoc's rule, and no prices
FENCES = ("```", "~~~")
LONGEST = 4_000  # characters of one paragraph that are looked at again when more comes


class Markdown:
    """A text as it comes, and what the page shows of it in `shown`."""

    def __init__(self) -> None:
        self.shown = ""
        self._tables = Tables()
        self._settled = ""
        self._open = ""  # what later text may still change
        self._fence = ""  # of a long code block that has not ended

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
        self.shown = self._settled + (self._open if self._fence else with_formulas(self._open))

    def _settle(self) -> None:
        """Put away what later text cannot change any more."""
        end = self._open.rfind("\n\n") + 2
        while end > 1 and not _is_whole(self._open[:end]):
            end = self._open.rfind("\n\n", 0, end - 2) + 2
        if end > 1:
            self._settled += with_formulas(self._open[:end])
            self._open = self._open[end:]
        if len(self._open) <= LONGEST:
            return
        self._fence = next((fence for fence in FENCES if self._open.count(fence) % 2), "")
        start = self._open.rfind(self._fence) + len(self._fence) if self._fence else len(self._open)
        self._settled += with_formulas(self._open[:start])
        self._open = self._open[start:]
        if self._fence:
            self._add_code()

    def _add_code(self) -> None:
        """A code block that is longer than what is looked at again goes through as it is, up to its end."""
        end = self._open.find(self._fence)
        stop = end + len(self._fence) if end >= 0 else max(len(self._open) - len(self._fence) + 1, 0)
        self._settled += self._open[:stop]
        self._open = self._open[stop:]
        if end >= 0:
            self._fence = ""


def show(text: str) -> str:
    """A whole text."""
    markdown = Markdown()
    markdown.feed(text)
    markdown.close()
    return markdown.shown


def _is_whole(text: str) -> bool:
    """No code block or formula goes on after it."""
    return not (
        any(text.count(fence) % 2 for fence in FENCES) or text.count("$$") % 2 or text.count("\\[") > text.count("\\]")
    )


def with_formulas(text: str) -> str:
    """Formulas between dollar signs, other dollar signs escaped; code stays as it is."""
    if "$" not in text and "\\" not in text:
        return text
    parts: list[str] = []
    absent: set[str] = set()  # closing marks that do not come any more: nothing is searched twice
    at = 0

    def closing(mark: str, start: int) -> int:
        found = -1 if mark in absent else text.find(mark, start)
        if found < 0:
            absent.add(mark)
        return found

    while found := _SPECIAL.search(text, at):
        mark, start = found.group(), found.start()
        parts.append(text[at:start])
        at = found.end()
        if mark.startswith(("`", "~")):
            end = closing(mark, at)
            stop = end + len(mark) if end >= 0 else (len(text) if mark in FENCES else at)
            parts.append(text[start:stop])
            at = stop
        elif mark in ("\\[", "\\("):
            end = closing("\\]" if mark == "\\[" else "\\)", at)
            if end < 0:
                parts.append(mark)
                continue
            formula = text[at:end].strip()
            parts.append(f"\n$$\n{formula}\n$$\n" if mark == "\\[" else f"${formula}$")
            at = end + 2
        elif mark == "$$":
            end = closing("$$", at)
            parts.append(text[start : end + 2] if end >= 0 else "\\$\\$")
            at = end + 2 if end >= 0 else at
        elif mark == "$":
            formula = _INLINE.match(text, start)
            parts.append(formula.group() if formula else "\\$")
            at = formula.end() if formula else at
        else:  # an escape
            parts.append(mark)
    parts.append(text[at:])
    return "".join(parts)
