"""The server's life: load while /ready says 503, warm up, answer, drain on SIGTERM, and end when the engine does.

uvicorn keeps the socket; this module decides when it closes. While draining the socket stays open, so that a load
balancer that asks is told 503 and not left to guess.
"""

import asyncio
import errno
import gc
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import SimpleNamespace

import uvicorn

from sllm.cli import InputError
from sllm.serve import gate, schemas
from sllm.serve.reply import Reply
from sllm.serve.service import Service

WATCH_SECONDS = 0.25
UNREAD_SECONDS = 120
DEAD_SECONDS = 4.0  # from the engine's death to the end of this process, at the most


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; InputError in one line where the port is taken or the host is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        why = "is in use; stop what runs there" if error.errno == errno.EADDRINUSE else f"fails: {error.strerror}"
        raise InputError(f"{host}:{port} {why}, or choose another --host or --port") from None
    # A client that stops reading is cut off by the kernel, or its unsent answer would keep the connection for ever.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000)
    sock.listen(2048)
    return sock


def end_now(code: int) -> None:
    """End this process and the engine's, whatever they are doing."""
    for process in multiprocessing.active_children():
        process.kill()
    os._exit(code)


class Server(uvicorn.Server):
    """uvicorn, with our ending instead of its own.

    Args:
        load: loads the engine; runs in a thread, returns (engine, adapters).
        ready: called when requests are answered.
    """

    def __init__(self, app, service: Service, *, load: Callable, ready: Callable, drain_seconds: float):
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=2,
                server_header=False,
            )  # fmt: skip
        )
        self.service, self.load, self.ready, self.drain_seconds = service, load, ready, drain_seconds
        self.problem: BaseException | None = None
        self.stopped_by: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def handle_exit(self, sig: int, frame) -> None:
        if self._loop is None or (self.stopped_by is not None and sig == signal.SIGINT):
            end_now(128 + sig)  # nothing has begun, or Ctrl-C once more: now
        self.stopped_by = self.stopped_by or sig
        self._loop.call_soon_threadsafe(self._stop.set)

    async def startup(self, sockets=None) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await super().startup(sockets)
        self._life = asyncio.create_task(self._live())

    async def _live(self) -> None:
        try:
            loading = asyncio.create_task(self._load())
            stop = asyncio.create_task(self._stop.wait())
            await asyncio.wait({loading, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not loading.done():  # told to stop while loading: there is nothing to finish
                end_now(0 if self.stopped_by == signal.SIGTERM else 130)
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
        service = self.service
        service.llm, service.adapters = await asyncio.to_thread(self.load)
        for adapter in service.adapters.values():
            await service.llm.add_lora(adapter)
        await warm_up(service)
        gc.collect()
        gc.freeze()  # what is loaded stays: the collector need not look at it between two tokens
        service.state = "ready"
        self.ready()

    async def _watch(self) -> None:
        """Returns when the engine is dead."""
        while not self.service.llm.errored:
            await asyncio.sleep(WATCH_SECONDS)
        self.service.state = "dead"
        deadline = threading.Timer(DEAD_SECONDS, end_now, (1,))  # whatever hangs, a supervisor gets to restart us
        deadline.daemon = True
        deadline.start()
        gate.log.error("the engine died")
        await self._cancel()
        await asyncio.sleep(1)  # in which /health says so

    async def _drain(self, watching: asyncio.Task) -> None:
        service = self.service
        service.state = "draining"
        gate.log.info(f"draining: {len(service.running)} to finish within {self.drain_seconds:g} s")
        end = self._loop.time() + self.drain_seconds
        while service.running and self._loop.time() < end and not watching.done():
            await asyncio.sleep(0.05)
        await self._cancel()

    async def _cancel(self) -> None:
        """Tell those that still wait, and give them a moment to hear it."""
        for task in list(self.service.running):
            task.cancel()
        end = self._loop.time() + 1
        while self.service.running and self._loop.time() < end:
            await asyncio.sleep(0.02)


async def warm_up(service: Service) -> None:
    """Answer made-up requests through the same code as real ones, so that the first real ones cost what later ones do:
    kernels compile, grammars load and buffers grow on first use. Few and many at once, each model alone and all in one
    batch, with JSON and with log-probabilities."""

    async def ask(model, number: int, **extra) -> None:
        messages = [{"role": "user", "content": f"{number} 안녕하세요. " * (1 + number % 4)}]
        most = max(1, service.context - 9)
        body = schemas.ChatRequest(messages=messages, max_tokens=8, ignore_eos=True, stream=number % 2 == 0, **extra)

        async def prepare():
            ids = (await service.prompt_ids(model, messages))[:most]
            top = 1 if extra.get("logprobs") else None
            return service.job(body, [ids], model, chat=True, id=f"warm-{number}", top_logprobs=top)

        async def nothing(*_):
            await asyncio.Event().wait()

        async def ignore(_):
            pass

        scope = {"state": {"record": SimpleNamespace(completion_tokens=0, finish=None)}}
        await Reply(service, 1, prepare, warm_up=True)(scope, nothing, ignore)

    models = list(service.models.values())
    for model in models:
        for count in (1, 2, min(32, service.seats.running), 1):
            await asyncio.gather(*(ask(model, number, temperature=number % 3 / 2) for number in range(count)))
    await asyncio.gather(*(ask(model, number) for number, model in enumerate(models)))
    await ask(models[0], 0, temperature=0.5, top_k=5, top_p=0.9, repetition_penalty=1.1, logprobs=True)
    await ask(models[0], 1, response_format={"type": "json_object"})
