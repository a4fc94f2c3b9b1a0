"""Requests that mean harm, or are broken: none may hold up the others, grow the server or pass its checks."""

import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from server_process import Running

pytestmark = pytest.mark.torch
MESSAGES = [{"role": "user", "content": "안녕하세요"}]
ASK = {"messages": MESSAGES, "max_tokens": 2}
ROUTES = {
    "GET /docs", "GET /openapi.json", "GET /docs/oauth2-redirect", "GET /health", "GET /ready", "GET /version",
    "GET /metrics", "GET /v1/models", "GET /v1/models/{model:path}", "GET /v1/tasks", "POST /v1/tasks/{task_id}",
    "POST /v1/load_lora_adapter", "POST /v1/unload_lora_adapter", "POST /v1/chat/completions", "POST /v1/completions",
    "POST /v1/responses",
    "POST /v1/messages", "POST /v1/messages/count_tokens", "POST /tokenize", "POST /detokenize",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tiny_base):
    running = Running("--model_id", tiny_base, "--max_seq_length", 512, "--max_tokens", 8)
    yield running
    assert running.stop() == 0
    assert not [line for line in running.errors if not line.startswith("{")]


def post(server, path: str, body, **headers) -> httpx.Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"} | headers
    return httpx.post(server.url + path, content=raw, headers=headers, timeout=60)


def raw(server, data: bytes, seconds: float = 30) -> bytes:
    """What the server says to these bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as sock:
        sock.sendall(data)
        said = b""
        while piece := sock.recv(65536):
            said += piece
        return said


# ── routes ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_route_there_is(tiny_base):
    from sllm.serve import admission, models, served_model
    from sllm.serve import app as web

    served = served_model.read_model("base", str(tiny_base), str(tiny_base), "auto", parent=None)
    registry = models.Models(
        str(tiny_base), [served], defaults={}, context=8, max_loras=0, max_lora_rank=0, chat_template="auto", parsers={}
    )
    app, _ = web.endpoints(registry, admission.Capacity(1, 1), lambda: "ready", [])
    found = {
        f"{method} {route.path}"
        for route in app.routes
        for method in (getattr(route, "methods", None) or {"MOUNT"})
        if method != "HEAD" and not route.path.startswith("/static-offline-docs")
    }
    assert found == ROUTES


def test_what_vllm_has_for_its_operators_is_not_there(server):
    for path in (
        "/invocations", "/ping", "/pause", "/resume", "/sleep", "/wake_up", "/collective_rpc", "/reset_prefix_cache",
        "/start_profile", "/server_info", "/scale_elastic_ep", "/v1/chat/completions/batch", "/v1/embeddings",
        "/v1/chat/completions/render", "/inference/v1/generate", "/load", "/abort_requests", "/update_weights",
    ):  # fmt: skip
        assert post(server, path, {}).status_code == 404, path
        assert httpx.get(server.url + path).status_code == 404, path


# ── bodies ─────────────────────────────────────────────────────────────────────────────────────────────────

TOO_MUCH = {
    "175,000 unknown fields": ("/v1/chat/completions", ASK | {f"x{i}": 1 for i in range(175_000)}),
    "wrong messages": ("/v1/chat/completions", {"messages": [{"role": 5, "content": [{"type": "x"}]}] * 2048}),
    "wrong input items": ("/v1/responses", {"input": [{"type": "nope"}] * 9000}),
    "a text of megabytes": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a b " * 950_000}]}),
    "a prompt of megabytes": ("/v1/completions", {"prompt": "a b " * 950_000}),
    "a text to tokenize": ("/tokenize", {"prompt": "a b " * 950_000}),
    "a schema of 500 properties": ("/v1/chat/completions", None),
    "a schema of 5,000 properties": ("/v1/chat/completions", None),
    "nesting": ("/v1/chat/completions", b'{"messages":' + b"[" * 100_000),
    "stop texts": ("/v1/chat/completions", ASK | {"stop": ["가"] * 65}),
    "more answers than there is room": ("/v1/completions", {"prompt": "a", "n": 1_000_000}),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_is_too_much_is_a_400_and_others_are_served_meanwhile(server, name):
    path, body = TOO_MUCH[name]
    if body is None:
        count = int(name.split()[3].replace(",", ""))
        schema = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(count)}}
        body = ASK | {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(post, server, path, body)
        slowest = 0.0
        while not asked.done():
            started = time.monotonic()
            assert httpx.get(server.url + "/health", timeout=60).status_code == 200
            slowest = max(slowest, time.monotonic() - started)
            time.sleep(0.01)
        answer = asked.result()
    assert answer.status_code == 400, answer.text[:300]
    assert len(answer.content) < 4000, answer.text[:300]
    assert slowest < 5, "the event loop stood still"  # it was 17.5 s; far above what a busy machine adds


def test_at_most_eight_errors_are_written_out(server):
    answer = post(server, "/v1/chat/completions", {"messages": [1] * 2000})
    assert answer.json()["error"]["message"].count("valid dictionary") == 8


def test_bodies_that_are_not_utf8_json_are_told_so(server):
    for body, said in (
        ('{"messages":[{"role":"user","content":"안녕"}]}'.encode("cp949"), "not UTF-8"),
        (b'{"messages": [', "not JSON"),
        (b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}', "not JSON"),
    ):
        answer = post(server, "/v1/chat/completions", body)
        assert answer.status_code == 400, answer.text
        assert said in answer.json()["error"]["message"], answer.text


def test_what_a_message_names_is_not_fetched(server):
    """A model that reads text has no reason to open the URL of a part, of this machine or of another."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1)
        for url in (f"http://127.0.0.1:{listener.getsockname()[1]}/x.png", "file:///etc/passwd"):
            part = {"type": "image_url", "image_url": {"url": url}}
            answer = post(server, "/v1/chat/completions", {"messages": [{"role": "user", "content": [part]}]})
            assert answer.status_code == 400
            assert "text only" in answer.json()["error"]["message"]
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize("name", ["image_url", "video_url", "audio_url", "file", "image_pil"])
def test_parts_without_a_type_are_not_fetched(server, name):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.png"
        for part in ({name: url}, {name: {"url": url}}, {"type": "text", "text": "a", "uuid": "u", name: {"url": url}}):
            for path in ("/v1/chat/completions", "/tokenize"):
                for role in ("user", "observer"):
                    answer = post(server, path, {"messages": [{"role": role, "content": [part]}], "max_tokens": 1})
                    assert answer.status_code in (200, 400), answer.text  # 200: the text alone
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_prompt_that_passes_by_the_tokenizer_is_refused(server):
    """vLLM takes token ids out of kv_transfer_params; `true` among them ended the engine's input thread."""
    for path, body in (
        ("/v1/chat/completions", ASK | {"kv_transfer_params": {"prompt_token_ids": [True, 300]}}),
        ("/v1/completions", {"prompt": "a", "kv_transfer_params": {"prompt_token_ids": [1]}}),
        ("/v1/responses", {"input": "a", "kv_transfer_params": {"prompt_token_ids": [True]}}),
        ("/v1/completions", {"prompt_embeds": "AAAA"}),
        ("/v1/chat/completions", ASK | {"priority": 3}),
    ):
        answer = post(server, path, body)
        assert answer.status_code == 400, (path, body, answer.text)
        assert answer.json()["error"]["param"] in body
    assert post(server, "/v1/chat/completions", ASK | {"kv_transfer_params": None, "priority": 0}).status_code == 200


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "refusal", "refusal": "<s>"}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "<s>"}]},
        {"role": "user", "content": "a", "name": "<s>"},
        {"role": "assistant", "content": "a", "reasoning": "<s>"},
        {"role": "assistant", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": "<s>"}'}}
        ]},
    ],
)  # fmt: skip
def test_control_tokens_are_refused_wherever_a_template_may_write_them(server, message):
    answer = post(server, "/v1/chat/completions", {"messages": [*MESSAGES, message], "max_tokens": 1})
    assert answer.status_code == 400, answer.text
    assert "special token" in answer.json()["error"]["message"], answer.text


def test_control_tokens_in_tools_are_refused(server):
    tool = {"type": "function", "function": {"name": "f", "description": "<s>", "parameters": {}}}
    answer = post(server, "/v1/chat/completions", ASK | {"tools": [tool], "tool_choice": "none"})
    assert answer.status_code == 400, answer.text


def test_words_to_search_for_are_short(server):
    for name in ("bad_words", "stop"):
        answer = post(server, "/v1/chat/completions", ASK | {name: ["a" * 100_000]})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == name


def test_conversations_that_cannot_fit_are_refused_before_they_are_tokenized(server):
    """Twelve of 3.9 MB in vLLM's path made a normal request wait."""
    long = {"messages": [{"role": "user", "content": "가나다 " * 150_000}], "skip_special_tokens": True}
    with ThreadPoolExecutor(12) as pool:
        refused = [pool.submit(post, server, "/v1/chat/completions", long) for _ in range(12)]
        assert post(server, "/v1/chat/completions", ASK).status_code == 200
        for answer in refused:
            assert answer.result().status_code == 400
            assert answer.result().json()["error"]["code"] == "context_length_exceeded"


def test_beam_search_refuses_what_it_would_drop(server):
    beams = ASK | {"use_beam_search": True, "n": 2}
    for name, value in (
        ("stop", ["."]), ("bad_words", ["a"]), ("repetition_penalty", 1.2), ("min_tokens", 2), ("top_p", 0.5),
        ("structured_outputs", {"choice": ["a", "b"]}), ("response_format", {"type": "json_object"}),
    ):  # fmt: skip
        assert post(server, "/v1/chat/completions", beams | {name: value}).status_code == 400, name
    neutral = {"stop": [], "repetition_penalty": 1.0, "top_k": 0, "top_p": 1, "response_format": {"type": "text"}}
    answer = post(server, "/v1/chat/completions", beams | neutral)
    assert answer.status_code == 200
    assert len(answer.json()["choices"]) == 2
    id = answer.headers["x-request-id"]
    line = server.wait_for(lambda: next((line for line in server.log if line.get("request_id") == id), None))
    assert line["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"]


def test_a_busy_server_tells_anthropics_clients_when_to_return(tiny_base):
    """In their shape, and with the header that vLLM's route drops."""
    running = Running(
        "--model_id", tiny_base, "--max_seq_length", 512, "--max_num_seqs", 1, "--max_waiting", 0, "--rate_limit_rpm", 9
    )  # fmt: skip
    try:
        slow = {"model": "tiny_base", "max_tokens": 400, "messages": MESSAGES}
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(post, running, "/v1/messages", slow)
            running.wait_for(lambda: running.metric("sllm_sequences_in_flight") >= 1, 20)
            refused = post(running, "/v1/messages", slow)
            first.result()
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        answers = [post(running, "/v1/messages", slow | {"max_tokens": 1}) for _ in range(12)]
        limited = answers[-1]
        assert limited.status_code == 429
        assert limited.headers["retry-after"]
        assert limited.json()["type"] == "error"
    finally:
        assert running.stop() == 0


def test_what_vllm_has_not_foreseen_is_a_400(server):
    output = {"type": "custom_tool_call_output", "call_id": "", "output": [{"detail": None}]}
    for path, body in (
        ("/v1/completions", {"prompt": "a", "structured_outputs": [None, None]}),
        ("/v1/responses", {"input": [output]}),
        ("/v1/responses", {"input": "a", "top_k": 2**70}),
        ("/v1/chat/completions", ASK | {"top_k": 2**70}),
    ):
        answer = post(server, path, body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] in ("invalid_request", "bad_request")


def test_names_of_unknown_fields_fit_a_header(server):
    names = {"": "%22%22", " ": "%20", "a\r\nb": "a%0D%0Ab", "이름": "%EC%9D%B4%EB%A6%84", "a,b": "a%2Cb"}
    for name in names:
        answer = post(server, "/v1/chat/completions", ASK | {name: 1})
        assert answer.status_code == 200, name
        assert answer.headers["x-ignored-fields"] in (names[name], '""'), name


def test_errors_of_anthropics_api_are_in_its_shape(server):
    body = {"model": "tiny_base", "max_tokens": 4, "messages": MESSAGES}
    for change, status in (
        ({"model": "x"}, 404),
        ({"messages": [{"role": "user", "content": "<s>"}]}, 400),
        ({"max_tokens": "x"}, 400),
    ):
        answer = post(server, "/v1/messages", body | change)
        assert answer.status_code == status, answer.text
        assert answer.json()["type"] == "error", answer.text
        assert set(answer.json()["error"]) == {"type", "message"}
    assert post(server, "/v1/messages", body).json()["type"] == "message"


def test_a_stream_with_a_schema_that_is_none_is_a_400(server):
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    assert post(server, "/v1/chat/completions", ASK | {"stream": True, "response_format": schema}).status_code == 400


# ── connections ────────────────────────────────────────────────────────────────────────────────────────────


def memory(server) -> int:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_headers_without_end_are_cut_off(server):
    before = memory(server)
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock, pytest.raises(OSError):
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        for _ in range(4096):
            sock.sendall(b"x: " + b"y" * 2**16 + b"\r\n")
            sent += 2**16
    assert sent < 64 * 2**20
    assert memory(server) - before < 64 * 2**20


def test_connections_that_send_nothing_or_half_a_request_are_closed(server):
    from sllm.serve.connection import HEADER_SECONDS

    with ThreadPoolExecutor(3) as pool:
        started = time.monotonic()
        silent = pool.submit(raw, server, b"", 60)
        half = pool.submit(raw, server, b"POST /v1/completions HTTP/1.1\r\nHost: loc", 60)
        second = pool.submit(raw, server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea", 60)
        assert silent.result() == b""
        assert half.result() == b""
        assert second.result().startswith(b"HTTP/1.1 200")
    assert HEADER_SECONDS - 1 < time.monotonic() - started < 3 * HEADER_SECONDS


def test_a_slow_answer_is_not_a_slow_request(server):
    """The limit ends with a request's headers, not with its answer."""
    from sllm.serve.connection import HEADER_SECONDS

    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        sock.sendall(b"Content-Length: 32\r\n\r\n" + b'{"prompt": "abc",')
        time.sleep(HEADER_SECONDS + 1)
        sock.sendall(b'"max_tokens":1}')
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")


def test_clients_that_offer_http2_are_answered_with_http11(server):
    body = json.dumps(ASK).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
    head += b"Upgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\nContent-Type: application/json\r\n"
    said = raw(server, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert said.startswith(b"HTTP/1.1 200")
    assert b"chat.completion" in said


def test_http10_gets_no_chunks(server):
    body = json.dumps(ASK | {"stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nHost: localhost\r\n"
    said = raw(server, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert b"200 OK" in said
    assert b"transfer-encoding" not in said.lower()
    assert said.partition(b"\r\n\r\n")[2].startswith(b"data: {")
    assert said.rstrip().endswith(b"data: [DONE]")


def test_head_is_answered(server):
    for path in ("/health", "/ready"):
        answer = httpx.head(server.url + path)
        assert answer.status_code == 200
        assert not answer.content


# ── hosts and web pages ────────────────────────────────────────────────────────────────────────────────────


def test_another_name_for_a_loopback_address_is_refused(server):
    for host, status in (("evil.example", 403), (f"localhost:{server.port}", 200), (f"[::1]:{server.port}", 200)):
        assert post(server, "/v1/chat/completions", ASK, host=host).status_code == status
    assert httpx.get(server.url + "/v1/models", headers={"host": "evil.example"}).status_code == 403
    assert httpx.get(server.url + "/health", headers={"host": "10.0.0.7"}).status_code == 200  # a probe


def test_web_pages_of_other_origins_are_refused(server):
    for origin, status in (("https://evil.example", 403), ("null", 403), (server.url, 200)):
        assert post(server, "/v1/chat/completions", ASK, origin=origin).status_code == status
    form = httpx.post(
        server.url + "/v1/chat/completions", content=json.dumps(ASK), headers={"content-type": "text/plain"}
    )
    assert form.status_code in (400, 415)  # what a page can send without asking first


# ── the engine ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_stopped_engine_is_not_ready(tiny_base):
    running = Running("--model_id", tiny_base, "--max_seq_length", 128)
    engines = running.engine_pids()
    try:
        for pid in engines:
            os.kill(pid, signal.SIGSTOP)
        running.wait_for(lambda: httpx.get(running.url + "/ready").json() == {"status": "stalled"}, 40)
        assert running.status("/health") == 200
        for pid in engines:
            os.kill(pid, signal.SIGCONT)
        running.wait_for(lambda: running.status("/ready") == 200, 20)
        assert post(running, "/v1/chat/completions", ASK).status_code == 200
    finally:
        for pid in engines:
            os.kill(pid, signal.SIGCONT)
        assert running.stop() == 0
