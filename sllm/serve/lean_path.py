"""The lean path: plain chat and completion requests, answered without the layers between HTTP and the engine.

It takes a request whose every field it knows, with values that need no further thought, and passes all others on to
vLLM's handlers, errors included: what a client is told of a wrong request is written there, once. Both ways ask the
same `EngineClient`, and give the same tokens, text, usage, finish reason and log-probabilities.
"""

from contextlib import suppress
from functools import cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from sllm import chat
from sllm.cli import InputError
from sllm.serve.access_log import current
from sllm.serve.completion_response import Job, respond
from sllm.serve.served_model import ServedModel

ASYNC_TOKENIZE_CHARS = 20_000  # longer prompts are tokenized in vLLM's threads, so that streams continue meanwhile
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
TokenId = Annotated[int, Meta(ge=0)]
Stop = Annotated[str, Meta(min_length=1, max_length=200)]


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None


class PlainRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields that both endpoints share. None: the server's default."""

    model: str | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    min_tokens: Annotated[int, Meta(ge=0)] | None = None
    ignore_eos: bool | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=16)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None


class TextPart(Struct, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


class Message(Struct, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str | Annotated[list[TextPart], Meta(min_length=1)]

    @property
    def text(self) -> str:
        """The content; parts are joined as vLLM joins them."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class ChatRequest(PlainRequest):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


class CompletionRequest(PlainRequest):
    prompt: str | list[str | TokenId | list[TokenId]]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


class Declined(Exception):
    """The request is not plain, or not right: vLLM's handlers say which."""


class LeanPath:
    """Middleware in front of the app."""

    PATHS = {"/v1/chat/completions": ChatRequest, "/v1/completions": CompletionRequest}

    def __init__(self, app, *, models, capacity):
        self.app, self.models, self.capacity = app, models, capacity

    async def __call__(self, scope, receive, send):
        kind = self.PATHS.get(scope.get("path")) if scope["type"] == "http" and scope["method"] == "POST" else None
        job = None
        if kind is not None and _is_json(scope):
            with suppress(msgspec.ValidationError, Declined, InputError, ValueError, vllm_error()):
                job = self.job(msgspec.convert(scope["sllm.json"], kind))
        if job is None:
            await self.app(scope, receive, send)
        else:
            await respond(job, scope, send, models=self.models, capacity=self.capacity)

    # ── a request becomes a job ──

    def job(self, request: PlainRequest) -> Job:
        """Everything that can be wrong is found here, before capacity is taken. Declined, or a ValueError, for what
        this path leaves to vLLM's handlers."""
        served = self.models.find(request.model, missing=Declined)
        if isinstance(request, ChatRequest):
            if self.models.parsers["reasoning_parser"]:
                raise Declined
            prompts = [self._chat_ids(served, [{"role": m.role, "content": m.text} for m in request.messages])]
            top = (request.top_logprobs or 0) if request.logprobs else None
            if request.top_logprobs is not None and not request.logprobs:
                raise Declined
        else:
            prompts, top = self._text_ids(served, request.prompt), request.logprobs
        return self.to_job(request, served, prompts, top=top)

    def to_job(
        self, request: PlainRequest, served: ServedModel, prompts: list[list[int]], *, top: int | None = None
    ) -> Job:
        max_tokens = getattr(request, "max_completion_tokens", None)  # the newer name
        max_tokens = request.max_tokens if max_tokens is None else max_tokens
        if request.stream_options is not None and not request.stream:
            raise Declined
        settings, record = self.models.settings(request), current.get()
        context, default = self.models.context, self.models.defaults["max_tokens"]
        limits = [max_tokens or min(default, context - len(ids)) for ids in prompts]
        if any(not ids or len(ids) >= context or len(ids) + (max_tokens or 0) > context for ids in prompts):
            raise Declined
        is_chat = not isinstance(request, CompletionRequest)
        return Job(
            served=served,
            chat=is_chat,
            id=f"{'chatcmpl' if is_chat else 'cmpl'}-{record.id}",
            prompts=prompts,
            params=[_params(settings, request, limit, top) for limit in limits],
            n=settings["n"],
            stream=bool(request.stream),
            include_usage=bool(request.stream_options and request.stream_options.include_usage),
            top=top,
        )

    def _chat_ids(self, served: ServedModel, messages: list[dict]) -> list[int]:
        if sum(len(message["content"]) for message in messages) > ASYNC_TOKENIZE_CHARS:
            raise Declined
        chat.refuse_special_tokens(served.tokenizer, messages)
        return chat.prompt_ids(served.tokenizer, messages)

    def _text_ids(self, served: ServedModel, prompt) -> list[list[int]]:
        if isinstance(prompt, str) or (prompt and all(isinstance(item, int) for item in prompt)):
            prompt = [prompt]
        if any(isinstance(item, int) for item in prompt):
            raise Declined
        if not all(prompt) or sum(len(text) for text in prompt if isinstance(text, str)) > ASYNC_TOKENIZE_CHARS:
            raise Declined
        ids = [served.tokenizer(chat.nfc(item))["input_ids"] if isinstance(item, str) else item for item in prompt]
        if any(max(prompt_ids) >= len(served.tokenizer) for prompt_ids in ids if prompt_ids):
            raise Declined
        return ids


def _is_json(scope) -> bool:
    content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return content_type.split(b";")[0].strip().lower() == b"application/json"


@cache
def vllm_error() -> type[Exception]:
    from vllm.exceptions import VLLMError

    return VLLMError


def _params(settings: dict, request: PlainRequest, max_tokens: int, top: int | None):
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        **settings,
        max_tokens=max_tokens,
        logprobs=top,
        output_kind=RequestOutputKind.DELTA if request.stream else RequestOutputKind.FINAL_ONLY,
        skip_clone=True,  # made for this prompt alone
    )
