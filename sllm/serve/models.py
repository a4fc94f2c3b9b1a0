"""The models that this server answers for: the one that is loaded and its LoRA adapters, which may come and go."""

import asyncio
import gc
import time
from concurrent.futures import ThreadPoolExecutor

from sllm import chat, checkpoint
from sllm.cli import InputError
from sllm.serve import engine, model_info
from sllm.serve.access_log import log
from sllm.serve.errors import ApiError, engine_dead
from sllm.serve.served_model import ServedModel, check_adapter, check_vocabulary, read_model

SAMPLING_DEFAULTS = {"n": 1, "seed": None, "min_tokens": 0, "stop": None, "ignore_eos": False}  # not set by flags
RETIRE_SECONDS = 0.1


class Models:
    """The served models, by name.

    Args:
        served: the first is what a request without a name gets.
        defaults: request defaults from the flags: every sampling parameter, and max_tokens.
        context: tokens of prompt and answer together.
        max_loras, max_lora_rank: what the engine has room for.
        chat_template: of adapters to come; see `chat.set_chat_template`.
    """

    def __init__(
        self, base: str, served: list[ServedModel], *, defaults: dict, context: int, max_loras: int, max_lora_rank: int,
        chat_template: str, parsers: dict,
    ):  # fmt: skip
        self.base, self.defaults, self.context, self.parsers = base, defaults, context, parsers
        self.max_loras, self.max_lora_rank, self.chat_template = max_loras, max_lora_rank, chat_template
        self._sampling = {name: value for name, value in defaults.items() if name != "max_tokens"} | SAMPLING_DEFAULTS
        self.by_name = {model.name: model for model in served}
        self.first = served[0]
        self.started = int(time.time())
        self._llm, self._number = None, 0
        self._lock = asyncio.Lock()
        self._retiring: dict[asyncio.Task, ServedModel] = {}

    def find(self, name: str | None, missing=None) -> ServedModel:
        """The model of a request; ApiError (404), or `missing`, where there is none."""
        if not name:
            return self.first
        if name in self.by_name:
            return self.by_name[name]
        if missing:
            raise missing
        message = f"The model `{name[:200]}` does not exist. Available: {', '.join(self.by_name)}"
        raise ApiError(404, message, param="model", code="model_not_found")

    def use(self, name: str | None, record) -> ServedModel:
        """`find` and `hold`."""
        served = self.find(name)
        self.hold(served, record)
        return served

    def hold(self, served: ServedModel, record) -> None:
        """Count a request as one that uses this model, until its record is released."""
        if not any(model is served for model in record.models):
            served.users += 1
            record.models.append(served)

    def settings(self, request) -> dict:
        """Effective sampling parameters of a plain request: its own, else the flags'."""
        requested = {name: getattr(request, name) for name in self._sampling}
        return self._sampling | {name: value for name, value in requested.items() if value is not None}

    def cards(self) -> list[dict]:
        return [self.card(served) for served in self.by_name.values()]

    def card(self, served: ServedModel) -> dict:
        return {
            "id": served.name,
            "object": "model",
            "created": self.started,
            "owned_by": "local",
            "root": served.name,
            "parent": served.parent,
            "kind": served.kind,
            "chat_template_sha256": chat.template_hash(served.tokenizer),
            "max_model_len": self.context,
        }

    # ── adapters ──

    async def connect(self, llm) -> None:
        """The engine is there: load the adapters into it, and make each model's client and handlers."""
        self._llm = llm
        for served in self.by_name.values():
            await self._connect(served)

    async def _connect(self, served: ServedModel) -> None:
        if served.adapter:
            # vLLM finds cached prefixes by an adapter's name: a new version needs a new one
            self._number += 1
            served.lora = engine.lora_request(served.adapter, f"{served.name}@{self._number}", self._number)
            await self._llm.add_lora(served.lora)
        try:
            await asyncio.to_thread(self._build, served)  # may copy tokenizers for a second or two
        except Exception:
            if served.lora:
                await self._llm.remove_lora(served.lora.lora_int_id)
            raise

    def _build(self, served: ServedModel) -> None:
        from sllm.serve.engine_client import EngineClient
        from sllm.serve.handlers import handlers

        equal = (model for model in self.by_name.values() if model.client and model.tokenizer is served.tokenizer)
        twin = next(equal, None)
        served.client = EngineClient(self._llm, served, renderer=twin.client.renderer if twin else None)
        served.handlers = handlers(served, path=self.base, defaults=self.defaults, parsers=self.parsers)

    async def load(self, name: str, folder: str, *, replace: bool) -> ServedModel:
        """Load an adapter, or a new version of one. Requests that run keep the version that they began with. ApiError:
        (400) the adapter does not fit, with every reason; (404) there is none; (409) the name is taken."""
        from vllm.v1.engine.exceptions import EngineDeadError

        async with self._lock:
            before = self.by_name.get(name)
            if before is not None and (not replace or before.adapter is None):
                raise ApiError(409, f"{name} is served already; load_inplace replaces an adapter", param="lora_name")
            adapters = [model for model in self.by_name.values() if model.adapter]
            if before is None and len(adapters) >= self.max_loras:
                raise ApiError(400, f"this server has room for {self.max_loras} adapters (--max_loras)")
            if not checkpoint.is_adapter(folder):
                raise ApiError(404, f"{folder} has no adapter_config.json", param="lora_path", code="adapter_not_found")
            while len(self._retiring) >= engine.RETIRING_ADAPTERS:  # the engine has room for no more versions
                await asyncio.wait(self._retiring, return_when=asyncio.FIRST_COMPLETED)
            try:
                served = await _in_new_thread(self._read, name, folder)
                await self._connect(served)
            except EngineDeadError:
                raise engine_dead() from None
            except InputError as error:
                raise ApiError(400, "; ".join(error.problems), param="lora_path", code="adapter_refused") from None
            except Exception as error:  # vLLM's own refusal comes from another process, as whatever it was there
                reason = str(error).splitlines()[0][:300]
                raise ApiError(400, f"vLLM cannot load {folder}: {reason}", param="lora_path") from None
            self.by_name[name] = served
            self.first = served if self.first is before else self.first
            if before:
                self._retire(before)
            log.info("adapter loaded", extra={"fields": {"model": name, "folder": folder}})
            return served

    async def unload(self, name: str) -> None:
        async with self._lock:
            served = self.by_name.get(name)
            if served is None or served.adapter is None:
                raise ApiError(404, f"adapter {name} is not loaded", param="lora_name", code="adapter_not_found")
            if served is self.first:
                raise ApiError(400, f"{name} is what requests without a model get; it can only be replaced")
            del self.by_name[name]
            self._retire(served)
            log.info("adapter unloaded", extra={"fields": {"model": name}})

    def _retire(self, served: ServedModel) -> None:
        async def when_unused() -> None:
            while served.users:
                await asyncio.sleep(RETIRE_SECONDS)
            await self._llm.remove_lora(served.lora.lora_int_id)
            renderer = served.client.renderer
            served.client = served.handlers = None
            others = [*self.by_name.values(), *self._retiring.values()]
            if not any(other.client and other.client.renderer is renderer for other in others):
                renderer.shutdown()
            gc.collect()  # its tokenizers refer to each other: they would stay until Python looks at old objects again

        task = asyncio.create_task(when_unused())
        self._retiring[task] = served
        task.add_done_callback(self._retiring.pop)

    def _read(self, name: str, folder: str) -> ServedModel:
        checkpoint.require_model(folder, base_model=self.base)
        check_adapter(folder, self.base)
        if model_info.lora_rank(folder) > self.max_lora_rank:
            raise InputError(f"adapter {folder} has a rank above {self.max_lora_rank} (--max_lora_rank)")
        base = next(model for model in self.by_name.values() if model.adapter is None)
        served = read_model(name, folder, self.base, self.chat_template, parent=base.name)
        check_vocabulary(served, base, self.base)
        served.share_tokenizer(self.by_name.values())
        return served


async def _in_new_thread(function, *args):
    """Run it in a thread that ends, and with it what tokenizers keep of what they read; see `share_tokenizer`."""
    thread = ThreadPoolExecutor(1)
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, function, *args)
    finally:
        thread.shutdown(wait=False)
