"""Tasks: the form that asks for a task's fields, and the task as it was asked."""

from sllm import tasks
from sllm.page.answers import answer, find_model, respond, say_problem
from sllm.page.api_client import ARENA, Problem, storable
from sllm.page.arena import compare
from sllm.page.chat_session import Asker, Page
from sllm.page.conversation import Conversation
from sllm.page.messages import Message
from sllm.page.view import AUTHOR


async def open_form(
    page: Page, conversation: Conversation, text: dict, *, task: str = "", values: dict | None = None
) -> None:  # fmt: skip
    """Append a form. `task`: that it begins with; `values`: of its fields."""
    after = conversation.thread.leaf
    try:
        table = await page.server.tasks()
    except Problem as problem:
        return await say_problem(conversation, problem, conversation.messages[after], text)
    if not table:
        return await conversation.add(Message("note", text["task_none"], after, author=AUTHOR))
    entries = [
        {
            "id": entry["id"],
            "name": entry[text["task_name"]],
            "fields": [
                {"name": field["name"], "required": field["required"], "about": field["description"]}
                for field in entry["fields"]
            ],
            "question": entry.get("question") or "",
            "example": entry.get("example") or {},
        }
        for entry in table
    ]
    props = {
        "tasks": entries,
        "task": task,
        "values": {name: value for name, value in (values or {}).items() if value},
        "words": {name: value for name, value in text.items() if name.startswith(("task_", "field_", "optional"))},
        "sent": False,
    }
    form = Message("note", text["task_intro"], after, author=AUTHOR)
    form.elements = {form.id: ("TaskForm", props | {"form": form.id})}
    await conversation.add(form)


async def send_form(page: Page, conversation: Conversation, asker: Asker, form_id: str, task: str, fields: dict) -> str:
    """What a form asks for, as the user's own message; it runs once, however often the button was pressed. The
    browser's word is taken for neither the task nor its fields: they become a path and a body.

    Returns:
        sent; again, of a form that was sent already; busy, while an answer is being written; refused.
    """
    text = asker.text
    forms = [m for m in conversation.path() if any(name == "TaskForm" for name, _ in m.elements.values())]
    form = next((m for m in forms if m.id == form_id), forms[-1] if forms else None)  # older forms do not say which
    if form is None:
        return "refused"
    element_id, element = next((id, e) for id, e in form.elements.items() if e[0] == "TaskForm")
    if element[1].get("sent"):
        return "again"
    if conversation.running:
        return "busy"
    form.elements[element_id] = (element[0], element[1] | {"sent": True, "tasks": [], "values": {}})
    try:
        table = {entry["id"]: entry for entry in await page.server.tasks()}
        if task not in table:
            raise Problem("refused", f"task {task[:40]}")
    except Problem as problem:
        form.elements[element_id] = element
        await say_problem(conversation, problem, conversation.messages[conversation.thread.leaf], text)
        return "refused"
    entry = table[task]
    fields = {
        field["name"]: value for field in entry["fields"] if (value := _field(fields.get(field["name"]))) is not None
    }
    if page.too_long(*map(str, fields.values())):
        form.elements[element_id] = element
        await conversation.toast(text["message_too_long"].format(limit=page.max_file_mb))
        return "refused"
    name = entry[text["task_name"]]
    asked = Message("task", f"{name} ({task})", conversation.thread.leaf, author=asker.user,
                    metadata={"task": task, "fields": fields})  # fmt: skip
    if not any(message.role in ("question", "task", "answer") for message in conversation.path()):
        # The history lists what was asked, not the name of a button.
        conversation.thread.name = f"{name}: {next(iter(fields.values()), '')}"[:80]
    await conversation.update(form)
    await conversation.add(asked)
    title = {"interaction": conversation.thread.name, "thread_id": conversation.thread.id}
    await conversation.emit("first_interaction", title)  # the list of conversations looks again
    conversation.run(run_task(page, conversation, asker, asked), text=text)
    return "sent"


def _field(value) -> str | list[str] | None:
    if isinstance(value, list):
        return [storable(str(entry)) for entry in value]
    return storable(value) if isinstance(value, str) else None


async def run_task(page: Page, conversation: Conversation, asker: Asker, asked: Message) -> None:
    """Ask one of the server's tasks."""
    task, fields = asked.metadata["task"], asked.metadata["fields"]
    try:
        model = await find_model(page, None if asker.profile == ARENA else asker.profile)
    except Problem as problem:
        return await say_problem(conversation, problem, asked, asker.text)
    try:
        messages = tasks.build_messages(task, fields)
    except ValueError:
        messages = None  # the server will say what is wrong
    if asker.profile == ARENA and messages:
        return await compare(page, conversation, asker, asked, messages)
    body = asker.sampling() | {"model": model.id} | fields
    await answer(page, conversation, asker, asked, f"tasks/{task}", body, model, messages)


async def answer_again(
    page: Page, conversation: Conversation, asker: Asker, asked: Message, *, problem: Message | None = None
) -> None:
    """Another answer to a question or a task, as a branch beside those that it has. Where none comes, what was shown
    before is shown again.

    Args:
        problem: what is being retried, and makes room.
    """
    before = conversation.thread.leaf
    if problem and before == problem.id:
        before = problem.parent
        await conversation.drop(problem)
    answered = any(
        message.parent == asked.id and message.role == "answer" for message in conversation.messages.values()
    )
    if conversation.thread.leaf != asked.id:
        conversation.thread.leaf = asked.id
        await conversation.show()
    try:
        await (run_task if asked.role == "task" else respond)(page, conversation, asker, asked)
    finally:
        last = conversation.messages.get(conversation.thread.leaf or "")
        if answered and last and not conversation.deleted and (last is asked or last.parent == asked.id):
            if last.role == "problem":
                await conversation.toast(last.content.replace("**", "").removeprefix("⚠️ "))
                await conversation.drop(last)
            if last.role != "answer":
                conversation.thread.leaf = before
                await conversation.show()
                await conversation.save()
