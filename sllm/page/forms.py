"""Tasks: the form that asks for a task's fields, the files dropped into it, and the task as it was asked."""

import asyncio

import chainlit as cl
from chainlit.data import get_data_layer

from sllm import tasks
from sllm.page import files
from sllm.page.answers import AUTHOR, answer, find_model, say_problem
from sllm.page.arena import compare
from sllm.page.server import Problem
from sllm.page.session import ARENA, Page, rater, said, sampling
from sllm.page.tables import show


async def open_form(page: Page, *, context: str = "", question: str = "") -> None:
    text = said()
    try:
        table = await page.server.tasks()
    except Problem as problem:
        return await say_problem(problem, {})
    if not table:
        await cl.Message(content=text["task_none"], author=AUTHOR, metadata={"role": "note"}).send()
        return
    entries = [
        {
            "id": task["id"],
            "name": task[text["task_name"]],
            "fields": [
                {"name": entry["name"], "required": entry["required"], "about": entry["description"]}
                for entry in task["fields"]
            ],
            "question": task.get("question") or "",
            "example": task.get("example") or {},
        }
        for task in table
    ]
    props = {
        "tasks": entries,
        "values": {name: value for name, value in (("context", context), ("question", question)) if value},
        "words": {name: value for name, value in text.items() if name.startswith(("task_", "field_", "optional"))},
        "sent": False,
    }
    await cl.Message(
        content=text["task_intro"], metadata={"role": "note"}, elements=[cl.CustomElement(name="TaskForm", props=props)]
    ).send()


async def show_task(page: Page, task: str, fields: dict) -> None:
    """What was asked, as the user's own message."""
    text = said()
    table = {entry["id"]: entry for entry in await page.server.tasks()}
    name = table.get(task, {}).get(text["task_name"], task)
    parts = [f"**{name}** `{task}`"]
    for field_name, value in fields.items():
        value = "\n".join(f"- {choice}" for choice in value) if isinstance(value, list) else show(str(value)).strip()
        parts.append(f"*{text.get(f'field_{field_name}', field_name)}*\n\n{value}")
    await cl.Message(
        content="\n\n".join(parts), type="user_message", author=rater(), metadata={"role": "task", "task": task}
    ).send()
    thread, title = cl.context.session.thread_id, f"{name}: {next(iter(fields.values()), '')}"[:80]
    if layer := get_data_layer():  # the history lists what was asked, not the name of a button
        await layer.update_thread(thread, name=title)
    # The sidebar looks again; after a message without words, such as the button's, it has not looked yet.
    await cl.context.emitter.emit("first_interaction", {"interaction": title, "thread_id": thread})


async def run_task(page: Page, task: str, fields: dict, *, again: bool = False) -> None:
    """Ask one of the server's tasks. The browser's word is taken for neither the task nor its fields: they become a
    path and a body."""
    profile = cl.context.session.chat_profile
    try:
        known = {entry["id"]: {field["name"] for field in entry["fields"]} for entry in await page.server.tasks()}
        model = await find_model(page, None if profile == ARENA else profile)
        if task not in known:
            raise Problem("refused", f"task {task[:40]}")
    except Problem as problem:
        return await say_problem(problem, {"task": task, "fields": fields})
    fields = {name: value for name, value in fields.items() if name in known[task]}
    if not again:
        await show_task(page, task, fields)
    try:
        messages = tasks.build_messages(task, fields)
    except ValueError:
        messages = None  # the server will say what is wrong
    again_with = {"task": task, "fields": fields}
    if profile == ARENA and messages:
        return await compare(page, messages, again=again_with)
    body = sampling() | {"model": model.id} | fields
    await answer(page, f"tasks/{task}", body, model, messages, again=again_with, task=task)


async def read_files(page: Page, message: cl.Message) -> tuple[str, list[str]]:
    """The texts of dropped files, and what is wrong with those that cannot be read."""
    texts, problems = [], []
    for element in message.elements:
        if not element.path:
            continue
        try:
            texts.append(await asyncio.to_thread(files.read, element.path, element.name, page.max_file_mb))
        except files.Unreadable as error:
            problems.append(said()[error.word].format(**error.how))
    return "\n\n".join(texts), problems
