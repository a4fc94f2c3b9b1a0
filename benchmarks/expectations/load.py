"""Load: limits, queueing, disconnects."""

import json
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx

from expectations.helpers import refused, said, same, together, until, user
from expectations.registry import of
from expectations.servers import JSON, LONG

load = of("load", "locked")
SLOW = {"model": "m", "prompt": "옛날에", "max_tokens": 150, "ignore_eos": True}


def flood(s, count: int = 40) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=s.url, headers=s.headers, timeout=120, limits=limits, trust_env=False) as client:
        return together(count, lambda number: client.post("/v1/completions", json=SLOW))


@load("40 requests where there is room for 8: each is answered or refused with 429 or 503")
def _(s):
    statuses = Counter(answer.status_code for answer in flood(s))
    assert set(statuses) <= {200, 429, 503} and statuses[200] >= 8 and sum(statuses.values()) == 40, dict(statuses)
    assert statuses[429] + statuses[503] > 0, "all were queued"


def over_capacity(s) -> list[httpx.Response]:
    over = [answer for answer in flood(s) if answer.status_code != 200]
    assert over, "nothing was refused"
    return over


@load("the refusal is in OpenAI's shape and says to try again")
def _(s):
    for answer in over_capacity(s):
        assert "try again" in refused(answer, 429, 503)["message"].lower(), said(answer)


@load("it is a 429, OpenAI's status for too many requests")
def _(s):
    statuses = Counter(answer.status_code for answer in over_capacity(s))
    same(dict(statuses), {429: sum(statuses.values())})


@load("it has Retry-After")
def _(s):
    for answer in over_capacity(s):
        assert int(answer.headers.get("retry-after", 0)) >= 1, "no Retry-After"


@load("a stream over capacity is refused by its status, not within the stream")
def _(s):
    answers = together(40, lambda number: s.post("/v1/completions", SLOW | {"stream": True}))
    over = [answer for answer in answers if answer.status_code != 200]
    assert over and all(answer.status_code in (429, 503) for answer in over), Counter(a.status_code for a in answers)
    assert all("[DONE]" in answer.text for answer in answers if answer.status_code == 200)


@load("after a flood the next request is answered at once")
def _(s):
    flood(s)
    started = time.monotonic()
    s.write(max_tokens=2)
    assert time.monotonic() - started < 2, f"{time.monotonic() - started:.1f} s"


@load("/health and /metrics are answered within 1 s under load")
def _(s):
    with ThreadPoolExecutor(1) as pool:
        asked, worst = pool.submit(flood, s), 0.0
        while not asked.done():
            for path in ("/health", "/metrics"):
                probe = time.monotonic()
                s.get(path)
                worst = max(worst, time.monotonic() - probe)
            time.sleep(0.05)
    assert worst < 1, f"{worst:.1f} s"


def freed(s) -> None:
    def idle():
        return s.metric("vllm:num_requests_running") + s.metric("vllm:num_requests_waiting") == 0

    until(idle, 2, f"{s.metric('vllm:num_requests_running'):g} still run after 2 s")


def busy(s, count: int) -> None:
    until(lambda: s.metric("vllm:num_requests_running") >= count, 10, "the requests do not run")


@load("a stream whose client leaves frees the engine within 2 s")
def _(s):
    streams = [s.start_stream() for _ in range(3)]
    busy(s, 3)
    for sock in streams:
        sock.close()
    freed(s)


def leave(s, path: str, body: dict, count: int = 1) -> None:
    content = json.dumps({"model": "m"} | body).encode()
    sock = s.connect()
    sock.sendall(s.head(f"POST {path}", JSON, f"Content-Length: {len(content)}") + content)
    busy(s, count)
    sock.close()
    freed(s)


@load("a non-streaming client that disconnects frees the engine")
def _(s):
    leave(s, "/v1/completions", {"prompt": "옛날에"} | LONG)
    leave(s, "/v1/chat/completions", {"messages": user("안녕")} | LONG)


@load("a client that disconnects frees the engine with n 4, a batch, Responses, Anthropic's messages")
def _(s):
    leave(s, "/v1/chat/completions", {"messages": user("안녕"), "n": 4, "temperature": 1} | LONG, 4)
    leave(s, "/v1/completions", {"prompt": ["옛날에", "바다는"]} | LONG, 2)
    leave(s, "/v1/responses", {"input": "안녕", "max_output_tokens": 1500, "ignore_eos": True})
    body = {"messages": user("안녕"), "max_tokens": 1500, "ignore_eos": True, "stream": True}
    leave(s, "/v1/messages", body)


@load("a beam search whose client leaves frees the engine within 2 s")
def _(s):
    content = json.dumps({"model": "m", "prompt": "옛날에", "use_beam_search": True, "n": 4} | LONG).encode()
    sock, before = s.connect(), s.metric("vllm:generation_tokens_total")
    sock.sendall(s.head("POST /v1/completions", JSON, f"Content-Length: {len(content)}") + content)
    until(lambda: s.metric("vllm:generation_tokens_total") > before + 20, 20, "it does not run")
    sock.close()
    time.sleep(2)
    before = s.metric("vllm:generation_tokens_total")
    time.sleep(1)
    made = s.metric("vllm:generation_tokens_total") - before
    assert made == 0, f"{made:g} tokens in the third second after"


@load("a client that does not read its stream holds up nobody")
def _(s):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", s.port))
    content = json.dumps({"model": "m", "prompt": "옛날에", "stream": True, "logprobs": 20} | LONG).encode()
    sock.sendall(s.head("POST /v1/completions", JSON, f"Content-Length: {len(content)}") + content)
    try:
        busy(s, 1)
        started = time.monotonic()
        s.write(max_tokens=4)
        assert time.monotonic() - started < 3, f"{time.monotonic() - started:.1f} s"
    finally:
        sock.close()
    freed(s)


@load("more answers in one request than there is room for: a 4xx, or all of them")
def _(s):
    answer = s.ask(n=64, temperature=1, max_tokens=2)
    if answer.status_code == 200:
        same(len(answer.json()["choices"]), 64)
    else:
        refused(answer, 400, 429)
