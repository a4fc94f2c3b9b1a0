"""Which calls are worth making again, and after how long: with tenacity.

`openai` retries too, but it gives up where Retry-After is over two minutes, waits 15 seconds in all without one (limits
of most services are per minute), does not retry an answer that breaks off, and each call finds out for itself.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from sllm import cli

T = TypeVar("T")
LONGEST_WAIT = 600.0  # seconds; a service that asks for more is not waited for
TOLD_FROM = 10.0  # seconds
_PASSING = (408, 409, 425, 429)  # and 5xx


class NotAChatCompletion(ValueError):
    """An answer with 200 that is something else; some services send their errors so."""


def may_pass(error: BaseException) -> bool:
    """May the same call succeed later? A time-out, a lost connection, a torn answer, 429 and 5xx may; not where the
    quota is used up, or the service says that it is of no use."""
    import openai

    if not isinstance(error, openai.APIStatusError):
        return isinstance(
            error,
            openai.APIConnectionError | TimeoutError | json.JSONDecodeError | UnicodeDecodeError | NotAChatCompletion,
        )
    said = error.response.headers.get("x-should-retry")
    if said == "false" or error.code == "insufficient_quota" or (retry_after(error) or 0) > LONGEST_WAIT:
        return False
    return said == "true" or error.status_code in _PASSING or error.status_code >= 500


def retry_after(error: BaseException | None) -> float | None:
    """Seconds that the service asks to wait, from now; None where it does not say."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        if value := headers.get(name):
            try:
                seconds = float(value) / unit
            except ValueError:
                try:
                    seconds = parsedate_to_datetime(value).timestamp() - time.time()
                except ValueError:
                    continue
            if seconds == seconds:  # not a NaN
                return max(seconds, 0.0)
    return None


class Patience:
    """Calls of one client, each made again while that may help. Once a service says when to come back, no call goes
    out before.

    Args:
        retries: of one call.
        timeout: seconds for the whole answer; a service that sends one byte a minute is not waited for either.
    """

    def __init__(self, retries: int, timeout: float):
        self.retries, self.timeout = retries, timeout
        self._not_before = 0.0  # time.monotonic()

    async def call(
        self, make: Callable[[], Awaitable[T]], *, retries: int | None = None,
        is_retried: Callable[[BaseException], bool] = may_pass,
    ) -> T:  # fmt: skip
        """What `make` returns. Raises what its last try raised."""
        import tenacity

        # Half of each wait is fixed, half is random: 0.5–1 s, 1–2 s, 2–4 s, …, 30–60 s.
        backoff = tenacity.wait_exponential(0.5, 30) + tenacity.wait_random_exponential(0.5, 30)

        def wait(state: Any) -> float:
            asked = retry_after(state.outcome.exception())
            return float(backoff(state)) if asked is None else asked

        tries = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(is_retried),
            stop=tenacity.stop_after_attempt(1 + (self.retries if retries is None else retries)),
            wait=wait,
            sleep=asyncio.sleep,
            reraise=True,
        )
        return await tries(self._once, make)

    async def _once(self, make: Callable[[], Awaitable[T]]) -> T:
        while (left := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(left)
        try:
            async with asyncio.timeout(self.timeout):
                return await make()
        except TimeoutError:
            raise TimeoutError(f"no whole answer within {self.timeout:g} s") from None
        except Exception as error:
            asked = retry_after(error)
            if asked is not None and asked <= LONGEST_WAIT:
                if asked >= TOLD_FROM and self._not_before < time.monotonic():
                    print("\r\033[K" * sys.stdout.isatty(), end="")  # over the progress bar
                    cli.say("note", f"the service asks to wait {asked:.0f} s")
                self._not_before = max(self._not_before, time.monotonic() + asked)
            raise
