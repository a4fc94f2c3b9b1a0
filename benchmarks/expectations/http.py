"""HTTP: bodies, headers, connections."""

import contextlib
import json
import time
from http.client import HTTPConnection

import httpx

from expectations.helpers import good, refused, same
from expectations.registry import of
from expectations.servers import JSON, PAGE, SMALL

http = of("HTTP")


@http("HEAD /health is a 200")
def _(s):
    same(s.client.head("/health").status_code, 200)


@http("HTTP/1.0 is answered and the connection closed")
def _(s):
    answer = s.raw(s.head("GET /v1/models", version="1.0"), timeout=10)
    assert b" 200 " in answer.split(b"\r\n")[0] and b'"object"' in answer, answer[:100]


@http("an HTTP/1.0 stream is sent without chunk lengths")
def _(s):
    body = json.dumps({"model": "m", "prompt": "가", "max_tokens": 4, "stream": True}).encode()
    answer = s.raw(
        s.head("POST /v1/completions", JSON, f"Content-Length: {len(body)}", version="1.0") + body, timeout=10
    )
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head and b"chunked" not in head.lower() and rest.startswith(b"data: "), answer[:200]


@http("keep-alive: several requests on one connection")
def _(s):
    with s.connect() as sock:
        for _ in range(3):
            sock.sendall(s.head("GET /v1/models"))
            answer = b""
            while b'"data"' not in answer:
                piece = sock.recv(65536)
                assert piece, "closed"
                answer += piece


@http("keep-alive also after an error")
def _(s):
    connection = HTTPConnection("127.0.0.1", s.port, timeout=30)
    connection.connect()
    first, statuses = connection.sock, []
    for content in (b"{", b'{"model":"m","prompt":"a","max_tokens":2}'):
        connection.request("POST", "/v1/completions", content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    assert statuses == [400, 200] and connection.sock is first, statuses
    connection.close()


@http("Upgrade: h2c (Java, curl) keeps the body")
def _(s):
    body = json.dumps({"model": "m", "prompt": "가", "max_tokens": 2}).encode()
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    answer = s.raw(s.head("POST /v1/completions", JSON, *upgrade, f"Content-Length: {len(body)}") + body, timeout=5)
    assert b" 200 " in answer.split(b"\r\n")[0], answer[:160]


@http("a chunked request body is read")
def _(s):
    body = json.dumps({"model": "m", "prompt": "가나", "max_tokens": 2}, ensure_ascii=False).encode()
    parts = [body[start : start + 7] for start in range(0, len(body), 7)]
    data = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    answer = s.raw(s.head("POST /v1/completions", JSON, "Transfer-Encoding: chunked", "Connection: close") + data)
    assert b" 200 " in answer.split(b"\r\n")[0], answer[:160]


@http("Expect: 100-continue is answered with 100 Continue")
def _(s):
    body = json.dumps({"model": "m", "prompt": "가", "max_tokens": 2}).encode()
    with s.connect() as sock:
        sock.settimeout(10)
        sock.sendall(s.head("POST /v1/completions", JSON, "Expect: 100-continue", f"Content-Length: {len(body)}"))
        first = sock.recv(65536)
        assert first.startswith(b"HTTP/1.1 100"), first[:80]
        sock.sendall(body)
        assert b" 200 " in sock.recv(65536).split(b"\r\n")[0]


@http("X-Request-Id is echoed")
def _(s):
    headers = {"X-Request-Id": "abc-123"}
    for answer in (
        s.get("/v1/models", headers=headers),
        s.post("/v1/completions", {"model": "m", "prompt": "a"} | SMALL, headers=headers),
    ):
        same(answer.headers.get("x-request-id"), "abc-123")


@http("an answer without X-Request-Id gets an id, errors too")
def _(s):
    found = {s.get(path).headers.get("x-request-id") for path in ("/v1/models", "/v1/models/missing", "/v1/nothing")}
    assert None not in found and len(found) == 3, found


@http("CORS: the preflight of an allowed page is answered, and the answer carries the origin")
def _(s):
    ask = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    ask["Access-Control-Request-Headers"] = "authorization,content-type"
    answer = s.client.options("/v1/chat/completions", headers=ask)
    assert answer.status_code in (200, 204), answer.status_code
    same(answer.headers.get("access-control-allow-origin"), PAGE)
    same(s.get("/v1/models", headers={"Origin": PAGE}).headers.get("access-control-allow-origin"), PAGE)


@http("CORS: errors carry the origin too, or the page cannot read them")
def _(s):
    answer = s.post("/v1/chat/completions", {"model": "m", "messages": []}, headers={"Origin": PAGE})
    same(answer.headers.get("access-control-allow-origin"), PAGE)


@http("CORS: another page's preflight is not allowed")
def _(s):
    ask = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = s.client.options("/v1/chat/completions", headers=ask)
    assert answer.headers.get("access-control-allow-origin") not in ("*", "https://evil.example")


@http("a body of 50 MB is a 413")
def _(s):
    body = b'{"model":"m","prompt":"' + b"a" * 50_000_000 + b'","max_tokens":2}'
    with contextlib.suppress(httpx.WriteError):
        refused(s.post("/v1/completions", content=body, headers={"Content-Type": "application/json"}), 413)


@http("a Content-Length of 10 GB is refused before the body comes")
def _(s):
    answer = s.raw(s.head("POST /v1/completions", JSON, "Content-Length: 10000000000") + b"{", timeout=5)
    assert b" 413 " in answer.split(b"\r\n")[0], answer[:80] or "no answer within 5 s"


@http("headers that never end (slow loris) are closed within 40 s")
def _(s):
    started = time.monotonic()
    with s.connect() as sock:
        sock.settimeout(1)
        sock.sendall(f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{s.port}\r\n".encode())
        while time.monotonic() - started < 40:
            try:
                if sock.recv(1000):
                    return
                return
            except TimeoutError:
                with contextlib.suppress(OSError):
                    sock.sendall(b"X-A: b\r\n")
            except OSError:
                return
    raise AssertionError("open after 40 s")


@http("a connection that says nothing is closed within 40 s")
def _(s):
    with s.connect() as sock:
        sock.settimeout(40)
        try:
            sock.recv(1000)
        except TimeoutError:
            raise AssertionError("open after 40 s") from None


@http("10 MB of headers are cut off")
def _(s):
    data = f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{s.port}\r\n".encode() + b"X-A: " + b"a" * 10_000_000 + b"\r\n\r\n"
    answer = s.raw(data, timeout=10)
    assert b" 200 " not in answer.split(b"\r\n")[0], "a 200"


@http("10,000 headers are refused")
def _(s):
    lines = [f"X-{number}: a" for number in range(10_000)]
    answer = s.raw(s.head("GET /health", *lines), timeout=10)
    assert b" 200 " not in answer.split(b"\r\n")[0], "a 200"


@http("300 idle connections do not delay others")
def _(s):
    held = [s.connect() for _ in range(300)]
    try:
        started = time.monotonic()
        s.write(max_tokens=2)
        assert time.monotonic() - started < 3, f"{time.monotonic() - started:.1f} s"
    finally:
        for sock in held:
            sock.close()


@http("two Content-Length headers that differ are a 400 (request smuggling)")
def _(s):
    answer = s.raw(s.head("POST /v1/completions", JSON, "Content-Length: 2", "Content-Length: 50") + b"{}", timeout=5)
    assert b" 400 " in answer.split(b"\r\n")[0], answer[:80]


@http("an invalid request line is a 400")
def _(s):
    answer = s.raw(b"HELLO\r\n\r\n", timeout=5)
    assert b" 400 " in answer.split(b"\r\n")[0], answer[:80]


@http("pipelined requests are answered in their order")
def _(s):
    answer = s.raw(s.head("GET /version") + s.head("GET /v1/models", "Connection: close"), timeout=10)
    assert answer.count(b"HTTP/1.1 200") == 2 and answer.index(b'"version"') < answer.index(b'"data"'), answer[:200]


@http("a query string is ignored")
def _(s):
    good(s.post("/v1/completions?api-version=1", {"model": "m", "prompt": "가"} | SMALL))
