"""vLLM's async engine, in a process of its own, and what every answer of the server passes: `EngineClient`."""

import asyncio
import math
import multiprocessing
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from multiprocessing import resource_tracker

from sllm.serve import engine, environment, grammar, startup
from sllm.serve.access_log import current

HEARTBEAT_SECONDS = 2.0


class EngineClient:
    """The engine as one served model: what vLLM's handlers take for the engine, and the lean path asks.

    Its promises hold for every endpoint: the adapter is this model's, the engine gets exactly the rendered ids, an
    answer ends at this model's end-of-turn token, and no text has a broken character. What it does not define is the
    engine's.

    Args:
        renderer: of another model that has the same tokenizer; None: a new one.
    """

    def __init__(self, llm, served, renderer=None):
        from vllm.tokenizers.hf import get_cached_tokenizer

        from sllm.serve.renderer import Renderer

        self._llm, self.served = llm, served
        self.renderer = renderer or Renderer(llm.vllm_config, get_cached_tokenizer(served.tokenizer))

    def __getattr__(self, name: str):
        return getattr(self._llm, name)

    async def generate(self, prompt, sampling_params, request_id: str, *, lora_request=None, **kwargs) -> AsyncIterator:
        """Yield vLLM's `RequestOutput`s. Leaving the iteration early aborts the request in the engine."""
        params, ids = sampling_params, prompt["prompt_token_ids"]
        if any(type(token) is not int for token in ids):  # the engine's process would end on it
            raise ValueError("a prompt's token ids are integers")
        if params.structured_outputs is not None:
            await grammar.check(params.structured_outputs, self)
        if not params.ignore_eos:
            missing = [token for token in self.served.stop_token_ids if token not in params.all_stop_token_ids]
            params.stop_token_ids.extend(missing)
            params.all_stop_token_ids.update(missing)
        record = current.get()
        if record is not None and record.in_beam_search:  # counted there
            record = None
        if record is not None:
            record.model = self.served.name
            record.prompt_tokens += len(ids)
        checked = False
        async for output in self._llm.generate(prompt, params, request_id, lora_request=self.served.lora, **kwargs):
            if not checked and output.prompt_token_ids != ids:  # guarantee 1, at the last possible place
                raise RuntimeError("the engine was given other token ids than the prompt has")
            checked = True
            for piece in output.outputs:
                if piece.finish_reason == "error" and params.structured_outputs is not None:
                    raise grammar.refused("the engine could not follow it to the end; simplify it")
                if "\ufffd" in piece.text:  # bytes that form no character, which a model may write
                    piece.text = piece.text.replace("\ufffd", "")
                if piece.logprobs:
                    _make_finite(piece.logprobs)
            if output.prompt_logprobs:
                _make_finite(output.prompt_logprobs)
            if record is not None:
                _count(record, output)
            yield output


def _count(record, output) -> None:
    if record.first_token_at is None and record.stream:
        record.first_token_at = time.monotonic()
    for piece in output.outputs:
        record.completion_tokens += len(piece.token_ids)
        record.finish_reason = piece.finish_reason or record.finish_reason


def _make_finite(positions) -> None:
    """JSON has neither -inf nor NaN."""
    for entries in positions:
        for entry in (entries or {}).values():
            if not math.isfinite(entry.logprob):
                entry.logprob = -9999.0


class Heartbeat:
    """Does the engine's process answer? It may live and be stopped, or hang in a device."""

    def __init__(self, llm):
        self.llm, self.last = llm, time.monotonic()

    async def beat(self) -> None:
        while True:
            await self.llm.is_sleeping()  # the cheapest question that goes to the engine's loop and back
            self.last = time.monotonic()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    @property
    def silence(self) -> float:
        """Seconds since its last answer."""
        return time.monotonic() - self.last


def start(model: str, *, parallel: dict, seed: int, gpu_memory_utilization: float, max_num_seqs: int, **kwargs):
    """Start the engine's process, a vllm.AsyncLLM, and wait until it has loaded the model (half a minute on two cores).
    InputError for what vLLM refuses to load.

    Args:
        parallel: vLLM's own arguments that spread a model over devices and machines, as they are.
        kwargs: what `engine.options` takes.
    """
    settings = engine.options(model, **kwargs)
    if environment.on_cpu():  # a prompt that arrives with others waits less
        settings["scheduler_cls"] = "sllm.serve.cpu_scheduler.Scheduler"
    from vllm import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    # Ctrl-C in a terminal, and SIGTERM from systemd, reach every process of the group: the engine has to outlive them,
    # until this process has finished what runs. A blocked signal stays blocked in the processes started from here.
    resource_tracker.ensure_running()  # which unblocks them when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        with startup.errors_of(model):
            arguments = AsyncEngineArgs(
                max_num_seqs=max_num_seqs,
                max_logprobs=engine.LOGPROBS,
                seed=seed,
                gpu_memory_utilization=gpu_memory_utilization,
                enable_log_requests=False,
                renderer_num_workers=4,
                **parallel,
                **settings,
            )
            llm = AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.OPENAI_API_SERVER)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    llm.logger_manager = llm.logger_manager and DeferredStatLogger(llm.logger_manager)
    _end_together()
    return llm


def _end_together() -> None:
    """Should this process be killed outright, its engine must not stay behind with the accelerator's memory: a shell
    waits for the end of a pipe that only this process holds open."""
    engines = [str(process.pid) for process in multiprocessing.active_children()]
    wait = ["sh", "-c", 'read -r _; kill -9 "$@" 2>/dev/null', "sh", *engines]
    _watchers.append(subprocess.Popen(wait, stdin=subprocess.PIPE, start_new_session=True))


_watchers: list[subprocess.Popen] = []  # kept, or the pipes would close


class DeferredStatLogger:
    """vLLM's metrics, counted after the pieces of a step were sent and not before. Adapters go by their names without
    the version behind: vLLM makes a series for each combination of names, and keeps it for ever."""

    def __init__(self, manager):
        self._manager = manager

    def record(self, **kwargs) -> None:
        if stats := kwargs.get("scheduler_stats"):
            stats.running_lora_adapters = _without_versions(stats.running_lora_adapters)
            stats.waiting_lora_adapters = _without_versions(stats.waiting_lora_adapters)
        asyncio.get_running_loop().call_soon(lambda: self._manager.record(**kwargs))

    def __getattr__(self, name: str):
        return getattr(self._manager, name)


def _without_versions(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted((name.rpartition("@")[0] or name, count) for name, count in counts.items()))
