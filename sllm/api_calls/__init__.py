"""Many calls to any OpenAI-compatible chat API: side by side, tried again, resumable, and counted.

Every finished call is a line of the journal before anything is done with it, so that a run which was killed repeats
none. A call that fails after all its retries is counted, and asked again by the next run. Imports `openai` when the
first call is made.

    client = Client("judge-model", "http://127.0.0.1:8000/v1", journal=Path("outputs/evaluation/judge_calls.jsonl"))
    results = client.ask_all([Request("q1", [{"role": "user", "content": "…"}])], parse=lambda answer: answer.text)
"""

from sllm.api_calls.calls import NOT_ASKED, UNANSWERED, UNPARSED, Job, Request, Result, Tally
from sllm.api_calls.client import Client
from sllm.api_calls.flags import add_flags, address_problems, flag_problems, from_flags, parameters
from sllm.api_calls.journal import Completion, Journal, TokenLogprobs

__all__ = [
    "NOT_ASKED", "UNANSWERED", "UNPARSED", "Client", "Completion", "Job", "Journal", "Request", "Result",
    "Tally", "TokenLogprobs", "add_flags", "address_problems", "flag_problems", "from_flags", "parameters",
]  # fmt: skip
