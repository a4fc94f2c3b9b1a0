"""What every script does alike: help, usage errors, exit codes, several problems at once, flags that were renamed."""

import importlib
import json
import os
import random
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, SAMPLE_ROWS, assert_refused, run_script

from sllm import cli
from sllm.cli import InputError

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))


def test_every_script_answers_help_and_bad_flags(script):
    for name in SCRIPTS:
        shown = script(name, "--help")
        assert shown.returncode == 0
        assert "usage:" in shown.stdout
        assert name in shown.stdout
        refused = script(name, "--no_such_flag")
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: ")
        assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "meant"), [("--input_pth", "--input_path"), ("--rows_per_task", "--max_rows_per_task"), ("--ratio", None)]
)
def test_a_misspelt_flag_is_answered_with_the_one_that_was_meant(script, typed, meant):
    refused = script("prepare_data.py", typed, "rows.jsonl")
    assert_refused(refused, typed)
    assert (f"did you mean {meant}?" in refused.stderr) == (meant is not None)


def test_help_imports_nothing_heavy():
    code = "import runpy, sys; sys.argv = [sys.argv[1], '--help']\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit: pass\nprint([m for m in ('torch', 'transformers', 'vllm', 'numpy') if m in sys.modules], file=sys.stderr)"  # noqa: E501
    for name in SCRIPTS:
        done = subprocess.run([sys.executable, "-c", code, name], cwd=ROOT, capture_output=True, text=True)
        assert done.stderr.strip() == "[]", name


@pytest.mark.parametrize(
    ("script", "old", "new", "value"),
    [
        ("api_server", "--max_running", "max_num_seqs", ["7"]),
        ("api_server", "--drain_seconds", "shutdown_timeout", ["7"]),
        ("build_preferences", "--keep_cut", "keep_truncated", []),
    ],
)
def test_older_names_of_flags_are_accepted(script, old, new, value):
    required = {"api_server": ["--model_id", "x"], "build_preferences": ["--from_chat", "x"]}[script]
    parser = importlib.import_module(script).build_parser()
    assert getattr(parser.parse_args([*required, old, *value]), new) == (float(value[0]) if value else True)


def run_main(body: str) -> subprocess.CompletedProcess:
    code = f"from sllm import cli\ndef main(args):\n {body}\ncli.run(main, cli.parser('x', 'x.py'))"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_exit_codes():
    done = run_main("print('표'); return {'답': '예'}")
    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[-1])["답"] == "예"
    assert "답" in done.stdout
    bad = run_main("raise cli.InputError(['one is wrong', 'two is\\nwrong'])")
    assert (bad.returncode, bad.stderr) == (2, "error: one is wrong\nerror: two is wrong\n")
    stopped = run_main("raise cli.Interrupted('python x.py --resume')")
    assert stopped.returncode == 130
    assert "python x.py --resume" in stopped.stderr
    bug = run_main("raise RuntimeError('boom')")
    assert bug.returncode == 1
    assert "Traceback" in bug.stderr


def test_collect_errors_reports_everything():
    def bad(text):
        raise InputError(text)

    assert cli.collect_errors(lambda: 1, lambda: 2) == [1, 2]
    with pytest.raises(InputError) as error:
        cli.collect_errors(lambda: 1, lambda: bad("a"), lambda: bad("b"))
    assert error.value.problems == ["a", "b"]


def test_table_aligns_hangul():
    lines = cli.table(["이름", "n"], [["가나다", 1], ["ab", 22]]).splitlines()
    assert lines[2] == "가나다  1"
    assert lines[3] == "ab      22"


def test_a_python_without_the_packages_is_told_where_they_are():
    done = run_script(
        "-S", "vllm_inference.py", "--model_id", SAMPLE_ROWS.parent / "tiny_base", "--testset_path", SAMPLE_ROWS
    )
    assert_refused(done, "has no", ".venv/bin/activate")


def test_compare_outputs_counts_true_answers(tmp_path, capsys):
    """Of ten held-out rows `sft` has nine right and stops at all, `base` repeats the question and never stops."""
    from sllm import compare_outputs, tasks, world

    rows = [{"id": f"r{i}", **world.row(random.Random(i), "task08_02")} for i in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")

    def answers(name: str, finish_reason: str, outputs: list[str]) -> str:
        lines = []
        for row, output in zip(rows, outputs, strict=True):
            messages = tasks.build_messages(row["task"], tasks.split_user_turn(row["task"], row["user_content"]))
            line = {"id": row["id"], "task": row["task"], "messages": messages, "output": output}
            lines.append(json.dumps(line | {"finish_reason": finish_reason}))
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        return f"{name}={tmp_path / name}"

    right = [row["assistant_content"] for row in rows]
    files = [answers("base", "length", [row["user_content"] for row in rows])]
    files.append(answers("sft", "stop", ["999,999원입니다.", *right[1:]]))
    parse = compare_outputs.build_parser().parse_args
    results = compare_outputs.main(parse([*files, "--facts", str(tmp_path / "rows.jsonl"), "--test", "base", "sft"]))
    assert results["true"] == {"base": 0, "sft": 9}
    assert results["true_names"] == {"base": 0, "sft": 9}
    assert results["stopped"] == {"base": 0, "sft": 10}
    assert results["p"]["true"] == 2 / 2**9  # nine rows, all better: two sides of one of 2^9 ways
    printed = capsys.readouterr().out
    assert "9/10  90% (60%–98%)" in printed  # the interval as in Wilson's own formula
    assert "base → sft, true: 9 more, 0 fewer (p = 0.0039)" in printed
    assert printed.count("✗") == 4  # base to the one that sft has right, both to the one that it has not; the legend
    with pytest.raises(InputError, match="--facts .*not rows of"):
        compare_outputs.main(parse([*files, "--facts", str(tmp_path / "sft")]))


def test_truth_about_made_up_names_is_counted_apart_from_common_words():
    from sllm import compare_outputs, world

    rows = [{"id": task, **world.row(random.Random(1), task)} for task in ("task04_02", "task08_02")]
    asked = [{**row, "messages": [{"content": row["user_content"]}]} for row in rows]
    answers = {row["id"]: {"output": row["assistant_content"], "finish_reason": "stop"} for row in rows}
    verdicts = compare_outputs.verdicts_of(asked, answers, {row["id"]: row for row in rows})
    assert (verdicts["true"], verdicts["true_names"]) == ([True, True], [True])


@pytest.mark.parametrize("content", ["", "{", "3", '{"id": "a"}', "가".encode("cp949")], ids=repr)
def test_compare_outputs_takes_files_of_answers_alone(tmp_path, content):
    from sllm import compare_outputs

    file = tmp_path / "x.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    run = compare_outputs.build_parser().parse_args
    with pytest.raises(InputError, match="answer"):
        compare_outputs.main(run([f"a={file}", f"b={file}"]))
    with pytest.raises(InputError, match="a name of its own"):
        compare_outputs.main(run([f"={file}"]))


def test_help_does_not_show_what_the_environment_holds(script):
    shown = script("chainlit_app.py", "--help", SLLM_API_KEY="a-secret", SLLM_PORT="8600")
    assert "a-secret" not in shown.stdout
    assert "(default: $SLLM_API_KEY)" in shown.stdout


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("", "outputs/demo/base is missing; run: make demo"),
        ("org/name", "outputs/demo_real/name/sft is missing; run: make demo-real MODEL='org/name'"),
    ],
)
def test_serving_a_demo_that_was_not_run_says_how_to_run_it(tmp_path, model, said):
    (tmp_path / "recipes").mkdir()
    recipe = shutil.copy(ROOT / "recipes" / "serve_demo.sh", tmp_path / "recipes")
    done = subprocess.run(["bash", recipe], env={**os.environ, "MODEL": model}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: {said}\n"
