"""Every error in OpenAI's shape: {"error": {"message", "type", "param", "code"}}; never a traceback or a path.

vLLM's handlers give errors whose `code` is the HTTP status. OpenAI's clients compare it with words, so `Reshape` puts
the words there.
"""

import json
import logging
import re
from http import HTTPStatus

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
# What vLLM's messages say → OpenAI's code
_CODES = (
    ("maximum context length", "context_length_exceeded"),
    ("exceeds the max_model_len", "context_length_exceeded"),
    ("longer than the maximum model length", "context_length_exceeded"),
    ("exceeds model's maximum context length", "context_length_exceeded"),
)
_FLAGS = (  # that vLLM's messages name → ours
    ("--enable-auto-tool-choice and --tool-call-parser", "--tool_call_parser"),
    ("--tool-call-parser", "--tool_call_parser"),
)
SHOWN = 8  # errors of one request that are written out


class ApiError(HTTPException):
    """An error that the client is told of."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(status, message, headers)
        self.param, self.code = param, code

    def body(self) -> dict:
        return shape(self.status_code, self.detail, self.param, self.code)

    def response(self) -> Response:
        return Response(_json(self.body()), self.status_code, self.headers, media_type="application/json")


def shape(status: int, message: str, param: str | None = None, code: str | None = None) -> dict:
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    code = code or HTTPStatus(status).phrase.lower().replace(" ", "_")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def at_capacity(retry_after: int) -> ApiError:
    return ApiError(
        429,
        f"server at capacity; try again in {retry_after} s",
        code="server_busy",
        headers={"Retry-After": str(retry_after)},
    )


def internal(error: Exception, request_id: str) -> ApiError:
    """A bug: the log says where, the client learns the id under which it does."""
    logging.getLogger("sllm.serve").error("bug", exc_info=error, extra={"fields": {"request_id": request_id}})
    return ApiError(500, f"internal error; the server's log says more under request id {request_id}")


def of_validation(error: RequestValidationError) -> ApiError:
    """The first fields that are wrong, in one sentence."""
    said: dict[str, str] = {}
    for one in error.errors()[:200]:
        place = ".".join(str(part) for part in one["loc"][1:] if _is_field(part))
        cause = (one.get("ctx") or {}).get("error")
        place = getattr(cause, "parameter", None) or place  # a rule between fields, by the name of the one to change
        text = "missing JSON body" if one["loc"] == ("body",) and one["type"] == "missing" else one["msg"]
        said.setdefault(place[:100], text.removeprefix("Value error, ")[:300])
        if len(said) > SHOWN:
            break
    shown = [f"{place}: {text}" if place else text for place, text in list(said.items())[:SHOWN]]
    more = "; …" if len(said) > SHOWN else ""
    return ApiError(400, "; ".join(shown) + more, param=next(iter(said), None) or None, code="invalid_request")


def _is_field(part) -> bool:
    """pydantic names the branches of a union, and its own wrappers, in the path of an error."""
    if isinstance(part, int):
        return True
    return part.isidentifier() and part not in ("str", "int", "float", "bool", "list", "dict", "none") and (
        part[:1].islower()
    )  # fmt: skip


class Reshape:
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
                await send(message)
            else:
                parts.append(message.get("body", b""))
                if not message.get("more_body"):
                    body = reshaped(
                        b"".join(parts), start["status"], anthropic=scope["path"].startswith("/v1/messages")
                    )
                    others = [header for header in start["headers"] if header[0].lower() != b"content-length"]
                    await send(start | {"headers": [*others, (b"content-length", str(len(body)).encode())]})
                    await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, reply)


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
    if most := re.search(r"cannot be greater than max_model_len=max_total_tokens=(\d+)", message):
        message = f"This model's maximum context length is {most[1]} tokens. {message}"  # which clients look for
    code = next((code for words, code in _CODES if words in message), None)
    if status == 404 and error.get("param") == "model":
        code = "model_not_found"
    for theirs, ours in _FLAGS:
        message = message.replace(theirs, ours)
    param = "prompt" if error.get("param") == "input_tokens" else error.get("param")
    param = "tools" if "--tool_call_parser" in message else param
    return _json(shape(status, _one_line(message), param, code))


def _one_line(message: str) -> str:
    """vLLM passes on what pydantic says, over many lines, with links."""
    message = re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", message)  # xgrammar names a line of its source
    lines = [line.split(" [type=")[0].strip() for line in message.splitlines() if "For further information" not in line]
    return ": ".join(line for line in lines[:SHOWN] if line)[:1000]


def _is_json(message) -> bool:
    return any(name.lower() == b"content-type" and b"json" in value for name, value in message.get("headers", []))


def _json(value: dict) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


async def api_error(request: Request, error: ApiError) -> Response:
    return error.response()


async def validation_error(request: Request, error: RequestValidationError) -> Response:
    return of_validation(error).response()


async def http_error(request: Request, error: HTTPException) -> Response:
    said = {404: "there is no such path", 405: f"{request.method} is not allowed for this path"}
    message = said.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=error.headers).response()


async def engine_died(request: Request, error: Exception) -> Response:
    return ApiError(503, "the engine has exited; the server restarts", code="engine_dead").response()


# What vLLM's code raises most on parts of a request that it has not foreseen; others come to `bug`.
UNREADABLE = (KeyError, AttributeError, IndexError, AssertionError, RuntimeError)


async def unreadable(request: Request, error: Exception) -> Response:
    """A bug, unless nothing has reached the engine yet: then it is the request that vLLM cannot read."""
    record = request.scope["state"]["record"]
    if record.prompt_tokens:
        return internal(error, record.id).response()
    logging.getLogger("sllm.serve").warning(
        "vLLM cannot read a request", exc_info=error, extra={"fields": {"request_id": record.id}}
    )
    message = f"the request cannot be used: {type(error).__name__}: {error}".splitlines()[0][:300]
    return ApiError(400, message, code="invalid_request").response()


async def engine_refused(request: Request, error: Exception) -> Response:
    """One request could not be handed to the engine, such as a number of more than 64 bits; others go on."""
    cause = error.__cause__ or error
    logging.getLogger("sllm.serve").warning("the engine refuses a request", exc_info=cause)
    return ApiError(400, f"the engine cannot take this request: {cause}"[:300], code="invalid_request").response()


async def bug(request: Request, error: Exception) -> Response:
    if request.method == "POST" and not request.url.path.startswith("/v1/tasks"):
        return await unreadable(request, error)
    return internal(error, request.scope["state"]["record"].id).response()
