"""langchain-openai: named messages, bound tools in a loop, structured output, streams, usage."""

import common
from common import ANSWER, CITIES, MODEL, PARAMETERS, QUESTION
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

model = ChatOpenAI(model=MODEL, max_retries=0, temperature=0)
short = ChatOpenAI(model=MODEL, max_retries=0, temperature=0, max_tokens=8)


@tool
def get_weather(city: str) -> str:
    """날씨를 알려 줍니다."""
    return f"{city}: 맑음"


class City(BaseModel):
    """A place."""

    city: str = Field(max_length=20, pattern="^(서울|부산)$")


def plain_messages_with_names():
    messages = [
        SystemMessage("짧게 답하세요."),
        HumanMessage("안녕하세요.", name="minsu"),
        AIMessage("네.", name="helper"),
        HumanMessage(QUESTION, name="minsu"),
    ]
    answer = short.invoke(messages)
    assert answer.content
    assert 1 <= answer.usage_metadata["output_tokens"] <= 8
    assert answer.response_metadata["model_name"] == MODEL


def plain_stream_says_what_is_said_whole():
    chunks = list(short.stream(QUESTION, stream_usage=True))
    whole = short.invoke(QUESTION)
    added = chunks[0]
    for chunk in chunks[1:]:
        added += chunk
    assert added.content == whole.content
    assert added.usage_metadata["output_tokens"] <= 8
    assert added.usage_metadata["total_tokens"] == whole.usage_metadata["total_tokens"]


def plain_batch():
    answers = short.batch([QUESTION] * 3)
    assert len({answer.content for answer in answers}) == 1


def plain_structured_output():
    structured = model.with_structured_output(City, method="json_schema", include_raw=True)
    said = structured.invoke(QUESTION)
    assert said["parsing_error"] is None
    assert said["parsed"].city in CITIES


def plain_responses_api():
    responses = ChatOpenAI(model=MODEL, max_retries=0, temperature=0, max_tokens=8, use_responses_api=True)
    assert responses.invoke(QUESTION).text
    assert "".join(chunk.text for chunk in responses.stream(QUESTION)) == responses.invoke(QUESTION).text


def tools_bound_and_answered():
    bound = model.bind_tools([get_weather])
    conversation = [HumanMessage(QUESTION, name="minsu")]
    answer = bound.invoke(conversation)
    assert [call["args"]["city"] for call in answer.tool_calls] == CITIES
    assert not answer.invalid_tool_calls
    conversation += [answer, *(get_weather.invoke(call) for call in answer.tool_calls)]
    assert isinstance(conversation[-1], ToolMessage)
    last = bound.invoke(conversation)
    assert last.content == ANSWER
    assert not last.tool_calls


def tools_bound_in_a_stream():
    added = None
    for chunk in model.bind_tools([get_weather]).stream(QUESTION):
        added = chunk if added is None else added + chunk
    assert [call["args"]["city"] for call in added.tool_calls] == CITIES


def tools_chosen_by_name():
    answer = model.bind_tools([common.WEATHER], tool_choice="get_weather").invoke(QUESTION)
    assert [call["name"] for call in answer.tool_calls] == ["get_weather"]
    assert set(answer.tool_calls[0]["args"]) == set(PARAMETERS["required"])


def tools_structured_output_by_a_call():
    assert model.with_structured_output(City, method="function_calling").invoke(QUESTION).city in CITIES


if __name__ == "__main__":
    common.run()
