"""The shipped base is what its script builds: tokenizer from the samples, deterministic, small, without a template."""

import json

import pytest
from conftest import ROOT, assert_refused, run_script, succeed

from sllm import chat, tiny_base

pytestmark = pytest.mark.torch
SHIPPED = ROOT / "sample_data" / "tiny_base"


def test_the_shipped_model_is_small_and_whole():
    from transformers import AutoModelForCausalLM

    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 12e6
    model = AutoModelForCausalLM.from_pretrained(SHIPPED)
    assert str(model.dtype) == "torch.bfloat16"
    assert model.config.model_type == "llama"
    assert 3e6 <= sum(weight.numel() for weight in model.parameters()) <= 6e6
    assert chat.load_tokenizer(str(SHIPPED)).chat_template is None


def test_the_shipped_tokenizer_is_trained_on_the_samples_and_nothing_else():
    record = json.loads((SHIPPED / "run.json").read_text(encoding="utf-8"))
    texts = tiny_base.corpus(ROOT / "sample_data", set(record["data"]["tasks"]))
    assert len(texts) == record["data"]["texts"]
    built = tiny_base.train_tokenizer(texts, 4096)
    shipped = json.loads((SHIPPED / "tokenizer.json").read_text(encoding="utf-8"))
    assert json.loads(built.backend_tokenizer.to_str())["model"] == shipped["model"]
    text = "한국어 문장과 English, 12,345와 이모지 🙂도 그대로."
    assert built.decode(built(text)["input_ids"], skip_special_tokens=True) == text


def test_no_answer_of_the_task_rows_is_learned_from():
    answers = {json.loads(line)["assistant_content"] for line in open(ROOT / "sample_data/task_rows.jsonl", encoding="utf-8")}  # fmt: skip  # noqa: E501
    assert len(answers) > 80
    assert not answers & set(tiny_base.corpus(ROOT / "sample_data"))


def test_building_is_deterministic_by_seed(tmp_path):
    flags = "-m sllm.tiny_base --steps 3 --vocab_size 600 --hidden_size 64 --layers 1".split()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        result = succeed(*flags, "--output_dir", tmp_path / name, "--seed", seed)
    assert result["tokens"] == 600
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in SHIPPED.iterdir()}
    assert_refused(run_script(*flags, "--output_dir", tmp_path / "a"), "exists", "--overwrite")
    assert_refused(run_script(*flags, "--output_dir", tmp_path / "d", "--sample_data", tmp_path), "no .jsonl rows")


def test_its_continuations_are_korean():
    """Greedy continuations of a few openings are words of the samples, not noise."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = chat.load_tokenizer(str(SHIPPED))
    model = AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32)
    words = set(" ".join(tiny_base.corpus(ROOT / "sample_data")).split())
    for opening in ("도서관은", "바다에서", "질문에"):
        ids = tokenizer(opening, return_tensors="pt")["input_ids"]
        out = model.generate(input_ids=ids, max_new_tokens=40, do_sample=False, pad_token_id=0)
        made = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).split()[1:-1]
        assert sum(word in words for word in made) >= 0.6 * len(made) > 0, made
