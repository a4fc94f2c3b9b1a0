"""What a judge is asked, and how its verdict is read: prompts from templates/judge/, the verdict from the end of its
answer. Whatever the judged answer says stands between tags that it cannot know, and is not where a verdict is read."""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sllm import tasks
from sllm.api_calls import Completion, TokenLogprobs

TEMPLATES = Path(__file__).resolve().parent.parent / "templates" / "judge"
CRITERIA = ("overall", "fluency", "coherence", "accuracy", "completeness")
# What each kind scores, from the least to the most.
SCALES: dict[str, dict[str, tuple[int, int]]] = {
    "rubric": dict.fromkeys(CRITERIA, (1, 5)),
    "total": {"score": (0, 5)},
    "mt_bench": {"rating": (1, 10)},
}
VERDICT_TOKENS = 80  # from the end of an answer, which hold the verdict
# A server reads these in a message as its own tokens, and an answer could end its turn with one.
_CONTROL = re.compile(r"<(?=\|[\w ]+\|>|/?s>|/?(?:bos|eos|pad|start_of_turn|end_of_turn|think)>)|\[(?=/?INST\])")
_NUMBER = r'"?(\d+(?:\.\d+)?)'


# ── prompts ──


def prompt(
    kind: str,
    language: str,
    messages: Sequence[dict[str, str]],
    answers: Sequence[str],
    *,
    reference: str | None = None,
    task: str | None = None,
) -> list[dict[str, str]]:
    """The messages for the judge.

    Args:
        messages: the conversation, its last question at the end.
        answers: one, or two for `pairwise`, the first of which is A.
        task: its rules are shown, where the conversation does not have them.
    """
    rules = tasks.get(task).system_prompt if task in tasks.TASKS else ""
    if any(rules in message["content"] for message in messages):
        rules = ""
    texts = [*(message["content"] for message in messages), reference or "", *answers]
    names = ("A", "B") if kind == "pairwise" else ("",)
    content = _environment().get_template(f"{kind}.{language}.jinja").render(
        mark=hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()[:8],
        rules=rules,
        conversation=[message | {"content": _harmless(message["content"])} for message in messages],
        reference=_harmless(reference or ""),
        answers=[(name, _harmless(answer)) for name, answer in zip(names, answers, strict=True)],
    )  # fmt: skip
    return [{"role": "user", "content": content.strip()}]


def _harmless(text: str) -> str:
    return _CONTROL.sub(lambda match: f"{match[0]} ", text)


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )


def template_hash(kind: str, language: str) -> str:
    """SHA-256 of the templates of a kind, so that scores by different prompts are not taken for comparable."""
    texts = [(TEMPLATES / f"{name}.{language}.jinja").read_bytes() for name in (kind, "material")]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


# ── verdicts ──


def scores(kind: str, completion: Completion) -> dict[str, tuple[float, bool]]:
    """Each metric's score, and whether it is weighted by probabilities.

    Raises:
        ValueError: with what is wrong with the end of the judge's answer.
    """
    end = _end(completion.text)
    found: dict[str, tuple[float, bool]] = {}
    values = _object(end) if kind != "mt_bench" else {"rating": _marked(end, r"\d+(?:\.\d+)?(?:\s*/\s*10)?")}
    for name, (least, most) in SCALES[kind].items():
        value = _number(values.get(name), least, most, name)
        pattern = r"\[\[\s*" + _NUMBER if kind == "mt_bench" else rf'"{name}"\s*:\s*' + _NUMBER
        weighted = expected_score(completion.logprobs, pattern, least, most)
        found[name] = (value if weighted is None else weighted, weighted is not None)
    return found


def better(completion: Completion) -> str:
    """A, B, or C for neither; ValueError as `scores`."""
    return _marked(_end(completion.text), "[ABC]")


def _end(text: str) -> str:
    """Without reasoning, and without what encloses a verdict."""
    _, separator, answer = text.rpartition("</think>")
    if not separator and "<think>" in text:
        raise ValueError("the reasoning did not end; raise max_tokens")
    answer = re.sub(r"\s*```\w*\s*$", "", answer if separator else text).strip()
    if not answer:
        raise ValueError("an empty answer")
    return answer


def _marked(end: str, pattern: str) -> str:
    """The one [[verdict]] of the last line."""
    found = re.findall(rf"\[\[\s*({pattern})\s*\]\]", end.splitlines()[-1])
    if len(set(found)) != 1:
        raise ValueError(f"no verdict on the last line: {end.splitlines()[-1][:80]!r}")
    return str(found[0])


def _object(end: str) -> dict[str, Any]:
    """The JSON object that the text ends with, on one line or several."""
    try:
        value = json.loads(end[end.rindex("{") :].strip("`*"))
    except (ValueError, RecursionError):
        raise ValueError(f"no JSON at the end: {end[-80:]!r}") from None
    return dict(value)


def _number(value: Any, least: int, most: int, name: str) -> float:
    text = str(value).partition("/")[0].strip()
    if isinstance(value, bool) or not re.fullmatch(r"\d+(?:\.\d+)?", text) or not least <= float(text) <= most:
        raise ValueError(f"{name} is {value!r}, not a number from {least} to {most}")
    return float(text)


def expected_score(tokens: Sequence[TokenLogprobs], pattern: str, least: int, most: int) -> float | None:
    """The mean of the scores that could stand in the score's place, weighted by their probabilities (G-Eval, Liu et
    al., 2023); None where log-probabilities did not come back, or the score is not one token.

    Args:
        tokens: the last ones of the answer; `pattern`: ends with a group of the score.
    """
    found = list(re.finditer(pattern, "".join(token for token, _ in tokens)))
    alternatives = _at(tokens, *found[-1].span(1)) if found else None
    if alternatives is None:
        return None
    weights: dict[int, float] = {}
    for token, logprob in alternatives.items():
        number = re.fullmatch(r"\D*(\d+)\D*", token)
        if number and least <= int(number[1]) <= most:
            weights[int(number[1])] = weights.get(int(number[1]), 0.0) + math.exp(logprob)
    if most >= 10 and 10 not in weights:
        weights.pop(1, None)  # it may be how 10 begins
    if int(float(found[-1][1])) not in weights:
        return None
    return math.fsum(score * weight for score, weight in weights.items()) / math.fsum(weights.values())


def _at(tokens: Sequence[TokenLogprobs], first: int, last: int) -> dict[str, float] | None:
    """The alternatives of the one token that holds the characters from `first` to `last`, if it is one."""
    start = 0
    for token, alternatives in tokens:
        if start <= first and last <= start + len(token):
            return alternatives
        start += len(token)
    return None
