"""The server that the page talks to, over HTTP: models, tasks, and answers as they come.

Any OpenAI-compatible server will do; `/v1/tasks`, and what a model is, only ours says. Everything that goes wrong
becomes a `Problem` of a few kinds, each of which the page has words for.
"""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
from httpx_sse import SSEError, aconnect_sse

KINDS = ("merged", "dpo", "sft", "base")  # the last stage first: that is the model to greet people with
ARENA = "arena"  # the choice of two models at once, beside the models
MODEL_CACHE_SECONDS = 5.0
RETRIED = ("down", "closed", "loading", "full")
MAX_RETRIES = 3  # that a request is tried again before the page gives up
LONGEST_WAIT = 10.0


class Problem(Exception):
    """The server did not answer as it should. `kind` names the words; `detail` is the server's own sentence."""

    def __init__(self, kind: str, detail: str = "", retry_after: float | None = None):
        super().__init__(detail or kind)
        self.kind, self.detail, self.retry_after = kind, detail, retry_after

    def wait(self, turn: int) -> float | None:
        """Seconds before trying again, or None: that would change nothing, or the server asks for too much patience."""
        if self.kind not in RETRIED or turn >= MAX_RETRIES:
            return None
        seconds = self.retry_after if self.retry_after is not None else 2.0**turn
        return seconds if seconds <= LONGEST_WAIT else None


@dataclass(frozen=True)
class ModelInfo:
    """One entry of /v1/models. `kind`: one of KINDS where the server says so; `template_hash`: of its chat template."""

    id: str
    kind: str | None = None
    template_hash: str | None = None


@dataclass
class Chunk:
    """Some of an answer: text, why it ended, and, of a task, the verdict and the messages that it was asked with."""

    text: str = ""
    finish_reason: str | None = None
    conformance: dict | None = None
    messages: list[dict] | None = None


class ApiClient:
    """
    Args:
        base_url: with the /v1.
        timeout: seconds until the first piece of an answer, and between two pieces.
    """

    def __init__(self, base_url: str, api_key: str | None, *, timeout: float):
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.client = httpx.AsyncClient(
            base_url=base_url.rstrip("/") + "/",
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=5.0, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            trust_env=False,
        )
        self._models: tuple[float, list[ModelInfo]] = (0.0, [])
        self._tasks: list[dict] = []

    async def close(self) -> None:
        await self.client.aclose()

    async def models(self, *, patient: bool = False) -> list[ModelInfo]:
        """As the server lists them; asked at most every few seconds. Problem where it cannot be asked.

        Args:
            patient: a server that is down or loading is taken to have what it listed last: the answer will wait for it.
        """
        asked, models = self._models
        if time.monotonic() - asked > MODEL_CACHE_SECONDS or not models:
            try:
                data = (await self._get("models"))["data"]
                models = [
                    ModelInfo(entry["id"], entry.get("kind"), entry.get("chat_template_sha256")) for entry in data
                ]
            except Problem as problem:
                if patient and models and problem.wait(0) is not None:
                    return models
                raise
            except (KeyError, TypeError, AttributeError):
                raise Problem("bug", "/v1/models is no list of models") from None
            if not models:
                raise Problem("missing", "/v1/models lists none")
            self._models = (time.monotonic(), models)
        return models

    @property
    def last_models(self) -> list[ModelInfo]:
        """As the server listed them last; empty before it was asked."""
        return self._models[1]

    def lists(self, name: str | None) -> bool:
        """Whether the server was last seen to have this model; the arena, where it has two."""
        names = [model.id for model in self.last_models]
        return name in names or (name == ARENA and len(names) > 1)

    async def tasks(self) -> list[dict]:
        """The task table; empty where the server has none."""
        if not self._tasks:
            try:
                self._tasks = (await self._get("tasks")).get("data") or []
            except Problem as problem:
                if problem.kind != "missing":
                    raise
        return self._tasks

    async def _get(self, path: str) -> dict:
        try:
            answer = await self.client.get(path, timeout=10.0)
        except httpx.HTTPError as error:
            raise _problem(error) from None
        if answer.status_code != 200:
            raise _refusal(answer.status_code, answer.content, answer.headers)
        try:
            return answer.json()
        except ValueError:
            raise Problem("bug", f"{path} is no JSON") from None

    async def answer(self, path: str, body: dict) -> AsyncIterator[Chunk]:
        """Pieces of an answer as they come. Leaving the iteration closes the connection, at which the server aborts.

        Args:
            path: "chat/completions", or "tasks/{id}".
        Raises:
            Problem: some of the answer may have come already.
        """
        ended = False
        try:
            async with aconnect_sse(self.client, "POST", path, json=body | {"stream": True}) as source:
                if source.response.status_code != 200:
                    raise _refusal(source.response.status_code, await source.response.aread(), source.response.headers)
                async for event in source.aiter_sse():
                    if event.data == "[DONE]":
                        return
                    piece = _read(event.data)
                    ended = ended or bool(piece.finish_reason)
                    yield piece
        except (httpx.HTTPError, SSEError) as error:
            raise _problem(error) from None
        if not ended:
            raise Problem("closed")


def storable(text: str) -> str:
    """Without what no database takes: NUL, and halves of characters."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _read(data: str) -> Chunk:
    try:
        chunk = json.loads(data)
        if error := chunk.get("error"):
            status = error.get("code") if isinstance(error.get("code"), int) else 500
            raise _refusal(status, data.encode(), httpx.Headers())
        piece = Chunk(conformance=chunk.get("conformance"), messages=chunk.get("messages"))
        for choice in chunk.get("choices") or []:
            piece.text += storable((choice.get("delta") or {}).get("content") or "")
            piece.finish_reason = choice.get("finish_reason") or piece.finish_reason
        return piece
    except (ValueError, AttributeError, TypeError):
        raise Problem("bug", "the server sent something that is not a chunk of an answer") from None


def _problem(error: Exception) -> Problem:
    if isinstance(error, (httpx.ReadTimeout, httpx.WriteTimeout)):
        return Problem("slow")
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return Problem("down")
    if isinstance(error, SSEError):
        return Problem("bug", str(error)[:300])
    return Problem("closed")


def _refusal(status: int, body: bytes, headers: httpx.Headers) -> Problem:
    detail, code = "", None
    try:
        error = json.loads(body)["error"]
        detail, code = str(error["message"])[:500], error.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    after = headers.get("retry-after", "")
    after = float(after) if after.isdigit() else None
    if code == "context_length_exceeded":
        return Problem("too_long", detail)
    kind = {401: "key", 403: "key", 404: "missing", 408: "slow", 429: "full", 503: "loading", 504: "slow"}.get(status)
    return Problem(kind or ("bug" if status >= 500 else "refused"), detail, after)
