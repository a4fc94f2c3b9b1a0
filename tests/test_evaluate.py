"""evaluate_model.py: scores, intervals, comparisons, gate and report, from files of answers and from models."""

import collections
import json
import random
import re
import string
import sys

import numpy as np
import pytest
from browser_helpers import needs_browser
from conftest import ROOT, assert_refused, succeed

from sllm import similarity, tasks
from sllm.evaluate import evaluation, metrics, report, statistics, suites
from sllm.evaluate.suites import Answer, Question

sys.path.insert(0, str(ROOT / "benchmarks"))
import evaluation_statistics as simulation

WORLD = ROOT / "sample_data" / "world" / "test_names.jsonl"
ROWS = [json.loads(line) for line in WORLD.read_text(encoding="utf-8").splitlines()]


def line(row: dict, output: str, **more) -> dict:
    system = [{"role": "system", "content": row["system_prompt"]}] if row.get("system_prompt") else []
    messages = [*system, {"role": "user", "content": row["user_content"]}]
    reference = row["assistant_content"]
    return {"id": row["id"], "task": row.get("task"), "messages": messages, "output": output, "reference": reference,
            "finish_reason": "stop", "prompt_tokens": 9, "completion_tokens": 9} | more  # fmt: skip


@pytest.fixture
def answers(tmp_path):
    """Writes a model's answers: right with a probability, else those to another question."""

    def write(name: str, right: float, rows=ROWS, seed: int = 0, **more):
        drawn, path = random.Random(seed), tmp_path / f"{name}.jsonl"
        texts = [(row if drawn.random() < right else drawn.choice(ROWS))["assistant_content"] for row in rows]
        lines = [json.dumps(line(row, text, **more), ensure_ascii=False) for row, text in zip(rows, texts, strict=True)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


# ── metrics, held against other implementations ──


def random_texts(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Pairs of texts of few different characters, so that they share some."""
    drawn = random.Random(seed)
    signs = "가나다라 마바 ABc12 '\"《》()‘’.,!?~%-\n"

    def text() -> str:
        return "".join(drawn.choice(signs) for _ in range(drawn.randint(0, 40)))

    return [(text(), text()) for _ in range(count)]


def korquad_normalized(text: str) -> str:
    """As evaluate-v1.0.py of KorQuAD describes it, step by step."""
    for sign in "'\"《》<>〈〉()‘’":
        text = text.replace(sign, " ")
    return " ".join("".join(c for c in text.lower() if c not in set(string.punctuation)).split())


def test_exact_match_and_character_f1_are_korquads():
    for answer, reference in random_texts(1000):
        given, expected = korquad_normalized(answer), korquad_normalized(reference)
        assert similarity.exact_match(answer, reference) == (given == expected)
        given, expected = ([c for word in text.split() for c in word] for text in (given, expected))
        same = sum((collections.Counter(given) & collections.Counter(expected)).values())
        f1 = 0.0
        if same:
            precision, recall = same / len(given), same / len(expected)
            f1 = 2 * precision * recall / (precision + recall)
        assert similarity.char_f1(answer, reference) == pytest.approx(f1, abs=1e-12)


def test_rouge_is_rouge_scores():
    from rouge_score import rouge_scorer

    official = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    drawn = random.Random(1)
    for _ in range(1000):
        answer, reference = (" ".join(drawn.choices("abcdefg", k=drawn.randint(0, 20))) for _ in range(2))
        expected = official.score(reference, answer)  # by words, which here are letters
        assert similarity.rouge(answer, reference, by="characters") == {
            name: expected[name].fmeasure for name in expected
        }


def test_chrf_is_sacrebleus():
    from sacrebleu.metrics import CHRF

    for answer, reference in random_texts(1000, seed=2):
        assert metrics.chrf(answer, reference) == pytest.approx(
            CHRF(word_order=2).corpus_score([answer], [[reference]]).score / 100, abs=1e-9
        )


def test_rouge_by_morphemes_forgives_particles():
    answer, reference = "박물관이 문을 엽니다", "박물관은 문을 엽니다"
    morphemes, characters = (similarity.rouge(answer, reference, by=by)["rouge1"] for by in ("morphemes", "characters"))
    assert morphemes == pytest.approx(5 / 6)  # 박물관·이/은·문·을·열·습니다
    assert 0 < characters < 1


@pytest.mark.parametrize(
    ("metric", "answer", "value"),
    [
        (metrics.hangul_share, "한글 ab", 0.5),
        (metrics.hangul_share, "8,000", None),
        (metrics.broken_characters, "깨\ufffd짐", 1),
        (metrics.repetition, "가 나 다 라 " * 3, 1 - 4 / 9),
        (metrics.repetition, "짧은 답", 0),
        (metrics.speech_levels, "문을 엽니다. 금요일에 쉬어요.", 1),
        (metrics.speech_levels, "문을 엽니다. 금요일에 쉰다.", 0.5),
        (metrics.speech_levels, "- 입장료: 8,000원", None),
    ],
)
def test_answers_by_themselves(metric, answer, value):
    assert metric(answer) == (None if value is None else pytest.approx(value))


def test_foreign_script_is_not_what_the_prompt_has():
    assert metrics.foreign_script("東京에 갑니다", "어디에 갑니까?") == 1
    assert metrics.foreign_script("東京에 갑니다 ABC", "東京은 어디입니까?") == 0


@pytest.mark.parametrize(("answer", "same"), [("b) 사과", 1), ("**b.** 사과", 1), ("a) 배", 0), ("사과", 0), ("", 0)])
def test_a_choice_is_its_letter(answer, same):
    assert metrics.same_choice(answer, "b) 사과\n근거: …") == same


@pytest.mark.parametrize(("answer", "same"), [("사과", 1), ("사과.\n근거", 1), ("배\n사과", 0), ("사과 배", 0)])
def test_a_choice_without_letters_is_its_text(answer, same):
    assert metrics.same_choice(answer, "사과\n사과는 붉다.") == same


def test_keywords_are_read_as_the_reference_writes_them():
    assert metrics.keyword_f1("소금, 빵", "빵,  소금, 버터") == pytest.approx(4 / 5)
    assert metrics.keyword_f1("Keyword 1: 빵", "Keyword 1: 빵\nKeyword 2: 소금") == pytest.approx(2 / 3)
    assert metrics.keyword_f1("빵, 소금", "Keyword 1: 빵\nKeyword 2: 소금") == 0


def test_a_verdict_is_its_first_word():
    assert metrics.same_verdict("예\n근거: …", "예") == 1
    assert metrics.same_verdict("예를 들면 그렇습니다", "예") == 0


def test_every_rule_has_a_metric():
    rules = {rule for task in tasks.TASKS.values() for rule in task.rules}
    assert {metric.key for metric in suites.CONFORMANCE.metrics} >= {f"rule_{rule}" for rule in rules}


def test_the_right_answers_to_the_earlier_tasks_score_as_such():
    lines = (ROOT / "sample_data" / "earlier_task_rows.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    questions = [
        Question(str(n), tasks.task_id_of(row["Task_name"]), [{"role": "user", "content": row["input"]}], row["output"])
        for n, row in enumerate(rows)
    ]
    right = {str(n): [Answer(row["output"], "stop")] for n, row in enumerate(rows)}
    assert suites.score(suites.CONFORMANCE, questions, right)["rules_passed"].tolist() == [1] * len(rows)
    scores = suites.score(suites.REFERENCE, questions, right)
    for key, count in (("choice", 6), ("yes_no", 6), ("keyword_f1", 2)):
        assert np.nansum(scores[key]) == np.count_nonzero(~np.isnan(scores[key])) == count


def test_the_right_answers_score_as_such():
    questions = [
        Question(row["id"], row.get("task"), line(row, "")["messages"], row["assistant_content"], row) for row in ROWS
    ]
    right = {row["id"]: [Answer(row["assistant_content"], "stop")] for row in ROWS}
    for suite in suites.SUITES.values():
        scores = suites.score(suite, questions, right)
        assert np.nanmin(scores[suite.metrics[0].key]) == 1
    silent = {row["id"]: [Answer("", "stop")] for row in ROWS}
    for suite in suites.SUITES.values():
        scores = suites.score(suite, questions, silent)
        assert np.nanmax(scores[suite.metrics[0].key]) == 0


# ── statistics ──


@pytest.mark.parametrize(
    ("kind", "mean", "questions", "each"), [("yes_no", 0.9, 240, 1), ("graded", 0.8, 100, 1), ("yes_no", 0.7, 100, 5)]
)
def test_intervals_hold_the_true_mean(kind, mean, questions, each):
    assert simulation.coverage(kind, mean, questions, each, runs=300, seed=0) == pytest.approx(0.95, abs=0.035)


def test_the_gate_rarely_refuses_an_equal_model_and_finds_what_it_says():
    kinds = ["yes_no", "graded"]
    assert simulation.refused(kinds, 200, 200, seed=0, worse=False) <= 0.05
    assert simulation.refused(kinds, 200, 200, seed=1, worse=True) == pytest.approx(0.8, abs=0.08)


def test_small_permutation_tests_are_exact():
    first, second = np.zeros(4), np.array([0.1, 0.2, 0.3, 0.4])
    assert statistics.compare(first, second).p == 2 / 16


def test_mcnemars_mid_p():
    first, second = np.array([0.0] * 9 + [1.0]), np.array([1.0] * 9 + [0.0])
    exact = 2 * (1 + 10) / 2**10
    assert statistics.compare(first, second).p == pytest.approx(exact - 10 / 2**10)


def test_holms_correction():
    given = [statistics.Difference(0, 0, 0, 1, p, 0, 0, 0) for p in (0.01, 0.04, 0.03)]
    assert [difference.corrected for difference in statistics.holm(given)] == pytest.approx([0.03, 0.06, 0.06])


def test_answers_to_one_question_count_once():
    question = Question("1", None, [{"role": "user", "content": "?"}], "가")
    scores = suites.score(suites.REFERENCE, [question], {"1": [Answer("가", "stop")] * 3 + [Answer("나", "stop")]})
    assert scores["char_f1"].tolist() == [0.75]


# ── the script ──


def run(*flags) -> dict:
    return succeed("evaluate_model.py", *flags)


def test_models_are_scored_compared_and_reported(answers, tmp_path):
    files = {name: answers(name, right) for name, right in (("base", 0.1), ("sft", 0.8), ("dpo", 0.8))}
    models = [f"{name}={path}" for name, path in files.items()]
    out = tmp_path / "evaluation"
    done = run("--models", *models, "--testset_path", WORLD, "--output_dir", out, "--gate", "base", "sft",
               "--must_improve", "world", "conformance")  # fmt: skip
    assert done["gate"] == "passed"
    assert done["models"]["base"]["world"] < 0.5 < done["models"]["sft"]["world"]
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    verdicts = {(c["first"], c["second"], c["suite"]): c for c in results["comparisons"]}
    assert len(verdicts) == 9
    assert verdicts["base", "sft", "world"]["significant"]
    assert not verdicts["sft", "dpo", "world"]["significant"]  # the same answers
    assert results["models"]["sft"]["scores"]["world"]["true"]["n"] == len(ROWS)
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["stage"] == "evaluation"
    lines = [json.loads(text) for text in (out / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["id"] for entry in lines] == [row["id"] for row in ROWS]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["']?\w""", page)  # nothing is loaded from elsewhere
    (out / "report.html").unlink()
    run("--output_dir", out, "--report_only")
    assert (out / "report.html").read_text(encoding="utf-8") == page


def test_a_worse_model_does_not_pass(answers, tmp_path, script):
    old, new, out = answers("old", 0.9), answers("new", 0.5), tmp_path / "evaluation"
    flags = [
        "--models",
        f"old={old}",
        f"same={answers('same', 0.9)}",
        f"new={new}",
        "--testset_path",
        WORLD,
        "--output_dir",
        out,
        "--gate",
    ]
    done = script("evaluate_model.py", *flags, "old", "new")
    assert done.returncode == 1
    assert re.search(r"error: new does not pass: world: significantly worse, -\d", done.stderr)
    verdict = json.loads((out / "gate.json").read_text(encoding="utf-8"))
    assert not verdict["passed"]
    assert verdict["new_source"]["answers"] == str(new)
    done = script("evaluate_model.py", "--output_dir", out, "--gate", "old", "same", "--must_improve", "reference")
    assert done.returncode == 1
    assert "reference: not significantly better" in done.stderr


def test_two_folders_are_compared_by_the_questions_they_share(answers, tmp_path, script):
    for name, right, rows in (("old", 0.2, ROWS[:200]), ("new", 0.9, ROWS[40:])):
        run("--models", f"{name}={answers(name, right, rows)}", "--testset_path", WORLD, "--output_dir",
            tmp_path / f"{name}_eval")  # fmt: skip
    done = run("--gate", tmp_path / "old_eval", tmp_path / "new_eval", "--must_improve", "world")
    assert done["gate"] == "passed"
    assert (
        json.loads((tmp_path / "new_eval" / "gate.json").read_text(encoding="utf-8"))["differences"]["world"]["n"]
        == 160
    )
    assert_refused(script("evaluate_model.py", "--output_dir", tmp_path / "old_eval", "--gate", "old", "other"),
                   "--gate other: neither a model of")  # fmt: skip


def test_texts_cannot_break_out_of_the_report(answers, tmp_path):
    path = tmp_path / "a.jsonl"
    text = "</script><script>alert(1)</script>"
    path.write_text(json.dumps(line(ROWS[0], text), ensure_ascii=False) + "\n", encoding="utf-8")
    run("--models", f"<b>={path}", "--suites", "reference", "--output_dir", tmp_path / "evaluation")
    page = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert page.count("<script>") == 1
    assert "<b>" not in page.replace("<b></b>", "")


def test_bad_input_is_said_at_once(answers, tmp_path, script):
    good, out = answers("good", 1.0), tmp_path / "evaluation"
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": "1"}\n', encoding="utf-8")

    def refused(*flags, said):
        assert_refused(script("evaluate_model.py", "--output_dir", out, *flags), *said)
        assert not (out / "results.json").exists()

    refused(said=["name models"])
    refused("--models", "good", f"a={good}", f"a={good}", "gone=missing",
            said=["--models good: give each model as NAME=PATH", "a name of its own", "missing"])  # fmt: skip
    refused("--models", f"a={good}", "--gate", "a", "b", said=["--gate b: not among --models a"])
    refused("--models", f"a={good}", "--must_improve", "world", said=["--must_improve: only with --gate"])
    refused("--models", f"a={broken}", said=["broken.jsonl:1: not a line of answers"])
    refused("--models", f"a={good}", "--suites", "world", "--overwrite", said=["--suites world: no question has facts"])
    other = answers("other", 1.0, [row | {"user_content": "다른 질문"} for row in ROWS])
    refused("--models", f"a={good}", f"b={other}", "--overwrite", said=["240 different questions of the same id"])
    refused("--models", f"a={other}", "--testset_path", WORLD, "--overwrite", said=["ask something else"])


@pytest.mark.torch
def test_models_are_asked_and_their_answers_kept(tmp_path, tiny_base, sft_folder):
    test, out = tmp_path / "test.jsonl", tmp_path / "evaluation"
    test.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS[:12]), encoding="utf-8")
    flags = ["--models", f"base={tiny_base}", f"sft={sft_folder}", "--testset_path", test, "--output_dir", out,
             "--max_tokens", 20, "--temperature", 0.7, "--n", 2]  # fmt: skip
    done = run(*flags)
    assert set(done["models"]) == {"base", "sft"}
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["models"]["sft"]["source"]["model"] == str(sft_folder.resolve())
    assert results["models"]["sft"]["source"]["settings"]["n"] == 2
    assert run(*flags, "--resume")["models"] == done["models"]


@pytest.mark.torch
def test_only_the_model_that_passed_is_merged(answers, tmp_path, tiny_base, sft_folder, dpo_folder, script):
    test, out = tmp_path / "test.jsonl", tmp_path / "evaluation"
    test.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS[:8]), encoding="utf-8")
    merge = ["merged_weights.py", "--merged_weights_path", tmp_path / "merged", "--require_gate", out, "--model_id"]
    assert_refused(script(*merge, sft_folder), "no gate.json; make it with `python evaluate_model.py --gate")
    run("--models", f"base={tiny_base}", f"sft={sft_folder}", "--testset_path", test, "--output_dir", out,
        "--max_tokens", 20, "--gate", "base", "sft")  # fmt: skip
    assert_refused(script(*merge, dpo_folder), f"sft is another model than {dpo_folder}")
    succeed(*merge, sft_folder)
    card = (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    assert re.search(r"\| Truth \| True answers \| \d+\.\d % \| \d+\.\d–\d+\.\d % \| 8 \|", card)
    script("evaluate_model.py", "--output_dir", out, "--gate", "base", "sft", "--must_improve", "world")
    assert_refused(script(*merge, sft_folder, "--overwrite"), "sft did not pass: world: not significantly better")
    run("--models", f"a={answers('a', 0.5)}", f"b={answers('b', 0.5)}", "--output_dir", out, "--overwrite", "--gate",
        "a", "b")  # fmt: skip
    assert_refused(script(*merge, sft_folder, "--overwrite"), "not recorded which model gave the answers of b")


# ── the report in a browser ──


@needs_browser
@pytest.mark.page
def test_a_large_report_opens_searches_and_sorts(browser, tmp_path):
    drawn = random.Random(0)
    models = [f"model{i}" for i in range(5)]
    rows = [row | {"id": f"{row['id']}-{i}"} for i in range(5) for row in ROWS][:1000]
    lines, names = [], {"true": 1.0}
    for row in rows:
        answers = {model: [drawn.choice(ROWS)["assistant_content"]] for model in models}
        scores = {model: {"world": {name: float(drawn.random() < 0.5) for name in names}} for model in models}
        lines.append(
            line(row, "")
            | {"answers": answers, "scores": scores, "finish_reasons": {m: ["stop"] for m in models}, "trained_on": []}
        )
    means = {"world": {"true": {"value": 0.5, "low": 0.45, "high": 0.55, "n": 1000}}}
    described = {"ko": "사실성", "en": "Truth", "headline": "true", "metrics": {
        "true": {"ko": "사실인 답", "en": "True answers", "lower": False, "neutral": False, "unit": "share", "least": 0,
                 "most": 1}}, "items": "questions"}  # fmt: skip
    results = {"questions": 1000, "models": {m: {"source": {"answers": m}, "scores": means} for m in models},
               "suites": {"world": described}, "by_task": {"world": {}}, "comparisons": [], "details": {}}  # fmt: skip
    page = tmp_path / "report.html"
    page.write_text(report.render(evaluation.Evaluation(results, lines)), encoding="utf-8")
    assert page.stat().st_size < 15e6
    tab = browser.open(page.as_uri(), ready=False).page
    complaints = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.wait_for_selector("article")
    assert tab.inner_text("#count") == "1000개"
    assert len(tab.query_selector_all("article")) < 200  # the rest is made when it comes into view
    tab.fill("#search", ROWS[3]["user_content"][16:40])
    tab.wait_for_function("document.querySelectorAll('article mark').length > 0")
    assert int(tab.inner_text("#count").removesuffix("개")) < 100
    tab.fill("#search", "")
    tab.select_option("#task", "task02")
    tab.wait_for_function(
        "[...document.querySelectorAll('article h3')].every((e) => e.textContent.startsWith('task02'))"
    )
    tab.select_option("#order", "worst:model3")
    tab.click("#language")
    assert tab.inner_text("h1") == "Model evaluation"
    assert not complaints
