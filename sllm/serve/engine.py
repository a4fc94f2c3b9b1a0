"""The engine's arguments, and offline generation: token ids in, token ids out, nothing decided unseen.

vLLM is imported here, in `sampling`, in the server's modules and in what vLLM itself loads (`cpu_worker`,
`cpu_lora`, `cpu_scheduler`), nowhere else.

Functions around `vllm.LLM`. vLLM is imported inside `load` and what follows it, so that everything that can be wrong
with an input is said before the 10 seconds which that import costs. Call `environment.set_environment` first: vLLM
and torch read the environment when they are imported.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from sllm.cli import InputError
from sllm.disk import gib
from sllm.generation import Generation
from sllm.serve import model_info, startup
from sllm.serve.dtypes import check_precision, resolve_dtype
from sllm.serve.environment import on_cpu, set_environment

BEAM_ROWS = 16  # rows searched side by side: what is finished, and written, together
MAX_ROWS = 256  # that vLLM runs at once (its max_num_seqs)
# Compact JSON: where any white space is allowed, small models write line breaks until their tokens run out.
STRUCTURED = {"backend": "guidance", "disable_any_whitespace": True}
RETIRING_ADAPTERS = 2  # versions of adapters that are replaced and still answer, beside those that are served
LOGPROBS = 20  # most for one token; vLLM's own default


def load(
    model: str,
    *,
    adapters: Sequence[str] = (),
    dtype: str = "auto",
    max_model_len: int,
    gpu_memory_utilization: float = 0.9,
    tensor_parallel_size: int = 1,
    seed: int = 0,
    enforce_eager: bool | None = None,
    kv_tokens: int | None = None,
    quantization: str | None = None,
    kv_cache_dtype: str = "auto",
    num_beams: int = 0,
):
    """An offline engine (`vllm.LLM`).

    Args:
        adapters: LoRA folders, of which `generate` and the others may then be given one.
        max_model_len: tokens of prompt and answer together, at most `model_info.context_length`.
        enforce_eager: do not compile. None: eager on a CPU, where compiling takes 15 to 40 s and gains 5 %.
        kv_tokens: tokens that all rows together could hold at once; bounds the KV cache on a CPU.
        quantization: one of `QUANTIZATIONS`; None: the weights as they are.
        kv_cache_dtype: one of `KV_CACHE_DTYPES`; auto: the model's.
        num_beams: width of the beam searches to come.
    Raises:
        InputError: what vLLM refuses to load, or a model that does not fit in memory.
    """
    set_environment(tensor_parallel_size)
    settings = options(
        model,
        adapters=[*adapters],
        dtype=dtype,
        max_model_len=max_model_len,
        enforce_eager=enforce_eager,
        kv_tokens=kv_tokens,
        quantization=quantization,
        kv_cache_dtype=kv_cache_dtype,
    )
    from vllm import LLM

    with startup.errors_of(model):
        return LLM(
            gpu_memory_utilization=gpu_memory_utilization,
            tensor_parallel_size=tensor_parallel_size,
            seed=seed,
            max_logprobs=max(LOGPROBS, 2 * num_beams),
            **settings,
        )


def options(
    model: str,
    *,
    adapters: list[str],
    dtype: str,
    max_model_len: int,
    enforce_eager: bool | None = None,
    kv_tokens: int | None = None,
    quantization: str | None = None,
    kv_cache_dtype: str = "auto",
    max_loras: int = 0,
    max_lora_rank: int = 0,
    tool_call_parser: str | None = None,
    reasoning_parser: str | None = None,
) -> dict:
    """Engine arguments that the offline engine and the server share; see `load`.

    Args:
        max_loras, max_lora_rank: room for adapters beside `adapters`, which come while the engine runs.
        tool_call_parser, reasoning_parser: vLLM's names. Calls that have to happen are enforced by xgrammar, which
            knows fewer JSON schemas than guidance; a constraint on the output begins after the reasoning.
    """
    check_precision(dtype, quantization, kv_cache_dtype)
    dtype = resolve_dtype(dtype, quantization)
    settings = {
        "model": model,
        "dtype": dtype,
        "max_model_len": max_model_len,
        "enforce_eager": on_cpu() if enforce_eager is None else enforce_eager,
        "use_tqdm_on_load": False,
        "generation_config": "vllm",  # generation_config.json sets no sampling; EOS ids: `model_info.stop_token_ids`
        "quantization": quantization,
        "kv_cache_dtype": kv_cache_dtype,
        "structured_outputs_config": STRUCTURED
        | ({"backend": "xgrammar"} if tool_call_parser else {})
        | ({"reasoning_parser": reasoning_parser} if reasoning_parser else {}),
    }
    if adapters or max_loras:
        rank = max([max_lora_rank, *(model_info.lora_rank(adapter) for adapter in adapters)])
        max_adapters = max(max_loras, len(adapters))
        # in memory beside those in a batch: versions that are being replaced and still answer
        settings |= {
            "enable_lora": True,
            "max_loras": max_adapters,
            "max_cpu_loras": max_adapters + RETIRING_ADAPTERS,
            "max_lora_rank": rank,
        }
    if on_cpu():
        settings["worker_cls"] = "sllm.serve.cpu_worker.Worker"
        if not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
            stored = kv_cache_dtype if kv_cache_dtype != "auto" else dtype
            settings["kv_cache_memory_bytes"] = _kv_bytes(model, dtype, stored, max_model_len, kv_tokens)
    return settings


def generate(
    llm, prompts: list[list[int]], params: list, *, adapter: str | None = None
) -> Iterator[tuple[int, Generation]]:
    """Answer every prompt; yields (index, Generation) as each is finished, in whatever order that is.

    The same work as `LLM.generate`, which hands over nothing before the last row is done.
    Raises:
        InputError: the engine's process died, or memory ran out.
    """
    from vllm.exceptions import VLLMClientError

    first = llm.request_counter.counter
    prompts_in = [{"prompt_token_ids": ids} for ids in prompts]
    try:
        llm.enqueue(prompts_in, params, lora_request=lora_request(adapter), use_tqdm=False)
    except (VLLMClientError, ValueError) as error:
        raise InputError(f"vLLM refuses a request: {str(error).splitlines()[0]}") from error
    while llm.llm_engine.has_unfinished_requests():
        for output in _step(llm):
            if output.finished:
                index, done = int(output.request_id) - first, output.outputs[0]
                if list(output.prompt_token_ids) != prompts[index]:  # guarantee 1, at the last possible place
                    raise RuntimeError(f"the engine was fed other token ids than prompt {index} has")
                stop_text = done.stop_reason if isinstance(done.stop_reason, str) else None
                yield index, Generation(list(done.token_ids), done.finish_reason, stop_text, done.logprobs)


def log_likelihoods(
    llm, pairs: Sequence[tuple[list[int], list[int]]], *, adapter: str | None = None
) -> Iterator[tuple[int, tuple[float, bool]]]:
    """Of the second token ids after the first: yields (index, (sum over the tokens in nats, is each the likeliest?)) as
    each is known. Contexts that are too long lose their beginning.

    Raises:
        InputError: as `generate`; a continuation without tokens, or one that leaves no room for a context.
    """
    from vllm import SamplingParams

    longest = llm.llm_engine.model_config.max_model_len - 1  # vLLM always generates one token
    first = llm.request_counter.counter
    prompts, lengths = [], []
    for context, continuation in pairs:
        if not continuation or not context or len(continuation) >= longest:
            raise InputError(f"a text of {len(continuation)} tokens after {len(context)} cannot be scored")
        prompts.append([*context, *continuation][-longest:])
        lengths.append(len(continuation))
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False, skip_clone=True)
    asked = [{"prompt_token_ids": ids} for ids in prompts]
    llm.enqueue(asked, params, lora_request=lora_request(adapter), use_tqdm=False)
    while llm.llm_engine.has_unfinished_requests():
        for output in _step(llm):
            if output.finished:
                index = int(output.request_id) - first
                ids = prompts[index][-lengths[index] :]
                tokens = [at[id] for id, at in zip(ids, output.prompt_logprobs[-len(ids) :], strict=True)]
                yield index, (sum(token.logprob for token in tokens), all(token.rank == 1 for token in tokens))


def _step(llm) -> list:
    from torch import OutOfMemoryError
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        return llm.llm_engine.step()
    except (EngineDeadError, OutOfMemoryError) as error:
        reason = "out of memory" if isinstance(error, OutOfMemoryError) else "its process died, for the reason above"
        raise InputError(f"vLLM stopped: {reason}; where memory is short try {startup.MEMORY}") from error


def beam_search(
    llm, prompts: list[list[int]], params: list, *, stop_token_ids: list[int], adapter: str | None = None
) -> Iterator[tuple[int, Generation]]:
    """The best beam for each prompt, in order. vLLM ends a beam at one token only, the tokenizer's EOS, which is
    therefore set to the first of `stop_token_ids`; a beam that holds another one is cut there."""
    tokenizer = llm.get_tokenizer()
    start, own_eos = 0, tokenizer.eos_token
    for _, same in groupby(params, key=lambda p: p.max_tokens):  # one search has one max_tokens
        end = start + len(list(same))
        while start < end:
            batch = prompts[start : min(start + BEAM_ROWS, end)]
            try:
                tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stop_token_ids[0])
                results = llm.beam_search(
                    [{"prompt_token_ids": ids} for ids in batch], params[start], lora_request=lora_request(adapter)
                )
            finally:
                tokenizer.eos_token = own_eos
            for index, (ids, output) in enumerate(zip(batch, results, strict=True), start):
                tokens = output.sequences[0].tokens[len(ids) :]
                ends = (
                    [] if params[start].ignore_eos else [i for i, token in enumerate(tokens) if token in stop_token_ids]
                )
                yield index, Generation(tokens[: ends[0] + 1] if ends else tokens, "stop" if ends else "length", None)
            start += len(batch)


def lora_request(adapter: str | None, name: str | None = None, number: int | None = None):
    """The adapter as a request names it to vLLM, which tells adapters apart by name and by number (from 1); by default
    by its path."""
    if not adapter:
        return None
    from vllm.lora.request import LoRARequest

    path = str(Path(adapter).resolve())
    return LoRARequest(name or path, number or (zlib.crc32(path.encode()) >> 1) + 1, path)


def _kv_bytes(model: str, dtype: str, stored: str, max_model_len: int, kv_tokens: int | None) -> int | None:
    """Bytes of KV cache on a CPU: what the rows can use, at most half of the memory that the weights leave free.
    vLLM's default takes nearly all of the machine. None where the config does not say enough."""
    from vllm.utils.cpu_resource_utils import get_memory_node_info  # heeds a container's limit

    per_token = model_info.kv_bytes_per_token(model, stored)
    if per_token is None:
        return None
    free = get_memory_node_info(0).available_memory - model_info.weight_bytes(model, dtype)
    min_bytes = per_token * (max_model_len + 256)  # one whole row, and vLLM's rounding up to blocks
    if free < min_bytes:
        raise InputError(
            f"{model} in {dtype} with {max_model_len} tokens does not fit in memory (short of {gib(min_bytes - free)}"
            "); try --dtype bfloat16 or a smaller --max_seq_length"
        )
    desired_bytes = per_token * (kv_tokens or MAX_ROWS * max_model_len)
    return int(max(min_bytes, min(desired_bytes, free // 2)))
