"""Which library trains on which machine: GPUs that torch cannot use, old cards, several cards, several processes."""

import argparse
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import SFT, in_process

from sllm.cli import InputError
from sllm.train import arguments, backend, checkpoints, memory, resume

pytestmark = pytest.mark.torch


@pytest.fixture
def card(monkeypatch):
    """A function that makes torch see a machine with an NVIDIA driver."""
    import torch

    def make(*, works: bool, driver: str | None = "535.161.07", cuda: str | None = "13.0", capability=(9, 0)):
        def init():
            raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020).\nMore text")

        monkeypatch.setattr(torch.cuda, "is_available", lambda: works)
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Tesla V100")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90a", "compute_90"])
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(backend, "nvidia_driver", lambda: driver)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return make


@pytest.mark.parametrize("name", ["auto", "unsloth"])
def test_a_gpu_with_an_old_driver_is_an_error_and_not_a_run_on_the_cpu(card, name):
    card(works=False)
    with pytest.raises(InputError) as error:
        backend.choose(name)
    (said,) = error.value.problems
    for text in (
        "535.161.07",
        "too old (found version 12020)",
        "CUDA 13.0",
        "580",
        "update the driver",
        "--backend peft",
    ):
        assert text in said
    assert backend.choose("peft").name == "peft"  # insisted on


def test_a_cpu_build_of_torch_beside_a_gpu_is_an_error(card):
    card(works=False, cuda=None)
    with pytest.raises(InputError, match="built for the CPU: pip install -r requirements.txt"):
        backend.choose("auto")


def test_machines_without_a_gpu_and_hidden_gpus_train_on_the_cpu(card, monkeypatch):
    card(works=False, driver=None)
    assert backend.choose("auto") == backend.Choice("peft", "no CUDA GPU found")
    card(works=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert backend.choose("auto").name == "peft"


def test_a_card_older_than_torchs_kernels_is_refused(card):
    card(works=True, capability=(7, 0))
    with pytest.raises(
        InputError, match=r"V100 has compute capability 7.0, and torch .* computes on 7.5 and newer only"
    ):
        backend.choose("auto")
    card(works=True, capability=(7, 5))
    assert backend.unusable_gpu() is None


def test_the_drivers_version_is_read(monkeypatch, tmp_path):
    version = tmp_path / "version"
    monkeypatch.setattr(backend, "DRIVER_FILES", (tmp_path / "none", version))
    monkeypatch.setattr(backend, "DEVICE", tmp_path / "nvidia0")
    assert backend.nvidia_driver() is None
    (tmp_path / "nvidia0").touch()
    assert backend.nvidia_driver() == "unknown version"
    for text in (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.07  Sat Feb 17 22:55:48 UTC 2024\nGCC version: 12",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.161.07  Release Build\n",
        "535.161.07\n",
    ):
        version.write_text(text)
        assert backend.nvidia_driver() == "535.161.07"


def test_bfloat16_that_is_only_emulated_is_not_taken(monkeypatch):
    import torch

    from sllm.train.with_peft import resolve_dtype

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)  # a T4
    assert resolve_dtype("auto") == torch.float16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert resolve_dtype("auto") == torch.bfloat16


def test_a_dry_run_is_refused_where_memory_is_short(monkeypatch, tiny_base, few_rows, tmp_path, capsys):
    rows = ["--trainset_path", few_rows, "--model_id", tiny_base, "--output_dir", tmp_path / "x", "--dry_run"]
    assert in_process(SFT, *rows)["dry_run"]
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**20))
    with pytest.raises(InputError, match="this run needs about .* of memory, and 1.0 MiB are available"):
        in_process(SFT, *rows)
    assert "exceeds available memory" in capsys.readouterr().out


def test_looking_at_rows_and_plans_does_not_import_unsloth(monkeypatch, tiny_base, few_rows, tmp_path, capsys):
    def choose(name):
        return backend.Choice("unsloth", "there is a CUDA GPU")

    monkeypatch.setattr(backend, "choose", choose)
    monkeypatch.setattr(backend.Choice, "module", lambda self: pytest.fail("unsloth was imported"))
    rows = ["--trainset_path", few_rows, "--model_id", tiny_base, "--output_dir", tmp_path / "x"]
    in_process(SFT, *rows, "--preview", "1")
    in_process(SFT, *rows, "--dry_run")
    assert "padding-free" in capsys.readouterr().out  # unsloth pads where it is told False, so the default is True
    with pytest.raises(InputError, match="not installed"):
        in_process(SFT, *rows, "--report_to", "mlflow")


@pytest.mark.parametrize(("bits", "said"), [(8, "--bits 8: not with unsloth"), (4, None)])
def test_eight_bits_with_unsloth_are_refused(bits, said):
    args = argparse.Namespace(dtype="auto", bits=bits)
    choice = backend.Choice("unsloth", "as if there were a GPU")
    if said:
        with pytest.raises(InputError, match=said):
            arguments.resolve_quantization(args, choice)
    else:
        arguments.resolve_quantization(args, choice)


def test_several_processes_are_refused(monkeypatch, tiny_base, few_rows, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="WORLD_SIZE is 2: training in several processes is not supported"):
        in_process(SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--output_dir", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_of_two_visible_gpus_one_trains(monkeypatch, tiny_base, few_rows, tmp_path):
    """With two, transformers doubles the batch, and an epoch has half of the steps."""
    from transformers import TrainingArguments

    set_up = TrainingArguments.__post_init__

    def with_two(self):
        set_up(self)
        self._n_gpu = 2

    monkeypatch.setattr(TrainingArguments, "__post_init__", with_two)
    result = in_process(
        SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--max_steps", "2", "--output_dir", tmp_path / "x"
    )
    assert result["epochs"] == pytest.approx(2 / 6, abs=0.01)  # 23 rows, 4 of them a step


def test_nothing_imports_unsloth_before_it_is_needed():
    text = "".join(
        Path(m.__file__).read_text(encoding="utf-8") for m in (arguments, backend, checkpoints, memory, resume)
    )
    assert "import unsloth" not in text
    assert text.count("choice.module()") == 1
