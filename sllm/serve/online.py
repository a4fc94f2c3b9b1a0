"""vLLM's async engine, in a process of its own: token ids in, pieces of text out as they come.

The server's half of `engine`, which says how vLLM is set up; like it, imports vLLM inside its functions only.
"""

import asyncio
import multiprocessing
import signal
import subprocess
from collections.abc import AsyncIterator
from multiprocessing import resource_tracker

from sllm.serve import engine, startup


def start(model: str, adapters: dict[str, str], *, parallel: dict, seed: int, gpu_memory_utilization: float, **how):
    """Start the engine's process and wait until it has loaded the model (half a minute on two cores).

    Args:
        adapters: folder of each adapter by the name that it is served under.
        parallel: vLLM's own arguments that spread a model over devices and machines, as they are.
        how: `max_running`, and what `engine.options` takes.
    Returns:
        (vllm.AsyncLLM, {name: the LoRA request that chooses this adapter})
    Raises:
        InputError: what vLLM refuses to load.
    """
    max_running = how.pop("max_running")
    settings = engine.options(model, adapters=list(adapters.values()), **how)
    if engine.on_cpu():  # who asks at the same time as a few others waits less
        settings["scheduler_cls"] = "sllm.serve.cpu_schedule.Scheduler"
    from vllm import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    # Ctrl-C in a terminal, and SIGTERM from systemd, reach every process of the group: the engine has to outlive them,
    # until this process has finished what runs. A blocked signal stays blocked in the processes started from here.
    resource_tracker.ensure_running()  # which unblocks them when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        with startup.errors_of(model):
            arguments = AsyncEngineArgs(
                max_num_seqs=max_running,
                max_logprobs=engine.LOGPROBS,
                seed=seed,
                gpu_memory_utilization=gpu_memory_utilization,
                enable_log_requests=False,
                **parallel,
                **settings,
            )
            llm = AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.OPENAI_API_SERVER)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    llm.logger_manager = llm.logger_manager and _Later(llm.logger_manager)
    _end_together()
    return llm, {
        name: engine.lora_request(folder, name, number) for number, (name, folder) in enumerate(adapters.items(), 1)
    }


def _end_together() -> None:
    """Should this process be killed outright, its engine must not stay behind with the accelerator's memory: a shell
    waits for the end of a pipe that only this process holds open."""
    engines = [str(process.pid) for process in multiprocessing.active_children()]
    wait = ["sh", "-c", 'read -r _; kill -9 "$@" 2>/dev/null', "sh", *engines]
    _watchers.append(subprocess.Popen(wait, stdin=subprocess.PIPE, start_new_session=True))


_watchers: list[subprocess.Popen] = []  # kept, or the pipes would close


class _Later:
    """vLLM's metrics, counted after the pieces of a step were sent and not before."""

    def __init__(self, manager):
        self._manager = manager

    def record(self, **what) -> None:
        asyncio.get_running_loop().call_soon(lambda: self._manager.record(**what))

    def __getattr__(self, name: str):
        return getattr(self._manager, name)


def sampling_params(settings: dict, *, stop_token_ids: list[int], stream: bool, json_schema: dict | str | None = None):
    """`SamplingParams` of one request.

    Args:
        settings: vLLM's own names, each with the value that is in force.
        stop_token_ids: what ends an answer of this model, beside those in `settings`.
        json_schema: the answer has to be JSON of this schema; "object": any JSON object.
    Raises:
        Refused: vLLM does not take a value.
    """
    from vllm.exceptions import VLLMClientError
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

    ends = [] if settings["ignore_eos"] else stop_token_ids
    settings = settings | {"stop_token_ids": [*ends, *(settings["stop_token_ids"] or [])]}
    try:
        if json_schema is not None:
            how = {"json_object": True} if json_schema == "object" else {"json": json_schema}
            settings["structured_outputs"] = StructuredOutputsParams(**how)
        return SamplingParams(
            **settings,
            output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
            skip_clone=True,  # made for this request alone
        )
    except (VLLMClientError, ValueError) as error:
        raise Refused(error) from None


async def generate(llm, ids: list[int], params, request_id: str, lora=None) -> AsyncIterator:
    """Yield vLLM's `RequestOutput`s: with `stream` the new pieces, else one with whole answers.

    Leaving the iteration early aborts the request in the engine.
    Raises:
        Refused: vLLM does not take the request.
        EngineDied: the engine's process is gone.
    """
    from vllm.exceptions import VLLMClientError
    from vllm.v1.engine.exceptions import EngineDeadError

    # A prompt with a "type" is ready for the engine: vLLM then takes no detour over a thread.
    prompt = {"type": "token", "prompt_token_ids": ids}
    checked = False
    try:
        async for output in llm.generate(prompt, params, request_id, lora_request=lora):
            if not checked and output.prompt_token_ids != ids:  # guarantee 1, at the last possible place
                raise RuntimeError("the engine was fed other token ids than the prompt has")
            checked = True
            yield output
    except EngineDeadError:
        raise EngineDied from None
    except (VLLMClientError, ValueError) as error:
        raise Refused(error) from None


class Refused(Exception):
    """vLLM does not take a request; `param` names the field, where it says so."""

    def __init__(self, error: Exception):
        self.param = getattr(error, "parameter", None)
        super().__init__(str(error).splitlines()[0][:500])


class EngineDied(Exception):
    """The engine's process is gone; this server cannot answer any more."""
