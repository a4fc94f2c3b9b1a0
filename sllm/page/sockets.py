"""The socket events of a tab. These handlers replace those of Chainlit 2.12 (`chainlit.socket`), each for a reason:

- `connection_successful`: theirs adds every message to its context again when a tab reconnects, and a reload during an
  answer shows the question alone. Here a tab gets the conversation as it is, with the answer that is being written.
- `client_message`: theirs stores a message without waiting for it, so that its update can overtake the insert.
- `edit_message`: theirs removes everything after the first message with that id, whatever it is. Here an edited
  question is a branch.
- `stop`: theirs answers in English, and ends the newest task only.
- `disconnect`: theirs creates a deleted conversation again.

`WebsocketSession.get_config` is replaced as well.

Buttons and forms come as HTTP requests to Chainlit's `/project/action`; `buttons` handles them.
"""

import asyncio
import uuid

from chainlit.config import config
from chainlit.context import init_ws_context
from chainlit.server import sio
from chainlit.session import WebsocketSession
from chainlit.user_session import user_sessions

from sllm.page.api_client import Problem, storable
from sllm.page.buttons import open_form
from sllm.page.chat_session import RequestContext, current_request, offer_settings, toast, translations
from sllm.page.conversation import Conversation
from sllm.page.conversations import Conversations, is_thread_id
from sllm.page.logins import Logins
from sllm.page.messages import Message, ThreadMissing
from sllm.page.respond import answer_again, respond

TITLE_LENGTH = 80


def install(conversations: Conversations, logins: Logins | None) -> None:
    """Register the handlers."""
    # Chainlit's starts a coroutine that it cannot await, to look for settings of a model that no model has.
    WebsocketSession.get_config = lambda session: config

    async def session_of(sid: str) -> WebsocketSession | None:
        """The session of a tab; None if its login has ended: then the tab is reloaded, and asks for a login."""
        session = WebsocketSession.require(sid)
        emitter = init_ws_context(session).emitter
        if logins and not logins.of_token(session.token):
            await emitter.emit("reload", {})
            await asyncio.sleep(1)  # it usually disconnects by itself
            await sio.disconnect(sid)
            return None
        return session

    @sio.on("connection_successful")
    async def connected(sid: str) -> None:
        if session := await session_of(sid):
            await _show_tab(conversations, session)

    @sio.on("disconnect")
    async def disconnected(sid: str) -> None:
        conversations.close_tab(sid)
        if session := WebsocketSession.get(sid):
            session.ending = asyncio.create_task(_end_session(session, sid))

    @sio.on("client_message")
    async def message(sid: str, payload: dict) -> None:
        if session := await session_of(sid):
            accepted = False
            try:
                accepted = await _accept_message(conversations, session, payload)
            except ThreadMissing:
                await toast(translations()["conversation_deleted"], "info")
            # A refused message goes back into the input.
            await session.emit("window_message", {"sllm": "taken" if accepted else "returned"})

    @sio.on("edit_message")
    async def edit(sid: str, payload: dict) -> None:
        if session := await session_of(sid):
            async with conversations.opened(session) as conversation:
                if conversation:
                    await _edit(conversation, payload["message"], sid)
                else:
                    await toast(translations()["conversation_deleted"], "info")

    @sio.on("stop")
    async def stop(sid: str) -> None:
        if session := await session_of(sid):
            async with conversations.opened(session) as conversation:
                if conversation:
                    conversation.stop()


async def _show_tab(conversations: Conversations, session: WebsocketSession) -> None:
    """What a newly connected tab shows: its conversation, or a new one."""
    page = conversations.page
    emitter = init_ws_context(session).emitter
    session.has_first_interaction = True  # else Chainlit would name conversations after buttons
    await emitter.task_end()
    async with conversations.opened(session) as conversation:
        if conversation:
            if page.server.lists(conversation.thread.profile):
                session.chat_profile = conversation.thread.profile
            await offer_settings(page, conversation.thread.settings)
            await conversation.open_tab(session.socket_id)
        else:
            await offer_settings(page, dict(session.chat_settings))
            if session.thread_id_to_resume:
                session.thread_id_to_resume, session.thread_id = None, str(uuid.uuid4())
                await emitter.send_resume_thread_error(translations()["conversation_missing"])
    await emitter.send_window_message({"sllm": "opened"})
    try:
        await page.server.models()
    except Problem as problem:
        await toast(f"{translations()[problem.kind]} {translations()[problem.kind + '_do']}")


async def _end_session(session: WebsocketSession, sid: str) -> None:
    if not session.to_clear:
        await asyncio.sleep(config.project.session_timeout)
    if WebsocketSession.get(sid) is session:  # otherwise the tab came back, with another socket
        user_sessions.pop(session.id, None)
        await session.delete()


async def _accept_message(conversations: Conversations, session: WebsocketSession, payload: dict) -> bool:
    """Store a message and answer it. False: it was refused."""
    page, sent = conversations.page, payload["message"]
    file_ids = [file["id"] for file in payload.get("fileReferences") or []]
    if uuid.UUID(sent["id"]).version != 4:
        raise ValueError("the id of a message has to be a random UUID")
    async with conversations.opened(session) as conversation:
        if conversation and sent["id"] in conversation.messages:  # after a network failure a browser sends again
            return True
        if await page.read(page.threads.has_message, sent["id"]):
            await toast(translations()["message_refused"])
            return False
        if conversation:
            return await _add_message(conversation, session, sent, file_ids)
    if not is_thread_id(session.thread_id) or await page.read(page.threads.owner, session.thread_id):
        session.thread_id = str(uuid.uuid4())
    conversation = await conversations.new(session.thread_id, session.user.identifier, translations())
    with conversation.keep_open():
        return await _add_message(conversation, session, sent, file_ids)


async def _add_message(conversation: Conversation, session: WebsocketSession, sent: dict, file_ids: list[str]) -> bool:
    text, content = translations(), storable(str(sent.get("output") or ""))
    files = [session.files[id] for id in file_ids if id in session.files]
    file_text = "\n\n".join(storable(file["text"]) for file in files)
    if not (content.strip() or sent.get("command") or file_text):
        return True
    page, thread, first = conversation.page, conversation.thread, not conversation.messages
    request = current_request(conversation)
    if page.too_long(content, file_text, request.system_prompt):
        await toast(text["message_too_long"].format(limit=page.max_file_mb))
        if not first:
            await conversation.show(session.socket_id)
        return False
    for id in file_ids:
        session.files.pop(id, None)
    command = bool(sent.get("command")) or not content.strip()  # a file alone is the text of a task
    message = Message("command" if command else "question", content, thread.leaf, sent["id"], author=request.user)
    if sent.get("command"):
        message.metadata["command"] = text["task"]
    if file_text:
        message.metadata["file"] = file_text
        props = {"files": [{"name": storable(file["name"]), "size": file["size"]} for file in files]}
        message.elements = {f"{message.id}-files": ("Files", props)}
    thread.settings, thread.profile = request.settings, request.profile
    if first:
        thread.name = content[:TITLE_LENGTH] or text["task"]
        await conversation.join(session.socket_id)
    await conversation.add(message)
    if first:
        await conversation.show(session.socket_id)  # replaces what a deleted conversation left in the tab
        await conversation.emit("first_interaction", {"interaction": thread.name, "thread_id": thread.id})
    if command:
        question = "" if content == text["task_starter"] else content
        await open_form(conversation, text, values={"context": file_text, "question": question})
    else:
        conversation.run(respond(conversation, request, message))
    return True


async def _edit(conversation: Conversation, sent: dict, sid: str) -> None:
    """The browser has already removed what follows: it is shown again, with the new branch or without."""
    text, content = translations(), storable(str(sent.get("output") or "").strip())
    message = conversation.messages.get(sent.get("id"))
    request, page = current_request(conversation), conversation.page
    refusal = None
    if message is None or message.role != "question" or not content:
        refusal = text["edit_refused"]
    elif page.too_long(content, message.metadata.get("file") or "", request.system_prompt):
        refusal = text["message_too_long"].format(limit=page.max_file_mb)
    elif not conversation.run(_answer_edited(conversation, request, message, content), alone=True):
        refusal = text["busy"]
    if refusal:
        await toast(refusal, "info")
        await conversation.show(sid)


async def _answer_edited(conversation: Conversation, request: RequestContext, message: Message, content: str) -> None:
    if content != message.content:
        file = message.metadata.get("file")
        edited = Message("question", content, message.parent, author=request.user,
                         metadata={"file": file} if file else {})  # fmt: skip
        edited.elements = {
            f"{edited.id}-files": element for element in message.elements.values() if element[0] == "Files"
        }
        conversation.place(edited)
        await conversation.save(edited)
        await conversation.show()
        message = edited
    await answer_again(conversation, request, message)
