"""What the engine has to know of a model and of its adapters before vLLM loads them; read off their files, and off
vLLM's own source, which takes 15 s to import."""

import importlib.util
import json
import re
from functools import cache
from pathlib import Path

from sllm import chat, hashes
from sllm.cli import InputError

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vllm.config.lora.MaxLoRARanks
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}


def context_length(model: str) -> int | None:
    """Tokens that the model has positions for, prompt and answer together; None where its config does not say."""
    return getattr(_text_config(model), "max_position_embeddings", None)


def stop_token_ids(tokenizer, model: str) -> list[int]:
    """Every token that ends an answer of the model."""
    from transformers import GenerationConfig

    try:
        eos = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # no generation_config.json
        eos = getattr(_text_config(model), "eos_token_id", None)
    return chat.stop_token_ids(tokenizer, eos)


def check_adapter(adapter: str, base: str) -> None:
    """InputError for an adapter that vLLM cannot apply unmerged to this base."""
    config = _adapter_config(adapter)
    if not config.get("base_model_name_or_path"):
        raise InputError(f"{adapter}: its adapter_config.json names no base (base_model_name_or_path)")
    kind, rank, modules = config.get("peft_type"), _largest_rank(config), config.get("modules_to_save")
    wrong_shape, architecture = _wrong_shape(adapter, base), no_lora(base)
    problems = [
        f"is a {kind} adapter" if kind != "LORA" else None,
        f"has rank {rank}, above {LORA_RANKS[-1]}" if rank > LORA_RANKS[-1] else None,
        "uses DoRA" if config.get("use_dora") else None,
        f"trains whole modules ({modules})" if modules else None,
        f"has {wrong_shape}" if wrong_shape else None,
        f"is for a {architecture}" if architecture else None,
    ]
    if any(problems):
        text = ", ".join(filter(None, problems))
        raise InputError(f"adapter {adapter} {text}, which vLLM cannot apply; merge it: merged_weights.py")


def _wrong_shape(adapter: str, base: str) -> str | None:
    """The first layer of an adapter that cannot be of this base; vLLM 0.29 loads it, and answers with it."""
    from safetensors import SafetensorError, safe_open

    file, files = Path(adapter) / "adapter_model.safetensors", sorted(Path(base).glob("*.safetensors"))
    if not file.is_file() or not files or getattr(_config(base), "quantization_config", None):
        return None
    try:
        shapes = {name: shape for path in files for name, shape in _shapes(path, safe_open).items()}
        for name, shape in _shapes(file, safe_open).items():
            layer, factor, _ = name.removeprefix("base_model.model.").partition(".lora_")
            weight = shapes.get(f"{layer}.weight")
            width = shape[1] if name.endswith("lora_A.weight") else shape[0]  # A: (rank, in); B: (out, rank)
            if factor and weight and len(shape) == 2 and width not in weight:
                return f"{layer} for {width} features, where {base} has {' × '.join(map(str, weight))}"
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} cannot be read ({error}); copy the adapter again") from None
    return None


def _shapes(file: Path, safe_open) -> dict[str, list[int]]:
    with safe_open(file, "numpy") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118


def no_lora(model: str) -> str | None:
    """The model's architecture where vLLM has it, but no LoRA for it; None where it has, or where its source does not
    tell (vLLM then says so itself, once the weights are loaded)."""
    folder = (vllm_package() or Path()) / "model_executor" / "models"
    for architecture in _architectures(model):
        if class_name := _registered_classes(folder).get(architecture):
            bases = _bases_of_classes(folder)
            return architecture if class_name in bases and not _supports_lora(class_name, bases) else None
    return None


def _architectures(model: str) -> list[str]:
    """What config.json names; nothing for a Hub id, or where the file is not JSON."""
    try:
        return json.loads((Path(model) / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return []


def vllm_package() -> Path | None:
    """The folder of vLLM's source."""
    spec = importlib.util.find_spec("vllm")  # imports nothing
    return Path(spec.origin).parent if spec and spec.origin else None


@cache
def _registered_classes(folder: Path) -> dict[str, str]:
    """Architecture → class, from vLLM's registry, for the classes of modules in its folder of models."""
    file = folder / "registry.py"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return dict(re.findall(r'^\s*"(\w+)":\s*\(\s*"\w+",\s*"(\w+)",?\s*\)', text, re.MULTILINE))


@cache
def _bases_of_classes(folder: Path) -> dict[str, set[str]]:
    """Class → its bases, for all of vLLM's models. Classes whose bases are made by a call are left out."""
    bases: dict[str, set[str]] = {}
    for file in folder.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        for name, listed in re.findall(r"^class (\w+)(?:\(([^()]*)\))?:", text, re.MULTILINE):
            without_comments = re.sub(r"#.*|\[[^\]]*\]", "", listed)
            bases.setdefault(name, set()).update(base.strip() for base in without_comments.split(","))
    return bases


def _supports_lora(class_name: str, bases: dict[str, set[str]]) -> bool:
    ancestors, todo = set(), {class_name}
    while todo:  # by name: those of two modules may refer to each other
        ancestors |= todo
        todo = {base for name in todo for base in bases.get(name, ())} - ancestors
    return "SupportsLoRA" in ancestors


def lora_rank(adapter: str) -> int:
    """The adapter's largest rank, rounded up to one that vLLM has."""
    return min(known for known in LORA_RANKS if known >= _largest_rank(_adapter_config(adapter)))


def kv_bytes_per_token(model: str, dtype: str) -> int | None:
    """Bytes of KV cache that one token takes; None where the config does not say enough."""
    config = _text_config(model)
    try:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * config.num_hidden_layers * heads * width * _DTYPE_BYTES.get(dtype, 2)
    except AttributeError:
        return None


def weight_bytes(model: str, dtype: str) -> int:
    """Bytes of the weights once they are loaded as `dtype`; 0 for a model that is not on disk."""
    stored = sum(path.stat().st_size for path in Path(model).glob("*.safetensors"))
    per_number = {"float32": 4}.get(str(getattr(_text_config(model), "dtype", "")).removeprefix("torch."), 2)
    return stored * _DTYPE_BYTES.get(dtype, 2) // per_number


def _text_config(model: str):
    return _config(model).get_text_config()


def _config(model: str):
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:  # no JSON, or a model_type that transformers has not
        raise InputError(f"{model}: its config.json cannot be used ({str(error).splitlines()[0]})") from None


def _adapter_config(adapter: str) -> dict:
    return hashes.read_json(Path(adapter) / "adapter_config.json")


def _largest_rank(config: dict) -> int:
    """8 is what peft itself takes where a config does not say."""
    return max([config.get("r", 8), *(config.get("rank_pattern") or {}).values()])
