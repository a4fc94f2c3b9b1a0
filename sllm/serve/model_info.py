"""What the engine has to know of a model and of its adapters before vLLM loads them; read off their files, and off
vLLM's own source, which takes 15 s to import."""

import ast
import importlib.util
import json
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


def check_adapter(adapter: str, base: str | None = None) -> None:
    """InputError for an adapter that vLLM cannot apply unmerged.

    Args:
        base: the model that it is for; None: not looked at.
    """
    config = _adapter_config(adapter)
    rank = _largest_rank(config)
    problems = [f"is a {config.get('peft_type')} adapter"] if config.get("peft_type") != "LORA" else []
    problems += [f"has rank {rank}, above {LORA_RANKS[-1]}"] if rank > LORA_RANKS[-1] else []
    if not config.get("base_model_name_or_path"):
        raise InputError(f"{adapter}: its adapter_config.json names no base (base_model_name_or_path)")
    problems += ["uses DoRA"] if config.get("use_dora") else []
    problems += [f"trains whole modules ({config['modules_to_save']})"] if config.get("modules_to_save") else []
    problems += [f"has {wrong}"] if base and (wrong := _wrong_shape(adapter, base)) else []
    without = base and no_lora(base)
    problems += [f"is for a {without}"] if without else []
    if problems:
        raise InputError(
            f"adapter {adapter} {', '.join(problems)}, which vLLM cannot apply; merge it: merged_weights.py"
        )


def _wrong_shape(adapter: str, base: str) -> str | None:
    """The first layer of an adapter that cannot be of this base; vLLM 0.29 loads it, and answers with it."""
    from safetensors import SafetensorError, safe_open

    file, files = Path(adapter) / "adapter_model.safetensors", sorted(Path(base).glob("*.safetensors"))
    if not file.is_file() or not files or getattr(_config(base), "quantization_config", None):
        return None
    try:
        shapes = {name: shape for one in files for name, shape in _shapes(one, safe_open).items()}
        for name, shape in _shapes(file, safe_open).items():
            layer, half, _ = name.removeprefix("base_model.model.").partition(".lora_")
            weight = shapes.get(f"{layer}.weight")
            width = shape[1] if name.endswith("lora_A.weight") else shape[0]  # A: (rank, in); B: (out, rank)
            if half and weight and len(shape) == 2 and width not in weight:
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
    package = _vllm()
    for name in _architectures(model):
        entry = package and _registered(package).get(name)
        if entry:
            place = package / "model_executor" / "models" / entry[0]
            file = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
            return name if file.is_file() and _is_a(file, entry[1], "SupportsLoRA") is False else None
    return None


def _architectures(model: str) -> list[str]:
    """What config.json names; nothing for a Hub id, or where the file is not JSON."""
    try:
        return json.loads((Path(model) / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return []


def _vllm() -> Path | None:
    spec = importlib.util.find_spec("vllm")  # imports nothing
    return Path(spec.origin).parent if spec and spec.origin else None


@cache
def _registered(package: Path) -> dict[str, tuple[str, str]]:
    """Architecture → (module, class), from the tables of vLLM's registry."""
    tree = ast.parse((package / "model_executor" / "models" / "registry.py").read_text(encoding="utf-8"))
    registered = {}
    for table in (node for node in ast.walk(tree) if isinstance(node, ast.Dict)):
        for key, value in zip(table.keys, table.values, strict=True):
            texts = [part.value for part in value.elts if isinstance(part, ast.Constant)] if _is_pair(value) else []
            if isinstance(key, ast.Constant) and len(texts) == 2:
                registered.setdefault(key.value, tuple(texts))
    return registered


def _is_pair(value: ast.expr) -> bool:
    return isinstance(value, ast.Tuple) and len(value.elts) == 2


def _is_a(file: Path, name: str, wanted: str) -> bool | None:
    """Does the class `name` of a file of vLLM's models descend from `wanted`? None where a base cannot be followed."""
    tree = _parsed(file)
    made = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if made is None:  # imported from another file
        for node in (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)):
            given = next((alias.name for alias in node.names if (alias.asname or alias.name) == name), None)
            module = (node.module or "").removeprefix("vllm.model_executor.models.")
            if given and (node.level or module != node.module):
                folder = file.parent if node.level == 1 else _vllm() / "model_executor" / "models"
                place = folder / module.replace(".", "/")
                other = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
                return _is_a(other, given, wanted) if other.is_file() else None
            if given:
                return False  # a class of torch or of vLLM's other parts
        return None
    verdict: bool | None = False
    for base in made.bases:
        text = ast.unparse(base).partition("[")[0]
        if text == wanted:
            return True
        one = False if "." in text or text in ("object", "Protocol") else _is_a(file, text, wanted)
        if one:
            return True
        verdict = None if one is None else verdict
    return verdict


@cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


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
    stored = sum(path.stat().st_size for path in Path(model).glob("*.safetensors")) if Path(model).is_dir() else 0
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
