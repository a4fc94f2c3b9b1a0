"""cli and checkpoint: exit codes, what may be overwritten, run.json, what a folder must hold."""

import ast
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, SAMPLE_ROWS, assert_refused, run_script

from sllm import checkpoint, cli
from sllm.cli import InputError

NO_TENSORS = b"\2" + bytes(7) + b"{}"  # a whole safetensors file
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))


def test_every_script_answers_help_and_bad_flags(script):
    for name in SCRIPTS:
        shown = script(name, "--help")
        assert shown.returncode == 0 and "usage:" in shown.stdout and name in shown.stdout
        refused = script(name, "--no_such_flag")
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1


def test_help_imports_nothing_heavy():
    code = "import runpy, sys; sys.argv = [sys.argv[1], '--help']\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit: pass\nprint([m for m in ('torch', 'transformers', 'vllm', 'numpy') if m in sys.modules], file=sys.stderr)"  # noqa: E501
    for name in SCRIPTS:
        done = subprocess.run([sys.executable, "-c", code, name], cwd=ROOT, capture_output=True, text=True)
        assert done.stderr.strip() == "[]", name


def test_the_ground_needs_only_the_standard_library():
    code = "import sys; sys.path.insert(0, '.'); import sllm.cli, sllm.checkpoint, sllm.accept, sllm.hub, sllm.tasks"
    subprocess.run([sys.executable, "-S", "-E", "-c", code], cwd=ROOT, check=True)


def test_wings_do_not_import_each_other():
    wings = {"data", "lora", "serve", "evaluate"}
    for path in ROOT.glob("sllm/**/*.py"):
        wing = path.relative_to(ROOT / "sllm").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [f"{node.module}.{a.name}" for a in node.names] if isinstance(node, ast.ImportFrom) else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            imported = {name.split(".")[1] for name in names if name.startswith("sllm.")} & wings
            assert not imported - {wing}, f"{path} imports {imported}"


def run_main(body: str) -> subprocess.CompletedProcess:
    code = f"from sllm import cli\ndef main(args):\n {body}\ncli.run(main, cli.parser('x', 'x.py'))"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_exit_codes():
    done = run_main("print('표'); return {'답': '예'}")
    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[-1])["답"] == "예" and "답" in done.stdout
    bad = run_main("raise cli.InputError(['one is wrong', 'two is\\nwrong'])")
    assert (bad.returncode, bad.stderr) == (2, "error: one is wrong\nerror: two is wrong\n")
    stopped = run_main("raise cli.Interrupted('python x.py --resume')")
    assert stopped.returncode == 130 and "python x.py --resume" in stopped.stderr
    bug = run_main("raise RuntimeError('boom')")
    assert bug.returncode == 1 and "Traceback" in bug.stderr


def test_gather_reports_everything():
    def bad(text):
        raise InputError(text)

    assert cli.collect_errors(lambda: 1, lambda: 2) == [1, 2]
    with pytest.raises(InputError) as error:
        cli.collect_errors(lambda: 1, lambda: bad("a"), lambda: bad("b"))
    assert error.value.problems == ["a", "b"]


def test_output_folders_are_not_overwritten_unasked(tmp_path):
    out = tmp_path / "out"
    assert checkpoint.check_output(out, overwrite=False) == out and not out.exists()
    checkpoint.prepare_output(out, overwrite=False)
    (out / "kept.txt").write_text("x")
    with pytest.raises(InputError, match="--overwrite"):
        checkpoint.prepare_output(out, overwrite=False)
    assert checkpoint.prepare_output(out, overwrite=False, resume=True) and (out / "kept.txt").exists()
    checkpoint.prepare_output(out, overwrite=True)  # unfinished, but ours
    assert not (out / "kept.txt").exists()
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.jpg").write_text("x")
    with pytest.raises(InputError, match="not ours to replace"):
        checkpoint.prepare_output(foreign, overwrite=True)
    assert (foreign / "cat.jpg").exists()


def test_run_json_is_whole_and_chains(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        checkpoint.prepare_output(folder, overwrite=False)
    with pytest.raises(InputError, match="did not finish; make it with `python train_LoRA_SFT.py"):
        checkpoint.require(first, stage="sft")
    checkpoint.write_run(first, "sft", None, metrics={"loss": 1.0})
    record = checkpoint.write_run(second, "dpo", None, parents=[first])
    assert os.listdir(first) == ["run.json"]  # no marker and no half-written file is left
    assert record["parents"] == [{"path": str(first), "stage": "sft", "hash": None}]  # nothing in it to tell by
    assert {"python", "torch"} <= set(record["versions"])
    assert checkpoint.require(second, stage=("sft", "dpo")) == record
    with pytest.raises(InputError, match="is a sft folder where dpo is wanted"):
        checkpoint.require(first, stage="dpo")


def test_a_model_folder_must_be_whole(tmp_path):
    def problems(folder, **kwargs):
        with pytest.raises(InputError) as error:
            checkpoint.require_model(str(folder), **kwargs)
        return error.value.problems

    assert "missing" in problems(tmp_path / "none")[0]
    model = tmp_path / "model"
    model.mkdir()
    assert "neither a model" in problems(model)[0]
    (model / "config.json").write_text("{}")
    assert len(problems(model)) == 2 and "no tokenizer" in problems(model)[1]  # both said at once
    (model / "model.safetensors").write_bytes(NO_TENSORS)
    (model / "tokenizer.json").write_text("{}")
    assert checkpoint.require_model(str(model)) == (str(model), None)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "gone")}))
    (adapter / "tokenizer.json").write_text("{}")
    weights, base = problems(adapter)
    assert "has no weights" in weights and "base model" in base and "--base_model" in base
    (adapter / "adapter_model.safetensors").write_bytes(NO_TENSORS)
    assert checkpoint.require_model(str(adapter), base_model=str(model)) == (str(model), str(adapter))


def test_disk_preflight_says_both_numbers(tmp_path):
    checkpoint.require_disk(tmp_path / "a" / "b", 1, "this")
    with pytest.raises(InputError, match=r"needs 1048576.00 GiB of disk and .* has [\d.]+ GiB free"):
        checkpoint.require_disk(tmp_path / "a" / "b", 2**50, "this")


def test_table_aligns_hangul():
    lines = cli.table(["이름", "n"], [["가나다", 1], ["ab", 22]]).splitlines()
    assert lines[2] == "가나다  1" and lines[3] == "ab      22"


def test_a_python_without_the_packages_is_told_where_they_are():
    done = run_script(
        "-S", "vllm_inference.py", "--model_id", SAMPLE_ROWS.parent / "tiny_base", "--testset_path", SAMPLE_ROWS
    )
    assert_refused(done, "has no", ".venv/bin/activate")


@pytest.mark.parametrize("content", ["", "{", "3", '{"id": "a"}', "가".encode("cp949")], ids=repr)
def test_side_by_side_takes_files_of_answers_alone(tmp_path, content):
    from sllm import compare_outputs

    file = tmp_path / "x.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    run = compare_outputs.build_parser().parse_args
    with pytest.raises(InputError, match="answer"):
        compare_outputs.main(run([f"a={file}", f"b={file}"]))
    with pytest.raises(InputError, match="a name of its own"):
        compare_outputs.main(run([f"={file}"]))


def test_an_adapter_is_not_accepted_on_what_is_no_model(tmp_path):
    from sllm import accept

    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "run.json").write_text("{}")
    before = (tmp_path / "run.json").read_text()
    for base in (tmp_path / "nope", tmp_path):
        with pytest.raises(InputError):
            accept.main(accept.build_parser().parse_args([str(tmp_path), "--base_model", str(base)]))
    assert (tmp_path / "run.json").read_text() == before
