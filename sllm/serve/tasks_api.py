"""`/v1/tasks`: the task types, and their answers with a verdict of each rule."""

from collections.abc import Iterable
from dataclasses import replace

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from sllm import tasks
from sllm.serve import sse
from sllm.serve.completion_response import respond
from sllm.serve.errors import ApiError
from sllm.serve.lean_path import ASYNC_TOKENIZE_CHARS, Declined, LeanPath, PlainRequest, vllm_error
from sllm.tasks.table import FIELDS

# The fields of the task (GET /v1/tasks says which), and the sampling fields of a chat.
TaskRequest = msgspec.defstruct(
    "TaskRequest",
    [(name, field.type | None, None) for name, field in FIELDS.items()],
    bases=(PlainRequest,),
    forbid_unknown_fields=False,  # `RequestBody` names them
    kw_only=True,
)


def fields() -> set[str]:
    return set(TaskRequest.__struct_fields__)


def router(lean: LeanPath, models, entries: list[dict]) -> APIRouter:
    """
    Args:
        entries: of `task_entries`.
    """
    routes = APIRouter(tags=["tasks"])
    task_list = sse.body({"object": "list", "data": entries})
    body = {"content": {"application/json": {"schema": _schema(), "examples": task_examples(entries)}}}

    @routes.get("/v1/tasks")
    async def list_tasks():
        """The task types: their fields, rules, and a real request of each to start from."""
        return Response(task_list, media_type="application/json")

    @routes.post("/v1/tasks/{task_id}", openapi_extra={"requestBody": body})
    async def answer_task(task_id: str, request: Request):
        """Answer a task: its system prompt and user turn are built from the fields, and the answer comes with the
        verdict of the task's rules. Streams like a chat, with the verdict in a chunk of its own before `[DONE]`."""
        return await _answer(task_id, request.scope, lean, models)

    return routes


async def _answer(task_id: str, scope, lean: LeanPath, models) -> Response:
    if task_id not in tasks.TASKS:
        message = f"task {task_id[:40]!r} does not exist; there are {', '.join(tasks.TASKS)}"
        raise ApiError(404, message, param="task_id", code="task_not_found")
    try:
        request = msgspec.convert(scope["sllm.json"], TaskRequest)
    except msgspec.ValidationError as error:
        _, _, field = str(error).partition(" - at `$.")
        raise ApiError(400, str(error), param=field.rstrip("`") or None, code="invalid_request") from None
    task_fields = {name: getattr(request, name) for name in FIELDS if getattr(request, name) is not None}
    try:
        messages = tasks.build_messages(task_id, task_fields)
    except tasks.WrongFields as error:
        raise ApiError(400, str(error), param=error.field, code="task_fields") from None
    served = models.use(request.model, scope["state"]["record"])
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options")
    if (request.n or 1) > 1:
        raise ApiError(400, "a task has one answer", param="n")
    ids = await _ids(served, messages)
    try:
        job = lean.to_job(request, served, [ids])
    except (ValueError, vllm_error()) as error:
        raise ApiError(400, str(error), code="invalid_request") from None
    except Declined:
        message = (
            f"This model's maximum context length is {models.context} tokens: the prompt has {len(ids)} and the answer "
            f"is to have {request.max_tokens or 1}. Shorten the fields or lower max_tokens."
        )
        raise ApiError(400, message, code="context_length_exceeded") from None
    return _Answer(lean, replace(job, task=(task_id, task_fields, messages), id=job.id.replace("chatcmpl", "task")))


async def _ids(served, messages: list[dict]) -> list[int]:
    """The rendering of training. Long texts are tokenized in a thread, so that streams continue meanwhile."""
    from vllm.renderers import ChatParams

    renderer, params = served.client.renderer, ChatParams(chat_template_kwargs={"add_generation_prompt": True})
    if sum(len(message["content"]) for message in messages) > ASYNC_TOKENIZE_CHARS:
        _, prompt = await renderer.render_messages_async(messages, params)
    else:
        _, prompt = renderer.render_messages(messages, params)
    return prompt["prompt_token_ids"]


class _Answer(Response):
    """A response that is written as the lean path's are."""

    def __init__(self, lean: LeanPath, job):
        self.lean, self.job, self.background, self.status_code = lean, job, None, 200

    async def __call__(self, scope, receive, send) -> None:
        await respond(self.job, scope, send, models=self.lean.models, capacity=self.lean.capacity)


def task_entries(rows: Iterable[dict]) -> list[dict]:
    """Every task as `/v1/tasks` lists it; its example is the first of `rows`, of `load_rows`, that has the task."""
    examples: dict[str, dict] = {}
    for row in rows:
        if row["task"] in tasks.TASKS and row["task"] not in examples:
            examples[row["task"]] = tasks.split_user_turn(row["task"], row["messages"][-1]["content"])
    entries = []
    for task in tasks.TASKS.values():
        optional = [] if "question" in task.fields else ["question"]
        task_fields = [
            {"name": name, "description": FIELDS[name].description, "required": name in task.fields}
            for name in [*task.fields, *optional]
        ]
        entries.append(
            {
                "id": task.id,
                "group": "original" if task.id in tasks.ORIGINAL else "earlier",
                "name_ko": task.name_ko,
                "name_en": task.name_en,
                "style": task.style,
                "fields": task_fields,
                "question": task.question,
                "rules": list(task.rules),
                "length_ratio": _bounds(task.length_ratio),
                "chars": _bounds(task.chars),
                "system_prompt": task.system_prompt,
                "example": examples.get(task.id),
            }
        )
    return entries


def _bounds(of_task: tuple[float, float] | None) -> list[float | None] | None:
    """JSON has no infinity."""
    return of_task and [None if bound == float("inf") else bound for bound in of_task]


def task_examples(entries: list[dict]) -> dict:
    """For the documentation page: the example of each task, ready to send."""
    return {
        entry["id"]: {
            "summary": f"{entry['id']} {entry['name_ko']}",
            "value": (entry["example"] or {}) | {"temperature": 0, "max_tokens": 128},
        }
        for entry in entries
    }


def _schema() -> dict:
    """JSON schema of `TaskRequest`, in one piece."""
    definitions = msgspec.json.schema(TaskRequest)["$defs"]
    options = definitions["TaskRequest"]["properties"]["stream_options"]["anyOf"]
    options[:] = [definitions["StreamOptions"] if "$ref" in option else option for option in options]
    return definitions["TaskRequest"]
