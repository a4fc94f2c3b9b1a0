"""Security: keys, hosts, origins, closed routes."""

import contextlib
import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx

from expectations.helpers import good, image, refused, said, same, user
from expectations.registry import of
from expectations.servers import KEY, OTHER_KEY, PAGE

security = of("security", "locked")


def without_key(s, method: str, path: str, headers: dict | None = None, **kwargs) -> httpx.Response:
    return httpx.request(method, s.url + path, headers=headers, timeout=30, trust_env=False, **kwargs)


@security("a request without a key is a 401 in OpenAI's shape")
def _(s):
    refused(without_key(s, "GET", "/v1/models"), 401)
    refused(without_key(s, "POST", "/v1/chat/completions", json={"model": "m", "messages": user("?")}), 401)


@security("a wrong key is a 401 with code invalid_api_key")
def _(s):
    answer = without_key(s, "GET", "/v1/models", {"Authorization": "Bearer wrong"})
    same(refused(answer, 401)["code"], "invalid_api_key")


@security("OpenAI's client raises AuthenticationError for a wrong key and works with the right one")
def _(s):
    from openai import AuthenticationError, OpenAI

    with contextlib.suppress(AuthenticationError):
        OpenAI(base_url=s.url + "/v1", api_key="wrong", max_retries=0).models.list()
        raise AssertionError("no error")
    assert OpenAI(base_url=s.url + "/v1", api_key=KEY, max_retries=0).models.list().data


@security("each of several keys is accepted, and the scheme in any case")
def _(s):
    for value in (f"Bearer {KEY}", f"Bearer {OTHER_KEY}", f"bearer {KEY}"):
        good(without_key(s, "GET", "/v1/models", {"Authorization": value}))


@security("Anthropic's client is let in with its x-api-key")
def _(s):
    from anthropic import Anthropic

    client = Anthropic(base_url=s.url, api_key=KEY, max_retries=0)
    client.messages.create(model="m", max_tokens=4, messages=user("안녕"))


@security("a key that is not ASCII is a 401, not a 500")
def _(s):
    answer = s.raw(
        b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer \xed\x82\xa4\r\n\r\n", timeout=3
    )
    assert b" 401 " in answer.split(b"\r\n")[0], answer[:80]


@security("probes need no key: /health")
def _(s):
    same(without_key(s, "GET", "/health").status_code, 200)


@security("nothing computes without a key: /tokenize, /detokenize, /invocations, /inference, /pooling")
def _(s):
    body = {"model": "m", "prompt": "가", "messages": user("가"), "tokens": [5], "max_tokens": 2}
    paths = "/tokenize /detokenize /invocations /inference/v1/generate /generate /v1/completions/render /pooling /score"
    paths += " //v1/completions /v1/../v1/completions /classify /rerank /v2/rerank"
    for path in paths.split():
        answer = without_key(s, "POST", path, json=body)
        assert answer.status_code in (401, 403, 404, 405), f"{path}: {said(answer)}"


@security("a CORS preflight needs no key")
def _(s):
    ask = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    answer = without_key(s, "OPTIONS", "/v1/models", ask)
    same((answer.status_code, answer.headers.get("access-control-allow-origin")), (200, PAGE))


@security("/docs and /openapi.json describe the API", kind="open")
def _(s):
    assert "swagger" in s.get("/docs").text.lower()
    paths = good(s.get("/openapi.json"))["paths"]
    assert "/v1/chat/completions" in paths and "/v1/completions" in paths, list(paths)


@security("/docs loads nothing from other hosts", kind="open")
def _(s):
    found = re.findall(r'(?:src|href)="(https?://[^"]+)"', s.get("/docs").text)
    assert not found, found[0]


@security("without a key, on loopback, another Host header is refused (DNS rebinding)", kind="open")
def _(s):
    answer = s.get("/v1/models", headers={"Host": "evil.example"})
    assert answer.status_code in (400, 403, 421), f"{answer.status_code}"


@security("without a key, another web page's simple POST is refused (CSRF)", kind="open")
def _(s):
    body = json.dumps({"model": "m", "prompt": "가", "max_tokens": 2}).encode()
    for kind in ("text/plain", "application/json"):
        answer = s.post(
            "/v1/completions", content=body, headers={"Content-Type": kind, "Origin": "https://evil.example"}
        )
        assert answer.status_code in (400, 403, 415), f"{kind}: {answer.status_code}"


@security("localhost and 127.0.0.1 are allowed as hosts", kind="open")
def _(s):
    for host in ("localhost", f"localhost:{s.port}", "127.0.0.1"):
        good(s.get("/v1/models", headers={"Host": host}))


@security("development and profiling endpoints are absent", kind="open")
def _(s):
    paths = "start_profile stop_profile reset_prefix_cache reset_mm_cache sleep wake_up collective_rpc server_info"
    paths += " update_weights init_weight_transfer_engine pause resume scale_elastic_ep abort_requests"
    for path in paths.split():
        for method in ("GET", "POST"):
            answer = s.client.request(method, "/" + path, json={} if method == "POST" else None)
            same((path, answer.status_code), (path, 404))


@security("/invocations (a second door to every endpoint) is absent", kind="open")
def _(s):
    same(s.post("/invocations", {"model": "m", "prompt": "가", "max_tokens": 2}).status_code, 404)


@security("a file:// URL in a request is a 400", kind="open")
def _(s):
    refused(s.ask(image("file:///etc/passwd")))


@security("a URL in a request is a 400, and not fetched, for a model that sees no images", kind="open")
def _(s):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(2)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(s.ask, image(f"http://127.0.0.1:{listener.getsockname()[1]}/a.png"))
            try:
                listener.accept()[0].close()
                fetched = True
            except TimeoutError:
                fetched = False
        answer = asked.result()
    assert not fetched, "it was fetched"
    refused(answer)
