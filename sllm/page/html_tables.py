"""HTML tables in answers, as Markdown tables: the page does not render HTML, so that no answer can run a script."""

import re
from html.parser import HTMLParser

_START = re.compile("<table", re.IGNORECASE)
_END = re.compile("</table>", re.IGNORECASE)
_TAG = re.compile(r"</?(t[rdh]|table)\b[^>]*>?", re.IGNORECASE)
MAX_LENGTH = 200_000  # characters of an open table that are held back; if a model never closes it, its text shows


class Tables:
    """Turns a stream of text with HTML tables into one with Markdown tables. A table shows when it is complete.

    `feed` returns what can be shown; `close` the rest: of an unfinished table the complete rows, and the text after.
    """

    def __init__(self):
        self._pending = ""  # from the start of a table on, or of what may become one

    def feed(self, text: str) -> str:
        text, output = self._pending + text, ""
        while (start := _START.search(text)) and (end := _END.search(text, start.start())):
            output += text[: start.start()] + markdown_table(text[start.start() : end.end()])
            text = text[end.end() :]
        stop = start.start() if start else len(text) - _maybe_start(text)
        if start and len(text) - stop > MAX_LENGTH:
            stop = len(text)
        self._pending = text[stop:]
        return output + text[:stop]

    def close(self) -> str:
        rest, self._pending = self._pending, ""
        rows = rest.lower().rfind("</tr>") + len("</tr>")
        if not rest.lower().startswith("<table") or rows < len("</tr>"):
            return rest
        table = markdown_table(rest[:rows])
        return table + (rest[rows:] if table == rest[:rows] else _TAG.sub(" ", rest[rows:]).strip())


def convert(text: str) -> str:
    """A complete text with its HTML tables as Markdown."""
    tables = Tables()
    return tables.feed(text) + tables.close()


def _maybe_start(text: str) -> int:
    """How many characters at the end may be the start of a table."""
    end = text[-5:].lower()
    return next((length for length in range(len(end), 0, -1) if "<table".startswith(end[-length:])), 0)


def markdown_table(html: str) -> str:
    """One HTML table as a Markdown table between blank lines; cells with spans are repeated, as Markdown has no spans.
    What is not a table stays as it is."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    rows = _spread(reader.rows)
    width = max((len(row) for row in rows), default=0)
    if not width:
        return html
    rows = [row + [""] * (width - len(row)) for row in rows]
    rows.insert(1, ["---"] * width)
    caption = f"**{_escape(reader.caption)}**\n\n" if reader.caption.strip() else ""
    return "\n\n" + caption + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n\n"


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.rows: list[list[tuple[str, int, int]]] = []
        self.caption = ""
        self._cell: list | None = None
        self._in_caption = False

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self._end_cell()
            self.rows.append([])
        elif tag in ("td", "th"):
            self._end_cell()
            spans = dict(attributes)
            self._cell = ["", _span(spans.get("rowspan")), _span(spans.get("colspan"))]
        elif tag == "br" and self._cell:
            self._cell[0] += " "
        elif tag == "caption":
            self._in_caption = True

    def handle_endtag(self, tag):
        if tag in ("td", "th", "tr", "table"):
            self._end_cell()
        elif tag == "caption":
            self._in_caption = False

    def handle_data(self, data):
        if self._cell:
            self._cell[0] += data
        elif self._in_caption:
            self.caption += data

    def _end_cell(self):
        if self._cell:
            text, down, across = self._cell
            if not self.rows:
                self.rows.append([])
            self.rows[-1].append((_escape(text), down, across))
            self._cell = None


def _span(value: str | None) -> int:
    return min(int(value), 100) if value and value.isdigit() and value != "0" else 1


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _spread(rows: list[list[tuple[str, int, int]]]) -> list[list[str]]:
    grid: list[dict[int, str]] = [{} for _ in rows]
    for number, row in enumerate(rows):
        column = 0
        for text, down, across in row:
            while column in grid[number]:
                column += 1
            for below in range(number, min(number + down, len(rows))):
                for beside in range(column, column + across):
                    grid[below].setdefault(beside, text)
            column += across
    return [[cells.get(column, "") for column in range(max(cells, default=-1) + 1)] for cells in grid if cells]
