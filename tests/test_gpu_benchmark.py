"""benchmarks/gpu/run.sh from end to end where there is no GPU: the peft backend on tiny models. Its checks can fail."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.torch

MODEL = "qwen3-small"


@pytest.fixture(scope="module")
def gpu():
    """The benchmark's modules."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "gpu"))
    import correctness
    import judge
    import recorder

    yield {"correctness": correctness, "judge": judge, "recorder": recorder}
    sys.path.remove(str(ROOT / "benchmarks" / "gpu"))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu") / "out"
    done = subprocess.run(
        ["bash", "benchmarks/gpu/run.sh", "--small", "--small_models", MODEL, "--backends", "peft", "--out", folder],
        cwd=ROOT, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (folder / "report.md").read_text(encoding="utf-8") in done.stdout
    return folder


def test_every_guarantee_is_checked_and_holds(out):
    checks = json.loads((out / "report.json").read_text(encoding="utf-8"))["checks"]
    assert all(check["ok"] for check in checks)
    assert {check["guarantee"][0] for check in checks} == set("12345678lb")  # l: loss curves, b: best checkpoint
    assert {check["model"] for check in checks} == {MODEL}
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["not_run"] == [f"peft {name}: needs a GPU" for name in ("4-bit", "8-bit", "float16")]
    assert "peft 8-bit: needs a GPU" in (out / "report.md").read_text(encoding="utf-8")


def test_every_case_is_measured(out):
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert [run["case"] for run in report["runs"]] == ["sft packed", "sft padded", "sft long", "dpo padded"]
    for run in report["runs"]:
        assert run["tokens_per_second"] > 0
        assert run["peak_memory_bytes"] > 2**28
        assert len(run["losses"]) == 3
        assert abs(run["tokens"] / run["seconds"] - run["tokens_per_second"]) < 0.02 * run["tokens_per_second"]
    assert report["peak"]["flops"] > 1e9
    assert report["machine"]["torch"]
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "not measured" in text
    assert "FAILED" not in text


def test_the_checks_can_fail(out, gpu):
    """Each result is spoilt in turn, and its check has to say so."""
    folder = out / "correctness"

    def failing(**changed) -> set[str]:
        done = {
            "peft padded": {}, "peft padding-free": {}, "peft packed": {"packing_isolation": 0.0}, "peft resumed": {},
            "peft dpo-resumed": {},
            "peft dpo": {"reference_difference": 0.0}, "peft dpo-stored": {"reference_difference": 0.0},
            "peft validated": {},
            "peft merged": {"near_ties": 0, "max_logit_difference": 0.0, "logit_bound": 1.0},
        }  # fmt: skip
        found = gpu["judge"].judge(MODEL, ["peft"], folder, done | changed)
        return {check.guarantee for check in found if not check.ok}

    def spoilt(file: str, change) -> set[str]:
        path = folder / f"{MODEL}-peft-{file}"
        before = path.read_text(encoding="utf-8")
        path.write_text(change(before), encoding="utf-8")
        found = failing()
        path.write_text(before, encoding="utf-8")
        return found

    def first_row(change):
        def changed(text: str) -> str:
            rows = json.loads(text)
            change(rows[0])
            return json.dumps(rows)

        return changed

    assert failing() == set()
    fed = {"2 loss mask", "loss curves"}
    assert spoilt("padded.rows.json", first_row(lambda row: row[1].insert(0, 1))) == fed
    assert spoilt("packed.rows.json", first_row(lambda row: row[1].pop())) == {"2 loss mask"}
    assert spoilt("flat.rows.json", lambda text: json.dumps(json.loads(text)[1:])) == fed
    assert spoilt("flat.rows.json", lambda text: json.dumps(json.loads(text)[::-1])) == {"loss curves"}
    assert spoilt("flat/metrics.jsonl", lambda text: text.replace('"loss": ', '"loss": 1', 1)) == {"loss curves"}
    assert spoilt("killed/metrics.jsonl", lambda text: text.replace('"loss": ', '"loss": 1', 1)) == {"7 resume"}
    assert spoilt("dpo-killed/metrics.jsonl", lambda text: text.replace('"loss": ', '"loss": 1', 1)) == {"7 resume"}
    assert spoilt("merged/run.json", lambda text: text.replace('"token_ids": [', '"token_ids": [7,')) == {
        "1 prompt parity"
    }
    assert spoilt("merged/generation_config.json", lambda text: text.replace("4", "5")) == {"3 stopping"}
    assert failing(**{"peft dpo": {"reference_difference": 0.01}}) == {"4 DPO reference"}
    assert failing(**{"peft dpo-stored": {"reference_difference": 0.01}}) == {"4 DPO reference"}
    assert spoilt("dpo-stored/metrics.jsonl", lambda text: text.replace('"loss": ', '"loss": 1', 1)) == {
        "4 DPO reference"
    }
    assert spoilt("validated/metrics.jsonl", lambda text: text.replace('"eval_loss": ', '"eval_loss": -', 1)) == {
        "best checkpoint"
    }
    assert failing(**{"peft packed": {"packing_isolation": 0.2}}) == {"6 packing isolation"}
    assert failing(**{"peft padded": {"accumulation_parity": 0.2}}) == {"8 accumulation parity"}
    worse = {"near_ties": 0, "max_logit_difference": 2.0, "logit_bound": 1.0}
    assert failing(**{"peft merged": worse}) == {"5 merge parity"}


def test_the_checks_of_other_precisions_can_fail(out, gpu, tmp_path):
    """They run on a GPU only; a finished run in 16 bits stands for them."""
    from safetensors.torch import load_file, save_file

    source = out / "correctness"
    for name in (MODEL, f"{MODEL}-peft-padded"):
        shutil.copytree(source / name, tmp_path / name)
    for name in ("rows.jsonl", f"{MODEL}-peft-padded.rows.json"):
        shutil.copy(source / name, tmp_path)
    here = tmp_path / f"{MODEL}-peft-4-bit"
    shutil.copytree(tmp_path / f"{MODEL}-peft-padded", here)

    def failing() -> list[str]:
        found = gpu["judge"].judge(MODEL, ["peft"], tmp_path, {"peft padded": {}, "peft 4-bit": {}})
        return [check.what for check in found if not check.ok]

    assert failing() == []
    weights = load_file(here / "adapter_model.safetensors")
    save_file({name: weight.bfloat16() for name, weight in weights.items()}, here / "adapter_model.safetensors")
    assert failing() == ["peft 4-bit: adapter's dtype"]
    save_file(
        {name: weight * ("lora_B" not in name) for name, weight in weights.items()}, here / "adapter_model.safetensors"
    )
    assert failing() == ["peft 4-bit: share of lora_B that moved"]
    save_file(weights, here / "adapter_model.safetensors")
    text = (here / "metrics.jsonl").read_text(encoding="utf-8")
    (here / "metrics.jsonl").write_text(text.replace('"loss": ', '"loss": 1', 1), encoding="utf-8")
    assert failing() == ["peft 4-bit: loss curve beside 16 bits"]


def test_a_command_that_fails_is_a_failed_check(gpu, tmp_path):
    commands = gpu["correctness"].Commands(tmp_path, at_once=1)
    started = commands.start("wrong", "train_LoRA_SFT.py", "--no_such_flag")
    with pytest.raises(RuntimeError, match="wrong ended with 2: error: .*--no_such_flag"):
        started.result()


def test_rows_are_read_off_padded_and_flattened_batches(gpu):
    import torch

    rows_of = gpu["recorder"].rows_of
    padded = {
        "input_ids": torch.tensor([[5, 6, 7], [8, 9, 0]]), "labels": torch.tensor([[-100, 6, 7], [-100, 9, -100]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
    }  # fmt: skip
    flat = {
        "input_ids": torch.tensor([[5, 6, 7, 8, 9]]), "labels": torch.tensor([[-100, 6, 7, -100, 9]]),
        "position_ids": torch.tensor([[0, 1, 2, 0, 1]]),
    }  # fmt: skip
    assert rows_of(padded) == rows_of(flat) == [[[5, 6, 7], [1, 2]], [[8, 9], [1]]]
