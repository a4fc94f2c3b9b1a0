"""The server's lifecycle: load while /ready says 503, warm up, answer, drain on SIGTERM, exit when the engine does.

uvicorn keeps the socket; this module decides when it closes. While draining the socket stays open, so that a load
balancer that asks is told 503 and not left to guess.
"""

import asyncio
import gc
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

import uvicorn

from sllm import network
from sllm.serve.access_log import log
from sllm.serve.connection import Connection
from sllm.serve.engine_client import Heartbeat
from sllm.serve.errors import ApiError
from sllm.serve.in_flight import InFlight, State
from sllm.serve.models import Models
from sllm.serve.warm_up import warm_up

WATCH_SECONDS = 0.25
STALLED_SECONDS = 20.0  # without a heartbeat of the engine; a step on a CPU may take some
OVERDUE_SECONDS = 300.0  # then the server exits: a supervisor restarts it
UNREAD_SECONDS = 120
DEAD_SECONDS = 4.0  # from the engine's death to the end of this process, at the most


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. InputError where the port is in use, or the host is not an address of this machine."""
    sock = network.bind(host, port)
    # A client that stops reading is cut off by the kernel, or its unsent answer would keep the connection for ever.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000)
    sock.listen(2048)
    return sock


def kill_processes(code: int) -> None:
    """End this process and the engine's, whatever they are doing."""
    for process in multiprocessing.active_children():
        process.kill()
    os._exit(code)


class Server(uvicorn.Server):
    """uvicorn, with our ending instead of its own. `load` returns the loaded engine, and runs in a thread; `ready` is
    called once requests are answered, `reload` on SIGHUP."""

    def __init__(
        self, app, models: Models, in_flight: InFlight, *, load: Callable, ready: Callable, reload: Callable,
        shutdown_timeout: float,
    ):  # fmt: skip
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # X-Forwarded-For may say anything
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
            server_header=False,
            h11_max_incomplete_event_size=32 * 1024,  # bytes of a request's headers
        )
        super().__init__(config)
        self.models, self.in_flight, self.shutdown_timeout = models, in_flight, shutdown_timeout
        self.load, self.ready, self.reload = load, ready, reload
        self.llm = self.heartbeat = None
        self.problem: BaseException | None = None
        self.stopped_by: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def state(self) -> State:
        state = self.in_flight.state
        return State.STALLED if state == State.READY and self.heartbeat.silence > STALLED_SECONDS else state

    def handle_exit(self, sig: int, frame) -> None:
        if self._loop is None or (self.stopped_by is not None and sig == signal.SIGINT):
            kill_processes(128 + sig)  # nothing has begun, or Ctrl-C once more: now
        self.stopped_by = self.stopped_by or sig
        self._loop.call_soon_threadsafe(self._stop.set)

    async def startup(self, sockets=None) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.add_signal_handler(signal.SIGHUP, self.reload)
        await super().startup(sockets)
        self._life = asyncio.create_task(self._run_lifecycle())

    async def _run_lifecycle(self) -> None:
        try:
            loading = asyncio.create_task(self._load())
            stop = asyncio.create_task(self._stop.wait())
            await asyncio.wait({loading, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not loading.done():  # told to stop while loading: there is nothing to finish
                kill_processes(0 if self.stopped_by == signal.SIGTERM else 130)
            await loading
            watching = asyncio.create_task(self._watch())
            await asyncio.wait({watching, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not watching.done():
                await self._drain(watching)
        except BaseException as error:
            self.problem = error
        finally:
            self.should_exit = True

    async def _load(self) -> None:
        self.llm = await asyncio.to_thread(self.load)
        await self.models.connect(self.llm)
        await warm_up(self.models, min(32, self.in_flight.settings.capacity.running))
        self.heartbeat = Heartbeat(self.llm)
        self._beating = asyncio.create_task(self.heartbeat.beat())
        gc.collect()
        gc.freeze()  # what is loaded stays: the collector need not look at it between two tokens
        self.in_flight.state = State.READY
        self.ready()

    async def _watch(self) -> None:
        """Returns when the engine is dead, or has not answered for so long that only a restart helps."""
        while not self.llm.errored and self.heartbeat.silence <= OVERDUE_SECONDS:
            await asyncio.sleep(WATCH_SECONDS)
        self.in_flight.state = State.DEAD
        deadline = threading.Timer(DEAD_SECONDS, kill_processes, (1,))
        deadline.daemon = True  # whatever hangs, a supervisor gets to restart us
        deadline.start()
        log.error("the engine died")
        await self._end_all()
        await asyncio.sleep(1)  # in which /health says so

    async def _drain(self, watching: asyncio.Task) -> None:
        self.in_flight.state = State.DRAINING
        log.info(f"draining: {len(self.in_flight.requests)} to finish within {self.shutdown_timeout:g} s")
        end = time.monotonic() + self.shutdown_timeout
        while self.in_flight.requests and time.monotonic() < end and not watching.done():
            await asyncio.sleep(0.05)
        await self._end_all()

    async def _end_all(self) -> None:
        """Tell those that still wait, and give them a moment to hear it."""
        self.in_flight.end_all(ApiError(503, "the server is stopping", code=self.in_flight.state))
        end = time.monotonic() + 1
        while self.in_flight.requests and time.monotonic() < end:
            await asyncio.sleep(0.02)
