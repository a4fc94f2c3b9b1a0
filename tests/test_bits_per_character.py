"""Bits per character are what transformers' own loss gives, and training lowers them."""

import json
import math

import pytest
from conftest import assert_refused, run_script, succeed

from sllm import chat

pytestmark = pytest.mark.torch
SCRIPT = ("-m", "sllm.bits_per_character")


@pytest.fixture
def rows(few_rows, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(few_rows.read_text(encoding="utf-8").splitlines(keepends=True)[:6]), encoding="utf-8")
    return path


def test_they_are_those_of_the_loss(tiny_base, sft_folder, rows):
    import torch
    from transformers import AutoModelForCausalLM

    found = succeed(*SCRIPT, f"base={tiny_base}", f"sft={sft_folder}", f"again={tiny_base}", "--testset_path", rows)
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    tokenizer = chat.load_tokenizer(str(tiny_base))
    chat.set_chat_template(tokenizer)
    bits = characters = 0
    for line in rows.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        system = [{"role": "system", "content": row["system_prompt"]}] if row.get("system_prompt") else []
        asked = [*system, {"role": "user", "content": row["user_content"]}]
        prompt = chat.prompt_ids(tokenizer, asked)
        answer = chat.completion_ids(tokenizer, [*asked, {"role": "assistant", "content": row["assistant_content"]}])
        ids = torch.tensor([prompt + answer])
        labels = torch.tensor([[-100] * len(prompt) + answer])
        bits += model(input_ids=ids, labels=labels).loss.item() * len(answer) / math.log(2)
        characters += len(row["assistant_content"])
    base, sft, again = (found["models"][name] for name in ("base", "sft", "again"))
    assert found["rows"] == 6
    assert base["bits_per_character"] == pytest.approx(bits / characters, rel=1e-4)
    assert base["low"] < base["bits_per_character"] < base["high"]
    assert again["difference"] == 0
    assert again["difference_interval"] == [0, 0]
    assert sft["bits_per_character"] < base["bits_per_character"]


def test_what_cannot_be_compared_is_refused(tiny_base, rows, tmp_path):
    assert_refused(run_script(*SCRIPT, tiny_base, "--testset_path", rows), "NAME=MODEL")
    assert_refused(run_script(*SCRIPT, "a=nowhere", "--testset_path", rows), "nowhere")
    assert_refused(
        run_script(*SCRIPT, f"a={tiny_base}", "--testset_path", rows, "--max_seq_length", "8"), "no row fits"
    )
