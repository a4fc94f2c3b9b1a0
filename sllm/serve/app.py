"""The endpoints. Each turns a request into a job for the `Service`, or answers from what it knows."""

import difflib
from typing import Annotated

from fastapi import Body, FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import Response

from sllm import chat as template
from sllm import tasks
from sllm.serve import openapi, responses, schemas, wire
from sllm.serve.errors import ApiError, shape
from sllm.serve.gate import log
from sllm.serve.reply import Reply
from sllm.serve.service import Service

ABOUT = """
OpenAI-compatible server for Korean models tuned with this project, over vLLM. Point any OpenAI client at `/v1`.
`/v1/tasks` answers the 23 task types that the models are trained for: send the fields of a task, get the answer and
whether it keeps the task's rules.
"""


def json_response(value: dict, status: int = 200, headers: dict | None = None) -> Response:
    return Response(wire.body(value), status, headers, media_type="application/json")


def create(service: Service, *, log_prompts: bool = False) -> FastAPI:
    app = FastAPIOffline(
        title="Korean sLLM server", version="1", description=ABOUT, redoc_url=None, redirect_slashes=False
    )
    errors = {
        status: {"model": responses.Error, "description": what}
        for status, what in {
            400: "the request is wrong; `param` names the field",
            401: "no API key, or a wrong one",
            404: "no such model, task or path",
            405: "another method",
            408: "the body did not come in time",
            413: "the body is too large",
            429: "every place is taken, or too many requests a minute; see Retry-After",
            500: "a bug",
            503: "loading, draining, or the engine is gone",
            504: "no whole answer within --request_timeout",
        }.items()
    }
    some = {status: errors[status] for status in (401, 404, 405, 413)}
    state = {405: errors[405], 503: {"model": responses.Status, "description": "not now"}}
    busy = {status: errors[status] for status in (400, 401, 404, 405, 408, 413, 429, 500, 503, 504)}
    event = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
    events = {"text/event-stream": {"schema": event}}

    def answers(model) -> dict:
        return {200: {"model": model, "content": events, "description": "the answer, or a stream of chunks"}} | busy

    entries = openapi.task_entries()
    listed = json_response({"object": "list", "data": entries})

    # ── answers ──

    @app.post("/v1/chat/completions", responses=answers(responses.ChatCompletion), tags=["OpenAI"])
    async def chat_completions(body: schemas.ChatRequest, request: Request) -> Response:
        """Answer a conversation, rendered with the chat template that the model was trained with."""
        messages = [message.model_dump() for message in body.messages]
        return await chat(
            body, messages, request, n=body.n or 1, top_logprobs=(body.top_logprobs or 0) if body.logprobs else None
        )

    async def chat(body, conversation: list[dict], request: Request, *, n: int = 1, **job) -> Response:
        model, record = service.model(body.model), request.scope["state"]["record"]
        if log_prompts:
            record.prompt = conversation
        prefix = "task" if job.get("task") else "chatcmpl"

        async def prepare():
            ids = await service.prompt_ids(model, conversation)
            return service.job(body, [ids], model, chat=True, id=f"{prefix}-{record.id}", **job)

        return Reply(service, n, prepare)

    @app.post("/v1/completions", responses=answers(responses.TextCompletion), tags=["OpenAI"])
    async def completions(body: schemas.CompletionRequest, request: Request) -> Response:
        """Continue a text as it is, without a chat template."""
        model, record = service.model(body.model), request.scope["state"]["record"]
        if log_prompts:
            record.prompt = body.prompt

        async def prepare():
            read = iter(await service.text_ids(model, [prompt for prompt in body.prompt if isinstance(prompt, str)]))
            prompts = [next(read) if isinstance(prompt, str) else prompt for prompt in body.prompt]
            return service.job(body, prompts, model, chat=False, id=f"cmpl-{record.id}", top_logprobs=body.logprobs)

        return Reply(service, len(body.prompt) * (body.n or 1), prepare)

    @app.get("/v1/tasks", response_model=responses.TaskList, responses=some, tags=["tasks"])
    async def list_tasks():
        """The 23 task types: their fields, rules, and a real request of each to start from."""
        return listed

    @app.post("/v1/tasks/{task_id}", responses=answers(responses.TaskAnswer), tags=["tasks"])
    async def answer_task(
        task_id: Annotated[str, Path(examples=[next(iter(tasks.TASKS))])],
        body: Annotated[schemas.TaskRequest, Body(openapi_examples=openapi.task_examples(entries))],
        request: Request,
    ) -> Response:
        """Answer a task: its system prompt and user turn are built from the fields, and the answer comes with the
        verdict of the task's rules. Streams like a chat, with the verdict in a chunk of its own before `[DONE]`."""
        if task_id not in tasks.TASKS:
            known = ", ".join(tasks.TASKS)
            raise ApiError(
                404, f"task {task_id[:40]!r} does not exist; there are {known}", param="task_id", code="task_not_found"
            )
        fields = body.fields()
        try:
            messages = tasks.build_messages(task_id, fields)
        except tasks.WrongFields as error:
            raise ApiError(400, str(error), param=error.field, code="task_fields") from None
        return await chat(body, messages, request, task=task_id, fields=fields, messages=messages)

    # ── what there is ──

    @app.get("/v1/models", response_model=responses.ModelList, responses=some, tags=["OpenAI"])
    async def list_models():
        return json_response({"object": "list", "data": [card(model) for model in service.models.values()]})

    @app.get("/v1/models/{model:path}", response_model=responses.ModelCard, responses=some, tags=["OpenAI"])
    async def one_model(model: str):
        return json_response(card(service.model(model)))

    def card(model) -> dict:
        return {
            "id": model.name,
            "object": "model",
            "created": service.started,
            "owned_by": "local",
            "kind": model.kind,
            "parent": model.parent,
            "chat_template_sha256": template.template_hash(model.tokenizer),
            "max_model_len": service.context,
        }

    @app.post("/v1/tokenize", response_model=responses.Tokens, responses=busy, tags=["OpenAI"])
    async def tokenize(body: schemas.TokenizeRequest) -> Response:
        """How a text, or a conversation with its chat template, is read: the same ids that the engine gets."""
        model = service.model(body.model)
        if body.messages is not None:
            ids = await service.prompt_ids(model, [message.model_dump() for message in body.messages])
        else:
            (ids,) = await service.text_ids(model, [body.text])
        return json_response({"count": len(ids), "tokens": ids, "max_model_len": service.context})

    # ── how it is ──

    @app.get(
        "/health",
        response_model=responses.Status,
        responses=state,
        tags=["state"],
    )
    async def health():
        """200 while the process and its engine live; 503 once the engine is gone."""
        return json_response({"status": "dead"}, 503) if service.state == "dead" else json_response({"status": "ok"})

    @app.get(
        "/ready",
        response_model=responses.Status,
        responses=state,
        tags=["state"],
    )
    async def ready():
        """200 when requests are answered at once; 503 while loading, draining or dead."""
        return json_response({"status": service.state}, 200 if service.state == "ready" else 503)

    @app.get(
        "/metrics",
        response_class=Response,
        responses=some | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        tags=["state"],
    )
    async def metrics():
        """Prometheus: the server's (`sllm_…`) and the engine's (`vllm:…`)."""
        return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})

    # ── errors ──

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if isinstance(error, ApiError):
            return json_response(error.body(), error.status_code, error.headers)
        said = {404: "there is no such path", 405: f"{request.method} is not for this path"}
        message = said.get(error.status_code, str(error.detail))
        return json_response(shape(error.status_code, message), error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def wrong_request(request: Request, error: RequestValidationError) -> Response:
        param, message = explain(error.errors())
        return json_response(shape(400, message, param, "invalid_request"), 400)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        record = request.scope["state"]["record"]
        log.error("bug", exc_info=error, extra={"fields": {"request_id": record.id}})
        return json_response(shape(500, f"a bug in the server; its log says more under request id {record.id}"), 500)

    openapi.document(app)
    return app


def explain(errors: list[dict]) -> tuple[str | None, str]:
    """The first field that is wrong, and everything that is wrong in one sentence."""
    said: dict[str, str] = {}
    for error in errors:
        *inner, last = error["loc"][1:] or [""]
        keep = error["type"] == "extra_forbidden" or not _is_tag(last)  # a field of the client's may have any name
        place = ".".join(
            str(part) for part in [*(part for part in inner if not _is_tag(part)), *([last] if keep else [])]
        )
        if error["type"] in schemas.ChatRequest.model_fields:  # a rule between fields, called by the one to mend
            place = error["type"]
        if error["type"] == "json_invalid":
            place, text = "", f"the body is not JSON: {error['ctx']['error']}"
        elif error["type"] == "extra_forbidden":
            text = f"not supported: {_why_refused(str(error['loc'][-1]))}"
        elif error["type"] == "missing" and len(error["loc"]) == 1:
            text = "a JSON body is missing"
        else:
            text = error["msg"][:300]
        said.setdefault(place, text)
    parts = [f"{place[:100]}: {text}" if place else text for place, text in list(said.items())[:8]]
    return next((place[:100] for place in said if place), None), "; ".join(parts)


def _why_refused(field: str) -> str:
    if field in schemas.REFUSED:
        return schemas.REFUSED[field][1]
    near = difflib.get_close_matches(field, schemas.FIELDS, 1)
    return "this server does not have it" + (f"; {near[0]}?" if near else "")


def _is_tag(part) -> bool:
    """pydantic names the branches of a union in the path of an error."""
    return isinstance(part, str) and (not part.isidentifier() or part in ("str", "int"))
