"""What every HTTP request passes before its handler: an id, a key, a limit on its size and rate, a line in the log.

Pure ASGI: Starlette's BaseHTTPMiddleware would put a task and a queue between the engine and every piece of a stream.
"""

import asyncio
import json
import logging
import logging.handlers
import queue
import re
import sys
import time
import uuid

from prometheus_client import Counter, Gauge, Histogram

from sllm.serve import limits, wire
from sllm.serve.errors import ApiError

OPEN = ("/health", "/ready")  # for load balancers and supervisors, which have no key
PROBES = (*OPEN, "/metrics")  # asked every few seconds: neither logged nor counted
ROUTES = {  # with a label of their own in the metrics; others share one, or a scanner could make thousands
    "/v1/models", "/v1/tasks", "/v1/chat/completions", "/v1/completions", "/v1/tokenize",
}  # fmt: skip
BODY_SECONDS = 60
_ID = re.compile(r"[\x21-\x7e]{1,128}")

REQUESTS = Counter("sllm_requests_total", "Requests answered", ["path", "status"])
TOKENS = Counter("sllm_tokens_total", "Tokens", ["model", "kind"])
FIRST = Histogram("sllm_first_token_seconds", "Arrival of a streamed request to its first piece", ["model"])
TOTAL = Histogram("sllm_request_seconds", "Arrival to the end of the answer", ["path"])
HERE = Gauge("sllm_requests_in_flight", "Requests that have not been answered to their end")
SEATS = Gauge("sllm_sequences_in_flight", "Sequences that run or wait in the engine")


class Record:
    """What the log says of one request. Filled in on its way; tokens are counted, texts are not kept."""

    __slots__ = (
        "id", "key", "method", "path", "route", "status", "model", "stream", "prompt_tokens", "completion_tokens",
        "first", "finish", "started", "prompt",
    )  # fmt: skip

    def __init__(self, id: str, method: str, path: str):
        self.id, self.method, self.path = id, method, path
        self.route = path if path in ROUTES else "/v1/tasks/{task_id}" if path.startswith("/v1/tasks/") else "other"
        self.key = self.model = self.stream = self.first = self.finish = self.prompt = None
        self.status = self.prompt_tokens = self.completion_tokens = 0
        self.started = time.monotonic()


class Gate:
    """The middleware. `max_body` is in bytes."""

    def __init__(self, app, *, keys: limits.Keys, rate: limits.RateLimit, max_body: int, seats: limits.Seats):
        self.app, self.keys, self.rate, self.max_body = app, keys, rate, max_body
        SEATS.set_function(lambda: seats.taken)

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        record = Record(given if _ID.fullmatch(given) else uuid.uuid4().hex, scope["method"], scope["path"])
        scope.setdefault("state", {})["record"] = record

        async def reply(message):
            if message["type"] == "http.response.start":
                record.status = record.status or message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", record.id.encode())]
            await send(message)

        HERE.inc()
        try:
            problem = self._refusal(scope, headers, record)
            if problem:
                await respond(reply, problem)
            else:
                await self.app(scope, self._counted(receive), reply)
        except Exception:
            if not record.status:
                raise  # nothing was sent: uvicorn answers 500; else the handler has answered, and logged it
        finally:
            HERE.dec()
            if record.path not in PROBES or record.status not in (200, 503):
                log_request(record)

    def _refusal(self, scope, headers: dict, record: Record) -> ApiError | None:
        client = scope["client"][0] if scope.get("client") else "unknown"
        if scope["path"] in OPEN:
            return None
        if self.keys:
            kind, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
            record.key = self.keys.name_of(key.strip()) if kind.lower() == "bearer" else None
            if record.key is None:
                return ApiError(
                    401,
                    "wrong API key" if key else "this server wants an API key: Authorization: Bearer KEY",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self.max_body:
            return self._too_large()
        if scope["method"] == "POST" and (seconds := self.rate.wait(record.key or client)):
            wait = int(seconds) + 1
            return ApiError(
                429,
                f"more than {self.rate.rpm} requests a minute; try again in {wait} s",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(wait)},
            )
        return None

    def _counted(self, receive):
        """Bodies without a Content-Length are measured as they come, and all of them have to come in time."""
        size, whole, end = 0, False, time.monotonic() + BODY_SECONDS

        async def counted():
            nonlocal size, whole
            if whole:
                return await receive()  # waits for the client to leave
            try:
                message = await asyncio.wait_for(receive(), end - time.monotonic())
            except TimeoutError:
                raise ApiError(408, f"the body did not come within {BODY_SECONDS} s") from None
            size += len(message.get("body", b""))
            whole = not message.get("more_body")
            if size > self.max_body:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self.max_body / 2**20:g} MB (--max_body_mb)")


async def respond(send, error: ApiError) -> None:
    data = wire.body(error.body())
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    await send({"type": "http.response.start", "status": error.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": data})


# ── the log ────────────────────────────────────────────────────────────────────────────────────────────────

log = logging.getLogger("sllm.serve")


class _Json(logging.Formatter):
    def format(self, entry: logging.LogRecord) -> str:
        line = {"time": round(entry.created, 3), "level": entry.levelname.lower(), "message": entry.getMessage()}
        line |= getattr(entry, "fields", {})
        if entry.exc_info:
            line["traceback"] = self.formatException(entry.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def start_log() -> logging.handlers.QueueListener:
    """One JSON object a line on stderr, written by a thread, so that a full pipe stops no stream. `stop()` it at the
    end."""
    lines: queue.SimpleQueue = queue.SimpleQueue()
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(_Json())
    listener = logging.handlers.QueueListener(lines, out)
    handler = _Keep(lines)
    for name, level in (("sllm.serve", logging.INFO), ("uvicorn", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    # what uvicorn says of a stream that was cut short; the line of the request says it better
    handler.addFilter(lambda entry: "without completing response" not in entry.getMessage())
    listener.start()
    return listener


class _Keep(logging.handlers.QueueHandler):
    def prepare(self, entry):
        return entry  # the thread formats it, traceback and all


def log_request(record: Record) -> None:
    seconds = time.monotonic() - record.started
    status = record.status or 500
    REQUESTS.labels(record.route, status).inc()
    TOTAL.labels(record.route).observe(seconds)
    fields = {
        "request_id": record.id,
        "key": record.key,
        "method": record.method,
        "path": record.path[:200],
        "status": status,
        "total_ms": round(1000 * seconds, 1),
    }
    if record.model:
        first = None if record.first is None else record.first - record.started
        TOKENS.labels(record.model, "prompt").inc(record.prompt_tokens)
        TOKENS.labels(record.model, "completion").inc(record.completion_tokens)
        if first is not None:
            FIRST.labels(record.model).observe(first)
        fields |= {
            "model": record.model,
            "stream": bool(record.stream),
            "prompt_tokens": record.prompt_tokens,
            "completion_tokens": record.completion_tokens,
            "ttft_ms": None if first is None else round(1000 * first, 1),
            "finish_reason": record.finish,
        }
    if record.prompt is not None:
        fields["prompt"] = record.prompt
    log.info("request", extra={"fields": fields})
