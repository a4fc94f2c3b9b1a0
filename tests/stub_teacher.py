"""A teacher with known faults, behind a real HTTP server: `python tests/stub_teacher.py PORT`.

It writes rows that keep every rule, out of the words of the text it is shown. The name of the model says how it fails,
joined with `+`: garbage (three answers in ten, each kind of bad answer), busy (429 with and without Retry-After, 500,
an answer that breaks off), hangs, trickles, slow, plain (no response_format), keyed, html, quota, late (wants to be
asked in an hour), same (one question for all), stubborn (breaks the rules however often it is asked).
Everything follows from the request alone, so that runs repeat each other.
"""

import asyncio
import hashlib
import json
import re
import sys
import time

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

WORDS = set("good garbage busy hangs trickles slow plain keyed html quota late same stubborn".split())
KEY = "right-key"
seen: dict[str, int] = {}  # body → requests
answered: dict[str, int] = {}  # body → those that got an answer
times: list[float] = []  # of the requests
bodies: list[dict] = []
state = {"most": 0, "running": 0}


def chance(*texts: object) -> float:
    """From 0 to 1, the same for the same texts."""
    return int(hashlib.sha256(repr(texts).encode()).hexdigest()[:12], 16) / 16**12


def refuse(status: int, message: str, code: str | None = None, **headers: str) -> JSONResponse:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse({"error": {"message": message, "type": "stub", "code": code}}, status, headers)


def body_of(prompt: str, pool: list[str]) -> str:
    """A text of words that stand in the source, in another order, of the length and in the style that is asked for."""
    bounds = re.search(r"공백을 빼고 (\d+)자 이상(?: (\d+)자 이하)?이며, (\d+)자", prompt)
    target, words = int(bounds[3]) if bounds else 60, []
    while sum(map(len, words)) < target:
        words += pool[::-1]
    while len(words) > 4 and sum(map(len, words)) > target + 5:
        words.pop()
    third = -(-len(words) // 3)
    lines = [" ".join(words[at : at + third]) for at in range(0, len(words), third)]
    return "\n".join(f"- {line}" for line in lines) if "‘- ’로 시작하는 글머리표" in prompt else f"{' '.join(lines)}."


def row(words: set[str], prompt: str) -> str:
    context = re.search(r"<context-(\w+)>\n(.*?)\n</context-\1>", prompt, re.DOTALL)[2]
    plain = " ".join(re.sub(r"<[^<>]+>", " ", context).split())
    sentence = re.split(r"(?<=[.!?])\s", plain)[0][:80]
    pool = list(dict.fromkeys(re.findall(r"[가-힣]{2,}", plain)))
    shift = 0 if "same" in words else int(chance(prompt, "words") * len(pool))
    pool = pool[shift:] + pool[:shift]
    mark = "" if "same" in words else pool[int(chance(prompt) * len(pool))]
    keys = re.findall(r'^- "(\w+)":', prompt, re.MULTILINE)
    count = int(found[1]) if (found := re.search(r"보기는 모두 (\d)개", prompt)) else 0
    verdict = found[1] if (found := re.search(r"맞는 답이 ‘(.+?)’인", prompt)) else ""
    if "table" in keys:
        cells = [pool[at : at + 2] for at in (0, 2, 4)]
        sentence, pool = cells[1][0], [word for pair in cells for word in pair]
    title = " ".join(pool[:3])[:18].strip()
    written = {
        "table": "<table>" + "".join(f"<tr><td>{a}</td><td>{b}</td></tr>" for a, b in cells) + "</table>"
        if "table" in keys
        else "",
        "title": title,
        "question": f"{pool[0]}에 관해 알려진 {mark} 내용은 무엇인가요?",
        "correct": " ".join(pool[:3]),
        "wrong": [f"{pool[i]} 아닌 {pool[i + 1]}" for i in range(count - 1)] if count else [],
        "verdict": verdict,
        "evidence": [sentence],
        "explanation": body_of(prompt, pool),
        "answer": body_of(prompt, pool[:3] + pool),
    }
    if keys:
        return json.dumps({key: written[key] for key in keys}, ensure_ascii=False)
    if "Keyword 1" in prompt:
        return "\n".join(f"Keyword {i}: {pool[i]}\n설명: {' '.join(pool[i : i + 4])}." for i in (1, 2, 3))
    return title if "6단어" in prompt else written["answer"]


def garbage(kind: int, text: str) -> tuple[str, str]:
    """(text, finish_reason) of one kind of bad answer."""
    return [
        (text[: len(text) // 2], "length"),
        (text[: len(text) * 2 // 3] + '{"', "stop"),
        ("", "stop"),
        ("죄송하지만 이 요청에는 답변을 드릴 수 없습니다.", "stop"),
        ("I will write the answer in English: the text is about many things.", "stop"),
        ("네, 답안입니다.\n```json\n{}\n```", "stop"),
    ][kind]


async def chat(request: Request):
    body = await request.json()
    times.append(time.monotonic())
    words, messages = set(body["model"].split("+")), body["messages"]
    prompt, is_check = messages[0]["content"], len(messages[0]["content"]) < 20
    if not words <= WORDS:
        return refuse(404, f"the model {body['model']} does not exist")
    if "html" in words:
        return Response("<html>welcome to something else</html>", media_type="text/html")
    if "keyed" in words and request.headers.get("authorization") != f"Bearer {KEY}":
        return refuse(401, f"Incorrect API key provided: {request.headers.get('authorization')}")
    if "plain" in words and body.get("response_format"):
        return refuse(400, "response_format is not supported")
    key = json.dumps(body, ensure_ascii=False, sort_keys=True)
    seen[key] = number = seen.get(key, 0) + 1
    if not is_check:
        bodies.append(body)
        if "quota" in words:
            return refuse(429, "you exceeded your quota", "insufficient_quota")
        if "late" in words:
            return refuse(429, "come back later", retry_after="3600")
        if "busy" in words and number == 1 and (fault := int(chance("busy", key) * 12)) < 8:
            if fault < 5:
                return refuse(429 if fault < 4 else 503, "too many requests", retry_after="0.05")
            if fault == 5:
                return refuse(429, "too many requests")
            if fault == 6:
                return refuse(500, "a bug in the server")
            return Response('{"id": "1", "object": "chat.compl', media_type="application/json")
        if "hangs" in words and number == 1:
            await asyncio.sleep(3600)
        if "trickles" in words and number == 1:
            return StreamingResponse(trickle(), media_type="application/json")
    state["running"] += 1
    state["most"] = max(state["most"], state["running"])
    try:
        if "slow" in words:
            await asyncio.sleep(0.05)
    finally:
        state["running"] -= 1
    text, finish = "2" if is_check else row(words, prompt), "stop"
    if not is_check:
        answered[key] = answered.get(key, 0) + 1
        if "garbage" in words and chance("garbage", key) < 0.3:
            text, finish = garbage(int(chance("kind", key) * 6), text)
        if "stubborn" in words:
            text = f"```\n{text}\n```\n끝."
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return JSONResponse({"id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
                         "choices": [choice], "usage": usage})  # fmt: skip


async def trickle():
    while True:
        yield b" "
        await asyncio.sleep(0.05)


async def log(request: Request):
    counts = {"requests": sum(seen.values()), "answered": sum(answered.values()), "unique": len(answered)}
    return JSONResponse(counts | {"times": times, "most": state["most"], "bodies": bodies})


async def reset(request: Request):
    for kept in (seen, answered, times, bodies):
        kept.clear()
    state.update(most=0)
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
