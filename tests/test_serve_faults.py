"""What goes wrong around a server: too many clients, clients that leave or do not read, signals, a dead engine."""

import asyncio
import json
import os
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest
from server_process import Running

pytestmark = pytest.mark.torch
SLOW = {"prompt": "옛날에", "max_tokens": 400, "ignore_eos": True, "stream": True}
SMALL = ["--max_num_seqs", 8, "--max_waiting", 50, "--max_seq_length", 512]


@pytest.fixture(scope="module")
def server(tiny_base):
    running = Running("--model_id", tiny_base, *SMALL, "--request_timeout", 20)
    yield running
    assert running.stop() == 0


def many(server, count: int, body: dict) -> list[httpx.Response | Exception]:
    """The same request `count` times at once."""

    async def ask() -> list:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
            asked = (client.post("/v1/completions", json=body) for _ in range(count))
            return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(ask())


def open_stream(server, body: dict, receive_buffer: int | None = None, request_id: str = "-") -> socket.socket:
    """A raw connection whose answer has begun."""
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", server.port))
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    head += f"Content-Type: application/json\r\nX-Request-ID: {request_id}\r\n\r\n"
    sock.sendall(head.encode() + data)
    return sock


def test_five_hundred_clients_get_an_answer_or_a_429(server):
    before = server.metric("sllm_requests_total")
    done = many(server, 500, {"prompt": "옛날에", "max_tokens": 40, "ignore_eos": True})
    assert all(isinstance(answer, httpx.Response) for answer in done), done
    answered = [answer for answer in done if answer.status_code == 200]
    refused = [answer for answer in done if answer.status_code == 429]
    assert len(answered) + len(refused) == 500
    assert len(answered) >= 58
    assert len(refused) > 100
    assert all(answer.json()["usage"]["completion_tokens"] == 40 for answer in answered)
    for answer in refused:
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "server_busy"
    server.wait_for(server.idle, 5)
    assert httpx.post(server.url + "/v1/completions", json={"prompt": "가", "max_tokens": 2}).status_code == 200
    server.wait_for(lambda: sum(line.get("path") == "/v1/completions" for line in server.log) == 501, 5)
    assert server.metric("sllm_requests_total") - before == 501


def test_clients_that_leave_are_aborted_in_the_engine(server):
    streams = [open_stream(server, SLOW) for _ in range(50)]
    server.wait_for(lambda: server.metric("vllm:num_requests_running") >= 8, 20)
    streams[0].recv(10)
    for sock in streams:
        sock.close()
    left = time.monotonic()
    server.wait_for(lambda: server.metric("sllm_sequences_in_flight") == 0, 1)
    whole = [httpx.post(server.url + "/v1/completions", json={"prompt": "가", "max_tokens": 1}) for _ in range(2)]
    server.wait_for(server.idle, 2)
    assert time.monotonic() - left < 3
    assert all(answer.status_code == 200 for answer in whole)
    statuses = [line["status"] for line in server.log[-60:] if line.get("stream")]
    assert statuses.count(499) >= 50


def test_a_client_that_does_not_read_does_not_delay_others(server):
    body = SLOW | {"prompt": ["가"] * 16, "logprobs": 20, "max_tokens": 480}  # ten megabytes of chunks
    stuck = open_stream(server, body, receive_buffer=4096, request_id="stuck")
    server.wait_for(lambda: server.metric("vllm:num_requests_running") >= 8, 20)
    answer = httpx.post(server.url + "/v1/completions", json={"prompt": "가", "max_tokens": 5}, timeout=60)
    assert answer.status_code == 200
    assert not [line for line in server.log if line.get("request_id") == "stuck"]  # others are answered before it ends
    # its time runs out (--request_timeout), though its connection is still open
    server.wait_for(server.idle, 30)
    line = server.wait_for(lambda: next((line for line in server.log if line.get("request_id") == "stuck"), None), 10)
    assert line["status"] == 504
    assert not [line for line in server.log if line["level"] == "error"]
    stuck.close()


def test_what_takes_too_long_is_a_504(tiny_base):
    running = Running("--model_id", tiny_base, *SMALL, "--request_timeout", 0.05)
    try:
        answer = httpx.post(running.url + "/v1/completions", json=SLOW | {"stream": False}, timeout=30)
        assert answer.status_code == 504
        assert "--request_timeout" in answer.json()["error"]["message"]
        events = httpx.post(running.url + "/v1/completions", json=SLOW, timeout=30)
        if events.status_code == 200:  # the first piece was out already
            assert (
                json.loads(events.text.split("\n\n")[-3].removeprefix("data: "))["error"]["code"] == "gateway_timeout"
            )
        else:
            assert events.status_code == 504
        running.wait_for(running.idle, 2)
        # and the death of the engine, on the same server
        workers = running.engine_pids()
        assert workers
        killed = time.monotonic()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        statuses = set()
        while running.process.poll() is None and time.monotonic() - killed < 10:
            statuses.add(running.status("/health"))
            time.sleep(0.05)
        assert running.process.wait(1) == 1
        assert time.monotonic() - killed < 5
        assert 503 in statuses
    finally:
        running.process.kill()


def test_the_smallest_server_starts_and_refuses_the_second(tiny_base):
    running = Running("--model_id", tiny_base, "--max_num_seqs", 1, "--max_waiting", 0, "--max_seq_length", 16)
    try:
        body = {"prompt": [5, 6], "max_tokens": 14, "ignore_eos": True}
        statuses = {answer.status_code for answer in many(running, 20, body)}
        assert statuses == {200, 429}
        assert running.stop() == 0
    finally:
        running.process.kill()


def test_an_engine_does_not_outlive_a_server_that_was_killed(tiny_base):
    running = Running("--model_id", tiny_base, *SMALL)
    engines = running.engine_pids()
    running.process.kill()
    running.process.wait()
    end = time.monotonic() + 5
    while alive := [pid for pid in engines if state(pid) not in ("gone", "Z")]:
        assert time.monotonic() < end, alive
        time.sleep(0.05)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "gone"


def test_sigterm_lets_running_streams_finish(tiny_base):
    running = Running("--model_id", tiny_base, *SMALL, "--shutdown_timeout", 30)
    try:
        streams = [open_stream(running, SLOW) for _ in range(6)]
        running.wait_for(lambda: running.metric("vllm:num_requests_running") >= 6, 20)
        for pid in (running.process.pid, *running.engine_pids()):  # as systemd tells a whole group
            os.kill(pid, signal.SIGTERM)
        running.wait_for(lambda: running.status("/ready") == 503, 2)
        assert running.status("/health") == 200
        late = httpx.post(running.url + "/v1/completions", json={"prompt": "가"})
        assert late.status_code == 503
        assert late.json()["error"]["code"] == "draining"
        for sock in streams:
            text = b""
            while piece := sock.recv(65536):
                text += piece
            assert text.count(b'"finish_reason":"length"') == 1
            assert b"data: [DONE]" in text
        assert running.process.wait(20) == 0
    finally:
        running.process.kill()


def test_what_does_not_finish_in_time_is_told_so(tiny_base):
    running = Running("--model_id", tiny_base, *SMALL, "--shutdown_timeout", 0.3)
    try:
        stream = open_stream(running, SLOW)
        running.wait_for(lambda: running.metric("vllm:num_requests_running") >= 1, 20)
        running.process.send_signal(signal.SIGTERM)
        text = b""
        while piece := stream.recv(65536):
            text += piece
        assert b'"code":"draining"' in text.replace(b'": "', b'":"')
        assert b"data: [DONE]" in text
        assert running.process.wait(20) == 0
    finally:
        running.process.kill()
