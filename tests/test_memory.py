"""The memory plan: its terms for each backend, quantisation and stage, and a measurement on this machine."""

import argparse
import itertools

import pytest

from sllm import checkpoint
from sllm.train import arguments, memory

pytestmark = pytest.mark.torch

GIB = 2**30
LINEAR, EMBEDDING, NORMS = 6_979_321_856, 128_256 * 4096, 65 * 4096  # Llama 3.1 8B: without head; head the same again
ADAPTER = 41_943_040  # rank 16 on all seven layers of a block
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def llama_8b(tmp_path, monkeypatch):
    """The config alone, on a machine that claims a card with 24 GiB free."""
    import torch
    from transformers import LlamaConfig

    LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131_072, tie_word_embeddings=False,
    ).save_pretrained(tmp_path)  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(arguments, "find_spec", lambda name: "bitsandbytes is installed")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (24 * GIB, 24 * GIB))
    return tmp_path


def make(
    base, *, backend: str, bits: int = 16, tokens: int = 8192, num_adapters: int = 1, **changed
) -> memory.MemoryEstimate:
    args = argparse.Namespace(
        **{
            "lora_r": 16, "lora_target_modules": TARGETS, "dtype": "bfloat16", "bits": bits, "optim": "auto",
            "gradient_checkpointing": None, "save_total_limit": 2, **changed,
        }
    )  # fmt: skip
    return memory.estimate(args, base=str(base), tokens_per_batch=tokens, num_adapters=num_adapters, backend=backend)


@pytest.mark.parametrize(
    ("backend", "bits", "gib"),
    [("unsloth", 16, 14.96), ("unsloth", 8, 8.46), ("unsloth", 4, 5.31), ("peft", 16, 14.96), ("peft", 4, 7.27)],
)
def test_weights_of_an_8b(llama_8b, backend, bits, gib):
    """Embedding and head stay in 16 bits; peft's prepare_model_for_kbit_training casts them to fp32."""
    found = make(llama_8b, backend=backend, bits=bits)
    assert found.parameters == LINEAR + 2 * EMBEDDING + NORMS
    assert found.weights / GIB == pytest.approx(gib, rel=0.002)


@pytest.mark.parametrize(
    ("backend", "num_adapters", "tokens", "gib"),
    [
        ("unsloth", 1, 512, 0.98),  # all of it, at 16 bytes
        ("unsloth", 1, 32_768, 4.0),  # 31 GiB as full logits
        ("peft", 1, 32_768, 0.49),  # chunks of 256 tokens
        ("peft", 2, 4096, 0.375),  # DPO: a chunk of tokens and vocabulary
        ("unsloth", 2, 4096, 5.87),  # 12 bytes a token × vocabulary
    ],
)
def test_what_the_loss_holds_of_the_logits(llama_8b, backend, num_adapters, tokens, gib):
    found = make(llama_8b, backend=backend, bits=4, num_adapters=num_adapters, tokens=tokens)
    assert found.logits / GIB == pytest.approx(gib, rel=0.01)
    assert found.memory == found.weights + found.adapter + found.activations + found.logits


def test_unsloths_chunks_shrink_with_the_room_that_is_left(llama_8b, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8 * GIB, 8 * GIB))
    found = make(llama_8b, backend="unsloth", bits=4, tokens=32_768)
    assert found.logits == (8 * GIB - found.weights - found.adapter) // 2 < 2 * GIB


@pytest.mark.parametrize(
    ("optim", "num_adapters", "each"),
    [("auto", 1, 10), ("adamw_torch", 1, 16), ("auto", 2, 14), ("adamw_torch", 2, 20), ("sgd", 1, 8)],
)
def test_bytes_of_an_adapters_parameter(llama_8b, optim, num_adapters, each):
    found = make(llama_8b, backend="unsloth", num_adapters=num_adapters, optim=optim)
    assert found.adapter_parameters == ADAPTER
    assert found.adapter == each * ADAPTER


def test_tied_weights_are_counted_once_and_never_quantised(tmp_path):
    import torch
    from transformers import LlamaConfig

    shape = {"vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    sizes = {}
    for tied in (True, False):
        LlamaConfig(**shape, num_attention_heads=4, tie_word_embeddings=tied).save_pretrained(tmp_path)
        made = make(tmp_path, backend="unsloth", bits=4, dtype="bfloat16")
        sizes[tied] = made.parameters, made.weights
    assert sizes[False][0] - sizes[True][0] == 1000 * 64
    assert sizes[False][1] - sizes[True][1] == 1000 * 64 * torch.bfloat16.itemsize
    linear = 2 * (4 * 64 * 64 + 3 * 64 * 128)
    assert sizes[True][1] == pytest.approx(linear * 4.127 / 8 + 2 * (1000 * 64 + 5 * 64), rel=0.001)


def test_no_size_is_shown_as_0_00(tiny_base, tmp_path):
    assert [checkpoint.gib(size) for size in (0, 1000, 3200, 13 * 2**20, GIB // 2, 3.2 * GIB)] == [
        "0 bytes", "1000 bytes", "3.1 KiB", "13.0 MiB", "0.50 GiB", "3.20 GiB"
    ]  # fmt: skip
    shown = memory.format_table(make(tiny_base, backend="peft", tokens=64, dtype="float32"), [])
    assert "0.00 GiB" not in shown
    assert "MiB" in shown


def peak_bytes(work) -> int:
    """The most that `work` holds at a time, from the profiler's record of every allocation."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dpos_logits_as_measured(dtype):
    """The steps of TRL's DPO loss, with the fp32 logits that accelerate returns."""
    import torch
    from trl.trainer.utils import selective_log_softmax, selective_log_softmax_and_entropy

    rows, tokens, vocabulary = 4, 128, 8000
    head = torch.nn.Linear(16, vocabulary, bias=False).to(getattr(torch, dtype)).requires_grad_(False)
    given = {
        "index": torch.randint(0, vocabulary, (rows, tokens - 1)),
        "row_mask": torch.ones(rows, tokens - 1),
    }
    hidden = torch.randn(rows, tokens, 16, dtype=head.weight.dtype, requires_grad=True)

    def step() -> None:
        logits = head(hidden).float()[:, :-1]
        policy, _ = selective_log_softmax_and_entropy(logits, entropy_requires_grad=False, **given)
        with torch.no_grad():
            reference = selective_log_softmax(head(hidden).float()[:, :-1], **given)
        loss = (policy - reference).sum()
        del logits, policy, reference
        loss.backward()

    step()
    assert peak_bytes(step) / rows / tokens / vocabulary == pytest.approx(memory.DPO_BYTES, rel=0.1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dpo_chunk_as_measured(dtype):
    import torch
    from trl.trainer import dpo_trainer, utils

    tokens, entries = utils._CHUNKED_LOGPROB_TOKEN_CHUNK_SIZE, dpo_trainer._CHUNKED_LOGPROB_CHUNK_SIZE
    assert tokens * entries == memory.DPO_CHUNK
    head = torch.randn(2 * entries, 16, dtype=getattr(torch, dtype))
    hidden = torch.randn(tokens, 16, dtype=head.dtype, requires_grad=True)
    labels = torch.randint(0, len(head), (tokens,))

    def step() -> None:
        utils._ChunkedLogProbFunction.apply(hidden, head, None, labels, 1.0, entries, None, 1.0)[0].sum().backward()

    assert peak_bytes(step) / memory.DPO_CHUNK == pytest.approx(memory.DPO_CHUNK_BYTES, rel=0.1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_sft_chunk_as_measured(dtype):
    import torch
    from trl.trainer import sft_trainer

    assert memory.SFT_CHUNK == sft_trainer._CHUNKED_LM_HEAD_CHUNK_SIZE
    vocabulary, tokens = 8000, 3 * memory.SFT_CHUNK
    head = torch.randn(vocabulary, 16, dtype=getattr(torch, dtype))
    hidden = torch.randn(1, tokens + 1, 16, dtype=head.dtype, requires_grad=True)
    labels = torch.randint(0, vocabulary, (1, tokens + 1))

    def step() -> None:
        sft_trainer._chunked_cross_entropy_loss(hidden, head, memory.SFT_CHUNK, labels=labels)[0].backward()

    step()
    assert peak_bytes(step) / memory.SFT_CHUNK / vocabulary == pytest.approx(memory.SFT_BYTES, rel=0.1)
