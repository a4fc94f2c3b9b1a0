"""The doctor's checks of weights; see `sllm.evaluate.doctor`."""

import re
from pathlib import Path
from typing import Any

from sllm import cli, finite, hashes
from sllm.cli import InputError
from sllm.evaluate.model_folder import Folder, NotChecked, Note

_EMBEDDING = re.compile(r"\b(?:embed_tokens|wte|embed_in|word_embeddings)\b.*(?<!lora_A)(?<!lora_B)\.weight$")
_QUANTISED_DTYPES = {"U8", "I8", "F8_E4M3", "F8_E5M2", "I32"}
_QUANTISED_NAMES = re.compile(r"\.(?:absmax|quant_map|quant_state\S*|SCB|qweight|qzeros|g_idx|weight_scale\S*)$")


def finite_weights(folder: Folder) -> str:
    if problems := finite.problems(folder.path):
        raise InputError(problems)
    count = sum(1 for _ in folder.tensors())
    if not count:
        raise NotChecked("no safetensors file; convert older formats with save_pretrained")
    return f"{count} tensors, none with NaN or infinity"


def vocabulary(folder: Folder) -> str:
    own = {name: entry["shape"] for _, _, name, entry in folder.tensors()} if folder.adapter else {}
    shapes = folder.shapes | own
    rows = [shape[0] for name, shape in shapes.items() if _EMBEDDING.search(name) and len(shape) == 2]
    if not rows:
        raise NotChecked("no embedding was found; the base is not here, or names it otherwise")
    tokens = folder.tokenizer.get_vocab()
    largest = max(tokens.values()) + 1
    added = folder.tokenizer.added_tokens_decoder
    beyond = [token for token, id in tokens.items() if id >= max(rows)]
    if beyond and all(tokens[token] in added and added[tokens[token]].special for token in beyond):
        raise Note(f"{', '.join(beyond[:3])} have no row of the embedding ({max(rows)} rows); no prompt may use them")
    if beyond:
        raise InputError(
            f"the tokenizer has {largest} tokens, the embedding {max(rows)} rows: the last tokens have no vector; "
            "resize the model with its tokenizer (resize_token_embeddings), or take the tokenizer it was trained with"
        )
    return f"{largest} tokens, {max(rows)} rows of the embedding"


def adapter_shapes(folder: Folder) -> str:
    if not folder.adapter:
        raise NotChecked("no adapter")
    if not folder.shapes:
        raise NotChecked("its base is not here, or has no safetensors; name it: --base_model")
    if hashes.read_json((folder.base or folder.path) / "config.json").get("quantization_config"):
        raise NotChecked("its base is quantised")
    transposed = bool(hashes.read_json(folder.path / "adapter_config.json").get("fan_in_fan_out"))
    problems, unknown, fit = [], [], 0
    for _, _, name, entry in folder.tensors():
        layer, factor, _ = name.removeprefix("base_model.model.").partition(".lora_")
        if not factor or ".lora_embedding" in name or len(entry["shape"]) != 2:
            continue
        weight = folder.shapes.get(f"{layer}.weight")
        if weight is None:
            unknown.append(layer)
            continue
        is_first = ".lora_A" in name  # A: (rank, in); B: (out, rank); a weight is (out, in)
        width, needed = (entry["shape"][1], weight[-1]) if is_first else (entry["shape"][0], weight[0])
        if transposed:
            needed = weight[0] if is_first else weight[-1]
        if width == needed:
            fit += 1
        else:
            problems.append(f"{name} is made for {width} features, {layer} of the base has {needed}")
    if problems:
        raise InputError([*cli.shorten(problems, 3), "it was trained on another base; name that one: --base_model"])
    if not fit:
        raise NotChecked("the base stores its layers under other names")
    missing = sorted({layer for layer in unknown if "lm_head" not in layer})
    if missing:
        raise InputError(f"the base has no {missing[0]} (and {len(missing) - 1} more); was it trained on another base?")
    return f"{fit} LoRA matrices fit their layers"


def learned(folder: Folder) -> str:
    if not folder.adapter:
        raise NotChecked("no adapter")
    second = [t for t in folder.tensors() if ".lora_B" in t[2] or ".lora_embedding_A" in t[2]]  # zero at the start
    if not second:
        raise NotChecked("no LoRA matrices in safetensors")
    untouched = [tensor[2] for tensor in second if _is_zero(*tensor)]
    if len(untouched) == len(second):
        raise InputError(
            "every LoRA B matrix is zero: the adapter never learned anything; look at its learning rate, and whether "
            "its layers were among the optimizer's parameters"
        )
    if untouched and all(re.search(r"vision|visual|audio|expert", name) for name in untouched):
        raise Note(
            f"{len(untouched)} of {len(second)} LoRA B matrices are zero, all of parts that no row may have used"
        )
    if untouched:
        raise InputError(
            f"{len(untouched)} of {len(second)} LoRA B matrices are zero, {untouched[0]} the first: these layers never "
            "learned; leave them out of target_modules, or find out why they got no gradient"
        )
    return f"none of {len(second)} LoRA B matrices is zero"


def _is_zero(file: Path, start: int, name: str, entry: dict[str, Any]) -> bool:
    import numpy as np

    first, last = entry["data_offsets"]
    with open(file, "rb") as stream:
        stream.seek(start + first)
        content = np.frombuffer(stream.read(last - first), dtype=np.uint8)
    width = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}.get(entry["dtype"], 1)
    signs = content[width - 1 :: width] & 0x7F  # the highest byte: -0.0 is zero too
    return not (signs.any() or (content.reshape(-1, width)[:, : width - 1]).any())


def quantisation(folder: Folder) -> str:
    if folder.adapter:
        raise NotChecked("an adapter")
    configured = hashes.read_json(folder.path / "config.json").get("quantization_config")
    tensors = list(folder.tensors())
    if not tensors:
        raise NotChecked("no safetensors file")
    left = [
        name
        for _, _, name, entry in tensors
        if _QUANTISED_NAMES.search(name)
        or (entry["dtype"] in _QUANTISED_DTYPES and len(entry["shape"]) == 2 and name.endswith(".weight"))
    ]
    if configured and not left:
        raise InputError(
            "config.json has a quantization_config, but the weights are not quantised: loaders would read them "
            "wrongly; remove it"
        )
    if left and not configured:
        raise InputError(
            f"{left[0]} is left of a quantised model, and config.json has no quantization_config; merge into the "
            "16-bit base instead"
        )
    return f"quantised ({configured.get('quant_method')})" if configured else "none left"
