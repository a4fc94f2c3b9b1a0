"""Pairs from samples, from a teacher and from rated rows; what becomes of pairs whatever their source. One test samples
with the real engine."""

import json
import random
from collections import Counter
from itertools import pairwise

import pytest
from conftest import ROOT, assert_refused, in_process, run_script, succeed
from test_judge import server, stub  # noqa: F401

from sllm import world
from sllm.chatstore import ChatStore, StoredAnswer
from sllm.cli import InputError
from sllm.data import answer_scores, formats, length_balance, preferences, rated_rows
from sllm.data.answer_scores import Question
from sllm.data.preferences import Answer, CollectedPairs, PreferenceEntry

SCRIPT = "build_preferences.py"
WORLD = ROOT / "sample_data" / "world" / "test_names.jsonl"
ROWS = [json.loads(line) for line in WORLD.read_text(encoding="utf-8").splitlines()]
ROW = next(row for row in ROWS if row["task"] == "task01_02")  # a summary in sentences


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def line(row, outputs, reasons=None):
    """A line of an answer file, of a row of the small world."""
    turns = [("system", row["system_prompt"]), ("user", row["user_content"])]
    reasons = reasons or ["stop"] * len(outputs)
    return {
        "id": row["id"], "task": row["task"], "messages": [{"role": role, "content": text} for role, text in turns],
        "output": outputs[0], "outputs": outputs, "finish_reason": reasons[0], "finish_reasons": reasons,
        "reference": row["assistant_content"],
    }  # fmt: skip


def chat_line(question, outputs, reasons=None):
    """A line without a task, facts or a reference."""
    row = {"id": question, "task": None, "system_prompt": "", "user_content": question, "assistant_content": None}
    made = line(row, outputs, reasons)
    return made | {"messages": made["messages"][1:]}


def false_answer(row):
    """The reference with the value of another row's fact in place of its own."""
    for fact in row["facts"]:
        for other in ROWS:
            for _, attribute, value in other["facts"]:
                if attribute == fact[1] and value != fact[2] and fact[2] in row["assistant_content"]:
                    changed = row["assistant_content"].replace(fact[2], value)
                    if world.check(row, changed).wrong:
                        return changed
    raise AssertionError("no fact to change")


def build(out, *words):
    done = in_process([SCRIPT], *words, "--output_dir", out)
    return done, read(out / "train.jsonl"), json.loads((out / "report.json").read_text(encoding="utf-8"))


def refuse(*words) -> str:
    """All problems of a run that is refused."""
    with pytest.raises(InputError) as refused:
        in_process([SCRIPT], *words)
    return "\n".join(refused.value.problems)


# ── samples ──


def test_the_best_sample_is_chosen_against_the_worst(tmp_path):
    good, false = ROW["assistant_content"], false_answer(ROW)
    broken = f"```\n{good}\n```"  # true, but breaks a rule
    answers = write(tmp_path / "a.jsonl", [line(ROW, [broken, false, good, good, " "])])
    done, rows, report = build(tmp_path / "out", "--from_samples", answers, "--trainset_path", WORLD, "--best_as_sft")
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows] == [(good, false)]
    assert rows[0]["score_chosen"] == 1 > rows[0]["score_rejected"]
    (origin,) = report["origin"]
    assert origin["source"] == "samples"
    assert origin["scores"]["chosen"] == {"score": 1, "truth": 1, "rules": 1, "reference": 1}
    assert origin["scores"]["rejected"]["truth"] == 0
    assert report["samples"]["left_out"] == {"the same as another": 1, "empty": 1}
    sft = read(tmp_path / "out" / "sft.jsonl")
    assert [(row["id"], row["messages"][-1]["content"]) for row in sft] == [(ROW["id"], good)]
    assert done["sft_rows"] == 1
    assert len(formats.load_rows(tmp_path / "out" / "train.jsonl", "preference")) == 1
    assert len(formats.load_rows(tmp_path / "out" / "sft.jsonl", "sft")) == 1
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "train.jsonl", "sft.jsonl", "rejects.jsonl", "report.json", "run.json",
    }  # fmt: skip


def test_parts_of_a_score():
    question = Question("q", ROW["task"], line(ROW, ["x"])["messages"], ROW["assistant_content"], ROW)
    good = answer_scores.parts(question, ROW["assistant_content"])
    assert good == {"truth": 1, "rules": 1, "reference": 1}
    assert answer_scores.is_good(good)
    assert answer_scores.parts(question, false_answer(ROW))["truth"] == 0
    incomplete = answer_scores.parts(question, "이곳의 이야기이다.")
    assert incomplete["truth"] == 0.5
    assert not answer_scores.is_good(incomplete)
    assert answer_scores.parts(Question("q", None, [{"role": "user", "content": "?"}]), "답") == {}
    assert answer_scores.total({}) is None
    worst_true, best_false = ({"truth": t, "rules": 1 - t, "reference": 1 - t, "judge": 1 - t} for t in (1, 0))
    assert answer_scores.total(worst_true) > answer_scores.total(best_false)


def test_what_cannot_be_chosen_is_not(tmp_path):
    good, false = ROW["assistant_content"], false_answer(ROW)
    other = next(row for row in ROWS if row["task"] == ROW["task"] and row["id"] != ROW["id"])
    answers = write(tmp_path / "a.jsonl", [
        line(ROW, [good, false], ["length", "stop"]),  # the good one is cut off
        line(other, [false_answer(other), "아니다."]),
        chat_line("혼자", ["하나", "하나"]),
        {**chat_line("묻지 않음", [""]), "finish_reason": "skipped"},
    ])  # fmt: skip
    flags = ["--from_samples", answers, "--trainset_path", WORLD]
    said = refuse(*flags, "--output_dir", tmp_path / "none")
    assert "2 prompts without an answer that can be chosen" in said
    assert "1 prompts with no two different answers" in said
    assert "1 prompts that the model was not asked" in said
    assert not (tmp_path / "none").exists()
    _, rows, _ = build(tmp_path / "cut", *flags, "--keep_truncated")
    assert [row["chosen"][0]["content"] for row in rows] == [good]
    _, rows, _ = build(tmp_path / "bad", *flags, "--keep_imperfect")
    assert [row["chosen"][0]["content"] for row in rows] == ["아니다."]  # false is worse than incomplete


def test_near_ties_are_no_pairs(tmp_path):
    reference = "물은 섭씨 백 도에서 끓습니다."
    questions = [chat_line(f"질문 {i}", [reference, text]) | {"reference": reference} for i, text in enumerate(
        ["물은 섭씨 백 도에서 끓습니다!", "물은 섭씨 구십 도에서 끓습니다.", "모릅니다."])]  # fmt: skip
    answers = write(tmp_path / "a.jsonl", questions)
    _, rows, report = build(tmp_path / "out", "--from_samples", answers)
    assert [row["prompt"][0]["content"] for row in rows] == ["질문 1", "질문 2"]
    assert report["dropped"] == {"prompts whose answers score alike (--min_margin)": 1}
    _, rows, _ = build(tmp_path / "strict", "--from_samples", answers, "--min_margin", "0.5")
    assert [row["prompt"][0]["content"] for row in rows] == ["질문 2"]
    assert "no answer could be scored" in refuse("--from_samples", answers, "--score_weights", "reference=0")


def test_a_judge_scores_where_nothing_else_is_known(stub, tmp_path):  # noqa: F811
    lines = [chat_line(f"질문 {i}", [f"나쁜 답 {i}", f"좋은 답 {i}", f"다른 답 {i}"]) for i in range(4)]
    answers, out = write(tmp_path / "a.jsonl", lines), tmp_path / "out"
    assert "no answer could be scored" in refuse("--from_samples", answers, "--output_dir", out)
    flags = ["--from_samples", answers, "--judge_base_url", f"{stub.url}/v1", "--judge_model", "fair"]
    _, rows, report = build(out, *flags)
    assert {row["chosen"][0]["content"][:3] for row in rows} == {"좋은 "}
    assert {(row["score_chosen"], row["score_rejected"]) for row in rows} == {(0.8, 0.4)}
    assert report["asked"]["judge"]["calls"] == stub.log()["answered"] == 12
    build(out, *flags, "--resume")
    assert stub.log()["answered"] == 12


ANSWERS = [Answer([], str(score), score=score) for score in (1.0, 0.9, 0.9, 0.5, 0.2, 0.0)]


@pytest.mark.parametrize(
    ("pairing", "limit", "margin", "expected"),
    [
        ("best_worst", 1, 0, [("1.0", "0.0")]),
        ("best_worst", None, 0, [("1.0", "0.0"), ("0.9", "0.2"), ("0.9", "0.5")]),
        ("best_worst", None, 0.6, [("1.0", "0.0"), ("0.9", "0.2")]),
        ("best_rest", None, 0.5, [("1.0", "0.0"), ("1.0", "0.2"), ("1.0", "0.5")]),
        ("all", 3, 0, [("1.0", "0.0"), ("0.9", "0.0"), ("0.9", "0.0")]),
    ],
)
def test_which_answers_become_pairs(pairing, limit, margin, expected):
    pairs, _ = preferences.pair_up(ANSWERS, pairing, min_margin=margin, limit=limit)
    assert [(chosen.text, rejected.text) for chosen, rejected in pairs] == expected


def test_no_answer_is_in_two_pairs_of_best_and_worst():
    draw = random.Random(0)
    for _ in range(300):
        answers = [Answer([], str(i), score=draw.randrange(5) / 4) for i in range(draw.randrange(2, 9))]
        allowed = {answer.text for answer in answers if draw.random() < 0.6}
        pairs, excess = preferences.pair_up(
            answers, "best_worst", min_margin=0, limit=None, may_choose=lambda answer, ok=allowed: answer.text in ok
        )
        texts = [answer.text for pair in pairs for answer in pair]
        assert len(texts) == len(set(texts))
        assert excess == 0
        assert all(chosen.text in allowed and chosen.score > rejected.score for chosen, rejected in pairs)


@pytest.mark.torch
def test_samples_of_a_model_are_made_once(tiny_base, tmp_path):
    rows, out = write(tmp_path / "rows.jsonl", ROWS[:3]), tmp_path / "out"
    flags = ["--model_id", tiny_base, "--trainset_path", rows, "--n", "3", "--max_tokens", "24", "--temperature", "1",
             "--keep_imperfect", "--keep_truncated", "--min_margin", "0"]  # fmt: skip
    done = succeed(SCRIPT, *flags, "--output_dir", out)
    samples, pairs = (out / "samples.jsonl").read_bytes(), read(out / "train.jsonl")
    assert [len(row["outputs"]) for row in read(out / "samples.jsonl")] == [3, 3, 3]
    assert done["rows"] == len(pairs) > 0
    _, same, _ = build(out, *flags, "--resume")
    assert (out / "samples.jsonl").read_bytes() == samples
    assert same == pairs
    said = refuse(*flags[:5], "4", *flags[6:], "--output_dir", out, "--resume")
    assert "was made with n 3, this run has 4" in said


# ── teacher ──


def test_the_teacher_is_chosen_where_it_keeps_the_rules(tmp_path):
    same, worse = ROWS[2], ROWS[4]
    teacher = write(tmp_path / "teacher.jsonl", [
        line(ROW, [ROW["assistant_content"]]), line(same, [same["assistant_content"]]), line(worse, ["```x```"]),
        chat_line("다른 질문", ["답"]),
    ])  # fmt: skip
    student = write(tmp_path / "student.jsonl", [
        line(ROW, ["틀린 요약."]), line(same, [same["assistant_content"]]), line(worse, [worse["assistant_content"]]),
        line(ROWS[6], ["선생님이 답하지 않았다."]),
    ])  # fmt: skip
    flags = ["--from_teacher", teacher, "--student_answers", student, "--trainset_path", WORLD]
    _, rows, report = build(tmp_path / "out", *flags)
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows] == [
        (ROW["assistant_content"], "틀린 요약.")
    ]
    assert rows[0]["id"].startswith("teacher-")
    assert report["dropped"] == {
        "both answers are the same": 1, "prompts without an answer of the teacher": 1,
        "the teacher's answer breaks a rule or is not true": 1,
    }  # fmt: skip
    assert report["origin"][0]["models"] == {"chosen": str(teacher), "rejected": str(student)}


def test_a_teacher_behind_an_api_is_asked_once(stub, tmp_path):  # noqa: F811
    student = write(
        tmp_path / "student.jsonl",
        [chat_line(f"{i}번째로 묻는 조금 더 긴 질문입니다. 답은?", ["학생의 답"]) for i in range(5)],
    )
    out = tmp_path / "out"
    flags = ["--from_teacher", "--teacher_base_url", f"{stub.url}/v1", "--teacher_model", "fair", "--student_answers",
             student]  # fmt: skip
    _, rows, report = build(out, *flags)
    assert len(rows) == 5
    assert report["origin"][0]["models"]["chosen"] == "fair"
    assert stub.log()["answered"] == 5
    build(out, *flags, "--resume")
    assert stub.log()["answered"] == 5
    nobody = [*flags[:4], "nobody", *flags[5:]]
    assert "nobody does not exist" in refuse(*nobody, "--output_dir", tmp_path / "no")
    assert not (tmp_path / "no").exists()


# ── rated rows ──

ULTRAFEEDBACK = {
    "source": "evol", "instruction": "물은 몇 도에서 끓나요?", "models": ["a", "b", "c"], "correct_answers": ["None"],
    "completions": [
        {"model": "a", "response": "100도입니다.", "overall_score": 1.0, "fine-grained_score": 5.0},
        {"model": "b", "response": "모릅니다.", "overall_score": 8.0, "fine-grained_score": 2.5},
        {"model": "c", "response": "50도.", "annotations": {"honesty": {"Rating": "1"}, "truth": {"Rating": "N/A"}}},
    ],
}  # fmt: skip
KORLHF = {"prompt": "수도는?", "completion_0": "부산", "completion_1": "서울", "completion_2": "모름",
          "ranking": [1, 0, 2]}  # fmt: skip
ONE_EACH = [{"question": "수도는?", "answer": text, "rating": str(rating)} for text, rating in
            (("서울", 5), ("부산", 2), ("서울", 3))]  # fmt: skip
KTO = [{"prompt": [{"role": "user", "content": "수도는?"}], "completion": [{"role": "assistant", "content": text}],
        "label": label} for text, label in (("서울", True), ("부산", False), ("모름", False))]  # fmt: skip
RATED = [
    ([ULTRAFEEDBACK], [("100도입니다.", "50도.", 5.0, 1.0)]),
    ([KORLHF], [("서울", "모름", 0.0, -2.0)]),
    (ONE_EACH, [("서울", "부산", 4.0, 2.0)]),
    (KTO, [("서울", "모름", 1.0, 0.0)]),
    ([{"prompt": "수도는?", "responses": ["부산", "서울"], "scores": [0.1, 0.9]}], [("서울", "부산", 0.9, 0.1)]),
    ([{"prompt": "수도는?", "answers": [{"answer": "서울", "rank": 1}, {"answer": "부산", "rank": 2}]}],
     [("서울", "부산", -1.0, -2.0)]),
    ([{"messages": [{"role": "user", "content": "수도는?"}, {"role": "assistant", "content": text}], "score": score}
      for text, score in (("서울", 1), ("부산", 0))], [("서울", "부산", 1.0, 0.0)]),
    ([{"system": "짧게.", "instruction": "수도는?", "input": "한국", "output": text, "reward": reward}
      for text, reward in (("서울", 1.5), ("부산", -3))], [("서울", "부산", 1.5, -3.0)]),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "expected"), RATED)
def test_rated_rows_of_every_form(tmp_path, rows, expected):
    other = {"prompt": "혼자", "answer": "하나", "score": 1}  # one object with one array would be the array
    file = rated_rows.read(str(write(tmp_path / "rated.jsonl", [*rows, other])))
    assert not file.rejects
    collected = rated_rows.pairs(file, pairing="best_worst", limit=1, min_margin=None)
    entries = preferences.merge(collected)
    assert [
        (r["chosen"][0]["content"], r["rejected"][0]["content"], r["score_chosen"], r["score_rejected"])
        for r in (entry.row for entry in entries)
    ] == expected
    prompt = entries[0].row["prompt"]
    assert [turn["role"] for turn in prompt] == (["system", "user"] if "system" in rows[0] else ["user"])


def test_pairs_of_rated_rows(tmp_path):
    file = write(tmp_path / "rated.jsonl", [ULTRAFEEDBACK, *KTO])
    _, rows, _ = build(tmp_path / "all", "--from_ratings", file, "--pairing", "all")
    assert len(rows) == 3 + 2
    _, rows, report = build(tmp_path / "few", "--from_ratings", file, "--pairing", "best_rest", "--min_margin", "2",
                            "--pairs_per_prompt", "1")  # fmt: skip
    assert [row["rejected"][0]["content"] for row in rows] == ["50도."]
    assert report["dropped"] == {
        "more pairs than --pairs_per_prompt": 1, "prompts whose answers are rated alike (--min_margin)": 1,
    }  # fmt: skip
    said = refuse("--from_ratings", file, "--score_key", "overall_score", "--output_dir", tmp_path / "none")
    assert "rated.jsonl:1: answer 3: no score: overall_score is not there" in said


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "?", "text": "답"}, "no score"),
        ({"prompt": "?", "completions": ["가", "나"]}, "answer 1 has no score"),
        ({"prompt": "?", "responses": ["가", "나"], "scores": [1]}, "2 answers, but 1 scores"),
        ({"prompt": "?", "responses": ["가", "나"], "scores": [1, None]}, "not a number"),
        ({"prompt": "?", "chosen": "가", "rejected": "나"}, "a pair already"),
        ({"text": "답", "score": 1}, "no prompt"),
        ({"prompt": "?", "score": 1}, "no rated answers"),
        ({"prompt": "\n\nHuman: 안녕\n\nAssistant:", "answer": "네", "score": 1}, "a transcript"),
        ({"prompt": "?", "answer": "", "score": 1}, "empty answer"),
        ({"prompt": "?", "answer": "깨\ufffd짐", "score": 1}, "broken character"),
        ({"prompt": {"a": 1}, "answer": "네", "score": 1}, "content is not text"),
        ({"prompt": "?", "answer": "네", "score": float("inf")}, "no score"),
        ({"prompt": "?", "answer": "네", "score": 1, "tools": [1]}, "tools cannot be trained"),
        ({"instruction": ["?"], "output": "네", "score": 1}, "not text"),
        ({"prompt": "?", "completion_0": "가", "ranking": [0, 1]}, "1 answers, but 2"),
    ],
)
def test_rated_rows_that_cannot_be_used_are_rejects(tmp_path, row, reason):
    path = tmp_path / "rated.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in [KORLHF, row]), encoding="utf-8")
    file = rated_rows.read(str(path))
    (reject,) = file.rejects
    assert reason in reject["reason"]
    assert (reject["file"], reject["line"]) == (str(path), 2)
    assert len(file.answers) == 1


# ── all sources ──


def test_sources_are_merged_and_each_pair_says_its_own(tmp_path):
    store = ChatStore(f"sqlite:///{tmp_path}/chat.db")
    prompt = [{"role": "user", "content": "수도는?"}]
    for number, (left, right) in enumerate([("서울", "부산"), ("모름", "부산")]):
        pair = [StoredAnswer(f"{number}{i}", "c", "minji", "sft", prompt, text) for i, text in enumerate((left, right))]
        store.add_comparison(str(number), *pair)
        store.vote(str(number), "left")
    store.close()
    rated = write(tmp_path / "rated.jsonl", [KORLHF])  # 서울 > 부산 > 모름
    done, rows, report = build(tmp_path / "out", "--from_chat", tmp_path / "chat.db", "--from_ratings", rated,
                               "--pairing", "all")  # fmt: skip
    found = {(row["chosen"][0]["content"], row["rejected"][0]["content"]): row["id"] for row in rows}
    assert set(found) == {("서울", "부산"), ("서울", "모름")}  # 모름 and 부산 were judged both ways
    sources = {origin["id"]: origin["source"] for origin in report["origin"]}
    assert sources[found["서울", "부산"]] == "vote and ratings"
    assert sources[found["서울", "모름"]] == "ratings"
    assert report["dropped"] == {"the same judgement again": 1, "judged both ways equally often": 2}
    assert done["judgements"] == 5
    assert [(c["for"], c["against"]) for c in report["contradictions"]] == [(["minji"], ["ratings"])]


def entry(number, difference, margin=None, source="samples"):
    texts = ["가" * (50 + difference), "나" * 50]
    sides = [Answer([{"role": "user", "content": f"질문 {number}"}], text) for text in texts]
    if margin is not None:
        sides = [Answer(a.prompt, a.text, score=score) for a, score in zip(sides, (margin, 0.0), strict=True)]
    collected = CollectedPairs()
    collected.add(*sides, source, keep_truncated=False)
    return preferences.merge(collected)[0]


def share(entries: list[PreferenceEntry]) -> float:
    longer, shorter = (sum(sign * e.length_difference > 0 for e in entries) for sign in (1, -1))
    return longer / (longer + shorter)


@pytest.mark.parametrize(("longer", "shorter", "equal"), [(300, 100, 20), (100, 180, 0), (52, 48, 5), (500, 500, 3)])
def test_lengths_are_balanced_by_dropping_as_few_as_possible(longer, shorter, equal):
    draw = random.Random(1)
    differences = [7] * longer + [-7] * shorter + [0] * equal
    entries = [entry(i, difference, draw.random()) for i, difference in enumerate(differences)]
    kept = length_balance.balance(entries, 42)
    assert 0.49 <= share(kept) <= 0.51
    dropped = [e for e in entries if e not in kept]
    if dropped:
        one_more = [*kept, dropped[0]]
        assert not 0.49 <= share(one_more) <= 0.51
        side = [e for e in kept if e.length_difference == dropped[0].length_difference]
        assert max(e.margin for e in dropped) <= min(e.margin for e in side)
    assert [e for e in entries if e in kept] == kept  # in their order


def test_each_source_loses_its_weakest_pairs():
    scored = [entry(i, 5, 0.001 * i) for i in range(100)]
    rated = [entry(100 + i, 5, 1.0 + i, "ratings") for i in range(100)]
    votes = [entry(200 + i, 5, source="vote") for i in range(100)]
    shorter = [entry(300 + i, -5, 1.0) for i in range(100)]
    kept = length_balance.balance(scored + rated + votes + shorter, 42)
    counts = Counter(e.source for e in kept if e.length_difference > 0)
    assert all(count in (34, 35) for count in counts.values())
    assert kept == length_balance.balance(scored + rated + votes + shorter, 42)
    assert kept != length_balance.balance(scored + rated + votes + shorter, 43)


def test_length_bias_and_margins_are_reported(tmp_path):
    rows = [{"prompt": f"질문 {i}", "responses": ["짧다", "훨씬 더 긴 답이다"],
             "scores": [0, 1 + i / 100] if i % 4 else [1, 0]} for i in range(200)]  # fmt: skip
    flags = ["--from_ratings", write(tmp_path / "rated.jsonl", rows)]
    _, _, report = build(tmp_path / "out", *flags)
    length = report["length"]["before"]
    assert (length["pairs"], length["share_longer"]) == (200, 0.75)
    assert length["low"] < 0.75 < length["high"]
    assert length["mean_difference"] == 0.5 * 8
    done, kept, report = build(tmp_path / "balanced", *flags, "--balance_length")
    assert 0.49 <= done["share_longer"] <= 0.51
    assert report["dropped"] == {"dropped by --balance_length": 200 - len(kept)}
    margins = report["margins"]["ratings"]
    order = [margins[name] for name in ("least", "p10", "p50", "p90", "most")]
    assert all(low <= high for low, high in pairwise(order))


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    done = run_script(SCRIPT, "--output_dir", tmp_path / "out", "--kto", "--best_as_sft", "--score_key", "x")
    assert_refused(done, "name a source", "--kto: only with --from_chat", "--best_as_sft: only for samples",
                   "--score_key: only with --from_ratings")  # fmt: skip
    said = refuse("--model_id", "m", "--from_samples", "f", "--from_teacher")
    for problem in ("give one of the two", "--trainset_path ROWS", "belong together", "--teacher_base_url"):
        assert problem in said
    bad, out = write(tmp_path / "bad.jsonl", [{"id": 1}]), ["--output_dir", tmp_path / "out"]
    done = run_script(
        SCRIPT, "--from_samples", bad, tmp_path / "no.jsonl", "--from_ratings", tmp_path / "none.jsonl",
        "--from_chat", tmp_path / "no.db", *out,
    )  # fmt: skip
    assert_refused(done, "bad.jsonl:1: not a line of answers", "no.jsonl cannot be read", "none.jsonl: missing",
                   "no.db does not exist")  # fmt: skip
    said = refuse("--model_id", tmp_path / "nothing", "--trainset_path", tmp_path / "no.jsonl", *out)
    assert "no.jsonl: missing" in said
    assert "nothing" in said
    mixed = write(tmp_path / "other.jsonl", [line(ROW | {"id": ROWS[0]["id"]}, ["가", "나"])])
    said = refuse("--from_samples", mixed, "--trainset_path", WORLD, *out)
    assert "ask something else than the answered rows" in said
    assert not (tmp_path / "out").exists()
