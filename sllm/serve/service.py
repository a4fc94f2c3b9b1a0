"""What the server is made of between HTTP and the engine: the models, the state, and one request's way through.

A request becomes a `Job`: prompts as token ids, and how to answer them. `Reply` answers it, as one JSON object or as a
stream, and sees to it that the engine works only for clients that are still there.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field

from starlette.responses import Response

from sllm import chat, tasks
from sllm.cli import InputError
from sllm.serve import engine, limits, online, wire
from sllm.serve.errors import ApiError, too_busy

LONG_TEXT = 20_000  # characters; longer prompts are tokenized in a thread, so that streams go on meanwhile
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
    warm_up: bool = False
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
        self._thread = ThreadPoolExecutor(1, "tokenize")
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

    async def text_ids(self, model: Model, text: str) -> list[int]:
        """A plain text, with BOS in front where the model was trained so."""
        return await self._tokenize(model, lambda tokenizer: tokenizer(text)["input_ids"], len(text))

    async def _tokenize(self, model: Model, function, characters: int) -> list[int]:
        if characters <= LONG_TEXT:
            return function(model.tokenizer)
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, self._copies[model.name])

    def job(self, request, prompts: list[list[int]], model: Model, **job) -> Job:
        """Everything that can be wrong with a request is said here, before the engine hears of it."""
        longest = max(len(ids) for ids in prompts)
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
        settings["min_tokens"] = min(settings["min_tokens"], settings["max_tokens"])
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
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        return Job(
            model=model,
            prompts=prompts,
            params=params,
            n=settings["n"],
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
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        except online.EngineDied:
            self.state = "dead"
            raise ApiError(503, "the engine is gone; the server restarts", code="engine_dead") from None

    async def _one(self, job: Job, number: int, adapter) -> AsyncIterator:
        name = job.id if number == 0 else f"{job.id}-{number}"
        params = job.params if number == 0 else job.params.clone()
        async for output in online.generate(self.llm, job.prompts[number], params, name, adapter):
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


class Reply(Response):
    """Answers one job. Aborted in the engine when the client goes away, when it takes too long, and when the server
    stops; the places it takes are given back whatever happens."""

    def __init__(self, service: Service, job: Job):
        self.service, self.job = service, job
        self.background = None
        self.status_code = 200

    async def __call__(self, scope, receive, send) -> None:
        service, job, record = self.service, self.job, scope["state"]["record"]
        record.model, record.stream = job.model.name, job.stream
        record.prompt_tokens = sum(len(ids) for ids in job.prompts)
        task, gone, self.sent = asyncio.current_task(), False, False

        async def watch() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            gone = True
            task.cancel()

        async def send_and_note(message) -> None:
            self.sent = True
            await send(message)

        count = len(job.prompts) * job.n
        if not job.warm_up:
            service.room(count)
        service.running.add(task)
        watcher = asyncio.create_task(watch())
        problem = None
        try:
            with service.seats.take(count):
                async with asyncio.timeout(None if job.warm_up else service.timeout):
                    await (self._stream if job.stream else self._whole)(send_and_note, record)
        except ApiError as error:
            problem = error
        except TimeoutError:
            seconds = f"{service.timeout:g}"
            problem = ApiError(504, f"no whole answer within {seconds} s; ask for less, or raise --request_timeout")
        except asyncio.CancelledError:
            task.uncancel()
            if gone:
                record.status = 499
            elif service.state in ("draining", "dead"):
                problem = ApiError(503, "the server is stopping", code=service.state)
            else:
                raise
        finally:
            watcher.cancel()
            service.running.discard(task)
        if problem and not self.sent:
            raise problem
        if problem:
            record.status = problem.status_code
            async with asyncio.timeout(1):  # a client that does not read does not get to read this either
                await send({"type": "http.response.body", "body": wire.error_event(problem.body()), "more_body": True})
                await send({"type": "http.response.body", "body": wire.DONE})

    async def _stream(self, send, record) -> None:
        job = self.job
        chunks = wire.Chunks(
            chat=job.chat, id=job.id, created=job.created, model=job.model.name, with_usage=job.include_usage
        )
        begun: dict[int, list[str]] = {}
        pieces = []
        async for index, piece in self.service.outputs(job):
            if not self.sent:
                record.first = time.monotonic()
                await send(
                    {
                        "type": "http.response.start",
                        "status": 200,
                        "headers": [
                            (b"content-type", b"text/event-stream; charset=utf-8"),
                            (b"cache-control", b"no-cache"),
                            (b"x-accel-buffering", b"no"),
                        ],
                    }
                )
            record.completion_tokens += len(piece.token_ids)
            text = _clean(piece.text)
            first = index not in begun
            if first:
                begun[index] = []
            if first or piece.finish_reason or piece.logprobs or job.token_ids:
                extra = {"token_ids": list(piece.token_ids)} if job.token_ids else {}
                if job.token_ids and first:
                    extra["prompt_token_ids"] = job.prompts[index // job.n]
                data = chunks.full(
                    index,
                    text,
                    first=first,
                    finish_reason=piece.finish_reason,
                    logprobs=self._logprobs(piece, "".join(begun[index])),
                    extra=extra,
                )
            elif text:
                data = chunks.chunk(index, text)
            else:
                continue  # part of a syllable: the next token brings the rest
            if job.task or job.top_logprobs is not None:
                begun[index].append(text)
            record.finish = piece.finish_reason or record.finish
            await send({"type": "http.response.body", "body": data, "more_body": True})
        if job.task:
            verdict = conformance(job.task, job.fields, "".join(begun[0]))
            pieces.append(chunks.last(conformance=verdict, task=job.task))
        if job.include_usage:
            pieces.append(chunks.last(wire.usage(record.prompt_tokens, record.completion_tokens)))
        pieces.append(wire.DONE)
        await send({"type": "http.response.body", "body": b"".join(pieces)})

    async def _whole(self, send, record) -> None:
        job = self.job
        answers = {}
        async for index, piece in self.service.outputs(job):
            answers[index] = piece
        record.first = time.monotonic()
        record.completion_tokens = sum(len(piece.token_ids) for piece in answers.values())
        record.finish = answers[0].finish_reason
        value = self._value(answers, wire.usage(record.prompt_tokens, record.completion_tokens))
        data = wire.body(value)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    def _value(self, answers: dict, usage: dict) -> dict:
        """The whole answer as OpenAI shapes it, or, of a task, with its verdict."""
        job = self.job
        head = {"id": job.id, "created": job.created, "model": job.model.name}
        if job.task:
            piece = answers[0]
            text = _clean(piece.text)
            return (
                {"object": "task.answer"}
                | head
                | {"task": job.task, "answer": text, "finish_reason": piece.finish_reason}
                | {"conformance": conformance(job.task, job.fields, text), "messages": job.messages, "usage": usage}
                | ({"prompt_token_ids": job.prompts[0], "token_ids": list(piece.token_ids)} if job.token_ids else {})
            )
        choices = []
        for index, piece in sorted(answers.items()):
            text = _clean(piece.text)
            choice: dict = {"index": index}
            if job.chat:
                choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            else:
                choice["text"] = text
            choice |= {"logprobs": self._logprobs(piece, ""), "finish_reason": piece.finish_reason}
            if job.token_ids:
                choice["token_ids"] = list(piece.token_ids)
                if not job.chat:
                    choice["prompt_token_ids"] = job.prompts[index // job.n]
            choices.append(choice)
        value = {"object": "chat.completion" if job.chat else "text_completion"} | head
        value |= {"choices": choices, "usage": usage}
        return value | ({"prompt_token_ids": job.prompts[0]} if job.chat and job.token_ids else {})

    def _logprobs(self, piece, before: str) -> dict | None:
        job = self.job
        if job.top_logprobs is None or piece.logprobs is None:
            return None
        ids, entries = list(piece.token_ids), list(piece.logprobs)
        if job.chat:
            return wire.chat_logprobs(job.model.tokenizer, ids, entries, job.top_logprobs)
        return wire.text_logprobs(job.model.tokenizer, ids, entries, job.top_logprobs, len(before))


def conformance(task: str, fields: dict, answer: str) -> dict:
    """Every rule of the task with its verdict."""
    question = {"question": tasks.get(task).question} | fields
    broken = {failure.rule: failure.reason for failure in tasks.check(task, question, answer)}
    rules = [*broken, *(rule for rule in tasks.get(task).rules if rule not in broken and answer.strip())]
    return {
        "ok": not broken,
        "rules": [{"rule": rule, "ok": rule not in broken, "reason": broken.get(rule)} for rule in rules],
    }


def _clean(text: str) -> str:
    """Bytes that form no character (a model may write any) are left out, as `engine.text` leaves them out."""
    return text.replace("\ufffd", "") if "\ufffd" in text else text


def in_force(service: Service) -> dict:
    return json.loads(json.dumps({**service.defaults, "context": service.context}))


__all__ = ["Job", "Model", "Reply", "Service", "conformance", "engine", "in_force"]
