"""Errors: status, shape, message."""

import contextlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

from expectations.helpers import broken, good, refused, said, same, schema_format, short, user
from expectations.registry import of
from expectations.servers import SMALL

errors = of("errors")


@errors("the shape: error with message, type, param and code, and nothing beside it")
def _(s):
    for answer in (s.ask(temperature="hot"), s.ask(model="missing"), s.ask(messages=[])):
        refused(answer, 400, 404)
        same(list(answer.json()), ["error"])
        same(set(answer.json()["error"]), {"message", "type", "param", "code"})


@errors("code is a word or null, as in OpenAI's API")
def _(s):
    for answer in (s.ask(temperature="hot"), s.ask(model="missing")):
        code = refused(answer, 400, 404)["code"]
        assert code is None or isinstance(code, str), f"code is {code!r}"


@errors("unknown model: 404, code model_not_found")
def _(s):
    same(refused(s.ask(model="missing"), 404)["code"], "model_not_found")


@errors("unknown model: the message names it; OpenAI's client raises NotFoundError")
def _(s):
    from openai import NotFoundError, OpenAI

    client = OpenAI(base_url=s.url + "/v1", api_key="-", max_retries=0)
    with contextlib.suppress(NotFoundError):
        client.chat.completions.create(model="missing", messages=user("?"))
        raise AssertionError("no error")
    assert "missing" in refused(s.ask(model="missing"), 404)["message"]


@errors("context exceeded: 400 and maximum context length, by which litellm and LangChain know it")
def _(s):
    for answer in (s.ask("가나다 " * 4000), s.ask("가나다 " * 60, max_tokens=2000)):
        assert "maximum context length" in refused(answer)["message"], said(answer)


@errors("max_tokens above the context: 400 and maximum context length")
def _(s):
    for answer in (
        s.ask(max_tokens=5000),
        s.post("/v1/completions", {"model": "m", "prompt": "a", "max_tokens": 5000}),
    ):
        assert "maximum context length" in refused(answer)["message"], said(answer)


@errors("context exceeded: code context_length_exceeded")
def _(s):
    same(refused(s.ask("가나다 " * 4000))["code"], "context_length_exceeded")


@errors("param names the field of a wrong type")
def _(s):
    for field, value in (("temperature", "hot"), ("max_tokens", "many"), ("stream", "perhaps"), ("n", 1.5)):
        param = refused(s.ask(**{field: value}))["param"] or ""
        assert field in param, f"{field}: param is {param!r}"


@errors("param names the field that is out of range")
def _(s):
    for field, value in (("temperature", -1), ("top_p", 3), ("presence_penalty", 5)):
        same(refused(s.ask(**{field: value}))["param"], field)


@errors("top_logprobs above 20: a 400 whose param is top_logprobs")
def _(s):
    same(refused(s.ask(logprobs=True, top_logprobs=50))["param"], "top_logprobs")


@errors("a body that is not JSON is a 400 in OpenAI's shape")
def _(s):
    for content in (b"{", b"", b"hello", b'{"model": "m",}', b"\x00\x01"):
        refused(broken(s, content))


@errors("JSON that is not an object is a 400")
def _(s):
    for content in (b"[]", b"5", b'"a"', b"null", b"true"):
        refused(broken(s, content))


@errors("NaN and Infinity are a 400")
def _(s):
    for value in ("NaN", "Infinity", "-Infinity", "1e999"):
        body = '{"model":"m","messages":[{"role":"user","content":"?"}],"max_tokens":2,"temperature":'
        refused(broken(s, f"{body}{value}}}".encode()))


@errors("wrong types are a 400: messages, content, role, model, stop, tools")
def _(s):
    for fields in (
        {"messages": "안녕"}, {"messages": user(5)}, {"messages": [{"role": 5, "content": "a"}]}, {"messages": None},
        {"messages": [5]}, {"model": 5}, {"stop": 5}, {"tools": "a"}, {"messages": {"role": "user"}},
    ):  # fmt: skip
        refused(s.post("/v1/chat/completions", {"model": "m", "messages": user("?")} | SMALL | fields))


@errors("empty messages are a 400")
def _(s):
    refused(s.ask([]))


@errors("a message without a role is a 400")
def _(s):
    refused(s.ask([{"content": "?"}]))


@errors("a user's message without content is a 400")
def _(s):
    refused(s.ask([{"role": "user"}]))


@errors("a role that OpenAI's API does not have is a 400")
def _(s):
    refused(s.ask([{"role": "wizard", "content": "?"}]))


@errors("unknown fields are accepted")
def _(s):
    same(s.say(frobnicate=1, extra={"a": [1]}), s.say())


@errors("counts out of range are a 400: max_tokens 0 and -1, n 0, top_logprobs 21")
def _(s):
    for fields in ({"max_tokens": 0}, {"max_tokens": -1}, {"n": 0}, {"logprobs": True, "top_logprobs": 21}):
        answer = s.ask(**fields)
        assert answer.status_code == 400, f"{fields}: {said(answer)}"


@errors("n of a million is a 400 at once, not an outage")
def _(s):
    started = time.monotonic()
    refused(s.ask(n=1_000_000, temperature=1), 400, 429)
    assert time.monotonic() - started < 5 and s.status("/health", 5) == 200


@errors("top_logprobs without logprobs is a 400")
def _(s):
    refused(s.ask(top_logprobs=3))


@errors("a wrong request for a stream is a 400, not a 200 with an error in it")
def _(s):
    refused(s.ask(stream=True, temperature=-1))
    refused(s.ask("가나다 " * 4000, stream=True))


@errors("a stream with an invalid schema is a 400")
def _(s):
    refused(s.ask(stream=True, response_format=schema_format({"type": "nonsense"})))


@errors("a CP949 body (Korean Windows) is a 400 that speaks of the encoding")
def _(s):
    body = '{"model":"m","messages":[{"role":"user","content":"안녕하세요"}]}'.encode("cp949")
    text = refused(broken(s, body))["message"].lower()
    assert any(word in text for word in ("utf", "encod", "decod", "codec")), short(text)


@errors("half of a surrogate pair is a 400 or read as U+FFFD, not a 500")
def _(s):
    for body in (
        rb'{"model":"m","messages":[{"role":"user","content":"\ud83d"}],"max_tokens":2}',
        rb'{"model":"\ud83d","messages":[{"role":"user","content":"a"}],"max_tokens":2}',
    ):
        answer = broken(s, body)
        assert answer.status_code in (200, 400, 404), said(answer)


@errors("half of a surrogate pair in a completion's prompt or in stop is not a 500")
def _(s):
    for body in (rb'{"model":"m","prompt":"\ud83d","max_tokens":2}',
                 rb'{"model":"m","prompt":"a","max_tokens":2,"stop":["\ud83d"]}'):  # fmt: skip
        answer = s.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, 400), said(answer)


@errors("100,000 opening brackets are a 400, not a 500 or a crash")
def _(s):
    for content in (b"[" * 100_000, b'{"a":' * 100_000, b'{"model":"m","messages":' + b"[" * 5000 + b"]" * 5000 + b"}"):
        refused(broken(s, content), 400, 413)


def timed_beside_health(s, send, *args):
    """The answer, its seconds, and the slowest answer of /health meanwhile in seconds."""
    with ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        pending, slowest = pool.submit(send, *args), 0.0
        while not pending.done():
            probe = time.monotonic()
            s.status("/health", 30)
            slowest = max(slowest, time.monotonic() - probe)
            time.sleep(0.02)
        return pending.result(), time.monotonic() - started, slowest


@errors("175,000 unknown fields are answered within 2 s, /health meanwhile within 1 s")
def _(s):
    body = {"model": "m", "messages": user("?"), "max_tokens": 2} | {f"field{number}": 1 for number in range(175_000)}
    answer, seconds, health = timed_beside_health(s, broken, s, json.dumps(body).encode())
    assert answer.status_code in (200, 400, 413), said(answer)
    assert seconds < 2 and health < 1, f"{seconds:.1f} s, /health {health:.1f} s"


@errors("20,000 messages do not hold up others for a second")
def _(s):
    content = json.dumps({"model": "m", "messages": user("?") * 20_000, "max_tokens": 2}).encode()
    answer, _, health = timed_beside_health(s, broken, s, content)
    assert answer.status_code in (400, 413), said(answer)
    assert health < 1, f"/health {health:.1f} s"


@errors("a prompt of 1,000,000 characters is a 400 within 5 s, /health meanwhile within 1 s")
def _(s):
    answer, seconds, health = timed_beside_health(s, s.ask, "가나다라마바사 " * 125_000)
    refused(answer, 400, 413)
    assert seconds < 5 and health < 1, f"{seconds:.1f} s, /health {health:.1f} s"


@errors("another content type is a 400 or 415 in OpenAI's shape")
def _(s):
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        refused(broken(s, json.dumps({"model": "m", "messages": user("?"), "max_tokens": 2}).encode(), kind), 400, 415)


@errors("Content-Type with a charset is accepted")
def _(s):
    body = json.dumps({"model": "m", "messages": user("?"), "max_tokens": 2}).encode()
    good(broken(s, body, "application/json; charset=utf-8"))


@errors("an unknown path is a 404 in OpenAI's shape")
def _(s):
    refused(s.get("/v1/nothing"), 404)
    refused(s.post("/v1/embeddings", {"model": "m", "input": "a"}), 400, 404, 501)


@errors("a wrong method is a 405 in OpenAI's shape, with Allow")
def _(s):
    answer = s.get("/v1/chat/completions")
    refused(answer, 405)
    assert "POST" in answer.headers.get("allow", ""), "no Allow header"


@errors("a message names no Python class, no traceback and no path of the server")
def _(s):
    wrong = [s.ask(temperature="hot"), s.ask(messages=user(5)), s.ask([]), s.ask(model="missing"), broken(s, b"{")]
    wrong += [s.ask(n=0), s.ask("가나다 " * 4000), s.ask(response_format=schema_format({"type": "nonsense"}))]
    for answer in wrong:
        found = re.search(
            r"Traceback|site-packages|pydantic|\bError\(|<class|ValidatorIterator|\.(py|cc|cpp|rs):", answer.text
        )
        assert not found, f"{found[0]!r} in {said(answer)}"


@errors("a message about a wrong field is one line of at most 600 characters")
def _(s):
    for answer in (s.ask(messages=user(5)), s.ask(tools=[{"type": "x"}]), s.ask([{"role": "wizard", "content": 5}])):
        text = refused(answer)["message"]
        assert len(text) <= 600 and "\n" not in text.strip(), f"{len(text)} characters"


@errors("a chat_template in the request is refused or ignored (templates are code)")
def _(s):
    answer = s.ask(chat_template="{{ 7 * 7 }}")
    if answer.status_code == 200:
        assert answer.json()["usage"]["prompt_tokens"] == s.chat()["usage"]["prompt_tokens"], "it was used"
    else:
        refused(answer)
