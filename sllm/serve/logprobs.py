"""Log-probabilities as OpenAI's two APIs write them, each token with the bytes that it stands for."""

import codecs
import re


class Vocabulary:
    """The bytes that each token of a tokenizer stands for, in byte-level BPE and in SentencePiece vocabularies."""

    def __init__(self, tokenizer):
        from transformers.convert_slow_tokenizer import bytes_to_unicode  # how byte-level vocabularies write bytes

        self._tokenizer = tokenizer
        self._special = {token: added.content for token, added in tokenizer.added_tokens_decoder.items()}
        byte_level = "ByteLevel" in str(tokenizer.backend_tokenizer.decoder)
        self._byte_of = {character: byte for byte, character in bytes_to_unicode().items()} if byte_level else {}
        self._bytes_by_token: dict[int, bytes] = {}

    def is_special(self, token: int) -> bool:
        return token in self._special

    def bytes(self, token: int) -> bytes:
        if token not in self._bytes_by_token:
            self._bytes_by_token[token] = self._bytes(token)
        return self._bytes_by_token[token]

    def _bytes(self, token: int) -> bytes:
        if token in self._special:
            return self._special[token].encode()
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # the model's head may have more rows than the tokenizer has tokens
            return b""
        if self._byte_of:
            return bytes(self._byte_of[character] for character in piece)
        if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):
            return bytes([int(byte[1], 16)])
        return piece.replace("\u2581", " ").encode()


class Offset:
    """How many characters of an answer its tokens so far have made; half a syllable makes none."""

    def __init__(self, characters: int = 0):
        self.characters = characters
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")

    def add(self, raw: bytes) -> None:
        self.characters += len(self._decoder.decode(raw))


def chat_logprobs(vocabulary: Vocabulary, token_ids, entries: list[dict], top: int) -> dict:
    """OpenAI's `logprobs` of chat. `entries`: vLLM's, {token id: Logprob} for each of `token_ids`."""

    def entry(token: int, logprob: float) -> dict:
        raw = vocabulary.bytes(token)
        return {"token": spell(raw), "logprob": logprob, "bytes": list(raw)}

    content = []
    for token, likely in zip(token_ids, entries, strict=True):
        best = sorted(likely.items(), key=lambda item: item[1].rank)[:top]
        tops = [entry(other, value.logprob) for other, value in best]
        content.append(entry(token, likely[token].logprob) | {"top_logprobs": tops})
    return {"content": content}


def text_logprobs(vocabulary: Vocabulary, token_ids, entries: list[dict | None], top: int, offset: Offset) -> dict:
    """OpenAI's older `logprobs` of completions: of each token the `top` likeliest and itself. The first token of a
    prompt has none. `offset`: where these tokens begin; moved on."""
    tokens, values, tops, offsets = [], [], [], []
    for token, likely in zip(token_ids, entries, strict=True):
        tokens.append(spell(vocabulary.bytes(token)))
        values.append(likely[token].logprob if likely else None)
        best = dict(sorted((likely or {}).items(), key=lambda item: item[1].rank)[:top])
        if likely:
            best[token] = likely[token]
        tops.append({spell(vocabulary.bytes(other)): entry.logprob for other, entry in best.items()} or None)
        offsets.append(offset.characters)
        if not vocabulary.is_special(token):
            offset.add(vocabulary.bytes(token))
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


def spell(raw: bytes) -> str:
    """A token as text; one that holds part of a syllable as OpenAI spells it: bytes:\\xea\\xb0."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
