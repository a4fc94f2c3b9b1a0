"""OpenAI's JSON, written by hand where it is written once for every token.

What does not change from chunk to chunk of a stream is put together once; a chunk then costs one string join. A test
holds every shape against the openai client's.
"""

import json

from starlette.responses import Response

_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Chunks:
    """Writes the server-sent events of one stream: of a chat (a delta of a message each), or of texts. `with_usage`:
    the request requested usage; every chunk then says that its own is null."""

    def __init__(self, *, chat: bool, id: str, created: int, model: str, with_usage: bool):
        kind = "chat.completion.chunk" if chat else "text_completion"
        self.chat = chat
        self._head = f'"id":{_text(id)},"object":"{kind}","created":{created},"model":{_text(model)}'
        self._before = "data: {" + self._head + ',"choices":[{"index":'
        self._open = ',"delta":{"content":' if chat else ',"text":'
        self._close = '},"logprobs":' if chat else ',"logprobs":'
        self._after = '}],"usage":null}\n\n' if with_usage else "}]}\n\n"
        self._text_end = self._close + 'null,"finish_reason":null' + self._after

    def chunk(self, index: int, text: str) -> bytes:
        """The next piece of an answer: the case that has to be fast."""
        return f"{self._before}{index}{self._open}{_text(text)}{self._text_end}".encode()

    def full(
        self, index: int, text: str, *, first: bool, finish_reason: str | None, stop_reason: int | str | None,
        logprobs: dict | None,
    ) -> bytes:  # fmt: skip
        """A chunk that says more: the first and the last of an answer, and those with log-probabilities."""
        choice: dict = {"index": index}
        if self.chat:
            choice["delta"] = ({"role": "assistant"} if first else {}) | {"content": text}
        else:
            choice["text"] = text
        choice |= {"logprobs": logprobs, "finish_reason": finish_reason}
        if finish_reason:
            choice["stop_reason"] = stop_reason
        return f'data: {{{self._head},"choices":[{_text(choice)}{self._after[1:]}'.encode()

    def last(self, **more: object) -> bytes:
        """A chunk without choices: the usage, or what else is said of the whole answer."""
        final_chunk = {"choices": []} | more
        return f"data: {{{self._head},{_text(final_chunk)[1:]}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def error_event(error: dict) -> bytes:
    """An error after the first piece was sent, when the status is out already."""
    return f"data: {_text(error)}\n\n".encode()


def body(value: dict) -> bytes:
    return _text(value).encode()


def json_response(value: dict, status: int = 200) -> Response:
    return Response(body(value), status, media_type="application/json")
