"""Is a merged model its base + adapter? Tensor by tensor, as the merge itself computes them."""

import math
from pathlib import Path

import torch

from sllm import cli
from sllm.cli import InputError
from sllm.merge import merge
from sllm.weights.safetensors_io import tensors_of

ROUNDINGS = 2.0  # rms difference, in those of one rounding of a weight: another order of the sums rounds otherwise


def compare(merged: Path, base: Path, adapter: Path) -> str:
    """What was compared.

    Raises:
        InputError: tensors of the merged model are missing, or differ by more than rounding.
    """
    stored = tensors_of(merged)
    dtype = next(tensor.dtype for tensor in stored.values() if tensor.dtype.is_floating_point)
    problems, equal, tensors = [], 0, merge.plan(base, adapter, dtype).tensors
    for tensor in tensors:
        there = stored.get(tensor.name)
        if there is None or there.shape != tensor.source.shape:
            problems.append(f"{tensor.name} is missing in {merged}, or has another shape")
            continue
        difference = rounding = 0.0  # sums of squares
        for (first, last), block in zip(tensor.source.blocks(), merge.blocks(tensor), strict=True):
            expected, actual = block.double(), there.read(first, last).double()
            difference += (actual - expected).square().sum().item()
            rounding += (expected * torch.finfo(dtype).eps).square().sum().item() / 12
        equal += difference == 0
        bound = ROUNDINGS**2 * rounding
        if not difference <= bound:  # a NaN is not
            times = math.sqrt(difference / bound) if bound else math.inf
            problems.append(f"{tensor.name} is not base + adapter: {times:.1f} times as far off as rounding explains")
    if problems:
        again = f"merge again: python merged_weights.py --model_id {adapter} --merged_weights_path {merged}"
        raise InputError([*cli.shorten(problems, 3), again])
    return f"{len(tensors)} tensors are base + adapter, {equal} of them to the last bit"
