"""What an engine generated for a prompt, as text and as log-probabilities."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Generation(NamedTuple):
    """Generated token ids, the ending token included; why they ended (stop, length); the stop text that did it;
    for each token vLLM's {token id: Logprob}, or None where none were requested."""

    token_ids: list[int]
    finish_reason: str
    stop_text: str | None
    logprobs: list[dict] | None = None


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


def logprobs_of(tokenizer, answer: Generation, max_entries: int) -> list[dict]:
    """One entry for each token of the answer, the ending one included: token_id, token, logprob, and top_logprobs,
    the `max_entries` likeliest with the same three keys. Natural logarithms of what the model itself gives, before
    temperature and penalties. A token that is part of a character shows as \ufffd: its id says which."""

    def entry(token: int, logprob: float) -> dict:
        text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return {"token_id": token, "token": text, "logprob": round(logprob, 6) if math.isfinite(logprob) else -9999.0}

    entries = []
    for token, likely in zip(answer.token_ids, answer.logprobs, strict=True):
        top = sorted(likely.items(), key=lambda pair: pair[1].rank)[:max_entries]
        top = [entry(other, one.logprob) for other, one in top]
        entries.append(entry(token, likely[token].logprob) | {"top_logprobs": top})
    return entries
