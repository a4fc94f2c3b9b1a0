"""Reading files, detecting formats, converting rows; strict loading."""

import json
import random

import pytest
from format_records import LABELLED_TEXTS, PREFERENCE, TRAINING

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
        ("system_user_assistant", ORIGINAL, [SYSTEM, USER, ANSWER]),
        ("system_user_assistant", {**ORIGINAL, "system_prompt": ""}, [USER, ANSWER]),
        ("system_user_assistant", {**ORIGINAL, "system_prompt": " \n"}, [USER, ANSWER]),
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
        (
            "alpaca",
            {"instruction": "가", "input": "나", "context": "다", "response": "라"},
            [{"role": "user", "content": "가\n\n나\n\n다"}, {"role": "assistant", "content": "라"}],
        ),
        (
            "alpaca",
            {"instruction": "물은?", "input": "", "context": "", "output": "100℃", "response": "100℃"},
            [USER, ANSWER],
        ),
        (
            "messages",
            {"messages": [USER, {**ANSWER, "weight": 0}, USER, {**WORSE, "weight": 1.0}]},
            [USER, {**ANSWER, "weight": 0}, USER, {**WORSE, "weight": 1}],
        ),
        (
            "messages",
            {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "100℃"}]}]},
            [USER, ANSWER],
        ),
        ("prompt_completion", {"prompt": "물은?", "completion": "100℃", "label": True}, [USER, ANSWER]),
        ("system_user_assistant", {**ORIGINAL, "task": "summarization"}, [SYSTEM, USER, ANSWER]),
        ("system_user_assistant", {**ORIGINAL, "system_prompt": " ", "system": "답하라."}, [SYSTEM, USER, ANSWER]),
    ],
)
def test_training_rows(name, row, expected):
    assert formats.detect([row]) == name
    converted = formats.convert(row, name)
    assert converted == {"id": converted["id"], "task": row.get("task"), "messages": expected}
    assert len(converted["id"]) == 12


def test_the_old_name_of_a_format_is_accepted():
    assert formats.convert(ORIGINAL, "original") == formats.convert(ORIGINAL, "system_user_assistant")


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
        ({"messages": [{"role": "tool", "content": "x"}, ANSWER]}, "tool turn: message 1 (tool) cannot be trained"),
        ({"messages": [{"role": "critic", "content": "x"}, ANSWER]}, "unknown role: 'critic' in message 1"),
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
        ({"instruction": "물은?", "output": "100℃", "history": "a"}, "history is not a list"),
        ({**ORIGINAL, "task": ["task02"]}, "task is neither text nor a number: an array"),
        ({**ORIGINAL, "id": {}}, "id is neither text nor a number: an object"),
        ({**ORIGINAL, "task": "\ud83d"}, "broken character: U+D83D at character 0 in the task"),
        ({**ORIGINAL, "assistant_content": "물\ufffd"}, "broken character: U+FFFD"),
        ({**ORIGINAL, "assistant_content": "물\ud83d"}, "broken character: U+D83D"),
        ({**ORIGINAL, "id": "\ud83d"}, "broken character: U+D83D"),
        ({**ORIGINAL, "task": True, "assistant_content": ""}, "empty answer: message 3; task is neither text nor"),
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


# ── nothing that a row says is lost ────────────────────────────────────────────────────────────────────────

KTO = {"prompt": [USER], "completion": [WORSE], "label": False}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (KTO, "label is false: a bad answer must not be learned"),
        ({**ORIGINAL, "label": False}, "label is false"),
        ({"prompt": "물은?", "completion": "글쎄", "kto_tag": False}, "label is false"),
        ({"prompt": "물은?", "completion": "글쎄", "label": 0}, "label is neither true nor false: 0"),
        ({**PAIR, "label": False}, "label is false"),
        ({**ORIGINAL, "system": "달리 답하라."}, "system_prompt and system differ"),
        ({"instruction": "물은?", "output": "100℃", "response": "200℃"}, "output and response differ"),
        ({"messages": [USER, ANSWER], "tools": [{"type": "function"}]}, "tools cannot be trained here"),
        ({"messages": [USER, ANSWER], "functions": [{"name": "f"}]}, "functions cannot be trained here"),
        ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{}]}]},
         "tool_calls cannot be trained"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{}]}]},
         "message without role and content: message 2 has"),
        ({"messages": [USER, ANSWER], "images": ["a.png"]}, "images cannot be trained here"),
        ({**PAIR, "images": ["a.png"]}, "images cannot be trained here"),
        ({"messages": [{**USER, "images": ["a.png"]}, ANSWER]}, "images cannot be trained here: message 1"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}, ANSWER]},
            "content is not text: an array of text, image_url in message 1",
        ),
        ({"messages": [USER, {**ANSWER, "reasoning_content": "음"}]},
         "reasoning_content is not read: message 2; write it"),
        ({"messages": [USER, {**ANSWER, "thinking": "음"}]}, "thinking is not read"),
        ({"prompt": [USER], "completion": [{**ANSWER, "reasoning": "음"}]}, "reasoning is not read"),
        ({**PAIR, "chosen": [{**ANSWER, "reasoning_content": "음"}]}, "reasoning_content is not read"),
        ({"messages": [USER, {**ANSWER, "train": False}]}, 'train is not read: message 2; write "weight": 0'),
        ({"messages": [USER, {**ANSWER, "weight": 0.5}]}, "weight is neither 0 nor 1: 0.5 in message 2"),
        ({"messages": [USER, {**ANSWER, "weight": True}]}, "weight is neither 0 nor 1: True"),
        ({"messages": [USER, {**ANSWER, "weight": "1"}]}, "weight is neither 0 nor 1: '1'"),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, "nothing to learn: every answer has the weight 0"),
        ({**PAIR, "chosen": [{**ANSWER, "weight": 0}]}, "weight is not 1"),
        ({**PAIR, "score_chosen": 3, "score_rejected": 5.5}, "score_chosen is below score_rejected: 3 < 5.5"),
        ({**PAIR, "chosen_rating": 1, "rejected_rating": 2}, "chosen_rating is below rejected_rating"),
        ({**PAIR, "margin": -0.5}, "margin is below 0"),
        ({"prompt": "물은?", "speech": "100℃"}, "no assistant turn; nothing reads the keys 'speech'"),
        ({"messages": [{"who": "human", "value": "물은?"}]},
         "message without role and content: message 1 has the keys 'who'"),
    ],
)  # fmt: skip
def test_rows_that_say_what_cannot_be_trained_are_refused(row, reason):
    with pytest.raises(ValueError) as caught:
        formats.convert(row, formats.format_of(row))
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("row", "ignored"),
    [
        ({**ORIGINAL, "source": "web", "difficulty": 3, "note": None}, ("source", "difficulty")),
        ({"messages": [{**USER, "name": "철수"}, {**ANSWER, "name": "봇", "prefix": True}]}, ("message name",
         "message prefix")),
        ({"messages": [{**USER, "weight": 1}, ANSWER], "tools": [], "label": "neutral"}, ("tools", "label",
         "message weight")),
        ({**PAIR, "score_chosen": 5, "score_rejected": 3, "margin": 2}, ("score_chosen", "score_rejected", "margin")),
        ({**PAIR, "prompt": [USER, {**ANSWER, "weight": 0}, USER]}, ("message weight",)),
        ({"instruction": "물은?", "output": "100℃", "text": "전체", "history": []}, ("text",)),
        ({"prompt": "물은?", "completion": "100℃", "label": True}, ()),
        (ORIGINAL, ()),
    ],
)  # fmt: skip
def test_keys_that_nothing_uses_are_named(row, ignored):
    assert formats.convert(row, formats.format_of(row)).ignored == ignored


def test_every_key_is_used_or_named_or_refuses_the_row():
    """Any key at any place of any format: the rows differ with it, or name it, or are refused."""
    records = [(name, record) for name, record, _ in [*TRAINING, *LABELLED_TEXTS, *PREFERENCE]]
    assert {name for name, _ in records} == formats.FORMATS.keys()  # a new format needs a record there
    keys = "context input label weight tools images reasoning_content system foo name thinking history score".split()
    for name, record in records:
        plain = formats.rows_of(record, name)
        places = [lambda r: r]
        lists = [k for k, value in record.items() if isinstance(value, list) and isinstance(value[-1], dict)]
        places += [lambda r, k=k: r[k][-1] for k in lists]
        for place in places:
            for key in keys:
                changed = json.loads(json.dumps(record))
                if key in place(changed):
                    continue
                place(changed)[key] = "말"
                rows = formats.rows_of(changed, name)
                named = [key for row in rows if not isinstance(row, formats.Refused) for key in row.ignored]
                assert rows != plain or any(key in text for text in named), (name, key)


def test_load_rows_counts_ignored_keys_and_mistyped_tasks(tmp_path):
    rows = [{**ORIGINAL, "source": "web", "task": task} for task in ("task1_01", "summarization", "task04_01", None)]
    loaded = formats.load_rows(write(tmp_path / "rows.jsonl", *rows, {**ORIGINAL, "url": "a"}), "sft")
    assert formats.ignored_keys(loaded) == {"source": 4, "url": 1}
    assert formats.notes(loaded) == [
        "ignored keys: source (4 rows), url (1 row)",
        "warning: task 'task1_01' (1 row) is not a task id and is kept as a label; task01_01 was probably meant",
    ]
    assert [(row.file, row.line) for row in loaded] == [(str(tmp_path / "rows.jsonl"), n) for n in range(1, 6)]
    assert json.dumps(loaded[0]) == json.dumps(dict(loaded[0]))
    assert "line" not in loaded[0]


def test_a_bad_answer_still_asks_its_question(tmp_path):
    (prompt,) = formats.load_rows(write(tmp_path / "kto.jsonl", KTO), "prompts")
    assert prompt["messages"] == [USER]
    assert prompt["reference"] is None
    row = {"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]}
    (prompt,) = formats.load_rows(write(tmp_path / "weights.jsonl", row), "prompts")
    assert prompt["messages"] == [USER, ANSWER, USER]
    assert prompt["reference"] == "100℃"


# ── other files than JSON ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("a.csv", "\ufeffq,a,label\n물은?,100℃,0\n".encode(), ["물은?", "100℃"]),
        ("a.csv", '"질문","답변"\r\n"가,""나""\n라","다"\r\n'.encode("cp949"), ['가,"나"\n라', "다"]),
        ("a.csv", "instruction;output\n물은?;100℃\n".encode(), ["물은?", "100℃"]),
        ("a.txt", "Q\tA\n물은?\t100℃\n".encode("utf-16"), ["물은?", "100℃"]),
        ("a.csv", "질문,맥락,정답\nQ,C,A\n".encode(),
         ["###Context###:\nC\n\n###Question###:\nQ\n\n###Answer###:", "A"]),
        ("q.json", b'{"version": "1", "data": [{"title": "t", "paragraphs": [{"context": "C", "qas": [{"id": "1", '
         b'"question": "Q", "answers": [{"text": "C", "answer_start": 0}]}]}]}]}', [None, "C"]),
    ],
)  # fmt: skip
def test_files_and_their_columns_are_read(tmp_path, name, raw, expected):
    path = tmp_path / name
    path.write_bytes(raw)
    (row,) = formats.load_rows(path, "sft")
    assert [turn["content"] for turn in row["messages"]] == [
        text or turn["content"] for text, turn in zip(expected, row["messages"], strict=True)
    ]


def test_labels_of_a_tsv_become_words(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes('sentence1\tsentence2\tgold_label\n"가\t나\tneutral\n'.encode())
    (row,) = formats.load_rows(path, "sft")
    assert row["messages"][0]["content"].endswith('\n\n전제: "가\n가설: 나')
    assert row["messages"][1]["content"] == "중립"


@pytest.mark.parametrize("header", ["question,chosen,rejected", "질문,좋은답변,나쁜답변", "rejected,chosen,prompt"])
def test_columns_of_a_preference_become_a_pair(tmp_path, header):
    columns = header.split(",")
    values = {name: "나쁨" if name in ("rejected", "나쁜답변") else "좋음" for name in columns}
    values |= {name: "질문?" for name in columns if name in ("question", "질문", "prompt")}
    path = tmp_path / "pairs.csv"
    path.write_text(f"{header}\n{','.join(values[name] for name in columns)}\n", encoding="utf-8")
    (pair,) = formats.load_rows(path, "preference")
    assert [pair[key][0]["content"] for key in ("prompt", "chosen", "rejected")] == ["질문?", "좋음", "나쁨"]


def test_a_csv_of_pairs_keeps_its_system_prompt(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("id,system_prompt,질문,chosen,rejected\n7,짧게,물은?,100℃,몰라요\n", encoding="utf-8")
    (pair,) = formats.load_rows(path, "preference")
    assert (pair["id"], pair["prompt"]) == ("7", [{"role": "system", "content": "짧게"}, USER])


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"PAR1\x15\x04", "a damaged Parquet file"),
        (b"PK\x03\x04\x14\0\0", "a damaged zip archive"),
        (b"SQLite format 3\0", "build_preferences.py --from_chat"),
        ("안녕하세요, 여러분.\n오늘은\n".encode(), "plain text"),
        ("첫째, 둘째\n셋째, 넷째\n".encode(), "plain text"),
        (b"{'instruction': 'a', 'output': None}\n", "Python's quotes; write the rows with json.dumps"),
    ],
)
def test_a_file_that_is_not_json_is_named(tmp_path, raw, said):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(raw)
    (problem,) = problems(formats.load_rows, path, "sft")
    assert said in problem


# ── bad rows that a run may leave out ──────────────────────────────────────────────────────────────────────


def many(tmp_path, *bad, good=40):
    text = "".join(json.dumps({**ORIGINAL, "id": n}, ensure_ascii=False) + "\n" for n in range(good))
    (tmp_path / "rows.jsonl").write_bytes(text.encode() + b"".join(line + b"\n" for line in bad))
    return tmp_path / "rows.jsonl"


@pytest.mark.parametrize("bad", [b'{"a" 1}', b'{"user_content": "\xb0\xa1"}', b"[1]", json.dumps(KTO).encode()])
def test_one_bad_row_is_left_out_where_that_is_allowed(tmp_path, bad):
    path = many(tmp_path, bad)
    found = problems(formats.load_rows, path, "sft")
    assert len(found) == 2
    assert f"{path}:41: " in found[0]
    assert found[1] == f"{path}: --skip_bad_rows leaves out such rows (1 of 41 rows)"
    skipped = formats.Skipped(True)
    assert len(formats.load_rows(path, "sft", skipped=skipped)) == 40
    (entry,) = skipped.rows
    assert (entry["file"], entry["line"]) == (str(path), 41)
    assert entry["reason"]
    assert skipped.lines()[0] == f"skipped 1 of 41 rows of {path}:"
    assert f"{path}:41: " in skipped.lines()[1]
    assert json.loads(skipped.write(tmp_path).read_text(encoding="utf-8")) == entry
    assert formats.Skipped(True).write(tmp_path / "none") is None


def test_more_than_the_share_is_an_error(tmp_path):
    path = many(tmp_path, b"{]", b"{]", b"{]")
    found = problems(lambda: formats.load_rows(path, "sft", skipped=formats.Skipped(True)))
    assert [line.split(": ")[0] for line in found] == [f"{path}:{n}" for n in (41, 42, 43)] + [str(path)]
    assert "3 of 43 rows cannot be used, and --skip_bad_rows leaves out at most 5%" in found[-1]
    assert "--skip_bad_rows" not in " ".join(problems(formats.load_rows, path, "sft"))  # it would not help


def test_a_damaged_array_is_never_read_in_part(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("[" + ",\n".join([json.dumps(ORIGINAL)] * 40) + ",\n{]]", encoding="utf-8")
    assert "not JSON" in problems(lambda: formats.load_rows(path, "sft", skipped=formats.Skipped(True)))[0]


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
def test_json_layouts_are_detected(tmp_path, text, lines):
    path = tmp_path / "rows"
    path.write_text(text, encoding="utf-8", newline="")
    assert formats.read_file(path) == [(lines[0], {"a": 1}), (lines[1], {"a": 2})]


def test_a_line_ends_at_a_line_feed_only(tmp_path):
    row = {"a": "가\u2028나\x85다"}
    assert formats.read_file(write(tmp_path / "rows.jsonl", row, row)) == [(1, row), (2, row)]


@pytest.mark.parametrize("row", [{"messages": [USER, ANSWER]}, {"id": 1, "conversations": [{"from": "human"}]}])
def test_one_row_is_not_an_array_of_rows(tmp_path, row):
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
        (b'{"a": 1}\n{"a": "\xff"}\n{"a": 3,}\n', [":2", ":3"]),
        ('{"a": "가"'.encode("utf-16"), [":1"]),
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
    assert formats.read_file(path) == [(1, {"a": 1}), (2, {"a": "가나"}), (3, {"a": "가나"})]
    path.write_bytes(b'{"a": 1}\n' + '{"a": "\xe9"}\n'.encode("latin-1") * 2)
    (problem,) = problems(formats.read_file, path)
    assert problem.startswith(f"{path}:2: not UTF-8 (2 lines)")
    assert f"iconv -f ENCODING -t UTF-8 {path}" in problem


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
    assert "empty answer" in found[0]
    assert "not a row of the file's format" in found[1]
    assert "not JSON" in found[2]


def test_load_rows_counts_what_it_does_not_list(tmp_path):
    path = write(tmp_path / "rows.jsonl", *[{"messages": [USER]}] * 45)
    found = problems(formats.load_rows, path, "sft")
    assert len(found) == 21
    assert found[-1].startswith(f"{path}: 25 more such lines: 21, 22, ")
    assert found[-1].endswith(", 40, …")


def test_load_rows_names_the_script_for_the_other_sort(tmp_path):
    rows, pairs = write(tmp_path / "rows.jsonl", ORIGINAL), write(tmp_path / "pairs.jsonl", PAIR)
    (problem,) = problems(formats.load_rows, pairs, "sft")
    assert "train_LoRA_DPO.py reads those" in problem
    (problem,) = problems(formats.load_rows, rows, "preference")
    assert "train_LoRA_SFT.py reads those" in problem
    assert formats.load_rows(pairs, "preference")[0]["chosen"] == [ANSWER]
    (problem,) = problems(formats.load_rows, write(tmp_path / "kto.jsonl", KTO), "preference")
    assert "KTO rows" in problem
    assert "SFT" not in problem


def test_prompts_keep_the_reference_answer(tmp_path):
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
