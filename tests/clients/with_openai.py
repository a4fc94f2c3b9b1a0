"""openai's Python client: chat, completions, responses, models, tools, JSON schemas, log-probabilities, reasoning."""

import json
from enum import Enum
from typing import Literal

import common
import openai
from common import ANSWER, CITIES, MODEL, PARAMETERS, QUESTION, REASONING, WEATHER
from pydantic import BaseModel, Field

client = openai.OpenAI(max_retries=0)
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}


# ── the tiny model ──


def plain_models():
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def plain_chat():
    answer = client.chat.completions.create(**ASKED, max_tokens=8, temperature=0)
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert 1 <= answer.usage.completion_tokens <= 8
    assert answer.usage.prompt_tokens > 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def plain_chat_streamed_says_what_it_says_whole():
    whole = client.chat.completions.create(**ASKED, max_tokens=16, temperature=0)
    chunks = list(
        client.chat.completions.create(
            **ASKED, max_tokens=16, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert not chunks[-1].choices
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == whole.choices[0].finish_reason


def plain_stream_helper_with_several_answers():
    choice = {"structured_outputs": {"choice": ["맑음", "비"]}}  # the helper refuses answers that are cut off
    with client.chat.completions.stream(**ASKED, n=2, extra_body=choice) as stream:
        events = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"content.delta", "content.done"} <= events
    assert len(final.choices) == 2
    assert all(choice.message.content in ("맑음", "비") for choice in final.choices)


def plain_chat_with_parts_and_names():
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "짧게 답하세요."}]},
        {
            "role": "user",
            "name": "민수",
            "content": [{"type": "text", "text": "안녕"}, {"type": "text", "text": "하세요"}],
        },
    ]
    answer = client.chat.completions.create(model=MODEL, messages=messages, max_completion_tokens=4)
    assert answer.choices[0].message.content is not None


def plain_chat_logprobs():
    answer = client.chat.completions.create(**ASKED, max_tokens=4, temperature=0, logprobs=True, top_logprobs=2)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    assert all(token.logprob == token.top_logprobs[0].logprob and len(token.top_logprobs) == 2 for token in tokens)
    text = b"".join(bytes(token.bytes) for token in tokens).decode("utf-8", "ignore")
    assert text.startswith(answer.choices[0].message.content)


def plain_json_schema_is_parsed():
    class Weather(Enum):
        SUNNY = "맑음"
        RAINY = "비"

    class Report(BaseModel):
        city: Literal["서울", "부산"]
        weather: Weather
        degrees: int = Field(ge=-50, le=50)

    answer = client.chat.completions.parse(**ASKED, response_format=Report, temperature=0, max_tokens=200)
    assert answer.choices[0].message.parsed.city in ("서울", "부산")
    assert answer.choices[0].finish_reason == "stop"


def plain_completions():
    answer = client.completions.create(model=MODEL, prompt=["물은", "산은"], max_tokens=6, temperature=0, logprobs=1)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.text for choice in answer.choices)
    assert all(1 <= len(choice.logprobs.tokens) <= 6 for choice in answer.choices)
    parts = client.completions.create(model=MODEL, prompt="물은", max_tokens=6, temperature=0, stream=True)
    assert "".join(part.choices[0].text for part in parts) == answer.choices[0].text


def plain_responses():
    answer = client.responses.create(
        model=MODEL, instructions="짧게 답하세요.", input=QUESTION, max_output_tokens=8, temperature=0
    )
    assert answer.output_text
    assert answer.status in ("completed", "incomplete")
    assert answer.output[0].type == "message"
    assert 1 <= answer.usage.output_tokens <= 8
    with client.responses.stream(
        model=MODEL, instructions="짧게 답하세요.", input=QUESTION, max_output_tokens=8, temperature=0
    ) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == answer.output_text
    assert events[0] == "response.created"
    assert events[-1] in ("response.completed", "response.incomplete")
    assert "response.output_text.delta" in events


def plain_responses_with_a_conversation_and_a_schema():
    class Report(BaseModel):
        city: Literal["서울", "부산"]

    conversation = [
        {"role": "user", "content": "안녕하세요."},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "네.", "annotations": []}],
        },
        {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]},
    ]
    answer = client.responses.parse(model=MODEL, input=conversation, text_format=Report, temperature=0)
    assert answer.output_parsed.city in ("서울", "부산")


def plain_errors_are_the_classes_of_the_client():
    def refused(kind, **changed):
        try:
            client.chat.completions.create(**ASKED | changed)
        except kind as error:
            return error
        raise AssertionError(f"no {kind.__name__}")

    assert refused(openai.NotFoundError, model="없음").code == "model_not_found"
    assert refused(openai.BadRequestError, temperature=9).param == "temperature"
    long = [{"role": "user", "content": "물 " * 4000}]
    assert refused(openai.BadRequestError, messages=long).code == "context_length_exceeded"
    try:
        openai.OpenAI(api_key="wrong", max_retries=0).models.list()
    except openai.AuthenticationError:
        return
    raise AssertionError("a wrong key was accepted")


def plain_tools_are_refused_by_the_name_of_the_flag_that_they_need():
    for choice in ("auto", "required", {"type": "function", "function": {"name": "get_weather"}}):
        try:
            client.chat.completions.create(**ASKED, tools=[WEATHER], tool_choice=choice, max_tokens=4)
        except openai.BadRequestError as error:
            assert "--tool_call_parser" in error.message, error.message
        else:
            raise AssertionError(f"tools without a parser: {choice}")


# ── tools ──


def cities_of(calls) -> list[str]:
    assert all(call.id and call.type == "function" and call.function.name == "get_weather" for call in calls)
    return [json.loads(call.function.arguments)["city"] for call in calls]


def tools_called_by_the_model_and_answered():
    answer = client.chat.completions.create(**ASKED, tools=[WEATHER])
    choice = answer.choices[0]
    assert cities_of(choice.message.tool_calls) == CITIES
    assert choice.finish_reason == "tool_calls"
    assert not (choice.message.content or "").strip()
    assert len({call.id for call in choice.message.tool_calls}) == 2
    results = [{"role": "tool", "tool_call_id": call.id, "content": "맑음"} for call in choice.message.tool_calls]
    conversation = [*ASKED["messages"], choice.message, *results]
    last = client.chat.completions.create(model=MODEL, messages=conversation, tools=[WEATHER])
    assert last.choices[0].message.content == ANSWER
    assert last.choices[0].finish_reason == "stop"
    assert not last.choices[0].message.tool_calls


def tools_called_in_a_stream():
    with client.chat.completions.stream(**ASKED, tools=[WEATHER]) as stream:
        events = [event.type for event in stream]
        choice = stream.get_final_completion().choices[0]
    assert cities_of(choice.message.tool_calls) == CITIES
    assert choice.finish_reason == "tool_calls"
    assert "tool_calls.function.arguments.delta" in events
    assert not (choice.message.content or "").strip()


def tools_not_called_where_the_choice_is_none():
    answer = client.chat.completions.create(**ASKED, tools=[WEATHER], tool_choice="none", max_tokens=40)
    assert not answer.choices[0].message.tool_calls


def tools_required_and_named():
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        whole = client.chat.completions.create(**ASKED, tools=[WEATHER], tool_choice=choice, max_tokens=200)
        assert len(cities_of(whole.choices[0].message.tool_calls)) >= 1, choice
        assert whole.choices[0].finish_reason in ("tool_calls", "stop"), choice  # OpenAI: stop for a named one
        with client.chat.completions.stream(**ASKED, tools=[WEATHER], tool_choice=choice, max_tokens=200) as stream:
            final = stream.get_final_completion().choices[0]
        assert cities_of(final.message.tool_calls) == cities_of(whole.choices[0].message.tool_calls), choice
        assert final.finish_reason == whole.choices[0].finish_reason, choice


def tools_of_responses():
    tool = {"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": True}
    answer = client.responses.create(model=MODEL, input=QUESTION, tools=[tool])
    calls = [item for item in answer.output if item.type == "function_call"]
    assert [json.loads(call.arguments)["city"] for call in calls] == CITIES
    assert all(call.call_id for call in calls)
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "맑음"} for call in calls]
    conversation = [{"role": "user", "content": QUESTION}, *calls, *results]
    assert client.responses.create(model=MODEL, input=conversation, tools=[tool]).output_text == ANSWER
    with client.responses.stream(model=MODEL, input=QUESTION, tools=[tool]) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_response()
    streamed = [item for item in final.output if item.type == "function_call"]
    assert [json.loads(call.arguments)["city"] for call in streamed] == CITIES
    assert {"response.function_call_arguments.delta", "response.function_call_arguments.done"} <= set(events)


# ── reasoning ──


def reasoning_is_apart_from_the_content():
    answer = client.chat.completions.create(**ASKED)
    message = answer.choices[0].message
    assert (message.reasoning, message.content) == (REASONING, ANSWER)
    assert answer.choices[0].finish_reason == "stop"


def reasoning_is_apart_in_a_stream():
    reasoning = content = ""
    for chunk in client.chat.completions.create(**ASKED, stream=True):
        delta = chunk.choices[0].delta
        new = getattr(delta, "reasoning", None) or ""
        assert not (new and content), "reasoning after the content"
        reasoning, content = reasoning + new, content + (delta.content or "")
    assert (reasoning, content) == (REASONING, ANSWER)


def reasoning_of_responses():
    answer = client.responses.create(model=MODEL, input=QUESTION)
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].content[0].text == REASONING
    assert answer.output_text == ANSWER
    with client.responses.stream(model=MODEL, input=QUESTION) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_response()
    assert "response.reasoning_text.delta" in events
    assert final.output_text == ANSWER


def reasoning_comes_before_a_schema_and_a_required_tool():
    class Report(BaseModel):
        city: Literal["서울", "부산"]

    answer = client.chat.completions.parse(**ASKED, response_format=Report, max_tokens=100)
    assert answer.choices[0].message.parsed.city in ("서울", "부산")
    assert answer.choices[0].message.reasoning == REASONING
    called = client.chat.completions.create(**ASKED, tools=[WEATHER], tool_choice="required", max_tokens=100)
    assert cities_of(called.choices[0].message.tool_calls) is not None
    assert called.choices[0].message.reasoning == REASONING


if __name__ == "__main__":
    common.run()
