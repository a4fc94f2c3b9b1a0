"""litellm: completions, streams, tools, reasoning, and errors as its own classes."""

import asyncio
import json
import os

import common

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks for prices first, again and again
import litellm
from common import ANSWER, CITIES, CITY, MODEL, QUESTION, REASONING, WEATHER

litellm.suppress_debug_info = True
ASKED = {
    "model": f"hosted_vllm/{MODEL}", "api_base": common.URL, "api_key": common.KEY, "num_retries": 0,
    "messages": [{"role": "user", "content": QUESTION}],
}  # fmt: skip


def plain_completion_by_either_provider():
    whole = litellm.completion(**ASKED, max_tokens=8, temperature=0)
    assert whole.choices[0].message.content
    assert 1 <= whole.usage.completion_tokens <= 8
    other = litellm.completion(**ASKED | {"model": f"openai/{MODEL}"}, max_tokens=8, temperature=0)
    assert other.choices[0].message.content == whole.choices[0].message.content


def plain_stream_says_what_is_said_whole():
    whole = litellm.completion(**ASKED, max_tokens=8, temperature=0)
    chunks = list(
        litellm.completion(**ASKED, max_tokens=8, temperature=0, stream=True, stream_options={"include_usage": True})
    )
    built = litellm.stream_chunk_builder(chunks)
    assert built.choices[0].message.content == whole.choices[0].message.content
    assert built.usage.completion_tokens == whole.usage.completion_tokens


def plain_async():
    async def ask():
        return await asyncio.gather(*(litellm.acompletion(**ASKED, max_tokens=4) for _ in range(3)))

    assert len(asyncio.run(ask())) == 3


def plain_text_completion():
    asked = {name: value for name, value in ASKED.items() if name != "messages"}
    answer = litellm.text_completion(
        **asked | {"model": f"text-completion-openai/{MODEL}"}, prompt="물은", max_tokens=4, temperature=0
    )
    assert answer.choices[0].text


def plain_json_schema():
    format = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    answer = litellm.completion(**ASKED, response_format=format, max_tokens=100, temperature=0)
    assert json.loads(answer.choices[0].message.content)["city"] in CITIES


def raised(kind: type[Exception], **changed) -> Exception:
    try:
        litellm.completion(**ASKED | changed)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def plain_long_prompts_are_context_window_errors():
    """What routers look for when they fall back to a model with more context."""
    for provider in ("hosted_vllm", "openai"):
        for stream in (False, True):
            long = [{"role": "user", "content": "물 " * 4000}]
            raised(litellm.ContextWindowExceededError, model=f"{provider}/{MODEL}", messages=long, stream=stream)
    raised(litellm.ContextWindowExceededError, max_tokens=4090)  # that fit alone, and not behind the prompt


def plain_other_errors():
    raised(litellm.NotFoundError, model="hosted_vllm/없음")
    raised(litellm.AuthenticationError, api_key="wrong")
    raised(litellm.BadRequestError, temperature=9)


def cities_of(message) -> list[str]:
    return [json.loads(call.function.arguments)["city"] for call in message.tool_calls]


def tools_whole_and_streamed():
    whole = litellm.completion(**ASKED, tools=[WEATHER])
    assert cities_of(whole.choices[0].message) == CITIES
    assert whole.choices[0].finish_reason == "tool_calls"
    built = litellm.stream_chunk_builder(list(litellm.completion(**ASKED, tools=[WEATHER], stream=True)))
    assert cities_of(built.choices[0].message) == CITIES
    assert built.choices[0].finish_reason == "tool_calls"


def tools_required():
    answer = litellm.completion(**ASKED, tools=[WEATHER], tool_choice="required", max_tokens=200)
    assert answer.choices[0].message.tool_calls[0].function.name == "get_weather"


def reasoning_whole_and_streamed():
    message = litellm.completion(**ASKED).choices[0].message
    assert (message.reasoning_content, message.content) == (REASONING, ANSWER)
    built = litellm.stream_chunk_builder(list(litellm.completion(**ASKED, stream=True))).choices[0].message
    assert (built.reasoning_content, built.content) == (REASONING, ANSWER)


if __name__ == "__main__":
    common.run()
