"""What a model kept of its base: the figures are those of a plain computation in float64, training is left as it was,
and a model that lost its Korean is told of."""

import json
import math

import numpy as np
import pytest
from conftest import ROOT, SFT, run_script

from sllm import chat, checkpoint, retention

pytestmark = pytest.mark.torch
TEXTS = retention.probe(4)


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return chat.load_tokenizer(str(tiny_base))


@pytest.fixture
def tuned(tiny_base):
    return adapted(tiny_base)


def loaded(folder):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def adapted(folder, scale: float = 0.05):
    """The base with an adapter in training whose B is random, of this standard deviation; 0: as it begins."""
    import peft
    import torch

    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_dropout=0.5, target_modules="all-linear")
    model = peft.get_peft_model(loaded(folder), config).train()
    for name, weight in model.named_parameters():
        if "lora_B" in name and scale:
            torch.nn.init.normal_(weight, std=scale)
    return model


def plainly(model, ids) -> np.ndarray:
    """Log-probabilities of the vocabulary for each token but the first, (tokens - 1, vocabulary) float64."""
    import torch

    with torch.no_grad():
        logits = model.eval()(torch.tensor([ids])).logits[0, :-1].double().numpy()
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def arrays(measured) -> tuple:
    return measured.base_bits, measured.bits, measured.kl


def assert_same(first, second, rel: float = 1e-5) -> None:
    for one, other in zip(arrays(first), arrays(second), strict=True):
        np.testing.assert_allclose(one, other, rtol=rel)


def test_the_probe_is_sixty_short_texts():
    texts = retention.probe()
    assert len(texts) == len(set(texts)) == 60
    assert all(80 <= len(text) <= 200 and text == chat.nfc(text).strip() for text in texts)
    assert retention.probe(retention.SMALL) == texts[:20]


@pytest.mark.parametrize("name", ["task_rows.jsonl", "preference_pairs.jsonl", "world/train.jsonl", "world/plain.txt"])
def test_no_row_is_about_the_probe(name):
    rows = (ROOT / "sample_data" / name).read_text(encoding="utf-8")
    shared = [text[i : i + 15] for text in retention.probe() for i in range(len(text) - 14) if text[i : i + 15] in rows]
    assert not shared


def test_figures_are_those_of_a_plain_computation(tuned, tiny_base, tokenizer):
    measured = retention.measure(tuned, tokenizer, TEXTS)
    base = loaded(tiny_base)
    for i, text in enumerate(TEXTS):
        ids = tokenizer(text)["input_ids"]
        before, after, places = plainly(base, ids), plainly(tuned, ids), (np.arange(len(ids) - 1), ids[1:])
        assert ids[0] == tokenizer.bos_token_id
        assert measured.tokens[i] == len(ids) - 1
        assert measured.characters[i] == len(text)
        assert measured.base_bits[i] == pytest.approx(-before[places].sum() / math.log(2), rel=1e-6)
        assert measured.bits[i] == pytest.approx(-after[places].sum() / math.log(2), rel=1e-6)
        assert measured.kl[i] == pytest.approx((np.exp(before) * (before - after)).sum(1).mean(), rel=1e-5)
    summary = measured.summary
    characters, tokens = sum(map(len, TEXTS)), measured.tokens
    assert summary["base_bits_per_character"] == pytest.approx(measured.base_bits.sum() / characters)
    assert summary["bits_per_character"] == pytest.approx(measured.bits.sum() / characters)
    assert summary["kl"] == pytest.approx((measured.kl * tokens).sum() / tokens.sum())
    assert summary["kl_interval"][0] < summary["kl"] < summary["kl_interval"][1]
    low, high = summary["difference_interval"]
    assert low < summary["difference"] < high
    assert json.loads(json.dumps(summary)) == summary


def test_two_models_are_compared_like_an_adapter_and_its_base(tuned, tiny_base, tokenizer):
    of_adapter = retention.measure(tuned, tokenizer, TEXTS)
    merged = tuned.merge_and_unload()
    assert_same(of_adapter, retention.measure(merged, tokenizer, TEXTS, base=loaded(tiny_base)), 1e-3)


def test_what_cannot_be_measured_is_refused(tuned, tiny_base, tokenizer):
    base = loaded(tiny_base)
    with pytest.raises(ValueError, match="give its base"):
        retention.measure(base, tokenizer, TEXTS)
    with pytest.raises(ValueError, match="nothing to predict"):
        retention.measure(tuned, tokenizer, [""])
    base.resize_token_embeddings(base.config.vocab_size + 8)
    with pytest.raises(ValueError, match="another base"):
        retention.measure(tuned, tokenizer, TEXTS, base=base)


@pytest.mark.parametrize("positions", [1, 7, 64])
def test_parts_change_nothing(tuned, tokenizer, monkeypatch, positions):
    texts = TEXTS[:1]
    whole = retention.measure(tuned, tokenizer, texts)
    ids = tokenizer(texts[0])["input_ids"]
    bits = retention.token_bits(tuned.eval(), ids, 3)
    monkeypatch.setattr(retention, "LOGITS", positions * tuned.config.vocab_size + 5)
    assert_same(whole, retention.measure(tuned, tokenizer, texts))
    np.testing.assert_allclose(retention.token_bits(tuned, ids, 3), bits, rtol=1e-4, atol=1e-5)
    assert bits.sum() < whole.bits[0]


def test_a_new_adapter_has_lost_nothing(tiny_base, tokenizer):
    measured = retention.measure(adapted(tiny_base, 0), tokenizer, TEXTS)
    summary = measured.summary
    assert summary["difference"] == summary["kl"] == 0
    assert summary["difference_interval"] == summary["kl_interval"] == [0, 0]
    assert not summary["worse"]
    assert retention.sentence(summary).startswith("general Korean: ")


def test_training_is_left_as_it_was(tuned, tokenizer):
    import torch

    tuned.gradient_checkpointing_enable()
    tuned.enable_input_require_grads()
    trained = {name: weight.requires_grad for name, weight in tuned.named_parameters()}
    seen, random = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = retention.measure(tuned, tokenizer, TEXTS[:2])
    assert torch.equal(torch.get_rng_state(), seen)
    assert (np.random.get_state()[1] == random).all()
    assert all(module.training for module in tuned.modules())
    assert {name: weight.requires_grad for name, weight in tuned.named_parameters()} == trained
    assert all(weight.grad is None for weight in tuned.parameters())
    assert not tuned.base_model.model.lm_head.weight.requires_grad
    for weight in tuned.parameters():
        weight.requires_grad_(False)
    tuned.eval()
    second = retention.measure(tuned, tokenizer, TEXTS[:2])
    assert not any(module.training for module in tuned.modules())
    assert not any(weight.requires_grad for weight in tuned.parameters())
    assert_same(first, second, 0)


def test_a_reference_adapter_is_no_part_of_the_base(tuned, tokenizer):
    alone = retention.measure(tuned, tokenizer, TEXTS[:2])
    tuned.add_adapter("ref", tuned.peft_config["default"])
    for name, weight in tuned.named_parameters():
        if ".ref." in name:
            weight.data.fill_(0.3)
    assert_same(alone, retention.measure(tuned, tokenizer, TEXTS[:2]), 0)
    assert tuned.active_adapters == ["default"]


def test_autocast_attention_by_row_and_half_precision_are_near(tuned, tokenizer):
    import torch

    from sllm.train import varlen_attention

    texts = TEXTS[:2]
    exact = retention.measure(tuned, tokenizer, texts)
    assert varlen_attention.use(tuned)
    assert_same(exact, retention.measure(tuned, tokenizer, texts))
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(exact, retention.measure(tuned, tokenizer, texts), 0.05)
    assert_same(exact, retention.measure(tuned.to(torch.bfloat16), tokenizer, texts), 0.05)


def test_long_texts_are_cut_and_a_first_token_alone_is_not_counted(tuned, tokenizer):
    (whole,) = texts = TEXTS[:1]
    ids = tokenizer(whole)["input_ids"]
    tuned.config.max_position_embeddings = 30
    cut = retention.measure(tuned, tokenizer, texts)
    assert cut.tokens.tolist() == [29]
    assert cut.characters[0] == len(tokenizer.decode(ids[1:30]))
    np.testing.assert_allclose(cut.bits, retention.token_bits(tuned.eval(), ids[:30]).sum(), rtol=1e-6)

    def without_bos(text):
        return {"input_ids": tokenizer(text, add_special_tokens=False)["input_ids"]}

    class NoBos:
        __call__ = staticmethod(without_bos)
        decode = tokenizer.decode

    short = "나는 학교에 간다."
    measured = retention.measure(tuned, NoBos(), [short])
    assert measured.characters[0] == len(short) - len(tokenizer.decode(without_bos(short)["input_ids"][:1]))


def test_a_broken_model_is_worse(tiny_base, tokenizer):
    summary = retention.measure(adapted(tiny_base, 2.0), tokenizer, TEXTS).summary
    assert summary["worse"]
    assert summary["difference_interval"][0] > 0.1
    said = retention.sentence(summary, before=7.5)
    assert said.startswith("general Korean became worse: ")
    assert ", 7.500 before this run; a lower learning rate" in said


def test_training_runs_record_it(sft_folder, dpo_folder):
    recorded = {}
    for folder in (sft_folder, dpo_folder):
        summary = recorded[folder.name] = checkpoint.read_run(folder)["metrics"]["retention"]
        assert summary["texts"] == retention.SMALL
        assert summary["kl"] > 0
        assert retention.change(summary) in (folder / "README.md").read_text(encoding="utf-8")
    sft, dpo = recorded["sft"], recorded["dpo"]
    assert sft["texts_hash"] == dpo["texts_hash"]
    assert sft["base_bits_per_character"] == pytest.approx(dpo["base_bits_per_character"], rel=1e-6)
    assert sft["bits_per_character"] != dpo["bits_per_character"]


def test_a_run_that_costs_general_korean_says_so(few_rows, sft_folder, tmp_path):
    """Three rows by heart."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(few_rows.read_text(encoding="utf-8").splitlines(keepends=True)[:3]), encoding="utf-8")
    done = run_script(
        *SFT, "--learning_rate", "2e-2", "--trainset_path", rows, "--model_id", sft_folder, "--max_steps", "12",
        "--batch_size", "3", "--output_dir", tmp_path / "sft",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("general Korean")]
    before = checkpoint.read_run(sft_folder)["metrics"]["retention"]["bits_per_character"]
    assert said.startswith("general Korean became worse: ")
    assert f", {before:.3f} before this run;" in said
    assert json.loads(done.stdout.splitlines()[-1])["retention"]["worse"]
