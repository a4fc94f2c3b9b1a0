"""What happens in a tab. These handlers take the place of Chainlit 2.12's own (`chainlit.socket`), each for a reason:

- `connection_successful`: theirs adds every message to its context again when a tab reconnects, and a reload during an
  answer shows the question alone. Here a tab is shown the conversation as it is, with the answer that is being written.
- `client_message`: theirs stores a message without waiting for it, so that an update can be overtaken by the insert.
- `edit_message`: theirs removes everything after the first message of that id, whatever it is. Here an edited question
  is a branch.
- `stop`: theirs answers in English, and ends the newest task only.
- `disconnect`: theirs makes a conversation again that was deleted.

`WebsocketSession.get_config` is replaced as well.

Buttons and forms come as HTTP requests to Chainlit's `/project/action`, and are registered in `app`.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

from chainlit.config import config
from chainlit.context import init_ws_context
from chainlit.server import sio
from chainlit.session import WebsocketSession
from chainlit.user_session import user_sessions

from sllm.page.answers import respond
from sllm.page.api_client import Problem, storable
from sllm.page.chat_session import Asker, Page, asker, offer_settings, toast, translations
from sllm.page.conversation import Conversation
from sllm.page.conversations import Conversations
from sllm.page.forms import answer_again, open_form
from sllm.page.history import is_thread_id
from sllm.page.logins import Logins
from sllm.page.messages import Message, ThreadMissing

TITLE_LENGTH = 80


def install(page: Page, conversations: Conversations, logins: Logins | None) -> None:
    """Register the handlers."""
    # Theirs starts a coroutine that it cannot wait for, to look for settings of a model that no model has.
    WebsocketSession.get_config = lambda session: config

    async def session_of(sid: str) -> WebsocketSession | None:
        """The session of a tab. A tab whose login has ended meanwhile is loaded again instead, and asks for one."""
        session = WebsocketSession.require(sid)
        emitter = init_ws_context(session).emitter
        if logins and not logins.allows(session.token):
            await emitter.emit("reload", {})
            await asyncio.sleep(1)  # it leaves by itself, where it still can
            await sio.disconnect(sid)
            return None
        return session

    @sio.on("connection_successful")
    async def connected(sid: str) -> None:
        if session := await session_of(sid):
            await _show_tab(page, conversations, session)

    @sio.on("disconnect")
    async def disconnected(sid: str) -> None:
        conversations.close_tab(sid)
        if session := WebsocketSession.get(sid):
            session.ending = asyncio.create_task(_end_session(session, sid))

    @sio.on("client_message")
    async def message(sid: str, payload: dict) -> None:
        if session := await session_of(sid):
            taken = False
            try:
                taken = await _take_message(page, conversations, session, payload)
            except ThreadMissing:
                await toast(translations()["conversation_deleted"], "info")
            # What was not taken goes back into the input.
            await session.emit("window_message", {"sllm": "taken" if taken else "returned"})

    @sio.on("edit_message")
    async def edit(sid: str, payload: dict) -> None:
        if session := await session_of(sid):
            async with opened(conversations, session) as conversation:
                if conversation:
                    await _edit(page, conversation, payload["message"], sid)
                else:
                    await toast(translations()["conversation_deleted"], "info")

    @sio.on("stop")
    async def stop(sid: str) -> None:
        if session := await session_of(sid):
            async with opened(conversations, session) as conversation:
                if conversation:
                    conversation.stop()


async def _show_tab(page: Page, conversations: Conversations, session: WebsocketSession) -> None:
    """What a tab shows that has connected: its conversation, or a new one."""
    emitter = init_ws_context(session).emitter
    session.has_first_interaction = True  # else Chainlit would name conversations after buttons
    await emitter.task_end()
    async with opened(conversations, session) as conversation:
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
    if WebsocketSession.get(sid) is session:  # else the tab came back, under another socket
        user_sessions.pop(session.id, None)
        await session.delete()


@contextlib.asynccontextmanager
async def opened(conversations: Conversations, session: WebsocketSession) -> AsyncIterator[Conversation | None]:
    """The conversation that a tab has open, kept in memory meanwhile; None: it is new, was deleted, or is somebody
    else's."""
    init_ws_context(session)
    found = await conversations.get(session.thread_id, translations()) if is_thread_id(session.thread_id) else None
    if found is None or found.thread.owner != session.user.identifier:
        yield None
        return
    with found.hold():
        yield found


async def _take_message(page: Page, conversations: Conversations, session: WebsocketSession, payload: dict) -> bool:
    """Store a message and answer it. False: it was refused."""
    sent = payload["message"]
    if uuid.UUID(sent["id"]).version != 4:
        raise ValueError("a message's id is a random UUID")
    async with opened(conversations, session) as conversation:
        if conversation and sent["id"] in conversation.messages:  # a browser that lost the network sends once more
            return True
        if await page.read(page.threads.has_message, sent["id"]):
            await toast(translations()["message_refused"])
            return False
        if conversation:
            return await _add_message(page, conversation, session, sent, payload.get("fileReferences") or [])
    if not is_thread_id(session.thread_id) or await page.read(page.threads.owner, session.thread_id):
        session.thread_id = str(uuid.uuid4())
    conversation = await conversations.new(session.thread_id, session.user.identifier, translations())
    with conversation.hold():
        return await _add_message(page, conversation, session, sent, payload.get("fileReferences") or [])


async def _add_message(
    page: Page, conversation: Conversation, session: WebsocketSession, sent: dict, references: list[dict]
) -> bool:
    text, content = translations(), storable(str(sent.get("output") or ""))
    ids = [file["id"] for file in references]
    files = [session.files[id] for id in ids if id in session.files]
    file = "\n\n".join(storable(entry["text"]) for entry in files)
    if not (content.strip() or sent.get("command") or file):
        return True
    asking, thread, first = asker_of(page, conversation), conversation.thread, not conversation.messages
    if page.too_long(content, file, asking.system_prompt):
        await toast(text["message_too_long"].format(limit=page.max_file_mb))
        if not first:
            await conversation.show(session.socket_id)
        return False
    for id in ids:
        session.files.pop(id, None)
    command = bool(sent.get("command")) or not content.strip()  # a file alone is what a task is about
    message = Message("command" if command else "question", content, thread.leaf, sent["id"], author=asking.user)
    if sent.get("command"):
        message.metadata["command"] = text["task"]
    if file:
        message.metadata["file"] = file
        shown = [{"name": storable(entry["name"]), "size": entry["size"]} for entry in files]
        message.elements = {f"{message.id}-files": ("Files", {"files": shown})}
    thread.settings, thread.profile = asking.settings, asking.profile
    if first:
        thread.name = content[:TITLE_LENGTH] or text["task"]
        await conversation.join(session.socket_id)
    await conversation.add(message)
    if first:
        await conversation.show(session.socket_id)  # not what a deleted conversation has left in the tab
        await conversation.emit("first_interaction", {"interaction": thread.name, "thread_id": thread.id})
    if command:
        question = "" if content == text["task_starter"] else content
        await open_form(page, conversation, text, values={"context": file, "question": question})
    else:
        conversation.run(respond(page, conversation, asking, message), text=text)
    return True


async def _edit(page: Page, conversation: Conversation, sent: dict, sid: str) -> None:
    """The browser has already cut off what follows: it is shown again, with the new branch or without."""
    text, content = translations(), storable(str(sent.get("output") or "").strip())
    message = conversation.messages.get(sent.get("id"))
    asking = asker_of(page, conversation)
    refusal = None
    if message is None or message.role != "question" or not content:
        refusal = text["edit_refused"]
    elif page.too_long(content, message.metadata.get("file") or "", asking.system_prompt):
        refusal = text["message_too_long"].format(limit=page.max_file_mb)
    elif not conversation.run(_answer_edited(page, conversation, asking, message, content), text=text, alone=True):
        refusal = text["busy"]
    if refusal:
        await toast(refusal, "info")
        await conversation.show(sid)


async def _answer_edited(
    page: Page, conversation: Conversation, asking: Asker, message: Message, content: str
) -> None:  # fmt: skip
    if content != message.content:
        file = message.metadata.get("file")
        edited = Message("question", content, message.parent, author=asking.user,
                         metadata={"file": file} if file else {})  # fmt: skip
        edited.elements = {
            f"{edited.id}-files": element for element in message.elements.values() if element[0] == "Files"
        }
        conversation.place(edited)
        await conversation.save(edited)
        await conversation.show()
        message = edited
    await answer_again(page, conversation, asking, message)


def asker_of(page: Page, conversation: Conversation) -> Asker:
    """Who asks in the session at hand, of the model that the conversation is with."""
    asking, thread = asker(), conversation.thread
    profile, settings = asking.profile, asking.settings
    if profile in (None, "-") and thread.profile:  # the page was opened while the server was down
        profile = thread.profile
    if not settings:  # it was sent before the page could offer them
        settings = thread.settings or {"system_prompt": page.system_prompt}
    return replace(asking, profile=profile, settings=settings)
