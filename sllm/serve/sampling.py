"""Sampling of the offline answers: vLLM's parameters from our flags, and what comes back as text and log-probabilities.

Like `engine`, imports vLLM inside its functions only.
"""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from sllm.cli import InputError

SEED_STEP = 1_000_003  # between the seeds of two samples of a row; those of two rows are 1 apart
MAX_SEED = 2**31 - 1


class Generation(NamedTuple):
    """Generated token ids, the ending token included; why they ended (stop, length); the stop text that did it;
    for each token vLLM's {token id: Logprob}, or None where none were asked for."""

    token_ids: list[int]
    finish_reason: str
    stop_text: str | None
    logprobs: list[dict] | None = None


def seed_of(seed: int, row: int, sample: int = 0) -> int:
    """The seed of one answer: its own, and the same whatever else is asked for. (A CPU's generator heeds the lower
    32 bits, and vLLM takes -1 for none.)"""
    return (seed + row + sample * SEED_STEP) % 2**32


def sampling_params(
    args, *, stop_token_ids: list[int], max_tokens: int, seed: int | None = None, json_schema: dict | None = None
):
    """`SamplingParams` from the flags of the same names. `seed` is of one answer; greedy ones have none."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

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
        logprobs=args.logprobs,
        structured_outputs=StructuredOutputsParams(json=json_schema) if json_schema is not None else None,
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


def effective_params(params) -> dict:
    """What is really in force, defaults included, read back from the parameters that vLLM made of the flags."""
    names = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
    names += ("beam_width", "length_penalty", "max_tokens", "stop", "stop_token_ids", "ignore_eos")
    return {name: getattr(params, name) for name in names if hasattr(params, name)}


def text(tokenizer, answer: Generation, stop_token_ids: list[int]) -> str:
    """The answer as text: without its ending token, and without bytes that form no character, such as those of a
    syllable that `max_tokens` cut."""
    ids = answer.token_ids
    if ids and ids[-1] in stop_token_ids:
        ids = ids[:-1]
    written = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if answer.stop_text is not None:
        written = written.partition(answer.stop_text)[0]
    return written.replace("\ufffd", "")


def grouped(finished: Iterable[tuple[int, Generation]], n: int) -> Iterator[tuple[int, list[Generation]]]:
    """(row, its n answers in their order) from (row * n + sample, answer) in any order."""
    waiting: dict[int, dict[int, Generation]] = {}
    for index, answer in finished:
        row, sample = divmod(index, n)
        answers = waiting.setdefault(row, {})
        answers[sample] = answer
        if len(answers) == n:
            del waiting[row]
            yield row, [answers[sample] for sample in range(n)]


def logprobs(tokenizer, answer: Generation, most: int) -> list[dict]:
    """One entry for each token of the answer, the ending one included: token_id, token, logprob, and top_logprobs,
    the `most` likeliest with the same three keys. Natural logarithms of what the model itself gives, before
    temperature and penalties. A token that is part of a character shows as \ufffd: its id says which."""

    def entry(token: int, logprob: float) -> dict:
        text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return {"token_id": token, "token": text, "logprob": round(logprob, 6) if math.isfinite(logprob) else -9999.0}

    found = []
    for token, likely in zip(answer.token_ids, answer.logprobs, strict=True):
        top = sorted(likely.items(), key=lambda pair: pair[1].rank)[:most]
        top = [entry(other, one.logprob) for other, one in top]
        found.append(entry(token, likely[token].logprob) | {"top_logprobs": top})
    return found


def read_schema(path: str | Path) -> dict:
    """The JSON schema in a file; InputError where it is none, or one that cannot be enforced."""
    from llguidance import LLMatcher

    try:
        schema = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--json_schema {path}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or no JSON
        raise InputError(f"--json_schema {path} is no JSON: {error}") from None
    if not isinstance(schema, dict):
        raise InputError(f"--json_schema {path} holds no JSON object")
    try:  # as vLLM's guidance backend does
        grammar = LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_flexible": False})
        problem = LLMatcher.validate_grammar(grammar, None)
    except (ValueError, KeyError, TypeError) as error:
        problem = str(error)
    if problem:
        raise InputError(f"--json_schema {path}: {problem.splitlines()[0][:300]}")
    return schema
