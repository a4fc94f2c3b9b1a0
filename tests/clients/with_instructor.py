"""instructor: answers as pydantic objects, by JSON schemas and by named tools, whole and in parts."""

from typing import Literal

import common
import instructor
import openai
from common import CITIES, MODEL, QUESTION
from instructor import Mode
from pydantic import BaseModel, ConfigDict, Field


class Report(BaseModel):
    """The weather of a city."""

    model_config = ConfigDict(extra="forbid")  # a tiny model would add properties without end

    city: Literal["서울", "부산"]
    degrees: int = Field(ge=-50, le=50)


ASKED = {
    "model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "response_model": Report, "max_retries": 1,
    "temperature": 0, "max_tokens": 300,
}  # fmt: skip


def report(mode: Mode):
    client = instructor.from_openai(openai.OpenAI(max_retries=0), mode=mode)
    answer, completion = client.chat.completions.create_with_completion(**ASKED)
    assert answer.city in CITIES
    assert -50 <= answer.degrees <= 50
    return completion.choices[0].message


def plain_json_schema():
    report(Mode.JSON_SCHEMA)


def tools_named():
    assert report(Mode.TOOLS).tool_calls[0].function.name == "Report"


def tools_streamed_in_parts():
    client = instructor.from_openai(openai.OpenAI(max_retries=0), mode=Mode.TOOLS)
    *_, last = client.chat.completions.create_partial(**ASKED)
    assert last.city in CITIES


if __name__ == "__main__":
    common.run()
