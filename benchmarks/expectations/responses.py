"""/v1/responses."""

import json

from expectations.helpers import RESPONSE, is_weather, refused, respond, same, short, user
from expectations.registry import of
from expectations.servers import BLANKS, SCHEMA

responses = of("responses")


def output_text(answer: dict) -> str:
    parts = [part for item in answer["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part["text"] for part in parts if part["type"] == "output_text")


@responses("a text is answered: object response, a message, usage")
def _(s):
    answer = respond(s)
    same((answer["object"], answer["model"]), ("response", "m"))
    usage = answer["usage"]
    assert output_text(answer) and usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"], usage


@responses("OpenAI's client: responses.create and output_text")
def _(s):
    from openai import OpenAI

    client = OpenAI(base_url=s.url + "/v1", api_key="-", max_retries=0)
    assert client.responses.create(model="m", input="안녕", max_output_tokens=16).output_text


@responses("the answer is chat's for the same conversation")
def _(s):
    same(output_text(respond(s)), s.say(max_tokens=16))


@responses("usage.input_tokens is what chat is charged for the same conversation")
def _(s):
    turns = [*user("안녕하세요"), {"role": "assistant", "content": "네"}, *user("더")]
    for given in (user("안녕하세요"), turns):
        same(respond(s, given)["usage"]["input_tokens"], s.chat(given)["usage"]["prompt_tokens"])


@responses("cut by max_output_tokens: status incomplete, with the reason")
def _(s):
    answer = respond(s, ignore_eos=True)
    same((answer["status"], answer["incomplete_details"]), ("incomplete", {"reason": "max_output_tokens"}))


@responses("stream: created first, completed or incomplete last, numbers rising, deltas join")
def _(s):
    events = [json.loads(e) for e in s.events("/v1/responses", RESPONSE | {"input": "안녕하세요"}) if e != "[DONE]"]
    kinds = [event["type"] for event in events]
    same(kinds[0], "response.created")
    assert kinds[-1] in ("response.completed", "response.incomplete"), kinds[-1]
    numbers = [event["sequence_number"] for event in events]
    same(numbers, list(range(len(numbers))))
    deltas = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    same(deltas, output_text(respond(s)))
    same(next(event["text"] for event in events if event["type"] == "response.output_text.done"), deltas)


@responses("a stream cut by max_output_tokens ends with response.incomplete")
def _(s):
    body = RESPONSE | {"input": "안녕하세요", "ignore_eos": True}
    events = [json.loads(event) for event in s.events("/v1/responses", body) if event != "[DONE]"]
    same(events[-1]["response"]["status"], "incomplete")
    same(events[-1]["type"], "response.incomplete")


@responses("each stream event has its event: line")
def _(s):
    text = s.post("/v1/responses", RESPONSE | {"input": "안녕", "stream": True}).text
    for block in text.strip().split("\n\n"):
        if block != "data: [DONE]":
            kind, data = block.split("\n", 1)
            same(kind, "event: " + json.loads(data.removeprefix("data: "))["type"])


@responses("instructions come before the input")
def _(s):
    system = s.say([{"role": "system", "content": "짧게 답하세요"}, *user("안녕하세요")], max_tokens=16)
    same(output_text(respond(s, instructions="짧게 답하세요")), system)


@responses("input as items, contents as text or input_text parts")
def _(s):
    expected = output_text(respond(s))
    same(output_text(respond(s, user("안녕하세요"))), expected)
    part = {"type": "input_text", "text": "안녕하세요"}
    same(output_text(respond(s, [{"type": "message", "role": "user", "content": [part]}])), expected)


@responses("the output of one answer is history of the next")
def _(s):
    first = respond(s)
    follow = respond(s, [*user("안녕하세요"), *first["output"], *user("더")])
    turns = [*user("안녕하세요"), {"role": "assistant", "content": output_text(first)}, *user("더")]
    same(follow["usage"]["input_tokens"], s.chat(turns)["usage"]["prompt_tokens"])


@responses("text.format json_schema is kept")
def _(s):
    text = {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA}}
    is_weather(output_text(respond(s, text=text, max_output_tokens=60, logit_bias=BLANKS)))


@responses("a function tool with tool_choice required: a function_call item")
def _(s):
    tool = {"type": "function", "name": "weather", "parameters": SCHEMA}
    fields = {"tools": [tool], "tool_choice": "required", "max_output_tokens": 200, "temperature": 1}
    fields["logit_bias"] = BLANKS
    answer = respond(s, **fields)
    call = next((item for item in answer["output"] if item["type"] == "function_call"), None)
    assert call and call["name"] == "weather" and call["call_id"], short(answer["output"])
    is_weather(call["arguments"])


@responses("a function call and its output are history")
def _(s):
    call = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
    respond(s, [*user("날씨"), call, {"type": "function_call_output", "call_id": "c1", "output": "맑음"}])


@responses("an unknown previous_response_id is a 400 or 404")
def _(s):
    refused(s.post("/v1/responses", RESPONSE | {"input": "?", "previous_response_id": "resp_unknown"}), 400, 404)


@responses("an unknown stored response is a 404")
def _(s):
    refused(s.get("/v1/responses/resp_unknown"), 404)


@responses("store false, metadata, user and truncation are accepted")
def _(s):
    respond(s, store=False, metadata={"a": "b"}, user="u", truncation="disabled")


@responses("an unknown model is a 404, a missing input a 400")
def _(s):
    refused(s.post("/v1/responses", RESPONSE | {"input": "?", "model": "missing"}), 404)
    refused(s.post("/v1/responses", RESPONSE))


@responses("an input longer than the context is a 400")
def _(s):
    refused(s.post("/v1/responses", RESPONSE | {"input": "가나다 " * 4000}))
