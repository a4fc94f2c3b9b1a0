"""The characters of a row's texts: harmless repairs, and what was lost or garbled when a text was decoded. Standard
library only."""

import copy
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

R = TypeVar("R", bound=dict[str, Any])
TURNS = ("messages", "prompt", "chosen", "rejected", "completion")  # the keys of a row whose values are turns


def texts(row: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """(place, text, whether it is an answer) of each turn. Places are "message 2" or "chosen"; an assistant turn of the
    prompt, or of weight 0, does not count as an answer."""
    for key in TURNS:
        for number, turn in enumerate(row.get(key, ()), 1):
            place = f"message {number}" if key in ("messages", "prompt") else key
            yield place, turn["content"], turn["role"] == "assistant" and key != "prompt" and turn.get("weight") != 0


def rewrite(row: R, change: Callable[[str], str]) -> R:
    """The row with each text changed: a copy, or the row itself if nothing changes."""
    changed = {}
    for key in TURNS:
        turns = [(turn, change(turn["content"])) for turn in row.get(key, ())]
        if any(text != turn["content"] for turn, text in turns):
            changed[key] = [{**turn, "content": text} for turn, text in turns]
    if not changed:
        return row
    row = copy.copy(row)
    row.update(changed)
    return row


# The syllables of KS X 1001 are nearly all that is written; others are often a text read in the wrong encoding.
_COMMON = "".join(bytes([a, b]).decode("euc_kr") for a in range(0xB0, 0xC9) for b in range(0xA1, 0xFF))
# Texts of these characters need no repair and are not broken. Without 占, the first of 占쏙옙.
_ORDINARY = re.compile(
    rf"[\t\n -~{_COMMON}ㄱ-ㅣ"
    r"一-\u535f\u5361-龥ぁ-ゖ゛-ヿΑ-ω“”‘’…·–—×÷±℃°㎡「」『』《》〈〉【】①-⑳→←↑↓■□▲△▼▽●○◆◇★☆※•㈜Ⅰ-Ⅻ₩∼～⇔․：，]*"
)
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_SPACE = re.compile("[\u00a0\u2000-\u200a\u202f\u205f\u3000]")
# Soft hyphens and joiners do something between emoji and in other scripts, and stay there.
_INVISIBLE = re.compile("[\u200b\u2060\ufeff]|(?<![^\t\n -~가-힣ᄀ-ᇿㄱ-ㅣ])[\u00ad\u200c\u200d]")


def ordinary(row: dict[str, Any]) -> bool:
    """All texts are of characters that need no repair and are not broken, as those of most rows are."""
    return all(_ORDINARY.fullmatch(text) for _, text, _ in texts(row))


def _compose(text: str) -> tuple[str, int]:
    composed = unicodedata.normalize("NFC", text)
    return composed, 0 if composed == text else max(len(text) - len(composed), 1)


_REPAIRS: dict[str, Callable[[str], tuple[str, int]]] = {
    "decomposed characters": _compose,  # above all jamo, as in names of files from macOS
    "line ends": lambda text: _LINE_END.subn("\n", text),
    "spaces": lambda text: _SPACE.subn(" ", text),
    "invisible characters": lambda text: _INVISIBLE.subn("", text),
}


def normalise_text(text: str) -> tuple[str, Counter[str]]:
    """The text in Unicode's composed form (NFC), with LF as line end, plain spaces, and no zero-width characters or
    byte order marks; and how many characters were changed, by kind. Normalising again changes nothing."""
    changes: Counter[str] = Counter()
    done = False
    while not done and not _ORDINARY.fullmatch(text):
        before = text
        for kind, repair in _REPAIRS.items():
            text, count = repair(text)
            if count:
                changes[kind] += count
        done = text == before
    return text, changes


def normalise(row: R) -> tuple[R, Counter[str]]:
    """The row with the `normalise_text` of each text, and what was changed; the row itself if nothing was."""
    changes: Counter[str] = Counter()

    def change(text: str) -> str:
        text, changed = normalise_text(text)
        changes.update(changed)
        return text

    return rewrite(row, change), changes


_LOST = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd-\uffff\ud800-\udfff]")
_BYTE = "[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"  # a byte of UTF-8 after the first, read as Latin-1 or CP1252
_UTF8_AS_LATIN1 = re.compile(rf"(?:[ê-í]{_BYTE}{{2}}){{2}}|â€{_BYTE}|Ã[\x80-\xbf]|Â[\xa1-\xbf]|ï»¿|ï¿½")
_CP949_AS_LATIN1 = re.compile("(?:[\xb0-\xc8][\xa1-\xfe]){2,}")
_U_FFFD_AS_CP949 = re.compile("占쏙옙|占싸|占쎈")
_UNCOMMON = re.compile(f"[{''.join(sorted({chr(c) for c in range(0xAC00, 0xD7A4)} - {*_COMMON}))}]")
_SYLLABLE = re.compile("[가-힣]")


def broken_encoding(text: str) -> str | None:
    """What is wrong with the text's characters; None if nothing is."""
    if _ORDINARY.fullmatch(text):
        return None
    if lost := _LOST.search(text):
        return f"U+{ord(lost[0]):04X} at character {lost.start()}"
    if garbled := _UTF8_AS_LATIN1.search(text):
        return f"UTF-8 read as Latin-1, {garbled[0]!r}"
    for garbled in _CP949_AS_LATIN1.finditer(text):
        kinds = {*map(str.isalpha, garbled[0])}
        if len({*garbled[0]}) >= 4 and len(kinds) == 2:  # not ····, ÀÉÈÙ
            return f"CP949 read as Latin-1, {garbled[0][:12]!r}"
    if garbled := _U_FFFD_AS_CP949.search(text):
        return f"UTF-8 read as CP949, {garbled[0]!r}"
    uncommon = _UNCOMMON.findall(text)  # 븞뀞븯꽭슂
    if len(uncommon) >= 3 and len(uncommon) > 0.3 * len(_SYLLABLE.findall(text)):
        return f"UTF-8 read as CP949, {''.join(uncommon[:6])!r}"
    return None
