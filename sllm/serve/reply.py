"""One request's answer, as one JSON object or as a stream, for as long as its client is there."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress

from starlette.responses import Response

from sllm import tasks
from sllm.serve import gate, wire
from sllm.serve.errors import ApiError
from sllm.serve.service import Job, Service


class Reply(Response):
    """Answers one request: makes the job and has it answered. Aborted in the engine when the client goes away, when it
    takes too long, and when the server stops; the places that it takes are given back whatever happens.

    Args:
        count: sequences, each of which takes a place.
        prepare: makes the job, once there is a place for it.
        warm_up: a request of our own, before there are places and time limits.
    """

    def __init__(self, service: Service, count: int, prepare: Callable[[], Awaitable[Job]], *, warm_up: bool = False):
        self.service, self.count, self.prepare, self.warm_up = service, count, prepare, warm_up
        self.background = None
        self.status_code = 200
        self.sent = False

    async def __call__(self, scope, receive, send) -> None:
        service, record = self.service, scope["state"]["record"]
        task, gone = asyncio.current_task(), False

        async def watch() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            gone = True
            task.cancel()

        async def send_and_note(message) -> None:
            self.sent = True
            await send(message)

        if not self.warm_up:
            service.room(self.count)
        service.running.add(task)
        watcher = asyncio.create_task(watch())
        problem = None
        try:
            with nullcontext() if self.warm_up else service.seats.take(self.count):
                async with asyncio.timeout(None if self.warm_up else service.timeout):
                    self.job = job = await self.prepare()
                    record.model, record.stream = job.model.name, job.stream
                    record.prompt_tokens = sum(len(ids) for ids in job.prompts)
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
        except Exception as error:
            if not self.sent:
                raise
            gate.log.error("bug", exc_info=error, extra={"fields": {"request_id": record.id}})
            problem = ApiError(500, f"a bug in the server; its log says more under request id {record.id}")
        finally:
            watcher.cancel()
            service.running.discard(task)
        if problem and not self.sent:
            raise problem
        if problem:
            record.status = problem.status_code
            with suppress(TimeoutError):  # a client that does not read does not get to read this either
                await asyncio.wait_for(self._farewell(send, problem), 1)

    async def _farewell(self, send, problem: ApiError) -> None:
        data = wire.error_event(problem.body()) + wire.DONE
        await send({"type": "http.response.body", "body": data})

    async def _stream(self, send, record) -> None:
        job = self.job
        chunks = wire.Chunks(
            chat=job.chat, id=job.id, created=job.created, model=job.model.name, with_usage=job.include_usage
        )
        begun: dict[int, list[str]] = {}
        offsets: dict[int, wire.Offset] = {}
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
                    logprobs=self._logprobs(piece, offsets.setdefault(index, wire.Offset())),
                    extra=extra,
                )
            elif text:
                data = chunks.chunk(index, text)
            else:
                continue  # part of a syllable: the next token brings the rest
            if job.task:
                begun[index].append(text)
            record.finish = piece.finish_reason or record.finish
            await send({"type": "http.response.body", "body": data, "more_body": True})
        if job.task:
            verdict = conformance(job.task, job.fields, "".join(begun[0]))
            pieces.append(chunks.last(conformance=verdict, task=job.task, messages=job.messages))
        if job.include_usage:
            pieces.append(chunks.last(wire.usage(record.prompt_tokens, record.completion_tokens)))
        pieces.append(wire.DONE)
        await send({"type": "http.response.body", "body": b"".join(pieces)})

    async def _whole(self, send, record) -> None:
        job = self.job
        answers = {}
        async for index, piece in self.service.outputs(job):
            answers[index] = piece
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
            choice |= {"logprobs": self._logprobs(piece, wire.Offset()), "finish_reason": piece.finish_reason}
            if job.token_ids:
                choice["token_ids"] = list(piece.token_ids)
                if not job.chat:
                    choice["prompt_token_ids"] = job.prompts[index // job.n]
            choices.append(choice)
        value = {"object": "chat.completion" if job.chat else "text_completion"} | head
        value |= {"choices": choices, "usage": usage}
        return value | ({"prompt_token_ids": job.prompts[0]} if job.chat and job.token_ids else {})

    def _logprobs(self, piece, offset: wire.Offset) -> dict | None:
        job = self.job
        if job.top_logprobs is None or piece.logprobs is None:
            return None
        ids, entries = list(piece.token_ids), list(piece.logprobs)
        if job.chat:
            return wire.chat_logprobs(job.model.vocabulary, ids, entries, job.top_logprobs)
        return wire.text_logprobs(job.model.vocabulary, ids, entries, job.top_logprobs, offset)


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
