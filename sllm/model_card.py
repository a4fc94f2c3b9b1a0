"""The README.md of a model that others will read: what it was trained from, on what and how."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sllm import chat, checkpoint, retention

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CARD = Path(__file__).resolve().parent.parent / "templates" / "model_card.md.jinja"
_HYPERPARAMETERS = (
    "learning_rate train_epochs max_steps batch_size gradient_accum_steps lr_scheduler_type warmup_ratio weight_decay "
    "max_grad_norm max_seq_length lora_r lora_alpha lora_dropout use_rslora lora_target_modules packing "
    "train_on_inputs bits beta loss_type label_smoothing seed backend".split()
)


def of_adapter(record: dict[str, Any], tokenizer: "PreTrainedTokenizerBase") -> str:
    """The card of an adapter that was just trained, from its record (run.json) and its parents'."""
    out = Path(record["folder"])
    return card(
        name=out.name, model=record["arguments"]["output_dir"], base_model=record["base_model"],
        stages=_stages(out, record), tokenizer=tokenizer, merged=None,
    )  # fmt: skip


def card(
    *,
    name: str,
    model: str,
    base_model: str,
    stages: list[dict[str, Any]],
    tokenizer: "PreTrainedTokenizerBase",
    merged: dict[str, Any] | None,
) -> str:
    """The text of a model card, from templates/model_card.md.jinja.

    Args:
        name: its title.
        model: the folder or Hub id that its commands load.
        stages: `lineage` of what it was made from.
        merged: of a merged model its parameters, dtype, parity (`sllm.merge.parity.Parity`) and scores
            (`sllm.gate_record.require`); None for an adapter.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, autoescape=False)
    environment.filters |= {"value": _value, "change": retention.change}
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    text: str = environment.from_string(CARD.read_text(encoding="utf-8")).render(
        name=name, model=model, base_model=display_name(base_model), stages=stages, merged=merged,
        chat_template_hash=chat.template_hash(tokenizer), end_of_turn=chat.end_of_turn(tokenizer)[0],
        versions=checkpoint.versions(),
    )  # fmt: skip
    return text.rstrip() + "\n"


def lineage(folder: str | Path, base: str | None = None) -> list[dict[str, Any]]:
    """The stages that led to `folder`, oldest first, each from its run.json; a folder without one ends the chain.

    Args:
        base: what an adapter without run.json was loaded on.
    """
    record = checkpoint.read_run(folder)
    if record is not None:
        return _stages(folder, record)
    if not checkpoint.is_adapter(folder):
        return [_unrecorded(folder, "model")]
    return [*([_unrecorded(base, "model")] if base else []), _unrecorded(folder, "adapter")]


def _stages(folder: str | Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    chain: list[dict[str, Any]] = []
    for parent in record["parents"]:
        path = checkpoint.find(folder, record, parent["path"])
        removed = parent.get("stage") and not Path(path).exists()
        chain += [_unrecorded(path, parent["stage"])] if removed else lineage(path, record.get("base_model"))
    # The LoRA is that of an earlier stage, which shows its hyperparameters.
    continued = any(stage["stage"] in ("sft", "dpo") and stage["arguments"] for stage in chain)
    names = [name for name in _HYPERPARAMETERS if not (continued and "lora" in name)]
    arguments = {name: record["arguments"].get(name) for name in names}
    arguments = {name: value for name, value in arguments.items() if value not in (None, False, -1)}
    data = {name: entry for name, entry in (record["data"] or {}).items() if isinstance(entry, dict)}
    sources = [{**source, "name": Path(source["path"]).name} for source in (record["data"] or {}).get("sources") or []]
    entry = {**record, "name": display_name(folder), "arguments": arguments, "data": data, "sources": sources}
    return [*chain, entry]


def _unrecorded(folder: str | Path, stage: str) -> dict[str, Any]:
    return {"name": display_name(folder), "stage": stage, "arguments": {}, "data": {}, "sources": [], "metrics": {}}


def display_name(model: str | Path) -> str:
    """A Hub id as it is; of a local folder the name alone, for a card that others read."""
    return Path(model).resolve().name if Path(model).exists() or Path(model).is_absolute() else str(model)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
