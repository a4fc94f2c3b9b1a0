"""The client; see `sllm.api_calls`."""

import asyncio
import hashlib
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from sllm.api_calls.calls import NOT_ASKED, UNANSWERED, UNPARSED, Job, Request, Result, Tally
from sllm.api_calls.journal import Completion, Journal
from sllm.api_calls.service import Service, Unanswered
from sllm.cli import InputError
from sllm.progress import counter

T = TypeVar("T")
J = TypeVar("J", bound=Job[Any])
FAILED_ROUNDS = 5  # so many calls in a row, on each of the connections, and the rest is not asked


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
        retries: of a call that the service does not answer (429, 5xx, timeouts, no connection, half an answer): after
            Retry-After, or after up to 1, 2, 4, 8, 16, 32, 60, 60, … seconds.
        timeout: seconds for one whole answer.
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
        retries: int = 6,
        timeout: float = 300,
        price: Sequence[float] | None = None,
        max_cost: float | None = None,
    ):
        self.model, self.base_url = model, base_url.rstrip("/")
        self.concurrency, self.price, self.max_cost = concurrency, price, max_cost
        self._service = Service(model, self.base_url, api_key_env=api_key_env, retries=retries, timeout=timeout)
        self.journal = Journal(journal)
        self.tally = Tally(cost=0.0 if price else None)
        self.failures: dict[str, Counter[str]] = {}  # of requests: Result.failure → reason → count
        for completion in self.journal.completions.values():
            self._count(completion)
        self._failed_in_row = 0

    def check(self, parameters: dict[str, Any] | None = None) -> None:
        """Ask one short question with these parameters, which is neither counted nor written.

        Raises:
            InputError: the service cannot be reached, or rejects the key, the model or the parameters. One that is only
                busy or loading passes.
        """
        self._service.run(self._service.check, parameters or {})

    def accepts(self, parameters: dict[str, Any]) -> bool:
        """Does the service take these parameters? Asks one short question, or two; InputError as `check`."""
        try:
            self.check(parameters)
        except InputError:
            self.check()  # raises what is wrong with more than the parameters
            return False
        return True

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
        jobs = {self._key(request, 0): Job(request, parse) for request in requests}
        results: dict[str, Result[T]] = {}

        def take(job: Job[T], result: Result[T]) -> None:
            results[self._key(job.request, 0)] = result

        waiting = []
        for job in jobs.values():
            result = self._recorded(job, attempts)
            if isinstance(result, Result):
                self._hand_over(job, result, take)
            else:
                waiting.append(job)
        self.ask_each(waiting, take, total=len(waiting), attempts=attempts, noun=noun)
        return [results[self._key(request, 0)] for request in requests]

    def ask_each(
        self,
        jobs: Iterable[J],
        take: Callable[[J, Result[Any]], None],
        *,
        total: int,
        attempts: int = 3,
        noun: str = "call",
        wanted: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """Ask, and hand over each result as soon as those of all jobs before it are there. Shows progress.

        Args:
            jobs: `total` of them; taken one by one, when there is a connection for it.
            take: is called in the order of the jobs; first with all that the journal answers.
            wanted: how many more results are of use; no job is begun that may be one too many.
        Raises:
            As `ask_all`.
        """
        rest, done = iter(jobs), 0
        for job in rest:
            result = self._recorded(job, attempts)
            if not isinstance(result, Result):
                rest = chain([job], rest)
                break
            if not wanted():
                return
            self._hand_over(job, result, take)
            done += 1
        else:
            return
        if wanted():
            report = counter(int(min(total - done, wanted())), noun)
            self._service.run(self._work, rest, take, attempts, report, wanted)

    async def _work(
        self,
        jobs: Iterator[J],
        take: Callable[[J, Result[Any]], None],
        attempts: int,
        report: Callable[..., None],
        wanted: Callable[[], float],
    ) -> None:
        begun: deque[tuple[J, list[Result[Any]]]] = deque()  # in order, each with its result once it is there
        changed, failures, tokens = asyncio.Condition(), 0, self._tokens()

        async def work() -> None:
            nonlocal failures, tokens
            while True:
                async with changed:
                    await changed.wait_for(lambda: not begun or len(begun) < wanted())
                    job = next(jobs, None) if len(begun) < wanted() else None
                    if job is None:
                        return
                    place: tuple[J, list[Result[Any]]] = (job, [])
                    begun.append(place)
                result = await self._settle(job, attempts)
                place[1].append(result)
                failures += bool(result.failure)
                before = tokens
                if result.value is not None or math.isinf(wanted()):  # else the wanted ones are what is counted
                    tokens = self._tokens()
                    report(tokens - before, f"{failures} failed" if failures else "")
                async with changed:
                    while begun and begun[0][1]:
                        first, (its_result,) = begun.popleft()
                        self._hand_over(first, its_result, take)
                    changed.notify_all()

        await asyncio.gather(*(work() for _ in range(self.concurrency)))

    def _hand_over(self, job: J, result: Result[Any], take: Callable[[J, Result[Any]], None]) -> None:
        if result.failure:
            self.failures.setdefault(result.failure, Counter())[result.reason] += 1
        take(job, result)

    def _recorded(self, job: Job[T], attempts: int) -> Result[T] | tuple[int, Request]:
        """What the journal says about a job, or the number of the attempt that has to be made, and what to ask."""
        request, completion, error = job.request, None, None
        for number in range(attempts):
            answer = self.journal.completions.get(self._key(request, number))
            if answer is None:
                return number, request
            completion = answer
            try:
                return Result(job.parse(completion), attempts=number + 1, completion=completion)
            except ValueError as raised:
                error = raised
                request = job.revise(completion, error) if job.revise else request
        return Result(None, UNPARSED, str(error), attempts, completion, error)

    async def _settle(self, job: Job[T], attempts: int) -> Result[T]:
        while not isinstance(result := self._recorded(job, attempts), Result):
            number, request = result
            try:
                await self._call(request, number)
            except _Failed as error:
                return Result(None, error.kind, str(error), number)
        return result

    async def _call(self, request: Request, attempt: int) -> None:
        """Ask, count, and write to the journal."""
        await self._service.check_once(request.parameters)
        if self._failed_in_row >= FAILED_ROUNDS * self.concurrency:
            raise _Failed(NOT_ASKED, "not asked: too many calls in a row had failed")
        if self.max_cost is not None and (self.tally.cost or 0) >= self.max_cost:
            raise _Failed(NOT_ASKED, f"not asked: the limit of the cost ({self.max_cost:g}) was reached")
        try:
            completion = await self._service.create(request, attempt)
        except Unanswered as error:
            self._failed_in_row += not error.is_of_request
            raise _Failed(UNANSWERED, str(error)) from None
        self._failed_in_row = 0
        self.journal.add(self._key(request, attempt), request.label, attempt, completion)
        self.tally.new_calls += 1
        self._count(completion)

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
