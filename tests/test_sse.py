"""OpenAI's JSON as the server writes it by hand, and tokens as bytes."""

import json
from types import SimpleNamespace

import pytest

from sllm import chat
from sllm.serve import logprobs, sse

pytestmark = pytest.mark.torch


def event(data: bytes) -> dict:
    assert data.startswith(b"data: ")
    assert data.endswith(b"\n\n")
    assert b"\n" not in data[:-2]
    return json.loads(data.removeprefix(b"data: "))


def test_fast_and_full_chunks_are_the_same_json():
    text = '가"\\\n\u2028</script>😀\x00'
    for is_chat in (True, False):
        for with_usage in (True, False):
            chunks = sse.Chunks(chat=is_chat, id="x", created=1, model='m"', with_usage=with_usage)
            fast = event(chunks.chunk(2, text))
            full = event(chunks.full(2, text, first=False, finish_reason=None, stop_reason=None, logprobs=None))
            assert fast == full
            assert fast["model"] == 'm"'
            assert ("usage" in fast) == with_usage
            choice = fast["choices"][0]
            assert (choice["delta"]["content"] if is_chat else choice["text"]) == text
            last = event(chunks.last(usage={"total_tokens": 7}))
            assert last["choices"] == []
            assert last["usage"] == {"total_tokens": 7}
    first = event(sse.Chunks(chat=True, id="x", created=1, model="m", with_usage=False).full(
        0, "", first=True, finish_reason="stop", stop_reason=7, logprobs=None
    ))  # fmt: skip
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["choices"][0]["stop_reason"] == 7


def test_bytes_of_tokens_join_to_the_text(tiny_base):
    tokenizer = chat.load_tokenizer(str(tiny_base))
    vocabulary = logprobs.Vocabulary(tokenizer)
    for text in ("맑은 뷁 하늘", " a\n\t b", "é 😀 ½"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert b"".join(vocabulary.bytes(token) for token in ids).decode() == text
    ids = tokenizer("뷁", add_special_tokens=False)["input_ids"]
    assert len(ids) > 1
    assert logprobs.spell(vocabulary.bytes(ids[0])).startswith("bytes:\\xeb")
    assert vocabulary.bytes(tokenizer.eos_token_id).decode() == tokenizer.eos_token


def test_bytes_of_sentencepiece_tokens():
    pieces = ["<unk>", "▁가", "<0xEB>", "é", "<s>"]
    tokenizer = SimpleNamespace(
        convert_ids_to_tokens=lambda i: pieces[i] if i < len(pieces) else None,
        added_tokens_decoder={4: SimpleNamespace(content="<s>")},
        backend_tokenizer=SimpleNamespace(decoder="Sequence(decoders=[Replace(), ByteFallback(), Fuse()])"),
    )
    vocabulary = logprobs.Vocabulary(tokenizer)
    assert [vocabulary.bytes(token) for token in range(1, 6)] == [" 가".encode(), b"\xeb", "é".encode(), b"<s>", b""]


def test_offsets_count_whole_characters():
    offset = logprobs.Offset()
    found = []
    for raw in (b"a", "가".encode()[:1], "가".encode()[1:], b"\xff", "나".encode()):
        found.append(offset.characters)
        offset.add(raw)
    assert [*found, offset.characters] == [0, 1, 1, 2, 2, 3]
