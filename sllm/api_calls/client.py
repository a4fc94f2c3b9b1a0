"""The client; see `sllm.api_calls`."""

import asyncio
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast
from urllib.parse import urlsplit

from sllm import cli
from sllm.api_calls import answers
from sllm.api_calls.journal import Completion, Journal
from sllm.cli import InputError
from sllm.network import is_loopback
from sllm.progress import counter

T = TypeVar("T")
UNANSWERED, UNPARSED, NOT_ASKED = "unanswered", "unparsed", "not_asked"  # Result.failure
FAILED_ROUNDS = 5  # so many calls in a row, on each of the connections, and the rest is not asked
CONNECT_SECONDS = 10.0


@dataclass(frozen=True, eq=False)
class Request:
    """One question to the model.

    Args:
        label: names the request in the journal.
        parameters: of the API: temperature, max_tokens, … `seed` grows by one with each attempt.
        again: parameters of the attempts after one whose answer did not parse; greedy decoding repeats itself.
        logprobs_of_last: of how many tokens, from the end, log-probabilities are kept where `parameters` ask for them.
    """

    label: str
    messages: list[dict[str, str]]
    parameters: dict[str, Any] = field(default_factory=dict)
    again: dict[str, Any] = field(default_factory=dict)
    logprobs_of_last: int = 0

    def of_attempt(self, number: int) -> dict[str, Any]:
        parameters = self.parameters | (self.again if number else {})
        if isinstance(parameters.get("seed"), int):
            parameters["seed"] += number
        return parameters


@dataclass(frozen=True)
class Result(Generic[T]):
    """`value`: what `parse` made of the answer; None after a `failure` (UNANSWERED, UNPARSED or NOT_ASKED), whose
    `reason` is a line of text."""

    value: T | None
    failure: str | None = None
    reason: str = ""


@dataclass
class Tally:
    """All finished calls of the journal, `new_calls` of them by this process. `cost`: in the currency of the price,
    None without one; `calls_without_usage`: the service did not count their tokens, so they are not in the cost."""

    calls: int = 0
    new_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    calls_without_usage: int = 0


class _Failed(Exception):
    """A call that is not answered: `kind` is UNANSWERED or NOT_ASKED."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


class Client:
    """
    Args:
        base_url: with the /v1.
        journal: None repeats every call.
        api_key_env: the environment variable with the key; local servers need none.
        retries: of a call that the service does not answer (429, 5xx, timeouts, no connection), by `openai`: after
            Retry-After, or after 0.5, 1, 2, 4, 8, 8, … seconds.
        timeout: seconds for one answer.
        price: for a million tokens of input and of output.
        max_cost: no call is started once the journal has cost so much; those under way are finished.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        journal: Path | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        retries: int = 5,
        timeout: float = 300,
        price: Sequence[float] | None = None,
        max_cost: float | None = None,
    ):
        self.model, self.base_url, self.api_key_env = model, base_url.rstrip("/"), api_key_env
        self.concurrency, self.retries, self.timeout = concurrency, retries, timeout
        self.price, self.max_cost = price, max_cost
        self.journal = Journal(journal)
        self.tally = Tally(cost=0.0 if price else None)
        self.failures: dict[str, Counter[str]] = {}  # of requests: Result.failure → reason → count
        for completion in self.journal.completions.values():
            self._count(completion)
        self._failed_in_row = 0
        self._is_checked = False
        self._api: Any = None  # openai.AsyncOpenAI of the event loop that runs
        self._check_lock: asyncio.Lock

    def check(self, parameters: dict[str, Any] | None = None) -> None:
        """Ask one short question with these parameters, which is neither counted nor written.

        Raises:
            InputError: the service cannot be reached, or rejects the key, the model or the parameters. One that is only
                busy or loading passes.
        """
        self._run(self._check, parameters or {})

    def ask_all(
        self,
        requests: Sequence[Request],
        parse: Callable[[Completion], T],
        *,
        attempts: int = 3,
        noun: str = "call",
    ) -> list[Result[T]]:
        """The results, in the order of the requests; equal requests are asked once. Shows progress.

        Args:
            parse: raises ValueError for an answer that cannot be used: it is asked again, up to `attempts` times.
            noun: what the progress counts, in the singular.
        Raises:
            InputError: as `check`, before the first call.
            cli.Interrupted: by Ctrl-C; what was answered is in the journal.
        """
        unique = {self._key(request, 0): request for request in requests}
        results = {key: self._recorded(request, parse, attempts) for key, request in unique.items()}
        waiting = [key for key, result in results.items() if isinstance(result, int)]
        report, failures, tokens = counter(len(waiting), noun), 0, self._tokens()

        async def work(keys: Any) -> None:
            nonlocal failures, tokens
            for key in keys:
                result = results[key] = await self._settle(unique[key], parse, attempts)
                failures += bool(result.failure)
                before, tokens = tokens, self._tokens()
                report(tokens - before, f"{failures} failed" if failures else "")

        async def work_side_by_side() -> None:
            keys = iter(waiting)
            await asyncio.gather(*(work(keys) for _ in range(min(self.concurrency, len(waiting)))))

        if waiting:
            self._run(work_side_by_side)
        settled = cast(dict[str, Result[T]], results)
        for result in settled.values():
            if result.failure:
                self.failures.setdefault(result.failure, Counter())[result.reason] += 1
        return [settled[self._key(request, 0)] for request in requests]

    def _recorded(self, request: Request, parse: Callable[[Completion], T], attempts: int) -> Result[T] | int:
        """What the journal says about a request, or the number of the attempt that has to be made."""
        reason = ""
        for number in range(attempts):
            completion = self.journal.completions.get(self._key(request, number))
            if completion is None:
                return number
            try:
                return Result(parse(completion))
            except ValueError as error:
                reason = str(error)
        return Result(None, UNPARSED, reason)

    async def _settle(self, request: Request, parse: Callable[[Completion], T], attempts: int) -> Result[T]:
        while isinstance(result := self._recorded(request, parse, attempts), int):
            try:
                await self._call(request, result)
            except _Failed as error:
                return Result(None, error.kind, str(error))
        return result

    async def _call(self, request: Request, attempt: int) -> None:
        """Ask, count, and write to the journal."""
        import openai

        async with self._check_lock:
            if not self._is_checked:
                await self._check(request.parameters)
        if self._failed_in_row >= FAILED_ROUNDS * self.concurrency:
            raise _Failed(NOT_ASKED, "not asked: too many calls in a row had failed")
        if self.max_cost is not None and (self.tally.cost or 0) >= self.max_cost:
            raise _Failed(NOT_ASKED, f"not asked: the limit of the cost ({self.max_cost:g}) was reached")
        try:
            completion = await self._create(request, attempt)
        except (openai.OpenAIError, ValueError) as error:  # ValueError: not a chat completion
            self._failed_in_row += not answers.is_of_request(error)
            raise _Failed(UNANSWERED, answers.sentence(error, self._api_key())) from None
        self._failed_in_row = 0
        self.journal.add(self._key(request, attempt), request.label, attempt, completion)
        self.tally.new_calls += 1
        self._count(completion)

    async def _create(self, request: Request, attempt: int) -> Completion:
        parameters = _set(request.of_attempt(attempt))
        answer = await self._api.chat.completions.create(
            model=self.model, messages=request.messages, extra_body=parameters
        )
        return answers.read(answer, request.logprobs_of_last)

    async def _check(self, parameters: dict[str, Any]) -> None:
        import openai

        question = [{"role": "user", "content": "1 + 1 = ?"}]
        api = self._api.with_options(max_retries=min(self.retries, 2))
        try:
            answer = await api.chat.completions.create(model=self.model, messages=question, extra_body=_set(parameters))
            answers.read(answer, 0)
        except (openai.OpenAIError, ValueError) as error:
            key = self._api_key()
            if advice := answers.advice(error, self.api_key_env, has_key=bool(key)):
                problem = answers.sentence(error, key)
                raise InputError(f"{self.base_url} ({self.model}): {problem}; {advice}") from None
        self._is_checked = True

    def _api_key(self) -> str | None:
        return os.environ.get(self.api_key_env)

    def _run(self, work: Callable[..., Any], *args: Any) -> None:
        """Run it in an event loop, with an API client of that loop."""
        import openai

        async def run() -> None:
            http = openai.DefaultAsyncHttpxClient(
                timeout=openai.Timeout(self.timeout, connect=CONNECT_SECONDS, pool=None),
                trust_env=not is_loopback(urlsplit(self.base_url).hostname or ""),  # no proxy reaches this machine
            )
            key = self._api_key() or "none"
            async with openai.AsyncOpenAI(
                base_url=self.base_url, api_key=key, max_retries=self.retries, http_client=http
            ) as self._api:
                self._check_lock = asyncio.Lock()
                await work(*args)

        try:
            asyncio.run(run())
        except KeyboardInterrupt:
            raise cli.Interrupted(cli.command_line(drop=["--overwrite"], add=["--resume"])) from None

    def _key(self, request: Request, attempt: int) -> str:
        service = [self.base_url, self.model]
        asked = [service, request.messages, request.of_attempt(attempt), request.logprobs_of_last, attempt]
        return hashlib.sha256(json.dumps(asked, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:32]

    def _tokens(self) -> int:
        return self.tally.prompt_tokens + self.tally.completion_tokens

    def _count(self, completion: Completion) -> None:
        tally = self.tally
        tally.calls += 1
        tally.prompt_tokens += completion.prompt_tokens
        tally.completion_tokens += completion.completion_tokens
        tally.calls_without_usage += not completion.usage_known
        if self.price:
            tally.cost = (tally.prompt_tokens * self.price[0] + tally.completion_tokens * self.price[1]) / 1e6


def _set(parameters: dict[str, Any]) -> dict[str, Any]:
    """Without those that are None."""
    return {name: value for name, value in parameters.items() if value is not None}
