"""A session of the page: its settings, and its conversation as it is sent.

The conversation is always read off the messages of the session, so that editing, regenerating and resuming need nothing
of their own.
"""

import re
from dataclasses import dataclass

import chainlit as cl
from chainlit.chat_context import chat_context
from chainlit.input_widget import Slider, TextInput

from sllm.chatstore import ChatStore
from sllm.page.server import Server
from sllm.page.words import words

ARENA = "arena"
SETTINGS = {  # name: (lowest, highest, step, to start with)
    "temperature": (0, 2, 0.05, 0.7),
    "top_p": (0.05, 1, 0.05, 1),
    "top_k": (0, 200, 1, 0),
    "max_tokens": (16, 4096, 16, 512),
    "repetition_penalty": (0.8, 2, 0.05, 1),
}


@dataclass
class Page:
    """What the callbacks share. `users`: name → password hash, or None where nobody has to log in."""

    server: Server
    store: ChatStore
    system_prompt: str = ""
    max_file_mb: float = 1.0
    users: dict[str, str] | None = None


def said() -> dict:
    """The words of this session's language."""
    return words(cl.context.session.environ.get("HTTP_ACCEPT_LANGUAGE"))


def rater() -> str:
    return cl.context.session.user.identifier


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
    if is_integer(seed):
        body["seed"] = int(seed)
    return body


def is_integer(text: str) -> bool:
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
