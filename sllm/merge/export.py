"""What a merged folder holds beside its weights: config, generation config and tokenizer."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sllm import chat, cli
from sllm.cli import InputError
from sllm.hashes import TRAINING_TEXTS
from sllm.merge.merge import MergePlan
from sllm.weights.safetensors_io import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = (
    "tokenizer* special_tokens_map.json added_tokens.json vocab.* merges.txt *.model *.tiktoken chat_template*".split()
)
# From the base: a model's own code, and the licences that have to travel with its weights.
BASE_FILES = "*.py LICENSE* NOTICE* USE_POLICY* preprocessor_config.json processor_config.json".split()


def generation_config(base: str | Path, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """The base's generation config, made to stop (guarantee 3): the template's end of turn is an EOS, pad is not.

    Raises:
        InputError: the tokenizer pads with the end of turn or EOS, or with nothing.
    """
    base = Path(base)
    model = read_json(base / "config.json")
    path = base / "generation_config.json"
    config = read_json(path) if path.is_file() else {}
    config.pop("_from_model_config", None)  # it would let transformers write the model's ids over these
    end, pad = chat.end_of_turn(tokenizer)[1], tokenizer.pad_token_id
    stops = chat.stop_token_ids(tokenizer, config.get("eos_token_id", model.get("eos_token_id")))
    needed = {tokenizer.eos_token_id, end}
    # A base may name its pad as one more EOS (Qwen): it stays the pad, and is dropped from the EOS tokens.
    eos = [token for token in (*stops[1:], stops[0]) if token != pad or token in needed]  # the base's own first
    config |= {"eos_token_id": eos[0] if len(eos) == 1 else eos, "pad_token_id": pad}
    if model.get("bos_token_id") is not None:
        config.setdefault("bos_token_id", model["bos_token_id"])
    require_stopping(config, tokenizer)
    return config


def require_stopping(config: dict[str, Any], tokenizer: "PreTrainedTokenizerBase") -> None:
    """Guarantee 3 on a generation config. InputError naming what is wrong with it."""
    text, end = chat.end_of_turn(tokenizer)
    ids = config.get("eos_token_id")
    eos = ids if isinstance(ids, list) else [ids]
    pad = config.get("pad_token_id")
    problems = []
    if end not in eos:
        problems.append(f"generation_config.json: eos_token_id {eos} lacks {end} ({text}), which ends a turn")
    if pad is None:
        problems.append(
            "the tokenizer has no pad token; give it one that is not EOS: pad_token in tokenizer_config.json"
        )
    elif pad in eos:
        problems.append(
            f"the tokenizer pads with {tokenizer.convert_ids_to_tokens(pad)}, which ends a turn: such a model never "
            "stops; train with train_LoRA_SFT.py, which chooses another, or correct pad_token in tokenizer_config.json"
        )
    if problems:
        raise InputError(problems)


def write_config_files(folder: Path, *, base: Path, adapter: Path, generation: dict[str, Any], plan: MergePlan) -> None:
    """Copy the tokenizer and the signature of the training texts from the adapter, and what belongs to the model from
    the base; write both configs."""
    for source, patterns in ((base, BASE_FILES), (adapter, [*TOKENIZER_FILES, TRAINING_TEXTS])):
        for path in (path for pattern in patterns for path in source.glob(pattern) if path.is_file()):
            shutil.copyfile(path, folder / path.name)
    if (adapter / "additional_chat_templates").is_dir():
        shutil.copytree(adapter / "additional_chat_templates", folder / "additional_chat_templates", dirs_exist_ok=True)
    config = read_json(base / "config.json")
    _set_dtype(config, str(plan.dtype).removeprefix("torch."))
    if plan.untied:
        for settings in (config, config.get("text_config") or {}):
            settings["tie_word_embeddings"] = False
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _set_dtype(config: dict[str, Any], dtype: str) -> None:
    """`dtype`, or `torch_dtype` as it was called before transformers 5, here and in nested configs."""
    for value in config.values():
        if isinstance(value, dict) and ("dtype" in value or "torch_dtype" in value):
            _set_dtype(value, dtype)
    for key in [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]:
        config[key] = dtype


# ── the folder as a whole ──────────────────────────────────────────────────────────────────────────────────


@contextmanager
def remove_on_failure(out: Path) -> Iterator[None]:
    """Remove the folder when it cannot be completed: a full disk, a weight that is not finite, Ctrl-C."""
    try:
        yield
    except (InputError, KeyboardInterrupt):
        shutil.rmtree(out, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(out, ignore_errors=True)
        file = f" ({error.filename})" if error.filename else ""
        raise InputError(
            f"{out} cannot be written: {error.strerror or error}{file}; what was written is removed. Free some disk, "
            "or write elsewhere: --merged_weights_path"
        ) from None


def push(folder: Path, repository: str) -> str:
    """Upload the finished folder; a repository that does not exist yet is made private."""
    import huggingface_hub

    try:
        url = huggingface_hub.create_repo(repository, private=True, exist_ok=True)
        huggingface_hub.upload_folder(repo_id=repository, folder_path=folder)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        retry = f"hf upload {repository} {folder}"
        raise cli.CheckFailed(f"{folder} is complete, but the upload failed ({reason}); again: {retry}") from None
    cli.say("uploaded", url)
    return str(url)
