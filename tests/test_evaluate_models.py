"""evaluate_model.py with a judge, an API, retention and models that were trained on the questions."""

import json

import pytest
from browser_helpers import needs_browser
from conftest import ROOT, assert_refused, succeed
from test_evaluate import ROWS, answers, line  # noqa: F401
from test_judge import server, stub  # noqa: F401

from sllm import contamination
from sllm.evaluate import tables


def results_of(out) -> dict:
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def retention(tiny_base, sft_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("retention") / "out"
    flags = ["--models", f"base={tiny_base}", f"sft={sft_folder}", "--suites", "retention", "--output_dir", out]
    succeed("evaluate_model.py", *flags)
    return out, flags


def test_retention_is_what_the_training_run_says(retention, sft_folder):
    """By the same texts: bits per character of base and adapter, and KL of the adapter alone."""
    out, _ = retention
    found = json.loads((out / "retention" / "sft.json").read_text(encoding="utf-8"))["found"]
    scores = {name: model["scores"]["retention"] for name, model in results_of(out)["models"].items()}
    summary = found["summary"]
    assert scores["sft"]["bits_per_character"]["value"] == pytest.approx(summary["bits_per_character"])
    assert scores["base"]["bits_per_character"]["value"] == pytest.approx(summary["base_bits_per_character"])
    assert scores["sft"]["kl"]["value"] > 0
    assert "kl" not in scores["base"]
    assert scores["sft"]["bits_per_character"]["n"] == 60
    assert (out / "report.html").read_text(encoding="utf-8").count("글자당 비트") > 1


def test_retention_is_not_measured_twice(retention, script):
    out, flags = retention
    before = (out / "retention" / "sft.json").stat().st_mtime_ns
    done = script("evaluate_model.py", *flags, "--resume")
    assert done.returncode == 0, done.stderr
    assert (out / "retention" / "sft.json").stat().st_mtime_ns == before


def test_a_lower_figure_is_better_where_less_is_better(retention):
    [comparison] = results_of(retention[0])["comparisons"]
    assert comparison["improved"] == (comparison["value"] < 0)
    sure = {"significant": True, "value": -0.1, "improved": True, "first": "base", "second": "sft", "n": 60}
    assert tables.verdict(comparison | sure) == "sft is better"


def test_questions_that_a_model_was_trained_on_are_left_out(tmp_path, sft_folder, few_rows, script, tiny_base):
    """The adapter's own training rows, and questions of the small world, which it never saw."""
    trained = [json.loads(text) for text in few_rows.read_text(encoding="utf-8").splitlines()]
    rows = [row | {"id": f"trained-{i}"} for i, row in enumerate(trained)] + ROWS[:40]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(line(r, r["assistant_content"]), ensure_ascii=False) + "\n" for r in rows))
    run = {"parents": [{"path": str(sft_folder)}], "data": {"settings": {}}, "versions": {}}
    (tmp_path / "answers.run.json").write_text(json.dumps(run), encoding="utf-8")
    done = script("evaluate_model.py", "--models", f"sft={path}", "--output_dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "not held-out" in done.stdout
    assert "sft, clean" in done.stdout
    marked = {
        one["id"] for one in map(json.loads, (tmp_path / "out" / "answers.jsonl").read_text().splitlines())
        if one["trained_on"]
    }  # fmt: skip
    seen = len(trained) - 3  # the last three are its validation rows
    assert sum(id.startswith("trained-") for id in marked) >= seen
    assert not any(not id.startswith("trained-") for id in marked)
    results = results_of(tmp_path / "out")
    assert results["suites"]["reference"]["held_out"] == len(rows) - len(marked)
    score = results["models"]["sft"]["scores"]["reference"]["char_f1"]
    assert (score["n"], score["clean"]["n"]) == (len(rows), len(rows) - len(marked))
    assert "학습 텍스트와 겹칩니다" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_the_gate_refuses_where_nothing_can_be_compared(tmp_path, sft_folder, few_rows, script):
    """Every question was trained on."""
    rows = [json.loads(text) for text in few_rows.read_text(encoding="utf-8").splitlines()]
    items = [["", row["user_content"], row["assistant_content"]] for row in rows]
    shares = contamination.overlap(items, contamination.read(sft_folder))
    trained = [row for row, share in zip(rows, shares, strict=True) if share == 1]
    assert len(trained) >= 15
    for name in ("old", "new"):
        lines = [line(row | {"id": f"t{i}"}, row["assistant_content"]) for i, row in enumerate(trained)]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines), encoding="utf-8")
        run = {"parents": [{"path": str(sft_folder)}], "data": {"settings": {}}, "versions": {}}
        path.with_suffix(".run.json").write_text(json.dumps(run), encoding="utf-8")
    models = [f"{name}={tmp_path / name}.jsonl" for name in ("old", "new")]
    out = tmp_path / "out"
    done = script("evaluate_model.py", "--models", *models, "--output_dir", out)
    assert done.returncode == 0, done.stderr
    assert "no question to compare by" in done.stdout
    first = (out / "report.html").read_text(encoding="utf-8")
    succeed("evaluate_model.py", "--report_only", "--output_dir", out)
    assert (out / "report.html").read_text(encoding="utf-8") == first
    assert_refused(
        script("evaluate_model.py", "--output_dir", out, "--gate", "old", "new"), "none is held out; evaluate both"
    )


def test_two_folders_that_were_measured_in_two_ways_are_not_compared(retention, tiny_base, tmp_path, script):
    texts = tmp_path / "probe.txt"
    texts.write_text("오늘은 하늘이 맑고 바람이 붑니다.\n" * 3, encoding="utf-8")
    for name, more in (("a", []), ("b", ["--probe_path", texts])):
        succeed("evaluate_model.py", "--models", f"x={tiny_base}", "--suites", "retention", *more, "--output_dir",
                tmp_path / name)  # fmt: skip
    gate = script("evaluate_model.py", "--gate", tmp_path / "a", tmp_path / "b", "--output_dir", tmp_path / "a")
    assert_refused(gate, "measured in two ways (texts_hash)")


# ── a judge, an API ──


@pytest.fixture
def judged(answers, stub, tmp_path):  # noqa: F811
    files = [f"{name}={answers(name, right, ROWS[:24], seed=i)}" for i, (name, right) in enumerate(
        {"old": 0.2, "new": 0.9}.items())]  # fmt: skip
    flags = ["--models", *files, "--suites", "reference", "judge", "--judge_base_url", f"{stub.url}/v1",
             "--judge_model", "fair+garbage", "--judge_kinds", "rubric", "pairwise", "--judge_reference", "old",
             "--judge_attempts", 1, "--judge_price", 1, 2, "--output_dir", tmp_path / "out"]  # fmt: skip
    succeed("evaluate_model.py", *flags)
    return flags, tmp_path / "out"


def test_a_judge_is_a_suite_among_others(judged, stub, script):  # noqa: F811
    flags, out = judged
    results = results_of(out)
    assert list(results["suites"]) == ["reference", "judge_rubric", "judge_pairwise"]
    details = results["details"]["judge_rubric"]
    assert details["relative"]["rubric"]["new"]["overall"]["value"] > 0
    assert details["usage"]["cost"] > 0
    assert 1 <= results["models"]["new"]["scores"]["judge_rubric"]["overall"]["value"] <= 5
    prompts = [json.loads(text) for text in (out / "judge_prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(prompts) > 2 * 24
    calls = stub.log()["answered"]
    done = script("evaluate_model.py", *flags, "--resume")
    assert done.returncode == 0, done.stderr
    assert stub.log()["answered"] == calls
    assert results_of(out)["models"] == results["models"]


@needs_browser
@pytest.mark.page
def test_the_report_shows_what_the_judge_says(judged, browser):
    _, out = judged
    tab = browser.open((out / "report.html").as_uri(), ready=False).page
    complaints = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.wait_for_selector("article")
    text = tab.inner_text("body")
    for expected in ("심사 모델", "길이를 보정한 승률", "브래들리–테리", "실패한 판정"):
        assert expected in text
    assert len(tab.query_selector_all("table.matrix tbody tr")) == 2
    chips = tab.inner_text("article:first-of-type .chips")
    assert "심사 모델: 종합" not in chips or "%" not in chips.split("종합")[1][:5]
    assert not complaints


def test_models_behind_an_api_are_asked(stub, script, tmp_path):  # noqa: F811
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS[:6]), encoding="utf-8")
    flags = ["--models", "remote=fair", "--api_base_url", f"{stub.url}/v1", "--testset_path", rows,
             "--output_dir", tmp_path / "out"]  # fmt: skip
    succeed("evaluate_model.py", *flags)
    written = (tmp_path / "out" / "answers" / "remote.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(text)["id"] for text in written] == [row["id"] for row in ROWS[:6]]
    assert {"world", "reference"} <= set(results_of(tmp_path / "out")["suites"])
    source = results_of(tmp_path / "out")["models"]["remote"]["source"]
    assert (source["model"], source["settings"]["api"]) == ("fair", f"{stub.url}/v1")
    calls = stub.log()["answered"]
    succeed("evaluate_model.py", *flags, "--resume")
    assert stub.log()["answered"] == calls


def test_bad_judges_and_apis_are_refused_before_anything_is_replaced(script, answers, tmp_path):  # noqa: F811
    path, start = answers("a", 1.0, ROWS[:3]), ["evaluate_model.py", "--output_dir", tmp_path / "out", "--models"]
    dead = ["--judge_base_url", "http://127.0.0.1:9/v1", "--judge_retries", 0]
    assert_refused(script(*start, f"a={path}", "--judge_model", "x", *dead), "http://127.0.0.1:9/v1")
    assert_refused(script(*start, f"a={path}", "--judge_model", "x"), "--judge_base_url: give the address")
    assert_refused(script(*start, f"a={path}", "--suites", "judge"), "--suites judge and --judge_model belong together")
    rows = ROOT / "sample_data" / "world" / "test_names.jsonl"
    api = ["--api_base_url", "http://127.0.0.1:9/v1", "--testset_path", rows]
    assert_refused(script(*start, "a=name", *api), "http://127.0.0.1:9/v1")
    assert_refused(script(*start, "a=name", *api, "--suites", "retention"), "retention needs the model itself")
    keyed = ["--api_base_url", "http://me:secret@127.0.0.1:9/v1", "--testset_path", rows]
    assert_refused(script(*start, "a=name", *keyed), "put the key into the environment variable OPENAI_API_KEY")
    assert_refused(script(*start, f"a={path}", "--judge_kinds", "total"), "only with --judge_model")
    assert not (tmp_path / "out").exists()
