"""A model that says fixed texts, so that tool calls and reasoning really come out of it and not out of a constraint.

Its layers add nothing, so what follows a token depends on that token alone: `lm_head` of the next token is the
embedding of the one before. Every piece of a script is one token, added to the tiny model's vocabulary. The last token
of the generation prompt, which the chat template chooses, decides what is said: calls when there are tools and no
results yet, else the answer, after reasoning where the model thinks.

Under a constraint (a named tool, a JSON schema) it closes what is open as soon as it may.
"""

import itertools
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

_SCRIPTS = (
    # the first call in pieces, as most models write it; the second in one
    (
        "<|calls|>", "<tool_call>", '\n{"name": "get_weather", ', '"arguments": {"city": ', '"서울"}}\n',
        "</tool_call>",
        '\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "부산"}}\n</tool_call>', "<|im_end|>",
    ),
    ("<|says|>", "오늘은 ", "서울이 ", "맑습니다.", "<|im_end|>"),
    ("<|thinks|>", "<think>", "서울을 ", "물었으니 ", "맑다고 ", "답하자.", "</think>", "오늘은 "),
)  # fmt: skip
_TEMPLATE = """
{%- if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}\n{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor -%}
<|im_end|>\n
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant\n
{{- 'LAST' if not tools or messages[-1].role == 'tool' else 'WITH_TOOLS' -}}
{%- endif -%}
"""


def build(tiny_base: Path, folder: Path, *, thinks: bool = False) -> Path:
    """Write the model to `folder`. `thinks`: it reasons before answers, and calls tools only under a constraint."""
    folder.mkdir()
    last, with_tools = ("<|thinks|>", "<|thinks|>") if thinks else ("<|says|>", "<|calls|>")
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.add_tokens(["<|calls|>", "<|says|>", "<|thinks|>"], special_tokens=True)
    tokenizer.add_tokens([piece for script in _SCRIPTS for piece in script[1:] if not piece.startswith("<|")])
    tokenizer.chat_template = _TEMPLATE.replace("LAST", last).replace("WITH_TOOLS", with_tools)
    tokenizer.save_pretrained(folder)
    config = json.loads((tiny_base / "config.json").read_text())
    vocabulary, hidden = len(tokenizer), config["hidden_size"]
    config |= {"vocab_size": vocabulary, "num_hidden_layers": 1, "tie_word_embeddings": False, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(_weights(tokenizer, tiny_base, vocabulary, hidden), folder / "model.safetensors", {"format": "pt"})
    return folder


def _weights(tokenizer, tiny_base: Path, vocabulary: int, hidden: int) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    weights = {
        name: torch.ones_like(tensor) if "norm" in name else torch.zeros_like(tensor)
        for name, tensor in load_file(tiny_base / "model.safetensors").items()
        if not name.startswith("model.layers.") or name.startswith("model.layers.0.")
    }
    embedding = torch.randn(vocabulary, hidden, generator=torch.Generator().manual_seed(0))
    embedding[:, 0] = 1  # a direction that every token has
    head = torch.zeros(vocabulary, hidden)
    for script in _SCRIPTS:
        ids = tokenizer.convert_tokens_to_ids(list(script))
        for before, after in itertools.pairwise(ids):
            head[after] += embedding[before]
    for closing in ('"', "]", "}", '"}', '"}]', "<|im_end|>"):
        ids = tokenizer(closing, add_special_tokens=False)["input_ids"]
        head[ids[0], 0] += 100 if len(ids) == 1 else 0  # half of what a script weighs
    return weights | {"model.embed_tokens.weight": embedding, "lm_head.weight": head}
