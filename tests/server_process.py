"""Starts real servers for the tests: api_server.py on the tiny model with the real engine."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
from conftest import ROOT


class Running:
    """A server process. `log`: its stderr so far, a JSON object a line."""

    def __init__(self, *flags: object, ready: bool = True, **env: str):
        self.process = subprocess.Popen(
            [sys.executable, "api_server.py", "--port", "0", *map(str, flags)],
            cwd=ROOT,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        for stream, kept in ((self.process.stdout, self.lines), (self.process.stderr, self.errors)):
            threading.Thread(target=lambda stream=stream, kept=kept: kept.extend(stream), daemon=True).start()
        said = self.wait_for(lambda: next((line for line in list(self.lines) if line.startswith("loading")), None))
        self.url = said.split()[1].removesuffix("/ready")
        self.port = int(self.url.rsplit(":", 1)[1])
        if ready:
            self.wait_for(lambda: self.status("/ready") == 200, 180)

    def wait_for(self, what, seconds: float = 60):
        """The first true value of `what()`; AssertionError after `seconds`, or when the server ends."""
        end = time.monotonic() + seconds
        while not (value := what()):
            assert self.process.poll() is None, "".join(self.errors) or "".join(self.lines)
            assert time.monotonic() < end, f"nothing within {seconds} s: {''.join(self.errors[-5:])}"
            time.sleep(0.02)
        return value

    def status(self, path: str) -> int:
        try:
            return httpx.get(self.url + path, timeout=10).status_code
        except httpx.TransportError:
            return 0

    @property
    def log(self) -> list[dict]:
        return [json.loads(line) for line in list(self.errors) if line.startswith("{")]

    def metric(self, name: str) -> float:
        """Sum over the labels of a metric of /metrics."""
        lines = httpx.get(self.url + "/metrics", timeout=10).text.splitlines()
        found = [line for line in lines if line.startswith((name + " ", name + "{"))]
        assert f"# HELP {name} " in "\n".join(lines), f"{name} is not among the metrics"
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    def idle(self) -> bool:
        """Nothing runs or waits, in the engine or in front of it."""
        names = ("sllm_sequences_in_flight", "vllm:num_requests_running", "vllm:num_requests_waiting")
        return all(self.metric(name) == 0 for name in names)

    def engine_pids(self) -> list[int]:
        """Processes that descend from the server."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                children = [int(child) for child in task.read_text().split()]
                found, todo = found + children, todo + children
        return found

    def stop(self, seconds: float = 30) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)
