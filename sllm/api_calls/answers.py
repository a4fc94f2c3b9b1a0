"""What a call of the API brings: a completion, or an error as one line with advice. See `sllm.api_calls`."""

from typing import Any

from sllm.api_calls.journal import Completion, TokenLogprobs
from sllm.api_calls.retries import NotAChatCompletion


def read(answer: Any, keep: int) -> Completion:
    """NotAChatCompletion for what is none: other services answer with 200, too.

    Args:
        keep: of how many tokens, from the end, the log-probabilities are kept.
    """
    choices: Any = getattr(answer, "choices", None)
    message = getattr(choices[0], "message", None) if choices else None
    text = getattr(message, "content", None)
    if message is None or not isinstance(text, str | None):
        error = (getattr(answer, "model_extra", None) or {}).get("error") or "no message in it"
        raise NotAChatCompletion(f"not a chat completion: {str(error)[:200]}")
    usage = getattr(answer, "usage", None)
    text = text or getattr(message, "refusal", None) or ""
    return Completion(
        text, choices[0].finish_reason, getattr(usage, "prompt_tokens", 0) or 0,
        getattr(usage, "completion_tokens", 0) or 0, usage is not None, _logprobs(choices[0], keep) if keep else [],
    )  # fmt: skip


def _logprobs(choice: Any, keep: int) -> list[TokenLogprobs]:
    try:
        return [
            (token.token, {other.token: other.logprob for other in token.top_logprobs or []})
            for token in choice.logprobs.content[-keep:]
        ]
    except (AttributeError, TypeError):
        return []  # not every API returns them, or in OpenAI's shape


def advice(error: Exception, api_key_env: str, *, has_key: bool) -> str | None:
    """What to do about an error that every call would have; None for one that may pass."""
    import openai

    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return f"{'check' if has_key else 'set'} the API key in the environment variable {api_key_env}"
    if isinstance(error, openai.NotFoundError):
        return "check the name of the model, and that the address ends as the service says, mostly in /v1"
    if isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
        return "leave out the parameter that it refuses"
    is_slow = isinstance(error, openai.APITimeoutError) and "Connect" not in type(error.__cause__).__name__
    if isinstance(error, openai.APIConnectionError) and not is_slow:
        return "check the address, and that the service runs"
    return "is this the address of an OpenAI-compatible API?" if isinstance(error, ValueError) else None


def is_of_request(error: Exception) -> bool:
    """Is this one request refused (a prompt that is too long), and not the service in trouble?"""
    return getattr(error, "status_code", None) in (400, 413, 422)


def sentence(error: Exception, key: str | None) -> str:
    """One line. A service may repeat the key that it was sent: it goes to no file."""
    body, status = getattr(error, "body", None), getattr(error, "status_code", None)
    message = body.get("message") if isinstance(body, dict) else None
    cause = f" ({error.__cause__})" if error.__cause__ and not status else ""
    text = " ".join(f"{message or error}{cause}".split())
    text = (text.replace(key, "…") if key else text)[:300]
    return f"{status}: {text}" if status and not text.startswith("Error code") else text
