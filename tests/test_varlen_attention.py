"""Rows laid end to end attend row by row: the same logits and gradients as one masked sequence, and as each alone."""

import pytest
import torch

pytestmark = pytest.mark.torch

LENGTHS = [5, 1, 40, 17]


def model(kind: str, attention: str = "sdpa"):
    from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

    torch.manual_seed(0)
    shape = {
        "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "attn_implementation": attention,
    }  # fmt: skip
    config = MistralConfig(sliding_window=8, **shape) if kind == "sliding" else LlamaConfig(**shape)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def batch() -> dict:
    torch.manual_seed(1)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    return {"input_ids": torch.randint(0, 50, (1, sum(LENGTHS))), "position_ids": positions, "use_cache": False}


@pytest.mark.parametrize("kind", ["full", "sliding"])
def test_logits_and_gradients_are_those_of_the_masked_sequence(kind):
    from sllm.train import varlen_attention

    results = []
    for by_row in (False, True):
        lm = model(kind)
        assert not by_row or (varlen_attention.use(lm) and lm.config._attn_implementation == varlen_attention.NAME)
        logits = lm(**batch()).logits
        logits.square().mean().backward()
        results.append((logits.detach(), lm.model.layers[0].self_attn.k_proj.weight.grad.clone()))
    for masked, by_row in zip(*results, strict=True):
        assert torch.allclose(masked, by_row, atol=1e-5)
    start = 0
    for length in LENGTHS:
        alone = lm(input_ids=batch()["input_ids"][:, start : start + length], use_cache=False).logits
        assert torch.allclose(alone, results[1][0][:, start : start + length], atol=1e-5)
        start += length


def test_padded_batches_and_generation_are_left_to_sdpa():
    from sllm.train import varlen_attention

    ids = torch.randint(0, 50, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    plain, ours = model("full"), model("full")
    varlen_attention.use(ours)
    assert torch.equal(
        plain(input_ids=ids, attention_mask=mask).logits, ours(input_ids=ids, attention_mask=mask).logits
    )
    how = {"max_new_tokens": 8, "do_sample": False, "attention_mask": mask, "pad_token_id": 0}
    assert torch.equal(plain.generate(ids, **how), ours.generate(ids, **how))


def test_other_attention_is_left_alone():
    from sllm.train import varlen_attention

    assert not varlen_attention.use(model("full", "eager"))
