"""The client of all APIs against a real HTTP server with known faults (tests/stub_teacher.py): when it asks again, how
long it waits, and in which order results come."""

import math
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import httpx
import pytest
from conftest import ROOT
from test_judge import free_port

from sllm import api_calls
from sllm.api_calls import Client, Job, Request
from sllm.api_calls.retries import may_pass, retry_after


class Stub:
    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}"

    def log(self) -> dict:
        return httpx.get(f"{self.url}/log", trust_env=False).json()

    def reset(self) -> None:
        httpx.post(f"{self.url}/reset", trust_env=False)

    def client(self, model: str, **options) -> Client:
        return Client(model, f"{self.url}/v1", **options)


def start_stub():
    port = free_port()
    process = subprocess.Popen([sys.executable, str(ROOT / "tests" / "stub_teacher.py"), str(port)])
    stub, end = Stub(port), time.monotonic() + 30
    while True:
        try:
            stub.log()
            return stub, process
        except httpx.TransportError:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.fixture(scope="module")
def server():
    stub, process = start_stub()
    yield stub
    process.kill()
    process.wait()


@pytest.fixture
def stub(server):
    server.reset()
    return server


def requests_of(count: int) -> list[Request]:
    context = "막걸리는 고두밥과 누룩, 물을 섞어 발효시킨 술이다. 이름의 유래도 여러 가지로 전해진다."
    return [
        Request(f"{i}", [{"role": "user", "content": f"<context-a>\n{i} {context}\n</context-a>"}])
        for i in range(count)
    ]


def ask(client: Client, count: int = 1):
    return client.ask_all(requests_of(count), lambda completion: completion.text)


def test_every_passing_fault_is_asked_again(stub, tmp_path):
    """429 with and without Retry-After, 503, 500, and answers that break off; each at the first try of a call."""
    client = stub.client("busy", journal=tmp_path / "calls.jsonl", concurrency=16)
    results = ask(client, 60)
    assert [result.failure for result in results] == [None] * 60
    log = stub.log()
    assert log["answered"] == log["unique"] == 60
    assert 90 < log["requests"] < 110


@pytest.mark.parametrize("model", ["hangs", "trickles"])
def test_an_answer_that_does_not_end_is_given_up_and_asked_again(stub, model):
    started = time.monotonic()
    (result,) = ask(stub.client(model, timeout=0.5))
    assert result.failure is None
    assert 0.5 + 0.5 <= time.monotonic() - started < 10  # the limit, and the shortest first wait
    (result,) = ask(stub.client(f"{model}+good", timeout=0.5, retries=0))
    assert result.failure == api_calls.UNANSWERED
    assert "no whole answer within 0.5 s" in result.reason or "timed out" in result.reason.lower()


@pytest.mark.parametrize(("model", "said"), [("quota", "you exceeded your quota"), ("late", "come back later")])
def test_what_does_not_pass_is_not_asked_again(stub, model, said):
    started = time.monotonic()
    (result,) = ask(stub.client(model))
    assert result.failure == api_calls.UNANSWERED
    assert said in result.reason
    assert len(stub.log()["bodies"]) == 1
    assert time.monotonic() - started < 5


def error_with(status: int = 429, code: str | None = None, **headers: str):
    import openai

    request = httpx.Request("POST", "http://127.0.0.1/v1")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    error = openai.APIStatusError.__new__(openai.APIStatusError)
    error.response = SimpleNamespace(headers=httpx.Headers(named), request=request)
    error.status_code, error.code = status, code
    return error


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7),
        ({"retry_after": "0.5"}, 0.5),
        ({"retry_after_ms": "250", "retry_after": "7"}, 0.25),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers, seconds):
    assert retry_after(error_with(**headers)) == seconds


def test_retry_after_may_be_a_date():
    later, before = (datetime.now(UTC) + timedelta(seconds=seconds) for seconds in (3000, -3000))
    assert 2000 < retry_after(error_with(retry_after=format_datetime(later))) <= 3000
    assert retry_after(error_with(retry_after=format_datetime(before))) == 0


def test_what_may_pass():
    for status in (408, 409, 429, 500, 503, 529):
        assert may_pass(error_with(status))
    for status in (400, 401, 404, 413, 422):
        assert not may_pass(error_with(status))
    assert not may_pass(error_with(429, "insufficient_quota"))
    assert not may_pass(error_with(429, retry_after="3600"))
    assert may_pass(error_with(429, retry_after="500"))
    assert not may_pass(error_with(500, x_should_retry="false"))
    assert may_pass(error_with(400, x_should_retry="true"))


def test_no_call_goes_out_before_the_time_that_the_service_named(stub):
    """All calls wait when one is told to: each finding out for itself would double the load of a busy service."""
    client = stub.client("good", concurrency=4)
    client._service._patience._not_before = time.monotonic() + 1.0
    started = time.monotonic()
    ask(client, 8)
    assert min(stub.log()["times"]) >= started + 0.9


def test_results_are_taken_in_order_and_jobs_as_they_are_needed(stub, tmp_path):
    begun, taken = [], []

    def jobs():
        for request in requests_of(50):
            begun.append(request.label)
            yield Job(request, lambda completion: completion.text)

    client = stub.client("slow", journal=tmp_path / "calls.jsonl", concurrency=8)
    client.ask_each(
        jobs(), lambda job, result: taken.append(job.request.label), total=50, wanted=lambda: 20 - len(taken)
    )
    assert taken == begun == [str(i) for i in range(20)]
    log = stub.log()
    assert (log["answered"], log["most"]) == (20, 8)
    taken.clear()
    begun.clear()
    again = stub.client("slow", journal=tmp_path / "calls.jsonl", concurrency=8)
    again.ask_each(jobs(), lambda job, result: taken.append(job.request.label), total=50, wanted=lambda: math.inf)
    assert taken == [str(i) for i in range(50)]
    assert stub.log()["answered"] == 50


def test_a_revised_request_is_asked_and_found_again(stub, tmp_path):
    def job():
        first = requests_of(1)[0]

        def parse(completion):
            raise ValueError(f"unusable: {completion.text[:5]}")

        def revise(completion, error):
            return Request(first.label, [*first.messages, {"role": "user", "content": str(error)}])

        return Job(first, parse, revise)

    results = []
    for _ in range(2):
        client = stub.client("good", journal=tmp_path / "calls.jsonl")
        client.ask_each([job()], lambda job, result: results.append(result), total=1, attempts=3)
    assert [result.failure for result in results] == [api_calls.UNPARSED] * 2
    assert results[0].attempts == 3
    assert results[0].completion.text.startswith(results[0].reason.removeprefix("unusable: "))
    bodies = stub.log()["bodies"]
    assert len(bodies) == 3
    assert [len(body["messages"]) for body in bodies] == [1, 2, 2]


def test_parameters_that_are_refused_are_told_from_a_wrong_address(stub):
    parameters = {"response_format": {"type": "json_object"}}
    assert stub.client("good").accepts(parameters)
    assert not stub.client("plain").accepts(parameters)
    with pytest.raises(api_calls.client.InputError, match="does not exist"):
        stub.client("nobody").accepts(parameters)
