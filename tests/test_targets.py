"""--lora_target_modules against real architectures: what the default finds, what is refused, what is said."""

import pytest
from conftest import ROOT

from sllm.cli import InputError

pytestmark = pytest.mark.torch

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
}
MOE = {**SMALL, "num_key_value_heads": 2}
VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
SEVEN = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
FAMILIES = {
    "llama": (SMALL, SEVEN),
    "qwen2": ({**SMALL, "num_key_value_heads": 2}, SEVEN),
    "phi3": ({**SMALL, "pad_token_id": 0}, {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}),
    "gpt_neox": (SMALL, {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
    "gpt2": ({"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 512}, {"c_attn", "c_proj", "c_fc"}),
    "mixtral": ({**MOE, "num_local_experts": 4}, ATTENTION),
    "qwen3_moe": ({**MOE, "num_experts": 4, "moe_intermediate_size": 32}, ATTENTION),
    "olmoe": ({**MOE, "num_experts": 4}, ATTENTION),
    "gemma3": ({"text_config": {**MOE, "head_dim": 16}, "vision_config": VISION}, SEVEN),
}


def build(family: str):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family][0]))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_default_is_every_linear_layer_of_the_language_model(family):
    import peft

    from sllm.train import targets

    model = build(family)
    names, paths = targets.resolve(model, "all-linear")
    assert {path.rpartition(".")[2] for path in paths} == FAMILIES[family][1]
    assert not [path for path in paths if "vision" in path or "lm_head" in path or "projector" in path]
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=names))
    targets.require_adapted(adapted, paths)  # peft takes the names as they were meant


def test_a_vision_tower_gets_an_adapter_only_where_it_is_named():
    from sllm.train import targets

    model = build("gemma3")
    _, paths = targets.resolve(model, ["q_proj"])
    assert len(paths) == 2
    assert all("language_model" in path for path in paths)
    _, paths = targets.resolve(model, ["layers.0.self_attn.q_proj", "q_proj"])
    assert any("vision" in path for path in paths)


def test_names_that_no_layer_has_are_refused():
    from sllm.train import targets

    model = build("llama")
    with pytest.raises(InputError, match="no layer is named v_porj, x; this model has q_proj, k_proj"):
        targets.resolve(model, ["q_proj", "v_porj", "x"])
    with pytest.raises(InputError, match="no linear layer's path matches"):
        targets.resolve(model, "nothing.*")
    assert targets.resolve(model, ["all-linear", "lm_head"])[1][-1] == "lm_head"
    assert targets.resolve(model, r".*\.0\.self_attn\.[qv]_proj")[1] == [
        "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"
    ]  # fmt: skip


def test_what_is_adapted_is_said_and_checked():
    import peft

    from sllm.train import targets

    model = build("phi3")
    names, paths = targets.resolve(model, ["o_proj", "down_proj"])
    assert targets.summary(paths) == "4 layers: o_proj ×2, down_proj ×2"
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=names[:1]))
    with pytest.raises(RuntimeError, match="other layers than were requested: .*down_proj"):
        targets.require_adapted(adapted, paths)


def test_an_adapters_own_layers_are_what_its_file_holds(tiny_base, tmp_path):
    """One of another tool may leave out layers that its target_modules name."""
    import peft
    from transformers import AutoModelForCausalLM

    from sllm.train import targets

    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"], layers_to_transform=[1])
    adapted = peft.get_peft_model(model, config)
    adapted.save_pretrained(tmp_path)
    paths = targets.of_adapter(tmp_path, AutoModelForCausalLM.from_pretrained(tiny_base))
    assert paths == ["model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]
    targets.require_adapted(adapted, paths)
    assert targets.of_adapter(tiny_base, model) == []


def test_no_script_names_layers_by_itself():
    for script in ROOT.glob("train_LoRA_*.py"):
        text = script.read_text(encoding="utf-8")
        assert "target_modules=plan.targets" in text
        assert "targets.require_adapted(model, plan.adapted)" in text
