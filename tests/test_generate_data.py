"""A teacher writes task rows: against a real HTTP server with known faults (tests/stub_teacher.py)."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from conftest import ROOT
from test_api_calls import free_port, start_stub

import generate_data
import prepare_data
from sllm import runs, tasks
from sllm.api_calls import Completion
from sllm.cli import InputError
from sllm.data.teacher import answers, contexts, plans
from sllm.data.teacher.contexts import Context

SAMPLE = ROOT / "sample_data" / "task_rows.jsonl"
FAMILIES = [task_id for task_id in tasks.TASKS if task_id.startswith("task")]  # those that have a file of texts


@pytest.fixture(scope="module")
def server():
    stub, process = start_stub()
    yield stub
    process.kill()
    process.wait()


@pytest.fixture
def stub(server):
    server.reset()
    return server


def words_of(stub, out, model: str, *more: object) -> list[str]:
    words = ["--contexts", SAMPLE, "--output_dir", out, "--teacher_base_url", f"{stub.url}/v1",
             "--teacher_model", model, "--teacher_concurrency", 16, *more]  # fmt: skip
    return [str(word) for word in words]


def generate(stub, out, model: str, *more: object) -> dict:
    if "--tasks" not in more:
        more = (*more, "--tasks", *FAMILIES)
    return generate_data.main(generate_data.build_parser().parse_args(words_of(stub, out, model, *more)))


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ── rows ──


@pytest.fixture(scope="module")
def good(server, tmp_path_factory):
    """All tasks from every third of the sample rows, by a teacher without faults."""
    server.reset()
    folder = tmp_path_factory.mktemp("good")
    sample, out = folder / "sample.jsonl", folder / "generated"
    rows = SAMPLE.read_text(encoding="utf-8").splitlines()[::3]
    sample.write_text("\n".join(rows), encoding="utf-8")
    return generate(server, out, "good", "--contexts", sample, "--license", "CC BY-NC 4.0"), out, server.log(), sample


def test_every_task_is_written_and_every_row_keeps_its_rules(good):
    results, out, log, _ = good
    rows = lines(out / "train.jsonl")
    assert {row["task"] for row in rows} == set(FAMILIES)
    for row in rows:
        assert row.keys() == {"id", "task", "messages"}
        assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
        assert tasks.check(row["task"], row["messages"][1]["content"], row["messages"][2]["content"]) == []
    assert len({row["id"] for row in rows}) == len(rows) == results["written"]
    assert log["answered"] == results["calls"]
    rejects = lines(out / "rejects.jsonl")
    assert sum(reject["task"] is None for reject in rejects) == 10  # sample rows without a context
    assert results["written"] + results["rejected"] == results["calls"]
    assert results["rejected"] < 0.1 * results["calls"]
    assert {reject["reason"].partition(":")[0] for reject in rejects if reject["task"]} <= {"duplicate"}


def test_what_varies_between_rows_is_spread_evenly(good):
    _, out, *_ = good
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert set(report["system_prompts"]) == set(plans.LEVELS)
    assert min(report["system_prompts"].values()) > 0.15 * report["rows"]["written"]
    assert min(report["verdicts"].values()) > 0.3 * sum(report["verdicts"].values())
    labels = Counter(
        row["messages"][2]["content"][0] for row in lines(out / "train.jsonl") if row["task"] == "task06_02"
    )
    assert set("abcd") <= set(labels)
    assert max(labels.values()) < 0.6 * labels.total()


def test_prepare_data_takes_every_row(good, tmp_path):
    _, out, *_ = good
    args = ["--input_path", str(out / "train.jsonl"), "--output_dir", str(tmp_path / "data"), "--strict"]
    results = prepare_data.main(prepare_data.build_parser().parse_args(args))
    assert results["refused"] == 0
    assert results["kept"] == len(lines(out / "train.jsonl"))


def test_the_record_names_the_teacher(good):
    _, out, *_ = good
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    teacher = record["data"]["teacher"]
    assert (record["stage"], teacher["model"], teacher["structured"]) == ("data", "good", True)
    assert teacher["host"].startswith("127.0.0.1:")
    assert len(teacher["templates"]) == 64
    (source,) = record["data"]["sources"]
    assert (source["license"], source["kept"]) == ("CC BY-NC 4.0", len(lines(out / "train.jsonl")))
    assert sorted(path.name for path in out.iterdir()) == [
        "rejects.jsonl", "report.json", "run.json", "teacher.json", "teacher_calls.jsonl", "train.jsonl",
    ]  # fmt: skip


def test_a_finished_run_is_repeated_without_a_call(server, good):
    _, out, _, sample = good
    before, rows = server.log()["requests"], (out / "train.jsonl").read_bytes()
    again = generate(server, out, "good", "--resume", "--contexts", sample)
    assert (again["new_calls"], server.log()["requests"]) == (0, before)
    assert (out / "train.jsonl").read_bytes() == rows


def test_more_tasks_or_rows_cost_only_their_own_calls(stub, tmp_path):
    out = tmp_path / "generated"
    first = generate(stub, out, "good", "--tasks", "task08", "--max_rows", 20)
    assert (first["written"], first["new_calls"]) == (20, stub.log()["answered"])
    again = generate(stub, out, "good", "--resume", "--tasks", "task08", "task02", "--max_rows", 60)
    assert again["written"] == 60
    log = stub.log()
    assert log["answered"] == log["unique"] == again["calls"]
    assert again["new_calls"] < again["calls"]


def test_an_api_without_structured_output_is_noticed_once(stub, tmp_path, capsys):
    results = generate(stub, tmp_path / "generated", "plain", "--tasks", "task06_01", "--max_rows", 5)
    assert results["written"] == 5
    assert "JSON in text: it refuses response_format" in capsys.readouterr().out
    assert not any("response_format" in body for body in stub.log()["bodies"])
    stub.reset()
    generate(stub, tmp_path / "structured", "good", "--tasks", "task06_01", "--max_rows", 5)
    assert all(body["response_format"]["type"] == "json_schema" for body in stub.log()["bodies"])


def test_the_same_question_about_a_text_is_a_duplicate(stub, tmp_path):
    results = generate(stub, tmp_path / "generated", "same", "--tasks", "task08_02", "--rows_per_context", 2)
    rows = lines(tmp_path / "generated" / "train.jsonl")
    rejects = [reject for reject in lines(tmp_path / "generated" / "rejects.jsonl") if reject["task"]]
    assert len({row["messages"][1]["content"] for row in rows}) == len(rows) == results["written"]
    assert results["rejected"] == len(rejects) == 60
    assert all(reject["reason"].startswith("duplicate: duplicate of ") for reject in rejects)


# ── faults ──


def test_a_bad_answer_is_asked_again_with_what_is_wrong(stub, tmp_path):
    """30 % of the answers are garbage, and the service is busy at two calls in three."""
    out = tmp_path / "generated"
    chosen = ["task01_01", "task02", "task06_01", "task07_02", "task11", "task12_02"]
    results = generate(stub, out, "garbage+busy", "--max_attempts", 4, "--teacher_concurrency", 64, "--tasks", *chosen)
    log, journal = stub.log(), lines(out / "teacher_calls.jsonl")
    assert log["answered"] == log["unique"] == len(journal) == results["calls"]
    assert results["missing"] == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["attempts"]["2"] > 0.15 * results["written"]
    bad = [line for line in journal if line["attempt"] == 3]
    rejects = [reject for reject in lines(out / "rejects.jsonl") if reject["task"]]
    assert all(reject["answer"] or reject["reason"].startswith("empty") for reject in rejects)
    assert sum(reject["attempts"] == 4 for reject in rejects) <= len(bad)
    planned = sum(counts["planned"] for counts in report["tasks"].values())
    assert planned == results["written"] + results["rejected"]
    again = [body["messages"] for body in log["bodies"] if len(body["messages"]) == 3]
    said = " ".join(messages[-1]["content"] for messages in again)
    for reason in ("JSON 객체 하나로 읽을 수 없습니다", "한국어 비율이", "거절하지 말고", "코드 블록(```)이 있습니다"):
        assert reason in said
    assert any("너무 길어 중간에 끊겼습니다" in body["messages"][0]["content"] for body in log["bodies"])


def test_what_is_never_right_is_rejected_with_its_answer(stub, tmp_path):
    with pytest.raises(InputError, match="every answer was rejected"):
        generate(stub, tmp_path / "generated", "stubborn", "--tasks", "task01_01", "task06_01", "--max_attempts", 2)
    rejects = [reject for reject in lines(tmp_path / "generated" / "rejects.jsonl") if reject["task"]]
    assert len(rejects) == 120
    for reject in rejects:
        assert reject["attempts"] == 2
        assert reject["answer"].startswith("```")
        assert reject["reason"].partition(":")[0] in ("clean", "json")


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """A run that nothing interrupts."""
    server.reset()
    out = tmp_path_factory.mktemp("whole") / "generated"
    generate(server, out, "garbage+slow", "--tasks", "task01_02", "task06_01")
    return out, server.log()["unique"]


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_repeats_no_call_and_loses_no_row(whole, server, tmp_path, kill):
    server.reset()
    stub, out = server, tmp_path / "killed"
    command = [sys.executable, "generate_data.py",
               *words_of(stub, out, "garbage+slow", "--tasks", "task01_02", "task06_01")]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while stub.log()["answered"] < 40:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(kill)
    _, errors = process.communicate(timeout=30)
    if kill == signal.SIGINT:
        assert process.returncode == 130
        assert errors.startswith("interrupted; to resume: ")
        assert "--resume" in errors
    time.sleep(0.3)  # what the stub was at work on
    journal = out / "teacher_calls.jsonl"
    finished, sent = len(journal.read_bytes().splitlines()), stub.log()["answered"]
    rows = lines(out / "train.jsonl")
    assert 0 < len(rows) <= finished <= sent < 140
    assert not (out / "run.json").exists()
    assert "resume it with `python generate_data.py" in runs.unfinished(out)
    journal.write_bytes(journal.read_bytes()[:-20])  # a line cut in the middle is no finished call
    subprocess.run([*command, "--resume"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    log = stub.log()
    assert log["answered"] == log["unique"] + (sent - finished) + 1
    assert log["unique"] == whole[1]
    for name in ("train.jsonl", "rejects.jsonl"):
        assert (out / name).read_bytes() == (whole[0] / name).read_bytes()
    assert lines(out / "train.jsonl")[: len(rows)] == rows


def test_the_limit_of_the_cost_leaves_rows_for_the_next_run(stub, tmp_path):
    out, price = tmp_path / "generated", ["--teacher_price", 1e4, 0, "--teacher_concurrency", 1]  # each call costs 1
    first = generate(stub, out, "good", "--tasks", "task01_02", *price, "--teacher_max_cost", 5)
    assert (first["written"], first["missing"], first["cost"]) == (5, 55, 5)
    second = generate(stub, out, "good", "--tasks", "task01_02", *price, "--resume")
    assert (second["written"], second["missing"], second["new_calls"]) == (60, 0, 55)


# ── bad input ──


def test_everything_wrong_with_the_input_is_said_at_once(stub, tmp_path):
    empty, keyless = tmp_path / "empty.txt", tmp_path / "keyless.jsonl"
    empty.write_text("\n \n", encoding="utf-8")
    keyless.write_text('{"question": "무엇인가요?", "memo": "글"}\n', encoding="utf-8")
    words = words_of(stub, tmp_path / "out", "good", "--tasks", "task8", "nothing", "task08", "--teacher_max_cost", 1)
    words[words.index(str(SAMPLE))] = str(tmp_path / "missing.jsonl")
    words[2:2] = [str(empty), str(keyless)]
    with pytest.raises(InputError) as caught:
        generate_data.main(generate_data.build_parser().parse_args(words))
    said = str(caught.value)
    for part in (
        "--tasks task8: not a task; did you mean task08_01 or task08_02?", "--tasks nothing: not a task; known: task01",
        "empty.txt: no text in it", "keyless.jsonl: no context found; its keys are question, memo; name one with "
        "--context_key", "missing.jsonl: missing", "--teacher_max_cost: give the price, too",
    ):  # fmt: skip
        assert part in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("nobody", "does not exist; check the name of the model"),
        ("keyed", "set the API key in the environment variable OPENAI_API_KEY"),
        ("html", "is this the address of an OpenAI-compatible API?"),
    ],
)
def test_a_teacher_that_cannot_be_asked_is_one_error_at_the_start(stub, tmp_path, monkeypatch, model, said):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError) as caught:
        generate(stub, tmp_path / "out", model)
    assert len(caught.value.problems) == 1
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_dead_port_is_exit_2_and_one_line(tmp_path):
    dead = SimpleNamespace(url=f"http://127.0.0.1:{free_port()}")
    command = [sys.executable, "generate_data.py", *words_of(dead, tmp_path / "out", "m", "--tasks", "task02")]
    command += ["--teacher_retries", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "check the address, and that the service runs" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_another_teacher_does_not_continue_the_rows_of_the_first(stub, tmp_path):
    out = tmp_path / "generated"
    generate(stub, out, "good", "--tasks", "task02", "--max_rows", 3)
    rows = (out / "train.jsonl").read_bytes()
    with pytest.raises(InputError) as caught:
        generate(stub, out, "slow", "--tasks", "task02", "--resume", "--seed", 7)
    assert "written with model good, this run has slow" in str(caught.value)
    assert "seed 42, this run has 7" in str(caught.value)
    assert (out / "train.jsonl").read_bytes() == rows
    with pytest.raises(InputError, match="exists"):
        generate(stub, out, "good", "--tasks", "task02")


def test_a_dry_run_shows_prompts_and_asks_nothing(stub, tmp_path, capsys):
    results = generate(stub, tmp_path / "out", "good", "--dry_run", "--teacher_price", 1, 2)
    shown = capsys.readouterr().out
    assert results["calls"] == 60 * 23 - 3  # three texts are too short to be completed
    assert results["prompt_tokens"] > 100_000
    assert results["cost"] > 0
    for task_id in FAMILIES:
        assert f"── {task_id}, " in shown
    assert stub.log()["requests"] == 0
    assert not (tmp_path / "out").exists()


# ── contexts ──

TEXT = "막걸리는 고두밥과 누룩을 섞어 빚은 술이다. 거칠게 걸러 낸다고 하여 이런 이름이 붙었다고 한다. "


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", json.dumps({"id": "a", "passage": TEXT, "title": "막걸리"}, ensure_ascii=False)),
        ("rows.json", json.dumps([{"본문": TEXT, "title": "막걸리"}], ensure_ascii=False)),
        ("squad.json", json.dumps({"data": [{"title": "막걸리", "paragraphs": [{"context": TEXT, "qas": []}]}]})),
        ("task.jsonl", json.dumps({"messages": [
            {"role": "user", "content": f"###Context###:\n{TEXT}\n\n###Question###:\n무엇?\n\n###Answer###:"},
            {"role": "assistant", "content": "술"}], "title": "막걸리"})),
        ("utf16.txt", TEXT.encode("utf-16")),
        ("cp949.txt", TEXT.encode("cp949")),
        ("windows.txt", ("\ufeff# 막걸리\r\n\r\n" + TEXT).encode()),
        ("rows.csv", f'번호,본문,title\n1,"{TEXT}",막걸리\n'.encode("cp949")),
        ("rows.tsv", f"본문\ttitle\n{TEXT}\t막걸리\n"),
        ("rows_document.md", f"# 막걸리\n\n**{TEXT.strip()}**\n"),
        ("rows_document.html", f"<html><title>막걸리</title><body><p>{TEXT}</p></body></html>"),
    ],
)  # fmt: skip
def test_contexts_are_found(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (context,) = contexts.load([str(path)], key=None, least=20, most=2000).used
    assert context.text.removeprefix("# ").removeprefix("막걸리\n\n") == TEXT.strip()
    assert context.title == ("막걸리" if name.startswith(("rows", "squad", "task")) else "")
    assert context.place.startswith(str(path))


def test_documents_of_a_folder_without_what_a_stage_wrote_in_it(tmp_path):
    for name, text in (("a.md", TEXT), ("out/report.html", f"<p>{TEXT}</p>"), ("out/run.json", "{}")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = contexts.load([str(tmp_path)], key=None, least=20, most=2000)
    assert [context.place for context in found.used] == [str(tmp_path / "a.md")]
    assert found.notes == [f"{tmp_path}: left out: 1 folder: {tmp_path}/out (a stage wrote it)"]
    for name in ("b.pdf", "c.docx"):
        (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(InputError) as caught:
        contexts.load([str(tmp_path)], key=None, least=20, most=2000)
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [f"{tmp_path}/b.pdf", f"{tmp_path}/c.docx"]


def test_a_key_can_be_named_and_blocks_of_a_text_are_contexts(tmp_path):
    rows, text = tmp_path / "rows.jsonl", tmp_path / "text.txt"
    rows.write_text(json.dumps({"context": "다른 글", "memo": TEXT}, ensure_ascii=False), encoding="utf-8")
    (context,) = contexts.load([str(rows)], key="memo", least=20, most=2000).used
    assert context.text == TEXT.strip()
    text.write_text(f"제목\n\n{TEXT}\n\n\n{TEXT}끝.\n\n짧은 끝", encoding="utf-8")
    found = contexts.load([str(text)], key=None, least=20, most=2000).used
    assert [context.text for context in found] == [f"제목\n\n{TEXT.strip()}", f"{TEXT}끝.\n\n짧은 끝"]
    assert [context.place.rpartition(":")[2] for context in found] == ["1", "6"]


def test_what_cannot_be_used_is_rejected_with_a_reason(tmp_path):
    path = tmp_path / "rows.jsonl"
    bad = [
        TEXT,
        TEXT,
        "짧다",
        f"{TEXT}###Question###: 무엇?",
        f"{TEXT}\ufffd",
        "",
        f"<table>{'<tr></tr>' * 300}</table>",
    ]
    path.write_text("\n".join(json.dumps({"context": text}) for text in bad), encoding="utf-8")
    loaded = contexts.load([str(path)], key=None, least=20, most=500)
    assert len(loaded.used) == 1
    assert [reject.reason.partition(":")[0] for reject in loaded.rejects] == [
        "no context", "duplicate of rows-1", "too short", "label of the prompt", "broken character", "too long",
    ]  # fmt: skip
    assert loaded.read == len(loaded.used) + len(loaded.rejects)


def test_long_contexts_are_cut_between_sentences_and_lose_nothing():
    draw = random.Random(1)
    for _ in range(50):
        sentences = [f"{'가나다 ' * draw.randint(1, 60)}끝이다." for _ in range(draw.randint(1, 60))]
        table = f"<table>{'<tr><td>칸 하나. 둘.</td></tr>' * 9}</table>"
        sentences.insert(draw.randint(0, len(sentences)), table)
        text = " ".join(sentences)
        parts = contexts.cut(text, 500)
        assert "".join("".join(parts).split()) == "".join(text.split())
        assert max(map(len, parts)) <= 500
        assert all(part.endswith((".", "</table>")) for part in parts)
        assert sum(table in part for part in parts) == 1
    assert [len(part) for part in contexts.cut("가" * 1100, 500)] == [500, 500, 100]


# ── prompts and answers ──

CONTEXT = Context("c", f"{TEXT * 4}2021년에는 막걸리 빚기가 국가무형문화재로 지정되었다.", "막걸리", "c.txt:1", "c.txt")


@pytest.mark.parametrize("task_id", FAMILIES)
def test_the_system_prompts_of_a_task_vary(task_id):
    planned = [plans.plan(CONTEXT, task_id, number, seed) for number in range(4) for seed in range(20)]
    assert all(isinstance(plan, plans.Plan) for plan in planned)
    prompts = {plan.system_prompt for plan in planned}
    assert len(prompts) >= 12
    assert {plan.level for plan in planned} == set(plans.LEVELS)
    assert all(plan.task.id == task_id and plan.id.startswith(f"c-{task_id}-") for plan in planned)


@pytest.mark.parametrize("task_id", tasks.TASKS)
def test_every_rule_of_a_task_is_said(task_id):
    plan = plans.plan(CONTEXT, task_id, 0, 42)
    sentences = plans._environment().get_template("rules.jinja").module
    limits = plans._limits(tasks.get(task_id), CONTEXT.text)
    for rule in tasks.get(task_id).rules:
        said = sentences.line(rule, tasks.get(task_id), limits).strip()
        assert said or rule in ("yes_no", "answerable", "evidence")  # which the keys of the JSON ask for
        assert said in plan.messages[0]["content"]


def test_a_plan_follows_from_seed_text_and_number_alone():
    first, again = (plans.plan(CONTEXT, "task06_02", 1, 42) for _ in range(2))
    assert first == again
    assert plans.plan(CONTEXT, "task06_02", 1, 43) != first
    assert plans.plan(CONTEXT, "task01_01", 4, 42) == "more rows than wordings of the question (4)"


def test_the_first_rows_are_about_many_contexts_and_tasks():
    first = list(plans.pairs(10, ["a", "b", "c"], 2))[:10]
    assert len({context for context, _, _ in first}) == 10
    assert min(Counter(task for _, task, _ in first).values()) == 3
    assert len(set(plans.pairs(10, ["a", "b", "c"], 2))) == 60


def choice_parts(**changed) -> str:
    parts = {
        "question": "막걸리 빚기는 언제 국가무형문화재로 지정되었나요?",
        "correct": "2021년",
        "wrong": ["2020년", "2019년", "2018년", "2017년"],
        "evidence": ["2021년에는 막걸리 빚기가 국가무형문화재로 지정되었다."],
        "explanation": "2021년에 막걸리 빚기가 국가무형문화재로 지정되었다고 한다.",
    }
    return json.dumps(parts | changed, ensure_ascii=False)


def choice_plan(count: int = 5) -> plans.Plan:
    made = (plans.plan(CONTEXT, "task06_02", 0, seed) for seed in range(300))
    return next(plan for plan in made if plan.choices == count and plan.right == 2)


def test_a_multiple_choice_row_is_put_together():
    row = answers.read(choice_plan(), Completion(choice_parts(), "stop"))
    fields = tasks.split_user_turn("task06_02", row["messages"][1]["content"])
    assert fields["choices"] == ["2020년", "2019년", "2021년", "2018년", "2017년"]
    assert row["messages"][2]["content"].startswith("c) 2021년\n근거:\n2021년에 ")
    fenced = answers.read(choice_plan(), Completion(f"<think>음…</think>\n```json\n{choice_parts()}\n```", "stop"))
    assert fenced == row


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (choice_parts(wrong=["2020년"]), "choices"),
        (choice_parts(wrong=["2021년", "2019년", "2018년", "2017년"]), "choices"),
        (choice_parts(correct="c) 2021년"), "choices"),
        (choice_parts(explanation="보기 c가 2021년에 막걸리 빚기가 지정된 해이다."), "choices"),
        (choice_parts(evidence=["막걸리 빚기는 2021년에 지정되었다."]), "evidence"),
        (choice_parts(evidence=[]), "json"),
        (choice_parts(question="When was it?"), "korean"),
        (choice_parts(question="막걸리는\n보기: a) 언제"), "question"),
        (choice_parts(extra="더 씀"), "json"),
        (choice_parts(explanation="죄송하지만 이 문제에는 답할 수 없습니다."), "refusal"),
        (choice_parts(explanation="2021년에 국가무형문화재로 지정되었다.<|im_end|>"), "control"),
        (choice_parts(explanation="1984년에 막걸리 빚기가 국가무형문화재로 지정되었다고 한다."), "grounded"),
        (choice_parts(explanation="- 2021년에 지정\n- 국가무형문화재 막걸리"), "sentence"),
        (choice_parts()[:-30], "json"),
        ("[" * 100_000, "json"),
        (f"네! {choice_parts()}", "json"),
        ("죄송하지만 요청하신 내용은 도와 드릴 수 없습니다.", "refusal"),
        ("<think>아직 생각", "truncated"),
        ("  ", "empty"),
    ],
)
def test_what_is_wrong_with_an_answer_is_named(text, rule):
    with pytest.raises(answers.Broken) as caught:
        answers.read(choice_plan(), Completion(text, "stop"))
    assert rule in [failure.rule for failure in caught.value.failures]


def test_an_answer_that_was_cut_off_is_never_used():
    with pytest.raises(answers.Broken, match="truncated"):
        answers.read(choice_plan(), Completion(choice_parts(), "length"))


@pytest.mark.parametrize(
    ("task_id", "answer", "rule"),
    [
        ("task04_02", {"question": "본문에서 말하는 술은 무엇인가요?", "answer": "막걸리입니다."}, "self_contained"),
        ("task04_02", {"question": "막걸리는 무엇인가요?", "answer": "이 글에 따르면 술입니다."}, "self_contained"),
        ("task10_02", {"title": "막걸리\n이야기", "answer": "막걸리는 술이다."}, "form"),
        ("task12_02", {"table": "<table><tr><td>1</td></tr></table>", "question": "막걸리는 무엇인가요?",
                       "evidence": ["술"], "answer": "술이다."}, "table"),
        ("task12_02", {"table": "<table><tr><td>막걸리</td><td>술</td></tr>" * 3, "question": "막걸리는 무엇인가요?",
                       "evidence": ["술"], "answer": "술이다."}, "table"),
        ("task12_02", {"table": "<table>" + "<tr><td>막걸리</td><td>1999</td></tr>" * 3 + "</table>",
                       "question": "막걸리는 무엇인가요?", "evidence": ["막걸리"], "answer": "술이다."}, "table"),
    ],
)  # fmt: skip
def test_parts_of_other_tasks_are_checked(task_id, answer, rule):
    plan = plans.plan(CONTEXT, task_id, 0, 42)
    with pytest.raises(answers.Broken) as caught:
        answers.read(plan, Completion(json.dumps(answer, ensure_ascii=False), "stop"))
    assert rule in [failure.rule for failure in caught.value.failures]


def test_a_yes_no_answer_has_the_verdict_that_was_drawn():
    plan = next(p for seed in range(20) if (p := plans.plan(CONTEXT, "task07_02", 0, seed)).verdict == "아니요")
    parts = {"question": "막걸리는 맑게 걸러 낸 술인가요?", "verdict": "아니요", "evidence": ["거칠게 걸러 낸다고"],
             "explanation": "막걸리는 거칠게 걸러 낸다고 하여 이런 이름이 붙었다고 한다."}  # fmt: skip
    row = answers.read(plan, Completion(json.dumps(parts, ensure_ascii=False), "stop"))
    assert row["messages"][2]["content"].startswith("아니요\n근거:\n막걸리는")
    with pytest.raises(answers.Broken, match="verdict"):
        answers.read(plan, Completion(json.dumps(parts | {"verdict": "예"}, ensure_ascii=False), "stop"))
