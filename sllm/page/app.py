"""The page's behaviour, as Chainlit callbacks: answers, tasks, comparisons, thumbs, and what is said when things fail.

What a model was asked, and what it wrote, goes to the chat store; what the page shows is Chainlit's history. The
conversation that is sent is always read off the messages of the session, so that editing, regenerating and resuming
need nothing of their own.
"""

import asyncio
import logging
import random
import re
import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

import chainlit as cl
from chainlit.chat_context import chat_context
from chainlit.context import init_ws_context
from chainlit.data import get_data_layer
from chainlit.input_widget import Slider, TextInput
from chainlit.server import sio
from chainlit.session import WebsocketSession
from chainlit.types import ChatProfile, Starter

from sllm import tasks
from sllm.chatstore import Answer, ChatStore, NotStored
from sllm.page import files, users
from sllm.page.history import History
from sllm.page.server import KINDS, TURNS, Model, Piece, Problem, Server
from sllm.page.tables import Tables, show
from sllm.page.words import words

ARENA = "arena"
AUTHOR = "sLLM"  # of every answer; Chainlit finds no picture for names with Korean or a slash in them
SHOW_SECONDS = 0.1  # between two looks at a comparison that is being written
SETTINGS = {  # name: (lowest, highest, step, to start with)
    "temperature": (0, 2, 0.05, 0.7),
    "top_p": (0.05, 1, 0.05, 1),
    "top_k": (0, 200, 1, 0),
    "max_tokens": (16, 4096, 16, 512),
    "repetition_penalty": (0.8, 2, 0.05, 1),
}


@dataclass
class Writing:
    """An answer while it is written. `text` is the model's own, `shown` what the page renders."""

    text: str = ""
    shown: str = ""
    finish_reason: str | None = None
    conformance: dict | None = None
    messages: list[dict] | None = None
    problem: Problem | None = None
    waiting: str = ""
    tables: Tables = field(default_factory=Tables)

    def take(self, piece: Piece) -> str:
        """Add a piece; returns what is new to show."""
        self.text += piece.text
        self.finish_reason = piece.finish_reason or self.finish_reason
        self.conformance = piece.conformance or self.conformance
        self.messages = piece.messages or self.messages
        new = self.tables.feed(piece.text)
        self.shown += new
        return new

    def end(self) -> str:
        rest = self.tables.close()
        self.shown += rest
        return rest


@dataclass
class Page:
    """What the callbacks share. `users`: name → password hash, or None where nobody has to log in."""

    server: Server
    store: ChatStore
    system_prompt: str = ""
    max_file_mb: float = 1.0
    users: dict[str, str] | None = None


def install(page: Page) -> None:
    """Register everything with Chainlit."""
    history = History(page.store)
    cl.data_layer(lambda: history)

    if page.users is None:

        @cl.header_auth_callback
        async def local_user(headers) -> cl.User:
            return cl.User(identifier="local", display_name="local")
    else:

        @cl.password_auth_callback
        async def log_in(name: str, password: str) -> cl.User | None:
            if await users.check(page.users, name, password):
                return cl.User(identifier=name)
            return None

    @cl.set_chat_profiles
    async def profiles(user, language) -> list[ChatProfile]:
        said = words(language)
        try:
            models = await page.server.models()
        except Problem:
            return [ChatProfile(name="-", display_name=said["no_models"], markdown_description=said["no_models_about"])]
        best = max(models, key=lambda model: -KINDS.index(model.kind) if model.kind in KINDS else -len(KINDS)).id
        found = [
            ChatProfile(
                name=model.id,
                markdown_description=said[f"{model.kind if model.kind in KINDS else 'other'}_about"].format(
                    id=model.id
                ),
                icon="/public/model.svg",
                default=model.id == best,
            )
            for model in models
        ]
        if len(models) > 1:
            about = said["arena_about"]
            icon = "/public/arena.svg"
            found.append(ChatProfile(name=ARENA, display_name=said["arena"], markdown_description=about, icon=icon))
        return found

    @cl.set_starters
    async def starters(user, language) -> list[Starter]:
        said = words(language)
        choose, icon = said["task_starter"], "/public/task.svg"
        return [
            Starter(label=choose, message=choose, command=said["task"], icon=icon),
            *(Starter(label=text, message=text, icon="/public/ask.svg") for text in said["starters"]),
        ]

    @cl.on_chat_start
    async def start() -> None:
        await open_session(page, {})
        try:
            await page.server.models()
        except Problem as problem:
            await cl.context.emitter.send_toast(f"{said()[problem.kind]} {said()[problem.kind + '_do']}", "error")

    @cl.on_chat_resume
    async def resume(thread) -> None:
        await open_session(page, cl.context.session.chat_settings or {})
        steps = [step for step in thread["steps"] if (step.get("metadata") or {}).get("again")]
        if steps:
            await again_action(steps[-1]["metadata"]["again"]).send(for_id=steps[-1]["id"])

    @cl.on_settings_update
    async def settings_changed(settings: dict) -> None:
        seed = str(settings.get("seed") or "").strip()
        if seed and not _is_integer(seed):
            await cl.context.emitter.send_toast(said()["seed_wrong"].format(seed=seed[:40]), "error")
        else:
            await cl.context.emitter.send_toast(said()["settings_kept"], "success")

    @cl.on_message
    async def on_message(message: cl.Message) -> None:
        # Chainlit forgets the task of a message that was edited, and Stop would have nothing to stop.
        cl.context.session.current_task = asyncio.current_task()
        text, problems = await read_files(page, message)
        for problem in problems:
            await cl.context.emitter.send_toast(problem, "error")
        if message.command or text and not message.content.strip():
            message.metadata = (message.metadata or {}) | {"role": "command"}
            await message.update()
            asked = "" if message.content == said()["task_starter"] else message.content
            await open_form(page, context=text, question=asked)
            return
        if text:
            message.metadata = (message.metadata or {}) | {"file": text}
            await message.update()
        await respond(page)

    # Chainlit's own answer to Stop is a message in English.
    @sio.on("stop")
    async def stop(sid) -> None:
        if session := WebsocketSession.get(sid):
            init_ws_context(session)
            if session.current_task:
                session.current_task.cancel()

    @cl.action_callback("again")
    async def again(action: cl.Action) -> None:
        payload = action.payload
        if payload.get("task"):
            in_background(run_task(page, payload["task"], payload.get("fields") or {}, again=True))
        else:
            in_background(respond(page, until=payload.get("until")))

    @cl.action_callback("task_open")
    async def task_open(action: cl.Action) -> None:
        await open_form(page)

    @cl.action_callback("task_run")
    async def task_run(action: cl.Action) -> None:
        in_background(run_task(page, str(action.payload["task"]), dict(action.payload["fields"])))

    @cl.action_callback("vote")
    async def vote(action: cl.Action) -> dict:
        return await take_vote(page, str(action.payload.get("comparison")), str(action.payload.get("choice")))


def said() -> dict:
    """The words of this session's language."""
    return words(cl.context.session.environ.get("HTTP_ACCEPT_LANGUAGE"))


def rater() -> str:
    return cl.context.session.user.identifier


# ── a session ──────────────────────────────────────────────────────────────────────────────────────────────


async def open_session(page: Page, kept: dict) -> None:
    text = said()
    sliders = [
        Slider(id=name, label=text[name], initial=float(kept.get(name, start)), min=low, max=high, step=step,
               description=text[f"{name}_about"])
        for name, (low, high, step, start) in SETTINGS.items()
    ]  # fmt: skip
    await cl.ChatSettings(
        [
            TextInput(id="system_prompt", label=text["system_prompt"], multiline=True,
                      initial=kept.get("system_prompt", page.system_prompt), description=text["system_prompt_about"]),
            *sliders,
            TextInput(id="seed", label=text["seed"], initial=str(kept.get("seed") or ""),
                      description=text["seed_about"]),
        ]
    ).send()  # fmt: skip
    await cl.context.emitter.set_commands(
        [{"id": text["task"], "icon": "list-checks", "description": text["task_about"], "button": True}]
    )


def sampling() -> dict:
    """What the settings say, without what changes nothing: other servers refuse fields that they do not know."""
    settings = cl.context.session.chat_settings
    body = {name: _within(settings.get(name), low, high, start) for name, (low, high, _, start) in SETTINGS.items()}
    body["max_tokens"], top_k = int(body["max_tokens"]), int(body.pop("top_k"))
    if top_k:
        body["top_k"] = top_k
    if body["repetition_penalty"] == 1:
        del body["repetition_penalty"]
    seed = str(settings.get("seed") or "").strip()
    if _is_integer(seed):
        body["seed"] = int(seed)
    return body


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,18}", text) is not None


def _within(value, low: float, high: float, start: float) -> float:
    """What a browser sends need not be what the sliders allow."""
    return min(max(value, low), high) if isinstance(value, (int, float)) and value == value else start


def said_so_far() -> list[cl.Message]:
    """The messages of this session, each once: Chainlit adds them all again when a resumed page reconnects."""
    found: dict[str, cl.Message] = {}
    for message in chat_context.get():
        found.setdefault(message.id, message)
    return list(found.values())


def conversation(until: str | None = None) -> list[dict]:
    """The messages to send: what was said in this session, up to a message of the page's, whose answer is wanted anew.

    Of several answers to one question the last counts; a question that got none is left out; a task begins afresh.
    """
    messages: list[dict] = []
    for message in said_so_far():
        if message.id == until:
            break
        metadata = message.metadata or {}
        role = metadata.get("role")
        if message.type == "user_message" and role is None:
            text = message.content if "file" not in metadata else f"{metadata['file']}\n\n{message.content}"
            if messages and messages[-1]["role"] == "user":
                messages.pop()
            messages.append({"role": "user", "content": text})
        elif role == "answer":
            if metadata.get("messages"):
                messages = list(metadata["messages"])
            elif messages and messages[-1]["role"] == "assistant":
                messages.pop()
            messages.append({"role": "assistant", "content": metadata["text"]})
    if until or (messages and messages[-1]["role"] == "assistant"):
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
    prompt = str(cl.context.session.chat_settings.get("system_prompt") or "").strip()
    if prompt and not (messages and messages[0]["role"] == "system"):
        messages.insert(0, {"role": "system", "content": prompt})
    return messages


async def forget_after(until: str) -> None:
    """An answer that is wanted anew in the middle of a conversation ends it there, as an edited question does."""
    messages = said_so_far()
    place = next((number for number, message in enumerate(messages) if message.id == until), len(messages))
    later = [n for n in range(place, len(messages)) if messages[n].type == "user_message"]
    for message in messages[later[0] :] if later else []:
        await message.remove()


def in_background(work) -> None:
    """Run what a button asked for as the session's task, so that the page shows it running and Stop stops it."""

    async def run() -> None:
        await cl.context.emitter.task_start()
        try:
            async with cl.Step(name="on_message", type="run"):  # thumbs and the copy button belong to a run
                await work
        except Exception as error:
            logging.getLogger(__name__).exception("a bug")
            await say_problem(Problem("bug", type(error).__name__), {})
        finally:
            await cl.context.emitter.task_end()

    cl.context.session.current_task = asyncio.create_task(run())


# ── answers ────────────────────────────────────────────────────────────────────────────────────────────────


async def pieces(page: Page, path: str, body: dict, waiting) -> AsyncIterator[Piece]:
    """The server's pieces; while none has come, what passes is waited for. `waiting`: told of each wait."""
    turn = 0
    while True:
        begun = False
        try:
            async with aclosing(page.server.answer(path, body)) as answer:
                async for piece in answer:
                    begun = begun or bool(piece.text)
                    yield piece
            return
        except Problem as problem:
            if begun:
                raise
            if problem.kind == "broken":  # before anything came
                problem.kind = "down"
            seconds = problem.wait(turn)
            if seconds is None:
                raise
            turn += 1
            await waiting(problem, seconds, turn)
            await asyncio.sleep(seconds)


def waiting_text(problem: Problem, seconds: float, turn: int) -> str:
    text = said()
    return text["waiting"].format(why=text[problem.kind], seconds=round(seconds), turn=turn, turns=TURNS)


async def respond(page: Page, until: str | None = None) -> None:
    if until:
        await forget_after(until)
    messages = conversation(until)
    if not messages or messages[-1]["role"] != "user":
        return
    profile = cl.context.session.chat_profile
    if profile == ARENA:
        return await compare(page, messages)
    try:
        model = await find_model(page, profile)
    except Problem as problem:
        return await say_problem(problem, {})
    body = sampling() | {"model": model.id, "messages": messages}
    await answer(page, "chat/completions", body, model, messages, again={})


async def find_model(page: Page, profile: str | None) -> Model:
    models = await page.server.models()
    known = {model.id: model for model in models}
    return known.get(profile) or (models[0] if profile in (None, "-") else Model(profile))


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
    body = sampling() | {"model": model.id} | fields
    await answer(page, f"tasks/{task}", body, model, messages, again={"task": task, "fields": fields}, task=task)


async def answer(
    page: Page, path: str, body: dict, model: Model, messages: list[dict] | None, *, again: dict,
    task: str | None = None,
) -> None:  # fmt: skip
    """Stream one answer into a message, keep it, and put its buttons under it."""
    text = said()
    message = cl.Message(content="", author=AUTHOR)
    writing = Writing()

    async def waiting(problem: Problem, seconds: float, turn: int) -> None:
        writing.waiting = waiting_text(problem, seconds, turn)
        await message.stream_token(f"*{writing.waiting}*", is_sequence=True)

    stopped = False
    try:
        async with aclosing(pieces(page, path, body, waiting)) as answer_pieces:
            async for piece in answer_pieces:
                new = writing.take(piece)
                if new and writing.waiting:
                    writing.waiting = ""
                    await message.stream_token(new, is_sequence=True)
                elif new:
                    await message.stream_token(new)
    except asyncio.CancelledError:
        stopped, writing.finish_reason = True, "stopped"
    except Problem as problem:
        writing.problem, writing.finish_reason = problem, "broken"
    writing.end()
    message.content = writing.shown
    again = again or {"until": message.id}
    if writing.text:
        messages = writing.messages or messages
        message.metadata = {"role": "answer", "text": writing.text, "again": again}
        if task:
            message.metadata["messages"] = messages
        kept = {name: value for name, value in body.items() if name in (*SETTINGS, "seed")}
        try:
            if not messages:
                raise NotStored("the server did not say what it asked the model")
            await asyncio.to_thread(
                page.store.add_answer,
                Answer(
                    id=cl.context.current_run.id, conversation=cl.context.session.thread_id, rater=rater(),
                    model=model.id, prompt=messages, text=writing.text, finish_reason=writing.finish_reason,
                    sampling=kept, template_hash=model.template_hash, task=task,
                ),
            )  # fmt: skip
        except NotStored as error:
            await cl.context.emitter.send_toast(text["not_stored"].format(why=error), "error")
        if writing.conformance:
            message.elements = [verdict(writing.conformance, text)]
        message.actions = [] if writing.problem else [again_action(again)]
        await message.send()
    elif writing.waiting:
        await message.remove()
    if stopped:
        await cl.context.emitter.send_toast(text["stopped"], "info")
    elif writing.problem:
        await say_problem(writing.problem, again if writing.text or task else {})
    elif writing.finish_reason == "length":
        await cl.context.emitter.send_toast(text["cut"], "info")


async def say_problem(problem: Problem, again: dict) -> None:
    """What went wrong and what to do, with a button that tries again; the question stays where it is."""
    text = said()
    detail = f"\n\n> {show(problem.detail)}" if problem.detail else ""
    message = cl.Message(content=f"⚠️ **{text[problem.kind]}** {text[problem.kind + '_do']}{detail}", author=AUTHOR)
    message.is_error = True
    again = again or {"until": message.id}
    message.metadata = {"role": "problem", "again": again}
    message.actions = [again_action(again, "retry")]
    await message.send()


def again_action(payload: dict, word: str = "again") -> cl.Action:
    label = said()[word]
    if word == "retry":
        return cl.Action(name="again", payload=payload, label=label, icon="rotate-cw")
    return cl.Action(name="again", payload=payload, tooltip=label, icon="refresh-cw")


# ── tasks ──────────────────────────────────────────────────────────────────────────────────────────────────


async def open_form(page: Page, *, context: str = "", question: str = "") -> None:
    text = said()
    try:
        table = await page.server.tasks()
    except Problem as problem:
        return await say_problem(problem, {})
    if not table:
        await cl.Message(content=text["task_none"], author=AUTHOR, metadata={"role": "note"}).send()
        return
    korean = text["task"] == "과제"
    entries = [
        {
            "id": task["id"],
            "name": task["name_ko" if korean else "name_en"],
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
    name = table.get(task, {}).get("name_ko" if text["task"] == "과제" else "name_en", task)
    parts = [f"**{name}** `{task}`"]
    for field_name, value in fields.items():
        value = "\n".join(f"- {choice}" for choice in value) if isinstance(value, list) else show(str(value)).strip()
        parts.append(f"*{text.get(f'field_{field_name}', field_name)}*\n\n{value}")
    await cl.Message(
        content="\n\n".join(parts), type="user_message", author=rater(), metadata={"role": "task", "task": task}
    ).send()
    if layer := get_data_layer():  # the history lists what was asked, not the name of a button
        await layer.update_thread(cl.context.session.thread_id, name=f"{name}: {next(iter(fields.values()), '')}"[:80])


def verdict(conformance: dict, text: dict) -> cl.CustomElement:
    rules = [
        {"name": text["rules"].get(rule["rule"], rule["rule"]), "ok": rule["ok"], "reason": rule.get("reason")}
        for rule in conformance.get("rules", [])
    ]
    word = text["verdict_ok" if conformance.get("ok") else "verdict_broken"]
    return cl.CustomElement(name="Verdict", props={"ok": bool(conformance.get("ok")), "word": word, "rules": rules})


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


# ── comparisons ────────────────────────────────────────────────────────────────────────────────────────────


async def compare(page: Page, messages: list[dict]) -> None:
    """Two models, drawn by chance, answer at once, side by side and without their names."""
    text = said()
    try:
        models = await page.server.models()
    except Problem as problem:
        return await say_problem(problem, {})
    if len(models) < 2:
        return await say_problem(Problem("missing", text["arena_few"].format(count=len(models))), {})
    pair = random.SystemRandom().sample(models, 2)
    sides = [Writing(), Writing()]
    comparison = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
    element = cl.CustomElement(name="Arena", id=comparison, props={})
    element.props = arena_props(comparison, sides, "writing", text)
    message = cl.Message(content="", author=AUTHOR, elements=[element])
    await message.send()
    body = sampling() | {"messages": messages}

    async def write(side: Writing, model: Model) -> None:
        async def waiting(problem: Problem, seconds: float, turn: int) -> None:
            side.waiting = waiting_text(problem, seconds, turn)

        try:
            async with aclosing(pieces(page, "chat/completions", body | {"model": model.id}, waiting)) as answer_pieces:
                async for piece in answer_pieces:
                    side.take(piece)
                    side.waiting = "" if side.text else side.waiting
        except Problem as problem:
            side.problem = problem
        side.end()

    async def look() -> None:
        seen = None
        while True:
            await asyncio.sleep(SHOW_SECONDS)
            now = [(side.shown, side.waiting) for side in sides]
            if now != seen:
                seen = now
                element.props = arena_props(comparison, sides, "writing", text)
                await cl.context.emitter.send_element(element.to_dict())

    looking = asyncio.create_task(look())
    stopped = False
    try:
        async with asyncio.TaskGroup() as group:
            for side, model in zip(sides, pair, strict=True):
                group.create_task(write(side, model))
    except asyncio.CancelledError:
        stopped = True
    finally:
        looking.cancel()
    problem = next((side.problem for side in sides if side.problem), None)
    again = {"until": message.id}
    state = "stopped" if stopped or problem or not all(side.text for side in sides) else "vote"
    if state == "vote":
        answers = [
            Answer(
                id=f"{comparison}-{place}", conversation=cl.context.session.thread_id, rater=rater(), model=model.id,
                prompt=messages, text=side.text, finish_reason=side.finish_reason,
                sampling={name: value for name, value in body.items() if name != "messages"},
                template_hash=model.template_hash,
            )
            for place, side, model in zip(("left", "right"), sides, pair, strict=True)
        ]  # fmt: skip
        try:
            await asyncio.to_thread(page.store.add_comparison, comparison, *answers)
        except NotStored as error:
            state = "stopped"
            await cl.context.emitter.send_toast(text["not_stored"].format(why=error), "error")
    if sides[0].text:
        message.metadata = {"role": "answer", "text": sides[0].text, "again": again, "comparison": comparison}
    element.props = arena_props(comparison, sides, state, text)
    message.actions = [again_action(again)] if not problem else []
    await message.update()
    if stopped:
        await cl.context.emitter.send_toast(text["stopped"], "info")
    elif problem:
        await say_problem(problem, again)


def arena_props(comparison: str, sides: list[Writing], state: str, text: dict, voted: dict | None = None) -> dict:
    """What the browser gets to know: no name before the vote."""
    return {
        "comparison": comparison,
        "state": state,
        "left": sides[0].shown,
        "right": sides[1].shown,
        "waiting": [side.waiting for side in sides],
        "words": {
            name: text[name]
            for name in ("arena_ask", "arena_writing", "arena_left", "arena_right",
                         "vote_left", "vote_right", "vote_tie", "vote_both_bad")
        },
    } | (voted or {})  # fmt: skip


async def take_vote(page: Page, comparison: str, choice: str) -> dict:
    text = said()
    found = await asyncio.to_thread(page.store.comparison, comparison)
    if not found or found.left.conversation != cl.context.session.thread_id or found.left.rater != rater():
        await cl.context.emitter.send_toast(text["arena_lost"], "error")
        return {"ok": False}
    try:
        await asyncio.to_thread(page.store.vote, comparison, choice)
    except (NotStored, ValueError, KeyError) as error:
        await cl.context.emitter.send_toast(text["not_stored"].format(why=error), "error")
        return {"ok": False}
    sides = [Writing(shown=show(found.left.text)), Writing(shown=show(found.right.text))]
    voted = {
        "choice": choice, "names": [found.left.model, found.right.model],
        "voted": text["arena_voted"].format(
            choice=text[f"vote_{choice}"], left=found.left.model, right=found.right.model
        ),
    }  # fmt: skip
    message = next((m for m in said_so_far() if (m.metadata or {}).get("comparison") == comparison), None)
    if message is None:
        return {"ok": True}
    element = cl.CustomElement(name="Arena", id=comparison, props={}, for_id=message.id)
    element.props = arena_props(comparison, sides, "voted", text, voted)
    message.elements = [element]
    preferred = found.right if choice == "right" else found.left  # the conversation goes on from what was liked
    message.metadata = message.metadata | {"text": preferred.text}
    await message.update()
    return {"ok": True}
