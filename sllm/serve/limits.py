"""Who may ask, how often, and how many at once. Standard library only; all of it runs in one event loop."""

import hashlib
import hmac
import math
import time
from contextlib import contextmanager

from sllm.cli import InputError


class Keys:
    """API keys, kept as digests.

    Args:
        given: `NAME:KEY`, or a bare key, which is called key1, key2, … in the order given. Names go to the log.
    """

    def __init__(self, given: list[str]):
        self._digests: list[tuple[str, bytes]] = []
        for number, text in enumerate(given, 1):
            name, found, key = text.partition(":")
            name, key = (name, key) if found else (f"key{number}", text)
            if not name or not key.strip() or not key.isascii():
                raise InputError(f"API key {number} is empty or not ASCII; give KEY or NAME:KEY")
            self._digests.append((name, _digest(key)))
        if len(set(self.names)) < len(self.names):
            raise InputError("two API keys have the same name")

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self._digests]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def name_of(self, key: str) -> str | None:
        """Name of a key, or None. Takes as long for a wrong key as for a right one: digests are compared, whole,
        and all of them."""
        digest, found = _digest(key), None
        for name, known in self._digests:
            if hmac.compare_digest(digest, known):
                found = name
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class RateLimit:
    """A token bucket for each caller: `rpm` requests at once, and `rpm` a minute after that."""

    def __init__(self, rpm: int | None):
        self.rpm = rpm
        self._buckets: dict[str, tuple[float, float]] = {}  # caller → (requests left, when)

    def wait(self, caller: str) -> float:
        """0 and one request is counted; or the seconds until the next is allowed."""
        if self.rpm is None:
            return 0.0
        now = time.monotonic()
        if len(self._buckets) > 10_000:  # callers without keys are told apart by address: forget the idle
            self._buckets = {name: (left, at) for name, (left, at) in self._buckets.items() if now - at < 60}
        left, at = self._buckets.get(caller, (float(self.rpm), now))
        left = min(self.rpm, left + (now - at) * self.rpm / 60)
        self._buckets[caller] = (left - 1, now) if left >= 1 else (left, now)
        return 0.0 if left >= 1 else (1 - left) * 60 / self.rpm


class Full(Exception):
    """Every place is taken; `retry_after` is in whole seconds."""

    def __init__(self, retry_after: int):
        self.retry_after = retry_after
        super().__init__(retry_after)


class Seats:
    """Places for sequences: `running` in the engine's batch and `waiting` in its queue, first come first served.

    More than that is refused at once: a queue without an end is an outage that nobody is told of.
    """

    def __init__(self, running: int, waiting: int):
        self.running, self.total = running, running + waiting
        self.taken = 0
        self._seconds = 1.0  # that a request takes, a running mean

    def check(self, count: int) -> None:
        """Raises Full when `count` more do not fit."""
        if self.taken + count > self.total:
            rounds = 1 + (self.taken - 1) // self.running
            raise Full(max(1, math.ceil(min(60, rounds * self._seconds / 2))))

    @contextmanager
    def take(self, count: int):
        self.check(count)
        self.taken += count
        started = time.monotonic()
        try:
            yield
        finally:
            self.taken -= count
            self._seconds += 0.1 * (time.monotonic() - started - self._seconds)
