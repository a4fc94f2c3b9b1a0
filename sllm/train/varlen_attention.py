"""Attention over rows that are laid end to end: each row by itself, instead of one large mask that hides the others.

What transformers does for such a sequence is right, but computes every row's attention to every other row and throws
it away: with 2,700 tokens in 32 rows that is more than half the time of a 4M model. This is registered with
transformers as an attention of its own; everything that is not a flattened batch goes to its `sdpa`.
"""

import torch

NAME = "sdpa_by_row"


def use(model) -> bool:
    """Let the model attend row by row where its attention is plain `sdpa`, full or sliding. Says whether it does."""
    from transformers import AttentionInterface, AttentionMaskInterface

    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if config._attn_implementation != "sdpa" or not kinds <= {"full_attention", "sliding_attention"}:
        return False
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _starts_or_mask)
    model.set_attn_implementation(NAME)
    return True


def _starts_or_mask(*args, **kwargs):
    """For flattened rows the index at which each begins, (rows,), in the place of a mask; else sdpa's mask."""
    from transformers.masking_utils import sdpa_mask

    length = kwargs.get("q_length")
    flattened = kwargs.get("allow_is_causal_skip") is False and kwargs.get("attention_mask") is None
    if args or not flattened or kwargs["batch_size"] != 1 or length != kwargs["kv_length"]:
        return sdpa_mask(*args, **kwargs)
    device = kwargs.get("device", "cpu")
    later = torch.arange(1, length, device=device)
    zero = torch.zeros_like(later)
    begins = ~kwargs["mask_function"](zero, zero, later, later - 1)  # a row's first token does not see the one before
    return torch.cat([later.new_zeros(1), later[begins]])


def _attend(module, query, key, value, attention_mask, sliding_window=None, **kwargs):
    """query (1, heads, seq, width), key and value (1, key heads, seq, width) → (1, seq, heads, width), None."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is None or attention_mask.dim() != 1:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, sliding_window=sliding_window, **kwargs
        )
    kwargs.pop("is_causal", None)
    starts = attention_mask.tolist()
    rows = []
    for start, end in zip(starts, [*starts[1:], query.shape[2]], strict=True):
        mask, length = None, end - start
        if sliding_window and length > sliding_window:
            near = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
            mask = near.triu(1 - sliding_window)[None, None]
        parts = (states[:, :, start:end] for states in (query, key, value))
        rows.append(sdpa_attention_forward(module, *parts, mask, is_causal=mask is None, **kwargs)[0])
    return torch.cat(rows, dim=1), None
