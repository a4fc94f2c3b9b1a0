"""How many requests run, for how long, and how they end: capacity, the time limit, clients that leave, the drain."""

import asyncio
import math
import time
from contextlib import suppress

from sllm.serve import errors, log, wire
from sllm.serve.errors import ApiError, at_capacity
from sllm.serve.log import Record, current


class Capacity:
    """Sequences that may run in the engine's batch and wait in its queue. More than that is refused at once: a queue
    without an end is an outage that nobody is told of."""

    def __init__(self, running: int, waiting: int):
        self.running, self.total = running, running + waiting
        self.taken = 0
        self._seconds = 1.0  # that a request takes, a running mean
        log.SEQUENCES.set_function(lambda: self.taken)

    def take(self, record: Record, count: int) -> None:
        """Reserve `count` sequences until the request ends. ApiError (429) where they do not fit."""
        if count > self.total:
            raise ApiError(400, f"{count} answers at once exceed this server's capacity ({self.total})", param="n")
        if self.taken + count > self.total:
            rounds = 1 + (self.taken - 1) // self.running
            raise at_capacity(max(1, math.ceil(min(60, rounds * self._seconds / 2))))
        self.taken += count
        record.sequences += count

    def give_back(self, record: Record) -> None:
        if record.sequences:
            self.taken -= record.sequences
            self._seconds += 0.1 * (time.monotonic() - record.started - self._seconds)
            record.sequences = 0


class Running:
    """Middleware around the endpoints that generate. The app learns of everything that ends a request early (the
    client left, the time is over, the server stops) as a disconnect, on which vLLM's handlers and the lean path abort
    what runs in the engine.

    Args:
        paths: of these endpoints.
        timeout: seconds for a whole answer.
        log_prompts: write requests' bodies to the log.
    """

    def __init__(self, app, *, paths: tuple[str, ...], capacity: Capacity, timeout: float, log_prompts: bool):
        self.app, self.paths, self.capacity, self.timeout = app, paths, capacity, timeout
        self.log_prompts = log_prompts
        self.state = "loading"  # ready, draining, dead
        self.requests: dict[asyncio.Future, Request] = {}

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith(self.paths):
            return await self.app(scope, receive, send)
        if self.state != "ready":
            raise ApiError(503, f"the server is {self.state}", code=self.state, headers={"Retry-After": "5"})
        request = Request(scope["sllm.body"], receive, send, current.get())
        if self.log_prompts:
            request.record.prompt = scope["sllm.json"]
        loop = asyncio.get_running_loop()
        seconds = f"{self.timeout:g}"
        late = ApiError(504, f"no whole answer within {seconds} s; ask for less, or raise --request_timeout")
        timer = loop.call_later(self.timeout, request.end, late)
        watcher = asyncio.create_task(request.watch())
        self.requests[request.ended] = request
        try:
            await self.app(scope | {"sllm.ended": request.ended}, request.receive, request.send)
        except ApiError as error:
            if not request.started:
                raise
            request.problem = request.problem or error
        except Exception as error:
            if not request.started:
                raise
            if not request.finished:  # else the app's own handler has answered, and logged it
                request.problem = errors.internal(error, request.record.id)
        finally:
            timer.cancel()
            watcher.cancel()
            del self.requests[request.ended]
            request.record.release(self.capacity)
        if request.problem:
            await request.send_error_event()

    def end_all(self, error: ApiError) -> None:
        for request in list(self.requests.values()):
            request.end(error)


class Request:
    """The messages of one request, to and fro. `problem`: why it was ended early; the app's messages after that are
    dropped."""

    def __init__(self, body: bytes, receive, send, record: Record):
        self._body, self._receive, self._send, self.record = body, receive, send, record
        self.ended = asyncio.get_running_loop().create_future()
        self.problem: ApiError | None = None
        self.started = self.finished = False

    async def watch(self) -> None:
        """Wait for the client to leave. (The body was read by `Body`, which replays it.)"""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self.finished:
            self.record.status = 499
        self.end(None)

    def end(self, problem: ApiError | None) -> None:
        if not self.ended.done():
            self.problem = None if self.finished else problem
            self.ended.set_result(None)

    async def receive(self) -> dict:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.shield(self.ended)
        return {"type": "http.disconnect"}

    async def send(self, message) -> None:
        if self.ended.done():
            return
        self.started = True
        self.finished = message["type"] == "http.response.body" and not message.get("more_body")
        await self._send(message)

    async def send_error_event(self) -> None:
        if not self.started:
            raise self.problem
        self.record.status = self.problem.status_code
        data = wire.error_event(self.problem.body()) + wire.DONE
        with suppress(TimeoutError):  # a client that does not read does not get to read this either
            await asyncio.wait_for(self._send({"type": "http.response.body", "body": data}), 1)
