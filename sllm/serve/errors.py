"""Every error in OpenAI's shape: {"error": {"message", "type", "param", "code"}}; never a traceback or a path.

vLLM's handlers give errors whose `code` is the HTTP status. OpenAI's clients compare it with words, so `ErrorFormat`
puts the words there.
"""

import json
import logging
import re
import traceback
from http import HTTPStatus

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
# What vLLM's messages say of a request that is too long
_TOO_LONG = ("maximum context length", "exceeds the max_model_len", "longer than the maximum model length")
_FLAGS = ("--enable-auto-tool-choice and --tool-call-parser", "--tool-call-parser")  # vLLM's, for --tool_call_parser
ANTHROPIC = "/v1/messages"
SHOWN = 8  # errors of one request that are written out


class ApiError(HTTPException):
    """An error that the client is told of."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None,
        headers: dict[str, str] | None = None,
    ):  # fmt: skip
        super().__init__(status, message, headers)
        self.param, self.code = param, code

    def body(self) -> dict:
        return shape(self.status_code, self.detail, self.param, self.code)

    def response(self, path: str = "") -> Response:
        """`path`: of the request; Anthropic's clients have a shape of their own."""
        body = _json(self.body())
        body = reshaped(body, self.status_code, anthropic=True) if path.startswith(ANTHROPIC) else body
        return Response(body, self.status_code, self.headers, media_type="application/json")


def shape(status: int, message: str, param: str | None = None, code: str | None = None) -> dict:
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    code = code or HTTPStatus(status).phrase.lower().replace(" ", "_")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def internal(error: Exception, request_id: str) -> ApiError:
    """A bug: the log says where, the client learns the id under which it does."""
    logging.getLogger("sllm.serve").error("bug", exc_info=error, extra={"fields": {"request_id": request_id}})
    return ApiError(500, f"internal error; the server's log says more under request id {request_id}")


async def validation_error(request: Request, error: RequestValidationError) -> Response:
    """The first fields that are wrong, in one sentence."""
    messages_by_field: dict[str, str] = {}
    for detail in error.errors()[:200]:
        field = ".".join(str(part) for part in detail["loc"][1:] if _is_field(part))
        cause = (detail.get("ctx") or {}).get("error")
        field = getattr(cause, "parameter", None) or field  # a rule between fields, by the name of the one to change
        text = "missing JSON body" if detail["loc"] == ("body",) and detail["type"] == "missing" else detail["msg"]
        messages_by_field.setdefault(field[:100], text.removeprefix("Value error, ")[:300])
        if len(messages_by_field) > SHOWN:
            break
    lines = [f"{field}: {text}" if field else text for field, text in messages_by_field.items()]
    message = "; ".join(lines[:SHOWN]) + ("; …" if len(lines) > SHOWN else "")
    param = next(iter(messages_by_field), None) or None
    return ApiError(400, message, param=param, code="invalid_request").response()


def _is_field(part) -> bool:
    """pydantic names the branches of a union, and its own wrappers, in the path of an error."""
    if isinstance(part, int):
        return True
    types = ("str", "int", "float", "bool", "list", "dict", "none")
    return part.isidentifier() and part not in types and part[:1].islower()


class ErrorFormat:
    """Middleware: the errors of vLLM's handlers in the one shape."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, parts = None, []

        async def reply(message):
            nonlocal start
            if message["type"] == "http.response.start":
                if message["status"] < 400 or not _is_json(message):
                    await send(message)
                else:
                    start = message
            elif start is None:
                if message.get("body", b"").startswith(b'data: {"error"'):  # in a stream that has begun
                    event, end, rest = message["body"].removeprefix(b"data: ").partition(b"\n\n")
                    event = reshaped(event, _status(event), anthropic=False)
                    message = message | {"body": b"data: " + event + end + rest}
                await send(message)
            else:
                parts.append(message.get("body", b""))
                if not message.get("more_body"):
                    body = reshaped(b"".join(parts), start["status"], anthropic=scope["path"].startswith(ANTHROPIC))
                    others = [header for header in start["headers"] if header[0].lower() != b"content-length"]
                    error = scope["state"]["record"].error  # one of ours, that passed through vLLM's route
                    extra = (error and error.headers) or {}
                    others += [(name.lower().encode(), value.encode()) for name, value in extra.items()]
                    await send(start | {"headers": [*others, (b"content-length", str(len(body)).encode())]})
                    await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, reply)


def _status(body: bytes) -> int:
    """The status that vLLM writes as the code of an error."""
    try:
        return HTTPStatus(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return 500


def reshaped(body: bytes, status: int, *, anthropic: bool) -> bytes:
    """An error body of vLLM's in OpenAI's shape, or in Anthropic's; anything else as it is."""
    try:
        error = json.loads(body)["error"]
        message = error["message"]
    except (ValueError, KeyError, TypeError):
        return body
    if anthropic:
        kind = shape(status, "")["error"]["type"].replace("server_error", "api_error")
        return _json({"type": "error", "error": {"type": kind, "message": _one_line(message)}})
    if not isinstance(error.get("code"), int | None):
        return body
    if limit := re.search(r"cannot be greater than max_model_len=max_total_tokens=(\d+)", message):
        message = f"This model's maximum context length is {limit[1]} tokens. {message}"  # which clients look for
    param = error.get("param")
    code = "context_length_exceeded" if any(text in message for text in _TOO_LONG) else None
    code = "model_not_found" if status == 404 and param == "model" else code
    for flag in _FLAGS:
        message = message.replace(flag, "--tool_call_parser")
    param = "tools" if "--tool_call_parser" in message else "prompt" if param == "input_tokens" else param
    return _json(shape(status, _one_line(message), param, code))


def _one_line(message: str) -> str:
    """vLLM passes on what pydantic says, over many lines, with links."""
    lines = without_source(message).splitlines()
    lines = [line.split(" [type=")[0].strip() for line in lines if "For further information" not in line]
    return ": ".join(line for line in lines[:SHOWN] if line)[:1000]


def without_source(message: str) -> str:
    """xgrammar names a line of its source."""
    return re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", message)


def _is_json(message) -> bool:
    return any(name.lower() == b"content-type" and b"json" in value for name, value in message.get("headers", []))


def _json(value: dict) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


async def http_error(request: Request, error: HTTPException) -> Response:
    if isinstance(error, ApiError):
        return error.response()
    messages = {404: "path not found", 405: f"{request.method} is not allowed for this path"}
    message = messages.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=error.headers).response()


def engine_dead() -> ApiError:
    return ApiError(503, "the engine has exited; the server is shutting down", code="engine_dead")


async def engine_died(request: Request, error: Exception) -> Response:
    return engine_dead().response()


async def engine_refused(request: Request, error: Exception) -> Response:
    """A request that cannot be handed to the engine, such as a number of more than 64 bits; any other is a bug."""
    if isinstance(error.__cause__, OverflowError):
        return ApiError(400, f"the engine cannot take this request: {error.__cause__}"[:300]).response()
    return await bug(request, error)


async def bug(request: Request, error: Exception) -> Response:
    """A request that vLLM's code cannot read, or a bug."""
    record = request.scope["state"]["record"]
    if record.prompt_tokens or not _is_unreadable(error):
        return internal(error, record.id).response()
    logging.getLogger("sllm.serve").warning(
        "vLLM cannot read a request", exc_info=error, extra={"fields": {"request_id": record.id}}
    )
    reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return ApiError(400, f"the request cannot be used: {reason}").response()


def _is_unreadable(error: Exception) -> bool:
    """Did vLLM, or the template, trip over a part of the request that it has not foreseen? It then raises what Python
    raises on missing keys and wrong types, in code of its own."""
    if not isinstance(error, KeyError | AttributeError | IndexError | AssertionError | TypeError | ValueError):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    return package in ("vllm", "jinja2", "pydantic", "openai", "json")
