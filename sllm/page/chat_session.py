"""Who is asking, in which language, with which settings: what one browser tab brings along."""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import chainlit as cl
from chainlit.input_widget import Slider, TextInput

from sllm.chatstore import ChatStore
from sllm.page.accounts import AccountStore
from sllm.page.api_client import ApiClient
from sllm.page.threads import ThreadStore
from sllm.page.thumbs import ThumbStore
from sllm.page.translations import words

SETTINGS = {  # name: (lowest, highest, step, to start with)
    "temperature": (0, 2, 0.05, 0.7),
    "top_p": (0.05, 1, 0.05, 1),
    "top_k": (0, 200, 1, 0),
    "max_tokens": (16, 4096, 16, 512),
    "repetition_penalty": (0.8, 2, 0.05, 1),
}
Result = TypeVar("Result")


@dataclass
class Page:
    """What everything on the page shares: the server with the models, and the database.

    One thread writes, so that writes happen in the order in which they were asked for. Neither it nor the readers are
    threads of asyncio's own pool, which others keep busy.
    """

    server: ApiClient
    store: ChatStore
    system_prompt: str = ""
    max_file_mb: float = 1.0
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "database-write"))
    _readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "database-read"))

    def __post_init__(self) -> None:
        self.accounts = AccountStore(self.store)
        self.threads = ThreadStore(self.store)
        self.thumbs = ThumbStore(self.store)

    async def write(self, job: Callable[..., Result], *args: object) -> Result:
        """Returns when the job is done. Cancelling the caller does not cancel the job."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._writer, job, *args))

    async def read(self, job: Callable[..., Result], *args: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._readers, job, *args)

    def too_long(self, *texts: str) -> bool:
        """Whether a message is longer than a file may be."""
        return sum(len(text.encode()) for text in texts) > self.max_file_bytes

    @property
    def max_file_bytes(self) -> int:
        return int(self.max_file_mb * 2**20)


@dataclass(frozen=True)
class Asker:
    """Whose question it is: name, words of their language, what they set, and the model that they chose."""

    user: str
    text: dict
    profile: str | None
    settings: dict

    @property
    def system_prompt(self) -> str:
        return str(self.settings.get("system_prompt") or "").strip()

    def sampling(self) -> dict:
        """What the settings say, without what changes nothing: other servers refuse fields that they do not know."""
        settings = self.settings
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


def asker() -> Asker:
    """Of the session at hand."""
    session = cl.context.session
    return Asker(session.user.identifier, translations(), session.chat_profile, dict(session.chat_settings))


def translations() -> dict:
    """The words of this session's language."""
    return words(cl.context.session.environ.get("HTTP_ACCEPT_LANGUAGE"))


async def toast(message: str, kind: str = "error") -> None:
    """To the tab at hand."""
    await cl.context.emitter.send_toast(message, kind)


async def offer_settings(page: Page, kept: dict) -> None:
    """The settings and the task button of the input. `kept`: what was set before, in this conversation."""
    text = translations()
    sliders = [
        Slider(id=name, label=text[name], initial=_within(kept.get(name), low, high, start), min=low, max=high,
               step=step, description=text[f"{name}_about"])
        for name, (low, high, step, start) in SETTINGS.items()
    ]  # fmt: skip
    await cl.ChatSettings(
        [
            TextInput(id="system_prompt", label=text["system_prompt"], multiline=True,
                      initial=str(kept.get("system_prompt", page.system_prompt) or ""),
                      description=text["system_prompt_about"]),
            *sliders,
            TextInput(id="seed", label=text["seed"], initial=str(kept.get("seed") or ""),
                      description=text["seed_about"]),
        ]
    ).send()  # fmt: skip
    await cl.context.emitter.set_commands(
        [{"id": text["task"], "icon": "list-checks", "description": text["task_about"], "button": True}]
    )


def is_integer(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,18}", text) is not None


def _within(value, low: float, high: float, start: float) -> float:
    """What a browser sends need not be what the sliders allow."""
    return float(min(max(value, low), high)) if isinstance(value, (int, float)) and value == value else float(start)
