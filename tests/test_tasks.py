"""The task table and the rules of its answers; and every sample of ours keeps them."""

import json
from collections import Counter

import pytest
from conftest import ROOT

from sllm import tasks

BULLETS = "- 첫째 내용을 적은 줄이다.\n- 둘째 내용을 적은 줄이다.\n- 셋째 내용을 적은 줄이다."
CONTEXT = "서울 도서관은 2019년에 3,200권의 책을 새로 들였다. 시민 투표로 고른 책이 절반을 차지했다."
CHOICES = ["하나를 고른다", "둘을 고른다", "셋을 고른다", "넷을 고른다", "고르지 않는다"]


def rows(name):
    return [json.loads(line) for line in (ROOT / "sample_data" / name).read_text(encoding="utf-8").splitlines()]


def test_the_ids():
    pairs = ["01", "03", "04", "05", "06", "07", "08", "10", "12", "13"]
    expected = {f"task{n}_{s}" for n in pairs for s in ("01", "02")} | {"task02", "task09", "task11"}
    assert set(tasks.TASKS) == expected


@pytest.mark.parametrize("task_id", tasks.TASKS)
def test_user_turn_and_fields_are_inverse(task_id):
    task = tasks.get(task_id)
    fields = {name: CHOICES if name == "choices" else f"{name}의 내용\n둘째 줄" for name in task.fields}
    turn = tasks.build_user_turn(task_id, fields)
    assert turn.endswith("###Answer###:")
    assert turn.count("###Question###:") == 1
    assert turn.count("###Context###:") == (task.source is not None)
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
    few = {t: (counts[t], pairs[t], caught[t]) for t in tasks.TASKS if counts[t] < 3 or pairs[t] < 3 or caught[t] < 2}
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
    ],
)
def test_what_a_mistyped_id_meant(label, ids):
    assert tasks.similar_task_ids(label) == ids
