"""LoRA kernels for vLLM on a CPU that are right in batches of rows with and without an adapter; see `cpu_worker`."""

import torch
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu


def group_by_adapter() -> None:
    """Replace vLLM's CPU kernels for LoRA by one matrix product for each adapter in the batch. Its own copy the
    adapter's matrices once for every token (slow on a 4M model, gigabytes on an 8B one), and take the index -1, a
    row without an adapter, for the last adapter: base rows in a mixed batch get the adapter's answers (0.29.0)."""
    for function in (bgmv_shrink, bgmv_expand, bgmv_expand_slice):
        for module in (lora_ops, punica_cpu):
            setattr(module, function.__name__, function)


def bgmv_shrink(inputs, weights, output, indices, scaling=1.0):
    product = _product(inputs, weights, indices, output.dtype)
    output[:, : product.shape[1]] = scaling * product


def bgmv_expand(inputs, weights, output, indices, add_inputs=True):
    width = min(weights.shape[-2], output.shape[1])
    bgmv_expand_slice(inputs, weights[..., :width, :], output, indices, 0, width, add_inputs)


def bgmv_expand_slice(inputs, weights, output, indices, offset, size, add_inputs=True):
    product = _product(inputs, weights, indices, output.dtype)
    part = output[:, offset : offset + size]
    part.add_(product) if add_inputs else part.copy_(product)


def _product(inputs, weights, indices, dtype):  # (tokens, in), (adapters, 1, out, in), (tokens,) → (tokens, out)
    weights, inputs = weights.flatten(0, -3).to(dtype), inputs.to(dtype)
    used = torch.unique(indices).tolist()
    if len(used) == 1 and used[0] >= 0:
        return inputs @ weights[used[0]].T
    out = inputs.new_zeros(inputs.shape[0], weights.shape[1])
    for adapter in used:
        if adapter >= 0:  # -1: a row without an adapter
            rows = indices == adapter
            out[rows] = inputs[rows] @ weights[adapter].T
    return out
