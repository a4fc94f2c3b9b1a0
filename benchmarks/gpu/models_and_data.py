"""What the GPU runs are made on: models of the real config classes with random weights, and rows of a real length mix.

Nothing is downloaded. The tokenizer is the demo's; a model with a larger vocabulary never meets most of it, which costs
the same arithmetic.
"""

import json
import math
import random
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TINY_BASE = ROOT / "sample_data" / "tiny_base"

_SMALL = {
    "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip
MODELS = {  # name: (config class, its arguments); vocab_size is the tokenizer's where none is given
    "llama-small": ("LlamaConfig", _SMALL),
    "qwen3-small": ("Qwen3Config", _SMALL),
    "llama31-8b": ("LlamaConfig", {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    }),
    "solar-10.7b": ("LlamaConfig", {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 48, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    }),
}  # fmt: skip


def build(name: str, folder: Path) -> int:
    """Write the model with random weights in bf16 and the demo's tokenizer; returns its parameters.

    `llama-small` is the demo's own tiny base, which has learned a little.
    """
    import torch
    import transformers

    from sllm import chat

    tokenizer = chat.load_tokenizer(str(TINY_BASE))
    if name == "llama-small":
        model = transformers.AutoModelForCausalLM.from_pretrained(TINY_BASE)
    else:
        kind, arguments = MODELS[name]
        config = getattr(transformers, kind)(
            **({"vocab_size": len(tokenizer)} | arguments),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        torch.manual_seed(0)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="4GB")
    tokenizer.save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


def write_rows(path: Path, count: int, *, median: int, longest: int, seed: int = 0) -> Path:
    """Training rows whose lengths are lognormal around `median` tokens, at most `longest`: a long tail, as task rows
    have. With `median` = `longest` every row is that long. A third of each row is the answer."""
    cut, draw = _cutter(seed), random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            length = _length(draw, median, longest)
            messages = [
                {"role": "user", "content": cut(length * 2 // 3)},
                {"role": "assistant", "content": cut(length // 3)},
            ]
            row = {"id": str(number), "task": "task01_01", "messages": messages}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def write_pairs(path: Path, count: int, *, median: int, longest: int, seed: int = 1) -> Path:
    """Preference pairs: prompt and either answer together are as long as a row of `write_rows`."""
    cut, draw = _cutter(seed), random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            length = _length(draw, median, longest)
            row = {"id": str(number), "task": "task01_01"}
            row["prompt"] = [{"role": "user", "content": cut(length * 2 // 3)}]
            for side in ("chosen", "rejected"):
                row[side] = [{"role": "assistant", "content": cut(length // 3)}]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def _length(draw: random.Random, median: int, longest: int) -> int:
    drawn = longest if median >= longest else draw.lognormvariate(math.log(median), 0.75)
    return max(24, min(round(drawn), longest) - 24)  # the template's own tokens, and a few that cutting adds


def _cutter(seed: int):
    """A function that returns about so many tokens of the sample rows' text, cut out anywhere."""
    from sllm import chat
    from sllm.data import formats

    tokenizer = chat.load_tokenizer(str(TINY_BASE))
    tokenizer.model_max_length = 10**9  # it is text to cut from, not a prompt
    rows = formats.load_rows(str(ROOT / "sample_data" / "task_rows.jsonl"), "sft")
    text = "\n".join(message["content"] for row in rows for message in row["messages"])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    draw = random.Random(seed)

    def cut(tokens: int) -> str:
        start = draw.randrange(len(ids))
        cut_out = [ids[(start + i) % len(ids)] for i in range(tokens)]
        return tokenizer.decode(cut_out).replace("\ufffd", "").strip() or "가"

    return cut
