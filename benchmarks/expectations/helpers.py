"""What the expectations share: requests, and assertions with a message.."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx


def said(answer: httpx.Response) -> str:
    try:
        text = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        text = answer.text
    return f"{answer.status_code} {' '.join(text.split())[:160]}"


def good(answer: httpx.Response) -> dict:
    assert answer.status_code == 200, said(answer)
    return answer.json()


def refused(answer: httpx.Response, *statuses: int) -> dict:
    """The error, in OpenAI's shape, of a request that has to fail with one of these statuses (400)."""
    assert answer.status_code in (statuses or (400,)), said(answer)
    body = json_of(answer)
    assert isinstance(body, dict) and isinstance(body.get("error"), dict), f"no error object: {answer.text[:120]}"
    error = body["error"]
    assert isinstance(error.get("message"), str) and error["message"], f"no message: {error}"
    return error


def json_of(answer: httpx.Response):
    try:
        return answer.json()
    except ValueError:
        raise AssertionError(f"no JSON: {answer.status_code} {answer.text[:120]}") from None


def same(found, expected) -> None:
    assert found == expected, f"{short(found)} is not {short(expected)}"


def short(value) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 70 else text[:69] + "…"


def delta_text(chunks: list[dict], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def plain_text(chunks: list[dict], index: int = 0) -> str:
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == index)


def user(content) -> list[dict]:
    return [{"role": "user", "content": content}]


def parsed(text: str):
    try:
        return json.loads(text)
    except ValueError:
        raise AssertionError(f"no JSON: {short(text)}") from None


def is_weather(text: str) -> None:
    value = parsed(text)
    assert set(value) == {"city", "days"} and value["city"] in ("서울", "부산") and 1 <= value["days"] <= 9, short(
        value
    )


def until(what, seconds: float, message: str) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, message
        time.sleep(0.05)


def together(count: int, ask) -> list:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, range(count)))


def schema_format(schema, **more) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema} | more}


def respond(s, given="안녕하세요", **fields) -> dict:
    return good(s.post("/v1/responses", RESPONSE | {"input": given} | fields))


RESPONSE = {"model": "m", "temperature": 0, "max_output_tokens": 16}


MESSAGE = {"model": "m", "max_tokens": 16, "temperature": 0, "messages": user("안녕하세요")}


def message(s, **fields) -> dict:
    return good(s.post("/v1/messages", MESSAGE | fields, headers={"anthropic-version": "2023-06-01"}))


def broken(s, content: bytes, kind: str = "application/json") -> httpx.Response:
    return s.post("/v1/chat/completions", content=content, headers={"Content-Type": kind})


def image(url: str) -> list[dict]:
    return user([{"type": "image_url", "image_url": {"url": url}}])
