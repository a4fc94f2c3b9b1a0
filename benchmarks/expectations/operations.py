"""Operations: start, readiness, logs, metrics, shutdown."""

import contextlib
import os
import re
import signal
import subprocess
import sys

from expectations.helpers import good, same, until
from expectations.registry import of
from expectations.servers import ROOT, alive, vllm_version

operations = of("operations")


@operations("while the model loads, no readiness probe is told 200")
def _(s):
    early = [ready if s.name == "ours" else live for live, ready in s.seen[:-1]]
    assert early and 200 not in early, early


@operations("while the model loads, /ready answers 503")
def _(s):
    assert 503 in [ready for _, ready in s.seen], "no answer before it is ready"


@operations("while the model loads, /health answers, so that a liveness probe does not end it")
def _(s):
    assert 200 in [live for live, _ in s.seen[:-1]], "no answer before it is ready"


@operations("/ready is 200 when it answers")
def _(s):
    same(s.status("/ready"), 200)


@operations("/health is 200")
def _(s):
    same(s.status("/health"), 200)


@operations("/version says vLLM's version")
def _(s):
    assert good(s.get("/version"))["version"].startswith(vllm_version()[:4]), s.get("/version").text


@operations("/metrics is Prometheus text with vLLM's names")
def _(s):
    answer = s.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain"), answer.headers["content-type"]
    for name in (
        "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:generation_tokens_total",
        "vllm:prompt_tokens_total", "vllm:time_to_first_token_seconds_count", "vllm:kv_cache_usage_perc",
        "vllm:request_success_total", "vllm:e2e_request_latency_seconds_count",
    ):  # fmt: skip
        assert re.search(rf"^{name}[ {{]", answer.text, re.M), f"no {name}"


@operations("/metrics counts the tokens of an answer")
def _(s):
    before = s.metric("vllm:generation_tokens_total")
    s.write(max_tokens=8, ignore_eos=True)
    until(lambda: s.metric("vllm:generation_tokens_total") - before == 8, 3, "not 8 more")


@operations("/metrics counts HTTP requests by status")
def _(s):
    s.ask(temperature=-1)
    lines = [line for line in s.get("/metrics").text.splitlines() if "requests_total" in line and line[0] != "#"]
    assert any(re.search(r'status="(400|4xx)"', line) for line in lines), "no 400 among them"


@operations("started on a port that is taken, it ends with an error and names the port")
def _(s):
    words = [str(s.port) if word == str(s.port) else word for word in s.words]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=s.environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode not in (0, -9), f"exit {done.returncode}"
    assert str(s.port) in done.stderr + done.stdout or "in use" in done.stderr + done.stdout, done.stderr[-100:]


@operations("SIGTERM lets a running stream finish, then the process ends with 0", kind="locked last")
def _(s):
    sock = s.start_stream(max_tokens=600)
    s.process.send_signal(signal.SIGTERM)
    text, sock_ended = b"", False
    with contextlib.suppress(OSError):
        while piece := sock.recv(65536):
            text += piece
        sock_ended = True
    assert sock_ended and b"[DONE]" in text and b'"finish_reason":"length"' in text, "the stream was cut"
    until(lambda: s.process.poll() is not None, 60, "still there after 60 s")
    same(s.process.returncode, 0)


@operations("after it no process of the server is left", kind="locked last")
def _(s):
    until(lambda: not any(alive(pid) for pid in s.children), 15, "processes are left")


@operations("when the engine is killed, the server ends with an error within 30 s", kind="open last")
def _(s):
    for pid in s.children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: s.process.poll() is not None, 30, f"still there after 30 s, /health {s.status('/health', 2)}")
    assert s.process.returncode != 0, "exit 0"
