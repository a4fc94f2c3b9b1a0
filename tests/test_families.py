"""Model families through all stages: SFT → DPO → merge → vLLM, on random models of two layers.

What tells them apart is where their weights lie: under which names, in how many tensors, tied or not, (in, out) or
(out, in). After a merge vLLM's greedy answers have to be transformers' own greedy decoding of the merged folder, and
those of base + adapter by peft.
"""

import functools
import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import SAMPLE_PAIRS, SAMPLE_ROWS

import merged_weights
import train_LoRA_DPO
import train_LoRA_SFT
import vllm_inference
from sllm import chat, generation
from sllm.cli import InputError
from sllm.serve import environment
from sllm.weights import layout

pytestmark = pytest.mark.torch

TOKENS = {"vocab_size": 4096, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
NEOX = TOKENS | {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 1024,
}  # fmt: skip
SIZES = NEOX | {"num_key_value_heads": 1}
EXPERTS = SIZES | {"num_experts_per_tok": 2}
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
GEMMA3 = SIZES | {"head_dim": 32, "sliding_window": 64}
FAMILIES = {  # config class and its settings
    "gpt_neox": ("GPTNeoXConfig", NEOX),
    "qwen3_moe": ("Qwen3MoeConfig", EXPERTS | {"num_experts": 4, "moe_intermediate_size": 32}),
    "olmoe": ("OlmoeConfig", EXPERTS | {"num_experts": 4}),
    "mixtral": ("MixtralConfig", EXPERTS | {"num_local_experts": 4}),
    "gemma3": (
        "Gemma3Config",
        {"text_config": GEMMA3, "vision_config": VISION, "mm_tokens_per_image": 4, "boi_token_index": 4000,
         "eoi_token_index": 4001, "image_token_index": 4002},
    ),
    "gemma3_text": ("Gemma3TextConfig", GEMMA3),
    "gemma2": ("Gemma2Config", GEMMA3),
    "llama": ("LlamaConfig", SIZES | {"tie_word_embeddings": False}),
    "llama_tied": ("LlamaConfig", SIZES | {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", SIZES),
    "qwen3": ("Qwen3Config", SIZES | {"head_dim": 32}),
    "mistral": ("MistralConfig", SIZES),
    "phi3": ("Phi3Config", SIZES),
    "exaone4": ("Exaone4Config", SIZES | {"sliding_window": 64}),
    "gpt2": ("GPT2Config", TOKENS | {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 1024}),
}  # fmt: skip
# Where an adapter adds to other tensors on disk than its layer is called: (layer, tensor).
RENAMED = {
    "gemma3": ("model.language_model.layers.1.mlp.up_proj", "language_model.model.layers.1.mlp.up_proj.weight"),
    "gpt2": ("transformer.h.1.mlp.c_fc", "transformer.h.1.mlp.c_fc.weight"),  # stored as (in, out)
}
QUESTIONS = ["대한민국의 수도는 어디인가요?", "건강하게 사는 방법을 세 가지만 알려 주세요.", "안녕"]
ANSWER_TOKENS = 12


def make_base(family: tuple, folder: Path, tokenizer_from: Path) -> Path:
    """A random model of the family, its weights large enough for answers that differ from question to question."""
    import torch
    import transformers

    kind, settings = family
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**settings), dtype=torch.float32)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.normal_(0, 0.1)
    model.half().save_pretrained(folder)
    if kind == "GPTNeoXConfig":
        add_saved_buffers(folder / "model.safetensors")
    chat.load_tokenizer(str(tokenizer_from)).save_pretrained(folder)
    return folder


def add_saved_buffers(file: Path) -> None:
    """What older versions saved beside the weights, as in Polyglot-ko's files; in float16 the mask's value is -inf."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(file)
    for layer in range(2):
        attention = f"gpt_neox.layers.{layer}.attention"
        weights[f"{attention}.bias"] = torch.ones(1, 1, 1024, 1024, dtype=torch.bool).tril()
        weights[f"{attention}.masked_bias"] = torch.tensor(-1e9).half()
        weights[f"{attention}.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, file, {"format": "pt"})


def make_adapter(base: Path, folder: Path, **settings) -> Path:
    """A random adapter by peft, as another tool would have trained it."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, **settings))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data += 0.1 * torch.randn_like(weight)
    model.save_pretrained(folder)
    tokenizer = chat.load_tokenizer(str(base))
    chat.set_chat_template(tokenizer)
    tokenizer.save_pretrained(folder)
    return folder


def greedy(folder: Path, tokenizer, adapter: Path | None = None) -> list[str]:
    """transformers' own answers to QUESTIONS, decoded one by one."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(model, adapter) if adapter else model
    answers, stops = [], [tokenizer.eos_token_id, chat.end_of_turn(tokenizer)[1]]
    for question in QUESTIONS:
        ids = chat.prompt_ids(tokenizer, [{"role": "user", "content": question}])
        with torch.no_grad():
            out = model.eval().generate(
                input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                do_sample=False, max_new_tokens=ANSWER_TOKENS, eos_token_id=stops, pad_token_id=0,
            )  # fmt: skip
        new = out[0, len(ids) :].tolist()
        answers.append(generation.text(tokenizer, generation.Generation(new, "", None), stops))
    return answers


def by_vllm(folder: Path, work: Path) -> list[str]:
    """vllm_inference.py's answers to QUESTIONS, in this process, as one engine after another takes 2 s here."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    lines = [json.dumps({"id": str(i), "prompt": text}, ensure_ascii=False) for i, text in enumerate(QUESTIONS)]
    (work / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        run(vllm_inference, "--model_id", folder, "--testset_path", work / "questions.jsonl", "--max_seq_length", 256,
            "--max_tokens", ANSWER_TOKENS, "--output_path", work / "answers.jsonl")  # fmt: skip
    finally:
        cleanup_dist_env_and_memory()  # a mixture of experts after a model without wants groups of its own
    return [json.loads(line)["output"] for line in (work / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


def run(script, *words: object) -> dict:
    """A script's main() in this process."""
    return script.main(script.build_parser().parse_args([str(word) for word in words]))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Leave out the stages' pictures and samples, and vLLM's process for a look at a model class that it first meets;
    put back the environment that vLLM's set-up changes."""
    import vllm.model_executor.models.registry as registry

    from sllm.merge import parity
    from sllm.train import callbacks, metrics

    before = dict(os.environ)
    environment.set_environment()
    monkeypatch.setattr(metrics, "plot", lambda *args: None)
    monkeypatch.setattr(callbacks, "samples", lambda *args: lambda: [])
    monkeypatch.setattr(parity, "check", functools.partial(parity.check, tokens=4))
    monkeypatch.setattr(registry, "_run_in_subprocess", lambda look: look())
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    """Four short rows and three short pairs."""
    folder = tmp_path_factory.mktemp("data")
    for name, source, count in (("rows", SAMPLE_ROWS, 4), ("pairs", SAMPLE_PAIRS, 3)):
        lines = sorted(source.read_text(encoding="utf-8").splitlines(keepends=True), key=len)[:count]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return {"rows": folder / "rows.jsonl", "pairs": folder / "pairs.jsonl"}


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_trains_merges_and_serves(name, data, tiny_base, tmp_path):
    base = make_base(FAMILIES[name], tmp_path / "base", tiny_base)
    common = ("--batch_size", 2, "--gradient_accum_steps", 1, "--report_to", "none", "--max_seq_length", 512)
    trained = run(train_LoRA_SFT, "--model_id", base, "--trainset_path", data["rows"], "--output_dir",
        tmp_path / "sft", "--lora_r", 4, "--max_steps", 3, "--learning_rate", "2e-2", *common)  # fmt: skip
    assert trained["accumulation_parity"] < 1e-5  # a balancing loss of experts would depend on the micro-batches
    preferred = run(train_LoRA_DPO, "--model_id", tmp_path / "sft", "--trainset_path", data["pairs"], "--output_dir",
        tmp_path / "dpo", "--max_steps", 2, "--learning_rate", 2e-3, *common)  # fmt: skip
    assert preferred["accumulation_parity"] < 1e-5
    merged = tmp_path / "merged"
    run(merged_weights, "--model_id", tmp_path / "dpo", "--merged_weights_path", merged)
    on_disk, before = weights(merged), weights(base)
    assert on_disk.keys() == before.keys()
    assert {name for name in before if on_disk[name].shape != before[name].shape} == set()
    factors = weights(tmp_path / "dpo", "adapter_model")
    assert not [key for key in factors if "vision" in key or "lm_head" in key]
    if name in RENAMED:
        layer, tensor = RENAMED[name]
        assert f"base_model.model.{layer}.lora_B.weight" in factors
        assert (on_disk[tensor].float() - before[tensor].float()).abs().max() > 1e-4
    tokenizer = chat.load_tokenizer(str(merged))
    assert json.loads((merged / "config.json").read_text())["dtype"] == "float16"  # as the base
    expected = greedy(merged, tokenizer)
    assert expected == greedy(base, tokenizer, adapter=tmp_path / "dpo") != greedy(base, tokenizer)
    if name == "gemma3" and find_spec("torchvision") is None:  # which vLLM's class of it imports
        with pytest.raises(InputError, match="torchvision"):
            by_vllm(merged, tmp_path)
    else:
        assert by_vllm(merged, tmp_path) == expected


def weights(folder: Path, stem: str = "model") -> dict:
    from safetensors.torch import load_file

    return load_file(folder / f"{stem}.safetensors")


# ── mixtures of experts whose experts are adapted ──────────────────────────────────────────────────────────

STACKED = {
    "qwen3_moe": {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    "olmoe": {"target_modules": [], "target_parameters": ["experts.down_proj"], "use_rslora": True},
    # peft makes gate_up_proj (twice the rank), down_proj and the router of these; w1 and w3 are one parameter now
    "mixtral": {"target_modules": ["w1", "w2", "w3", "gate", "v_proj"]},
}


@pytest.mark.parametrize("name", STACKED)
def test_experts_that_are_stacked_in_memory_and_apart_on_disk(name, tiny_base, tmp_path, capsys):
    base = make_base(FAMILIES[name], tmp_path / "base", tiny_base)
    adapter = make_adapter(base, tmp_path / "adapter", **STACKED[name])
    run(merged_weights, "--model_id", adapter, "--merged_weights_path", tmp_path / "out")
    assert "the adapter changes stacked experts" in capsys.readouterr().out
    before, after = weights(base), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    changed = {key for key in before if (after[key].float() - before[key]).abs().max() > 1e-3}
    down = "w2" if name == "mixtral" else "down_proj"
    assert sum(f".{down}." in key for key in changed) == 2 * 4
    tokenizer = chat.load_tokenizer(str(tmp_path / "out"))
    expected = greedy(base, tokenizer, adapter)
    assert greedy(tmp_path / "out", tokenizer) == expected != greedy(base, tokenizer)


def test_an_adapter_of_transformers_4_names_what_is_on_disk(tiny_base, tmp_path):
    """There `language_model.model.layers` was Gemma 3's path in memory too."""
    from safetensors.torch import load_file, save_file

    base = make_base(FAMILIES["gemma3"], tmp_path / "base", tiny_base)
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=r".*language_model.*\.(q|up)_proj")
    file = adapter / "adapter_model.safetensors"
    old = {key.replace("model.language_model.", "language_model.model."): t for key, t in load_file(file).items()}
    run(merged_weights, "--model_id", adapter, "--merged_weights_path", tmp_path / "new")
    save_file(old, file)
    assert any(key.startswith("base_model.model.language_model.model.layers.0") for key in old)
    run(merged_weights, "--model_id", adapter, "--merged_weights_path", tmp_path / "old")
    one, other = weights(tmp_path / "new"), weights(tmp_path / "old")
    assert all((one[key] == other[key]).all() for key in one)


# ── what cannot be merged is refused: before training, and before anything is written ──────────────────────


def test_a_conversion_that_has_no_way_back_is_refused(tiny_base, tmp_path, monkeypatch):
    from transformers import core_model_loading

    base = make_base(FAMILIES["olmoe"], tmp_path / "base", tiny_base)
    adapter = make_adapter(base, tmp_path / "adapter", **STACKED["olmoe"])

    def never(self):
        raise NotImplementedError("no way back")

    monkeypatch.setattr(core_model_loading.MergeModulelist, "reverse_op", property(never))
    with pytest.raises(InputError, match="experts.down_proj: transformers cannot convert it back.*no way back"):
        run(merged_weights, "--model_id", adapter, "--merged_weights_path", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    layout.require_mergeable(base, ["model.layers.0.self_attn.q_proj"])  # the attention is one to one


def test_adapters_that_cannot_be_merged_are_refused_before_training(tiny_base, tmp_path):
    layers = [f"gpt_neox.layers.{i}.attention.dense" for i in range(2)]
    base = make_base(FAMILIES["gpt_neox"], tmp_path / "base", tiny_base)
    layout.require_mergeable(base, layers)
    layout.require_mergeable("someone/model-that-is-not-in-the-cache", layers)
    with pytest.raises(InputError, match="layers.7.attention.dense.weight could not be merged after training"):
        layout.require_mergeable(base, [*layers, "gpt_neox.layers.7.attention.dense"])
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    with pytest.raises(InputError, match=r"embed_in.weight is \[4096, 64\] on disk and \[4096, 32\]"):
        layout.require_mergeable(base, layers)
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(InputError, match="rewritten by save_pretrained"):
        layout.require_mergeable(base, layers)


def test_a_base_whose_weights_are_not_downloaded_yet_is_not_refused(tiny_base, tmp_path, monkeypatch):
    """The first training from a Hub id: its config and tokenizer come first."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--org--base"
    folder = repository / "snapshots" / "c0ffee"
    shutil.copytree(tiny_base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    layout.require_mergeable("org/base", ["model.layers.0.self_attn.q_proj"])
    shutil.copy(tiny_base / "model.safetensors", folder)
    with pytest.raises(InputError, match="layers.9.self_attn.q_proj.weight could not be merged"):
        layout.require_mergeable("org/base", ["model.layers.9.self_attn.q_proj"])
