"""Korean particles and names that nobody has. Standard library only."""

import random
import re
import zlib

_PAIRS = {
    "은/는": ("은", "는"),
    "이/가": ("이", "가"),
    "을/를": ("을", "를"),
    "과/와": ("과", "와"),
    "으로/로": ("으로", "로"),
    "이다/다": ("이다", "다"),
    "이며/며": ("이며", "며"),
    "이고/고": ("이고", "고"),
    "이라/라": ("이라", "라"),
    "이면/면": ("이면", "면"),
}
_DIGITS = "영일이삼사오육칠팔구"  # how the last digit of a number is read
_ONSETS, _VOWELS, _CODAS = (0, 2, 3, 5, 6, 7, 9, 11, 12, 18), (0, 4, 8, 13, 20), (0, 0, 0, 4, 8, 16, 21)


# What a made-up name must not be: indecent or grim, or a word that the texts use.
_NO_NAME = re.compile(
    r"자지|보지|시발|지랄|병신|성기|성고|고자|음부|음란|항문|오줌|자살|살인|강간|사망|시신|무덤|사형|놈|한남"
    r"|^(?:보리|가수|기자|어부|농부|만두|모자|우산|감자|노래|사진|수영|그림|시계|의자|손님|주인|아이|어른|사람|이장|물음|이름|고기)$"
)


class Word(str):
    """A text whose format takes a particle: `f"{Word('빵집'):은/는}"` is 빵집은."""

    __slots__ = ()

    def __format__(self, particle: str) -> str:
        return self + particle_of(self, particle) if particle else str(self)


def particle_of(word: str, particle: str) -> str:
    """The form of `particle` (such as 은/는) that follows `word`.

    Raises:
        KeyError: a particle that is not in the list.
    """
    closed, open_ = _PAIRS[particle]
    last = word.rstrip("’'\")] ")[-1]
    last = _DIGITS[int(last)] if last.isdecimal() else last
    coda = (ord(last) - 0xAC00) % 28 if "가" <= last <= "힣" else 0
    return closed if coda and not (particle == "으로/로" and coda == 8) else open_


def replaced(text: str, word: str, other: str) -> str:
    """`text` with `other` in the place of `word`, and the particle behind it changed to match."""
    pairs = {form: pair for pair, forms in _PAIRS.items() for form in forms}
    particles = "|".join(sorted(pairs, key=len, reverse=True))
    pattern = rf"{re.escape(word)}(?:({particles})(?![가-힣]))?"
    return re.sub(pattern, lambda match: other + (particle_of(other, pairs[match[1]]) if match[1] else ""), text)


def name(draw: random.Random, *, held_out: bool = False) -> str:
    """Two or three random syllables. There are millions, so that what is asked about one can only be read in the text
    beside it. `held_out`: one of the fifth of them that names nothing in training."""
    while True:
        text = "".join(_syllable(draw) for _ in range(draw.choice((2, 2, 3))))
        if (zlib.crc32(text.encode()) % 5 == 0) == held_out and not _NO_NAME.search(text):
            return text


def _syllable(draw: random.Random) -> str:
    return chr(0xAC00 + 588 * draw.choice(_ONSETS) + 28 * draw.choice(_VOWELS) + draw.choice(_CODAS))
