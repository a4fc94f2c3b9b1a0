"""A model or adapter folder of any tool, as the doctor's checks read it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sllm import chat, checkpoint, hashes, hub

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class NotChecked(Exception):
    """The check does not apply, or needs what is not here."""


class Note(Exception):
    """Not what one would make today, and as it is in models that are in use."""


@dataclass
class Folder:
    """`adapter`: does the folder hold one? `base`: the model to load with it."""

    path: Path
    base_model: str | None = None
    adapter: bool = field(init=False)

    def __post_init__(self) -> None:
        self.adapter = checkpoint.is_adapter(self.path)

    @cached_property
    def base(self) -> Path | None:
        if not self.adapter:
            return self.path
        base = self.base_model or hashes.read_json(self.path / "adapter_config.json").get("base_model_name_or_path")
        record = checkpoint.read_run(self.path) or {}
        found = Path(checkpoint.find(self.path, record, base)) if base else None
        return found if found and found.is_dir() else hub.snapshot(base) if base else None

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Of an adapter without one, its base's."""
        files = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
        own = any((self.path / name).is_file() for name in files)
        try:
            return chat.load_tokenizer(str(self.path if own or not self.base else self.base))
        except Exception as error:  # tokenizers raise whatever their JSON leads to
            raise NotChecked(f"its tokenizer cannot be loaded ({str(error).splitlines()[0][:100]})") from None

    @cached_property
    def prompted(self) -> "PreTrainedTokenizerBase":
        if not self.tokenizer.chat_template:
            raise NotChecked("no chat template")
        try:
            chat.render(self.tokenizer, chat.PROBE_MESSAGES[1:], add_generation_prompt=True)
        except Exception:  # the check of the template says it
            raise NotChecked("the chat template cannot render several turns") from None
        return self.tokenizer

    def tensors(self, folder: Path | None = None) -> Iterator[tuple[Path, int, str, dict[str, Any]]]:
        """(file, start of its data, name, header) of every tensor."""
        folder = folder or self.path
        for name in hashes.weight_files(folder):
            if name.endswith(".safetensors") and (folder / name).is_file():
                start, header = hashes.safetensors_header(folder / name)
                for tensor, entry in header.items():
                    yield folder / name, start, tensor, entry

    @cached_property
    def shapes(self) -> dict[str, list[int]]:
        """Of the base's tensors by their names."""
        return {name: entry["shape"] for _, _, name, entry in self.tensors(self.base)} if self.base else {}
