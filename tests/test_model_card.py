"""The model card of every kind of adapter: what it says of where the model comes from."""

import json
from pathlib import Path

import pytest
import yaml

from sllm import chat, checkpoint, model_card

ADAPTER_FLAGS = {"output_dir": "out", "lora_r": 8, "learning_rate": 1e-4, "seed": 42}


def adapter(folder: Path, stage: str | None = None) -> Path:
    """An adapter, from elsewhere or of a stage of ours, whose config names no base, as with --base_model."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": None}))
    if stage:
        (folder / "run.json").write_text(json.dumps(record(folder, stage, "org/base", "org/base")))
    return folder


def record(folder: Path, stage: str, parent: object, base: str) -> dict:
    return {
        "stage": stage, "folder": str(folder), "base_model": base, "parents": [{"path": str(parent), "stage": None}],
        "arguments": ADAPTER_FLAGS, "data": {}, "metrics": {"loss": 1.5},
    }  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize(
    ("stage", "kind", "lineage"),
    [
        ("sft", "hub", ["org/base (model)", "out (sft)"]),
        ("dpo", "full model", ["tuned (model)", "out (dpo)"]),
        ("dpo", "foreign adapter", ["org/base (model)", "foreign (adapter)", "out (dpo)"]),
        ("dpo", "our adapter", ["org/base (model)", "ours (sft)", "out (dpo)"]),
        ("dpo", "removed adapter", ["removed (sft)", "out (dpo)"]),
    ],
)
def test_the_lineage_of_an_adapter(tiny_base, tmp_path, stage, kind, lineage):
    (tmp_path / "tuned").mkdir()
    parents = {
        "hub": "org/base", "full model": tmp_path / "tuned", "foreign adapter": adapter(tmp_path / "foreign"),
        "our adapter": adapter(tmp_path / "ours", "sft"), "removed adapter": tmp_path / "removed",
    }  # fmt: skip
    base = str(parents[kind]) if kind in ("hub", "full model") else "org/base"
    made = record(tmp_path / "out", stage, parents[kind], base)
    if kind == "removed adapter":
        made["parents"][0]["stage"] = "sft"
    tokenizer = chat.load_tokenizer(str(tiny_base))
    chat.set_chat_template(tokenizer)
    text = model_card.of_adapter(made, tokenizer)
    front = yaml.safe_load(text.split("---")[1])
    assert front["base_model"] == model_card.display_name(base)
    assert front["base_model_relation"] == "adapter"
    assert stage in front["tags"]
    lines = [line for line in text.splitlines() if line.startswith(tuple("123")) and "**" in line]
    assert lines == [f"{i}. **{name.replace(' (', '** (')}" for i, name in enumerate(lineage, 1)]
    assert text.count("`lora_r` 8") == 1  # where it was chosen
    assert "`learning_rate` 0.0001" in text
    assert str(tmp_path) not in text


def test_a_card_that_cannot_be_made_leaves_no_run_json(tmp_path):
    def card(record: dict) -> str:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        checkpoint.write_run(tmp_path, "sft", None, card=card)
    assert not (tmp_path / "run.json").exists()
