"""A model or adapter that is served: its own tokenizer and chat template, checked as it is read."""

import hashlib
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from sllm import chat, checkpoint, cli
from sllm.cli import InputError
from sllm.serve import logprobs, model_info

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import SimpleNamespace

    from transformers import PreTrainedTokenizerBase
    from vllm.lora.request import LoRARequest

    from sllm.serve.engine_client import EngineClient


@dataclass
class ServedModel:
    """What one name of /v1/models stands for."""

    name: str
    kind: str
    adapter: str | None  # the LoRA folder on the model that is loaded
    tokenizer: "PreTrainedTokenizerBase"
    stop_token_ids: list[int]
    chat_template: str
    parent: str | None = None
    lora: "LoRARequest | None" = None
    client: "EngineClient | None" = None
    handlers: "SimpleNamespace | None" = None
    users: int = 0  # requests that use it now

    def __post_init__(self):
        self.tokenizer_contents = _contents(self.tokenizer)
        self.vocabulary = logprobs.Vocabulary(self.tokenizer)

    def share_tokenizer(self, others: "Iterable[ServedModel]") -> None:
        """Take the tokenizer of another model that has an equal one. Each takes memory, and tokenizers 0.23 keeps what
        a thread tokenized until the thread ends, also when the tokenizer is long gone."""
        for other in others:
            if other.tokenizer_contents == self.tokenizer_contents:
                self.tokenizer, self.vocabulary = other.tokenizer, other.vocabulary
                return

    @cached_property
    def grammar_vocabulary(self):
        """llguidance's view of the tokenizer."""
        from llguidance import hf

        return hf.from_tokenizer(self.tokenizer, len(self.tokenizer))


def of_command_line(args) -> tuple[str, dict[str, str]]:
    """(base, {name: adapter folder}) of --model_id and --lora_modules; InputError with all that is wrong with them."""
    (base, adapter), modules = cli.collect_errors(
        lambda: checkpoint.require_model(args.model_id), lambda: _lora_modules(args.lora_modules)
    )
    of_model_id = {args.served_model_name or Path(adapter).resolve().name: adapter} if adapter else {}
    problems = [f"--lora_modules has {name} twice" for name in modules if name in of_model_id]
    adapters = of_model_id | modules
    if args.max_loras and args.max_loras < len(adapters):
        problems.append(f"--max_loras {args.max_loras} is less than the {len(adapters)} adapters to serve")
    if problems:
        raise InputError(problems)
    cli.collect_errors(
        *(partial(checkpoint.require_model, folder, base_model=base) for folder in modules.values()),
        *(partial(check_adapter, folder, base) for folder in adapters.values()),
    )
    return base, adapters


def _lora_modules(pairs: list[str]) -> dict[str, str]:
    modules: dict[str, str] = {}
    problems = []
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not equals or not name or not checkpoint.is_adapter(folder):
            problems.append(f"--lora_modules {pair} is not NAME=FOLDER with an adapter in it (adapter_config.json)")
        elif name in modules:
            problems.append(f"--lora_modules has {name} twice")
        else:
            modules[name] = folder
    if problems:
        raise InputError(problems)
    return modules


def check_adapter(folder: str, base: str) -> None:
    """InputError for an adapter that vLLM cannot apply to this base, or that was trained on another one."""
    model_info.check_adapter(folder, base)
    checkpoint.require_base(folder, base)


def _contents(tokenizer) -> str:
    """Hash of what decides which ids a tokenizer makes of a text, and which text of ids. Called while it is new."""
    tokenizer.backend_tokenizer.no_truncation()  # each call sets its own
    tokenizer.backend_tokenizer.no_padding()
    settings = [
        tokenizer.chat_template, tokenizer.special_tokens_map, tokenizer.split_special_tokens, tokenizer.padding_side,
        tokenizer.truncation_side, tokenizer.clean_up_tokenization_spaces,
    ]  # fmt: skip
    digest = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
    digest.update(repr(settings).encode())
    return digest.hexdigest()


def check_vocabulary(served: ServedModel, base: ServedModel, path: str) -> None:
    if served.tokenizer.get_vocab() != base.tokenizer.get_vocab():
        raise InputError(f"adapter {served.adapter} has another vocabulary than {path}: it is of another base")


def read_model(name: str, folder: str, base: str, template: str, *, parent: str | None) -> ServedModel:
    """A model with the tokenizer and template of its own folder, whose prompt probe is checked."""
    tokenizer = chat.load_tokenizer(folder)
    chosen = chat.set_chat_template(tokenizer, template)
    record = checkpoint.read_run(folder)
    chat.check_probe(tokenizer, record, folder)
    kind = record["stage"] if record else "adapter" if parent else "model"
    stops = model_info.stop_token_ids(tokenizer, base)
    return ServedModel(name, kind, folder if parent else None, tokenizer, stops, chosen, parent)


def read_models(
    model_id: str, base: str, adapters: dict[str, str], *, name: str | None, template: str
) -> list[ServedModel]:
    """Every model of the command line; the one that --model_id names comes first."""
    folder_name = Path(base).resolve().name if Path(base).exists() else base
    base_name = folder_name if checkpoint.is_adapter(model_id) else name or folder_name
    if base_name in adapters:
        raise InputError(f"the model and an adapter are both called {base_name}; choose --served_model_name")
    served = cli.collect_errors(
        partial(read_model, base_name, base, base, template, parent=None),
        *(partial(read_model, name, folder, base, template, parent=base_name) for name, folder in adapters.items()),
    )
    for number, other in enumerate(served[1:], 1):
        check_vocabulary(other, served[0], base)
        other.share_tokenizer(served[:number])
    return [*served[1:], served[0]] if checkpoint.is_adapter(model_id) else served
