"""Licences: which forbid commercial use, and that they are told and recorded from the data to the merged model."""

import json

import pytest

from sllm import licenses


@pytest.mark.parametrize(
    "name",
    ["cc-by-nc-4.0", "CC BY-NC-SA 4.0", "cc-by-nc-nd-4.0", "Non-Commercial Research", "research only", "비영리 목적",
     "CC-BY-NC-2.0 KR", "research-use-only", "noncommercial", "상업적 이용 금지", "상업적 사용 불가",
     "academic use only"],
)  # fmt: skip
def test_licences_that_forbid_commercial_use(name):
    assert licenses.is_non_commercial(name)


@pytest.mark.parametrize(
    "name",
    [
        "mit",
        "apache-2.0",
        "cc-by-sa-4.0",
        "cc-by-nd-2.0-kr",
        "gemma",
        "afl-3.0",
        "Academic Free License v3.0",
        "상업적 이용 가능",
        "공공누리 1유형",
        "",
        None,
    ],
)
def test_licences_that_allow_it(name):
    assert not licenses.is_non_commercial(name)


def test_the_licence_of_a_model_folder(tmp_path):
    assert licenses.of_model(tmp_path) is None
    card = tmp_path / "README.md"
    for text, expected in (
        ("---\nlicense: cc-by-nc-4.0\n---\n# model\n", "cc-by-nc-4.0"),
        ("---\nlicense: other\nlicense_name: research-only\n---\n", "research-only"),
        ("---\nlanguage: ko\n---\n", None),
        ("---\nlicense: [\n---\n", None),
        ("no front matter", None),
    ):
        card.write_text(text, encoding="utf-8")
        assert licenses.of_model(tmp_path) == expected
    assert licenses.of_model("some/model-that-is-not-here") is None
    assert licenses.of_model("not a model id") is None


def run(folder, stage, data, parents=()):
    folder.mkdir()
    record = {"stage": stage, "data": data, "parents": [{"path": str(parent)} for parent in parents]}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_sources_are_found_through_the_lineage(tmp_path):
    a, b = ({"path": f"/data/{name}.jsonl", "license": name, "rows": 3} for name in ("cc-by-nc-4.0", "mit"))
    data = run(tmp_path / "data", "data", {"sources": [a]})
    assert licenses.sources_of(data) == licenses.sources_of(data / "train.jsonl") == [a]
    assert licenses.sources_of(tmp_path / "rows.jsonl") == []
    sft = run(tmp_path / "sft", "sft", {"sources": [a]})
    dpo = run(tmp_path / "dpo", "dpo", {"sources": [b, a]}, [sft])
    assert licenses.of_lineage(dpo) == [a, b]
    assert licenses.of_lineage("hub/model") == []
    (note,) = licenses.notes(None, licenses.of_lineage(dpo))
    assert "cc-by-nc-4.0.jsonl (cc-by-nc-4.0)" in note
    assert licenses.notes(None, [b]) == []
