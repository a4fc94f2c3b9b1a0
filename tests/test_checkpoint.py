"""Output folders, run.json, and what a model folder must hold."""

import json
import os

import pytest

from sllm import checkpoint
from sllm.cli import InputError

NO_TENSORS = b"\2" + bytes(7) + b"{}"  # a whole safetensors file


def test_output_folders_are_not_overwritten_unasked(tmp_path):
    out = tmp_path / "out"
    assert checkpoint.check_output(out, overwrite=False) == out
    assert not out.exists()
    checkpoint.prepare_output(out, overwrite=False)
    (out / "kept.txt").write_text("x")
    with pytest.raises(InputError, match="--overwrite"):
        checkpoint.prepare_output(out, overwrite=False)
    assert checkpoint.prepare_output(out, overwrite=False, resume=True)
    assert (out / "kept.txt").exists()
    checkpoint.prepare_output(out, overwrite=True)  # unfinished, but ours
    assert not (out / "kept.txt").exists()
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.jpg").write_text("x")
    with pytest.raises(InputError, match="this tool did not create it"):
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
    assert len(problems(model)) == 2
    assert "no tokenizer" in problems(model)[1]
    (model / "model.safetensors").write_bytes(NO_TENSORS)
    (model / "tokenizer.json").write_text("{}")
    assert checkpoint.require_model(str(model)) == (str(model), None)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "gone")}))
    (adapter / "tokenizer.json").write_text("{}")
    weights, base = problems(adapter)
    assert "has no weights" in weights
    assert "base model" in base
    assert "--base_model" in base
    (adapter / "adapter_model.safetensors").write_bytes(NO_TENSORS)
    assert checkpoint.require_model(str(adapter), base_model=str(model)) == (str(model), str(adapter))


def test_disk_preflight_says_both_numbers(tmp_path):
    checkpoint.require_disk(tmp_path / "a" / "b", 1, "this")
    with pytest.raises(InputError, match=r"needs 1048576.00 GiB of disk and .* has [\d.]+ GiB free"):
        checkpoint.require_disk(tmp_path / "a" / "b", 2**50, "this")


def test_an_adapter_is_not_accepted_on_a_folder_without_a_model(tmp_path):
    from sllm import accept

    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "run.json").write_text("{}")
    before = (tmp_path / "run.json").read_text()
    for base in (tmp_path / "nope", tmp_path):
        with pytest.raises(InputError):
            accept.main(accept.build_parser().parse_args([str(tmp_path), "--base_model", str(base)]))
    assert (tmp_path / "run.json").read_text() == before
