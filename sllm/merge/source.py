"""The adapter and the base that a merge reads: folders, or repositories of the Hub in its cache."""

from argparse import Namespace
from pathlib import Path

from sllm import checkpoint, cli
from sllm.weights.safetensors_io import read_json

HUB_FILES = ["*.json", "*.safetensors", "*.py", "*.model", "*.txt", "*.jinja", "LICENSE*", "NOTICE*", "USE_POLICY*"]


def require_adapter(args: Namespace) -> tuple[str, Path]:
    """(base, adapter folder) of --model_id; an adapter on the Hub is downloaded."""
    if not Path(args.model_id).exists():
        checkpoint.require_model(args.model_id)  # refuses what is not a Hub id either
    folder = local(args.model_id, "adapter")
    if checkpoint.is_adapter(folder):
        read_json(folder / "adapter_config.json")
    base, adapter = checkpoint.require_model(str(folder), base_model=args.base_model)
    if adapter is None:
        raise cli.InputError(f"{folder} is a full model, not an adapter: there is nothing to merge")
    return base, folder


def local(model_id: str, role: str) -> Path:
    """The folder itself, or a Hub repository's files in the cache. `role`: "adapter" or "base"."""
    if Path(model_id).exists():
        return Path(model_id)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model_id, allow_patterns=HUB_FILES))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        flag = "--base_model" if role == "base" else "--model_id"
        raise cli.InputError(
            f"{role} {model_id} is not a folder and cannot be downloaded ({reason}); name it: {flag}"
        ) from None


def require_token(args: Namespace) -> None:
    """--push_to_hub needs a token, and it is better to hear so before the work than after it."""
    if args.push_to_hub:
        from huggingface_hub import get_token

        if not get_token():
            raise cli.InputError("--push_to_hub: no Hugging Face token; run `hf auth login` or set HF_TOKEN")
