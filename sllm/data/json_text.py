"""The text of a JSON document, read as a stream: its values one at a time, each with its line.

Standard library only.
"""

import codecs
import json
import re
from collections.abc import Generator
from typing import Any

from sllm.data.encodings import CHUNK, Utf8
from sllm.data.json_lines import not_json

_SPACE = re.compile(r"[ \t\r\n]*")
_decode = json.JSONDecoder().raw_decode


class Text:
    """The text of a stream: what was read of it and not yet dropped. `faults`: (line, reason), grows."""

    def __init__(self, stream: Utf8):
        self.text, self.ended = "", False
        self.faults: list[tuple[int, str]] = []
        self._stream, self._decoder = stream, codecs.getincrementaldecoder("utf-8")()
        self._line, self._column = 1, 0  # of the first character of `text`
        self._counted, self._newlines = 0, 0  # newlines of text[:_counted]

    def more(self) -> bool:
        """Reads on; False at the end of the file. Reads more at a time the longer the text is already."""
        data = b"" if self.ended else self._stream.read(max(4 * CHUNK, len(self.text)))
        self.ended = not data
        try:
            self.text += self._decoder.decode(data, final=self.ended)
        except UnicodeDecodeError:
            self._decoder.errors = "surrogateescape"
            start = len(self.text)
            self.text += self._decoder.decode(data, final=self.ended)
            self._decoder.errors = "strict"
            lines = {self.line_at(match.start()) for match in re.compile("[\udc80-\udcff]+").finditer(self.text, start)}
            self.faults += [(line, "not UTF-8; correct it") for line in sorted(lines)]
            self.text = re.sub("[\udc80-\udcff]", "\ufffd", self.text)
        return not self.ended

    def line_at(self, position: int) -> int:
        if position < self._counted:
            return self._line + self.text.count("\n", 0, position)
        self._newlines += self.text.count("\n", self._counted, position)
        self._counted = position
        return self._line + self._newlines

    def drop(self, position: int) -> int:
        """Forgets what lies before a position if that is most of the text; returns the new position."""
        if position < len(self.text) // 2:
            return position
        line, start = self.line_at(position), self.text.rfind("\n", 0, position) + 1
        self._column = position - start + (0 if start else self._column)
        self.text, self._line, self._counted, self._newlines = self.text[position:], line, 0, 0
        return 0

    def after_space(self, position: int) -> int:
        """The position of the next character that is no space; the end of the text at the end of the file."""
        while True:
            match = _SPACE.match(self.text, position)
            position = match.end() if match else position
            if position < len(self.text) or not self.more():
                return position

    def value(self, position: int) -> tuple[Any, int]:
        """The value at a position, and where it ends. ValueError, RecursionError."""
        while True:
            try:
                value, end = _decode(self.text, position)
                if end < len(self.text) or self.ended:  # else a number that may go on
                    return value, end
            except json.JSONDecodeError as error:
                if self.ended or not is_cut_off(error):
                    raise
            self.more()

    def expect(self, characters: str, position: int) -> int:
        """The position of the next character, which has to be one of `characters`."""
        position = self.after_space(position)
        if self.text[position : position + 1] not in tuple(characters):
            raise json.JSONDecodeError(f"Expecting {' or '.join(map(repr, characters))}", self.text, position)
        return position

    def fault(self, error: Exception, line: int) -> None:
        """`line`: of the record, where the error does not say its own."""
        column = None
        if isinstance(error, json.JSONDecodeError):
            line = self._line + error.lineno - 1
            column = error.colno + (self._column if error.lineno == 1 else 0)
        self.faults.append((line, not_json(error, column=column)))


def is_cut_off(error: json.JSONDecodeError) -> bool:
    """May a text that goes on be without this error?"""
    return error.pos + 16 > len(error.doc) or error.msg.startswith("Unterminated string")


def elements(text: Text, position: int) -> Generator[tuple[int, Any, int], None, Any]:
    """(line, element, its size) of the array that opens at `position`; returns the position after it, None if it does
    not end. After a fault, continues at the next line that opens a record at the depth of the first one, so that one
    pass finds every bad record."""
    position = text.after_space(position + 1)
    indent = text.text[text.text.rfind("\n", 0, position) + 1 : position]
    next_record = re.compile(rf"^{indent if indent.isspace() else ''}\{{", re.MULTILINE)
    after = position
    while text.text[after : after + 1] != "]":
        if after == position:
            after = position = text.drop(position)
        line = text.line_at(position)
        try:
            value, end = text.value(position)
            after = text.expect(",]", end)
            yield line, value, end - position
            if text.text[after] == ",":
                after = position = text.after_space(after + 1)
                if text.text[position : position + 1] == "]":
                    raise json.JSONDecodeError("Expecting value", text.text, position)
        except (ValueError, RecursionError) as error:
            text.fault(error, line)
            found = _next(text, next_record, position + 1)
            if found is None:
                return None
            after = position = found
    return after + 1


def _next(text: Text, pattern: re.Pattern[str], position: int) -> int | None:
    while not (match := pattern.search(text.text, position)):
        newline = text.text.rfind("\n", position)
        position = text.drop(newline + 1) if newline >= 0 else position
        if not text.more():
            return None
    return match.end() - 1
