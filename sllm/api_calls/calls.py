"""What is asked, and what comes of it; see `sllm.api_calls`. Standard library only."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sllm.api_calls.journal import Completion

T = TypeVar("T")
UNANSWERED, UNPARSED, NOT_ASKED = "unanswered", "unparsed", "not_asked"  # Result.failure


@dataclass(frozen=True, eq=False)
class Request:
    """One question to the model.

    Args:
        label: names the request in the journal.
        parameters: of the API: temperature, max_tokens, … `seed` grows by one with each attempt.
        again: parameters of the attempts after one whose answer did not parse; greedy decoding repeats itself.
        logprobs_of_last: of how many tokens, from the end, log-probabilities are kept where `parameters` ask for them.
    """

    label: str
    messages: list[dict[str, str]]
    parameters: dict[str, Any] = field(default_factory=dict)
    again: dict[str, Any] = field(default_factory=dict)
    logprobs_of_last: int = 0

    def of_attempt(self, number: int) -> dict[str, Any]:
        parameters = self.parameters | (self.again if number else {})
        if isinstance(parameters.get("seed"), int):
            parameters["seed"] += number
        return parameters


@dataclass(frozen=True, eq=False)
class Job(Generic[T]):
    """A request, and how its answer is read.

    Args:
        parse: raises ValueError for an answer that cannot be used: it is asked again.
        revise: what is asked then, from the answer and what was wrong with it; None asks the same.
    """

    request: Request
    parse: Callable[[Completion], T]
    revise: Callable[[Completion, ValueError], Request] | None = None


@dataclass(frozen=True)
class Result(Generic[T]):
    """`value`: what `parse` made of the answer; None after a `failure` (UNANSWERED, UNPARSED or NOT_ASKED), whose
    `reason` is a line of text. `attempts`: answers that came, `completion` the last of them, `error` what `parse`
    raised for it."""

    value: T | None
    failure: str | None = None
    reason: str = ""
    attempts: int = 0
    completion: Completion | None = None
    error: ValueError | None = None


@dataclass
class Tally:
    """All finished calls of the journal, `new_calls` of them by this process. `cost`: in the currency of the price,
    None without one; `calls_without_usage`: the service did not count their tokens, so they are not in the cost."""

    calls: int = 0
    new_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    calls_without_usage: int = 0
