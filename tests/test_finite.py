"""Weights that are not finite are found on disk, in every number format and at any place of a file."""

import shutil

import pytest

from sllm import accept, checkpoint, finite
from sllm.cli import InputError

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_found(dtype, value, tmp_path, monkeypatch):
    import torch
    from safetensors.torch import save_file

    monkeypatch.setattr(finite, "BLOCK", 64)
    kind = getattr(torch, dtype)
    largest = torch.full((40,), torch.finfo(kind).max, dtype=kind)
    weights = {"a": largest, "b": -largest.view(5, 8).contiguous(), "count": torch.arange(9)}
    save_file(weights, tmp_path / "sound.safetensors")
    assert finite.first_not_finite(tmp_path / "sound.safetensors") is None
    weights["b"][4, 7] = value  # the last one
    save_file(weights, tmp_path / "broken.safetensors")
    assert finite.first_not_finite(tmp_path / "broken.safetensors") == "b"


def test_a_saved_mask_value_is_not_a_weight(tmp_path):
    """Polyglot-ko's float16 files hold GPT-NeoX's `attention.masked_bias`, -1e9, which float16 has as -inf."""
    import torch
    from safetensors.torch import save_file

    mask = torch.tensor(-1e9).half()
    assert mask.isinf()
    save_file({"a": torch.ones(3), "attention.masked_bias": mask}, tmp_path / "model.safetensors")
    assert finite.first_not_finite(tmp_path / "model.safetensors") is None


def test_a_model_that_is_not_finite_is_refused_by_every_stage(tiny_base, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    base = tmp_path / "base"
    shutil.copytree(tiny_base, base, ignore=shutil.ignore_patterns("run.json"))
    checkpoint.require_model(str(base))
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][-1] = torch.nan
    save_file(weights, base / "model.safetensors")
    with pytest.raises(InputError, match="safetensors: tensor model.norm.weight contains NaN or infinity"):
        checkpoint.require_model(str(base))
    shutil.copy(tiny_base / "run.json", base)
    with pytest.raises(InputError, match="NaN or infinity"):  # nor can it be accepted
        accept.main(accept.build_parser().parse_args([str(base)]))
