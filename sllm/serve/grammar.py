"""Schemas, grammars and expressions of structured outputs, tried in a thread before the engine sees them: there one
that is too complex ends the answer with an error that says nothing, and a large one holds up everybody."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from sllm.serve.errors import without_source

MAX_CHARACTERS = 64_000
KEPT = 256
_pool = ThreadPoolExecutor(2, "grammar")
_checked: dict[tuple, None] = {}  # constraints without a problem, the last ones


async def check(constraint, client) -> None:
    """VLLMValidationError for what the engine of `client` cannot follow. `constraint`: StructuredOutputsParams."""
    from vllm.v1.structured_output.request import get_structured_output_key

    try:
        key = get_structured_output_key(constraint)
    except (ValueError, TypeError) as error:
        raise refused(str(error)) from None
    if len(key[1]) > MAX_CHARACTERS:
        raise refused(f"{len(key[1]):,} characters, at most {MAX_CHARACTERS:,}")
    if key in _checked:
        return
    problem = await asyncio.get_running_loop().run_in_executor(_pool, _problem, constraint, client)
    if problem:
        raise refused(problem)
    _checked[key] = None
    if len(_checked) > KEPT:
        del _checked[next(iter(_checked))]


def refused(reason: str) -> Exception:
    """vLLM's own error: its handlers make a 400 of it, in a stream that has begun too."""
    from vllm.exceptions import VLLMValidationError

    message = f"the output format cannot be enforced: {reason[:300]}"
    return VLLMValidationError(message, parameter="structured_outputs")


def _problem(constraint, client) -> str | None:
    """What the engine's backend says to it, on one line."""
    from vllm.exceptions import VLLMError

    backend = client.vllm_config.structured_outputs_config.backend
    try:
        problem = (_of_guidance if backend == "guidance" else _of_xgrammar)(constraint, client.served)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, RuntimeError, VLLMError) as error:
        problem = str(error) or type(error).__name__
    problem = without_source(problem or "").strip()
    return problem.splitlines()[0] if problem else None


def _of_guidance(constraint, served) -> str:
    from llguidance import LLMatcher
    from vllm.v1.structured_output.backend_guidance import serialize_guidance_grammar
    from vllm.v1.structured_output.request import get_structured_output_key

    kind, spec = get_structured_output_key(constraint)
    vocabulary = served.grammar_vocabulary
    matcher = LLMatcher(vocabulary, serialize_guidance_grammar(kind, spec, True, False), log_level=0)
    # Each property of an object counts from its opening brace on, where too many of them end the matcher.
    if constraint.json and not matcher.get_error():
        matcher.try_consume_tokens(vocabulary.tokenize_str("{"))
    return matcher.get_error()


def _of_xgrammar(constraint, served) -> None:
    from vllm import SamplingParams
    from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar

    validate_xgrammar_grammar(SamplingParams(structured_outputs=constraint))
