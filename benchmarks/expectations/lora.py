"""Adapters at run time."""

import contextlib

import httpx

from expectations.helpers import good, message, refused, respond, said, same, together
from expectations.registry import of

lora = of("runtime LoRA", "adapters")


def load_adapter(s, name: str, folder: str, **more) -> httpx.Response:
    body = {"lora_name": name, "lora_path": str(s.adapters / folder)} | more
    return s.post("/v1/load_lora_adapter", body, headers=s.admin)


def unload_adapter(s, name: str) -> httpx.Response:
    return s.post("/v1/unload_lora_adapter", {"lora_name": name}, headers=s.admin)


@contextlib.contextmanager
def loaded(s, name: str, folder: str):
    answer = load_adapter(s, name, folder)
    assert answer.status_code == 200, said(answer)
    try:
        yield
    finally:
        unload_adapter(s, name)


@lora("an adapter is loaded, listed, answers otherwise than the base, and is unloaded")
def _(s):
    with loaded(s, "new", "other"):
        assert "new" in [card["id"] for card in good(s.get("/v1/models"))["data"]]
        assert s.say(model="new", max_tokens=24) != s.say(max_tokens=24)
    refused(s.ask(model="new"), 404)
    assert "new" not in [card["id"] for card in good(s.get("/v1/models"))["data"]]


@lora("an adapter answers through every endpoint")
def _(s):
    with loaded(s, "new", "other"):
        s.complete(model="new")
        respond(s, model="new")
        message(s, model="new")
        good(s.post("/tokenize", {"model": "new", "prompt": "가"}))
        s.chunks(model="new")


@lora("load_inplace replaces an adapter: the next answer is the new one's")
def _(s):
    with loaded(s, "new", "sft"):
        before = s.say(model="new", max_tokens=24)
        same(before, s.say(model="sft", max_tokens=24))
        same(load_adapter(s, "new", "other", load_inplace=True).status_code, 200)
        after = s.say(model="new", max_tokens=24)
    with loaded(s, "fresh", "other"):
        same(after, s.say(model="fresh", max_tokens=24))
    assert before != after, "the same answer"


@lora("a name that is taken is a 4xx")
def _(s):
    with loaded(s, "new", "sft"):
        refused(load_adapter(s, "new", "other"), 400, 409)


def try_to_load(s, name, adapter):
    """The answer to a load that should be refused; nothing stays loaded."""
    answer = load_adapter(s, name, adapter)
    if answer.status_code == 200:
        unload_adapter(s, name)
    return answer


@lora("the base's own name is refused")
def _(s):
    refused(try_to_load(s, "m", "other"), 400, 409)


@lora("a folder that does not exist is a 4xx, not a 500")
def _(s):
    refused(load_adapter(s, "new", "missing"), 400, 404)


@lora("an adapter of a larger rank than there is room for is a 4xx")
def _(s):
    refused(try_to_load(s, "new", "wide"), 400)


@lora("an adapter of another base's shape is a 4xx, and the server lives on")
def _(s):
    answer = load_adapter(s, "new", "broken")
    if answer.status_code == 200:
        asked = s.ask(model="new")
        unload_adapter(s, "new")
        assert asked.status_code != 200, "it was loaded and answers"
    refused(answer, 400)
    s.chat()


@lora("an unknown adapter cannot be unloaded: 4xx")
def _(s):
    refused(unload_adapter(s, "missing"), 400, 404)


@lora("a stream of an adapter that is unloaded meanwhile is finished")
def _(s):
    same(load_adapter(s, "new", "other").status_code, 200)
    sock = s.start_stream(model="new", max_tokens=300)
    unload_adapter(s, "new")
    sock.settimeout(60)
    text = b""
    while b"[DONE]" not in text:
        piece = sock.recv(65536)
        assert piece, "the stream was cut"
        text += piece
    sock.close()
    assert b'"length"' in text, "no finish_reason"


@lora("beside adapters prompts are scored as without them (echo, logprobs, batches)")
def _(s):
    asked = together(6, lambda number: s.complete("바다는 넓다" * (number + 1), echo=True, logprobs=1, max_tokens=1))
    assert all(answer["choices"][0]["logprobs"]["token_logprobs"][1] <= 0 for answer in asked)
    s.complete("바다는", model="sft", echo=True, logprobs=1, max_tokens=1)


@lora("a client without the operator's key cannot load adapters")
def _(s):
    answer = s.post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": str(s.adapters / "other")})
    if answer.status_code == 200:
        unload_adapter(s, "x")
    refused(answer, 401, 403)


@lora("a client of a server without runtime loading cannot either", kind="locked")
def _(s):
    answer = s.post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": str(s.adapters / "other")})
    assert answer.status_code in (401, 403, 404), said(answer)
