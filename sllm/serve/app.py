"""The app: vLLM's routes for OpenAI's and Anthropic's APIs, ours beside them, and the middleware around both."""

from collections.abc import Callable
from types import SimpleNamespace

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from sllm.serve import access, errors, models_api, state_api, tasks_api
from sllm.serve.access_log import RequestLog
from sllm.serve.admission import Capacity
from sllm.serve.body import BodySettings, RequestBody
from sllm.serve.errors import ErrorFormat
from sllm.serve.handlers import ByModel
from sllm.serve.in_flight import InFlight, InFlightSettings
from sllm.serve.lean_path import LeanPath
from sllm.serve.models import Models

ABOUT = """
OpenAI-compatible server for Korean models tuned with this project, on vLLM. Point any OpenAI client at `/v1`.
`/v1/tasks` answers the task types that the models are trained for: send the fields of a task, get the answer and
whether it keeps the task's rules.
"""
# Paths that `InFlight` guards. A test lists every route that is served: vLLM's others (profiling, dev, RLHF, sleep,
# scaling, RPC, /invocations, batches, rendering) are not.
GENERATING = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/tasks/",
    "/tokenize", "/detokenize",
)  # fmt: skip
# vLLM's store of responses is off, so there is nothing to retrieve or to cancel.
CLOSED = ("/v1/chat/completions/batch", "/v1/responses/{response_id}", "/v1/responses/{response_id}/cancel")


_CHAT = [
    {"role": "system", "content": "당신은 질문에 한국어로 답하는 도우미입니다."},
    {"role": "user", "content": "물은 몇 도에서 끓나요?"},
]
EXAMPLES = {  # of the documentation page, ready to send
    "/v1/chat/completions": {"messages": _CHAT, "temperature": 0, "max_tokens": 64},
    "/v1/completions": {"prompt": "옛날 어느 마을에", "temperature": 0, "max_tokens": 32},
    "/v1/responses": {"input": "물은 몇 도에서 끓나요?", "temperature": 0, "max_output_tokens": 64},
    "/v1/messages": {"messages": _CHAT[1:], "max_tokens": 64},
    "/v1/messages/count_tokens": {"messages": _CHAT[1:]},
    "/tokenize": {"messages": _CHAT},
    "/detokenize": {"tokens": [300, 301, 302]},
}


def create(
    models: Models, state: Callable[[], str], *, in_flight: InFlightSettings, access_control: access.AccessSettings,
    body: BodySettings, tasks: list[dict],
):  # fmt: skip
    """(the app in all of its middleware, its `InFlight`). `state`: of the server, for /ready. `tasks`: of
    /v1/tasks."""
    app, lean = endpoints(models, in_flight.capacity, state, tasks)
    requests = InFlight(lean, in_flight, paths=GENERATING)
    asgi = access.AccessControl(RequestBody(requests, body, fields=known_fields(app)), access_control)
    asgi = RequestLog(asgi, routes={route.path for route in app.routes if "{" not in route.path})
    if access_control.origins:
        headers = ["X-Request-ID", "Retry-After", "X-Ignored-Fields"]
        origins = access_control.origins
        asgi = CORSMiddleware(asgi, origins, allow_methods=["*"], allow_headers=["*"], expose_headers=headers)
    return asgi, requests


def endpoints(
    models: Models, capacity: Capacity, state: Callable[[], str], tasks: list[dict]
) -> tuple[FastAPI, LeanPath]:
    """The app without its middleware, and the lean path in front of it."""
    from vllm.entrypoints.anthropic import api_router as anthropic
    from vllm.entrypoints.openai.chat_completion import api_router as chat
    from vllm.entrypoints.openai.completion import api_router as completion
    from vllm.entrypoints.openai.responses import api_router as responses
    from vllm.entrypoints.serve.tokenize import api_router as tokenize

    app = FastAPIOffline(
        title="Hangyeol server", version="1", description=ABOUT, redoc_url=None, redirect_slashes=False
    )
    app.state.args = SimpleNamespace(log_error_stack=False, sse_keep_alive_interval=0)
    for router in (chat, completion, responses, anthropic, tokenize):
        app.include_router(router.router)
    app.router.routes = [route for route in app.router.routes if route.path not in CLOSED]
    for attribute in (
        "openai_serving_chat", "openai_serving_completion", "openai_serving_responses", "anthropic_serving_messages",
        "serving_tokenization",
    ):  # fmt: skip
        setattr(app.state, attribute, ByModel(attribute, models, capacity))
    lean = LeanPath(ErrorFormat(app), models=models, capacity=capacity)

    for router in (models_api.router(models), state_api.router(state), tasks_api.router(lean, models, tasks)):
        app.include_router(router)
    _handle_errors(app)
    _document(app, models.first.name)
    return app, lean


def _handle_errors(app: FastAPI) -> None:
    from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    init_exception_handler(app)
    app.exception_handler(HTTPException)(errors.http_error)
    app.exception_handler(RequestValidationError)(errors.validation_error)
    app.exception_handler(EngineDeadError)(errors.engine_died)
    app.exception_handler(EngineGenerateError)(errors.engine_refused)
    for error_class in (KeyError, AttributeError, IndexError, AssertionError, Exception):
        app.exception_handler(error_class)(errors.bug)


def known_fields(app: FastAPI) -> dict[str, set[str]]:
    """Path of an endpoint → the fields of its requests, aliases included."""
    fields = {"/v1/tasks/": tasks_api.fields()}
    for route in app.routes:
        body = getattr(getattr(route, "body_field", None), "field_info", None)
        for model in getattr(body.annotation, "__args__", (body.annotation,)) if body else ():
            if isinstance(model, type) and issubclass(model, BaseModel):
                names = {alias for field in model.model_fields.values() if isinstance(alias := field.alias, str)}
                fields.setdefault(route.path, set()).update(names, model.model_fields)
    return fields


def _document(app: FastAPI, model: str) -> None:
    """Complete the OpenAPI document: what any endpoint may answer, and that a key can be given."""
    openapi_of_routes = app.openapi
    common = {
        "400": "the request is wrong; `param` names the field", "401": "no API key, or a wrong one",
        "403": "the host, the web page or the admin key is not allowed", "404": "no such model, task or path",
        "405": "another method", "408": "the body did not arrive in time", "409": "the name is taken",
        "413": "the body is too large", "415": "the body is not application/json",
        "429": "server at capacity, or too many requests; see Retry-After", "500": "a bug", "501": "not implemented",
        "503": "loading, draining, or the engine has exited", "504": "no whole answer within --request_timeout",
    }  # fmt: skip
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "object"}}}

    def openapi() -> dict:
        if app.openapi_schema:
            return app.openapi_schema
        schema = openapi_of_routes()
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                if path in EXAMPLES:
                    content = operation["requestBody"]["content"]["application/json"]
                    content["example"] = {"model": model} | EXAMPLES[path]
                operation["responses"].pop("422", None)
                for status, description in common.items():
                    content = {} if path in ("/health", "/ready") else {"application/json": {"schema": error}}
                    operation["responses"][status] = {"description": description, "content": content}
        schema["components"].setdefault("securitySchemes", {})["key"] = {"type": "http", "scheme": "bearer"}
        schema["security"] = [{}, {"key": []}]
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        return schema

    app.openapi = openapi
