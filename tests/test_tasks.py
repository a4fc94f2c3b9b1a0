"""The task table and the rules of its answers; and every sample of ours keeps them."""

import json
import time
from collections import Counter

import pytest
from conftest import ROOT

from sllm import tasks

BULLETS = "- 첫째 내용을 적은 줄이다.\n- 둘째 내용을 적은 줄이다.\n- 셋째 내용을 적은 줄이다."
CONTEXT = "서울 도서관은 2019년에 3,200권의 책을 새로 들였다. 시민 투표로 고른 책이 절반을 차지했다."
NUMBERED = "문장1 : 다리가 물에 잠겼다.\n문장3 : 해가 진 뒤에야 집에 닿았다."
TABLE = "<table><tr><th>기름</th><th>값</th></tr><tr><td>경유</td><td>1,520원</td></tr></table>"
CHOICES = ["하나를 고른다", "둘을 고른다", "셋을 고른다", "넷을 고른다", "고르지 않는다"]


def rows(name):
    return [json.loads(line) for line in (ROOT / "sample_data" / name).read_text(encoding="utf-8").splitlines()]


def test_the_ids():
    pairs = ["01", "03", "04", "05", "06", "07", "08", "10", "12", "13"]
    expected = {f"task{n}_{s}" for n in pairs for s in ("01", "02")} | {"task02", "task09", "task11"}
    assert set(tasks.ORIGINAL) == expected
    assert set(tasks.EARLIER) == {f"kositp{n:02}" for n in range(1, 23)}
    assert tasks.TASKS == tasks.ORIGINAL | tasks.EARLIER


@pytest.mark.parametrize("task_id", tasks.TASKS)
def test_user_turn_and_fields_are_inverse(task_id):
    task = tasks.get(task_id)
    fields = {name: CHOICES if name == "choices" else f"{name}의 내용\n둘째 줄" for name in task.fields}
    turn = tasks.build_user_turn(task_id, fields)
    if task.labelled:
        assert turn.endswith("###Answer###:")
        assert turn.count("###Question###:") == 1
        assert turn.count("###Context###:") == (task.source is not None)
    else:
        assert "###" not in turn
        assert turn.startswith(task.system_prompt + "\n\n")
    messages = tasks.build_messages(task_id, fields)
    assert [m["role"] for m in messages] == (["system", "user"] if task.labelled else ["user"])
    assert messages[-1]["content"] == turn
    back = tasks.split_user_turn(task_id, turn)
    assert {name: back[name] for name in task.fields} == fields
    assert task.question is None or back["question"] == task.question


def test_a_request_with_wrong_fields_names_all_of_them():
    with pytest.raises(ValueError) as error:
        tasks.build_user_turn("task06_01", {"contxt": "본문", "question": " ", "choices": ["하나"]})
    for word in ("'contxt'", "'context'", "'question'", "choices"):
        assert word in str(error.value)
    with pytest.raises(ValueError, match="unknown task id 'task99'"):
        tasks.build_messages("task99", {})


def test_every_sample_row_and_chosen_answer_conforms():
    counts, pairs, caught = Counter(), Counter(), Counter()
    for row in rows("task_rows.jsonl"):
        assert set(row) == {"system_prompt", "user_content", "assistant_content", "task"}
        assert row["system_prompt"] == tasks.get(row["task"]).system_prompt
        assert tasks.check(row["task"], row["user_content"], row["assistant_content"]) == [], row["user_content"]
        counts[row["task"]] += 1
    for pair in rows("preference_pairs.jsonl"):
        user = pair["prompt"][-1]["content"]
        assert tasks.check(pair["task"], user, pair["chosen"][0]["content"]) == [], pair["id"]
        caught[pair["task"]] += bool(tasks.check(pair["task"], user, pair["rejected"][0]["content"]))
        pairs[pair["task"]] += 1
    few = {
        t: (counts[t], pairs[t], caught[t]) for t in tasks.ORIGINAL if counts[t] < 3 or pairs[t] < 3 or caught[t] < 2
    }
    assert not few, "(rows, pairs, rejected answers that a rule catches)"


# One answer that breaks each rule, and the rule it must be told by.
BROKEN = [
    ("task04_02", {"question": "왜?"}, "", "not_empty"),
    ("task04_02", {"question": "왜?"}, "Because water boils at a lower temperature there.", "korean"),
    ("task01_02", {"context": CONTEXT * 3}, "도서관이 책을 샀다.", "length"),
    ("task01_02", {"context": CONTEXT}, CONTEXT + CONTEXT, "length"),
    ("task04_01", {"question": "왜?"}, "글머리표가 없는 한 문단의 답이다.", "bullet"),
    ("task04_02", {"question": "왜?"}, BULLETS, "sentence"),
    ("task04_02", {"question": "왜?"}, "끝맺지 않은 문장을 쓰고", "sentence"),
    ("task04_01", {"question": "왜?"}, f"```markdown\n{BULLETS}\n```", "clean"),
    ("task13_02", {"context": CONTEXT}, f"###Context###: {CONTEXT}", "clean"),
    ("task02", {"context": CONTEXT}, "서울 도서관이 시민 투표로 고른 아주 많은 새 책을 들인 이야기", "title"),
    ("task02", {"context": CONTEXT}, "서울 도서관\n새 책", "title"),
    ("task02", {"context": CONTEXT}, "바다의 노래", "on_topic"),
    ("task03_01", {"question": "?", "choices": CHOICES}, f"여섯을 고른다\n근거:\n{BULLETS}", "choice"),
    ("task03_01", {"question": "?", "choices": CHOICES}, f"b) 셋을 고른다\n근거:\n{BULLETS}", "choice"),
    ("task03_01", {"question": "?", "choices": CHOICES[:2]}, f"e) 고르지 않는다\n근거:\n{BULLETS}", "choice"),
    ("task03_01", {"question": "?", "choices": CHOICES}, f"b) 둘을 고른다\n{BULLETS}", "rationale"),
    ("task05_01", {"question": "?"}, f"네\n근거:\n{BULLETS}", "yes_no"),
    ("task05_01", {"question": "?"}, "예\n근거:", "rationale"),
    ("task08_02", {"context": CONTEXT, "question": "몇 권?"}, "도서관은 책 4,700권을 새로 들였다.", "grounded"),
    ("task08_02", {"context": CONTEXT, "question": "?"}, "고래는 바다에서 노래하며 먼 거리를 헤엄친다.", "grounded"),
    ("task09", {"text": CONTEXT[:40]}, CONTEXT, "no_repeat"),
    ("task11", {"context": CONTEXT}, "Keyword 1: 도서관\n설명: 서울의 도서관이다.", "keywords"),
    ("task11", {"context": CONTEXT}, "Keyword 1: 책\n설명: 책이다.\nKeyword 2: 책\n설명: 책이다.", "keywords"),
    ("task13_02", {"context": CONTEXT}, CONTEXT, "reworded"),
    ("kositp06", {"question": "왜?"}, f"###출력: {CONTEXT}", "clean"),
    ("kositp07", {"context": CONTEXT, "question": "?", "choices": CHOICES}, "둘을\n고른다", "one_line"),
    ("kositp07", {"context": CONTEXT, "question": "?", "choices": CHOICES}, "여섯을 고른다", "choice"),
    ("kositp07", {"context": CONTEXT, "question": "?", "choices": CHOICES}, "b) 둘을 고른다", "choice"),
    ("kositp07", {"context": CONTEXT, "question": "?", "choices": CHOICES}, "b", "choice"),
    ("kositp21", {"context": CONTEXT, "question": "?", "choices": CHOICES}, CONTEXT, "choice"),
    ("kositp08", {"context": CONTEXT, "question": "?"}, "네", "yes_no"),
    ("kositp08", {"context": CONTEXT, "question": "?"}, "예, 그렇습니다.", "chars"),
    ("kositp13", {"context": CONTEXT}, "도서관 책" + " 책" * 20 + " 들였었다.", "chars"),
    ("kositp13", {"context": CONTEXT}, "서울 도서관이 책을 들였다.\n투표로 골랐다.", "one_line"),
    ("kositp06", {"question": "왜?"}, "짧은 답입니다.", "chars"),
    ("kositp03", {"context": CONTEXT}, "바다의 노래", "on_topic"),
    ("kositp09", {"context": CONTEXT, "question": "몇 권?"}, "4,700권", "verbatim"),
    ("kositp09", {"context": CONTEXT, "question": "몇 권?"}, ".", "verbatim"),
    ("kositp10", {"context": CONTEXT, "question": "?"}, f"{CONTEXT} 나머지는 사서가 골랐다.", "verbatim"),
    ("kositp17", {"table": TABLE, "question": "?"}, "경유 9", "verbatim"),
    ("kositp22", {"context": CONTEXT, "question": "?"}, "예", "evidence"),
    ("kositp22", {"context": CONTEXT, "question": "?"}, "예\n서울 도서관이 책을 많이 들였기 때문이다.", "evidence"),
    ("kositp01", {"context": CONTEXT, "question": "?"}, "3,200권입니다.", "answerable"),
    ("kositp01", {"context": CONTEXT, "question": "?"}, "답변할 수 있음\n3,200권", "answerable"),
    ("kositp14", {"context": CONTEXT}, "도서관", "tags"),
    ("kositp14", {"context": CONTEXT}, "도서관, 책, 도서관", "tags"),
    ("kositp14", {"context": CONTEXT}, "도서관, 고래, 바다, 노래", "grounded"),
    ("kositp14", {"context": CONTEXT}, f"책, {CONTEXT.replace(',', '')}", "tags"),
    ("kositp15", {"text": NUMBERED}, "그래서 길을 돌아갔다.", "gap"),
    ("kositp15", {"text": NUMBERED}, "문장1 : 그래서 길을 돌아갔다.", "gap"),
    ("kositp15", {"text": NUMBERED}, "문장4 : 그래서 길을 돌아갔다.", "gap"),
    ("kositp15", {"text": NUMBERED}, "문장2 : 그래서 길을 돌아갔다. 문장3 : 늦었다.", "gap"),
    ("kositp15", {"text": NUMBERED, "question": "문장4를 쓰시오"}, "문장2 : 그래서 길을 돌아갔다.", "gap"),
]  # fmt: skip


@pytest.mark.parametrize(("task_id", "fields", "answer", "rule"), BROKEN)
def test_each_rule_catches_what_breaks_it(task_id, fields, answer, rule):
    failures = tasks.check(task_id, fields, answer)
    assert rule in [failure.rule for failure in failures]
    assert all(failure.reason for failure in failures)


def test_every_rule_of_the_table_is_broken_by_some_case():
    assert {rule for task in tasks.TASKS.values() for rule in task.rules} <= {rule for *_, rule in BROKEN}


def test_good_answers_pass():
    good = f"b) 둘을 고른다\n근거:\n{BULLETS}"
    assert tasks.check("task03_01", {"question": "?", "choices": CHOICES}, good) == []
    grounded = "아니요\n근거:\n서울 도서관은 2019년에 책 3200권을 새로 들였고, 시민 투표로 고른 책이 절반이다."
    assert tasks.check("task07_02", {"context": CONTEXT, "question": "책을 안 샀나?"}, grounded) == []
    choice = {"context": CONTEXT, "question": "?", "choices": CHOICES}
    assert tasks.check("kositp07", choice, "셋을 고른다") == []
    assert tasks.check("kositp21", choice, f"셋을 고른다.\n{CONTEXT[:37]}") == []
    assert tasks.check("kositp09", {"context": CONTEXT, "question": "?"}, "3,200 권") == []
    assert tasks.check("kositp17", {"table": TABLE, "question": "?"}, "1,520원") == []
    assert tasks.check("kositp01", {"context": CONTEXT, "question": "?"}, "본문에 나오지 않아 답변할 수 없음.") == []
    assert tasks.check("kositp13", {"context": CONTEXT}, "도서관 책" + " 책" * 20 + " 들였다.") == []
    assert tasks.check("kositp15", {"text": NUMBERED}, "문장2 : 그래서 길을 돌아갔다.") == []
    assert tasks.check("kositp15", {"text": "문장1 : 비가 왔다."}, "문장2 : 그래서 길을 돌아갔다.") == []


# ── the earlier types ──────────────────────────────────────────────────────────────────────────────────────


def parts(row):
    """(task id, fields) of an earlier row."""
    task_id = tasks.task_id_of(row["Task_name"])
    return task_id, tasks.split_user_turn(task_id, row["input"])


def test_every_earlier_sample_row_conforms_and_its_parts_are_told_apart():
    counts = Counter()
    for row in rows("earlier_task_rows.jsonl"):
        assert set(row) == {"input", "output", "Task_name"}
        task_id, fields = parts(row)
        assert tasks.check(task_id, row["input"], row["output"]) == [], row["input"]
        assert {*fields} == {*tasks.get(task_id).fields, "question"}
        for request in ("시오", "세요", "오."):  # an instruction ends so: no text and no question of a text has one
            assert not str(fields.get(tasks.get(task_id).source, "")).endswith(request), fields
            assert "choices" not in fields or not fields["question"].endswith(request), fields
        if counts[task_id] == 0:  # the first of each task is a request's own turn
            assert tasks.build_user_turn(task_id, fields) == row["input"]
        counts[task_id] += 1
    assert counts == dict.fromkeys(tasks.EARLIER, 2)


@pytest.mark.parametrize(
    ("name", "task_id"),
    [
        ("Answerability_Classification", "kositp01"),
        ("Answerablilty Classification", "kositp01"),
        ("summarization", "kositp02"),
        (" Abstractive QA Subjective Short answer", "kositp05"),
        ("Extractive QA Subjective Short answer", "kositp09"),
        ("Extractive_QA_Short_Answer", "kositp09"),
        ("Extractive_QA_YesorNo", "kositp08"),
        ("Extractive QA Yes or No Explanation", "kositp22"),
        ("Title2Contents_Generation", "kositp12"),
        ("title-to-contents", "kositp12"),
        ("Summary(Simplification) Expansion", "kositp16"),
        ("Text Simplification", "kositp13"),
        ("TABLE QA", "kositp17"),
        ("Table2Title", "kositp19"),
        ("kositp19", "kositp19"),
        ("Translation", None),
        ("", None),
        ("요약", None),
    ],
)
def test_the_id_of_a_task_name(name, task_id):
    assert tasks.task_id_of(name) == task_id


def test_every_earlier_task_has_a_name_of_its_own():
    assert {tasks.task_id_of(task.name_en) for task in tasks.EARLIER.values()} == set(tasks.EARLIER)


def test_an_earlier_request_may_replace_the_instruction_or_has_a_question():
    turn = tasks.build_user_turn("kositp03", {"context": CONTEXT, "question": "신문 기사의 제목을 쓰시오"})
    assert turn == f"신문 기사의 제목을 쓰시오\n\n{CONTEXT}"
    fields = {"context": "첫 문단\n\n둘째 문단", "question": "무엇을\n\n고르나요?", "choices": ["하나", "둘"]}
    turn = tasks.build_user_turn("kositp07", fields)
    assert turn.endswith("\n\n첫 문단\n\n둘째 문단\n\n무엇을\n고르나요?\n\n보기 : 하나, 둘,")
    assert tasks.split_user_turn("kositp07", turn) == fields | {"question": "무엇을\n고르나요?"}


def test_choices_with_commas():
    choices = ["비가 오면, 쉰다", "1,200원", "둘, 셋"]
    turn = tasks.build_user_turn("kositp04", {"question": "?", "choices": choices})
    assert tasks.split_user_turn("kositp04", turn)["choices"] == choices
    listed = "무엇인가\n보기 : 비가 오면, 쉰다, 1,200원, 둘, 셋, 눈이 오면, 달린다,"  # as earlier rows have them
    assert tasks.check("kositp04", listed, "비가 오면, 쉰다") == []
    assert tasks.check("kositp04", listed, "1,200원") == []
    assert tasks.check("kositp04", listed, "비가 오면, 달린다") != []
    fields = tasks.split_user_turn("kositp04", "무엇인가\n보기 : 하나, 둘, 셋,")
    assert tasks.check("kositp04", fields, "하나, 둘") != []


def test_rows_that_say_little_are_read_too():
    assert tasks.split_user_turn("kositp09", "본문\n\n질문") == {"context": "본문", "question": "질문"}
    assert tasks.split_user_turn("kositp09", "질문뿐") == {"context": "질문뿐"}
    assert tasks.split_user_turn("kositp07", "") == {}
    assert tasks.split_user_turn("kositp11", "첫 문단\n\n둘째 문단") == {"text": "첫 문단\n\n둘째 문단"}
    for task_id in tasks.EARLIER:
        assert isinstance(tasks.check(task_id, "", "문장9 : 답"), list)


@pytest.mark.parametrize("task_id", tasks.EARLIER)
def test_long_answers_are_judged_in_time(task_id):
    for text in ("보기 : ", "문장1 : ", "가, ", "<a", "시오.", ". \n", "나"):
        started = time.process_time()
        tasks.check(task_id, f"{text * 20_000}\n\n{text}", text * 20_000)
        assert time.process_time() - started < 2, text


@pytest.mark.parametrize(
    ("label", "ids"),
    [
        ("task1_01", ["task01_01"]),
        ("Task08_02", ["task08_02"]),
        (" task 8-2 ", ["task08_02"]),
        ("task2", ["task02"]),
        ("task02_01", ["task02"]),
        ("task01", ["task01_01", "task01_02"]),
        ("task01_03", ["task01_01", "task01_02"]),
        ("task99", []),
        ("summarization", []),
        ("task01_01", []),
        ("KOSITP 3", ["kositp03"]),
        ("kositp-07", ["kositp07"]),
        ("kositp07", []),
        ("kositp23", []),
    ],
)
def test_what_a_mistyped_id_meant(label, ids):
    assert tasks.similar_task_ids(label) == ids
