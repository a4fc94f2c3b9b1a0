"""Dropped files, as text."""

from pathlib import Path

SUFFIXES = (".txt", ".md", ".csv", ".html", ".htm")


class Unreadable(Exception):
    """`word` names the sentence to say, `how` what it wants to know."""

    def __init__(self, word: str, **how):
        super().__init__(word)
        self.word, self.how = word, how


def read(path: str, name: str, limit_mb: float) -> str:
    """The text of a file: UTF-8, with or without a byte order mark, or CP949, as Korean Windows saves it.

    Raises:
        Unreadable: too large, of another kind, binary, empty, or in another encoding.
    """
    size = Path(path).stat().st_size
    if not name.lower().endswith(SUFFIXES):
        raise Unreadable("file_kind", name=name)
    if size > limit_mb * 2**20:
        raise Unreadable("file_too_large", name=name, size=size / 2**20, limit=limit_mb)
    data = Path(path).read_bytes()
    if b"\0" in data:
        raise Unreadable("file_binary", name=name)
    for encoding in ("utf-8-sig", "cp949"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not text.strip():
            raise Unreadable("file_empty", name=name)
        return text.replace("\r\n", "\n").strip("\n")
    raise Unreadable("file_encoding", name=name)
