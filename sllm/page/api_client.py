"""The client of the server that the page talks to: models, tasks, and streamed answers.

Any OpenAI-compatible server works; only ours has `/v1/tasks` and reports the kind of a model. Every failure becomes a
`Problem` of one of a few kinds, each of which has a text in the translations.
"""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
from httpx_sse import SSEError, aconnect_sse

KINDS = ("merged", "dpo", "sft", "base")  # the last stage first: the default model
ARENA = "arena"  # profile with two models at once
MODEL_CACHE_SECONDS = 5.0
RETRIED_KINDS = ("down", "closed", "loading", "full")
MAX_RETRIES = 3  # of one request
MAX_WAIT_SECONDS = 10.0


class Problem(Exception):
    """The server did not answer as expected. `kind`: key of the translations; `detail`: the server's own sentence."""

    def __init__(self, kind: str, detail: str = "", retry_after: float | None = None):
        super().__init__(detail or kind)
        self.kind, self.detail, self.retry_after = kind, detail, retry_after

    def wait(self, retries: int) -> float | None:
        """Seconds before the next retry; None: a retry is useless, or the server's Retry-After is too long."""
        if self.kind not in RETRIED_KINDS or retries >= MAX_RETRIES:
            return None
        seconds = self.retry_after if self.retry_after is not None else 2.0**retries
        return seconds if seconds <= MAX_WAIT_SECONDS else None


@dataclass(frozen=True)
class ModelInfo:
    """One entry of /v1/models. `kind`: one of KINDS if the server reports it; `template_hash`: of the chat template."""

    id: str
    kind: str | None = None
    template_hash: str | None = None


@dataclass
class Chunk:
    """Part of an answer: text, finish reason and, of a task, the verdicts of its rules and the prompt."""

    text: str = ""
    finish_reason: str | None = None
    conformance: dict | None = None
    messages: list[dict] | None = None


class ApiClient:
    """
    Args:
        base_url: with the /v1.
        timeout: seconds until the first chunk of an answer, and between two chunks.
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
        self.last_models: list[ModelInfo] = []  # as the server last listed them; empty before the first request
        self._listed_at = 0.0
        self._tasks: list[dict] = []

    async def models(self, *, patient: bool = False) -> list[ModelInfo]:
        """As the server lists them, cached for a few seconds.

        Args:
            patient: if the server is down or loading, return its last list: the request for the answer is retried.
        Raises:
            Problem: the server cannot be reached.
        """
        if self.last_models and time.monotonic() - self._listed_at <= MODEL_CACHE_SECONDS:
            return self.last_models
        try:
            data = (await self._get("models"))["data"]
            models = [ModelInfo(entry["id"], entry.get("kind"), entry.get("chat_template_sha256")) for entry in data]
        except Problem as problem:
            if patient and self.last_models and problem.wait(0) is not None:
                return self.last_models
            raise
        except (KeyError, TypeError, AttributeError):
            raise Problem("bug", "/v1/models is not a list of models") from None
        if not models:
            raise Problem("missing", "/v1/models is an empty list")
        self.last_models, self._listed_at = models, time.monotonic()
        return models

    def lists(self, name: str | None) -> bool:
        """Whether the server last listed this model; for the arena, whether it listed two."""
        names = [model.id for model in self.last_models]
        return name in names or (name == ARENA and len(names) > 1)

    async def tasks(self) -> list[dict]:
        """The task table; empty if the server has none."""
        if not self._tasks:
            try:
                self._tasks = (await self._get("tasks")).get("data") or []
            except Problem as problem:
                if problem.kind != "missing":
                    raise
        return self._tasks

    async def _get(self, path: str) -> dict:
        try:
            response = await self.client.get(path, timeout=10.0)
        except httpx.HTTPError as error:
            raise _problem(error) from None
        if response.status_code != 200:
            raise _refusal(response.status_code, response.content, response.headers)
        try:
            return response.json()
        except ValueError:
            raise Problem("bug", f"{path} is not JSON") from None

    async def answer(self, path: str, body: dict) -> AsyncIterator[Chunk]:
        """Stream the chunks of an answer. Leaving the iteration closes the connection, which aborts the request.

        Args:
            path: "chat/completions", or "tasks/{id}".
        Raises:
            Problem: part of the answer may have arrived before.
        """
        ended = False
        try:
            async with aconnect_sse(self.client, "POST", path, json=body | {"stream": True}) as source:
                if source.response.status_code != 200:
                    raise _refusal(source.response.status_code, await source.response.aread(), source.response.headers)
                async for event in source.aiter_sse():
                    if event.data == "[DONE]":
                        return
                    chunk = _parse(event.data)
                    ended = ended or bool(chunk.finish_reason)
                    yield chunk
        except (httpx.HTTPError, SSEError) as error:
            raise _problem(error) from None
        if not ended:
            raise Problem("closed")


def storable(text: str) -> str:
    """Without what databases refuse: NUL, and lone surrogates."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _parse(data: str) -> Chunk:
    try:
        event = json.loads(data)
        if error := event.get("error"):
            status = error.get("code") if isinstance(error.get("code"), int) else 500
            raise _refusal(status, data.encode(), httpx.Headers())
        chunk = Chunk(conformance=event.get("conformance"), messages=event.get("messages"))
        for choice in event.get("choices") or []:
            chunk.text += storable((choice.get("delta") or {}).get("content") or "")
            chunk.finish_reason = choice.get("finish_reason") or chunk.finish_reason
        return chunk
    except (ValueError, AttributeError, TypeError):
        raise Problem("bug", "the server sent an event that is not a chunk of an answer") from None


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
    if code == "context_length_exceeded":
        return Problem("too_long", detail)
    retry_after = headers.get("retry-after", "")
    kind = {401: "key", 403: "key", 404: "missing", 408: "slow", 429: "full", 503: "loading", 504: "slow"}.get(status)
    kind = kind or ("bug" if status >= 500 else "refused")
    return Problem(kind, detail, float(retry_after) if retry_after.isdigit() else None)
