"""Sampling of the offline answers: vLLM's parameters from our flags. Imports vLLM inside its functions only."""

import json
from pathlib import Path

from sllm.cli import InputError
from sllm.serve.flags import SAMPLING

SEED_STEP = 1_000_003  # between the seeds of two samples of a row; those of two rows are 1 apart
MAX_SEED = 2**31 - 1


def seed_of(seed: int, row: int, sample: int = 0) -> int:
    """The seed of one answer: its own, and the same whatever else is in the batch. (A CPU's generator heeds the lower
    32 bits, and vLLM takes -1 for none.)"""
    return (seed + row + sample * SEED_STEP) % 2**32


def sampling_params(
    args, *, stop_token_ids: list[int], max_tokens: int, seed: int | None = None, json_schema: dict | None = None
):
    """`SamplingParams` from the flags of the same names. `seed` is of one answer; greedy ones have none."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    return SamplingParams(
        **{name: getattr(args, name) for name in SAMPLING},
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
        beam_width=args.num_beams, max_tokens=max_tokens, length_penalty=args.length_penalty, ignore_eos=args.ignore_eos
    )


def effective_params(params) -> dict:
    """The effective parameters, defaults included, read back from the parameters that vLLM made of the flags."""
    names = [*SAMPLING, "beam_width", "length_penalty", "max_tokens", "stop", "stop_token_ids", "ignore_eos"]
    return {name: getattr(params, name) for name in names if hasattr(params, name)}


def read_schema(path: str | Path) -> dict:
    """The JSON schema in a file; InputError where it is not a schema, or one that cannot be enforced."""
    from llguidance import LLMatcher

    try:
        schema = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--json_schema {path}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or no JSON
        raise InputError(f"--json_schema {path} is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise InputError(f"--json_schema {path} is not a JSON object")
    try:  # as vLLM's guidance backend does
        grammar = LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_flexible": False})
        problem = LLMatcher.validate_grammar(grammar, None)
    except (ValueError, KeyError, TypeError) as error:
        problem = str(error)
    if problem:
        raise InputError(f"--json_schema {path}: {problem.splitlines()[0][:300]}")
    return schema
