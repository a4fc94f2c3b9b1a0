"""Tool calls and reasoning."""

import json

from expectations.helpers import delta_text, is_weather, refused, said, same, short, user
from expectations.registry import of
from expectations.servers import BLANKS, OTHER_TOOL, TOOL

tools = of("tools")


def calls(answer: dict) -> list[dict]:
    return answer["choices"][0]["message"].get("tool_calls") or []


def tool_fields(choice, **more) -> dict:
    fields = {"tools": [TOOL], "tool_choice": choice, "max_tokens": 80, "temperature": 1, "seed": 5}
    return fields | {"logit_bias": BLANKS} | more


NAMED = {"type": "function", "function": {"name": "weather"}}


@tools("tool_choice required: a call whose arguments keep the schema")
def _(s):
    found = calls(s.chat("서울 날씨", **tool_fields("required", max_tokens=400)))
    assert found, "no call"
    same((found[0]["type"], found[0]["function"]["name"]), ("function", "weather"))
    is_weather(found[0]["function"]["arguments"])


@tools("a call has an id of its own, and content is null or empty")
def _(s):
    answer = s.chat("서울 날씨", **tool_fields(NAMED))
    assert calls(answer)[0]["id"] and not answer["choices"][0]["message"].get("content"), short(answer["choices"])


@tools("tool_choice required: finish_reason tool_calls")
def _(s):
    same(s.chat("?", **tool_fields("required", max_tokens=400))["choices"][0]["finish_reason"], "tool_calls")


@tools("a named tool is called with arguments that keep its schema")
def _(s):
    found = calls(s.chat("서울 날씨", **tool_fields(NAMED)))
    same([call["function"]["name"] for call in found], ["weather"])
    is_weather(found[0]["function"]["arguments"])


def streamed_call(chunks: list[dict]) -> tuple[str, str, list]:
    deltas = [call for c in chunks for choice in c["choices"] for call in choice["delta"].get("tool_calls") or []]
    deltas = [call for call in deltas if call["index"] == 0]
    names = [call["function"].get("name") for call in deltas if call["function"].get("name")]
    ids = [call["id"] for call in deltas if call.get("id")]
    return "".join(names), "".join(call["function"].get("arguments") or "" for call in deltas), ids


@tools("required, streamed: one name, one id, arguments that join to JSON")
def _(s):
    name, arguments, ids = streamed_call(s.chunks("서울 날씨", **tool_fields("required", max_tokens=400)))
    same((name, len(ids)), ("weather", 1))
    is_weather(arguments)


@tools("a named tool, streamed: one name, one id, arguments that join to JSON")
def _(s):
    name, arguments, ids = streamed_call(s.chunks("서울 날씨", **tool_fields(NAMED)))
    same((name, len(ids)), ("weather", 1))
    is_weather(arguments)


@tools("a streamed call ends with one finish_reason")
def _(s):
    chunks = s.chunks("서울 날씨", **tool_fields("required", max_tokens=400))
    same(
        [choice["finish_reason"] for c in chunks for choice in c["choices"] if choice["finish_reason"]], ["tool_calls"]
    )


@tools("required chooses among several tools")
def _(s):
    found = calls(s.chat("?", **tool_fields("required", tools=[TOOL, OTHER_TOOL], max_tokens=400)))
    assert found and all(call["function"]["name"] in ("weather", "time") for call in found), short(found)


@tools("a tool without parameters can be called")
def _(s):
    bare = {"type": "function", "function": {"name": "now"}}
    choice = {"type": "function", "function": {"name": "now"}}
    found = calls(s.chat("?", **tool_fields(choice, tools=[bare])))
    same(found[0]["function"]["name"], "now")


@tools("a conversation with a call and its result is continued")
def _(s):
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city":"서울","days":1}'},
    }
    turns = [
        *user("서울 날씨"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "맑음"},
    ]
    s.chat(turns)
    s.chat(turns, tools=[TOOL])
    s.chat([turns[0], {"role": "assistant", "tool_calls": [call]}, turns[2]], tools=[TOOL])


@tools("a tool result in text parts is accepted")
def _(s):
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    result = {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "맑음"}]}
    s.chat([*user("?"), {"role": "assistant", "content": "", "tool_calls": [call]}, result])


@tools("arguments in the history that are no JSON are answered or a 400, not a 500")
def _(s):
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{'a'"}}
    turns = [*user("?"), {"role": "assistant", "content": None, "tool_calls": [call]}]
    answer = s.ask([*turns, {"role": "tool", "tool_call_id": "c", "content": "x"}], tools=[TOOL])
    assert answer.status_code in (200, 400), said(answer)


@tools("parallel_tool_calls false: at most one call")
def _(s):
    for seed in range(3):
        fields = tool_fields("required", parallel_tool_calls=False, max_tokens=400) | {"seed": seed}
        same(len(calls(s.chat("서울과 부산", **fields))), 1)


@tools("tool_choice none: text and no call")
def _(s):
    answer = s.chat("서울 날씨", **tool_fields("none"))
    assert not calls(answer) and answer["choices"][0]["message"]["content"], short(answer["choices"])


@tools("tool_choice auto, and tools alone, are answered")
def _(s):
    s.chat("안녕", **tool_fields("auto"))
    s.chat("안녕", tools=[TOOL])


@tools("auto and streamed: text deltas join to the whole answer")
def _(s):
    fields = tool_fields("auto") | {"temperature": 0}
    same(delta_text(s.chunks("안녕", **fields)), s.say("안녕", **fields) or "")


@tools("a call that the model writes is parsed (hermes)")
def _(s):
    text = '<tool_call>{"name": "weather", "arguments": {"city": "서울", "days": 3}}</tool_call>'
    grammar = "root ::= " + json.dumps(text, ensure_ascii=False)
    found = calls(s.chat("서울 날씨", tools=[TOOL], structured_outputs={"grammar": grammar}, max_tokens=200))
    same([call["function"]["name"] for call in found], ["weather"])
    is_weather(found[0]["function"]["arguments"])


@tools("auto without a parser is a 400", kind="locked")
def _(s):
    refused(s.ask("안녕", tools=[TOOL], tool_choice="auto"))


@tools("required and named work without a parser", kind="locked")
def _(s):
    is_weather(calls(s.chat("?", **tool_fields(NAMED)))[0]["function"]["arguments"])


@tools("tools without tool_choice are a 400 or answered without a parser, not a 500", kind="locked")
def _(s):
    answer = s.ask("안녕", tools=[TOOL])
    assert answer.status_code in (200, 400), said(answer)


@tools("a named tool that is not among the tools is a 400")
def _(s):
    refused(s.ask("?", **tool_fields({"type": "function", "function": {"name": "missing"}})))


@tools("tool_choice required without tools is a 400")
def _(s):
    refused(s.ask("?", tool_choice="required"))


@tools("a tool whose parameters are no schema is a 400")
def _(s):
    broken = {"type": "function", "function": {"name": "weather", "parameters": {"type": "nonsense"}}}
    refused(s.ask("?", **tool_fields(NAMED, tools=[broken])))


@tools("a tool without a name is a 400")
def _(s):
    refused(s.ask("?", tools=[{"type": "function", "function": {}}]))
