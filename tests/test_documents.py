"""Documents of every kind, made here with the libraries that write them."""

import logging
import zipfile

import pytest

from sllm.cli import InputError
from sllm.data.documents import READERS, read_documents

FIRST, SECOND = "가온마을 도서관은 아침 아홉 시에 문을 엽니다.", "책은 한 번에 다섯 권까지 빌릴 수 있습니다."


def read(path):
    (document,) = read_documents(path)
    return document


def test_markdown(tmp_path):
    path = tmp_path / "안내.md"
    path.write_text(
        f"# 도서관 *안내*\n\n{FIRST}\n**강조**\n\n| 요일 | 시각 |\n|---|---|\n| 월 | 9시 |\n\n- {SECOND}\n",
        encoding="utf-8",
    )
    document = read(path)
    assert document["title"] == "도서관 안내"
    assert document["context"].split("\n\n") == ["도서관 안내", f"{FIRST}\n강조", "요일 | 시각", "월 | 9시", SECOND]
    assert document["id"] == "안내"
    assert document["source"] == str(path)


def test_html_without_its_menu(tmp_path):
    path = tmp_path / "page.html"
    menu = "".join(f'<li><a href="/{i}">메뉴 {i}</a></li>' for i in range(20))
    text = f"<p>{FIRST}</p><p>{SECOND}</p>" * 5
    path.write_text(
        f"<html><head><title>도서관</title><script>var x = 1;</script></head><body><nav><ul>{menu}</ul></nav>"
        f"<main><article><h1>도서관</h1>{text}</article></main></body></html>",
        encoding="utf-8",
    )
    document = read(path)
    assert document["title"] == "도서관"
    assert FIRST in document["context"]
    assert SECOND in document["context"]
    assert "메뉴" not in document["context"]
    assert "var x" not in document["context"]
    path.write_bytes(f"<html><head><meta charset=euc-kr></head><body>{FIRST}</body></html>".encode("cp949"))
    assert read(path)["context"] == FIRST


def test_word(tmp_path):
    import docx

    document = docx.Document()
    document.core_properties.title = "도서관"
    document.add_paragraph(FIRST)
    table = document.add_table(2, 2)
    for i, text in enumerate(("요일", "시각", "월", "9시")):
        table.cell(i // 2, i % 2).text = text
    document.add_paragraph(SECOND)
    document.save(str(tmp_path / "a.docx"))
    read_back = read(tmp_path / "a.docx")
    assert read_back["title"] == "도서관"
    assert read_back["context"] == f"{FIRST}\n\n요일 | 시각\n월 | 9시\n\n{SECOND}"


def test_hangul(tmp_path):
    from hwpx import HwpxDocument

    document = HwpxDocument.new()
    document.add_paragraph(FIRST)
    document.add_paragraph(SECOND)
    document.save_to_path(str(tmp_path / "a.hwpx"))
    assert read(tmp_path / "a.hwpx")["context"] == f"{FIRST}\n\n{SECOND}"


def pdf_with(text):
    """The smallest PDF with one line of text in a font that every reader has."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents 4 0 R "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
    ]
    stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode()
    objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    body = b"%PDF-1.4\n"
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return (
        body
        + b"xref\n0 5\n0000000000 65535 f \n"
        + table
        + b"trailer << /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % len(body)
    )


def test_pdf(tmp_path):
    (tmp_path / "a.pdf").write_bytes(pdf_with("The library opens at nine."))
    assert read(tmp_path / "a.pdf")["context"] == "The library opens at nine."
    (tmp_path / "scan.pdf").write_bytes(pdf_with(""))
    with pytest.raises(InputError, match="scan.pdf: cannot be read: it has no text, only images; run OCR"):
        read(tmp_path / "scan.pdf")


@pytest.mark.parametrize(
    "suffix", [suffix for suffix in READERS if suffix not in (".md", ".markdown", ".html", ".htm")]
)
def test_damaged_files_are_named(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    for content in (b"", b"%PDF-1.4\nnothing", b"PK\x03\x04broken", bytes(range(256)) * 40):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"a{suffix}: "):
            read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "not a document")
    with pytest.raises(InputError, match=f"a{suffix}: cannot be read"):
        read(path)


def test_a_folder_of_documents(tmp_path):
    (tmp_path / "b").mkdir()
    for name, text in (("b/2.md", SECOND), ("a.md", FIRST), ("note.txt", "x")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert [document["context"] for document in read_documents(tmp_path)] == [FIRST, SECOND]
    (tmp_path / "c").mkdir()
    for path, text in (
        (tmp_path / "c", "no documents"),
        (tmp_path / "note.txt", "not a document"),
        (tmp_path / "no.pdf", "missing"),
    ):
        with pytest.raises(InputError, match=text):
            read(path)
    (tmp_path / "empty.md").write_text("\n")
    with pytest.raises(InputError, match="it has no text"):
        read(tmp_path / "empty.md")


def test_a_folder_with_bad_documents_names_them_all_after_the_good_ones(tmp_path):
    for name, content in (("a.pdf", b"x"), ("b.md", FIRST.encode()), ("c.docx", b"x"), ("d.md", b" "),
                          ("out/report.md", b"no"), ("out/run.json", b"{}"), (".git/e.md", b"no")):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    documents = read_documents(tmp_path)
    assert next(documents)["context"] == FIRST
    with pytest.raises(InputError) as caught:
        next(documents)
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [
        str(tmp_path / name) for name in ("a.pdf", "c.docx", "d.md")
    ]


def test_warnings_about_a_document_are_not_printed(tmp_path, caplog):
    (tmp_path / "a.pdf").write_bytes(pdf_with("It opens at nine.").replace(b"startxref\n", b"startxref\n1"))
    logging.getLogger("pypdf").setLevel(logging.NOTSET)
    assert read(tmp_path / "a.pdf")["context"] == "It opens at nine."
    assert caplog.messages == []
