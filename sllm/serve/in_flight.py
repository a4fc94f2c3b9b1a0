"""Requests in flight, and what ends them early: the time limit, clients that leave, the drain."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from sllm.serve import errors, sse
from sllm.serve.access_log import RequestRecord, current
from sllm.serve.admission import Capacity
from sllm.serve.errors import ApiError


class State(StrEnum):
    """Of the server. Stalled: its engine does not answer at the moment."""

    LOADING = "loading"
    READY = "ready"
    STALLED = "stalled"
    DRAINING = "draining"
    DEAD = "dead"


@dataclass(frozen=True)
class InFlightSettings:
    capacity: Capacity
    timeout: float  # seconds for a whole answer
    log_prompts: bool  # write requests' bodies to the log


class InFlight:
    """Middleware around the endpoints that generate, those of `paths`. The app learns of everything that ends a request
    early (the client left, the time is over, the server stops) as a disconnect, on which vLLM's handlers and the lean
    path abort what runs in the engine."""

    def __init__(self, app, settings: InFlightSettings, *, paths: tuple[str, ...]):
        self.app, self.settings, self.paths = app, settings, paths
        self.state = State.LOADING
        self.requests: dict[asyncio.Future, InFlightRequest] = {}

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith(self.paths):
            return await self.app(scope, receive, send)
        if self.state != State.READY:
            raise ApiError(503, f"the server is {self.state}", code=self.state, headers={"Retry-After": "5"})
        request = InFlightRequest(scope["sllm.body"], receive, send, current.get())
        if self.settings.log_prompts:
            request.record.prompt = scope["sllm.json"]
        seconds = self.settings.timeout
        limit = f"the answer was not complete within {seconds:g} s; lower max_tokens, or raise --request_timeout"
        timer = asyncio.get_running_loop().call_later(seconds, request.end, ApiError(504, limit))
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
            request.record.release(self.settings.capacity)
        if request.problem:
            await request.send_error_event()

    def end_all(self, error: ApiError) -> None:
        for request in list(self.requests.values()):
            request.end(error)


class InFlightRequest:
    """The messages of one request, to and fro. `problem`: why it was ended early; the app's messages after that are
    dropped."""

    def __init__(self, body: bytes, receive, send, record: RequestRecord):
        self._body, self._receive, self._send, self.record = body, receive, send, record
        self.ended = asyncio.get_running_loop().create_future()
        self.problem: ApiError | None = None
        self.started = self.finished = False

    async def watch(self) -> None:
        """Wait for the client to leave. (The body was read by `RequestBody`, which replays it.)"""
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
        data = sse.error_event(self.problem.body()) + sse.DONE
        with suppress(TimeoutError):  # a client that does not read does not get to read this either
            await asyncio.wait_for(self._send({"type": "http.response.body", "body": data}), 1)
