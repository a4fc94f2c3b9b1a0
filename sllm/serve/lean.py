"""The lean path: plain chat and completion requests, answered without the layers between HTTP and the engine.

It takes a request whose every field it knows, with values that need no further thought, and passes all others on to
vLLM's handlers, errors included: what a client is told of a wrong request is written there, once. Both ways ask the
same `EngineClient`, and give the same tokens, text, usage, finish reason and log-probabilities.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from sllm import chat, tasks
from sllm.cli import InputError
from sllm.serve import wire
from sllm.serve.log import current
from sllm.serve.models import ServedModel

ASYNC_TOKENIZE_CHARS = (
    20_000  # characters; longer prompts are tokenized in vLLM's threads, so that streams continue meanwhile
)
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
TokenId = Annotated[int, Meta(ge=0)]
Stop = Annotated[str, Meta(min_length=1, max_length=200)]


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None


class Plain(Struct, forbid_unknown_fields=True, kw_only=True):
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


class Message(Struct, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str


class Chat(Plain):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


class Completion(Plain):
    prompt: str | list[str | TokenId | list[TokenId]]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


@dataclass
class Job:
    """One request for text. Answer i to prompt p is choice p·n + i.

    `prompts`: token ids. `params`: vllm.SamplingParams, one for each prompt. `top`: so many tokens' log-probabilities,
    or None. `task`: what `tasks.check` needs for a verdict (id, fields), and the messages that were built.
    """

    served: ServedModel
    chat: bool
    id: str
    prompts: list[list[int]]
    params: list
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    top: int | None = None
    task: tuple[str, dict, list[dict]] | None = None
    created: int = field(default_factory=lambda: int(time.time()))


class Declined(Exception):
    """The request is not plain, or not right: vLLM's handlers say which."""


class LeanPath:
    """Middleware in front of the app.

    Args:
        models: `find(name)` and the request defaults.
    """

    PATHS = {"/v1/chat/completions": Chat, "/v1/completions": Completion}

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
            await self.answer(job, scope, send)

    # ── a request becomes a job ──

    def job(self, request: Plain) -> Job:
        """Everything that can be wrong is found here, before capacity is taken. Declined, or a ValueError, for what
        this path leaves to vLLM's handlers."""
        served = self.models.find(request.model, missing=Declined)
        if isinstance(request, Chat):
            if self.models.parsers["reasoning_parser"]:
                raise Declined
            prompts = [self._chat_ids(served, [{"role": m.role, "content": m.content} for m in request.messages])]
            top = (request.top_logprobs or 0) if request.logprobs else None
            if request.top_logprobs is not None and not request.logprobs:
                raise Declined
        else:
            prompts, top = self._text_ids(served, request.prompt), request.logprobs
        return self.sampled(request, served, prompts, top=top)

    def sampled(self, request: Plain, served: ServedModel, prompts: list[list[int]], *, top: int | None = None) -> Job:
        most = _most_tokens(request)
        if request.stream_options is not None and not request.stream:
            raise Declined
        settings, record = self.models.settings(request), current.get()
        limits = [most or min(self.models.defaults["max_tokens"], self.models.context - len(ids)) for ids in prompts]
        for ids in prompts:
            if not ids or len(ids) >= self.models.context or len(ids) + (most or 0) > self.models.context:
                raise Declined
        is_chat = not isinstance(request, Completion)
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
        if isinstance(prompt, str) or prompt and all(isinstance(item, int) for item in prompt):
            prompt = [prompt]
        if any(isinstance(item, int) for item in prompt):
            raise Declined
        if not all(prompt) or sum(len(text) for text in prompt if isinstance(text, str)) > ASYNC_TOKENIZE_CHARS:
            raise Declined
        ids = [served.tokenizer(item)["input_ids"] if isinstance(item, str) else item for item in prompt]
        if any(max(one) >= len(served.tokenizer) for one in ids if one):
            raise Declined
        return ids

    # ── a job becomes an answer ──

    async def answer(self, job: Job, scope, send) -> None:
        """Send the whole answer, or the stream. Ends where the request ends (`running`)."""
        record, ended, task = current.get(), scope["sllm.ended"], asyncio.current_task()
        self.capacity.take(record, len(job.prompts) * job.n)
        job.served.users += 1
        record.models.append(job.served)
        record.stream = job.stream

        def stop(_) -> None:
            task.cancel()

        ended.add_done_callback(stop)
        try:
            await (self._stream if job.stream else self._send_json)(job, record, send)
        except asyncio.CancelledError:
            if not ended.done():
                raise
            task.uncancel()
        finally:
            ended.remove_done_callback(stop)

    async def _stream(self, job: Job, record, send) -> None:
        chunks = wire.Chunks(
            chat=job.chat, id=job.id, created=job.created, model=job.served.name, with_usage=job.include_usage
        )
        begun: dict[int, wire.Offset] = {}
        texts, started = [], False
        async for index, piece in self._pieces(job):
            if not started:
                started = True
                await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            first = index not in begun
            if first:
                begun[index] = wire.Offset()
            if first or piece.finish_reason or job.top is not None:
                data = chunks.full(
                    index, piece.text, first=first, finish_reason=piece.finish_reason, stop_reason=piece.stop_reason,
                    logprobs=_logprobs(job, piece, begun[index]),
                )  # fmt: skip
            elif piece.text:
                data = chunks.chunk(index, piece.text)
            else:
                continue  # part of a syllable: the next token brings the rest
            if job.task:
                texts.append(piece.text)
            await send({"type": "http.response.body", "body": data, "more_body": True})
        last = []
        if job.task:
            task, fields, messages = job.task
            last.append(
                chunks.last(conformance=conformance(task, fields, "".join(texts)), task=task, messages=messages)
            )
        if job.include_usage:
            last.append(chunks.last(usage=_usage(record)))
        await send({"type": "http.response.body", "body": b"".join([*last, wire.DONE])})

    async def _send_json(self, job: Job, record, send) -> None:
        answers = {index: piece async for index, piece in self._pieces(job)}
        data = wire.body(_value(job, answers, _usage(record)))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    async def _pieces(self, job: Job):
        """(choice, piece of an answer) as they come; whole answers where the job is not a stream."""
        if len(job.prompts) == 1:
            prompt = {"type": "token", "prompt_token_ids": job.prompts[0]}
            async for output in job.served.client.generate(prompt, job.params[0], job.id):
                for piece in output.outputs:
                    if piece.finish_reason in ("error", "abort"):
                        raise RuntimeError(f"the engine ended an answer: {piece.finish_reason}")
                    yield piece.index, piece
            return
        from vllm.utils.async_utils import merge_async_iterators

        ones = [
            self._pieces(replace(job, prompts=[ids], params=[params], id=f"{job.id}-{number}"))
            for number, (ids, params) in enumerate(zip(job.prompts, job.params, strict=True))
        ]
        async for number, (index, piece) in merge_async_iterators(*ones):
            yield number * job.n + index, piece


_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def _is_json(scope) -> bool:
    given = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return given.split(b";")[0].strip().lower() == b"application/json"


@cache
def vllm_error() -> type[Exception]:
    from vllm.exceptions import VLLMError

    return VLLMError


def _most_tokens(request: Plain) -> int | None:
    newer = getattr(request, "max_completion_tokens", None)
    return newer if newer is not None else request.max_tokens


def _params(settings: dict, request: Plain, max_tokens: int, top: int | None):
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        **settings,
        max_tokens=max_tokens,
        logprobs=top,
        output_kind=RequestOutputKind.DELTA if request.stream else RequestOutputKind.FINAL_ONLY,
        skip_clone=True,  # made for this prompt alone
    )


def _usage(record) -> dict:
    prompt, completion = record.prompt_tokens, record.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _value(job: Job, answers: dict, usage: dict) -> dict:
    """The whole answer as OpenAI shapes it; of a task, with its verdict."""
    head = {"id": job.id, "created": job.created, "model": job.served.name}
    if job.task:
        (task, fields, messages), piece = job.task, answers[0]
        verdict = conformance(task, fields, piece.text)
        return {"object": "task.answer", **head, "task": task, "answer": piece.text,
                "finish_reason": piece.finish_reason, "conformance": verdict, "messages": messages,
                "usage": usage}  # fmt: skip
    choices = []
    for index, piece in sorted(answers.items()):
        said = {"message": {"role": "assistant", "content": piece.text}} if job.chat else {"text": piece.text}
        ended = {"finish_reason": piece.finish_reason, "stop_reason": piece.stop_reason}
        choices.append({"index": index, **said, "logprobs": _logprobs(job, piece, wire.Offset()), **ended})
    kind = "chat.completion" if job.chat else "text_completion"
    return {"object": kind, **head, "choices": choices, "usage": usage}


def _logprobs(job: Job, piece, offset: wire.Offset) -> dict | None:
    if job.top is None or piece.logprobs is None:
        return None
    ids, entries = list(piece.token_ids), list(piece.logprobs)
    if job.chat:
        return wire.chat_logprobs(job.served.vocabulary, ids, entries, job.top)
    return wire.text_logprobs(job.served.vocabulary, ids, entries, job.top, offset)


def conformance(task: str, fields: dict, answer: str) -> dict:
    """Every rule of the task with its verdict."""
    question = {"question": tasks.get(task).question} | fields
    broken = {failure.rule: failure.reason for failure in tasks.check(task, question, answer)}
    rules = [*broken, *(rule for rule in tasks.get(task).rules if rule not in broken and answer.strip())]
    return {
        "ok": not broken,
        "rules": [{"rule": rule, "ok": rule not in broken, "reason": broken.get(rule)} for rule in rules],
    }
