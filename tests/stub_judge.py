"""A judge with known faults, behind a real HTTP server: `python tests/stub_judge.py PORT`.

The name of the model says how it judges, joined with `+`: fair, first, longer; and how it fails: garbage, down, slow,
wordless (no log-probabilities, and an error for those who ask), keyed, parrot. Everything follows from the request
alone, so that runs repeat each other.
"""

import asyncio
import hashlib
import json
import math
import re
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

WORDS = set("fair first longer garbage down slow wordless keyed parrot html".split())
KEY = "right-key"
seen: dict[str, int] = {}  # body → requests
answered: dict[str, int] = {}  # body → those that got an answer
state = {"gone_after": None}


def chance(*texts: object) -> float:
    """From 0 to 1, the same for the same texts."""
    return int(hashlib.sha256(repr(texts).encode()).hexdigest()[:12], 16) / 16**12


def refuse(status: int, message: str, **headers: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "stub", "code": None}}, status, headers)


def part(prompt: str, name: str) -> str | None:
    found = re.search(rf"<{name}-(\w+)>\n(.*?)\n</{name}-\1>", prompt, re.DOTALL)
    return found[2] if found else None


def verdict(words: set[str], prompt: str) -> str:
    first, second = part(prompt, "answer_A"), part(prompt, "answer_B")
    if first is not None:
        if "first" in words:
            return "[[A]]"
        if "longer" in words:
            prefers_longer = chance("longer", *sorted((first, second))) < 0.68
            return "[[A]]" if (len(first) > len(second)) == prefers_longer else "[[B]]"
        good = ["좋은" in first, "좋은" in second]
        return "[[C]]" if good[0] == good[1] else "[[A]]" if good[0] else "[[B]]"
    score = 4 if "좋은" in (part(prompt, "answer") or "") else 2
    if "[[N]]" in prompt:
        return f"[[{2 * score}]]"
    if '"score"' in prompt:
        return json.dumps({"score": score})
    return json.dumps(dict.fromkeys(("fluency", "coherence", "accuracy", "completeness", "overall"), score))


def logprobs(text: str) -> dict:
    """A token for each character; a score s is s with 0.75 and s + 1 with 0.25."""
    tokens = []
    for character in text:
        top = {character: 0.75, str(int(character) + 1): 0.25} if character.isdigit() else {character: 1.0}
        top = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in top.items()]
        tokens.append({"token": character, "logprob": top[0]["logprob"], "bytes": None, "top_logprobs": top})
    return {"content": tokens}


async def chat(request: Request):
    body = await request.json()
    words, prompt = set(body["model"].split("+")), body["messages"][-1]["content"]
    if not words <= WORDS:
        return refuse(404, f"the model {body['model']} does not exist")
    if "html" in words:
        return JSONResponse({"welcome": "to something else"})
    if "keyed" in words and request.headers.get("authorization") != f"Bearer {KEY}":
        return refuse(401, f"Incorrect API key provided: {request.headers.get('authorization')}")
    if "wordless" in words and body.get("logprobs"):
        return refuse(400, "logprobs are not supported with this model")
    is_check = len(prompt) < 20
    key = json.dumps(body, ensure_ascii=False, sort_keys=True)
    seen[key] = seen.get(key, 0) + 1
    if state["gone_after"] is not None and sum(answered.values()) >= state["gone_after"]:
        return refuse(503, "gone", **{"Retry-After": "0.01"})
    if "down" in words and not is_check and chance("down", key, seen[key]) < 0.5:
        says_when = seen[key] > 1 or chance("wait", key) < 0.9  # the client's own waits grow
        return refuse(503, "overloaded", **({"Retry-After": "0.01"} if says_when else {}))
    if "slow" in words:
        await asyncio.sleep(0.05)
    if not is_check:
        answered[key] = answered.get(key, 0) + 1
    text = f"이유를 적습니다.\n{verdict(words, prompt)}"
    if "parrot" in words:
        text = f"{part(prompt, 'answer') or part(prompt, 'answer_A')}\n{text}"
    if "garbage" in words and chance("garbage", key) < 0.2:
        text = "음… 둘 다 좋네요."
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    choice["logprobs"] = logprobs(text) if body.get("logprobs") else None
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return JSONResponse({"id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
                         "choices": [choice], "usage": usage})  # fmt: skip


async def log(request: Request):
    return JSONResponse({"requests": sum(seen.values()), "answered": sum(answered.values()), "unique": len(answered)})


async def reset(request: Request):
    """POST {"gone_after": N or null}: forget everything, and answer N calls from now on."""
    seen.clear()
    answered.clear()
    state.update(await request.json())
    return JSONResponse({})


app = Starlette(
    routes=[
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/log", log),
        Route("/reset", reset, methods=["POST"]),
    ]
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="critical")
