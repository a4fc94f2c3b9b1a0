"""OpenAI's JSON, written by hand where it is written once for every token.

What does not change from chunk to chunk of a stream is put together once; a chunk then costs one string join. The
shapes are those of `schemas`, and a test holds every one against them.
"""

import json
import re

_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Chunks:
    """Writes the server-sent events of one stream.

    Args:
        chat: chat chunks (a delta of a message), else text chunks.
        with_usage: the request asked for usage: every chunk then says that its own is null.
    """

    def __init__(self, *, chat: bool, id: str, created: int, model: str, with_usage: bool):
        kind = "chat.completion.chunk" if chat else "text_completion"
        self.chat = chat
        self._head = f'"id":{_text(id)},"object":"{kind}","created":{created},"model":{_text(model)}'
        self._before = "data: {" + self._head + ',"choices":[{"index":'
        self._open = ',"delta":{"content":' if chat else ',"text":'
        self._close = '},"logprobs":' if chat else ',"logprobs":'
        self._after = '}],"usage":null}\n\n' if with_usage else "}]}\n\n"
        self._plain = self._close + 'null,"finish_reason":null' + self._after

    def chunk(self, index: int, text: str) -> bytes:
        """The next piece of an answer: the case that has to be fast."""
        return f"{self._before}{index}{self._open}{_text(text)}{self._plain}".encode()

    def full(
        self,
        index: int,
        text: str,
        *,
        first: bool,
        finish_reason: str | None,
        logprobs: dict | None,
        extra: dict | None = None,
    ) -> bytes:
        """A chunk that says more: the first and the last of an answer, and those with log-probabilities."""
        choice: dict = {"index": index}
        if self.chat:
            choice["delta"] = ({"role": "assistant"} if first else {}) | {"content": text}
        else:
            choice["text"] = text
        choice |= {"logprobs": logprobs, "finish_reason": finish_reason} | (extra or {})
        return f'data: {{{self._head},"choices":[{_text(choice)}{self._after[1:]}'.encode()

    def last(self, usage: dict | None = None, **more: object) -> bytes:
        """A chunk without choices: the usage, or what else is said of the whole answer."""
        rest = {"choices": []} | ({"usage": usage} if usage else {}) | more
        return f"data: {{{self._head},{_text(rest)[1:]}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def error_event(error: dict) -> bytes:
    """An error after the first piece was sent, when the status is out already."""
    return f"data: {_text(error)}\n\n".encode()


def body(value: dict) -> bytes:
    return _text(value).encode()


def usage(prompt_tokens: int, completion_tokens: int) -> dict:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


# ── log-probabilities ──────────────────────────────────────────────────────────────────────────────────────


def chat_logprobs(tokenizer, token_ids: list[int], entries: list[dict], top: int) -> dict:
    """OpenAI's `logprobs` of chat. `entries`: vLLM's, {token id: Logprob} for each of `token_ids`."""

    def named(token: int, logprob: float) -> dict:
        raw = token_bytes(tokenizer, token)
        return {"token": spell(raw), "logprob": _finite(logprob), "bytes": list(raw)}

    content = []
    for token, found in zip(token_ids, entries, strict=True):
        best = sorted(found.items(), key=lambda item: item[1].rank)[:top]
        tops = [named(other, entry.logprob) for other, entry in best]
        content.append(named(token, found[token].logprob) | {"top_logprobs": tops})
    return {"content": content, "refusal": None}


def text_logprobs(tokenizer, token_ids: list[int], entries: list[dict], top: int, offset: int) -> dict:
    """OpenAI's older `logprobs` of completions. `offset`: characters of the answer before these tokens."""
    tokens, values, tops, offsets = [], [], [], []
    for token, found in zip(token_ids, entries, strict=True):
        tokens.append(spell(token_bytes(tokenizer, token)))
        values.append(_finite(found[token].logprob))
        best = sorted(found.items(), key=lambda item: item[1].rank)[:top]
        tops.append({spell(token_bytes(tokenizer, other)): _finite(entry.logprob) for other, entry in best})
        offsets.append(offset)
        offset += len(tokens[-1])
    return {
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": tops if top else None,
        "text_offset": offsets,
    }


def _finite(logprob: float) -> float:
    return max(logprob, -9999.0)  # JSON has no -inf


def spell(raw: bytes) -> str:
    """A token as text; one that holds part of a syllable as OpenAI spells it: bytes:\\xea\\xb0."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def token_bytes(tokenizer, token: int) -> bytes:
    """The bytes that a token stands for, in byte-level BPE and in SentencePiece vocabularies."""
    piece = tokenizer.convert_ids_to_tokens(token)
    if piece is None:
        return b""
    if token in tokenizer.added_tokens_decoder:
        return piece.encode()
    if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):
        return bytes([int(byte[1], 16)])
    space = "\u0120"  # the blank of byte-level vocabularies, which all have it
    if tokenizer.convert_tokens_to_ids(space) not in (None, tokenizer.unk_token_id):
        return bytes(_BYTES[character] for character in piece)
    return piece.replace("\u2581", " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet, in which byte-level vocabularies write bytes as visible characters."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


_BYTES = _byte_alphabet()
