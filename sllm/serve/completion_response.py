"""A job for the engine becomes the response of a chat, a completion or a task, whole or streamed."""

import asyncio
import time
from dataclasses import dataclass, field, replace

from sllm import tasks
from sllm.serve import logprobs, sse
from sllm.serve.access_log import current
from sllm.serve.errors import engine_dead
from sllm.serve.served_model import ServedModel


@dataclass
class Job:
    """One request for text. Answer i to prompt p is choice p·n + i."""

    served: ServedModel
    chat: bool
    id: str
    prompts: list[list[int]]  # token ids
    params: list  # vllm.SamplingParams, one for each prompt
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    top: int | None = None  # so many tokens' log-probabilities
    task: tuple[str, dict, list[dict]] | None = None  # id and fields, for its verdict, and the messages built of them
    created: int = field(default_factory=lambda: int(time.time()))


async def respond(job: Job, scope, send, *, models, capacity) -> None:
    """Send the response to one job. Ends where the request ends (`in_flight`). Its model and its sequences are counted
    in `models` and `capacity`."""
    from vllm.v1.engine.exceptions import EngineDeadError

    record, ended, task = current.get(), scope["sllm.ended"], asyncio.current_task()
    capacity.take(record, len(job.prompts) * job.n)
    models.hold(job.served, record)
    record.stream, answered = job.stream, False

    def stop(_) -> None:
        if not answered:  # a callback that is scheduled already cannot be removed
            task.cancel()

    ended.add_done_callback(stop)
    try:
        await (_stream if job.stream else _send_json)(job, record, send)
    except EngineDeadError:
        raise engine_dead() from None
    except asyncio.CancelledError:
        if not ended.done():
            raise
        task.uncancel()
    finally:
        answered = True
        ended.remove_done_callback(stop)


async def _stream(job: Job, record, send) -> None:
    chunks = sse.Chunks(
        chat=job.chat, id=job.id, created=job.created, model=job.served.name, with_usage=job.include_usage
    )
    offsets: dict[int, logprobs.Offset] = {}
    texts, started = [], False
    async for index, piece in _pieces(job):
        if not started:
            started = True
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        first = index not in offsets
        if first:
            offsets[index] = logprobs.Offset()
        if first or piece.finish_reason or job.top is not None:
            data = chunks.full(
                index, piece.text, first=first, finish_reason=piece.finish_reason, stop_reason=piece.stop_reason,
                logprobs=_logprobs(job, piece, offsets[index]),
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
        last.append(chunks.last(conformance=conformance(task, fields, "".join(texts)), task=task, messages=messages))
    if job.include_usage:
        last.append(chunks.last(usage=_usage(record)))
    await send({"type": "http.response.body", "body": b"".join([*last, sse.DONE])})


async def _send_json(job: Job, record, send) -> None:
    answers = {index: piece async for index, piece in _pieces(job)}
    data = sse.body(_value(job, answers, _usage(record)))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def _pieces(job: Job):
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

    answers = [
        _pieces(replace(job, prompts=[ids], params=[params], id=f"{job.id}-{number}"))
        for number, (ids, params) in enumerate(zip(job.prompts, job.params, strict=True))
    ]
    async for number, (index, piece) in merge_async_iterators(*answers):
        yield number * job.n + index, piece


_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


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
        content = {"message": {"role": "assistant", "content": piece.text}} if job.chat else {"text": piece.text}
        ended = {"finish_reason": piece.finish_reason, "stop_reason": piece.stop_reason}
        choices.append({"index": index, **content, "logprobs": _logprobs(job, piece, logprobs.Offset()), **ended})
    kind = "chat.completion" if job.chat else "text_completion"
    return {"object": kind, **head, "choices": choices, "usage": usage}


def _logprobs(job: Job, piece, offset: logprobs.Offset) -> dict | None:
    if job.top is None or piece.logprobs is None:
        return None
    ids, entries = list(piece.token_ids), list(piece.logprobs)
    if job.chat:
        return logprobs.chat_logprobs(job.served.vocabulary, ids, entries, job.top)
    return logprobs.text_logprobs(job.served.vocabulary, ids, entries, job.top, offset)


def conformance(task: str, fields: dict, answer: str) -> dict:
    """Every rule of the task with its verdict."""
    question = {"question": tasks.get(task).question} | fields
    broken = {failure.rule: failure.reason for failure in tasks.check(task, question, answer)}
    rules = [*broken, *(rule for rule in tasks.get(task).rules if rule not in broken and answer.strip())]
    return {
        "ok": not broken,
        "rules": [{"rule": rule, "ok": rule not in broken, "reason": broken.get(rule)} for rule in rules],
    }
