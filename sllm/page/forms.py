"""Tasks: the form for a task's fields, and the task once it is sent."""

from sllm.page.answers import report_problem
from sllm.page.api_client import Problem, storable
from sllm.page.chat_session import RequestContext
from sllm.page.conversation import Conversation
from sllm.page.messages import Message
from sllm.page.respond import respond
from sllm.page.view import AUTHOR


async def open_form(conversation: Conversation, text: dict, *, task: str = "", values: dict | None = None) -> None:
    """Append a form. `task`: selected at first; `values`: of its fields."""
    after = conversation.thread.leaf
    try:
        table = await conversation.page.server.tasks()
    except Problem as problem:
        return await report_problem(conversation, problem, conversation.messages[after], text)
    if not table:
        return await conversation.add(Message("note", text["task_none"], after, author=AUTHOR))
    entries = [
        {
            "id": entry["id"],
            "name": entry[text["task_name"]],
            "fields": [{"name": field["name"], "required": field["required"]} for field in entry["fields"]],
            "question": entry.get("question") or "",
            "example": entry.get("example") or {},
        }
        for entry in table
    ]
    props = {
        "tasks": entries,
        "task": task,
        "values": {name: value for name, value in (values or {}).items() if value},
        "texts": {name: value for name, value in text.items() if name.startswith(("task_", "field_", "optional"))},
        "sent": False,
    }
    form = Message("note", text["task_intro"], after, author=AUTHOR)
    form.elements = {form.id: ("TaskForm", props | {"form": form.id})}
    await conversation.add(form)


async def send_form(conversation: Conversation, request: RequestContext, form_id: str, task: str, fields: dict) -> str:
    """The task of a form as a message of the user; it runs once, however often the button was pressed. The browser
    chooses a path and a body: the task has to exist, and only its own fields are sent.

    Returns:
        "sent"; "again": the form was sent already; "busy": an answer is being written; "refused".
    """
    text, page = request.text, conversation.page
    forms = [m for m in conversation.thread.path() if any(name == "TaskForm" for name, _ in m.elements.values())]
    form = next((m for m in forms if m.id == form_id), forms[-1] if forms else None)  # older forms have no id
    if form is None:
        return "refused"
    element_id, props = next((id, props) for id, (name, props) in form.elements.items() if name == "TaskForm")
    if props.get("sent"):
        return "again"
    if conversation.running:
        return "busy"
    form.elements[element_id] = ("TaskForm", props | {"sent": True, "tasks": [], "values": {}})
    try:
        table = {entry["id"]: entry for entry in await page.server.tasks()}
        if task not in table:
            raise Problem("refused", f"task {task[:40]}")
    except Problem as problem:
        form.elements[element_id] = ("TaskForm", props)
        await report_problem(conversation, problem, conversation.messages[conversation.thread.leaf], text)
        return "refused"
    entry = table[task]
    fields = {
        field["name"]: value for field in entry["fields"] if (value := _field(fields.get(field["name"]))) is not None
    }
    if page.too_long(*map(str, fields.values())):
        form.elements[element_id] = ("TaskForm", props)
        await conversation.toast(text["message_too_long"].format(limit=page.max_file_mb))
        return "refused"
    name, thread, metadata = entry[text["task_name"]], conversation.thread, {"task": task, "fields": fields}
    question = Message("task", f"{name} ({task})", thread.leaf, author=request.user, metadata=metadata)
    if not any(message.role in ("question", "task", "answer") for message in thread.path()):
        # The list of conversations names the task, not the button.
        thread.name = f"{name}: {next(iter(fields.values()), '')}"[:80]
    await conversation.update(form)
    await conversation.add(question)
    title = {"interaction": thread.name, "thread_id": thread.id}
    await conversation.emit("first_interaction", title)  # reloads the list of conversations
    conversation.run(respond(conversation, request, question), text=text)
    return "sent"


def _field(value) -> str | list[str] | None:
    if isinstance(value, list):
        return [storable(str(entry)) for entry in value]
    return storable(value) if isinstance(value, str) else None
