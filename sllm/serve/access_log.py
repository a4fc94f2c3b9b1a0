"""The log: one JSON object a line on stderr, one line a request. Counts the request in the metrics, too."""

import json
import logging
import logging.handlers
import queue
import re
import sys
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from urllib.parse import quote

from sllm.serve import errors, metrics
from sllm.serve.errors import ApiError

UNLOGGED_PATHS = ("/health", "/ready", "/metrics")  # asked every few seconds: neither logged nor counted
_ID = re.compile(r"[\x21-\x7e]{1,128}")

log = logging.getLogger("sllm.serve")


@dataclass(slots=True)
class RequestRecord:
    """One request, for the log, and what it holds until it ends. Tokens are counted, texts are not kept."""

    id: str
    method: str
    path: str
    route: str = "other"
    key: str | None = None
    model: str | None = None
    stream: bool | None = None
    prompt: object = None
    status: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    sequences: int = 0  # capacity reserved for it
    finish_reason: str | None = None
    first_token_at: float | None = None  # time of the first token
    error: ApiError | None = None  # one of ours, on its way through a route of vLLM's that keeps no headers
    in_beam_search: bool = False
    models: list = field(default_factory=list)  # the served models that it uses
    ignored: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def release(self, capacity) -> None:
        capacity.give_back(self)
        for model in self.models:
            model.users -= 1
        self.models = []


current: ContextVar[RequestRecord | None] = ContextVar("record", default=None)  # of the request that this task answers


class RequestLog:
    """Middleware: a request id, the record, and a line in the log once the request has ended. Pure ASGI, as all of
    ours: Starlette's BaseHTTPMiddleware would put a task and a queue between the engine and every piece of a stream.
    `routes`: paths with a label of their own in the metrics; others share one, or a scanner could make thousands."""

    def __init__(self, app, *, routes: set[str]):
        self.app, self.routes = app, routes

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_id = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
        request_id = request_id if _ID.fullmatch(request_id) else uuid.uuid4().hex
        record = RequestRecord(request_id, scope["method"], scope["path"], self._route(scope["path"]))
        scope.setdefault("state", {})["record"] = record
        # vLLM's handlers name their answers by this header
        others = [header for header in scope["headers"] if header[0] != b"x-request-id"]
        scope["headers"] = [*others, (b"x-request-id", record.id.encode())]
        current.set(record)

        async def reply(message):
            if message["type"] == "http.response.start":
                record.status = record.status or message["status"]
                extra = [(b"x-request-id", record.id.encode())]
                if record.ignored:
                    ignored = ", ".join(quote(name) or '""' for name in record.ignored)
                    extra.append((b"x-ignored-fields", ignored.encode()))
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        metrics.IN_FLIGHT.inc()
        try:
            await self.app(scope, receive, reply)
        except ApiError as error:  # of another middleware: nothing was sent yet
            await error.response(scope["path"])(scope, receive, reply)
        except Exception as error:
            if not record.status:
                await errors.internal(error, record.id).response(scope["path"])(scope, receive, reply)
        finally:
            metrics.IN_FLIGHT.dec()
            if record.path not in UNLOGGED_PATHS or record.status not in (200, 503):
                self._line(record)

    def _route(self, path: str) -> str:
        return path if path in self.routes else "/v1/tasks/{task_id}" if path.startswith("/v1/tasks/") else "other"

    def _line(self, record: RequestRecord) -> None:
        seconds = time.monotonic() - record.started
        status = record.status or 500
        metrics.REQUESTS.labels(record.route, status).inc()
        metrics.LATENCY.labels(record.route).observe(seconds)
        fields = {
            "request_id": record.id, "key": record.key, "method": record.method, "path": record.path[:200],
            "status": status, "total_ms": round(1000 * seconds, 1),
        }  # fmt: skip
        if record.model:
            first = None if record.first_token_at is None else record.first_token_at - record.started
            metrics.TOKENS.labels(record.model, "prompt").inc(record.prompt_tokens)
            metrics.TOKENS.labels(record.model, "completion").inc(record.completion_tokens)
            if first is not None:
                metrics.TTFT.labels(record.model).observe(first)
            fields |= {
                "model": record.model, "stream": bool(record.stream), "prompt_tokens": record.prompt_tokens,
                "completion_tokens": record.completion_tokens,
                "ttft_ms": None if first is None else round(1000 * first, 1), "finish_reason": record.finish_reason,
            }  # fmt: skip
        if record.ignored:
            fields["ignored_fields"] = record.ignored
        if record.prompt:
            fields["prompt"] = record.prompt
        log.info("request", extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    def format(self, entry: logging.LogRecord) -> str:
        line = {"time": round(entry.created, 3), "level": entry.levelname.lower(), "message": entry.getMessage()}
        line |= {} if entry.name.startswith("sllm") else {"logger": entry.name}
        line |= getattr(entry, "fields", {})
        if entry.exc_info:
            line["traceback"] = self.formatException(entry.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def start() -> logging.handlers.QueueListener:
    """Write every logger of this process, and Python's warnings, as JSON on stderr; a thread writes, so that a full
    pipe stops no stream. `stop()` it at the end."""
    lines: queue.SimpleQueue = queue.SimpleQueue()
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(JsonFormatter())
    listener = logging.handlers.QueueListener(lines, out)
    handler = logging.handlers.QueueHandler(lines)
    handler.prepare = lambda entry: entry  # the thread formats it, traceback and all
    # what uvicorn says of a stream that was cut short; the line of the request says it better
    handler.addFilter(lambda entry: "without completing response" not in entry.getMessage())
    logging.captureWarnings(True)
    for name, level in (
        ("", logging.WARNING), ("sllm.serve", logging.INFO), ("uvicorn", logging.ERROR), ("vllm", None),
        ("transformers", logging.ERROR),
    ):  # fmt: skip
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        if level is not None:
            logger.setLevel(level)
    listener.start()
    return listener
