"""Answering a question or a task: with one model, with two in the arena, or once more."""

from sllm import tasks
from sllm.page.answers import Reply, find_model, report_problem
from sllm.page.api_client import ARENA, Problem
from sllm.page.arena import compare
from sllm.page.chat_session import RequestContext
from sllm.page.conversation import Conversation
from sllm.page.messages import Message


async def respond(conversation: Conversation, request: RequestContext, question: Message) -> None:
    """Answer a question, or one of the server's tasks."""
    messages: list[dict] | None
    if question.role == "task":
        task, fields = question.metadata["task"], question.metadata["fields"]
        path, content = f"tasks/{task}", fields
        try:
            messages = tasks.build_messages(task, fields)
        except ValueError:
            messages = None  # the server will report what is wrong
    else:
        messages = conversation.thread.prompt(question, request.system_prompt)
        path, content = "chat/completions", {"messages": messages}
    in_arena = request.profile == ARENA
    if in_arena and messages:
        return await compare(conversation, request, question, messages)
    try:
        model = await find_model(conversation.page.server, None if in_arena else request.profile)
    except Problem as problem:
        return await report_problem(conversation, problem, question, request.text)
    body = request.sampling() | {"model": model.id} | content
    await Reply(conversation, request, question, path, body, model, messages).run()


async def answer_again(
    conversation: Conversation, request: RequestContext, question: Message, *, problem: Message | None = None
) -> None:
    """Another answer to a question or a task, as a branch beside those that it has. If none arrives, what was shown
    before is shown again.

    Args:
        problem: what is being retried; it is removed.
    """
    thread, messages = conversation.thread, conversation.messages
    before = thread.leaf
    if problem and before == problem.id:
        before = problem.parent
        await conversation.drop(problem)
    has_answer = any(m.parent == question.id and m.role == "answer" for m in messages.values())
    if thread.leaf != question.id:
        thread.leaf = question.id
        await conversation.show()
    try:
        await respond(conversation, request, question)
    finally:
        last = messages.get(thread.leaf or "")
        if has_answer and last and not conversation.deleted and (last is question or last.parent == question.id):
            if last.role == "problem":
                await conversation.toast(last.content.replace("**", "").removeprefix("⚠️ "))
                await conversation.drop(last)
            if last.role != "answer":
                thread.leaf = before
                await conversation.show()
                await conversation.save()
