"""What the server is made of between HTTP and the engine: the models, the state, and how a request becomes a `Job`,
prompts as token ids and how to answer them, and a job the engine's output. `reply.Reply` answers it.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field

from sllm import chat
from sllm.cli import InputError
from sllm.serve import limits, online, wire
from sllm.serve.errors import ApiError, too_busy

LONG_TEXT = 20_000  # characters; longer prompts are tokenized in a thread, so that streams go on meanwhile
MOST_LONG = 64  # of them that wait for the thread
# vLLM's SamplingParams that a request may set; what it leaves out comes from the flags, or is vLLM's neutral value.
NEUTRAL = {
    "n": 1, "seed": None, "min_tokens": 0, "stop": None, "stop_token_ids": None, "ignore_eos": False,
    "include_stop_str_in_output": False, "logit_bias": None,
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """What one name of /v1/models stands for. `adapter`: the LoRA folder on the model that is loaded, or None."""

    name: str
    kind: str
    adapter: str | None
    tokenizer: object
    stop_token_ids: list[int]
    chat_template: str
    parent: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "vocabulary", wire.Vocabulary(self.tokenizer))


@dataclass
class Job:
    """One request for text. `prompts`: token ids; answer i to prompt p is choice p·n + i."""

    chat: bool
    id: str
    model: Model
    prompts: list[list[int]]
    params: object  # vllm.SamplingParams
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    top_logprobs: int | None = None
    token_ids: bool = False
    open_ended: bool = False  # no max_tokens was asked for: each prompt has what the flag and the context leave
    task: str | None = None
    messages: list[dict] | None = None
    fields: dict = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time.time()))


class Service:
    """The models and the engine that answers for them.

    Args:
        models: the first is what a request without a name gets.
        defaults: what the flags set: every sampling parameter that a request may leave out, and max_tokens.
        context: tokens of prompt and answer together.
    """

    def __init__(self, models: list[Model], *, defaults: dict, context: int, seats: limits.Seats, timeout: float):
        self.models = {model.name: model for model in models}
        self.first = models[0]
        self.defaults, self.context, self.seats, self.timeout = defaults, context, seats, timeout
        self.started = int(time.time())
        self.state = "loading"
        self.llm = None
        self.adapters: dict = {}
        self.running: set[asyncio.Task] = set()
        self._thread, self._long = ThreadPoolExecutor(1, "tokenize"), 0
        self._copies = {model.name: deepcopy(model.tokenizer) for model in models}  # a tokenizer serves one thread

    # ── a request becomes a job ──

    def model(self, name: str | None) -> Model:
        if name is None:
            return self.first
        if name not in self.models:
            raise ApiError(
                404,
                f"model {name!r} does not exist; this server has {', '.join(self.models)}",
                param="model",
                code="model_not_found",
            )
        return self.models[name]

    async def prompt_ids(self, model: Model, messages: list[dict]) -> list[int]:
        """The rendering of training: guarantee 1."""
        messages = [
            {"role": "system" if m["role"] == "developer" else m["role"], "content": m["content"]} for m in messages
        ]

        def render(tokenizer):
            try:
                chat.refuse_special_tokens(tokenizer, messages)
                return chat.prompt_ids(tokenizer, messages)
            except (InputError, ValueError) as error:
                raise ApiError(400, str(error), param="messages") from None

        return await self._tokenize(model, render, sum(len(m["content"]) for m in messages))

    async def text_ids(self, model: Model, texts: list[str]) -> list[list[int]]:
        """Plain texts, with BOS in front where the model was trained so."""
        return await self._tokenize(
            model, lambda tokenizer: [tokenizer(text)["input_ids"] for text in texts], sum(map(len, texts))
        )

    async def _tokenize(self, model: Model, function, characters: int):
        if characters <= LONG_TEXT:
            return function(model.tokenizer)
        if self._long >= MOST_LONG:
            raise too_busy(5)
        self._long += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, self._copies[model.name])
        finally:
            self._long -= 1

    def job(self, request, prompts: list[list[int]], model: Model, **job) -> Job:
        """Everything that can be wrong with a request is said here, before the engine hears of it."""
        longest = max(len(ids) for ids in prompts)
        if not all(prompts):
            raise ApiError(400, "a prompt has no tokens", param="prompt")
        if longest >= self.context:
            raise ApiError(
                400,
                f"the prompt has {longest:,} tokens and the context {self.context:,}, prompt and answer together; "
                "shorten the prompt",
                param="messages" if job["chat"] else "prompt",
                code="context_length_exceeded",
            )
        if request.max_tokens and longest + request.max_tokens > self.context:
            raise ApiError(
                400,
                f"max_tokens {request.max_tokens:,} and a prompt of {longest:,} tokens do not fit the context of "
                f"{self.context:,}; ask for at most {self.context - longest:,}",
                param="max_tokens",
                code="context_length_exceeded",
            )
        vocabulary = len(model.tokenizer)
        for ids in prompts:
            if max(ids) >= vocabulary:
                raise ApiError(400, f"token id {max(ids)} is not below {vocabulary}", param="prompt")
        settings = self.settings(request, model) | {
            "max_tokens": request.max_tokens or min(self.defaults["max_tokens"], self.context - longest)
        }
        if settings["min_tokens"] > settings["max_tokens"]:
            message = f"min_tokens {settings['min_tokens']} is above max_tokens {settings['max_tokens']}"
            raise ApiError(400, message, param="min_tokens")
        if job.get("top_logprobs") is not None:
            settings["logprobs"] = job["top_logprobs"]
        form = request.response_format
        schema = None if form is None or form.type == "text" else form.json_schema or "object"
        try:
            params = online.sampling_params(
                settings,
                stop_token_ids=model.stop_token_ids,
                stream=bool(request.stream),
                json_schema=schema if schema in (None, "object") else schema.schema_,
            )
        except online.Refused as error:
            raise ApiError(400, str(error), param=error.param) from None
        return Job(
            model=model,
            prompts=prompts,
            params=params,
            n=settings["n"],
            open_ended=request.max_tokens is None,
            stream=bool(request.stream),
            include_usage=bool(request.stream_options and request.stream_options.include_usage),
            token_ids=bool(request.return_token_ids),
            **job,
        )

    def settings(self, request, model: Model) -> dict:
        """Sampling parameters in force: the request's, else the flags'."""
        sampling = {name: value for name, value in self.defaults.items() if name != "max_tokens"} | NEUTRAL
        settings = {
            name: default if getattr(request, name, None) is None else getattr(request, name)
            for name, default in sampling.items()
        }
        if settings["logit_bias"]:
            try:
                settings["logit_bias"] = {int(token): value for token, value in settings["logit_bias"].items()}
            except ValueError:
                raise ApiError(400, "keys of logit_bias are token ids", param="logit_bias") from None
            beyond = [token for token in settings["logit_bias"] if not 0 <= token < len(model.tokenizer)]
            if beyond:
                raise ApiError(
                    400, f"logit_bias: token {beyond[0]} is not in the vocabulary of {len(model.tokenizer)}",
                    param="logit_bias",
                )  # fmt: skip
        return settings

    def room(self, count: int) -> None:
        """ApiError unless `count` sequences can be taken now."""
        if self.state != "ready":
            raise ApiError(503, f"the server is {self.state}", code=self.state, headers={"Retry-After": "5"})
        if count > self.seats.total:
            raise ApiError(
                400, f"{count} answers at once are more than this server takes ({self.seats.total})", param="n"
            )
        try:
            self.seats.check(count)
        except limits.Full as full:
            raise too_busy(full.retry_after) from None

    # ── a job becomes an answer ──

    async def outputs(self, job: Job) -> AsyncIterator:
        """(choice, piece of an answer) as the engine hands them over; in whole answers when the job is no stream."""
        adapter = self.adapters.get(job.model.name)
        one = len(job.prompts) == 1
        try:
            async for index, piece in self._one(job, 0, adapter) if one else self._side_by_side(job, adapter):
                if piece.finish_reason not in (None, "stop", "length"):
                    raise ApiError(500, f"the engine gave this answer up ({piece.finish_reason})", code="engine_error")
                yield index, piece
        except online.Refused as error:
            raise ApiError(400, str(error), param=error.param) from None
        except online.EngineDied:
            self.state = "dead"
            raise ApiError(503, "the engine is gone; the server restarts", code="engine_dead") from None

    async def _one(self, job: Job, number: int, adapter) -> AsyncIterator:
        name = job.id if number == 0 else f"{job.id}-{number}"
        ids, params = job.prompts[number], job.params
        if len(job.prompts) > 1:
            params = params.clone()
            if job.open_ended:
                params.max_tokens = min(self.defaults["max_tokens"], self.context - len(ids))
        async for output in online.generate(self.llm, ids, params, name, adapter):
            for piece in output.outputs:
                yield number * job.n + piece.index, piece

    async def _side_by_side(self, job: Job, adapter) -> AsyncIterator:
        """Several prompts of one request, as their pieces come."""
        pieces: asyncio.Queue = asyncio.Queue()

        async def answer(number: int) -> None:
            async for item in self._one(job, number, adapter):
                pieces.put_nowait(item)

        async def all_of_them() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    for number in range(len(job.prompts)):
                        group.create_task(answer(number))
            except ExceptionGroup as errors:
                pieces.put_nowait((-1, errors.exceptions[0]))
            else:
                pieces.put_nowait((-1, None))

        work = asyncio.create_task(all_of_them())
        try:
            while True:
                index, piece = await pieces.get()
                if index >= 0:
                    yield index, piece
                elif piece is None:
                    return
                else:
                    raise piece
        finally:
            work.cancel()
