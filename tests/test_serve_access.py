"""Keys, rates, web pages and signals of a server whose engine need not be there yet."""

import re
import signal

import httpx
import pytest
from server_process import Running

pytestmark = pytest.mark.torch


def key(value: str) -> dict:
    return {"Authorization": f"Bearer {value}"}


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("dave: four\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def server(tiny_base, keys_file):
    running = Running(
        "--model_id", tiny_base, "--served_model_name", "org/name", "--api_key", "alice:one", "--rate_limit_rpm", 5,
        "--log_prompts", "--allowed_origins", "https://page.example", "--api_keys_file", keys_file,
        "--admin_key", "root:boss", "--strict", ready=False, SLLM_API_KEYS="two, carol: three",
    )  # fmt: skip
    running.wait_for(lambda: running.status("/health") == 200)
    yield running
    running.process.kill()


def test_everything_but_probes_and_documentation_requires_a_key(server):
    for method, path in (
        ("GET", "/v1/models"), ("GET", "/version"), ("GET", "/metrics"), ("GET", "/v1/tasks"),
        ("POST", "/v1/chat/completions"), ("POST", "/v1/tasks/task02"), ("GET", "/nothing"),
    ):  # fmt: skip
        for headers in ({}, key("wrong"), {"Authorization": "Basic one"}, key("alice:one")):
            answer = httpx.request(method, server.url + path, headers=headers)
            assert answer.status_code == 401, (path, headers)
            assert answer.headers["www-authenticate"] == "Bearer", (path, headers)
            error = answer.json()["error"]
            assert error["code"] == "invalid_api_key"
            assert set(error) == {"message", "type", "param", "code"}
    assert httpx.get(server.url + "/health").status_code == 200
    assert httpx.get(server.url + "/ready").status_code in (200, 503)
    for name in ("one", "two", "three", "four"):
        assert httpx.get(server.url + "/v1/models", headers=key(name)).status_code == 200
    assert (
        httpx.get(server.url + "/v1/models", headers={"x-api-key": "one"}).status_code == 200
    )  # as Anthropic's clients
    page = httpx.get(server.url + "/docs")  # a browser sends no key with a page; its "Authorize" does with requests
    assert page.status_code == 200
    assert httpx.get(server.url + "/openapi.json").status_code == 200
    for link in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert httpx.get(server.url + link).status_code == 200
    assert "one" not in re.findall(r"\w+", "".join(server.lines))  # names are printed, keys are not


def test_keys_are_read_again_on_sighup(server, keys_file):
    keys_file.write_text("erin: five\n", encoding="utf-8")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for(lambda: httpx.get(server.url + "/v1/models", headers=key("five")).status_code == 200, 5)
    assert httpx.get(server.url + "/v1/models", headers=key("four")).status_code == 401
    keys_file.write_text("erin:\n", encoding="utf-8")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for(lambda: any("stay as they are" in line["message"] for line in server.log), 5)
    assert httpx.get(server.url + "/v1/models", headers=key("five")).status_code == 200


def test_adapters_need_the_admin_key(server):
    body = {"lora_name": "x", "lora_path": "/nothing"}
    for headers in ({}, key("one"), key("four")):
        assert httpx.post(server.url + "/v1/load_lora_adapter", json=body, headers=headers).status_code == 401
    assert httpx.post(server.url + "/v1/load_lora_adapter", json=body, headers=key("boss")).status_code == 404
    assert httpx.get(server.url + "/v1/models", headers=key("boss")).status_code == 401  # it is for nothing else


def test_unknown_fields_are_refused_where_the_server_is_strict(server):
    body = {"model": "org/name", "prompt": "가", "max_token": 3}
    answer = httpx.post(server.url + "/v1/completions", json=body, headers=key("five"))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "max_token"
    assert "max_tokens?" in answer.json()["error"]["message"]


def test_rates_are_counted_for_each_key_and_logged_by_name(server):
    def ask(name):
        return httpx.post(server.url + "/v1/nothing", json={}, headers=key(name))

    found = [ask("two") for _ in range(8)]
    assert [answer.status_code for answer in found] == [404] * 5 + [429] * 3
    assert int(found[-1].headers["retry-after"]) >= 1
    assert found[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert ask("three").status_code == 404
    server.wait_for(lambda: {"key2", "carol"} <= {line.get("key") for line in server.log}, 5)


def test_wrong_keys_are_limited_for_each_address_whatever_it_calls_itself(server):
    from sllm.serve.access import FAILED_LOGINS

    with httpx.Client() as client:
        statuses = [
            client.get(
                server.url + "/v1/models", headers=key("wrong") | {"X-Forwarded-For": f"10.0.0.{i % 250}"}
            ).status_code
            for i in range(FAILED_LOGINS + 20)
        ]
    assert statuses[-1] == 429
    assert 401 not in statuses[-5:]
    assert httpx.get(server.url + "/v1/models", headers=key("one")).status_code == 200  # a right key is let in


def test_answers_are_refused_while_loading(server):
    if httpx.get(server.url + "/ready").json() == {"status": "loading"}:
        answer = httpx.post(server.url + "/v1/completions", json={"prompt": "가"}, headers=key("one"))
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "loading"
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
