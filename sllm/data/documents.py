"""Documents → their text: PDF, HTML, Markdown, Word (.docx) and Hangul (.hwpx, .hwp), each by a library of its own.

A document's text keeps its paragraphs, with an empty line between them; the cells of a table's row are joined by " | ".
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from sllm.cli import InputError
from sllm.data.data_files import files_in


class Document(NamedTuple):
    """`title`: None where the document has none."""

    title: str | None
    paragraphs: list[str]


def _pdf(path: Path) -> Document:
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of much that it can read all the same
    reader = PdfReader(path)
    if reader.is_encrypted and not reader.decrypt(""):
        raise ValueError("it is encrypted; remove its password")
    pages = [page.extract_text() or "" for page in reader.pages]
    if not any(page.strip() for page in pages):
        raise ValueError("it has no text, only images; run OCR over it first (such as ocrmypdf -l kor)")
    title = reader.metadata.title if reader.metadata else None
    return Document(title, [block for page in pages for block in page.split("\n\n")])


def _html(path: Path) -> Document:
    import trafilatura
    from lxml import html  # type: ignore[import-untyped]

    raw = path.read_bytes()
    tree = trafilatura.load_html(raw)
    if tree is None:
        raise ValueError("it has no HTML")
    title = tree.findtext(".//title")
    # The text of the article without menus and footers; of a page that has no such parts, all of its text.
    text = trafilatura.extract(raw, include_comments=False, include_tables=True, deduplicate=False)
    if not text:
        body = tree.find("body")
        text = html.tostring(tree if body is None else body, method="text", encoding="unicode")
    return Document(title, text.split("\n"))


def _markdown(path: Path) -> Document:
    from markdown_it import MarkdownIt

    paragraphs: list[str] = []
    title, opened = None, ""
    for token in MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8-sig")):
        if token.type == "inline":
            breaks = ("softbreak", "hardbreak")
            text = "".join("\n" if part.type in breaks else part.content for part in token.children or [])
            title = title or (text if opened == "heading_open" else None)
            if opened in ("th_open", "td_open"):
                paragraphs[-1] += f" | {text}" if paragraphs[-1] else text
            else:
                paragraphs.append(text)
        elif token.type == "tr_open":
            paragraphs.append("")
        elif token.type in ("fence", "code_block"):
            paragraphs.append(token.content)
        opened = token.type
    return Document(title, paragraphs)


def _docx(path: Path) -> Document:
    import docx
    from docx.table import Table

    document = docx.Document(str(path))
    paragraphs = []
    for part in document.iter_inner_content():
        if isinstance(part, Table):
            rows = [list(dict.fromkeys(cell.text.strip() for cell in row.cells)) for row in part.rows]
            paragraphs.append("\n".join(" | ".join(cells) for cells in rows))
        else:
            paragraphs.append(part.text)
    return Document(document.core_properties.title or None, paragraphs)


def _hwpx(path: Path) -> Document:
    from hwpx import HwpxDocument

    document = HwpxDocument.open(str(path))
    try:
        return Document(None, document.text.plain().split("\n"))
    finally:
        document.close()


READERS: dict[str, Callable[[Path], Document]] = {
    ".pdf": _pdf,
    ".html": _html,
    ".htm": _html,
    ".md": _markdown,
    ".markdown": _markdown,
    ".docx": _docx,
    ".hwpx": _hwpx,
    ".hwp": _hwpx,
}


def read_documents(path: str | Path) -> Iterator[dict[str, str | None]]:
    """{"id", "title", "context", "source"} of a document, or of each one in a folder, in the order of names.

    Raises:
        InputError: a file of another kind, or a folder without documents; at the end, every file that cannot be read
            or has no text. In a folder, files of other kinds are passed over, and what `files_in` leaves out.
    """
    files = [Path(path)]
    if files[0].is_dir():
        files = [Path(name) for name in files_in(str(path))[0] if is_document(name)]
        if not files:
            raise InputError(f"{path}: no documents in it ({', '.join(READERS)})")
    problems: list[str] = []
    for file in files:
        try:
            document = _read(file)
        except InputError as error:
            problems += error.problems
            continue
        paragraphs = [paragraph.strip() for paragraph in document.paragraphs]
        context = "\n\n".join(paragraph for paragraph in paragraphs if paragraph)
        if not context:
            problems.append(f"{file}: it has no text")
            continue
        title = document.title.strip() if document.title else None
        yield {"id": file.stem, "title": title or None, "context": context, "source": str(file)}
    if problems:
        raise InputError(problems)


def is_document(name: str) -> bool:
    return Path(name).suffix.lower() in READERS


def _read(path: Path) -> Document:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: not a document of a known kind ({', '.join(READERS)})")
    if not path.is_file():
        raise InputError(f"{path}: missing; check the path")
    try:
        return reader(path)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # each library has errors of its own for a damaged file
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: cannot be read: {text[0]}") from None
