"""A stand-in for an OpenAI-compatible server, for what a real one cannot be asked to do: fail in chosen ways.

The name of the model says how it answers. `python tests/stub_openai.py PORT [--tasks] [MODEL …]`; with --tasks it
has the task table, too.
"""

import asyncio
import json
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sllm import tasks
from sllm.data import formats
from sllm.serve.flags import SAMPLE_ROWS
from sllm.serve.tasks_api import task_entries

MODELS = (
    "good other slow hangs 401 429 500 503 busy-once dies broken silent-end script rich too-long empty"
    " early-error early-close same alike cut prices long counts"
).split()
PRICES = "원가는 $5이고 판매가는 $10입니다. 넓이는 \\(a^2\\), 부피는 \\[a^3\\] 입니다. `$HOME`"
RICH = (
    "수식 $a^2+b^2=c^2$ 과 **굵은 글씨**\n\n$$\\sum_{i=1}^n i = \\frac{n(n+1)}{2}$$\n\n"
    "<table><tr><th>도시</th><th>인구</th></tr><tr><td>서울</td><td>938만</td></tr><tr><td>부산</td><td>328만</td></tr>"
    "</table>\n\n끝."
)
SCRIPT = (
    "<script>window.hacked=1</script><img src=x onerror='window.hacked=2'><iframe srcdoc='<script>parent.hacked=3"
    "</script>'></iframe>[눌러](javascript:window.hacked=4) ![밖](https://example.invalid/x.png)"
    "<table><tr><td><img src=x onerror='window.hacked=5'></td></tr></table> 안전한 끝"
)
seen: list[dict] = []
counts: dict[str, int] = {}
state = {"running": 0, "busy": 0}


def error(status: int, message: str, code: str = "stub", **headers: str) -> JSONResponse:
    body = {"error": {"message": message, "type": "stub", "param": None, "code": code}}
    return JSONResponse(body, status, headers={name.replace("_", "-"): value for name, value in headers.items()})


def chunk(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice]}, ensure_ascii=False)}\n\n".encode()


async def chat(request: Request):
    body = await request.json()
    seen.append(body | {"authorization": request.headers.get("authorization")})
    model = body["model"]
    if model == "401":
        return error(401, "wrong API key", "invalid_api_key")
    if model == "429":
        return error(429, "server at capacity", retry_after="60")
    if model == "503":
        return error(503, "the server is loading", "loading", retry_after="60")
    if model == "500":
        return error(500, "a bug in the server")
    if model == "too-long":
        return error(400, "the prompt has 9,000 tokens and the context 2,048", "context_length_exceeded")
    if model == "flaky" and any("고장" in message["content"] for body in seen for message in body["messages"]):
        return error(500, "a bug in the server")
    if model == "busy-once":
        state["busy"] += 1
        if state["busy"] % 2:
            return error(429, "server at capacity", retry_after="1")

    async def stream():
        state["running"] += 1
        try:
            if model == "hangs":
                await asyncio.sleep(3600)
            question = body["messages"][-1]["content"]
            key = f"{model} {question}"
            counts[key] = counts.get(key, 0) + 1
            text = {
                "script": SCRIPT, "rich": RICH, "empty": "", "prices": PRICES, "long": "긴 답입니다. " * 500,
                "same": f"같은 답: {question}", "identical": f"같은 답: {question}",
                "counts": f"{question}의 {counts[key]}번째 답", "flaky": f"{question}의 답",
            }.get(model, f"{model}의 답: {question} — 이것은 대역 서버의 답입니다.")  # fmt: skip
            if model == "early-error":
                yield b'data: {"error": {"message": "model early-error has a bug", "code": 500}}\n\n'
                return
            if model == "early-close":
                raise RuntimeError("the stub dies before the first word")
            parts = list(text) if model == "slow" else [text[at : at + 4] for at in range(0, len(text), 4)]
            for number, part in enumerate(parts):
                yield chunk(part)
                if model in ("slow", "long"):
                    await asyncio.sleep(0.2 if model == "slow" else 0.001)
                if number == 5 and model == "dies":
                    raise RuntimeError("the stub dies in the middle")
                if number == 5 and model == "broken":
                    yield b"data: {this is not JSON\n\n"
                if number == 5 and model == "silent-end":
                    return
            yield chunk("", "length" if model == "cut" else "stop")
            yield b"data: [DONE]\n\n"
        finally:
            state["running"] -= 1

    return StreamingResponse(stream(), media_type="text/event-stream")


async def models(request: Request):
    return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in given or MODELS]})


async def log(request: Request):
    return JSONResponse({"seen": seen, **state})


async def task_list(request: Request):
    return JSONResponse(
        {"object": "list", "data": task_entries(formats.load_rows(SAMPLE_ROWS, "prompts"))}
        if "--tasks" in sys.argv
        else {},
        200,
    )


async def task(request: Request):
    body = await request.json()
    id = request.path_params["id"]
    fields = {name: value for name, value in body.items() if name in tasks.TASKS[id].fields}
    messages = tasks.build_messages(id, fields)
    seen.append(body | {"messages": messages})

    async def stream():
        yield chunk(f"{id}의 답입니다.")
        last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "messages": messages,
                "conformance": {"ok": True, "rules": [{"rule": "korean", "ok": True}]}}  # fmt: skip
        yield f"data: {json.dumps(last, ensure_ascii=False)}\n\ndata: [DONE]\n\n".encode()

    return StreamingResponse(stream(), media_type="text/event-stream")


given = [word for word in sys.argv[2:] if word != "--tasks"]
app = Starlette(
    routes=[
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/tasks", task_list),
        Route("/v1/tasks/{id}", task, methods=["POST"]),
        Route("/log", log),
    ]
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="critical")
