"""merged_weights.py: the arithmetic, the folder, guarantees 3 and 5, and what is refused before anything is written."""

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, assert_refused, run_script, succeed

import merged_weights
from sllm import chat, checkpoint
from sllm.cli import CheckFailed, InputError
from sllm.weights import safetensors_io

pytestmark = pytest.mark.torch

FILES = {
    "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "run.json",
    "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip
PROJECTIONS = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()


def make_adapter(base: Path, folder: Path, **settings) -> Path:
    """A random adapter that changes the model well beyond bf16 rounding, saved by peft with its tokenizer."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = {"task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "target_modules": PROJECTIONS} | settings
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(**config))
    for name, weight in model.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name or "modules_to_save" in name:
            weight.data += 0.02 * torch.randn_like(weight)
    model.save_pretrained(folder)
    tokenizer = chat.load_tokenizer(str(base))
    chat.set_chat_template(tokenizer)
    tokenizer.save_pretrained(folder)
    return folder


def merge(adapter: Path, out: Path, *flags: object) -> dict:
    """main() in this process."""
    words = ["--model_id", adapter, "--merged_weights_path", out, *flags]
    return merged_weights.main(merged_weights.build_parser().parse_args(list(map(str, words))))


def refused(adapter: Path, out: Path, *flags: object) -> str:
    """The problems of a merge that is refused, after a look that it wrote nothing."""
    with pytest.raises(InputError) as error:
        merge(adapter, out, *flags)
    assert not out.exists()
    return "\n".join(error.value.problems)


def weights(folder: Path) -> dict:
    from safetensors.torch import load_file

    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def edited(folder: Path, copy: Path, name: str, **changes) -> Path:
    """A copy of a folder with some keys of one of its JSON files changed, and without the record of what it was."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("run.json"))
    (copy / name).write_text(json.dumps(read(copy / name) | changes), encoding="utf-8")
    return copy


@pytest.fixture(scope="session")
def adapter(tiny_base, tmp_path_factory) -> Path:
    return make_adapter(tiny_base, tmp_path_factory.mktemp("adapter") / "adapter")


@pytest.fixture(scope="session")
def merged(adapter) -> Path:
    out = adapter.parent / "merged"
    merge(adapter, out)
    return out


@pytest.fixture(autouse=True)
def fewer_tokens(monkeypatch):
    """Merges in this process compare 4 greedy tokens a prompt; those by script all 16."""
    from sllm.merge import parity

    monkeypatch.setattr(parity, "check", functools.partial(parity.check, tokens=4))


# ── arithmetic ─────────────────────────────────────────────────────────────────────────────────────────────

SETTINGS = {
    "plain": {},
    "rslora and patterns": {
        "use_rslora": True,
        "rank_pattern": {"q_proj": 4, "layers.1.mlp.up_proj": 16},
        "alpha_pattern": {"q_proj": 3},
    },
    "output layer saved whole": {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "embedding, tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "norms": {"modules_to_save": ["input_layernorm"]},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_weights_are_pefts_merge_rounded_once(name, tiny_base, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = make_adapter(tiny_base, tmp_path / "adapter", **SETTINGS[name])
    result = merge(folder, tmp_path / "out")
    # A tied base whose adapter changes one side only has to come untied: two different weights.
    config = read(tmp_path / "out" / "config.json")
    assert config["tie_word_embeddings"] == (name in ("plain", "rslora and patterns", "embedding, tied", "norms"))
    assert ("lm_head.weight" in weights(tmp_path / "out")) != config["tie_word_embeddings"]

    ids = torch.tensor([chat.prompt_ids(chat.load_tokenizer(str(folder)), chat.PROBE_MESSAGES)])
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        difference = (model(input_ids=ids).logits - loaded(input_ids=ids).logits).abs().max().item()
    assert 0 < difference <= result["logit_bound"] < 0.5

    head = model.get_base_model().lm_head
    if name == "embedding":  # peft's merge would write into the weight that the output layer shares
        head.weight = torch.nn.Parameter(head.weight.clone())
    exact = model.merge_and_unload().state_dict()
    for key, tensor in weights(tmp_path / "out").items():
        assert tensor.dtype == torch.bfloat16
        error = (tensor.float() - exact[key]).abs()
        assert (error <= exact[key].abs() * 2**-8 + 1e-7).all(), key  # half a step of bf16


@pytest.fixture(scope="module")
def biased_base(tiny_base, tmp_path_factory) -> Path:
    """A random model with biases in its linear layers (Qwen2's q, k, v), none of them zero, and in its norms none."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=4096, num_key_value_heads=1, **sizes))
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data.normal_(0, 0.5)
    folder = tmp_path_factory.mktemp("biased") / "base"
    model.save_pretrained(folder)
    chat.load_tokenizer(str(tiny_base)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_biases_are_merged(bias, biased_base, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    folder = make_adapter(biased_base, tmp_path / "adapter", bias=bias, target_modules=["q_proj", "o_proj"])
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    moved = {name for name in tensors if name.endswith("bias")}
    assert len(moved) == (6 if bias == "all" else 2)
    save_file({name: t + 0.3 if name in moved else t for name, t in tensors.items()}, file)
    result = merge(folder, tmp_path / "out")
    before, after = weights(biased_base), weights(tmp_path / "out")
    changed = [name for name in before if name.endswith("bias") and not torch.equal(before[name], after[name].float())]
    layers = ("q_proj", "k_proj", "v_proj") if bias == "all" else ("q_proj",)
    assert {name.split(".")[-2] for name in changed} >= set(layers)
    for name in before:
        if name.endswith("bias"):
            shift = 0.3 if name.split(".")[-2] in layers else 0
            assert torch.allclose(after[name].float(), before[name] + shift, atol=0.02), name
    assert result["rms_adapter_effect"] > 10 * result["rms_logit_difference"]  # the biases count as the adapter's


def test_float16_is_finer(adapter, merged, tmp_path):
    import torch

    result = merge(adapter, tmp_path / "out", "--dtype", "float16")
    assert {tensor.dtype for tensor in weights(tmp_path / "out").values()} == {torch.float16}
    assert read(tmp_path / "out" / "config.json")["dtype"] == "float16"
    coarse = read(merged / "run.json")["metrics"]
    assert result["max_logit_difference"] < coarse["max_logit_difference"] / 2


def test_shards_and_blocks_make_no_difference(tiny_base, merged, tmp_path, monkeypatch):
    import torch
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.bfloat16).save_pretrained(base, max_shard_size="1MB")
    chat.load_tokenizer(str(tiny_base)).save_pretrained(base)
    folder = make_adapter(base, tmp_path / "adapter")
    monkeypatch.setattr(safetensors_io, "BLOCK", 10_000)  # 39 rows of 256
    result = merge(folder, tmp_path / "out", "--base_model", base)
    one, many = weights(merged), weights(tmp_path / "out")
    assert one.keys() == many.keys()
    assert all(torch.allclose(one[name].float(), many[name].float(), rtol=2**-7, atol=1e-7) for name in one)

    index, base_index = (read(place / "model.safetensors.index.json") for place in (tmp_path / "out", base))
    assert index["weight_map"] == base_index["weight_map"]
    assert len(set(index["weight_map"].values())) > 4
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in many.values()) == result["bytes"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == (FILES - {"model.safetensors"}) | {
        "model.safetensors.index.json", *index["weight_map"].values()
    }  # fmt: skip
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    assert all(torch.equal(loaded[name], many[name]) for name in many)


def test_files_of_a_given_size(adapter, merged, tmp_path):
    import torch

    merge(adapter, tmp_path / "out", "--max_shard_size_gb", "0.003")
    names = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert names == [f"model-{i:05}-of-{len(names):05}.safetensors" for i in range(1, len(names) + 1)]
    assert len(names) == 3
    assert all((tmp_path / "out" / name).stat().st_size < 3_010_000 for name in names)
    one, many = weights(merged), weights(tmp_path / "out")
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)


# ── the folder ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_whole_chain_by_script(dpo_folder, sft_folder, tiny_base, tmp_path):
    out = tmp_path / "merged"
    result = succeed("merged_weights.py", "--model_id", dpo_folder, "--merged_weights_path", out)
    assert {path.name for path in out.iterdir()} == FILES | {"training_texts.npz"}
    run = checkpoint.require(out, stage="merged")
    assert [parent["stage"] for parent in run["parents"]] == ["dpo"]
    assert run["probe"] == checkpoint.read_run(dpo_folder)["probe"]
    assert run["chat_template_hash"]
    assert Path(run["base_model"]).resolve() == tiny_base.resolve()
    metrics = run["metrics"]
    assert metrics.items() <= result.items()
    assert metrics["max_logit_difference"] <= metrics["logit_bound"]
    assert metrics["greedy_tokens"] == 64
    chat.check_probe(chat.load_tokenizer(str(out)), run, out)

    import yaml

    card = (out / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["language"] == ["ko"]
    assert {"sft", "dpo"} <= set(front["tags"])
    lineage = [card.index(f"**{folder.name}** ({stage})") for folder, stage in
               ((tiny_base, "base"), (sft_folder, "sft"), (dpo_folder, "dpo"))]  # fmt: skip
    assert lineage == sorted(lineage)
    sft = checkpoint.read_run(sft_folder)
    assert sft["data"]["train"]["sha256"][:16] in card
    assert "`learning_rate` 0.003" in card
    assert run["chat_template_hash"][:16] in card
    assert str(tmp_path.parent) not in card.split("## Use")[0]


def test_any_tool_loads_it_and_it_stops(merged, adapter, tiny_base):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert {path.name for path in merged.iterdir()} == FILES
    tokenizer = AutoTokenizer.from_pretrained(merged)
    model = AutoModelForCausalLM.from_pretrained(merged, dtype="auto")
    assert str(model.dtype) == "torch.bfloat16"
    assert tokenizer.chat_template == chat.load_tokenizer(str(adapter)).chat_template
    config = model.generation_config
    eos = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    assert {chat.end_of_turn(tokenizer)[1], read(tiny_base / "config.json")["eos_token_id"]} <= set(eos)
    assert config.pad_token_id == tokenizer.pad_token_id not in eos
    assert "_from_model_config" not in read(merged / "generation_config.json")


# ── guarantee 3: it stops ──────────────────────────────────────────────────────────────────────────────────


def test_a_generation_config_that_never_stops_is_refused(merged):
    from sllm.merge import export

    tokenizer = chat.load_tokenizer(str(merged))
    right = read(merged / "generation_config.json")
    export.require_stopping(right, tokenizer)
    end = chat.end_of_turn(tokenizer)[1]
    for wrong, said in [
        ({"eos_token_id": tokenizer.pad_token_id + 9}, "lacks"),
        ({"eos_token_id": [end, tokenizer.pad_token_id]}, "pads with"),
        ({"pad_token_id": end}, "pads with"),
        ({"pad_token_id": None}, "no pad token"),
    ]:
        with pytest.raises(InputError, match=said):
            export.require_stopping(right | wrong, tokenizer)


def test_an_adapter_that_pads_with_eos_is_refused(adapter, tmp_path):
    end = chat.end_of_turn(chat.load_tokenizer(str(adapter)))[0]
    wrong = edited(adapter, tmp_path / "adapter", "tokenizer_config.json", pad_token=end)
    assert "pads with" in refused(wrong, tmp_path / "out")


def test_eos_of_the_base_is_kept_and_its_pad_is_not_one(adapter, tiny_base, tmp_path):
    from sllm.merge import export

    tokenizer = chat.load_tokenizer(str(adapter))
    others = [7, tokenizer.pad_token_id]  # as Qwen's generation config, which names its pad as an EOS
    base = edited(tiny_base, tmp_path / "base", "generation_config.json", eos_token_id=others, temperature=0.6)
    config = export.generation_config(base, tokenizer)
    assert 7 in config["eos_token_id"]
    assert tokenizer.pad_token_id not in config["eos_token_id"]
    assert config["temperature"] == 0.6
    (base / "generation_config.json").unlink()
    eos = export.generation_config(base, tokenizer)["eos_token_id"]  # now by the model's config
    assert eos == [read(base / "config.json")["eos_token_id"], chat.end_of_turn(tokenizer)[1]]


# ── guarantee 5: merge parity ──────────────────────────────────────────────────────────────────────────────


def scaled(factor: float, only: str = ""):
    """A way to break a plan: the adapter's scale is wrong on the layers whose name has `only` in it."""

    def broken(plan):
        def piece(p):
            if p.delta is None or only not in p.name:
                return p
            return dataclasses.replace(p, delta=dataclasses.replace(p.delta, scale=p.delta.scale * factor))

        return dataclasses.replace(plan, files={name: [piece(p) for p in ps] for name, ps in plan.files.items()})

    return broken


def moved_norm(plan):
    """A way to break a plan: a tensor that the adapter does not touch gets another one's values."""
    files = {name: list(pieces) for name, pieces in plan.files.items()}
    (pieces,) = files.values()
    norms = [i for i, piece in enumerate(pieces) if piece.name.endswith("input_layernorm.weight")]
    pieces[norms[0]] = dataclasses.replace(pieces[norms[0]], source=pieces[norms[1]].source)
    return dataclasses.replace(plan, files=files)


BROKEN = {
    "scale a tenth too large": scaled(1.1),
    "one layer unmerged": scaled(0, "layers.2."),
    "sign": scaled(-1),
    "norm": moved_norm,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_merge_is_noticed(name, adapter, tmp_path, monkeypatch):
    from sllm.merge import merge as module

    right = module.plan
    monkeypatch.setattr(module, "plan", lambda *args: BROKEN[name](right(*args)))
    out = tmp_path / "out"
    with pytest.raises(CheckFailed, match="parity failed") as stop:
        merge(adapter, out)
    assert str(out) in str(stop.value)
    assert "--overwrite" in str(stop.value)
    assert (out / "model.safetensors").exists()
    assert not (out / "run.json").exists()
    monkeypatch.setattr(module, "plan", right)
    merge(adapter, out, "--overwrite")
    assert (out / "run.json").exists()


def test_a_broken_merge_exits_1(adapter, tmp_path):
    code = (
        "import sys, merged_weights; from sllm import cli; from sllm.merge import export, merge\n"
        "write = export.write_config_files\n"
        "def untie(*args, **kwargs):\n"
        "    write(*args, **kwargs)\n"
        "    path = args[0] / 'config.json'\n"
        "    path.write_text(path.read_text().replace('\"rms_norm_eps\": 1e-06', '\"rms_norm_eps\": 0.5'))\n"
        "export.write_config_files = untie\n"
        "cli.run(merged_weights.main, merged_weights.build_parser())\n"
    )
    words = [sys.executable, "-c", code, "--model_id", adapter, "--merged_weights_path", tmp_path / "out"]
    done = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: merge parity failed")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "run.json").exists()


def test_an_adapter_that_rounding_swallows_is_told(tiny_base, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    folder = make_adapter(tiny_base, tmp_path / "adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    small = {name: tensor * (0.005 if "lora_B" in name else 1) for name, tensor in tensors.items()}
    save_file(small, folder / "adapter_model.safetensors")
    merge(folder, tmp_path / "out")
    assert "--dtype float16 keeps more" in capsys.readouterr().out


# ── refusals ───────────────────────────────────────────────────────────────────────────────────────────────


def test_every_problem_is_said_at_once_with_exit_2(adapter, merged, tmp_path):
    lost = edited(adapter, tmp_path / "adapter", "adapter_config.json", base_model_name_or_path="/gone/base")
    done = run_script(
        "merged_weights.py", "--model_id", lost, "--merged_weights_path", merged, "--push_to_hub", "me/model",
        HF_HOME=str(tmp_path / "hf"), HF_TOKEN="",
    )  # fmt: skip
    assert_refused(done, "/gone/base is missing", "--base_model", f"{merged} exists", "no Hugging Face token")
    assert len(done.stderr.splitlines()) == 3


def test_a_disk_too_small(adapter, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=2**20))
    assert "MiB of disk and" in refused(adapter, tmp_path / "out")


def test_a_base_of_another_shape_lists_what_does_not_fit(adapter, tiny_base, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(tiny_base)
    config.num_hidden_layers, config.intermediate_size = 3, 512
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    said = refused(adapter, tmp_path / "out", "--base_model", tmp_path / "base")
    assert "model.layers.0.mlp.up_proj.weight: [512, 256] in base" in said
    assert "[640, 256] in the adapter" in said
    assert "model.layers.3.self_attn.q_proj.weight, which base" in said
    assert "name that one: --base_model" in said


def test_a_config_that_does_not_match_its_weights(adapter, tiny_base, tmp_path):
    base = edited(tiny_base, tmp_path / "base", "config.json", num_hidden_layers=3)
    assert "model.layers.3.mlp.up_proj.weight belongs to no layer" in refused(
        adapter, tmp_path / "out", "--base_model", base
    )


def test_adapters_other_than_plain_lora_are_refused(tiny_base, adapter, tmp_path):
    for number, (setting, said) in enumerate(
        [
            ({"use_dora": True}, "use_dora is on"),
            ({"trainable_token_indices": [5, 6]}, "trainable_token_indices is on"),
            ({"init_lora_weights": "pissa"}, "changed the base's weights"),
        ]
    ):
        folder = make_adapter(tiny_base, tmp_path / f"adapter{number}", **setting)
        assert said in refused(folder, tmp_path / "out")
    other = edited(adapter, tmp_path / "ia3", "adapter_config.json", peft_type="IA3")
    assert "is a IA3 adapter" in refused(other, tmp_path / "out")
    assert "is a full model" in refused(tiny_base, tmp_path / "out")


def test_a_missing_lora_factor_is_refused(adapter, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")
    save_file(tensors, folder / "adapter_model.safetensors")
    assert "layers.0.self_attn.q_proj has only lora_B" in refused(folder, tmp_path / "out")


def test_a_base_in_bits_a_torn_one_and_one_without_its_weights(adapter, tiny_base, tmp_path):
    bits = edited(tiny_base, tmp_path / "bits", "config.json", quantization_config={"load_in_4bit": True})
    assert "is quantised" in refused(adapter, tmp_path / "out", "--base_model", bits)
    torn = edited(tiny_base, tmp_path / "torn", "config.json")
    content = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(content[:-1000])
    assert "is damaged or cut off" in refused(adapter, tmp_path / "out", "--base_model", torn)
    (torn / "model.safetensors").rename(torn / "a.safetensors")
    (torn / "a.safetensors").write_bytes(content)
    weight_map = {"model.norm.weight": "a.safetensors", "lost.weight": "a.safetensors", "gone.weight": "b.safetensors"}
    index = torn / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    assert "b.safetensors is missing" in refused(adapter, tmp_path / "out", "--base_model", torn)
    (torn / "b.safetensors").write_bytes(content)
    assert "is in a.safetensors too" in refused(adapter, tmp_path / "out", "--base_model", torn)


def test_a_tokenizer_that_changed_after_training(adapter, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    probe = chat.probe(chat.load_tokenizer(str(adapter)))
    run = {"stage": "sft", "parents": [], "probe": probe | {"token_ids": [1, *probe["token_ids"]]}}
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    assert "changed after training" in refused(folder, tmp_path / "out")


def test_output_over_what_is_read(adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "stages" / "adapter")
    (tmp_path / "stages" / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="which --overwrite empties, and this run reads it"):
        merge(tmp_path / "stages" / "adapter", tmp_path / "stages", "--overwrite")
    assert (tmp_path / "stages" / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        (1e5, "float16", "does not fit float16; merge with --dtype bfloat16"),
        (float("nan"), "bfloat16", "NaN or infinity"),
    ],
)
def test_a_weight_that_does_not_fit(value, dtype, said, adapter, tiny_base, tmp_path):
    from safetensors.torch import load_file, save_file

    base = edited(tiny_base, tmp_path / "base", "config.json")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    problem = refused(adapter, tmp_path / "out", "--base_model", base, "--dtype", dtype)
    assert "model.layers.1.mlp.up_proj.weight" in problem
    assert said in problem


def test_every_tensor_is_looked_at_for_what_is_not_finite(adapter, tiny_base, tmp_path):
    """One that is copied as it is, and the adapter's own, which are seen before anything is written."""
    import torch
    from safetensors.torch import load_file, save_file

    base = edited(tiny_base, tmp_path / "base", "config.json")
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"][7] = float("inf")
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    said = refused(adapter, tmp_path / "out", "--base_model", base)
    assert "model.norm.weight contains NaN or infinity" in said
    assert "model.safetensors" in said
    diverged = edited(adapter, tmp_path / "adapter", "adapter_config.json")
    tensors = load_file(diverged / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    save_file(tensors | {name: torch.full_like(tensors[name], float("nan"))}, diverged / "adapter_model.safetensors")
    said = refused(diverged, tmp_path / "out")
    assert name in said
    assert "NaN or infinity" in said


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _garbled(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20] + b"\xff{" + path.read_bytes()[22:])


def _of_shards(content: str):
    """A folder of shards with this index."""

    def damage(path: Path) -> None:
        path.write_text(content)
        (path.parent / "model.safetensors").rename(path.parent / "model-00001-of-00001.safetensors")

    return damage


DAMAGE = {
    "adapter cut off": ("adapter", "adapter_model.safetensors", _cut, "is damaged or cut off"),
    "adapter with a garbled header": ("adapter", "adapter_model.safetensors", _garbled, "is damaged or cut off"),
    "adapter of no bytes": ("adapter", "adapter_model.safetensors", lambda path: path.write_bytes(b""), "is damaged"),
    "adapter config": ("adapter", "adapter_config.json", _cut, "adapter_config.json cannot be read"),
    "base config": ("base", "config.json", _cut, "config.json cannot be read"),
    "generation config": ("base", "generation_config.json", _cut, "generation_config.json cannot be read as JSON"),
    "no JSON object": ("base", "config.json", lambda path: path.write_text("[1]"), "JSON object"),
    "index": ("base", "model.safetensors.index.json", _of_shards('{"weight_map'), "cannot be read"),
    "no map": ("base", "model.safetensors.index.json", _of_shards("{}"), "weight_map"),
    "unknown model": ("base", "config.json", lambda path: path.write_text('{"model_type": "lama"}'), "no model can be"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named(name, adapter, tiny_base, tmp_path):
    where, file, damage, said = DAMAGE[name]
    folders = {"adapter": tmp_path / "adapter", "base": tmp_path / "base"}
    shutil.copytree(adapter, folders["adapter"])
    shutil.copytree(tiny_base, folders["base"])
    damage(folders[where] / file)
    problem = refused(folders["adapter"], tmp_path / "out", "--base_model", folders["base"])
    assert (said in problem and file in problem) or name == "unknown model"


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "README.md", "run.json"])
def test_a_disk_that_fills_up_leaves_nothing(file, adapter, tmp_path, monkeypatch):
    import errno
    import io

    class Full(io.FileIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def fileno(self):  # so that shutil copies by write()
            raise io.UnsupportedOperation

    real = io.open

    def fake(path, mode="r", *args, **kwargs):
        if "w" in mode and file in Path(str(path)).name:
            return io.TextIOWrapper(io.BufferedWriter(Full(path, "w"))) if "b" not in mode else Full(path, "w")
        return real(path, mode, *args, **kwargs)

    monkeypatch.setattr(io, "open", fake)
    monkeypatch.setattr("builtins.open", fake)
    said = refused(adapter, tmp_path / "out")
    assert "No space left on device" in said
    assert "--merged_weights_path" in said


def test_ctrl_c_during_a_merge_leaves_nothing(adapter, tmp_path, monkeypatch):
    """A merge has nothing to resume, and half a folder would need --overwrite."""
    from sllm.merge import parity

    def pressed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(parity, "check", pressed)
    with pytest.raises(KeyboardInterrupt):
        merge(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ── elsewhere: the Hub, unsloth ────────────────────────────────────────────────────────────────────────────


def test_push_comes_last_and_private(adapter, tmp_path, monkeypatch):
    import huggingface_hub

    out, calls = tmp_path / "out", []
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    monkeypatch.setattr(huggingface_hub, "create_repo", lambda repo, **kwargs: calls.append((repo, kwargs)) or "url")

    def upload(*, repo_id, folder_path):
        assert (Path(folder_path) / "run.json").exists()
        assert (Path(folder_path) / "README.md").exists()
        calls.append(repo_id)

    monkeypatch.setattr(huggingface_hub, "upload_folder", upload)
    assert merge(adapter, out, "--push_to_hub", "me/model")["url"] == "url"
    assert calls == [("me/model", {"private": True, "exist_ok": True}), "me/model"]

    def fails(**kwargs):
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "upload_folder", fails)
    with pytest.raises(CheckFailed, match="is complete, but the upload failed .no route.*hf upload me/model"):
        merge(adapter, out, "--push_to_hub", "me/model", "--overwrite")
    assert (out / "run.json").exists()


def test_unsloth_merges_in_our_frame(adapter, tiny_base, tmp_path, monkeypatch):
    """unsloth itself needs a GPU; here it is what peft's merge writes, called by our arguments to it."""
    import types

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from sllm.merge import parity
    from sllm.train import backend

    seen = {}

    def load_model(base, *, adapter, **kwargs):
        seen.update(base=base, **kwargs)
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)

    def save_merged(model, folder, tokenizer):
        model.merge_and_unload().to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    stub = types.ModuleType("sllm.train.with_unsloth")
    stub.load_model, stub.save_merged = load_model, save_merged
    monkeypatch.setitem(sys.modules, "sllm.train.with_unsloth", stub)
    monkeypatch.setattr("sllm.train.with_unsloth", stub, raising=False)
    monkeypatch.setattr(backend, "choose", lambda name: backend.Choice("unsloth", "as if there were a GPU"))
    monkeypatch.setattr(backend, "in_own_process", lambda function, *arguments: function(*arguments))
    moved = tmp_path / "moved"
    shutil.copytree(tiny_base, moved)
    asked = ("--backend", "unsloth")
    result = merge(adapter, tmp_path / "out", "--base_model", moved, *asked)
    assert result["backend"] == "unsloth"
    assert Path(seen["base"]).resolve() == moved.resolve()
    assert seen["bits"] == 16
    assert seen["dtype"] == "bfloat16"
    assert seen["train"] is False
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    other = merge(
        adapter, tmp_path / "float16", "--dtype", "float16", *asked
    )  # unsloth would write the base's bfloat16
    assert other["backend"] == "peft"
    assert {str(t.dtype) for t in weights(tmp_path / "float16").values()} == {"torch.float16"}
    monkeypatch.setattr(parity, "RMS_FACTOR", 0)  # the parity check stands behind unsloth's merge too
    with pytest.raises(CheckFailed, match="parity failed"):
        merge(adapter, tmp_path / "out2", *asked)


def test_a_gpu_merges_tensor_by_tensor_too(monkeypatch):
    from sllm.train import backend

    monkeypatch.setattr(backend, "_why_not_unsloth", lambda: None)
    assert backend.choose("auto").name == "unsloth"  # it would train by it
    choice = backend.choose_merge("auto")
    assert choice.name == "peft"
    assert choice.reason.startswith("tensor by tensor, in little memory")
    assert backend.choose_merge("unsloth").name == "unsloth"
