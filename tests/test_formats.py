"""Reading files, detecting formats, converting rows; strict loading."""

import json
import random

import pytest

from sllm.cli import InputError
from sllm.data import formats

USER, ANSWER = {"role": "user", "content": "물은?"}, {"role": "assistant", "content": "100℃"}
SYSTEM, WORSE = {"role": "system", "content": "답하라."}, {"role": "assistant", "content": "몰라요"}
ORIGINAL = {"system_prompt": "답하라.", "user_content": "물은?", "assistant_content": "100℃", "task": "task04_01"}
PAIR = {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]}


def write(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def problems(call, *args):
    with pytest.raises(InputError) as caught:
        call(*args)
    return caught.value.problems


# ── each format becomes exactly these rows ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        ("original", ORIGINAL, [SYSTEM, USER, ANSWER]),
        ("original", {**ORIGINAL, "system_prompt": ""}, [USER, ANSWER]),
        ("original", {**ORIGINAL, "system_prompt": " \n"}, [USER, ANSWER]),
        ("messages", {"messages": [SYSTEM, USER, ANSWER, USER, WORSE]}, [SYSTEM, USER, ANSWER, USER, WORSE]),
        ("messages", {"messages": [{**USER, "name": "철수"}, ANSWER]}, [USER, ANSWER]),
        ("messages", {"system": "답하라.", "messages": [USER, ANSWER]}, [SYSTEM, USER, ANSWER]),
        ("prompt_completion", {"prompt": "물은?", "completion": "100℃"}, [USER, ANSWER]),
        ("prompt_completion", {"prompt": [SYSTEM, USER], "completion": [ANSWER]}, [SYSTEM, USER, ANSWER]),
        ("prompt_completion", {"prompt": [SYSTEM, USER], "completion": "100℃"}, [SYSTEM, USER, ANSWER]),
        ("alpaca", {"instruction": "물은?", "input": "", "output": "100℃"}, [USER, ANSWER]),
        ("alpaca", {"instruction": "물은?", "output": "100℃", "system": "답하라."}, [SYSTEM, USER, ANSWER]),
        (
            "alpaca",
            {"instruction": "옮겨라", "input": " 물 ", "output": "water"},
            [{"role": "user", "content": "옮겨라\n\n 물 "}, {"role": "assistant", "content": "water"}],
        ),
    ],
)
def test_training_rows(name, row, expected):
    assert formats.detect([row]) == name
    converted = formats.convert(row, name)
    assert converted == {"id": converted["id"], "task": row.get("task"), "messages": expected}
    assert len(converted["id"]) == 12


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        (PAIR, [USER]),
        ({"prompt": "물은?", "chosen": "100℃", "rejected": "몰라요"}, [USER]),
        ({"system": "답하라.", "prompt": "물은?", "chosen": "100℃", "rejected": "몰라요"}, [SYSTEM, USER]),
        ({"chosen": [SYSTEM, USER, ANSWER], "rejected": [SYSTEM, USER, WORSE]}, [SYSTEM, USER]),
        ({"prompt": "물은?", "chosen": [USER, ANSWER], "rejected": [USER, WORSE]}, [USER]),
        ({"prompt": "물은?", "chosen": [SYSTEM, USER, ANSWER], "rejected": [SYSTEM, USER, WORSE]}, [SYSTEM, USER]),
        ({"prompt": [SYSTEM, USER], "chosen": [USER, ANSWER], "rejected": [USER, WORSE]}, [SYSTEM, USER]),
    ],
)
def test_preference_rows(row, prompt):
    assert formats.detect([row]) == "preference"
    converted = formats.convert({"id": 7, "task": "task02", **row}, "preference")
    assert converted == {"id": "7", "task": "task02", "prompt": prompt, "chosen": [ANSWER], "rejected": [WORSE]}


def test_texts_stay_as_they_are_and_ids_are_stable():
    text = " \u2028가\r\n\u1100\u1161 \U0001f600\t"
    row = {"prompt": text, "completion": text}
    converted = formats.convert(row, "prompt_completion")
    assert [turn["content"] for turn in converted["messages"]] == [text, text]
    assert converted["id"] == formats.convert({"messages": converted["messages"]}, "messages")["id"]
    assert converted["id"] != formats.convert({**row, "completion": text + "나"}, "prompt_completion")["id"]
    assert formats.convert({**row, "id": "가-1"}, "prompt_completion")["id"] == "가-1"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [USER]}, "no assistant turn"),
        ({"messages": []}, "no assistant turn"),
        ({"instruction": "물은?"}, "no assistant turn"),
        ({"messages": [USER, ANSWER, USER]}, "no answer to the last user turn"),
        ({"messages": [ANSWER]}, "no user turn"),
        ({"messages": [ANSWER, USER]}, "roles out of order"),
        ({"messages": [USER, SYSTEM, ANSWER]}, "roles out of order"),
        ({"messages": [USER, USER, ANSWER]}, "roles out of order"),
        ({"messages": [SYSTEM, SYSTEM, USER, ANSWER]}, "roles out of order"),
        ({"messages": [{"role": "tool", "content": "x"}, ANSWER]}, "unknown role"),
        ({"messages": [{"role": ["user"], "content": "x"}, ANSWER]}, "unknown role"),
        ({"messages": "물은?"}, "messages is not a list"),
        ({"messages": [{"content": "물은?"}, ANSWER]}, "message without role and content"),
        ({"messages": ["물은?", ANSWER]}, "message without role and content"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "text"}]}]}, "content is not text"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "content is not text"),
        ({**ORIGINAL, "user_content": "\n"}, "empty user content"),
        ({**ORIGINAL, "assistant_content": ""}, "empty answer"),
        ({**ORIGINAL, "assistant_content": "\u200b \ufeff"}, "empty answer"),
        ({**ORIGINAL, "assistant_content": 3}, "content is not text"),
        ({**ORIGINAL, "system_prompt": 3}, "content is not text"),
        ({"instruction": ["물은?"], "output": "100℃"}, "content is not text"),
        ({"instruction": "물은?", "output": "100℃", "history": [["a", "b"]]}, "history is not read"),
        ({**ORIGINAL, "task": "task99"}, "unknown task id: 'task99'"),
        ({**ORIGINAL, "task": ["task02"]}, "unknown task id"),
        ({**ORIGINAL, "id": {}}, "id is no text or number"),
        ({**ORIGINAL, "assistant_content": "물\ufffd"}, "broken character: U+FFFD"),
        ({**ORIGINAL, "assistant_content": "물\ud83d"}, "broken character: U+D83D"),
        ({**ORIGINAL, "id": "\ud83d"}, "broken character: U+D83D"),
        ({**ORIGINAL, "task": "task99", "assistant_content": ""}, "empty answer: message 3; unknown task id: 'task99'"),
        ({**PAIR, "rejected": [ANSWER]}, "chosen and rejected are the same"),
        ({"prompt": "물은?", "chosen": "100℃", "rejected": "100℃\n"}, "chosen and rejected are the same"),
        ({"prompt": "물은?", "chosen": "100℃"}, "no rejected answer"),
        ({"prompt": "물은?", "chosen": "", "rejected": "x"}, "empty answer"),
        ({"chosen": "100℃", "rejected": "x"}, "no user turn"),
        ({**PAIR, "rejected": [USER, WORSE]}, "chosen and rejected are one assistant turn each"),
        ({"chosen": [USER, ANSWER], "rejected": [SYSTEM, USER, WORSE]}, "chosen and rejected do not share"),
        ({"prompt": "불은?", "chosen": [USER, ANSWER], "rejected": [USER, WORSE]}, "prompt differs"),
    ],
)
def test_refused_rows(row, reason):
    with pytest.raises(ValueError) as caught:
        formats.convert(row, formats.format_of(row))
    assert str(caught.value).startswith(reason)


def test_a_file_has_the_format_of_most_of_its_rows():
    rows = [{"prompt": "물은?", "chosen": "100℃"}, {**PAIR}, {"instruction": "물은?", "output": "100℃"}]
    assert formats.detect(rows) == "preference"
    with pytest.raises(ValueError, match="not a row of the file's format, preference: it has the keys 'instruction'"):
        formats.convert(rows[2], "preference")
    with pytest.raises(ValueError, match="no known format: the rows have the keys 'question'"):
        formats.detect([{"question": "물은?"}])


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('{"a": 1}\n\n{"a": 2}\n', [1, 3]),
        ('\ufeff{"a": 1}\r\n{"a": 2}', [1, 2]),
        ('[{"a": 1}, {"a": 2}]', [1, 1]),
        ('[\n  {"a": 1},\n  {\n    "a": 2\n  }\n]\n', [2, 3]),
        ('{"version": "1: [", "data": [\n{"a": 1},\n{"a": 2}]}', [2, 3]),
    ],
)
def test_layouts(tmp_path, text, lines):
    path = tmp_path / "rows"
    path.write_text(text, encoding="utf-8", newline="")
    assert formats.read_file(path) == [(lines[0], {"a": 1}), (lines[1], {"a": 2})]


def test_a_line_ends_at_a_line_feed_only(tmp_path):
    row = {"a": "가\u2028나\x85다"}
    assert formats.read_file(write(tmp_path / "rows.jsonl", row, row)) == [(1, row), (2, row)]


@pytest.mark.parametrize("row", [{"messages": [USER, ANSWER]}, {"id": 1, "conversations": [{"from": "human"}]}])
def test_one_row_is_no_array_of_rows(tmp_path, row):
    assert formats.read_file(write(tmp_path / "rows.jsonl", row)) == [(1, row)]
    (tmp_path / "rows.json").write_text(json.dumps(row, indent=2), encoding="utf-8")
    assert formats.read_file(tmp_path / "rows.json") == [(1, row)]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", [""]),
        (b"\n \n", [""]),
        (b"[]", [""]),
        (b'{"data": []}', [""]),
        (b'{"a": 1\n{"a": 2}\n{"a" 3}\n[4]\n"x"\n', [":1", ":3", ":4", ":5"]),
        (b'[\n {"a": 1},\n {"a" 2},\n {"a": 3}\n {"a": 4},\n {"a": 5},\n 6]', [":3", ":5", ":7"]),
        (b'[\n {"a": 1},\n {"a": 2}\n', [":4"]),
        (b'[{"a": 1},]', [":1"]),
        (b'[{"a": 1}]\n{"a": 2}', [":2"]),
        (b'{"data": [\n {"a": 1},\n {"a" 2},\n {"a": 3},\n {"a" 4}\n]}', [":3", ":5"]),
        (b'{\n "a": 1\n}\n{\n "a": 2\n}', [":1"]),
        (b'{\n "a": 1,\n}', [":3"]),
        (b'{"a": 1}\n{"a": "\xb0\xa1"}\n{"a": 3,}\n', [":2", ":3"]),
        ('{"a": "가"}'.encode("utf-16"), [":1"]),
        (b"[" * 100_000, [":1"]),
        (b'{"a": ' + b"9" * 5000 + b"}", [":1"]),
    ],
)
def test_everything_wrong_with_a_file_at_once(tmp_path, raw, expected):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(raw)
    found = problems(formats.read_file, path)
    assert [problem.removeprefix(str(path)).split(" ")[0].removesuffix(":") for problem in found] == expected, found


def test_not_utf8_says_where_and_how_to_convert(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + '{"a": "가나"}\n'.encode("cp949") * 2)
    (problem,) = problems(formats.read_file, path)
    assert problem.startswith(f"{path}:2: not UTF-8 (from byte 16 on, 2 lines)")
    assert f"iconv -f CP949 -t UTF-8 {path}" in problem


def test_missing_and_folder(tmp_path):
    assert problems(formats.read_file, tmp_path / "no.jsonl") == [f"{tmp_path}/no.jsonl: missing; check the path"]
    assert "a folder; name" in problems(formats.read_file, tmp_path)[0]


def test_reading_recovers_every_good_record_around_bad_ones(tmp_path):
    """Random files of either layout with random lines spoiled: each spoiled line is named, and no other."""
    for seed in range(60):
        order = random.Random(seed)
        number, spoiled = order.randint(1, 30), set()
        lines = [json.dumps({"n": i, "t": '가[]{}",'}, ensure_ascii=False) for i in range(number)]
        for i in order.sample(range(number), order.randint(0, number // 3)):
            spoiled.add(i)
            lines[i] = order.choice(['{"n" 1}', '{"n": 1}}', '{"n": tru}', '{"n": "x}', "{'n': 1}"])
        path = tmp_path / "rows"
        array = order.random() < 0.5
        path.write_text("[\n" + ",\n".join(lines) + "\n]" if array else "\n".join(lines), encoding="utf-8")
        rows, found = formats.scan(path)
        first = 2 if array else 1
        assert [row["n"] for _, row in rows] == [i for i in range(number) if i not in spoiled]
        assert [line - first for line, row in rows] == [row["n"] for _, row in rows]
        assert [line - first for line, _ in found] == sorted(spoiled)


# ── strict loading ─────────────────────────────────────────────────────────────────────────────────────────


def test_load_rows_lists_syntax_and_refused_rows_together(tmp_path):
    path = write(tmp_path / "rows.jsonl", ORIGINAL, {**ORIGINAL, "assistant_content": ""}, {"x": 1})
    path.write_text(path.read_text(encoding="utf-8") + "{]\n", encoding="utf-8")
    found = problems(formats.load_rows, path, "sft")
    assert [problem.split(": ")[0] for problem in found] == [f"{path}:{n}" for n in (2, 3, 4)]
    assert "empty answer" in found[0] and "not a row of the file's format" in found[1] and "no JSON" in found[2]


def test_load_rows_counts_what_it_does_not_list(tmp_path):
    path = write(tmp_path / "rows.jsonl", *[{"messages": [USER]}] * 45)
    found = problems(formats.load_rows, path, "sft")
    assert len(found) == 21
    assert found[-1].startswith(f"{path}: 25 more such lines: 21, 22, ") and found[-1].endswith(", 40, …")


def test_load_rows_names_the_script_for_the_other_sort(tmp_path):
    rows, pairs = write(tmp_path / "rows.jsonl", ORIGINAL), write(tmp_path / "pairs.jsonl", PAIR)
    (problem,) = problems(formats.load_rows, pairs, "sft")
    assert "train_LoRA_DPO.py reads those" in problem
    (problem,) = problems(formats.load_rows, rows, "preference")
    assert "train_LoRA_SFT.py reads those" in problem
    assert formats.load_rows(pairs, "preference")[0]["chosen"] == [ANSWER]


def test_prompts(tmp_path):
    path = write(
        tmp_path / "rows.jsonl", {"messages": [SYSTEM, USER]}, {"messages": [USER, ANSWER, USER, WORSE], "id": 1}
    )
    first, second = formats.load_rows(path, "prompts")
    assert first == {"id": first["id"], "task": None, "messages": [SYSTEM, USER], "reference": None}
    assert second == {"id": "1", "task": None, "messages": [USER, ANSWER, USER], "reference": "몰라요"}
    (pair,) = formats.load_rows(write(tmp_path / "pairs.jsonl", PAIR), "prompts")
    assert pair == {"id": pair["id"], "task": None, "messages": [USER], "reference": "100℃"}
    bad = write(tmp_path / "bad.jsonl", {**ORIGINAL, "assistant_content": ""})
    assert "empty answer" in problems(formats.load_rows, bad, "prompts")[0]


def test_prompt_ids_are_unique(tmp_path):
    path = write(tmp_path / "rows.jsonl", *({"id": name, "messages": [USER]} for name in ("a", "a", "a#2", "a")))
    assert [row["id"] for row in formats.load_rows(path, "prompts")] == ["a", "a#3", "a#2", "a#4"]


def test_a_folder_has_to_be_a_finished_data_folder(tmp_path):
    write(tmp_path / "train.jsonl", ORIGINAL)
    assert "prepare_data.py" in problems(formats.load_rows, tmp_path, "sft")[0]
    (tmp_path / "run.json").write_text('{"stage": "data"}', encoding="utf-8")
    assert len(formats.load_rows(tmp_path, "sft")) == 1
