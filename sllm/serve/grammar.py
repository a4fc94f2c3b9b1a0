"""Schemas, grammars and expressions of structured outputs, tried in a thread before the engine sees them: there one
that is too complex ends the answer with an error that says nothing, and a large one holds up everybody."""

import asyncio
import json
import re
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from sllm.serve.errors import ApiError

MAX_CHARACTERS = 64_000
KEPT = 256
_pool = ThreadPoolExecutor(1, "grammar")
_checked: OrderedDict[str, None] = OrderedDict()  # constraints without a problem, the last ones


async def check(constraint, client) -> None:
    """ApiError (400) for what the engine cannot follow.

    Args:
        constraint: vLLM's StructuredOutputsParams.
        client: the `EngineClient` that is to follow it.
    """
    kinds = (constraint.json, constraint.regex, constraint.choice, constraint.grammar, constraint.structural_tag)
    text = next((one if isinstance(one, str) else json.dumps(one) for one in kinds if one), "")
    if len(text) > MAX_CHARACTERS:
        raise refused(f"{len(text):,} characters, at most {MAX_CHARACTERS:,}")
    name = repr(constraint)
    if name in _checked:
        return
    problem = await asyncio.get_running_loop().run_in_executor(_pool, _problem, constraint, client)
    if problem:
        raise refused(problem)
    _checked[name] = None
    if len(_checked) > KEPT:
        _checked.popitem(last=False)


def refused(reason: str) -> ApiError:
    return ApiError(400, f"the output format cannot be enforced: {reason[:300]}", param="structured_outputs")


def _problem(constraint, client) -> str | None:
    """What the engine's backend says to it, on one line."""
    from vllm.exceptions import VLLMError

    backend = client.vllm_config.structured_outputs_config.backend
    try:
        problem = (_of_guidance if backend == "guidance" else _of_xgrammar)(constraint, client.served.tokenizer)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, RuntimeError, VLLMError) as error:
        problem = str(error) or type(error).__name__
    problem = re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", problem or "").strip()  # a line of xgrammar's source
    return problem.splitlines()[0] if problem else None


def _of_guidance(constraint, tokenizer) -> str:
    from llguidance import LLMatcher
    from vllm.v1.structured_output.backend_guidance import serialize_guidance_grammar
    from vllm.v1.structured_output.request import get_structured_output_key

    kind, spec = get_structured_output_key(constraint)
    matcher = LLMatcher(_vocabulary(tokenizer), serialize_guidance_grammar(kind, spec, True, False), log_level=0)
    # Each property of an object counts from its opening brace on, where too many of them end the matcher.
    if constraint.json and not matcher.get_error():
        matcher.try_consume_tokens(_vocabulary(tokenizer).tokenize_str("{"))
    return matcher.get_error()


def _of_xgrammar(constraint, tokenizer) -> None:
    from vllm import SamplingParams
    from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar

    validate_xgrammar_grammar(SamplingParams(structured_outputs=constraint))


@cache
def _vocabulary(tokenizer):
    from llguidance import hf

    return hf.from_tokenizer(tokenizer, len(tokenizer))
