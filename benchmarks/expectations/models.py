"""/v1/models."""

import time

from expectations.helpers import good, refused, same, short, together
from expectations.registry import of
from expectations.servers import CONTEXT

models = of("models")


@models("the list: object list, id, object model, created, owned_by")
def _(s):
    answer = good(s.get("/v1/models"))
    same(answer["object"], "list")
    card = next(card for card in answer["data"] if card["id"] == "m")
    assert card["object"] == "model" and card["created"] > 0 and card["owned_by"], short(card)


@models("max_model_len is told")
def _(s):
    same(good(s.get("/v1/models"))["data"][0]["max_model_len"], CONTEXT)


@models("one model is retrieved by name")
def _(s):
    same(good(s.get("/v1/models/m"))["id"], "m")


@models("an unknown model is a 404 in OpenAI's shape")
def _(s):
    refused(s.get("/v1/models/missing"), 404)


@models("an adapter is listed with its parent", kind="adapters")
def _(s):
    card = next((card for card in good(s.get("/v1/models"))["data"] if card["id"] == "sft"), None)
    assert card and card["parent"] == "m", short(card)


@models("created stays the same from list to list")
def _(s):
    first = [card["created"] for card in good(s.get("/v1/models"))["data"]]
    time.sleep(1.1)
    same([card["created"] for card in good(s.get("/v1/models"))["data"]], first)


@models("no card shows a folder of the server's machine", kind="adapters")
def _(s):
    assert str(s.adapters) not in s.get("/v1/models").text, "the adapter's folder is in root"


@models("an adapter answers under its name, and otherwise than the base", kind="adapters")
def _(s):
    answer = s.chat("안녕하세요", model="sft", max_tokens=24)
    same(answer["model"], "sft")
    assert answer["choices"][0]["message"]["content"] != s.say(max_tokens=24), "the same text as the base"


@models("base and adapter asked together give what they give alone", kind="adapters")
def _(s):
    alone = {name: s.say(model=name, max_tokens=16) for name in ("m", "sft")}
    among = together(8, lambda number: (("m", "sft")[number % 2], s.say(model=("m", "sft")[number % 2], max_tokens=16)))
    assert all(text == alone[name] for name, text in among)
