"""Encodings of text files: found from their bytes, and read as UTF-8. Standard library only."""

import codecs
import re

from sllm.cli import InputError
from sllm.data.data_files import DataFile, Stream

CHUNK = 2**20  # bytes
_ASCII_LIMIT = 64 * CHUNK  # of a file that has been ASCII so far
_SAMPLE = 4 * CHUNK
_MARKS = {
    codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_CONTROL = re.compile("[\0-\b\x0e-\x1f\x7f]")
_HANDLER = "sllm.undecodable"


def _undecodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """What cannot be decoded becomes a byte that is not UTF-8, which the readers report with its line."""
    if isinstance(error, UnicodeDecodeError):
        return "\udcff", error.end
    assert isinstance(error, UnicodeEncodeError)
    return b"\xff" * (error.end - error.start), error.end


codecs.register_error(_HANDLER, _undecodable)


class Utf8:
    """A stream of text in any encoding, as UTF-8 without a byte order mark."""

    def __init__(self, stream: Stream, encoding: str):
        self.stream, self.encoding = stream, encoding
        self._decoder = None if encoding == "utf-8" else codecs.getincrementaldecoder(encoding)(_HANDLER)
        self._at_start = True

    def read(self, size: int) -> bytes:
        """About `size` bytes; b"" at the end only."""
        data = chunk = self.stream.read(size)
        if self._decoder:
            data = self._decoder.decode(chunk, final=not chunk).encode("utf-8", _HANDLER)
        if self._at_start and data:
            self._at_start, data = False, data.removeprefix(codecs.BOM_UTF8)
        return data if data or not chunk else self.read(size)


def label(encoding: str) -> str:
    return encoding.upper().replace("_", "-")


def check(encoding: str) -> str:
    """The usual name of an encoding that a user gave; InputError for one that Python does not have."""
    try:
        b"".decode(encoding)
        return codecs.lookup(encoding).name.removesuffix("-sig")
    except (LookupError, ValueError):
        raise InputError(f"--encoding {encoding}: unknown; for example utf-8, cp949, utf-16") from None


def detect(file: DataFile) -> tuple[str, list[str]]:
    """(encoding, notes). UTF-8 unless most of what is not ASCII is not UTF-8, and is Korean text in CP949 (EUC-KR is a
    part of it): a few broken lines do not change the encoding of a file. UTF-16 and UTF-32 by their byte order mark
    or their zero bytes.
    """
    with file.open() as stream:
        sample = stream.read(CHUNK // 16)
        if mark := next((mark for mark in _MARKS if sample.startswith(mark)), None):
            return _MARKS[mark], [] if _MARKS[mark] == "utf-8" else [f"read as {label(_MARKS[mark])}"]
        if b"\0" in sample:
            wide = _wide(sample)
            return wide or "utf-8", [f"read as {label(wide)}"] if wide else []
        read = len(sample)
        while sample.isascii() and sample and read < _ASCII_LIMIT:
            sample = _readable(stream, CHUNK)
            read += len(sample)
        if sample.isascii():
            return "utf-8", []
        sample += _readable(stream, _SAMPLE)
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(sample)
    undecodable = text.count("\ufffd") - sample.count("\ufffd".encode())
    if undecodable * 2 <= _beyond_ascii(text):
        return "utf-8", []
    korean = codecs.getincrementaldecoder("cp949")("replace").decode(sample)
    hangul = sum(map(len, re.findall("[가-힣ㄱ-ㅎㅏ-ㅣ]+", korean)))
    if hangul * 2 >= _beyond_ascii(korean) and korean.count("\ufffd") * 50 <= hangul:
        return "cp949", ["read as CP949"]
    return "utf-8", ["neither UTF-8 nor CP949; name its encoding with --encoding"]


def _readable(stream: Stream, size: int) -> bytes:
    try:
        return stream.read(size)
    except InputError:  # damaged: reported when it is read
        return b""


def _beyond_ascii(text: str) -> int:
    return len(text) - len(text.encode("ascii", "ignore"))


def _wide(sample: bytes) -> str | None:
    """UTF-16 or UTF-32 without a byte order mark; None for other text that has zero bytes."""
    if sample[:1] in (b"{", b"[") and sample[1:2] != b"\0":
        return None
    for encoding in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(sample)
        except UnicodeDecodeError:
            continue
        if text and not _CONTROL.search(text) and (len(text) - _beyond_ascii(text)) * 7 >= len(text):
            return encoding
    return None
