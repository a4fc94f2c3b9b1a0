"""Every format of records: what it becomes, what it refuses, what is told about formats that are not known."""

import json
import random
import shlex

import pytest
from format_records import ASK, CONTEXT, LABELLED_TEXTS, PREFERENCE, TELL, TRAINING, squad_article, squad_question
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sllm import tasks
from sllm.data import field_map, formats, html_pages
from sllm.data.converters import Refused, rows_of

ALL = [*TRAINING, *LABELLED_TEXTS, *PREFERENCE]
NAMES = [f"{name}-{number}" for number, (name, *_) in enumerate(ALL)]


def detected(record):
    """The format of a file of such records. Question pairs are told apart by pairs that resemble each other."""
    if "is_duplicate" not in record:
        return formats.detect([record])
    other = {"question1": "비가 오나?", "question2": "누구세요", "is_duplicate": 1 - int(record["is_duplicate"])}
    return formats.detect([record, other])


def reasons(record, name=None, **keywords):
    rows = rows_of(record, name or formats.format_of(record), **keywords)
    assert all(isinstance(row, Refused) for row in rows), rows
    return [row.reason for row in rows]


# ── each format ────────────────────────────────────────────────────────────────────────────────────────────


def test_every_format_has_a_record():
    assert {name for name, *_ in ALL} == formats.FORMATS.keys()


@pytest.mark.parametrize(("name", "record", "expected"), TRAINING, ids=NAMES[: len(TRAINING)])
def test_training_records(name, record, expected):
    assert detected(record) == name
    before = json.dumps(record)
    rows = rows_of(record, name)
    assert json.dumps(record) == before  # it is written to rejects.jsonl as it was
    assert [row["messages"] for row in rows] == expected
    assert len({row["id"] for row in rows}) == len(rows)


@pytest.mark.parametrize(("name", "record", "expected"), LABELLED_TEXTS, ids=[name for name, *_ in LABELLED_TEXTS])
def test_labelled_records(name, record, expected):
    assert detected(record) == name
    rows = rows_of(record, name)
    for row, (end, answer) in zip(rows, expected, strict=True):
        question, told = row["messages"]
        assert question["content"].endswith(end)
        assert "{" not in question["content"]
        assert told["content"] == answer
        assert row["task"] not in tasks.TASKS
        assert row.context  # rows about one text stay in one split
    assert rows_of(record, name) == rows


@pytest.mark.parametrize(("name", "record", "expected"), PREFERENCE, ids=NAMES[-len(PREFERENCE) :])
def test_preference_records(name, record, expected):
    assert detected(record) == name
    assert formats.kind_of_format(name) == "preference"
    rows = rows_of(record, name)
    found = [(row["prompt"], row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows]
    assert found == expected


@pytest.mark.parametrize(("name", "record", "expected"), ALL, ids=NAMES)
def test_the_texts_of_a_record_are_all_in_its_rows(name, record, expected):
    """Back again: every text of the source is in the rows, or its key is listed, or it is a label or an id."""
    rows = rows_of(record, name)
    written = json.dumps([dict(row) for row in rows], ensure_ascii=False)
    ignored = {key for row in rows for key in row.ignored}
    labels = {
        "label",
        "hate",
        "bias",
        "gold_label",
        "contain_gender_bias",
        "score",
        "role",
        "from",
        "model",
        "is_duplicate",
    }
    labels |= {"Task_name", "guid", "id"}
    for key, text in texts(record):
        if key in ignored or key in labels or any(named.endswith(f" {key}") for named in ignored) or not text:
            continue
        parts = [part for part in text.replace("### ", "\n").split("\n") if part.strip()]
        if name == "marked_text" or "Human:" in text or "인간:" in text or text in ("글쎄", "몰라요", "고마워"):
            continue  # markers, and answers that are neither the best nor the worst
        assert all(json.dumps(part, ensure_ascii=False)[1:-1].strip() in written for part in parts), (key, text)


def texts(value, key=""):
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from texts(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item, key)


def test_wordings_differ_and_stay():
    rows = [rows_of({"id": n, "document": f"영화 {n}", "label": n % 2}, "sentiment")[0] for n in range(60)]
    lead = {row["messages"][0]["content"].partition("\n\n")[0] for row in rows}
    assert len(lead) == 3
    assert {row["messages"][1]["content"] for row in rows} == {"긍정", "부정"}


def test_rows_of_one_record_have_ids_of_their_own():
    record = {"id": "s", "instruction": "옮겨라", "instances": [{"input": "가", "output": "a"}] * 2}
    assert [row["id"] for row in rows_of(record, "self_instruct")] == ["s-1", "s-2"]
    questions = [squad_question(), squad_question() | {"id": "q2"}]
    assert [row["id"] for row in rows_of(squad_article(*questions), "squad")] == ["q1", "q2"]


def test_an_earlier_task_gets_its_id_and_another_stays_a_label():
    record = {"input": "물은?", "output": "100℃"}
    names = ["Extractive_QA_Short_Answer", "summarise it", None]
    found = [rows_of(record | {"Task_name": name}, "input_output")[0]["task"] for name in names]
    assert found == ["kositp09", "summarise it", None]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([("비가 오나?", "비가 오나요?", 0), ("비가 오나?", "누구세요?", 1)] * 3, "question_pairs_0_same"),
        ([("비가 오나?", "비가 오나요?", "1"), ("비가 오나?", "누구세요?", "0")] * 3, "question_pairs"),
        ([("비가 오나?", "비가 오나요?", 1)], None),
        ([("가나다", "가나라", 1), ("가나다", "가나라", 0)], None),
    ],
)
def test_what_is_duplicate_means_is_judged_by_the_questions(records, expected):
    keys = ("question1", "question2", "is_duplicate")
    records = [dict(zip(keys, record, strict=True)) for record in records]
    if expected:
        assert formats.detect(records) == expected
    else:
        with pytest.raises(ValueError, match="--input_format question_pairs_0_same"):
            formats.detect(records)


# ── reading comprehension ──────────────────────────────────────────────────────────────────────────────────


def test_the_answer_is_the_one_at_its_place_or_found_elsewhere():
    for start in (10, 0, None, "10"):
        (row,) = rows_of(squad_article(squad_question(start=start)), "squad")
        assert row["messages"][-1] == TELL
        assert row.context == CONTEXT
    several = squad_question() | {
        "answers": [{"text": "없는 말", "answer_start": 0}, {"text": "100℃", "answer_start": 10}]
    }
    assert rows_of(squad_article(several), "squad")[0]["messages"][-1] == TELL


def test_questions_of_one_article_are_refused_one_by_one():
    bad = [squad_question("없는 답"), squad_question() | {"answers": []}, squad_question() | {"question": None}, "x"]
    rows = rows_of(squad_article(squad_question(), *bad), "squad")
    assert [isinstance(row, Refused) for row in rows] == [False, True, True, True, True]
    assert [row.reason.partition(":")[0] for row in rows[1:]] == [
        "answer not found in the context", "no answer", "question is not text (null)", "question is not an object",
    ]  # fmt: skip
    assert rows[1].reason == "answer not found in the context: question q1"
    assert [row.part for row in rows[1:4]] == bad[:3]  # not the whole article each time
    broken = rows_of(squad_article(squad_question() | {"question": "왜\ufffd?"}), "squad")
    assert broken[0].part["question"] == "왜\ufffd?"


def test_a_long_answer_and_unanswerable_questions_are_other_tasks():
    long = squad_question(CONTEXT + CONTEXT, 0)
    rows = rows_of(squad_article(long, context=CONTEXT * 2), "squad")
    assert [row["task"] for row in rows] == ["kositp10"]
    questions = [squad_question(is_impossible=False) | {"id": f"q{n}"} for n in range(40)]
    questions += [{"id": "no", "question": "왜?", "answers": [], "is_impossible": True}]
    rows = rows_of(squad_article(*questions), "squad")
    verdicts = {row["id"]: row["messages"][-1]["content"] for row in rows if row["task"] == "kositp01"}
    assert verdicts.pop("no") == "답변할 수 없음"
    assert 8 <= len(verdicts) <= 32  # about every second of the others
    assert {*verdicts.values()} == {"답변할 수 있음"}
    for row in rows:
        assert not tasks.check(row["task"], row["messages"][-2]["content"], row["messages"][-1]["content"])


PAGE = """<!DOCTYPE html><html><head><title>끓는점 - 백과</title><style>p{}</style></head><body>
<h2>개요</h2><p>물은 <a href="/c">1기압</a>에서 <b>100℃</b>에 끓는다.</p><p>산에서는 &lt;100℃이다.</p>
<h2>표</h2><table class="w"><caption>끓는점</caption><tr><th>물질</th><th>온도</th></tr>
<tr><td>물</td><td rowspan="2"><a href="x">100℃</a></td></tr><tr><td>눈<br>얼음</td></tr></table>
<h2>끝</h2><ul><li>하나</li><li>둘</li></ul></body></html>"""


@pytest.mark.parametrize(
    ("answer", "task", "context", "told"),
    [
        ("100℃</b>", "kositp09", "개요\n물은 1기압에서 100℃에 끓는다.\n산에서는 <100℃이다.", "100℃"),
        ("100℃</a>", "kositp17", "<table><caption>끓는점</caption><tr><th>물질</th><th>온도</th></tr><tr><td>물</td>"
         '<td rowspan="2">100℃</td></tr><tr><td>눈 얼음</td></tr></table>', "100℃"),
        ("<ul><li>하나</li><li>둘</li></ul>", "kositp10", "끝\n하나\n둘", "하나\n둘"),
    ],
)  # fmt: skip
def test_of_a_page_the_table_or_section_of_the_answer_is_kept(answer, task, context, told):
    start = PAGE.index(answer)
    text = answer.removesuffix("</b>").removesuffix("</a>")
    qa = {"id": 3, "question": "얼마?", "answer": {"text": text, "answer_start": start, "html_answer_start": 9}}
    record = {"title": "끓는점", "url": "u", "context": PAGE, "raw_html": PAGE, "qas": [qa]}
    assert formats.detect([record]) == "squad"
    (row,) = rows_of(record, "squad")
    assert (row["task"], row["id"], row.context) == (task, "3", context)
    assert row["messages"][-1]["content"] == told
    if task != "kositp10":  # two items are shorter than the rule of long answers
        assert not tasks.check(task, row["messages"][-2]["content"], told)


def test_pages_of_any_size_are_read():
    """In linear time: where time grows with the square of the size, this takes a quarter of an hour."""
    for piece in ("<table>", "</table>", "<td", "<h2>", "<script>", "<!--", "<", "&", "<td rowspan=", "</td> "):
        assert html_pages.excerpt(piece * 200_000, 5, 9)
        assert html_pages.is_html(piece * 200_000) == (piece in ("<table>", "<h2>"))
    for piece in ("[INST] ", "<<SYS>> ", " ", "\n", "\n\nHuman: ", "### ", "질문: \n", "</s> "):
        rows_of({"text": "[INST] <<SYS>>" + piece * 200_000 + "x"}, "marked_text")
        rows_of({"text": "### 질문: 물은?\n### 답변:" + piece * 200_000 + "x"}, "marked_text")


# ── conversations ──────────────────────────────────────────────────────────────────────────────────────────


def sharegpt(*turns):
    return {"conversations": [{"from": role, "value": text} for role, text in turns]}


def test_what_is_cut_off_a_conversation_is_named():
    (row,) = rows_of(sharegpt(("gpt", "안녕"), ("human", "물은?"), ("gpt", "100℃"), ("human", "왜?")), "sharegpt")
    assert row["messages"] == [ASK, TELL]
    assert row.ignored == ("answer before the first question", "question after the last answer")
    (prompt,) = rows_of(sharegpt(("human", "물은?")), "sharegpt", answered=False)
    assert prompt["messages"] == [ASK]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([("human", "물은?"), ("gpt", "100"), ("gpt", "℃")], "roles out of order: user assistant assistant"),
        ([("human", "물은?"), ("tool", "100"), ("gpt", "100℃")], "tool turn: message 2 (tool) cannot be trained here"),
        ([("human", "물은?"), ("function_call", "f()")], "tool turn: message 2"),
        ([("human", "물은?")], "no assistant turn"),
        ([("gpt", "물은?")], "no assistant turn"),
    ],
)
def test_conversations_that_are_refused(turns, reason):
    assert reasons(sharegpt(*turns))[0].startswith(reason)


@pytest.mark.parametrize(
    ("record", "name", "reason"),
    [
        ({"text": "그냥 글입니다."}, "marked_text", "no question and answer in the text"),
        ({"document": "좋다", "label": "5", "id": 1}, "sentiment", "unknown label: '5' in label; write the"),
        ({"sentence1": "가", "sentence2": "나", "label": 1}, "nli", "unknown label: '1' in label"),
        ({"sentence1": "가", "sentence2": "나", "gold_label": "-"}, "nli", "no label: gold_label is -"),
        ({"text": "가", "label": 3}, "labelled_text", "label is not a word: '3' in label"),
        ({"comments": "가", "hate": "?"}, "hate_speech", "unknown label: '?' in hate"),
        ({"prompt": "물은?", "completion_0": "가", "completion_1": "나", "ranking": [0, 0]}, "ranked_completions",
         "the answers are ranked alike"),
        ({"prompt": "물은?", "completion_0": "가", "completion_1": "나", "ranking": [0]}, "ranked_completions",
         "no ranking"),
        ({"prompt": "물은?", "answers": [{"answer": "가", "rank": 1}, {"answer": "나", "rank": "-"}]}, "scored_answers",
         "no scores: fewer than two of the answers have one"),
        ({"prompt": "물은?", "answers": [{"answer": "가", "rank": 1}, {"answer": "나", "rank": 1}]}, "scored_answers",
         "the answers are rated alike"),
        ({"instruction": "가", "instances": []}, "self_instruct", "no rows in it"),
        ({"instruction": "가", "output": "나", "history": [["물은?"]]}, "alpaca", "history is not a list of questions"),
        ({"question": "물은?", "answer": "7", "choices": ["0℃", "100℃"]}, "multiple_choice", "the answer is none of"),
        ({"messages": [ASK, TELL], "tools": [{}]}, "messages", "tools cannot be trained here"),
        ({"a": 1}, "nli", "not a row of the file's format, nli: it has the keys 'a'"),
    ],
)  # fmt: skip
def test_refusals_say_why(record, name, reason):
    assert reasons(record, name)[0].startswith(reason)


# ── formats that are not known ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"ctx": CONTEXT, "ques": "물은?", "ans": "100℃"},
         "nearest: squad (question, context, answer); question_answer (answer, question); "),
        ({"ctx": CONTEXT, "ques": "물은?", "ans": "100℃"}, "--field_map 'context=$.ctx,question=$.ques,answer=$.ans'"),
        ({"data": [{"본문": CONTEXT, "qa": {"질문": "물은?", "답": "100℃"}}]},
         "--field_map 'context=$.data[*].본문,question=$.data[*].qa.질문,answer=$.data[*].qa.답'"),
        ({"content": "글"}, "generate_data.py --contexts, which writes task rows about them ('content')"),
        ({"text": "글"}, "generate_data.py --contexts"),
        ({"question": "물은?"}, "nearest: question_answer (answer, question); "),
        ({"train": [{"a": "b"}], "test": [{"c": "d"}]}, "--field_map question=…,answer=…"),
        ({"n": 1}, "the rows have the keys 'n'; nearest: "),
        ({}, "the rows have the keys none"),
    ],
)  # fmt: skip
def test_an_unknown_format_is_told_what_is_near_and_how_to_name_its_fields(record, said):
    with pytest.raises(ValueError) as caught:
        formats.detect([record])
    assert str(caught.value).startswith("no known format: ")
    assert said in str(caught.value)


def test_the_field_map_of_the_advice_is_read_and_gives_rows():
    pages = {"본문": CONTEXT, "qa list": [{"질문": "물은?", "답": "100℃"}, {"질문": "산은?", "답": "더 낮은"}]}
    with pytest.raises(ValueError) as caught:
        formats.detect([{"data": [pages]}])
    text = str(caught.value).partition("--field_map ")[2]
    assert text == shlex.quote(shlex.split(text)[0])
    records = field_map.field_map(shlex.split(text)[0]).records({"data": [pages]})
    assert formats.detect(records) == "question_answer"
    rows = [row for record in records for row in rows_of(record, "question_answer")]
    assert [row["messages"][-1]["content"] for row in rows] == ["100℃", "더 낮은"]
    assert all(row.context == CONTEXT for row in rows)


# ── whatever a file holds ──────────────────────────────────────────────────────────────────────────────────

KEYS = sorted(
    {key for _, record, _ in ALL for key, _ in texts(record)} | {"paragraphs", "qas", "answers", "is_impossible"}
)
VALUES = st.recursive(
    st.sampled_from(["물은?", "1", "none"]) | st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def check_rows(record, name, answered):
    rows = rows_of(record, name, answered=answered)
    assert rows
    for row in rows:
        if isinstance(row, Refused):
            assert row.reason
        else:
            assert row.keys() in ({"id", "task", "messages"}, {"id", "task", "prompt", "chosen", "rejected"})
            turns = row["messages"] if "messages" in row else row["prompt"] + row["chosen"] + row["rejected"]
            assert all(isinstance(turn["content"], str) and turn["content"].strip() for turn in turns)
            json.dumps(row, ensure_ascii=False).encode()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6), st.booleans())
def test_any_values_under_known_keys_give_rows_or_refusals(record, answered):
    for name in formats.FORMATS:
        check_rows(record, name, answered)
    if name := formats.format_of(record):
        check_rows(record, name, answered)
    try:
        formats.detect([record])
    except ValueError as error:
        assert str(error)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ALL), st.data())
def test_any_value_anywhere_in_a_record_gives_rows_or_refusals(known, data):
    name, record, _ = known
    changed = json.loads(json.dumps(record))
    place, key = data.draw(st.sampled_from([*places(changed)]))
    place[key] = data.draw(VALUES)
    check_rows(changed, name, data.draw(st.booleans()))


def places(value):
    keys = range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


@pytest.mark.parametrize("name", formats.FORMATS)
def test_deep_nesting_is_refused(name):
    deep = "물은?"
    for _ in range(2000):
        deep = [deep] if random.random() < 0.5 else {"role": "user", "content": deep}
    marks = formats.FORMATS[name].marks[0]
    plain = {"<question>": "question", "<answer>": "answer", "<premise>": "premise", "<hypothesis>": "hypothesis"}
    record = {plain.get(mark, mark.strip("<>")): deep for mark in marks} | {
        "id": "1",
        "system": deep,
        "system_prompt": [deep],
    }
    check_rows(record, name, True)
