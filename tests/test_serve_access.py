"""Keys, rates, web pages and signals of a server whose engine need not be there yet."""

import re
import signal

import httpx
import pytest
from serving import Running

pytestmark = pytest.mark.torch
TEXT = {"text": "안녕하세요"}


def key(value: str) -> dict:
    return {"Authorization": f"Bearer {value}"}


@pytest.fixture(scope="module")
def server(tiny_base):
    running = Running(
        "--model_id", tiny_base, "--served_model_name", "org/name", "--api_key", "alice:one", "--rate_limit_rpm", 5,
        "--log_prompts", "--allowed_origins", "https://page.example", ready=False, SLLM_API_KEYS="two, carol:three",
    )  # fmt: skip
    running.wait_for(lambda: running.status("/health") == 200)
    yield running
    running.process.kill()


def test_everything_but_health_and_ready_wants_a_key(server):
    for method, path in (
        ("GET", "/v1/models"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/metrics"), ("GET", "/v1/tasks"),
        ("POST", "/v1/chat/completions"), ("POST", "/v1/tasks/task02"), ("GET", "/nothing"),
    ):  # fmt: skip
        for headers in ({}, key("wrong"), {"Authorization": "Basic one"}, key("alice:one")):
            answer = httpx.request(method, server.url + path, headers=headers)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", (path, headers)
            error = answer.json()["error"]
            assert error["code"] == "invalid_api_key" and set(error) == {"message", "type", "param", "code"}
    assert httpx.get(server.url + "/health").status_code == 200
    assert httpx.get(server.url + "/ready").status_code in (200, 503)
    assert httpx.get(server.url + "/docs", headers=key("one")).status_code == 200
    assert "one" not in re.findall(r"\w+", "".join(server.lines))  # names are printed, keys are not


def test_rates_are_counted_for_each_key_and_logged_by_name(server):
    def ask(name):
        return httpx.post(server.url + "/v1/tokenize", json=TEXT, headers=key(name))

    found = [ask("two") for _ in range(8)]
    assert [answer.status_code for answer in found] == [200] * 5 + [429] * 3
    assert int(found[-1].headers["retry-after"]) >= 1
    assert found[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert ask("three").status_code == 200
    server.wait_for(lambda: {"key2", "carol"} <= {line.get("key") for line in server.log}, 5)


def test_answers_are_refused_while_loading(server):
    if httpx.get(server.url + "/ready").json() == {"status": "loading"}:
        answer = httpx.post(server.url + "/v1/completions", json={"prompt": "가"}, headers=key("one"))
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "loading"
        assert answer.headers["retry-after"]


def test_a_model_with_a_slash_in_its_name_is_found(server):
    assert httpx.get(server.url + "/v1/models/org/name", headers=key("one")).json()["id"] == "org/name"
    assert httpx.get(server.url + "/v1/models/org%2Fname", headers=key("one")).json()["id"] == "org/name"


def test_web_pages_may_ask_where_they_are_named(server):
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for origin, allowed in (("https://page.example", True), ("https://other.example", False)):
        answer = httpx.options(server.url + "/v1/chat/completions", headers={"Origin": origin} | ask)
        assert (answer.headers.get("access-control-allow-origin") == origin) == allowed
    answer = httpx.get(server.url + "/v1/models", headers=key("one") | {"Origin": "https://page.example"})
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]


def test_sigterm_and_ctrl_c_while_loading(server, tiny_base):
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    other = Running("--model_id", tiny_base, ready=False)
    other.wait_for(lambda: other.status("/health") == 200)
    other.process.send_signal(signal.SIGINT)
    assert other.process.wait(20) == 130
