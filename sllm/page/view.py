"""A conversation in the form that Chainlit's page requires: steps, elements and actions, made from messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sllm.page.messages import Message, Thread

if TYPE_CHECKING:
    from sllm.page.conversation import Conversation

AUTHOR = "sLLM"  # of every answer; Chainlit has no picture for names with Korean or a slash


def problem(kind: str, after: Message, text: dict, detail: str = "") -> Message:
    """A message about what went wrong and what to do, with a button to try again.

    Args:
        kind: key of the translations. detail: the server's own sentence, as Markdown.
    """
    quoted = f"\n\n> {detail}" if detail else ""
    return Message("problem", f"⚠️ **{text[kind]}** {text[f'{kind}_do']}{quoted}", after.id, author=AUTHOR)


def thread(conversation: Conversation) -> dict:
    """Everything that is shown of a conversation."""
    thread = conversation.thread
    steps, shown_elements = [], []
    for message in conversation.thread.path():
        if message.run:
            steps.append(run_step(thread, message))
        steps.append(step(thread, message))
        shown_elements += elements(conversation, message)
    metadata = {"chat_settings": thread.settings}
    if conversation.page.server.lists(thread.profile):  # Chainlit's page reconnects endlessly to a missing model
        metadata["chat_profile"] = thread.profile
    return {
        "id": thread.id, "createdAt": thread.created_at, "name": thread.name, "userIdentifier": thread.owner,
        "tags": [], "metadata": metadata, "steps": steps, "elements": shown_elements,
    }  # fmt: skip


def step(thread: Thread, message: Message) -> dict:
    return {
        "id": message.id, "threadId": thread.id, "parentId": message.run, "type": message.type,
        "name": message.author or (thread.owner if message.type == "user_message" else AUTHOR),
        "output": message.content, "createdAt": message.created_at, "start": message.created_at,
        "end": message.created_at, "streaming": message.streaming, "isError": message.role == "problem",
        "command": message.metadata.get("command"), "metadata": {},
    }  # fmt: skip


def run_step(thread: Thread, message: Message) -> dict:
    """Chainlit shows thumbs, the copy button and the waiting cursor for what happens in a run."""
    end = None if message.streaming else message.created_at
    run = {
        "id": message.run, "threadId": thread.id, "type": "run", "name": "on_message", "output": "",
        "createdAt": message.created_at, "start": message.created_at, "end": end, "metadata": {},
    }  # fmt: skip
    return run | ({"feedback": message.thumb} if message.thumb else {})


def elements(conversation: Conversation, message: Message) -> list[dict]:
    """What is shown with a message: its own elements, and the switch between its branches."""
    elements = dict(message.elements)
    branches = conversation.thread.branches(message)
    if len(branches) > 1:
        texts = {name: conversation.text[name] for name in ("branch", "branch_before", "branch_after")}
        props = {"message": message.id, "index": branches.index(message), "count": len(branches), "texts": texts}
        elements[f"{message.id}-branches"] = ("Branches", props)
    if message.role == "task":  # unlike a question, it cannot be edited in place
        fields = message.metadata.get("fields") or {}
        labelled = [[conversation.text.get(f"field_{name}", name), value] for name, value in fields.items()]
        elements[f"{message.id}-task"] = ("Task", {"fields": labelled})
    return [element(conversation.thread, message, id, name, props) for id, (name, props) in elements.items()]


def element(thread: Thread, message: Message, id: str, name: str, props: dict) -> dict:
    return {
        "id": id, "threadId": thread.id, "type": "custom", "name": name, "display": "inline", "forId": message.id,
        "mime": "application/json", "props": props,
    }  # fmt: skip


def actions(conversation: Conversation, message: Message, question: Message | None) -> list[dict]:
    """The buttons under a message. `question`: the question or task that it belongs to."""
    text = conversation.text
    if message.streaming:
        return []
    if message.role == "problem":
        buttons = [("retry", text["retry"], "", "rotate-cw")]
    elif message.role == "answer":
        buttons = [("again", "", text["again"], "refresh-cw")]
        if question and question.role == "task" and question.metadata.get("fields"):
            buttons.append(("task_edit", "", text["task_edit"], "pencil"))
    else:
        return []
    return [
        {"id": f"{message.id}-{name}", "name": name, "label": label, "tooltip": tooltip, "icon": icon,
         "forId": message.id, "payload": {"message": message.id}}
        for name, label, tooltip, icon in buttons
    ]  # fmt: skip
