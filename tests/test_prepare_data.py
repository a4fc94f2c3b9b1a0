"""prepare_data.py: real runs on small files, the split, and every way its input can be bad."""

import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import prepare_data
from sllm.data import formats, hold_out, splits
from sllm.tasks import TASKS, build_user_turn

FILES = {"train.jsonl", "valid.jsonl", "test.jsonl", "rejects.jsonl", "report.json", "report.html", "run.json"}
ROW = {"system_prompt": "", "user_content": "물은?", "assistant_content": "100℃", "task": "task04_01"}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def alpaca(number, answers=1):
    return [{"instruction": f"질문 {i}", "output": f"답 {a}"} for i in range(number) for a in range(answers)]


def group_rows(rows):
    keys = hold_out.keys_of(rows)
    return splits.group(keys[:, 0], keys[:, 1])


def sides_of(rows, *, valid, test, seed):
    """The name of each row's split."""
    groups, tasks = group_rows(rows), list(dict.fromkeys(row["task"] for row in rows))
    task_of = np.array([tasks.index(row["task"]) for row in rows])
    contexts = np.array([splits.hash_of(splits.context_key(row).encode()) for row in rows], np.uint64)
    sides = splits.split(groups, tasks, task_of, contexts, valid=valid, test=test, seed=seed)
    return [splits.SPLITS[side] for side in sides]


def refuses(done, out, *expected):
    """Exit 2, one error line per problem, in order, and nothing on disk."""
    assert done.returncode == 2, done.stderr
    errors = done.stderr.splitlines()
    assert len(errors) == len(expected), done.stderr
    for error, text in zip(errors, expected, strict=True):
        assert error.startswith("error: ")
        assert text in error
    assert done.stdout == ""
    assert not out.exists()


# ── a run ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_leaves_these_files_and_its_counts_add_up(script, tmp_path):
    rows = write(
        tmp_path / "rows.jsonl", *alpaca(80), alpaca(1)[0], {"instruction": "x", "output": ""}, {"y": "\ud800"}
    )
    foreign = {**ROW, "user_content": "요약해 줘", "task": "summarization", "source": "web"}
    kto = {**ROW, "user_content": "모르나?", "label": False}
    mistyped = {**ROW, "user_content": "풀은?", "task": "Task08_02", "source": "web"}
    more = write(tmp_path / "more.jsonl", ROW, kto, {**ROW, "user_content": "불은?"}, foreign, mistyped)
    out = tmp_path / "made" / "data"
    done = script("prepare_data.py", "--input_path", rows, more, "--output_dir", out)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == FILES

    report, run = json.loads((out / "report.json").read_text()), json.loads((out / "run.json").read_text())
    last = json.loads(done.stdout.splitlines()[-1])
    first, second = report["files"]
    assert (first["format"], first["read"], first["kept"]) == ("alpaca", 83, 80)
    assert first["refused"] == {"duplicate": 1, "empty answer": 1, "not a row of the file's format, alpaca": 1}
    assert (second["format"], second["read"], second["kept"]) == ("system_user_assistant", 5, 4)
    assert second["refused"] == {"label is false": 1}
    assert report["rows"] == {"read": 88, "kept": 84, "refused": 4, "not_drawn": 0}
    assert report["ignored"] == second["ignored"] == {"source": 2}
    assert first["ignored"] == {}
    assert report["unknown_tasks"] == {"Task08_02": 1, "summarization": 1}
    (warning,) = report["warnings"]
    assert "task 'Task08_02' (1 row)" in warning
    assert warning.endswith("task08_02 was probably meant")
    for text in (
        "  1 refused: label is false",
        "  ignored keys: source (2 rows)",
        f"  warning: {warning}",
        "  labels that are not task ids, kept: Task08_02 (1), summarization (1)",
    ):
        assert text in done.stdout.splitlines()
    split = {name: lines(out / f"{name}.jsonl") for name in ("train", "valid", "test")}
    assert {name: len(found) for name, found in split.items()} == {
        name: counts["rows"] for name, counts in report["splits"].items()
    }
    assert sum(map(len, split.values())) == 84
    assert len(split["valid"]) == len(split["test"]) == 4
    assert sum(report["tasks"].values()) == 84
    assert report["tasks"]["task04_01"] == 2
    assert report["characters"]["answer"] == {"min": 3, "median": 3.0, "p95": 3, "max": 4}
    assert list(report["conformance"]) == ["task04_01"]
    assert report["conformance"]["task04_01"]["answers"] == 2
    assert all(list(row) == ["id", "task", "messages"] for found in split.values() for row in found)
    assert "질문" in (out / "train.jsonl").read_text(encoding="utf-8")  # Korean is not escaped

    rejects = lines(out / "rejects.jsonl")
    assert [(reject["file"], reject["line"]) for reject in rejects] == [
        (str(rows), 81),
        (str(rows), 82),
        (str(rows), 83),
        (str(more), 2),
    ]
    assert rejects[0]["reason"] == f"duplicate of {rows}:1"
    assert rejects[1]["row"]["instruction"] == "x"
    for name, digest in report["sha256"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    assert run["stage"] == "data"
    assert run["data"]["rows"] == {"train": 76, "valid": 4, "test": 4}
    assert [parent["hash"] for parent in run["parents"]] == [entry["sha256"] for entry in report["files"]]
    assert last["stage"] == "data"
    assert last["kept"] == 84
    assert last["train"] == 76

    assert formats.load_rows(out, "sft") == split["train"]
    assert [row["id"] for row in formats.load_rows(out, "prompts")] == [row["id"] for row in split["test"]]

    refused = script("prepare_data.py", "--input_path", rows, "--output_dir", out)
    assert refused.returncode == 2
    assert f"error: {out} exists" in refused.stderr
    again = script("prepare_data.py", "--input_path", rows, "--output_dir", out, "--overwrite", "--test_ratio", 0)
    assert again.returncode == 0, again.stderr
    assert {path.name for path in out.iterdir()} == FILES
    assert (out / "test.jsonl").read_bytes() == b""


def test_preference_rows(script, tmp_path):
    pairs = [{"prompt": f"질문 {i}", "chosen": "예", "rejected": "글쎄"} for i in range(20)]
    out = tmp_path / "data"
    done = script("prepare_data.py", "--input_path", write(tmp_path / "pairs.jsonl", *pairs), "--output_dir", out)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["kind"] == "preference"
    assert report["characters"]["rejected"]["max"] == 2
    assert len(formats.load_rows(out, "preference")) == report["splits"]["train"]["rows"] == 18


def test_the_seed_decides_and_nothing_else(tmp_path):
    rows = [formats.convert(row, "alpaca") for row in alpaca(300)]
    shuffled = random.Random(0).sample(rows, len(rows))

    def valid(rows, seed):
        sides = sides_of(rows, valid=0.1, test=0.1, seed=seed)
        return {row["id"] for row, side in zip(rows, sides, strict=True) if side == "valid"}

    assert valid(rows, 1) == valid(shuffled, 1) != valid(rows, 2)


def test_rows_are_checked_as_the_trainer_of_a_model_will(tiny_base, tmp_path, capsys):
    """Which rows a model's trainer refuses, and which it cuts, is found out before any training."""
    tokens = {"n": 0}

    def row(user, answer):
        tokens["n"] += 1
        return {"id": f"r{tokens['n']}", "instruction": user, "output": answer}

    rows = [row(f"질문 {i}", "답") for i in range(30)]
    rows += [row("끝", "끝<|im_end|>"), row("물 " * 300, "답"), row("물은?", "물 " * 300)]
    path, out = write(tmp_path / "rows.jsonl", *rows), tmp_path / "data"
    words = ["--input_path", path, "--output_dir", out, "--model_id", tiny_base, "--max_seq_length", 200]
    args = prepare_data.build_parser().parse_args([str(word) for word in words])
    last = prepare_data.main(args)
    assert last["kept"] == 31
    assert last["refused"] == 2
    rejects = lines(out / "rejects.jsonl")
    assert [(reject["line"], reject["row"]["id"]) for reject in rejects] == [(31, "r31"), (32, "r32")]
    assert "special token <|im_end|>" in rejects[0]["reason"]
    assert "no room for its answer" in rejects[1]["reason"]
    check = json.loads((out / "report.json").read_text(encoding="utf-8"))["model_check"]
    assert (check["refused"], check["truncated_rows"], check["dropped"], check["max_length"]) == (2, 2, 1, 200)
    assert {found["row"] for found in check["longest_truncated"]} == {f"{path}:32 (r32)", f"{path}:33 (r33)"}
    assert (
        f"warning: 2 of 33 rows are truncated at 200 tokens, 1 with nothing left to learn: {path}:3"
        in capsys.readouterr().out
    )
    kept = {row["id"] for name in ("train", "valid", "test") for row in lines(out / f"{name}.jsonl")}
    assert kept == {f"r{n}" for n in range(1, 34)} - {"r31", "r32"}

    args.strict, args.output_dir = True, str(tmp_path / "strict")
    with pytest.raises(prepare_data.cli.InputError, match="rows.jsonl:31: .*special token"):
        prepare_data.main(args)
    assert not (tmp_path / "strict").exists()


def test_the_model_check_asks_for_a_model(script, tmp_path):
    path, out = write(tmp_path / "rows.jsonl", ROW), tmp_path / "data"
    words = ["--input_path", path, "--output_dir", out]
    refuses(script("prepare_data.py", *words, "--max_seq_length", 100), out, "are for the check of --model_id")
    refuses(script("prepare_data.py", *words, "--model_id", tmp_path / "none"), out, "model folder")


# ── the split ──────────────────────────────────────────────────────────────────────────────────────────────


def random_rows(order):
    """Rows of many tasks over a few contexts: summaries, questions and tables of the same text, plain rows too."""
    tasks, rows = list(TASKS.values()), []
    contexts = [f"글 {i} " + "가나다라 " * order.randint(1, 5) for i in range(order.randint(1, 60))]
    for i in range(order.randint(1, 400)):
        task, context = order.choice(tasks), order.choice(contexts)
        fields = {name: context.replace(" ", order.choice([" ", "\n"])) for name in task.fields}
        fields["question"] = f"질문 {i}" if task.source else context
        if "choices" in fields:
            fields["choices"] = ["하나", "둘"]
        user = build_user_turn(task.id, fields)
        known = order.random() < 0.8
        turns = [("user", user), ("assistant", f"답 {i}"), ("user", "또?"), ("assistant", "끝")]
        turns = turns[: order.choice([2, 2, 4])]
        messages = [{"role": role, "content": content} for role, content in turns]
        rows.append({"id": str(i), "task": task.id if known else None, "messages": messages, "context": context})
    return rows


def test_rows_that_share_a_context_or_a_prompt_stay_together():
    for seed in range(40):
        order = random.Random(seed)
        rows = random_rows(order)
        ratio = order.choice([0.05, 0.2])
        groups = group_rows(rows).tolist()
        sides = sides_of(rows, valid=ratio, test=ratio, seed=seed)
        assert "train" in sides
        for key in (
            lambda row: row["context"] if "###Context###" in row["messages"][0]["content"] else row["id"],
            lambda row: row["messages"][0]["content"],
        ):
            of: dict[str, set] = {}
            for row, side in zip(rows, sides, strict=True):
                of.setdefault(key(row), set()).add(side)
            assert all(len(found) == 1 for found in of.values())
        largest = max(Counter(groups).values())
        for side in ("valid", "test"):
            assert abs(sides.count(side) - ratio * len(rows)) <= largest


def test_earlier_rows_of_one_text_are_one_group():
    def row(task, *parts):
        messages = [{"role": "user", "content": "\n\n".join(parts)}, {"role": "assistant", "content": "a"}]
        return {"task": task, "messages": messages}

    text = "첫 문단이다.\n\n둘째 문단이다."
    rows = [
        row("kositp09", text, "짧게 답하시오.", "누구인가"),
        row("kositp10", "빠짐없이 답하세요", text, "왜 그런가"),
        row("kositp21", "답을 고르고 근거를 쓰시오", text, "무엇인가", "보기 : 하나, 둘,"),
        row("kositp02", "간추려 쓰시오", text),
        row("kositp03", text, "제목을 지어 주세요."),
        row("kositp03", "다른 글이다.", "제목을 지어 주세요."),
    ]
    groups = group_rows(rows).tolist()
    assert len(set(groups[:5])) == 1
    assert groups[5] not in groups[:5]


def test_a_chain_of_shared_keys_is_one_group():
    def row(user, task=None):
        return {"task": task, "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": "a"}]}

    labelled = "###Context###:\n본문\n\n###Question###:\n{}\n\n###Answer###:"
    rows = [
        row(labelled.format("하나"), "task08_01"),
        row(labelled.format("둘").replace("본문", " 본문\n")),
        row("본문", "task01_01"),
        row("본\u1106\u116e\u11ab", "task01_01"),
        row("본문\n\n###Question###:\n하나", "task08_01"),
        row("본문\n\n###Question###:\n하나"),  # its context is the whole turn, which the row above asks too
        row("다른 글"),
    ]
    groups = group_rows(rows).tolist()
    assert len(set(groups[:6])) == 1
    assert groups[6] != groups[0]


def test_alpaca_rows_of_one_context_stay_together():
    rows = [{"instruction": f"질문 {i}", "context": f"글 {i % 3}", "output": "답"} for i in range(30)]
    converted = [formats.convert(row, "alpaca") for row in rows]
    assert len(set(group_rows(converted).tolist())) == 3


def test_tasks_are_spread_over_the_splits():
    for seed in range(20):
        order = random.Random(seed)
        sizes = {task: order.randint(1, 120) for task in list(TASKS)[:8]}
        rows = [
            {
                "task": task,
                "messages": [{"role": "user", "content": f"{task} {i}"}, {"role": "assistant", "content": "a"}],
            }
            for task, size in sizes.items()
            for i in range(size)
        ]
        sides = sides_of(rows, valid=0.1, test=0.05, seed=seed)
        for side, ratio in (("valid", 0.1), ("test", 0.05)):
            assert abs(sides.count(side) - ratio * len(rows)) <= 1
            counts = Counter(row["task"] for row, where in zip(rows, sides, strict=True) if where == side)
            for task, size in sizes.items():
                assert abs(counts[task] - ratio * size) < 2
                assert counts[task] or ratio * size < 2


@pytest.mark.parametrize(
    ("number", "answers", "ratio", "expected"),
    [
        (1, 1, 0.05, (1, 0, 0)),
        (1, 1, 0.45, (1, 0, 0)),
        (2, 1, 0.4, (1, 1, 0)),
        (3, 1, 0.33, (1, 1, 1)),
        (2, 50, 0.05, (100, 0, 0)),
        (10, 1, 0.0, (10, 0, 0)),
    ],
)
def test_fewer_groups_than_splits(number, answers, ratio, expected):
    rows = [formats.convert(row, "alpaca") for row in alpaca(number, answers)]
    sides = sides_of(rows, valid=ratio, test=ratio, seed=42)
    assert tuple(sides.count(name) for name in splits.SPLITS) == expected


# ── bad input: exit 2, one line per problem, nothing written ───────────────────────────────────────────────


def test_all_files_are_checked_before_anything_is_reported(script, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(
        b'{"messages": [{"role": "user", "content": "a"}]}\n'
        b'{"messages": [}\n'
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}\n'
        b'{"messages": [{"role": "user", "content": "\xff"}]}\n'
        b"[1]\n"
    )
    empty, out = write(tmp_path / "empty.jsonl"), tmp_path / "data"
    unknown = write(tmp_path / "unknown.json", {"question": "a"})
    none = tmp_path / "none.jsonl"
    folder = tmp_path / "folder"
    folder.mkdir()
    words = ["--input_path", none, folder, empty, unknown, bad, bad, "--valid_ratio", 0.5, "--test_ratio", 0.5]
    refuses(
        script("prepare_data.py", *words, "--output_dir", out),
        out,
        "their sum has to be below 1",
        f"{bad} is named twice",
        f"{none}: missing",
        f"{folder}: ",
        f"{empty}: no rows",
        f"{unknown}: no known format",
        f"{bad}:1: no assistant turn",
        f"{bad}:2: not JSON: Expecting value (column 15)",
        f"{bad}:3: empty answer",
        f"{bad}:4: not UTF-8: from byte 43 of the line on; correct it",
        f"{bad}:5: a row is a JSON object, not an array",
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**ROW, "assistant_content": None}, "no assistant turn"),
        ({**ROW, "assistant_content": " "}, "empty answer"),
        ({**ROW, "task": ["task02"]}, "task is neither text nor a number"),
        ({**ROW, "label": False}, "label is false"),
        (ROW, "duplicate of "),
    ],
)
def test_strict_refuses_the_file_for_one_row(script, tmp_path, row, reason):
    path, out = write(tmp_path / "rows.jsonl", ROW, row), tmp_path / "data"
    done = script("prepare_data.py", "--input_path", path, "--output_dir", out, "--strict")
    refuses(done, out, f"{path}:2: {reason}")


def test_a_few_broken_lines_are_set_aside_when_asked(tmp_path):
    path = write(tmp_path / "rows.jsonl", *alpaca(50))
    path.write_bytes(path.read_bytes() + b'{"instruction" 1}\n{"instruction": "\xff"}\n')
    words = ["--input_path", str(path), "--output_dir", str(tmp_path / "data")]
    with pytest.raises(prepare_data.cli.InputError, match="rows.jsonl:51: not JSON.*rows.jsonl:52: not UTF-8"):
        prepare_data.main(prepare_data.build_parser().parse_args(words))
    last = prepare_data.main(prepare_data.build_parser().parse_args([*words, "--skip_bad_rows"]))
    assert (last["read"], last["kept"], last["refused"]) == (52, 50, 2)
    assert [reject["line"] for reject in lines(tmp_path / "data" / "rejects.jsonl")] == [51, 52]
    path.write_bytes(path.read_bytes() + b'{"instruction": "\xff"}\n' * 2)
    words[-1] = str(tmp_path / "more")
    with pytest.raises(prepare_data.cli.InputError, match="51: not JSON.*54: not UTF-8"):
        prepare_data.main(prepare_data.build_parser().parse_args([*words, "--skip_bad_rows"]))


def test_a_file_of_which_nothing_is_left(script, tmp_path):
    good, bad = write(tmp_path / "good.jsonl", ROW), write(tmp_path / "bad.jsonl", *[{"messages": []}] * 2)
    out = tmp_path / "data"
    done = script("prepare_data.py", "--input_path", good, bad, "--output_dir", out)
    refuses(done, out, f"{bad}:1: no assistant turn", f"{bad}:2: no assistant turn")


def test_preference_and_training_rows_do_not_mix(script, tmp_path):
    rows = write(tmp_path / "rows.jsonl", ROW)
    pairs = write(tmp_path / "pairs.jsonl", {"prompt": "질문", "chosen": "예", "rejected": "글쎄"})
    out = tmp_path / "data"
    done = script("prepare_data.py", "--input_path", rows, pairs, "--output_dir", out)
    refuses(done, out, f"preference rows ({pairs}) and training rows ({rows}) cannot share an output")


def test_an_output_folder_is_never_lost(script, tmp_path):
    out = tmp_path / "data"
    out.mkdir()
    inside = write(out / "rows.jsonl", ROW)
    (out / "run.json").write_text("{}", encoding="utf-8")
    outside = write(tmp_path / "bad.jsonl", {**ROW, "assistant_content": ""})
    for words, text in (
        ((inside,), "exists"),
        ((inside, "--overwrite"), "which --overwrite empties"),
        ((outside, "--overwrite"), "empty answer"),
    ):
        done = script("prepare_data.py", "--output_dir", out, "--input_path", *words)
        assert done.returncode == 2
        assert text in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert {path.name for path in out.iterdir()} == {"rows.jsonl", "run.json"}


def test_a_full_disk_is_found_before_writing(tmp_path, monkeypatch):
    path, out = write(tmp_path / "rows.jsonl", ROW), tmp_path / "data"
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000})())
    args = prepare_data.build_parser().parse_args(["--input_path", str(path), "--output_dir", str(out)])
    with pytest.raises(prepare_data.cli.InputError, match="needs .* of disk"):
        prepare_data.main(args)
    assert not out.exists()


def test_no_stage_of_data_imports_torch():
    code = "import sys, prepare_data, sllm.data.formats, sllm.data.splits; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(prepare_data.__file__).parent).returncode == 0


# ── many rows ──────────────────────────────────────────────────────────────────────────────────────────────


def prepare(*words):
    return prepare_data.main(prepare_data.build_parser().parse_args([str(word) for word in words]))


def many_rows(path, number=20_000):
    """About 16 MB with every kind of trouble in it."""
    order = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for i in range(number):
            row = {
                "id": i % 50,
                "instruction": f"질문 {i} " + "가나다 " * 60,
                "input": f"글 {i % 7000}",
                "output": f"답 {i}",
            }
            if order.random() < 0.02:
                row["output"] = ""
            if order.random() < 0.02:
                row["instruction"] = "같은 질문"
                row["input"] = row["output"] = "같은 글"
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES - {"run.json", "report.json", "report.html"}}


def test_the_number_of_processes_changes_nothing(tmp_path):
    rows = many_rows(tmp_path / "rows.jsonl")
    results = [
        prepare("--input_path", rows, "--output_dir", tmp_path / f"{count}", "--num_proc", count) for count in (1, 2)
    ]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert results[0]["read"] == results[0]["kept"] + results[0]["refused"] == 20_000
    ids = [row["id"] for name in splits.SPLITS for row in lines(tmp_path / "1" / f"{name}.jsonl")]
    assert len(ids) == len(set(ids)) == results[0]["kept"]
    assert json.loads((tmp_path / "1" / "report.json").read_text())["ids_renamed"] == len(ids) - 50
    rejects = [reject["line"] for reject in lines(tmp_path / "1" / "rejects.jsonl")]
    assert rejects == sorted(rejects)


def test_a_killed_run_continues_where_it_was(tmp_path, monkeypatch):
    """Killed between two batches, and in the middle of writing one; then resumed to the same bytes."""
    rows, whole, out = many_rows(tmp_path / "rows.jsonl"), tmp_path / "whole", tmp_path / "out"
    words = ["--input_path", rows, "--output_dir"]
    prepare(*words, whole, "--num_proc", 1)
    from sllm.data import preparation, readers, reading
    from sllm.data.blocks import Parsed

    class Killed(BaseException):
        pass

    blocks = []

    def small_blocks(source):
        for block in plain_blocks(source):
            records = block.records()
            for start in range(0, len(records), 1000):
                part = records[start : start + 1000]
                yield Parsed(path=block.path, end=block.end, parsed=part)

    def stopped(job):
        blocks.append(job)
        if len(blocks) % 8 == 0:
            raise Killed
        return plain_work(job)

    plain_blocks, plain_work = readers.Source.blocks, reading.work
    monkeypatch.setattr(readers.Source, "blocks", small_blocks)
    monkeypatch.setattr(reading, "work", stopped)
    for number in range(2):
        with pytest.raises(Killed):
            prepare(*words, out, "--num_proc", 1, *(["--resume"] if number else []))
        assert not out.exists()
        for name in (preparation.ROWS, preparation.REFUSED, preparation.INDEX_FILE, preparation.BATCHES):
            with (tmp_path / ".out.unfinished" / name).open("ab") as file:  # what a kill leaves of the next batch
                file.write(b'{"torn": ')
    monkeypatch.setattr(reading, "work", lambda job: blocks.append(job) or plain_work(job))
    prepare(*words, out, "--num_proc", 1, "--resume")
    total = sum(1 for _ in readers.open_source(rows).blocks())
    assert len(blocks) == total + 2  # only the two that were stopped were read again
    assert contents(out) == contents(whole)
    assert not (tmp_path / ".out.unfinished").exists()


def test_only_the_same_run_is_resumed(tmp_path):
    rows, out = write(tmp_path / "rows.jsonl", *alpaca(30)), tmp_path / "out"
    words = ["--input_path", rows, "--output_dir", out]
    with pytest.raises(prepare_data.cli.InputError, match="no stopped run of .*out to resume"):
        prepare(*words, "--resume")
    from sllm.data import reading

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "work", lambda job: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(prepare_data.cli.Interrupted, match="--resume"):
            prepare(*words)
    with pytest.raises(prepare_data.cli.InputError, match="--valid_ratio changed since"):
        prepare(*words, "--resume", "--valid_ratio", 0.2)
    rows.write_text(rows.read_text() + "\n")
    with pytest.raises(prepare_data.cli.InputError, match=f"{rows} changed since"):
        prepare(*words, "--resume")
    assert prepare(*words)["kept"] == 30  # begins again


# ── which rows are drawn ───────────────────────────────────────────────────────────────────────────────────


def tasked(path, number, task, text):
    return write(
        path, *[{"instruction": f"{text} {i}", "output": f"{text} 답 {i}", "task": task} for i in range(number)]
    )


def kept_by_file(out):
    return [file["kept"] for file in json.loads((out / "report.json").read_text())["files"]]


def test_a_mix_has_the_shares_that_were_asked_for(tmp_path):
    first, second = tasked(tmp_path / "a.jsonl", 100, "가", "하나"), tasked(tmp_path / "b:c.jsonl", 90, "나", "둘")
    out = tmp_path / "out"
    result = prepare("--mix", f"{first}:0.3", f"{second}:0.7", "--output_dir", out)
    assert kept_by_file(out) == [38, 90]
    assert result["read"] == 190
    report = json.loads((out / "report.json").read_text())
    assert (report["refused"], report["rows"]["not_drawn"]) == ({}, 62)
    assert report["selection"] == {"--mix": {str(first): 0.3, str(second): 0.7}}
    rejects = lines(out / "rejects.jsonl")
    assert len(rejects) == 62
    assert all(reject["row"] is None and reject["file"] == str(first) for reject in rejects)

    prepare("--mix", f"{first}:3", f"{second}:7", "--output_dir", tmp_path / "same")
    assert (out / "train.jsonl").read_bytes() == (tmp_path / "same" / "train.jsonl").read_bytes()
    prepare("--mix", f"{first}:1", f"{second}:1", "--output_dir", tmp_path / "few", "--max_rows", 20)
    assert kept_by_file(tmp_path / "few") == [10, 10]


def test_limits_draw_the_same_rows_of_any_order(tmp_path):
    path = tasked(tmp_path / "rows.jsonl", 50, "가", "하나")
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({"instruction": f"둘 {i}", "output": "답"}) + "\n" for i in range(5))
    backwards = tmp_path / "backwards.jsonl"
    backwards.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))

    def drawn(path, *words):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        prepare("--input_path", path, "--output_dir", out, "--valid_ratio", 0, "--test_ratio", 0, *words)
        return {row["messages"][0]["content"] for row in lines(out / "train.jsonl")}

    ten = drawn(path, "--max_rows", 10)
    assert len(ten) == 10
    assert ten == drawn(backwards, "--max_rows", 10) < drawn(path, "--max_rows", 20)
    assert ten != drawn(path, "--max_rows", 10, "--seed", 1)
    capped = drawn(path, "--max_rows_per_task", 4)
    assert len(capped) == 4 + 5  # rows without a task are of no task
    assert len(drawn(path, "--max_rows_per_task", 4, "--max_rows", 6)) == 6


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "name the files with --input_path"),
        (["--input_path", "a.jsonl", "--mix", "b.jsonl:1"], "name the files with --input_path, or"),
        (["--mix", "a.jsonl:1", "a.jsonl:2"], "a.jsonl is named twice in --mix"),
        (["--mix", "a.jsonl"], "has no share; write FILE:SHARE"),
        (["--mix", "a.jsonl:0"], "'0' is not a number above 0"),
    ],
)
def test_wrong_words_about_files(script, tmp_path, words, text):
    done = script("prepare_data.py", *words, "--output_dir", tmp_path / "out")
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


# ── licences ───────────────────────────────────────────────────────────────────────────────────────────────


def test_licences_are_recorded_and_told(tmp_path, capsys):
    first, second = tasked(tmp_path / "a.jsonl", 10, "가", "하나"), tasked(tmp_path / "b.jsonl", 10, "나", "둘")
    words = ["--input_path", first, second, "--output_dir", tmp_path / "out"]
    prepare(*words, "--license", "mit", f"{second}=cc-by-nc-4.0")
    sources = json.loads((tmp_path / "out" / "run.json").read_text())["data"]["sources"]
    assert [(source["path"], source["license"], source["kept"]) for source in sources] == [
        (str(first), "mit", 10),
        (str(second), "cc-by-nc-4.0", 10),
    ]
    assert "note: not for commercial use: b.jsonl (cc-by-nc-4.0);" in capsys.readouterr().out
    with pytest.raises(prepare_data.cli.InputError, match="names mit and gpl for all.*none.jsonl=mit: no such file"):
        prepare(*words, "--overwrite", "--license", "mit", "gpl", "none.jsonl=mit")


# ── the report ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_shows_what_was_kept_and_refused_and_runs_nothing_of_it(tmp_path):
    rows = [*alpaca(20), {"instruction": "<script>alert(1)</script>", "output": "</pre><b>굵게"}]
    rows += [{"instruction": "<img src=x>", "output": ""}, {**alpaca(1)[0], "source": "web"}]
    out = tmp_path / "out"
    prepare("--input_path", write(tmp_path / "rows.jsonl", *rows), "--output_dir", out)
    page = (out / "report.html").read_text(encoding="utf-8")
    for text in ("empty answer", "duplicate of", "&lt;img src=x&gt;", "rows.jsonl", "rows refused"):
        assert text in page
    assert "<img" not in page
    assert page.count("<script>") == 1  # the language switch
    for address in ("http://", "https://", 'src="'):
        assert address not in page


def test_the_page_shows_rows_in_the_template_of_the_model(tiny_base, tmp_path):
    path, out = write(tmp_path / "rows.jsonl", *alpaca(20)), tmp_path / "out"
    prepare("--input_path", path, "--output_dir", out, "--model_id", tiny_base)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("&lt;|im_start|&gt;assistant") == 10
    assert json.loads((out / "report.json").read_text())["model_check"]["lengths"]["max"] > 5


# ── near-duplicates and test sets ──────────────────────────────────────────────────────────────────────────


def question_about(number):
    """A row with a context of its own, long enough for an edit to be small."""
    words = " ".join(f"낱말{number}가{i}" for i in range(40))
    return {"id": f"r{number}", "instruction": f"{number}번째 글을 요약하세요.", "input": words, "output": words[:150]}


def test_near_duplicates_and_leaks_are_rejected_with_their_places(tmp_path):
    rows = [question_about(i) for i in range(40)]
    copies = [{**rows[i], "id": f"copy{i}", "input": rows[i]["input"] + "!"} for i in range(10)]
    train = write(tmp_path / "rows.jsonl", *rows, *copies)
    test = write(tmp_path / "test.jsonl", *[{**rows[i], "id": f"t{i}"} for i in (20, 21)])
    out = tmp_path / "out"
    result = prepare("--input_path", train, "--output_dir", out, "--near_duplicates", "--decontaminate", test)
    assert result["kept"] == 38
    report = json.loads((out / "report.json").read_text())
    assert report["refused"] == {"near-duplicate": 10, "overlaps with a test set": 2}
    rejects = lines(out / "rejects.jsonl")
    assert [reject["line"] for reject in rejects] == [21, 22, *range(41, 51)]
    assert rejects[0]["reason"].startswith(f"overlaps with a test set: {test} item t20 (")
    assert rejects[2]["reason"].startswith(f"near-duplicate of {train}:1 (similarity 1.00)")
    assert rejects[2]["row"]["id"] == "copy0"
    groups = report["near_duplicates"]
    assert [group["kept"] for group in groups] == [f"{train}:{i}" for i in range(1, 11)]
    assert "near-duplicate" in (out / "report.html").read_text(encoding="utf-8")

    assert prepare("--input_path", train, "--output_dir", tmp_path / "all")["kept"] == 50
    with pytest.raises(prepare_data.cli.InputError, match="none.jsonl: missing"):
        prepare("--input_path", train, "--output_dir", tmp_path / "no", "--decontaminate", tmp_path / "none.jsonl")


def test_texts_are_repaired_masked_and_filtered(tmp_path):
    rows = [
        {"instruction": "전화는?\r\n", "output": "010-1234-5678로 거세요."},
        {"instruction": "깨진 글", "output": "占쏙옙占쏙옙 占쏙옙"},
        {"instruction": "되풀이", "output": "네 " * 100},
    ]
    path, out = write(tmp_path / "rows.jsonl", *alpaca(20), *rows), tmp_path / "out"
    words = ["--input_path", path, "--valid_ratio", 0, "--test_ratio", 0, "--output_dir"]
    assert prepare(*words, out, "--personal_data", "mask", "--filter", "repetition")["refused"] == 2
    report = json.loads((out / "report.json").read_text())
    assert report["notes"] == {"masked: phone": 1, "normalised: line ends": 1}
    (row,) = [row for row in lines(out / "train.jsonl") if "전화" in row["messages"][0]["content"]]
    assert [turn["content"] for turn in row["messages"]] == ["전화는?\n", "[전화번호]로 거세요."]
    plain = tmp_path / "plain"
    assert prepare(*words, plain, "--filter", "none", "--no-normalise")["refused"] == 0
    assert "전화는?\\r\\n" in (plain / "train.jsonl").read_text()
    with pytest.raises(prepare_data.cli.InputError, match="--min_hangul is for the filter language"):
        prepare(*words, tmp_path / "no", "--min_hangul", 0.5)


def test_what_leaves_no_row_is_told(tmp_path):
    path = write(tmp_path / "rows.jsonl", *alpaca(5))
    copy = write(tmp_path / "copy.jsonl", *alpaca(5))
    with pytest.raises(prepare_data.cli.InputError, match="no row is left: 5 overlaps with a test set"):
        prepare("--input_path", path, "--decontaminate", copy, "--output_dir", tmp_path / "none")
    result = prepare("--input_path", path, copy, "--output_dir", tmp_path / "out")  # a file that repeats another
    assert (result["kept"], result["refused"]) == (5, 5)


def test_a_file_that_changed_is_not_resumed(tmp_path):
    from sllm.data import reading

    folder = tmp_path / "in"
    folder.mkdir()
    path = write(folder / "a.jsonl", *alpaca(5))
    words = ["--input_path", folder, "--output_dir", tmp_path / "out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "work", lambda job: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(prepare_data.cli.Interrupted):
            prepare(*words)
    write(path, *alpaca(6))
    with pytest.raises(prepare_data.cli.InputError, match=f"{path} changed since"):
        prepare(*words, "--resume")


def test_a_killed_worker_loses_nothing(tmp_path, monkeypatch):
    from sllm.data import parallel, reading

    path, out = write(tmp_path / "rows.jsonl", *alpaca(30)), tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "work", lambda job: (_ for _ in ()).throw(parallel.WorkerKilled("a worker was killed")))
        with pytest.raises(prepare_data.cli.InputError, match="killed; to resume: .*--resume --num_proc 1"):
            prepare("--input_path", path, "--output_dir", out)
    assert prepare("--input_path", path, "--output_dir", out, "--resume")["kept"] == 30
