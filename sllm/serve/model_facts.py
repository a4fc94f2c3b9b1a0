"""What the engine has to know of a model and of its adapters before vLLM loads them; read off their files."""

import json
from pathlib import Path

from sllm import chat
from sllm.cli import InputError

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vllm.config.lora.MaxLoRARanks
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def context_length(model: str) -> int | None:
    """Tokens that the model has positions for, prompt and answer together; None where its config does not say."""
    return getattr(_text_config(model), "max_position_embeddings", None)


def stop_ids(tokenizer, model: str) -> list[int]:
    """Every token that ends an answer: the template's end of turn, and the EOS of model and tokenizer."""
    from transformers import GenerationConfig

    try:
        eos = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # no generation_config.json
        eos = getattr(_text_config(model), "eos_token_id", None)
    found = [chat.end_of_turn(tokenizer)[1], *(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id]
    return list(dict.fromkeys(token for token in found if token is not None))


def check_adapter(adapter: str) -> None:
    """InputError for an adapter that vLLM cannot apply unmerged."""
    config = _adapter_config(adapter)
    rank = _largest_rank(config)
    problems = [f"is a {config.get('peft_type')} adapter"] if config.get("peft_type") != "LORA" else []
    problems += [f"has rank {rank}, above {LORA_RANKS[-1]}"] if rank > LORA_RANKS[-1] else []
    problems += ["uses DoRA"] if config.get("use_dora") else []
    problems += [f"trains whole modules ({config['modules_to_save']})"] if config.get("modules_to_save") else []
    if problems:
        raise InputError(
            f"adapter {adapter} {', '.join(problems)}, which vLLM cannot apply; merge it: merged_weights.py"
        )


def lora_rank(adapter: str) -> int:
    """The adapter's largest rank, rounded up to one that vLLM has."""
    return min(known for known in LORA_RANKS if known >= _largest_rank(_adapter_config(adapter)))


def kv_bytes_per_token(model: str, dtype: str) -> int | None:
    """Bytes of KV cache that one token takes; None where the config does not say enough."""
    config = _text_config(model)
    try:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * config.num_hidden_layers * heads * width * _DTYPE_BYTES.get(dtype, 2)
    except AttributeError:
        return None


def weight_bytes(model: str, dtype: str) -> int:
    """Bytes of the weights once they are loaded as `dtype`; 0 for a model that is not on disk."""
    stored = sum(path.stat().st_size for path in Path(model).glob("*.safetensors")) if Path(model).is_dir() else 0
    per_number = {"float32": 4}.get(str(getattr(_text_config(model), "dtype", "")).removeprefix("torch."), 2)
    return stored * _DTYPE_BYTES.get(dtype, 2) // per_number


def _text_config(model: str):
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model).get_text_config()


def _adapter_config(adapter: str) -> dict:
    return json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))


def _largest_rank(config: dict) -> int:
    """8 is what peft itself takes where a config does not say."""
    return max([config.get("r", 8), *(config.get("rank_pattern") or {}).values()])
