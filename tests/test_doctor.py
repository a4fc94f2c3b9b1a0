"""evaluate_model.py --doctor: folders that are broken in one way each are told so, sound ones pass."""

import json
import shutil

import pytest
import torch
from conftest import assert_refused, succeed
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.torch
MODEL, ADAPTER = "model.safetensors", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def merged_folder(sft_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("merged") / "merged"
    succeed("merged_weights.py", "--model_id", sft_folder, "--merged_weights_path", out)
    return out


@pytest.fixture
def copies(sft_folder, merged_folder, tmp_path):
    """A copy of the adapter or the merged model, as from another tool: without run.json."""

    def copy(kind: str):
        folder = shutil.copytree({"adapter": sft_folder, "merged": merged_folder}[kind], tmp_path / kind)
        (folder / "run.json").unlink()
        return folder

    return copy


def edit(path, **values) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | values, ensure_ascii=False), encoding="utf-8")


def change(path, name: str, new) -> None:
    """Replace the tensors whose names contain `name`."""
    tensors = load_file(path)
    save_file({key: new(value) if name in key else value for key, value in tensors.items()}, path, {"format": "pt"})


def template(folder, old: str, new: str) -> None:
    path = folder / "chat_template.jinja"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def not_a_number(value):
    value[0] = float("nan")
    return value


def extra_token(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["새토큰"])
    tokenizer.save_pretrained(folder)


def another_base(folder):
    """A base whose layers are half as wide."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    other, base = folder.parent / "other", config["base_model_name_or_path"]
    smaller = AutoConfig.from_pretrained(base)
    smaller.hidden_size //= 2
    AutoModelForCausalLM.from_config(smaller).save_pretrained(other)
    shutil.copy(f"{base}/tokenizer.json", other)
    edit(folder / "adapter_config.json", base_model_name_or_path=str(other))


def left_over(folder):
    tensors = load_file(folder / MODEL) | {"model.layers.0.mlp.up_proj.weight.absmax": torch.ones(4)}
    save_file(tensors, folder / MODEL, {"format": "pt"})


LOOP, PROMPT = "{%- for message in messages", "{%- if add_generation_prompt"
ONE_TURN = "{%- if messages | length > 2 %}{{ raise_exception('one turn only') }}{% endif %}"
NO_SYSTEM = "{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
FIRST_TURN = "{%- if add_generation_prompt and messages | length == 1 %}{{ '답: ' }}{% endif %}"
BOS = "{{- bos_token -}}"
FAULTS = {
    "NaN in a weight": ("merged", "weights", lambda f: change(f / MODEL, "layers.0.mlp.up_proj", not_a_number)),
    "a file that is cut off": ("merged", "files and base", lambda f: (f / MODEL).open("r+b").truncate(100_000)),
    "no second question": ("merged", "chat template", lambda f: template(f, LOOP, ONE_TURN + LOOP)),
    "an end of turn that the vocabulary lacks": (
        "adapter", "special tokens", lambda f: template(f, "<|im_end|>", "<|eot_id|>")),
    "eos_token_id lacks the end of turn": (
        "merged", "end of turn", lambda f: edit(f / "generation_config.json", eos_token_id=2)),
    "pad is EOS": ("adapter", "padding", lambda f: edit(f / "tokenizer_config.json", pad_token="</s>")),
    "BOS twice": ("merged", "BOS", lambda f: template(f, BOS, BOS + BOS)),
    "history looks different": ("adapter", "history", lambda f: template(f, PROMPT, FIRST_TURN + PROMPT)),
    "a token without a vector": ("merged", "vocabulary", extra_token),
    "another base": ("adapter", "adapter and base", another_base),
    "nothing learned": ("adapter", "LoRA learned", lambda f: change(f / ADAPTER, "lora_B", torch.zeros_like)),
    "one layer learned nothing": (
        "adapter", "LoRA learned", lambda f: change(f / ADAPTER, "layers.0.mlp.up_proj.lora_B", torch.zeros_like)),
    "quantization_config of 16-bit weights": (
        "merged", "quantisation", lambda f: edit(f / "config.json", quantization_config={"quant_method": "gptq"})),
    "left-overs of a quantised model": ("merged", "quantisation", left_over),
}  # fmt: skip


def states(done) -> dict[str, str]:
    lines = [line for line in done.stdout.splitlines() if line[:7].strip() in ("ok", "note", "wrong", "-")]
    return {line[7:25].strip(): line[:7].strip() for line in lines}


@pytest.fixture
def examine(copies, script):
    """Damages a copy and asks the doctor: (folder, what it said)."""

    def run(kind: str, damage):
        folder = copies(kind)
        damage(folder)
        return folder, script("evaluate_model.py", "--doctor", folder)

    return run


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_folder_is_told_what_is_wrong(fault, examine):
    kind, check, damage = FAULTS[fault]
    folder, done = examine(kind, damage)
    assert done.returncode == 1, done.stderr
    assert f"error: {folder}: 1 check failed: {check}" in done.stderr
    assert states(done)[check] == "wrong"


def test_sound_folders_of_every_stage_pass(tiny_base, sft_folder, dpo_folder, merged_folder, copies, script):
    for folder in (tiny_base, sft_folder, dpo_folder, merged_folder, copies("adapter"), copies("merged")):
        done = script("evaluate_model.py", "--doctor", folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "wrong" not in states(done).values()
    assert states(script("evaluate_model.py", "--doctor", merged_folder))["base + adapter"] == "ok"


def test_a_merge_that_is_not_base_and_adapter(merged_folder, tmp_path, script):
    folder = shutil.copytree(merged_folder, tmp_path / "merged")
    change(folder / MODEL, "layers.1.mlp.down_proj", lambda value: value * 1.02)
    done = script("evaluate_model.py", "--doctor", folder)
    assert done.returncode == 1
    assert states(done)["base + adapter"] == "wrong"
    assert "down_proj.weight is not base + adapter" in done.stdout


NOTES = {
    "no system turn": ("merged", "chat template", lambda f: template(f, LOOP, NO_SYSTEM + LOOP)),
    "no pad": ("merged", "padding", lambda f: edit(f / "tokenizer_config.json", pad_token=None)),
    "reasoning": ("merged", "history", lambda f: template(
        f, PROMPT, "{%- if add_generation_prompt and messages | length == 1 %}{{ '<think>' }}{% endif %}" + PROMPT)),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTES)
def test_what_models_in_use_do_is_a_note(case, examine):
    kind, check, damage = NOTES[case]
    _, done = examine(kind, damage)
    assert done.returncode == 0, done.stdout
    assert states(done)[check] == "note", done.stdout


def test_folders_that_no_library_can_read_have_no_traceback(copies, script):
    folder = copies("merged")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    template(folder, LOOP, "{{ 1 + 'a' }}" + LOOP)
    done = script("evaluate_model.py", "--doctor", folder)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert states(done)["chat template"] == "wrong"
    assert "tokenizer cannot be loaded" in done.stdout


def test_what_is_no_model_is_refused(tmp_path, script):
    assert_refused(script("evaluate_model.py", "--doctor", tmp_path), "neither a model (config.json) nor an adapter")
