"""Structured outputs: JSON, schemas, choices, regular expressions, grammars."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

from expectations.helpers import delta_text, is_weather, parsed, refused, said, schema_format, short, user
from expectations.registry import of
from expectations.servers import BLANKS, SCHEMA

structured = of("structured outputs")


@structured("response_format json_object: whole answers are JSON objects")
def _(s):
    answer = s.chat(
        "JSON으로",
        response_format={"type": "json_object"},
        n=8,
        temperature=1,
        seed=1,
        max_tokens=200,
        logit_bias=BLANKS,
    )
    for choice in answer["choices"]:
        text = choice["message"]["content"]
        assert text.lstrip().startswith("{"), short(text)
        if choice["finish_reason"] == "stop":
            assert isinstance(parsed(text), dict), short(text)


@structured("response_format json_schema: the answer keeps the schema")
def _(s):
    is_weather(s.say("날씨", response_format=schema_format(SCHEMA, strict=True), max_tokens=60, logit_bias=BLANKS))


@structured("response_format json_schema, streamed")
def _(s):
    is_weather(
        delta_text(
            s.chunks("날씨", response_format=schema_format(SCHEMA), max_tokens=60, temperature=1, logit_bias=BLANKS)
        )
    )


@structured("response_format json_schema in completions")
def _(s):
    is_weather(s.write("날씨", response_format=schema_format(SCHEMA), max_tokens=60, logit_bias=BLANKS))


@structured("OpenAI's client parses an answer into a pydantic model")
def _(s):
    from typing import Literal

    from openai import OpenAI
    from pydantic import BaseModel

    class Weather(BaseModel):
        city: Literal["서울", "부산"]
        warm: bool

    client = OpenAI(base_url=s.url + "/v1", api_key="-", max_retries=0)
    answer = client.chat.completions.parse(
        model="m", messages=user("?"), response_format=Weather, max_tokens=60, logit_bias=BLANKS
    )
    assert answer.choices[0].message.parsed.city in ("서울", "부산")


@structured("structured_outputs choice")
def _(s):
    assert s.say(structured_outputs={"choice": ["긍정", "부정"]}, temperature=1) in ("긍정", "부정")


@structured("structured_outputs regex")
def _(s):
    text = s.say(structured_outputs={"regex": r"01[016]-\d{4}-\d{4}"}, max_tokens=30)
    assert re.fullmatch(r"01[016]-\d{4}-\d{4}", text), short(text)


@structured("structured_outputs regex of Hangul")
def _(s):
    text = s.say(structured_outputs={"regex": "[가-힣]{2,4}"}, max_tokens=30, temperature=1)
    assert re.fullmatch("[가-힣]{2,4}", text), short(text)


@structured("structured_outputs grammar (EBNF)")
def _(s):
    grammar = 'root ::= "SELECT " column " from " table\ncolumn ::= "a" | "b"\ntable ::= "t" | "u"'
    text = s.say(structured_outputs={"grammar": grammar}, max_tokens=30)
    assert re.fullmatch("SELECT [ab] from [tu]", text), short(text)


@structured("structured_outputs json")
def _(s):
    is_weather(s.write(structured_outputs={"json": SCHEMA}, max_tokens=60, logit_bias=BLANKS))


@structured("structured_outputs json given as a text")
def _(s):
    is_weather(s.write(structured_outputs={"json": json.dumps(SCHEMA)}, max_tokens=60, logit_bias=BLANKS))


@structured("a schema with $defs and $ref is kept")
def _(s):
    schema = {
        "$defs": {"size": {"enum": ["큰", "작은"]}},
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/size"}, "b": {"type": "boolean"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    value = parsed(s.say(response_format=schema_format(schema), max_tokens=60, logit_bias=BLANKS))
    assert value["a"] in ("큰", "작은") and isinstance(value["b"], bool), value


@structured("an invalid schema is a 400")
def _(s):
    for schema in ({"type": "nonsense"}, {"type": "object", "properties": 5}, {"$ref": "#/$defs/missing"}):
        refused(s.ask(response_format=schema_format(schema)))


@structured("json_schema without a schema is a 400")
def _(s):
    refused(s.ask(response_format={"type": "json_schema"}))


@structured("an unknown response_format is a 400")
def _(s):
    refused(s.ask(response_format={"type": "yaml"}))


@structured("a bad regex, a bad grammar and no choices are a 400")
def _(s):
    for given in ({"regex": "(["}, {"grammar": "root ::= ((("}, {"choice": []}):
        answer = s.ask(structured_outputs=given)
        assert answer.status_code == 400, f"{given}: {said(answer)}"


@structured("two kinds of structured outputs at once are a 400")
def _(s):
    refused(s.ask(structured_outputs={"regex": "a", "choice": ["b"]}))


def huge_schema(count: int) -> dict:
    properties = {f"field{number}": {"type": "string", "maxLength": 40} for number in range(count)}
    return {"type": "object", "properties": properties, "required": list(properties)}


@structured("a schema of 5,000 properties is answered or a 400, not a 500")
def _(s):
    answer = s.ask(response_format=schema_format(huge_schema(5000)))
    assert answer.status_code in (200, 400), said(answer)


@structured("a schema nested 200 deep is answered or a 400, not a 500")
def _(s):
    schema: dict = {"type": "string"}
    for _ in range(200):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    answer = s.ask(response_format=schema_format(schema))
    assert answer.status_code in (200, 400), said(answer)


@structured("a regex that explodes is answered or a 400 within 10 s, not a 500")
def _(s):
    started = time.monotonic()
    answer = s.ask(structured_outputs={"regex": "((a{1,1000}){1,1000}){1,1000}b"})
    assert answer.status_code in (200, 400), said(answer)
    assert time.monotonic() - started < 10, f"{time.monotonic() - started:.0f} s"


@structured("while a large schema is compiled, others are answered within 2 s")
def _(s):
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(s.ask, response_format=schema_format(huge_schema(800)), max_tokens=2)
        time.sleep(0.1)
        started = time.monotonic()
        s.write(max_tokens=2)
        seconds = time.monotonic() - started
        large.result()
    assert seconds < 2, f"{seconds:.1f} s"


@structured("after all these the server answers as before")
def _(s):
    assert s.get("/health").status_code == 200 and s.write(), "no answer"
