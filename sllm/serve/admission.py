"""Admission: how many sequences run and wait, and 429 beyond that."""

import math
import time

from sllm.serve import metrics
from sllm.serve.access_log import RequestRecord
from sllm.serve.errors import ApiError


class Capacity:
    """Sequences that may run in the engine's batch and wait in its queue. More than that is refused at once: a queue
    without an end is an outage that nobody is told of."""

    def __init__(self, running: int, waiting: int):
        self.running, self.total = running, running + waiting
        self.taken = 0
        self._seconds = 1.0  # that a request takes, a running mean
        metrics.SEQUENCES.set_function(lambda: self.taken)

    def take(self, record: RequestRecord, count: int) -> None:
        """Reserve `count` sequences until the request ends. ApiError (429) where they do not fit."""
        if count > self.total:
            raise ApiError(400, f"{count} answers at once exceed this server's capacity ({self.total})", param="n")
        if self.taken + count > self.total:
            rounds = 1 + (self.taken - 1) // self.running
            wait = max(1, math.ceil(min(60, rounds * self._seconds / 2)))
            message = f"server at capacity; try again in {wait} s"
            raise ApiError(429, message, code="server_busy", headers={"Retry-After": str(wait)})
        self.taken += count
        record.sequences += count

    def give_back(self, record: RequestRecord) -> None:
        if record.sequences:
            self.taken -= record.sequences
            self._seconds += 0.1 * (time.monotonic() - record.started - self._seconds)
            record.sequences = 0
