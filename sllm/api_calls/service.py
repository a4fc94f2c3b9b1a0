"""One model behind an OpenAI-compatible chat API: a call, tried again while that may help. See `sllm.api_calls`."""

import asyncio
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from sllm import cli
from sllm.api_calls import answers
from sllm.api_calls.calls import Request
from sllm.api_calls.journal import Completion
from sllm.api_calls.retries import Patience, may_pass
from sllm.cli import InputError
from sllm.network import is_loopback

CONNECT_SECONDS = 10.0


class Unanswered(Exception):
    """A call without an answer, after all its retries. `is_of_request`: this one request was refused (a prompt that is
    too long), and the service is well."""

    def __init__(self, reason: str, *, is_of_request: bool):
        super().__init__(reason)
        self.is_of_request = is_of_request


class Service:
    """Args: as of `sllm.api_calls.Client`."""

    def __init__(self, model: str, base_url: str, *, api_key_env: str, retries: int, timeout: float):
        self.model, self.base_url, self.api_key_env, self.timeout = model, base_url, api_key_env, timeout
        self._patience = Patience(retries, timeout)
        self._is_checked = False
        self._api: Any = None  # openai.AsyncOpenAI of the event loop that runs
        self._check_lock: asyncio.Lock

    def run(self, work: Callable[..., Any], *args: Any) -> None:
        """Run it in an event loop, with an API client of that loop."""
        import openai

        async def run() -> None:
            http = openai.DefaultAsyncHttpxClient(
                timeout=openai.Timeout(self.timeout, connect=CONNECT_SECONDS, pool=None),
                trust_env=not is_loopback(urlsplit(self.base_url).hostname or ""),  # no proxy reaches this machine
            )
            async with openai.AsyncOpenAI(
                base_url=self.base_url, api_key=self._api_key() or "none", max_retries=0, http_client=http
            ) as self._api:
                self._check_lock = asyncio.Lock()
                await work(*args)

        try:
            asyncio.run(run())
        except KeyboardInterrupt:
            raise cli.Interrupted(cli.command_line(drop=["--overwrite"], add=["--resume"])) from None

    async def create(self, request: Request, attempt: int) -> Completion:
        """Unanswered, with the reason."""
        import openai

        parameters = request.of_attempt(attempt)
        try:
            return await self._patience.call(lambda: self._post(request.messages, parameters, request.logprobs_of_last))
        except (openai.OpenAIError, TimeoutError, ValueError) as error:  # ValueError: not a chat completion
            reason = answers.sentence(error, self._api_key())
            raise Unanswered(reason, is_of_request=answers.is_of_request(error)) from None

    async def check_once(self, parameters: dict[str, Any]) -> None:
        """`check`, unless one succeeded."""
        async with self._check_lock:
            if not self._is_checked:
                await self.check(parameters)

    async def check(self, parameters: dict[str, Any]) -> None:
        """See `Client.check`."""
        import openai

        question = [{"role": "user", "content": "1 + 1 = ?"}]
        try:
            await self._patience.call(
                lambda: self._post(question, parameters, 0),
                retries=min(self._patience.retries, 2),
                is_retried=lambda error: may_pass(error) and not isinstance(error, ValueError),
            )
        except (openai.OpenAIError, TimeoutError, ValueError) as error:
            key = self._api_key()
            if advice := answers.advice(error, self.api_key_env, has_key=bool(key)):
                problem = answers.sentence(error, key)
                raise InputError(f"{self.base_url} ({self.model}): {problem}; {advice}") from None
        self._is_checked = True

    async def _post(self, messages: list[dict[str, str]], parameters: dict[str, Any], logprobs: int) -> Completion:
        given = {name: value for name, value in parameters.items() if value is not None}
        answer = await self._api.chat.completions.create(model=self.model, messages=messages, extra_body=given)
        return answers.read(answer, logprobs)

    def _api_key(self) -> str | None:
        return os.environ.get(self.api_key_env)
