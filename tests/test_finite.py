"""Weights that are not finite are found on disk, in every number format and at any place of a file."""

import pytest

from sllm import finite

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
