"""Request bodies: how large, how slow and how nested they may be, that they are JSON in UTF-8, and which of their
fields nobody knows."""

import asyncio
import difflib
import json
from dataclasses import dataclass

import msgspec

from sllm.serve.access_log import current
from sllm.serve.errors import SHOWN, ApiError

SECONDS = 60  # for a whole body to arrive
MAX_TEXT = 500_000  # characters of a text to tokenize: a second of a core
# Values in one body, ids of tokens not counted: while they are validated nobody else is served.
MAX_VALUES = 20_000
MAX_STOP_TEXT = 500  # characters of a stop text or a bad word; each is tokenized or searched for at every token
# Longest lists of a body. What is checked at each token, and what one request may ask.
LONGEST = {
    "messages": 2048, "input": 256, "prompt": 256, "tools": 256, "bad_words": 256, "stop": 64, "stop_token_ids": 128,
    "tokens": 200_000, "allowed_token_ids": 300_000,
}  # fmt: skip


@dataclass(frozen=True)
class BodySettings:
    max_bytes: int
    strict: bool  # refuse fields that nobody knows, instead of naming them in a header and in the log


class RequestBody:
    """Middleware. Reads the body of a POST whole, and leaves it in the scope: `sllm.body`, the bytes, and `sllm.json`,
    what they say. `fields`: path → the fields that its requests have."""

    def __init__(self, app, settings: BodySettings, *, fields: dict[str, set[str]]):
        self.app, self.settings, self.fields = app, settings, fields

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        body = scope["sllm.body"] = await self._read(scope, receive)
        scope["sllm.json"] = parsed(body)
        if scope["path"] == "/tokenize":
            check_text(scope["sllm.json"])
        self._name_unknown(scope)
        pending = True

        async def replay():
            nonlocal pending
            if pending:
                pending = False
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        await self.app(scope, replay, send)

    async def _read(self, scope, receive) -> bytes:
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if length.isdigit() and int(length) > self.settings.max_bytes:
            raise self._too_large()
        size, parts = 0, []
        try:
            async with asyncio.timeout(SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "the client left before its request was complete")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.settings.max_bytes:
                        raise self._too_large()
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {SECONDS} s") from None

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self.settings.max_bytes / 2**20:g} MB (--max_body_mb)")

    def _name_unknown(self, scope) -> None:
        path = "/v1/tasks/" if scope["path"].startswith("/v1/tasks/") else scope["path"]
        known, body = self.fields.get(path), scope["sllm.json"]
        if known is None or not isinstance(body, dict) or body.keys() <= known:
            return
        unknown = [name for name in body if name not in known]
        names = ", ".join(name[:60] for name in unknown[:SHOWN]) + (", …" if len(unknown) > SHOWN else "")
        if self.settings.strict:
            near = difflib.get_close_matches(unknown[0][:60], known, 1)
            meant = f"; {near[0]}?" if near else ""
            raise ApiError(400, f"unknown field: {names}{meant}", param=unknown[0][:100], code="unknown_field")
        current.get().ignored = [name[:60] for name in unknown[:SHOWN]]


def parsed(body: bytes):
    """What the JSON of a body says; None for an empty body. ApiError (400) for all that no handler should see."""
    if not body.strip():
        return None
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"the body is not UTF-8 (byte {error.start}); send JSON as UTF-8, not as CP949 or EUC-KR"
        raise ApiError(400, message, code="invalid_encoding") from None
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        if "\\ud" in text.lower():
            raise _half_a_pair() from None
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if "\\ud" in text.lower():  # JSON can hold half of a surrogate pair (an emoji cut in two), which is not text
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise _half_a_pair() from None
    check_size(value)
    return value


def _half_a_pair() -> ApiError:
    return ApiError(400, "a text holds half of a surrogate pair", code="invalid_encoding")


def check_size(value) -> None:
    """ApiError (400) for more values than a request has reason to hold."""
    if isinstance(value, dict):
        for name, limit in LONGEST.items():
            items = value.get(name)
            if isinstance(items, list) and len(items) > limit and not (name == "prompt" and _are_ids(items)):
                raise ApiError(400, f"{name} has {len(items):,} items; at most {limit:,}", param=name, code="too_many")
        for name in ("stop", "bad_words"):
            texts = value.get(name)
            for text in texts if isinstance(texts, list) else [texts]:
                if isinstance(text, str) and len(text) > MAX_STOP_TEXT:
                    message = f"{name} has a text of {len(text):,} characters, at most {MAX_STOP_TEXT}"
                    raise ApiError(400, message, param=name, code="too_long")
    count, todo = 0, [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            count += len(item)
            todo.extend(item.values())
        elif isinstance(item, list) and not _are_ids(item):
            count += len(item)
            todo.extend(item)
        if count > MAX_VALUES:
            raise ApiError(400, f"the body has more than {MAX_VALUES:,} values", code="too_many")


def check_text(value) -> None:
    text = value.get("prompt") if isinstance(value, dict) else None
    if isinstance(text, str) and len(text) > MAX_TEXT:
        message = f"the text has {len(text):,} characters, at most {MAX_TEXT:,}; send it in parts"
        raise ApiError(400, message, param="prompt", code="too_long")


def _are_ids(items: list) -> bool:
    return bool(items) and all(type(item) is int for item in items)
