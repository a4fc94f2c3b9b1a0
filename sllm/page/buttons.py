"""What the page's buttons and task forms do."""

import contextlib
from collections.abc import AsyncIterator

import chainlit as cl

from sllm.page.answers import report_problem
from sllm.page.api_client import Problem, storable
from sllm.page.arena import take_vote
from sllm.page.chat_session import RequestContext, current_request, toast, translations
from sllm.page.conversation import Conversation
from sllm.page.conversations import Conversations
from sllm.page.messages import Message
from sllm.page.respond import answer_again, respond
from sllm.page.view import AUTHOR


class Buttons:
    """One method for each action, named as the browser names it."""

    def __init__(self, conversations: Conversations):
        self.conversations = conversations

    def install(self) -> None:
        for name in ("again", "retry", "branch", "task_edit", "task_run", "vote"):
            cl.action_callback(name)(getattr(self, name))

    @contextlib.asynccontextmanager
    async def _pressed(self, action: cl.Action) -> AsyncIterator[tuple[Conversation | None, Message | None]]:
        """The conversation of the tab in which a button was pressed, and the message that it belongs to."""
        async with self.conversations.opened(cl.context.session) as conversation:
            if conversation is None:
                await toast(translations()["conversation_deleted"], "info")
            yield conversation, conversation and conversation.messages.get(action.payload.get("message"))

    async def again(self, action: cl.Action) -> None:
        async with self._pressed(action) as (conversation, message):
            question = message and conversation.thread.question_of(message)
            if not question:
                return
            problem = message if message.role == "problem" else None
            work = answer_again(conversation, current_request(conversation), question, problem=problem)
            if not conversation.run(work, alone=True):
                await toast(translations()["busy"], "info")

    retry = again

    async def branch(self, action: cl.Action) -> None:
        async with self._pressed(action) as (conversation, message):
            if message and conversation.running:
                await toast(translations()["busy"], "info")
            elif message:
                branches = conversation.thread.branches(message)
                step = 1 if action.payload.get("step") == 1 else -1
                await conversation.show_branch(branches[(branches.index(message) + step) % len(branches)])

    async def task_edit(self, action: cl.Action) -> None:
        async with self._pressed(action) as (conversation, message):
            question = message and conversation.thread.question_of(message)
            if question and question.role == "task":
                task, fields = question.metadata["task"], question.metadata.get("fields")
                conversation.run(open_form(conversation, translations(), task=task, values=fields), alone=True)

    async def task_run(self, action: cl.Action) -> dict:
        async with self._pressed(action) as (conversation, _):
            payload = action.payload
            if not conversation or not isinstance(payload.get("fields"), dict):
                return {"state": "refused"}
            request = current_request(conversation)
            form, task = str(payload.get("form")), str(payload.get("task"))
            state = await send_form(conversation, request, form, task, payload["fields"])
            if state == "busy":
                await toast(translations()["busy"], "info")
            return {"state": state}

    async def vote(self, action: cl.Action) -> dict:
        async with self._pressed(action) as (conversation, _):
            if not conversation:
                return {"ok": False}
            request = current_request(conversation)
            comparison, choice = (str(action.payload.get(name)) for name in ("comparison", "choice"))
            return {"ok": await take_vote(conversation, request, comparison, choice)}


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
            "group": entry.get("group") or "original",
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
    conversation.run(respond(conversation, request, question))
    return "sent"


def _field(value) -> str | list[str] | None:
    if isinstance(value, list):
        return [storable(str(entry)) for entry in value]
    return storable(value) if isinstance(value, str) else None
