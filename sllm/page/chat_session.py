"""What one browser tab brings along: the user, their language and their settings."""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import chainlit as cl
from chainlit.input_widget import Slider, TextInput

from sllm.chatstore import ChatStore
from sllm.page.accounts import AccountStore
from sllm.page.api_client import ApiClient
from sllm.page.threads import ThreadStore
from sllm.page.translations import texts_for

if TYPE_CHECKING:
    from sllm.page.conversation import Conversation

SETTINGS = {  # name: (lowest, highest, step, default)
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

    One thread writes, so that writes happen in the order in which they were requested. Neither it nor the readers are
    threads of asyncio's own pool, which others keep busy.

    Attributes:
        system_prompt: of new conversations. welcome, starters: a line and questions of the first page; None: our own
            questions.
    """

    server: ApiClient
    store: ChatStore
    system_prompt: str = ""
    max_file_mb: float = 1.0
    welcome: str = ""
    starters: list[str] | None = None
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "database-write"))
    _readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "database-read"))

    def __post_init__(self) -> None:
        self.max_file_bytes = int(self.max_file_mb * 2**20)
        self.accounts = AccountStore(self.store)
        self.threads = ThreadStore(self.store)

    async def write(self, job: Callable[..., Result], *args: object) -> Result:
        """Returns when the job is done. Cancelling the caller does not cancel the job."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._writer, job, *args))

    async def read(self, job: Callable[..., Result], *args: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._readers, job, *args)

    def too_long(self, *texts: str) -> bool:
        """Whether a message is longer than the largest file."""
        return sum(len(text.encode()) for text in texts) > self.max_file_bytes


@dataclass(frozen=True)
class RequestContext:
    """Who asks: the user's name, the texts in their language, the chosen model and the settings."""

    user: str
    text: dict
    profile: str | None
    settings: dict

    @property
    def system_prompt(self) -> str:
        return str(self.settings.get("system_prompt") or "").strip()

    def sampling(self) -> dict:
        """Request fields, without those that change nothing: other servers refuse fields that they do not know."""
        settings = self.settings
        body = {name: _clamp(settings.get(name), name) for name in SETTINGS}
        body["max_tokens"], top_k = int(body["max_tokens"]), int(body.pop("top_k"))
        if top_k:
            body["top_k"] = top_k
        if body["repetition_penalty"] == 1:
            del body["repetition_penalty"]
        seed = str(settings.get("seed") or "").strip()
        if is_integer(seed):
            body["seed"] = int(seed)
        return body


def current_request(conversation: "Conversation") -> RequestContext:
    """Who asks in the current session, with the model of the conversation."""
    session, thread = cl.context.session, conversation.thread
    profile, settings = session.chat_profile, dict(session.chat_settings)
    if profile in (None, "-") and thread.profile:  # the page was opened while the server was down
        profile = thread.profile
    if not settings:  # it was sent before the page could offer them
        settings = thread.settings or {"system_prompt": conversation.page.system_prompt}
    return RequestContext(session.user.identifier, translations(), profile, settings)


def translations() -> dict:
    """The texts in the language of the current session."""
    return texts_for(cl.context.session.environ.get("HTTP_ACCEPT_LANGUAGE"))


async def toast(message: str, kind: str = "error") -> None:
    """In the current tab."""
    await cl.context.emitter.send_toast(message, kind)


async def offer_settings(page: Page, saved: dict) -> None:
    """The settings and the task button of the input. `saved`: the settings of this conversation so far."""
    text = translations()

    def texts_of(name: str) -> dict:
        return {"id": name, "label": text[name], "description": text[f"{name}_about"]}

    system_prompt = str(saved.get("system_prompt", page.system_prompt) or "")
    sliders = [
        Slider(**texts_of(name), initial=_clamp(saved.get(name), name), min=low, max=high, step=step)
        for name, (low, high, step, _) in SETTINGS.items()
    ]
    prompt_input = TextInput(**texts_of("system_prompt"), initial=system_prompt, multiline=True)
    seed_input = TextInput(**texts_of("seed"), initial=str(saved.get("seed") or ""))
    await cl.ChatSettings([prompt_input, *sliders, seed_input]).send()
    await cl.context.emitter.set_commands(
        [{"id": text["task"], "icon": "list-checks", "description": text["task_about"], "button": True}]
    )


def is_integer(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,18}", text) is not None


def _clamp(value: object, name: str) -> float:
    """A browser may send values that the sliders do not allow."""
    low, high, _, default = SETTINGS[name]
    return float(min(max(value, low), high) if isinstance(value, (int, float)) and value == value else default)
