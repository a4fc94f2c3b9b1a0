"""What the page's buttons and forms do."""

import contextlib
from collections.abc import AsyncIterator

import chainlit as cl

from sllm.page.arena import take_vote
from sllm.page.chat_session import current_request, toast, translations
from sllm.page.conversation import Conversation
from sllm.page.conversations import Conversations
from sllm.page.forms import open_form, send_form
from sllm.page.messages import Message
from sllm.page.respond import answer_again


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
            request = current_request(conversation)
            work = answer_again(conversation, request, question, problem=problem)
            if not conversation.run(work, text=translations(), alone=True):
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
                work = open_form(conversation, translations(), task=task, values=fields)
                conversation.run(work, text=translations(), alone=True)

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
