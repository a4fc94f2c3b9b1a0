"""OpenAI's JSON as the server writes it by hand, and tokens as bytes."""

import json
from types import SimpleNamespace

import pytest

from sllm import chat
from sllm.serve import schemas, wire

pytestmark = pytest.mark.torch


def event(data: bytes) -> dict:
    assert data.startswith(b"data: ") and data.endswith(b"\n\n") and b"\n" not in data[:-2]
    return json.loads(data.removeprefix(b"data: "))


def test_fast_and_full_chunks_are_the_same_json():
    text = '가"\\\n\u2028</script>😀\x00'
    for is_chat in (True, False):
        for with_usage in (True, False):
            chunks = wire.Chunks(chat=is_chat, id="x", created=1, model='m"', with_usage=with_usage)
            fast = event(chunks.chunk(2, text))
            full = event(chunks.full(2, text, first=False, finish_reason=None, logprobs=None))
            assert fast == full and fast["model"] == 'm"' and ("usage" in fast) == with_usage
            choice = fast["choices"][0]
            assert (choice["delta"]["content"] if is_chat else choice["text"]) == text
            last = event(chunks.last(wire.usage(3, 4)))
            assert last["choices"] == [] and schemas.Usage.model_validate(last["usage"]).total_tokens == 7
    first = event(wire.Chunks(chat=True, id="x", created=1, model="m", with_usage=False).full(
        0, "", first=True, finish_reason="stop", logprobs=None, extra={"token_ids": [1]}
    ))  # fmt: skip
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""} and first["choices"][0]["token_ids"]


def test_bytes_of_tokens_join_to_the_text(tiny_base):
    tokenizer = chat.load_tokenizer(str(tiny_base))
    for text in ("맑은 뷁 하늘", " a\n\t b", "é 😀 ½"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert b"".join(wire.token_bytes(tokenizer, token) for token in ids).decode() == text
    ids = tokenizer("뷁", add_special_tokens=False)["input_ids"]
    assert len(ids) > 1 and wire.spell(wire.token_bytes(tokenizer, ids[0])).startswith("bytes:\\xeb")
    assert wire.token_bytes(tokenizer, tokenizer.eos_token_id).decode() == tokenizer.eos_token


def test_bytes_of_sentencepiece_tokens():
    pieces = ["<unk>", "▁가", "<0xEB>", "é", "<s>"]
    tokenizer = SimpleNamespace(
        convert_ids_to_tokens=lambda i: pieces[i] if i < len(pieces) else None,
        convert_tokens_to_ids=lambda piece: pieces.index(piece) if piece in pieces else 0,
        unk_token_id=0,
        added_tokens_decoder={4: None},
    )
    found = [wire.token_bytes(tokenizer, token) for token in range(1, 6)]
    assert found == [" 가".encode(), b"\xeb", "é".encode(), b"<s>", b""]
