"""Files of every kind that is read → records, with their lines, and what cannot be read."""

import bz2
import datetime
import decimal
import gzip
import io
import json
import lzma
import os
import pickle
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sllm.cli import InputError
from sllm.data import field_map as field_maps
from sllm.data import hub_dataset, json_document, json_lines, separated
from sllm.data.readers import Unreadable, field_map, open_source

ROWS = [{"질문": f"물은 {n}도에 끓나?", "답변": '네,\n"그렇다"'} for n in range(3)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def records(path, fields=None, **options):
    """Every record, read through blocks that went to another process; the source, for its notes."""
    source = open_source(path, field_map=field_map(fields) if fields else None, **options)
    blocks = [pickle.loads(pickle.dumps(block)) for block in source.blocks()]
    return [record for block in blocks for record in block.records()], source


def values(path, fields=None, **options):
    found, source = records(path, fields, **options)
    assert not [record for _, record in found if isinstance(record, Unreadable)], found
    return [record for _, record in found], source


def refused(path, fields=None, **options):
    with pytest.raises(InputError) as caught:
        records(path, fields, **options)
    assert all(problem and "\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


# ── JSON Lines ─────────────────────────────────────────────────────────────────────────────────────────────


def test_lines_keep_their_numbers_over_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "BLOCK", 64)
    lines = [json.dumps({"n": n, "t": "가" * (n % 50)}, ensure_ascii=False).encode() for n in range(1, 200)]
    lines[9], lines[49], lines[99], lines[149] = b"", b"{]", b'{"n": "\xff"}', b"[1]"
    source = open_source(write(tmp_path / "rows.jsonl", b"\n".join(lines)))
    blocks = list(source.blocks())
    assert source.kind == "JSON Lines"
    assert len(blocks) > 50
    assert [block.end for block in blocks] == sorted(block.end for block in blocks)
    assert source.position == source.size
    found = dict(record for block in blocks for record in block.records())
    assert found.pop(50).reason.startswith("not JSON: Expecting property name")
    assert found.pop(100).reason == "not UTF-8: from byte 7 of the line on; correct it"
    assert found.pop(150).reason == "a row is a JSON object, not an array"
    assert {line: row["n"] for line, row in found.items()} == {
        n: n for n in range(1, 200) if n not in (10, 50, 100, 150)
    }


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        '{"a": 123456789012345678901234567890}',
        '{"a": -9223372036854775809}',
        '{"a": "\\ud800"}',
        '{"a": 1e999}',
        '{"a": "\\u0000"}',
        '{"a": 0.1234567890123456789}',
        '{"a": "가\u2028\x85나"}',
        '\ufeff{"a": 1}\r',
    ],
)
def test_values_are_those_of_the_json_module(tmp_path, text):
    (found, other), _ = values(write(tmp_path / "rows.jsonl", text + '\n{"b": 0}'))
    assert json.dumps(found) == json.dumps(json.loads(text.removeprefix("\ufeff")))
    assert other == {"b": 0}


def test_a_zero_byte_is_one_unreadable_line(tmp_path):
    found, _ = records(write(tmp_path / "rows.jsonl", b'{"a": "\0"}\n{"a": 1}\n'))
    assert found[1] == (2, {"a": 1})
    assert found[0][1].reason.startswith("not JSON: Invalid control character")


def test_too_deep_or_too_many_digits_is_one_unreadable_line(tmp_path):
    deep, long = '{"a": ' + "[" * 100_000, '{"a": ' + "9" * 5000 + "}"
    found, _ = records(write(tmp_path / "rows.jsonl", f'{{"a": 1}}\n{deep}\n{long}\n'))
    assert found[0] == (1, {"a": 1})
    assert "nested too deep" in found[1][1].reason
    assert "4300" in found[2][1].reason


# ── JSON documents ─────────────────────────────────────────────────────────────────────────────────────────

DOCUMENTS = {
    "array": ("[\n{}\n]", "rows"),
    "object": ('{{"version": "1", "info": {{"a": [1]}}, "data": [\n{}\n], "end": 1}}', "rows"),
}


@pytest.mark.parametrize("layout", DOCUMENTS)
@pytest.mark.parametrize("whole", [True, False])
def test_arrays_are_read_as_a_stream(tmp_path, monkeypatch, layout, whole):
    if not whole:
        monkeypatch.setattr(json_document, "WHOLE", 10)
        monkeypatch.setattr("sllm.data.json_text.CHUNK", 5)
    monkeypatch.setattr(json_document, "_BLOCK_CHARACTERS", 200)
    rows = [{"n": n, "t": '가[]{}",\\' * (n % 9), "f": 1.5 * n, "b": [True, None]} for n in range(80)]
    text = DOCUMENTS[layout][0].format(",\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    found, source = records(write(tmp_path / "rows.json", text))
    assert source.kind == "JSON"
    assert found == [(n + 2, row) for n, row in enumerate(rows)]
    assert len(list(open_source(tmp_path / "rows.json").blocks())) > 5
    spoiled = text.replace('"n": 40', '"n" 40').replace('"n": 60', '"n": 6\xff0')
    problems = refused(write(tmp_path / "bad.json", spoiled))
    assert [problem.split(": ")[0].rpartition(":")[2] for problem in problems] == ["42", "62"]
    blocks = open_source(tmp_path / "bad.json").blocks()
    read = []
    with pytest.raises(InputError):
        for block in blocks:
            read += block.records()
    assert [line for line, _ in read] == [line for line in range(2, 82) if line not in (42, 62)]


def test_an_article_of_a_squad_file_is_one_record(tmp_path):
    articles = [{"title": t, "paragraphs": [{"context": "C", "qas": []}]} for t in ("하나", "둘")]
    text = json.dumps({"version": "KorQuAD_v1.0", "data": articles}, indent=1, ensure_ascii=False)
    found, _ = records(write(tmp_path / "dev.json", text))
    assert [(line, record["title"]) for line, record in found] == [(4, "하나"), (13, "둘")]


def test_the_column_of_a_mistake_in_a_minified_array(tmp_path, monkeypatch):
    monkeypatch.setattr("sllm.data.json_text.CHUNK", 50)
    text = "[" + ",".join(f'{{"a":"{n}"}}' for n in range(1000)) + ',{"a" 1}]'
    (problem,) = refused(write(tmp_path / "rows.json", text))
    assert problem.endswith(f":1: not JSON: Expecting ':' delimiter (column {text.index('1}]') + 1}); correct it")


# ── CSV and TSV ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "Q,A\n물은?,100℃\n", {"Q": "물은?", "A": "100℃"}),
        ("a.csv", '"질문","답변"\r\n"가,""나""\n라","다"\r\n', {"질문": '가,"나"\n라', "답변": "다"}),
        ("a.csv", "\ufeffinstruction;output\n물은?;100℃\n", {"instruction": "물은?", "output": "100℃"}),
        ("a", "q|a\n물은?|100℃\n", {"q": "물은?", "a": "100℃"}),
        ("it's.tsv", '전제\t가설\tlabel\n"가\t나\tneutral\n', {"전제": '"가', "가설": "나", "label": "neutral"}),
        ("a.tsv", 'text\tlabel\n"그는 ""가"" 했다"\t1\n', {"text": '그는 "가" 했다', "label": "1"}),
        ("a.csv", "text\n[공지] 안녕\n", {"text": "[공지] 안녕"}),
        ("a.csv", "text,label\n[공지] 안녕,1\n", {"text": "[공지] 안녕", "label": "1"}),
        ("a.csv", ",document,label\n0,좋다,1\n", {"column1": "0", "document": "좋다", "label": "1"}),
        ("a.csv", "답변,답변,\n가,나,다\n", {"답변": "가", "답변_2": "나", "column3": "다"}),
        ("a.csv", "[x],y\n1,2\n", {"[x]": "1", "y": "2"}),
    ],
)  # fmt: skip
def test_columns_with_names(tmp_path, name, text, expected):
    found, source = values(write(tmp_path / name, text))
    assert found == [expected]
    assert source.kind.startswith(("CSV", "TSV"))
    assert not [note for note in source.notes if "no column names" in note]


@pytest.mark.parametrize(
    "text",
    [
        "수도는?,서울입니다.\n강은?,한강입니다.\n",
        "1,가\n2,나\n",
        "안녕\tneutral\n잘 가\tneutral\n",
        "가\t\n나\t다\n",
    ],
)
def test_columns_without_names(tmp_path, text):
    path = write(tmp_path / "rows.csv", text)
    found, source = values(path)
    assert [list(row) for row in found] == [["column1", "column2"]] * 2
    assert source.notes == [
        "no column names, so they are column1 to column2; name them, for example with "
        "--field_map question=column1,answer=column2"
    ]
    renamed, _ = values(path, "question=column1,answer=column2")
    assert [list(row) for row in renamed] == [["question", "answer"]] * 2


def test_lines_of_quoted_fields_and_ragged_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(separated, "_ROWS", 2)
    text = 'question,answer\n"a\nb",c\n\nd,e,f\n"g,h\ni,j\nk,"l"\nm\n'
    found, _ = records(write(tmp_path / "rows.csv", text))
    assert found == [
        (2, {"question": "a\nb", "answer": "c"}),
        (5, Unreadable("not CSV: 3 columns, the file has 2; correct it")),
        (6, Unreadable("not CSV: ',' expected after '\"'; correct it")),
        (7, {"question": "i", "answer": "j"}),
        (8, {"question": "k", "answer": "l"}),
        (9, Unreadable("not CSV: 1 columns, the file has 2; correct it")),
    ]


def test_an_open_quotation_mark_does_not_swallow_the_file(tmp_path):
    lines = [f"q{n},a{n}" for n in range(500)]
    lines[100] = 'q100,"a'
    found, _ = records(write(tmp_path / "rows.csv", "question,answer\n" + "\n".join(lines)))
    bad = [line for line, record in found if isinstance(record, Unreadable)]
    assert (len(found), bad) == (500, [102])
    lines[103] = 'q103,"a"'  # it closes here, and the row has two columns
    found, _ = records(write(tmp_path / "rows.csv", "question,answer\n" + "\n".join(lines)))
    assert len(found) == 500
    assert [line for line, record in found if isinstance(record, Unreadable)] == [102]
    lines[104:] = [f"{'가' * 50},b"] * 4000
    found, _ = records(write(tmp_path / "rows.csv", "question,answer\n" + "\n".join(lines)))
    assert len(found) == 4104


def test_broken_bytes_in_one_row(tmp_path):
    raw = "질문,답변\n".encode() + "물은?,뜨겁다\n".encode() * 20 + b"\xff,b\n"
    found, _ = records(write(tmp_path / "rows.csv", raw))
    assert len(found) == 21
    assert found[-1] == (22, Unreadable("not UTF-8; correct it"))


# ── Parquet, Arrow, Excel ──────────────────────────────────────────────────────────────────────────────────

NESTED = [
    {"id": n, "text": f"글 {n}", "qas": [{"q": "가", "spans": [1, 2]}], "none": None, "score": 0.5} for n in range(5000)
]


def arrow_table():
    import pyarrow as pa

    return pa.Table.from_pylist(NESTED)


def test_parquet_and_arrow_files(tmp_path):
    import pyarrow as pa
    from pyarrow import feather, parquet

    table = arrow_table()
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=1000)
    feather.write_feather(table, tmp_path / "a.feather")
    with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema) as out:
        out.write_table(table)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.parquet", "a.parquet")
    for name, kind in (("a.parquet", "Parquet"), ("a.feather", "Arrow"), ("a.arrow", "Arrow"), ("a.zip", "Parquet")):
        found, source = records(tmp_path / name)
        assert found == list(enumerate(NESTED, 1)), name
        assert source.kind.startswith(kind)
        assert source.position == source.size or name == "a.zip"
    assert max(len(pickle.dumps(block)) for block in open_source(tmp_path / "a.parquet").blocks()) < 300_000


def test_values_that_json_has_not(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    row = {"day": datetime.date(2024, 1, 2), "at": datetime.datetime(2024, 1, 2, 3), "n": decimal.Decimal("2"),
           "raw": b"\0\1", "list": [datetime.date(2024, 1, 2)]}  # fmt: skip
    parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    (found,), _ = values(tmp_path / "a.parquet")
    assert found == {"day": "2024-01-02", "at": "2024-01-02 03:00:00", "n": 2, "raw": "<2 bytes>",
                     "list": ["2024-01-02"]}  # fmt: skip
    json.dumps(found)
    dates = pa.table({"d": pa.array([0, 2**62], pa.timestamp("us")), "t": ["가", "나"]})
    parquet.write_table(dates, tmp_path / "b.parquet")
    (good, bad), _ = records(tmp_path / "b.parquet")
    assert good[1]["t"] == "가"
    assert bad[1].reason.startswith("not readable: ")


def test_a_folder_that_datasets_saved(tmp_path):
    import datasets

    made = datasets.Dataset.from_list(NESTED, info=datasets.DatasetInfo(license="cc-by-4.0"))
    made.save_to_disk(tmp_path / "saved", num_shards=2)
    found, source = values(tmp_path / "saved")
    assert found == NESTED
    assert (source.license, len(source.files)) == ("cc-by-4.0", 2)
    datasets.DatasetDict({"test": made, "train": made}).save_to_disk(tmp_path / "both")
    (problem,) = refused(tmp_path / "both")
    assert problem.endswith(f"with the splits test, train; name one: {tmp_path}/both/test")


def workbook(*sheets):
    """The bytes of an .xlsx file."""

    def cell(value):
        return f"<c><v>{value}</v></c>" if isinstance(value, int | float) else (
            f'<c t="inlineStr"><is><t>{value}</t></is></c>'
        )  # fmt: skip

    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    numbers = range(1, len(sheets) + 1)
    listed = "".join(f'<sheet name="시트{n}" sheetId="{n}" r:id="rId{n}"/>' for n in numbers)
    related = "".join(
        f'<Relationship Id="rId{n}" Type="{office}/worksheet" Target="worksheets/sheet{n}.xml"/>' for n in numbers
    )
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"/>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="rId1" '
        f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook {main} xmlns:r="{office}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">{related}</Relationships>',
    }
    for n, rows in zip(numbers, sheets, strict=True):
        body = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
        parts[f"xl/worksheets/sheet{n}.xml"] = f"<worksheet {main}><sheetData>{body}</sheetData></worksheet>"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return out.getvalue()


def test_an_excel_workbook(tmp_path):
    path = write(tmp_path / "a.xlsx", workbook([["질문", "점수"], ["물은?", 3], ["불은?", 2.5]], [["다른"]]))
    found, source = records(path)
    assert found == [(2, {"질문": "물은?", "점수": 3}), (3, {"질문": "불은?", "점수": 2.5})]
    assert source.kind == "Excel"
    assert source.notes == ["read is the sheet '시트1', not '시트2'"]
    assert "no rows" in refused(write(tmp_path / "b.xlsx", workbook([])))[0]
    assert "damaged zip" in refused(write(tmp_path / "c.xlsx", b"PK\x03\x04\x14xl/workbook.xml"))[0]
    assert "damaged Excel" in refused(write(tmp_path / "d.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600))[0]


# ── compressed files, archives, folders ────────────────────────────────────────────────────────────────────


def zstd(raw):
    import pyarrow

    return pyarrow.Codec("zstd").compress(raw, asbytes=True)


@pytest.mark.parametrize("pack", [gzip.compress, lambda raw: bz2.compress(raw, 1), lzma.compress, zstd])
def test_compressed_files(tmp_path, pack):
    found, source = values(write(tmp_path / "rows.jsonl.packed", pack(LINES)))
    assert found == ROWS
    assert source.position == source.size
    many = b"".join(b'{"n": %d, "t": "%d"}\n' % (n, n * 7919**9) for n in range(8_000))
    packed = pack(many)
    source = open_source(write(tmp_path / "cut.jsonl", packed[: len(packed) // 2]))
    read = []
    with pytest.raises(InputError, match="data is damaged or cut off after [0-9,]+ bytes of text .*get the file again"):
        for block in source.blocks():
            read += block.records()
    assert len(read) > 1_000
    assert [record["n"] for _, record in read] == list(range(len(read)))
    for name, text in (("a.csv", "질문,답변\n물은?,100\n"), ("a.json", json.dumps([{"질문": "물은?", "답변": "100"}]))):
        assert values(write(tmp_path / f"{name}.x", pack(text.encode())))[0] == [{"질문": "물은?", "답변": "100"}]


def korean_zip(path, members, *, flag=None):
    """As Windows writes it: CP949 names that do not say so."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo("x" * len(name.encode("cp949"))), content)
    raw = path.read_bytes()
    for name in members:
        raw = raw.replace(b"x" * len(name.encode("cp949")), name.encode("cp949"))
    path.write_bytes(raw)


def test_a_zip_archive_with_korean_names(tmp_path):
    members = {"라벨링/둘째.json": LINES[:0] + json.dumps(ROWS[1:]).encode(), "라벨링/가.json": json.dumps(ROWS[0])}
    korean_zip(tmp_path / "data.zip", members)
    source = open_source(tmp_path / "data.zip")
    blocks = list(source.blocks())
    assert [block.path for block in blocks] == [f"{tmp_path}/data.zip/라벨링/{n}.json" for n in ("가", "둘째")]
    assert [row for block in blocks for _, row in block.records()] == ROWS
    assert source.kind == "JSON, 2 files"
    assert source.files == [str(tmp_path / "data.zip")]
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("가.json", "{")
        archive.writestr("나.json", json.dumps(ROWS))
        archive.writestr("읽어보세요.txt", "안녕")
    (problem,) = refused(tmp_path / "bad.zip")
    assert problem.startswith(f"{tmp_path}/bad.zip/가.json:1: not JSON")


def test_a_folder_of_files_in_order(tmp_path):
    for n in (10, 9, 11):
        write(tmp_path / "원천" / f"{n}.json", json.dumps({"n": n, "글": "가"}, ensure_ascii=False))
    write(tmp_path / "a" / "rows.jsonl", '{"n": 1}\n{"n": 2}\n'.encode("utf-16"))
    write(tmp_path / "메모.txt", "안녕")
    write(tmp_path / ".DS_Store", b"\0")
    found, source = values(tmp_path)
    assert [record["n"] for record in found] == [1, 2, 10, 11, 9]
    assert source.notes == [
        "left out: 1 .txt",
        f"{tmp_path}/a/rows.jsonl: read as UTF-16 (the first such file)",
    ]
    assert source.position == source.size
    assert [r["n"] for r in values(f"{tmp_path}/**/9*.json")[0]] == [9]
    write(tmp_path / "원천" / "12.json", "{]")
    write(tmp_path / "원천" / "13.json", "안녕")
    problems = refused(tmp_path)
    assert [problem.split(": ")[0] for problem in problems] == [
        f"{tmp_path}/원천/12.json:1",
        f"{tmp_path}/원천/13.json",
    ]
    write(tmp_path / "b.csv", "a,b\n1,2\n")
    (problem,) = refused(tmp_path)
    assert "files of several kinds (6 JSON, 1 CSV or TSV); name one" in problem


@pytest.mark.parametrize(
    "blank", [b"", b" \r\n\n", b"\xef\xbb\xbf", "\n \n".encode("utf-16"), gzip.compress(b"\n" * 9999)],
    ids=["nothing", "lines", "mark", "utf-16", "gzip"],
)  # fmt: skip
def test_empty_files_among_others_are_left_out_with_a_note(tmp_path, blank):
    write(tmp_path / "rows.jsonl", LINES)
    empty = write(tmp_path / "empty.csv", blank)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("rows.jsonl", LINES)
        archive.writestr("empty.csv", blank)
    in_archive = f"{tmp_path}/z.zip/empty.csv"
    found, source = values(tmp_path)
    assert found == ROWS * 2
    assert source.notes == [f"left out: 2 empty files: {empty}, {in_archive}"]
    assert source.files == [str(tmp_path / "rows.jsonl"), str(tmp_path / "z.zip")]
    found, source = values(tmp_path / "z.zip")
    assert (found, source.notes) == (ROWS, [f"left out: 1 empty file: {in_archive}"])
    found, source = values(f"{tmp_path}/[er]*")
    assert (found, source.notes) == (ROWS, [f"left out: 1 empty file: {empty}"])
    for path in (empty, f"{tmp_path}/*.csv"):
        assert refused(path) == [f"{path}: no rows in it; give a file that has some"]


def test_hidden_folders_and_outputs_of_a_stage_are_left_out(tmp_path):
    write(tmp_path / "a" / "rows.jsonl", LINES)
    for name in ("out", "a/deep/out", ".cache"):
        write(tmp_path / name / "train.jsonl", "{]")
        write(tmp_path / name / "inner" / "b.csv", "a,b\n1,2\n")
    for name in ("out", "a/deep/out"):
        write(tmp_path / name / "run.json", "{}")
    found, source = values(tmp_path)
    assert found == ROWS
    listed = f"{tmp_path}/.cache (hidden), {tmp_path}/a/deep/out (a stage wrote it), {tmp_path}/out (a stage wrote it)"
    assert source.notes == [f"left out: 3 folders: {listed}"]


def test_an_archive_of_several_kinds_is_to_be_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("a.jsonl", LINES)
        archive.writestr("b.csv", "a,b\n1,2\n")
    (problem,) = refused(tmp_path / "m.zip")
    kinds = "files of several kinds (1 JSON, 1 CSV or TSV)"
    fix = f"unpack it first, and name the files of one kind: unzip {tmp_path}/m.zip"
    assert problem == f"{tmp_path}/m.zip: {kinds}; {fix}"


def test_a_downloaded_data_set_folder_names_its_licence(tmp_path):
    write(tmp_path / "README.md", "---\nlanguage: ko\nlicense: cc-by-nc-4.0\n---\n# 카드\n")
    write(tmp_path / "data" / "train-0.jsonl", LINES)
    write(tmp_path / "data" / "test-0.jsonl", LINES)
    source = open_source(tmp_path)
    assert source.license == "cc-by-nc-4.0"
    assert "the files of test, train are read together; to read one, name its files" in source.notes


# ── encodings ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "cp949"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_encodings_are_found_and_named(tmp_path, encoding, kind):
    rows = [{"질문": f"물은 {n}도에 끓나?", "답변": "아니요, 똠방각하"} for n in range(400)]
    text = {
        "jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        "json": json.dumps(rows, ensure_ascii=False, indent=1),
        "csv": "질문,답변\r\n" + "".join(f'"{row["질문"]}","{row["답변"]}"\r\n' for row in rows),
    }[kind]
    found, source = values(write(tmp_path / f"rows.{kind}", text.encode(encoding)))
    assert found == rows
    name = {"utf-8-sig": [], "cp949": ["read as CP949"]}.get(encoding, [f"read as {encoding.upper()}"])
    assert source.notes == name


def test_a_late_first_korean_character(tmp_path):
    text = '{"a": "ascii"}\n' * 10_000 + '{"a": "가나다"}\n'
    found, source = values(write(tmp_path / "rows.jsonl", text.encode("cp949")))
    assert found[-1] == {"a": "가나다"}
    assert source.notes == ["read as CP949"]


@pytest.mark.parametrize("broken", ["가나다".encode("cp949"), b"\xff", "가나".encode()[:-1]])
def test_a_few_broken_lines_are_no_other_encoding(tmp_path, broken):
    raw = LINES * 5 + b'{"a": "' + broken + b'"}\n' + LINES
    found, source = records(write(tmp_path / "rows.jsonl", raw))
    assert source.notes == []
    bad = [(line, record.reason) for line, record in found if isinstance(record, Unreadable)]
    assert [line for line, _ in bad] == [16]
    assert bad[0][1].startswith("not UTF-8: from byte ")
    assert len(found) == 19


def test_broken_lines_of_a_cp949_file(tmp_path):
    raw = "".join(f'{{"a": "물은 {n}도에 끓나요"}}\n' for n in range(99)).encode("cp949") + b'{"a": "\xb0\xa1\xff"}\n'
    found, source = records(write(tmp_path / "rows.jsonl", raw))
    assert source.notes == ["read as CP949"]
    assert found[-1] == (100, Unreadable("not CP949: from character 8 of the line on; correct it"))
    assert found[-2][1] == {"a": "물은 98도에 끓나요"}


def test_an_encoding_that_is_named(tmp_path):
    path = write(tmp_path / "rows.jsonl", '{"a": "été à Noël"}\n{"a": "ça"}\n'.encode("latin-1"))
    source = open_source(path)
    assert source.kind == "JSON Lines"
    list(source.blocks())
    assert source.notes == ["neither UTF-8 nor CP949; name its encoding with --encoding"]
    assert values(path, encoding="latin-1")[0] == [{"a": "été à Noël"}, {"a": "ça"}]
    assert refused(path, encoding="klingon") == ["--encoding klingon: unknown; for example utf-8, cp949, utf-16"]


# ── field maps ─────────────────────────────────────────────────────────────────────────────────────────────

MRC = {  # AIHub's machine reading comprehension
    "version": "1",
    "data": [
        {
            "title": "물",
            "paragraphs": [
                {
                    "context": "물은 100도에 끓는다.",
                    "qas": [
                        {"question": "언제?", "answers": [{"text": "100도", "answer_start": 3}]},
                        {"question": "무엇이?", "answers": [{"text": "물", "answer_start": 0}]},
                    ],
                },
                {"context": "불", "qas": [{"question": "왜?", "answers": []}]},
            ],
        },
        {"title": "강", "paragraphs": [{"context": "강", "qas": []}]},
    ],
}
SUMMARIES = {  # AIHub's document summaries
    "documents": [
        {"id": "1", "text": [[{"index": 0, "sentence": "하나."}, {"index": 1, "sentence": "둘."}],
         [{"index": 2, "sentence": "셋."}]], "abstractive": ["요약 1"]},
        {"id": "2", "text": [[{"index": 0, "sentence": "넷."}]], "abstractive": ["요약 2"]},
    ]
}  # fmt: skip
DIALOGUE = {  # one conversation a file
    "info": {"topic": "식사"},
    "utterances": [{"speaker": "A", "text": "밥 먹었어?"}, {"speaker": "B", "text": "아직."}],
    "annotation": {"summary": "식사를 묻는다."},
}


@pytest.mark.parametrize("indent", [None, 1])
def test_nested_questions_are_joined_with_their_contexts(tmp_path, indent):
    path = write(tmp_path / "mrc.json", json.dumps(MRC, ensure_ascii=False, indent=indent))
    fields = (
        "title=$.data[*].title, context=$.data[*].paragraphs[*].context, "
        "question=$.data[*].paragraphs[*].qas[*].question,"
        "answer=$.data[*].paragraphs[*].qas[*].answers[0].text,task='task08_01'"
    )
    found, _ = records(path, fields)
    assert [record for _, record in found] == [
        {"title": "물", "context": "물은 100도에 끓는다.", "question": "언제?", "answer": "100도", "task": "task08_01"},
        {"title": "물", "context": "물은 100도에 끓는다.", "question": "무엇이?", "answer": "물", "task": "task08_01"},
        {"title": "물", "context": "불", "question": "왜?", "task": "task08_01"},
        Unreadable("field_map: nothing at $.data[*].paragraphs[*].qas[*]: the array is empty"),
    ]
    last = path.read_text(encoding="utf-8").partition('"강"')[0].count("\n")
    assert [line for line, _ in found] == ([1] * 4 if indent is None else [4, 4, 4, last])


def test_every_text_below_is_one_text(tmp_path):
    path = write(tmp_path / "sum.json", json.dumps(SUMMARIES))
    found, _ = values(path, "context=$.documents[*].text..sentence,summary=$.documents[*].abstractive[0]")
    assert found == [{"context": "하나.\n둘.\n셋.", "summary": "요약 1"}, {"context": "넷.", "summary": "요약 2"}]
    assert values(path, "summary=$.documents[*].abstractive")[0][0] == {"summary": "요약 1"}


def test_a_conversation_a_file(tmp_path):
    fields = "text=$.utterances..['speaker','text'],summary=$.annotation.summary,topic=$['info']['topic']"
    for name in "ab":
        write(tmp_path / f"{name}.json", json.dumps(DIALOGUE))
    expected = {"text": "A: 밥 먹었어?\nB: 아직.", "summary": "식사를 묻는다.", "topic": "식사"}
    assert values(tmp_path, fields)[0] == [expected] * 2
    write(tmp_path / "more" / "rows.jsonl", json.dumps(DIALOGUE) + "\n" + json.dumps(DIALOGUE))
    assert values(tmp_path / "more", fields)[0] == [expected] * 2
    array = write(tmp_path / "array.json", json.dumps([DIALOGUE, DIALOGUE]))
    assert values(array, fields)[0] == [expected] * 2
    assert values(array, fields.replace("$", "$[*]"))[0] == [expected] * 2
    assert values(array, fields.replace("$", "$[1]"))[0] == [expected]
    lines = values(array, "speaker=$[*].utterances[*].speaker,topic=$[*].info.topic")[0]
    assert [record["speaker"] for record in lines] == ["A", "B"] * 2
    assert values(array, "line=$[*].utterances[*]['speaker','text']")[0][0] == {"line": "A: 밥 먹었어?"}


def test_lists_that_are_no_texts_stay_as_they_are(tmp_path):
    path = write(tmp_path / "rows.jsonl", json.dumps({"turns": [{"role": "user", "content": "가"}], "n": 1, "x": None}))
    assert values(path, "messages=$.turns,n=n,x=$.x,z=$.z")[0] == [
        {"messages": [{"role": "user", "content": "가"}], "n": 1, "x": None}
    ]
    ((_, missing),), _ = records(path, "a=$.b.c,task='t'")
    assert missing.reason == "field_map: no field is found in the record; its keys are turns, n, x"
    objects = write(tmp_path / "o.json", json.dumps({"data": {"가": {"t": "1"}, "나": {"t": "2"}}}))
    assert values(objects, "text=$.data[*].t")[0] == [{"text": "1"}, {"text": "2"}]
    ((_, missing),), _ = records(objects, "text=$.rows[*].t")
    assert missing.reason == "field_map: nothing at $.rows[*]; the document has the keys data"
    ((_, missing),), _ = records(write(tmp_path / "e.json", '{"rows": []}'), "text=$.rows[*].t")
    assert missing.reason == "field_map: nothing at $.rows[*]: it is empty, or no array"
    deep = write(tmp_path / "deep.jsonl", '{"a": ' * 900 + "1" + "}" * 900)
    assert len(records(deep, "text=$..b")[0]) == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "a field and its path are expected"),
        ("context", "a field and its path are expected"),
        ("context=", "a path starts with $, or is the name of a column"),
        ("context=$.a b", "expected .name"),
        ("a=$.x,a=$.y", "a is given twice"),
        ("a=$.x[1:2]", "slices and filters are not"),
        ("a=$.x[?@.y]", "slices and filters are not"),
        ("a=$.x[", "slices and filters are not"),
        ("a=$.", "a key is expected after the dot"),
        ("a=$.x,", "a field and its path are expected"),
        ("a='x'", "at least one field needs a path"),
        ("a=$.x[*].p,b=$.y[*].q", "a and b walk two arrays side by side ($.x[*], $.y[*])"),
        ("a=$.x[*].p[*],b=$.x[*].q[*]", "a and b walk two arrays side by side ($.p[*], $.q[*])"),
    ],
)
def test_a_mistake_in_a_field_map_is_shown(text, problem):
    with pytest.raises(InputError) as caught:
        field_map(text)
    (found,) = caught.value.problems
    assert found.startswith("--field_map")
    assert problem in found


def test_big_documents_are_mapped_an_element_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("sllm.data.json_text.CHUNK", 5)
    data = {"info": {"a": 1}, "data": [{"p": {"t": str(n)}, "x": "가" * 50} for n in range(300)], "z": [1]}
    path = write(tmp_path / "rows.json", json.dumps(data, ensure_ascii=False))
    whole = []
    monkeypatch.setattr(json_document, "_whole", lambda *_: whole.append(1) or iter(()))
    assert values(path, "text=$.data[*].p.t")[0] == [{"text": str(n)} for n in range(300)]
    assert not whole


# ── data sets of the Hub ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """`datasets` and the Hub's answers, with the repository owner/name as a local folder."""
    import datasets
    import huggingface_hub

    for split in ("train", "test"):
        write(tmp_path / "repo" / f"{split}.jsonl", "".join(f'{{"a": "{split} {n}"}}\n' for n in range(1500)))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    asked = []
    real_load, real_splits = datasets.load_dataset, datasets.get_dataset_split_names

    def load(path, name=None, *, split, revision, streaming):
        asked.append((path, name, split, revision, streaming))
        return real_load(str(tmp_path / "repo"), split=split, streaming=True)

    info = huggingface_hub.hf_api.DatasetInfo(
        id="owner/name", sha="abc123", tags=[], downloads=0, likes=0, private=False, disabled=False,
        cardData={"license": "cc-by-4.0"},
    )  # fmt: skip
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, repository, timeout: info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(
        datasets, "get_dataset_split_names", lambda path, name, revision: real_splits(str(tmp_path / "repo"))
    )
    return asked


def test_a_data_set_of_the_hub(hub):
    found, source = records("hub:owner/name")
    assert found == [(n + 1, {"a": f"train {n}"}) for n in range(1500)]
    assert (source.kind, source.license, source.revision) == ("Hub data set", "cc-by-4.0", "abc123")
    assert source.notes == ["read is the split train, not test", "revision abc123"]
    assert hub == [("owner/name", None, "train", "abc123", True)]
    assert values("hub:owner/name:test", "text=$.a")[0][0] == {"text": "test 0"}
    open_source("hub:owner/name:small:test")
    assert hub[-1] == ("owner/name", "small", "test", "abc123", True)
    assert refused("hub:owner/name:dev") == ["hub:owner/name:dev: no split 'dev'; it has train, test"]
    assert "is named hub:owner/name" in refused("hub:a/b/c")[0]


def test_no_network_names_the_command_that_downloads(monkeypatch):
    import huggingface_hub

    def unreachable(self, repository, timeout):
        raise ConnectionError("Name or service not known\n(host)")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    assert refused("hub:owner/name:train") == [
        "hub:owner/name:train: cannot be had from the Hub (Name or service not known (host)); check the name, or "
        "download it where there is a network (hf download owner/name --repo-type dataset --local-dir name) and give "
        "the folder: name"
    ]
    assert hub_dataset.parse("hub:nsmc:test") == ("nsmc", None, "test")


# ── what cannot be read ────────────────────────────────────────────────────────────────────────────────────


def encrypted_zip():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.json", "[]")
    raw = bytearray(out.getvalue())
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        raw[raw.index(magic) + offset] |= 1
    return bytes(raw)


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("a.jsonl", b"", "no rows in it"),
        ("a.jsonl", b" \n\n", "no rows in it"),
        ("a.json", b"[]", "no rows in it"),
        ("a.csv", b"question,answer\n", "no rows in it"),
        ("a.gz", gzip.compress(b""), "no rows in it"),
        ("a.gz", b"\x1f\x8b\x08", "the gzip data is damaged or cut off"),
        ("a.zip", encrypted_zip(), "encrypted; unpack it with its password: 7z x"),
        ("a.zip", b"PK\3\4 broken", "a damaged zip archive"),
        ("a.hwp", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "an HWP document"),
        ("a.pdf", b"%PDF-1.7\n", "a PDF document"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "an image"),
        ("a.html", b"<!DOCTYPE html><p>", "an HTML page"),
        ("a.db", b"SQLite format 3\0", "python build_preferences.py --from_chat"),
        ("a.parquet", b"PAR1\x15\x04", "a damaged Parquet file"),
        ("a.arrow", b"ARROW1\0\0", "a damaged Arrow file"),
        ("a.bin", bytes(range(256)), "a binary file"),
        ("a.txt", "안녕하세요, 여러분.\n오늘은\n".encode(), "plain text"),
        ("a.tar", b"\0" * 257 + b"ustar\0" + b"\0" * 300, "a tar archive; unpack it: tar -xf"),
    ],
)
def test_the_error_says_what_it_is_and_what_to_do(tmp_path, name, raw, said):
    path = write(tmp_path / name, raw)
    (problem,) = refused(path)
    assert problem.startswith(f"{path}: ")
    assert said in problem


def test_paths_that_name_nothing(tmp_path):
    assert refused(tmp_path / "none.jsonl") == [f"{tmp_path}/none.jsonl: missing; check the path"]
    assert refused(f"{tmp_path}/*.jsonl") == [f"{tmp_path}/*.jsonl: no file matches; check the path"]
    assert "no file with records in it" in refused(tmp_path)[0]
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be read" in refused(tmp_path / "loop")[0]
    assert "cannot be read" in refused("a\0b")[0]
    os.mkfifo(tmp_path / "pipe")
    assert "write its content to a file" in refused(tmp_path / "pipe")[0]
    write(tmp_path / "prepared" / "run.json", "{}")
    assert refused(tmp_path / "prepared")[0].endswith(f"name a file in it: {tmp_path}/prepared/train.jsonl")


starts = st.sampled_from(
    [b"", b"{", b"[", b'{"a": [', b'{"a": 1}\n', b"a,b\n1,2\n", b"a\tb\n", b"\xff\xfe", b"PK\3\4", b"PAR1", b"ARROW1\0",
     b"\x1f\x8b\x08\0", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\xff\xff\xff\xff", b"\xd0\xcf\x11\xe0", b"\0\0",
     b"\xef\xbb\xbf", workbook([["a", "b"], [1, 2]])[:400], gzip.compress(LINES)[:40], gzip.compress(LINES)]
)  # fmt: skip
pieces = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text("가나다", max_size=20).map(lambda text: text.encode("cp949")),
    st.sampled_from([b'"', b"\n", b"\r\n", b"\0", b",", b"[" * 3000, b'{"a":' * 2000, b'{"a": "', b"9" * 5000,
                     b"x" * 5000, b"}\n", b"]", b"\t", b"\\u", b"\xef\xbb\xbf"]),
)  # fmt: skip


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=starts, body=st.lists(pieces, max_size=8),
    suffix=st.sampled_from([".jsonl", ".json", ".csv", ".zip", ".xlsx"]),
    fields=st.sampled_from([None, "a=$..a", "a=$.a[*].b", "a=$[*].a", "b=b"]),
    packed=st.sampled_from([None, gzip.compress]),
)  # fmt: skip
def test_no_bytes_end_in_a_traceback(tmp_path, start, body, suffix, fields, packed):
    raw = start + b"".join(body)
    path = write(tmp_path / f"fuzz{suffix}", packed(raw) if packed else raw)
    try:
        found, _ = records(path, fields)
    except InputError as error:
        assert error.problems
        return
    assert found
    for line, record in found:
        assert line >= 1
        assert isinstance(record, dict | Unreadable)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text("abc=$.[]*,'\" 0-1?:가", max_size=30), document=st.recursive(
    st.none() | st.integers() | st.text("abc", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
))  # fmt: skip
def test_any_field_map_is_parsed_or_refused(text, document):
    try:
        fields = field_map(text)
    except InputError:
        return
    assert all(isinstance(row, dict | str) for row in fields.records(document))
    assert fields == field_maps.field_map(fields.text)
