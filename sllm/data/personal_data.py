"""Korean personal data in a text: where it is, and the text with it masked. Standard library only.

Found are resident and foreigner registration numbers, phone numbers, e-mail addresses, card and account numbers, and
the numbers of passports and driving licences: what has a form of its own. Names and addresses are not looked for.

    resident and foreigner numbers   date + digit 1–8 + six digits. Numbers issued since October 2020, newborns' and
        changed ones alike, have no check digit: one written with a hyphen counts without it, one without a hyphen has
        to pass the check or to follow "주민", "외국인".
    phone    mobile numbers, also with +82 or in Hangul (공일공 …); landlines with their area code, 070 and 050x; other
        countries' after a "+". Not businesses' public numbers: 1588-xxxx and the like, 080, 112, 120.
    card     13 to 16 digits with an issuer's prefix and Luhn's check digit.
    account  10 to 16 digits beside a bank's name or a word such as 계좌 or 입금.
    passport, driving licence   after 여권; in the form 11-22-333333-44, or after 면허.

What has another name directly before it (주문번호, 사업자등록번호) is no resident, card or account number.
"""

import re
from collections.abc import Callable
from datetime import date
from typing import NamedTuple

# What a masked text says instead. Each ends in a vowel, so that one form of a particle (는, 가, 를, 와, 로) fits all.
# Made-up numbers would read as naturally, but a model would learn to state them, and some belong to someone.
MASKS = {
    "resident number": "[주민등록번호]",
    "foreigner number": "[외국인등록번호]",
    "phone": "[전화번호]",
    "e-mail": "[이메일 주소]",
    "card": "[카드번호]",
    "account": "[계좌번호]",
    "passport": "[여권번호]",
    "driving licence": "[운전면허번호]",
}
_PARTICLES = {
    "으로": "로", "이에요": "예요", "이라고": "라고", "이랑": "랑", "은": "는", "이": "가", "을": "를", "과": "와",
}  # fmt: skip
_PARTICLE = re.compile(r"(?:으로|이에요|이라고|이랑|(?:은|이|을|과)(?![가-힣]))")

# Full-width characters and dashes of the same length as what they stand for: places in the text stay.
_PLAIN = str.maketrans("０１２３４５６７８９－‐‑–—−＠（）．\u00a0\u3000", "0123456789------@().  ")
_WIDE = re.compile("[０-９－‐‑–—−＠（）．\u00a0\u3000]")
_DIGIT = "[0-9０-９]"
_NUMBER = re.compile(rf"{_DIGIT}(?:[-. ()_－‐‑–—−（）．\u00a0\u3000]*{_DIGIT}){{8}}")  # what is shorter does not count
_SIGNS = ("@", "＠", "골뱅이", "at)", "at]", "공일", "여권", "assport")

_START = r"(?<![0-9A-Za-z])(?<![0-9][-.,])"  # Hangul may stand beside a number: 번호는010-…-5678입니다
_END = r"(?![0-9A-Za-z])(?![-.,][0-9])"
_SPACER = r"(?: ?[-._] ?| )"
_AREA = r"(?:2|3[1-3]|4[1-4]|5[1-5]|6[1-4]|70|50[2-8])"

_RESIDENT = re.compile(rf"{_START}([0-9]{{6}})( ?- ?| )?([1-8][0-9]{{6}}){_END}")
_CARD = re.compile(
    rf"{_START}(?:[0-9]{{4}}( - |[-. ]?)[0-9]{{4}}\1[0-9]{{4}}\1[0-9]{{4}}|"
    rf"3[0-9]{{3}}([-. ]?)[0-9]{{6}}\2[0-9]{{4,5}}){_END}"
)
_ISSUER = {  # by the number of digits; 9 is of cards that are valid in Korea alone
    16: re.compile(r"4|5[1-5]|2[2-7]|35|6011|62|64[4-9]|65|9"),
    15: re.compile(r"3[47]"),
    14: re.compile(r"3[0689]"),
}
_COUNTRY = r"(?<![0-9A-Za-z+])(?:(?:\+|00)82[-. ]?|82[-. ])(?:\(0\))?"
_MOBILE = re.compile(
    rf"(?:{_COUNTRY}1[016789]|{_START}(?:01[016789]\)?|\(01[016789]\))){_SPACER}?[0-9]{{3,4}}{_SPACER}?[0-9]{{4}}{_END}"
)
_SPOKEN = re.compile(
    r"(?:공일[공영일육칠팔구]|010)[-., ]{0,2}[공영일이삼사오육칠팔구]{3,4}[-., ]{0,2}[공영일이삼사오육칠팔구]{4}"
)
_LANDLINE = re.compile(
    rf"(?:{_COUNTRY}{_AREA}|{_START}(?:0{_AREA}\)?|\(0{_AREA}\))){_SPACER}?(?<![0-9])[0-9]{{3,4}}{_SPACER}[0-9]{{4}}{_END}"
)
_UNBROKEN_LANDLINE = re.compile(rf"{_START}0{_AREA}[0-9]{{7,8}}{_END}")
_ABROAD = re.compile(rf"(?<![0-9A-Za-z])\+(?!82)[1-9][0-9]{{0,2}}(?:[-. ]\(?[0-9]{{1,4}}\)?){{2,4}}{_END}")
_ACCOUNT = re.compile(rf"{_START}(?:[0-9]{{2,6}}(?:-[0-9]{{1,7}}){{1,4}}|[0-9]{{10,14}}){_END}")
_PASSPORT = re.compile(r"(?<![0-9A-Za-z])[MSRGD](?:[0-9]{8}|[0-9]{3}[A-Z][0-9]{4})(?![0-9A-Za-z])")
_LICENCE = re.compile(
    rf"{_START}(?:1[1-9]|2[0-8])(-?)[0-9]{{2}}\1[0-9]{{6}}\1[0-9]{{2}}{_END}|"
    r"(?:서울|부산|대구|인천|광주|대전|울산|경기|강원|충북|충남|전북|전남|경북|경남|제주)"
    rf" ?[0-9]{{2}}-[0-9]{{6}}-[0-9]{{2}}{_END}"
)
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_][A-Za-z0-9._%+-]{0,63}(?: ?@ ?| ?[\[(]at[\])] ?| ?골뱅이 ?)"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,5}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_NO_EMAIL = re.compile(r"git@|.*\.(?:png|jpe?g|gif|svg|webp|py|js|ts)$", re.IGNORECASE)

_OTHER_NAME = re.compile(
    r"(?:주문|송장|접수|예약|신청|거래|승인|상품|제품|일련|관리|문서|사건|학|수험|고객|회원|쿠폰|법인등록|사업자등록)"
    r" ?(?:번호|코드)[^0-9가-힣]{0,3}(?:[은는이가의][^0-9가-힣]{0,2})?$"
)
_NAMED_RESIDENT = re.compile(r"주민|외국인|RRN")
_NAMED_PHONE = re.compile(r"전화|연락|문의|휴대|핸드폰|팩스|☎|tel|fax|phone", re.IGNORECASE)
_NAMED_PASSPORT = re.compile(r"여권|passport", re.IGNORECASE)
_BANK = r"(?:은행|뱅크|농협|수협|신협|금고|우체국|저축|증권)"
_ACCOUNT_WORD = re.compile(r"계좌(?!번호\])|입금|송금|이체|예금주")
_BANK_BEFORE = re.compile(_BANK)
_BANK_DIRECTLY_BEFORE = re.compile(
    rf"(?:{_BANK}|국민|신한|우리|하나|기업|제일|씨티|카뱅|케뱅|토스|KB|NH|IBK|SC)[ :은는이가의]{{0,3}}$"
)
_BANK_AFTER = re.compile(rf"\s?\(?[가-힣A-Z]{{0,5}}{_BANK}")
_AMOUNT = re.compile(r" ?(?:[만억조]|원|달러|엔|위안|유로|명|주|개|건|회|%)")
_TIMESTAMP = re.compile(r"(?:19|20)[0-9]{2}-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12][0-9]|3[01])")
NEAR = 30  # characters before a number in which a bank's name, 계좌 or 전화 is looked for


class Found(NamedTuple):
    """`kind`: a key of MASKS; text[start:end] is the number or address."""

    kind: str
    start: int
    end: int


def find(text: str) -> list[Found]:
    """All personal data in the text, in order; none overlap."""
    has_number = _NUMBER.search(text) is not None
    if not (has_number or any(map(text.__contains__, _SIGNS)) or ("010" in text and _SPOKEN.search(text))):
        return []
    if _WIDE.search(text):
        text = text.translate(_PLAIN)
    found: list[Found] = []
    taken = bytearray(len(text))
    for pattern, kind_of in _RULES if has_number else _RULES_WITHOUT_NUMBER:
        for match in pattern.finditer(text):
            start, end = match.span()
            if 1 not in taken[start:end] and (kind := kind_of(match, text[max(0, start - NEAR) : start])):
                found.append(Found(kind, start, end))
                taken[start:end] = b"\1" * (end - start)
    return sorted(found, key=lambda item: item.start)


def mask(text: str) -> tuple[str, list[str]]:
    """The text with MASKS instead of what `find` finds, and the kinds that were masked, one for each place. A particle
    behind it gets the form that fits: "…5678은" becomes "[전화번호]는"."""
    kinds = []
    while found := find(text):  # once, but for a number that comes close to a word such as 계좌 only now
        parts, position = [], 0
        for kind, start, end in found:
            parts += [text[position:start], MASKS[kind]]
            position = end
            if particle := _PARTICLE.match(text, end):
                parts.append(_PARTICLES[particle[0]])
                position = particle.end()
            kinds.append(kind)
        text = "".join([*parts, text[position:]])
    return text, kinds


def _digits(match: re.Match[str]) -> str:
    return "".join(c for c in match[0] if c in "0123456789")


def _resident(match: re.Match[str], before: str) -> str | None:
    birth, spacer, rest = match.groups()
    digits = birth + rest
    if _OTHER_NAME.search(before) or not _is_date(birth, rest[0]):
        return None
    total = sum(
        int(digit) * weight for digit, weight in zip(digits, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), strict=False)
    )
    foreign = rest[0] >= "5"
    checked = digits[12] == str(((13 if foreign else 11) - total % 11) % 10)
    hyphen = "-" in (spacer or "")
    if not _NAMED_RESIDENT.search(before):
        if not checked and (not hyphen or _is_company(digits)):
            return None
        if not spacer and digits.startswith("880") and _weighted(digits, 3):
            return None  # a Korean bar code (EAN-13)
    return "foreigner number" if foreign else "resident number"


def _is_date(birth: str, digit: str) -> bool:
    """`birth`: YYMMDD. The digit tells the century; nobody was born after 2040 yet, in whichever year this runs."""
    year = (1900 if digit in "1256" else 2000) + int(birth[:2])
    try:
        date(year, int(birth[2:4]), int(birth[4:]))
    except ValueError:
        return False
    return year <= 2040


def _is_company(digits: str) -> bool:
    """The number of a company in the register: a court, the kind of company, and a check digit."""
    return digits[4:6] in ("11", "12", "13", "14", "15", "21", "22") and _weighted(digits, 2)


def _weighted(digits: str, weight: int) -> bool:
    """The check digit that follows from the weights 1, `weight`, 1, `weight`, …"""
    total = sum(int(digit) * (weight if i % 2 else 1) for i, digit in enumerate(digits[:-1]))
    return digits[-1] == str(-total % 10)


def _card(match: re.Match[str], before: str) -> str | None:
    digits = _digits(match)
    if not _ISSUER[len(digits)].match(digits) or _OTHER_NAME.search(before):
        return None
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])  # Luhn
    return "card" if (sum(doubled) + sum(map(int, digits[::-2]))) % 10 == 0 else None


def _phone(match: re.Match[str], before: str) -> str | None:
    return None if set(_digits(match)) <= {"0", "1"} and match[0].isdigit() else "phone"  # a number in binary


def _unbroken_landline(match: re.Match[str], before: str) -> str | None:
    return "phone" if _NAMED_PHONE.search(before) else None


def _abroad(match: re.Match[str], before: str) -> str | None:
    return "phone" if 8 <= len(_digits(match)) <= 15 else None


def _account(match: re.Match[str], before: str) -> str | None:
    number, after = match[0], match.string[match.end() : match.end() + 12]
    if not 10 <= len(_digits(match)) <= 16 or _OTHER_NAME.search(before) or _AMOUNT.match(after):
        return None
    if _TIMESTAMP.match(number):
        return None
    if _ACCOUNT_WORD.search(before) or _BANK_DIRECTLY_BEFORE.search(before) or _BANK_AFTER.match(after):
        return "account"
    return "account" if "-" in number and _BANK_BEFORE.search(before) else None


def _passport(match: re.Match[str], before: str) -> str | None:
    return "passport" if _NAMED_PASSPORT.search(before) else None


def _licence(match: re.Match[str], before: str) -> str | None:
    return "driving licence" if "-" in match[0] or "면허" in before else None


def _email(match: re.Match[str], before: str) -> str | None:
    return None if _NO_EMAIL.match(match[0]) else "e-mail"


# In this order: what is found first is not looked at again.
_RULES_WITHOUT_NUMBER: list[tuple[re.Pattern[str], Callable[[re.Match[str], str], str | None]]] = [
    (_EMAIL, _email),
    (_SPOKEN, _phone),
    (_PASSPORT, _passport),
]
_RULES = [
    *_RULES_WITHOUT_NUMBER,
    (_RESIDENT, _resident),
    (_CARD, _card),
    (_MOBILE, _phone),
    (_LANDLINE, _phone),
    (_UNBROKEN_LANDLINE, _unbroken_landline),
    (_ABROAD, _abroad),
    (_ACCOUNT, _account),
    (_LICENCE, _licence),
]
