"""outlines: choices, regular expressions, JSON and grammars, through its vLLM and its OpenAI models."""

import json
import re
from enum import Enum
from typing import Literal

import common
import openai
import outlines
from common import MODEL, QUESTION
from outlines.types import CFG, Regex
from pydantic import BaseModel, ConfigDict, Field

client = openai.OpenAI(max_retries=0)
vllm = outlines.from_vllm(client, MODEL)


class Report(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a tiny model would add properties without end
    city: Literal["서울", "부산"]
    degrees: int = Field(ge=0, le=9)


class Weather(Enum):
    SUNNY = "맑음"
    RAINY = "비"


def plain_text():
    assert vllm(QUESTION, max_tokens=8, temperature=0)


def plain_choice():
    assert vllm(QUESTION, Literal["맑음", "비"]) in ("맑음", "비")
    assert vllm(QUESTION, Weather) in ("맑음", "비")


def plain_regex():
    said = vllm(QUESTION, Regex(r"(영상|영하) [0-9]{1,2}도"))
    assert re.fullmatch(r"(영상|영하) [0-9]{1,2}도", said), said


def plain_types():
    assert re.fullmatch(r"[+-]?[0-9]{1,3}", vllm(QUESTION, Regex("[+-]?[0-9]{1,3}")))
    assert vllm(QUESTION, bool) in ("True", "False")


def plain_json():
    assert Report.model_validate_json(vllm(QUESTION, Report, max_tokens=200))


def plain_json_streamed():
    assert Report.model_validate_json("".join(vllm.stream(QUESTION, Report, max_tokens=200)))


def plain_grammar():
    said = vllm(QUESTION, CFG('start: "맑음" | "비"'))
    assert said in ("맑음", "비")


def plain_openai_model():
    said = outlines.from_openai(client, MODEL)(QUESTION, Report, max_tokens=200)
    assert json.loads(said)["city"] in ("서울", "부산")


if __name__ == "__main__":
    common.run()
