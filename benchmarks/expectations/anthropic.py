"""Anthropic's /v1/messages."""

import json

from expectations.helpers import MESSAGE, good, json_of, message, said, same, short, user
from expectations.registry import of

anthropic = of("Anthropic messages")


@anthropic("an answer is a message with text, stop_reason and usage")
def _(s):
    answer = message(s)
    same((answer["type"], answer["role"], answer["content"][0]["type"]), ("message", "assistant", "text"))
    same(answer["content"][0]["text"], s.say(max_tokens=16))
    assert answer["usage"]["input_tokens"] > 0 and answer["id"], short(answer["usage"])


@anthropic("cut by max_tokens: stop_reason max_tokens; ended by the model: end_turn")
def _(s):
    same(message(s, max_tokens=3)["stop_reason"], "max_tokens")


@anthropic("stop_sequences: stop_reason stop_sequence, and which")
def _(s):
    stop = message(s, max_tokens=24)["content"][0]["text"][6:8]
    answer = message(s, max_tokens=24, stop_sequences=[stop])
    same((answer["stop_reason"], answer["stop_sequence"]), ("stop_sequence", stop))


@anthropic("stream: message_start, content deltas, message_delta, message_stop")
def _(s):
    events = [json.loads(event) for event in s.events("/v1/messages", MESSAGE) if event != "[DONE]"]
    kinds = [event["type"] for event in events if event["type"] != "ping"]
    same([kinds[0], kinds[1], kinds[-2], kinds[-1]],
         ["message_start", "content_block_start", "message_delta", "message_stop"])  # fmt: skip
    deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    same("".join(deltas), message(s)["content"][0]["text"])


@anthropic("Anthropic's own client: create and stream")
def _(s):
    from anthropic import Anthropic

    client = Anthropic(base_url=s.url, api_key="-", max_retries=0)
    whole = client.messages.create(model="m", max_tokens=16, messages=user("안녕하세요"), extra_body={"temperature": 0})
    with client.messages.stream(
        model="m", max_tokens=16, messages=user("안녕하세요"), extra_body={"temperature": 0}
    ) as stream:
        same("".join(stream.text_stream), whole.content[0].text)


@anthropic("system as a text and as blocks reaches the prompt")
def _(s):
    expected = s.chat([{"role": "system", "content": "짧게"}, *user("안녕하세요")])["usage"]["prompt_tokens"]
    same(message(s, system="짧게")["usage"]["input_tokens"], expected)
    same(message(s, system=[{"type": "text", "text": "짧게"}])["usage"]["input_tokens"], expected)


@anthropic("count_tokens says what the message will cost")
def _(s):
    body = {"model": "m", "messages": user("안녕하세요"), "system": "짧게"}
    same(good(s.post("/v1/messages/count_tokens", body))["input_tokens"],
         message(s, system="짧게")["usage"]["input_tokens"])  # fmt: skip


@anthropic("contents in blocks")
def _(s):
    blocks = [{"type": "text", "text": "안녕하세요", "cache_control": {"type": "ephemeral"}}]
    same(message(s, messages=user(blocks))["content"][0]["text"], message(s)["content"][0]["text"])


@anthropic("tool_choice any: a tool_use block with an id and an input, stop_reason tool_use")
def _(s):
    empty = {"type": "object", "properties": {}, "additionalProperties": False}
    tool = {"name": "now", "description": "시각", "input_schema": empty}
    for _ in range(10):  # this API has nothing that keeps the tiny model from filling JSON with line breaks
        answer = message(s, tools=[tool], tool_choice={"type": "any"}, max_tokens=200, temperature=2)
        block = next((block for block in answer["content"] if block["type"] == "tool_use"), None)
        if block:
            break
    assert block, short(answer["content"])
    same((block["name"], block["input"], answer["stop_reason"]), ("now", {}, "tool_use"))
    assert block["id"], "no id"


@anthropic("a tool_use and its tool_result are history")
def _(s):
    use = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "서울", "days": 1}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "맑음"}
    message(s, messages=[*user("날씨"), {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}])


@anthropic("top_k 1 and metadata are accepted")
def _(s):
    same(message(s, temperature=1, top_k=1, metadata={"user_id": "u"})["content"][0]["text"],
         message(s)["content"][0]["text"])  # fmt: skip


@anthropic("errors are in Anthropic's shape: type error, error.type, error.message")
def _(s):
    answer = s.post("/v1/messages", MESSAGE | {"model": "missing"})
    same(answer.status_code, 404)
    body = json_of(answer)
    same(body.get("type"), "error")
    assert body["error"]["type"] == "not_found_error" and body["error"]["message"], short(body)


@anthropic("max_tokens is required, messages may not be empty")
def _(s):
    for body in ({"model": "m", "messages": user("?")}, MESSAGE | {"messages": []}):
        answer = s.post("/v1/messages", body)
        assert answer.status_code == 400, said(answer)
