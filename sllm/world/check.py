"""Is an answer about the small world true? Which facts it has right, wrong, made up, and which are missing."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sllm.world.kinds import ATTRIBUTES, KINDS, KNOWN, TYPES
from sllm.world.scenes import Fact

_NAMED = re.compile(
    r"([가-힣]{2,4}) ("
    + "|".join(name[3:] for kind in KINDS.values() for name in kind.names if name[2] == " ")
    + r")(?![가-힣]{2})"
)
# What is true of every thing of a kind, without the first word and the ending: "물건을 파는 곳".
_ABOUT = {
    kind.key: [re.sub(r"^\S+ |(?:입|습)?니다\.$", "", sentence) for sentence in kind.about] for kind in KINDS.values()
}
_NUMBER = r"\d[\d,]*"
_GOVERNS = r"(?:은|는|이|가|인|의|으?로|으?로는|:)? ?(?:\S+ )?$"  # between a label and its value
_PATTERNS: dict[str, list[str]] = {}  # pattern → keys of the attributes whose values it finds
for _attribute in ATTRIBUTES.values():
    _PATTERNS.setdefault(TYPES[_attribute.type].pattern, []).append(_attribute.key)


@dataclass
class Truth:
    """What an answer says. `wrong`: against the text. `invented`: of something that the text does not speak of.
    `unasked`: true, but not what the question was: a text that is repeated answers nothing."""

    right: list[Fact] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unasked: list[Fact] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not (self.wrong or self.invented or self.missing or self.unasked)


@dataclass(frozen=True)
class _Mention:
    start: int
    end: int
    text: str
    keys: tuple[str, ...]

    @property
    def is_word(self) -> bool:
        """One of the words that are known without a text, not a number or a name."""
        return any(TYPES[ATTRIBUTES[key].type].words for key in self.keys)


def check(row: dict[str, Any], answer: str) -> Truth:
    """Compare an answer with the facts of its row. Only what is stated in words of the small world is judged.

    Args:
        row: as `rows.row` makes it, with `facts` and `expects`.
    """
    facts = [Fact(*fact) for fact in row["facts"]]
    expects, result = row["expects"], Truth()
    must = [facts[i] for i in expects["facts"]]
    first = answer.strip().partition("\n")[0].strip()
    is_chat = "task" not in row  # there a verdict begins a sentence
    if expects["starts"] and first != expects["starts"] and not (is_chat and first.startswith(expects["starts"] + ",")):
        result.wrong.append(first)
    result.wrong += [heading for heading in ("###Context###", "###Question###") if heading in answer]  # of the prompt
    _check_words(expects["words"], answer, result)
    subjects = {fact.subject for fact in facts}
    asked = row.get("user_content", "")
    for line in re.split(r"\n|(?<=[.?!]) ", answer):
        _check_line(line, facts, subjects, expects["subject"], asked, result)
    for named in _NAMED.finditer(answer):
        if named[0] not in subjects | {fact.value for fact in facts} and (facts or named[0] not in asked):
            result.invented.append(named[0])
    kinds = {kind_of(subject) for subject in subjects}
    for kind, sentences in _ABOUT.items():
        if kinds and kind not in kinds:
            result.wrong += [sentence for sentence in sentences if sentence in answer]
    if expects["named"] and expects["subject"] not in answer:
        result.missing.append(expects["subject"])
    have = [fact for fact in must if fact in result.right]
    result.unasked = [fact for fact in result.right if must and fact not in must]
    if len(have) < expects["least"]:
        result.missing += [f"{fact.subject}: {fact.label} {fact.value}" for fact in must if fact not in have]
    return result


def _check_words(words: list[str], answer: str, result: Truth) -> None:
    """Knowledge: the words have to be there, and no other name of a category."""
    if not words:
        return
    result.missing += [word for word in words if word not in answer]
    others = {noun for noun, _ in KNOWN.values()} - set(words)
    result.wrong += [noun for noun in sorted(others) if noun in answer]


def kind_of(subject: str) -> str:
    """The key of the kind that a name is of."""
    return next(
        kind.key for kind in KINDS.values() for name in kind.names if re.fullmatch(name.format("[가-힣]+"), subject)
    )


def _check_line(line: str, facts: list[Fact], subjects: set[str], subject: str, asked: str, result: Truth) -> None:
    mentions = _mentions(line, subjects)
    inside = [(mention.start, mention.end) for mention in mentions]
    for number in re.finditer(rf"(?<!Keyword ){_NUMBER}", line):
        is_value = any(start <= number.start() < end for start, end in inside)
        if not is_value and number[0] not in re.findall(_NUMBER, asked):
            result.invented.append(number[0])
    for i, mention in enumerate(mentions):
        before = line[mentions[i - 1].end if i else 0 : mention.start]
        after = line[mention.end : mentions[i + 1].start if i + 1 < len(mentions) else len(line)]
        about = _subject_of(line[: mention.start], subjects) or _subject_of(line, subjects) or subject
        keys = _attributes_of(mention, before, after, [fact for fact in facts if fact.subject == about])
        candidates = [fact for fact in facts if fact.subject == about and fact.attribute in keys]
        same = [fact for fact in candidates if fact.value == mention.text]
        if same:
            result.right += [fact for fact in same if fact not in result.right]
        elif candidates:
            result.wrong.append(mention.text)
        elif facts or not (mention.is_word or mention.text in asked):
            result.invented.append(mention.text)


def _mentions(line: str, subjects: set[str]) -> list[_Mention]:
    mentions = [
        _Mention(match.start(), match.end(), match[0], tuple(keys))
        for pattern, keys in _PATTERNS.items()
        for match in re.finditer(pattern, line)
    ]
    named = [(match.start(), match.end()) for subject in subjects for match in re.finditer(re.escape(subject), line)]
    apart = [m for m in mentions if not any(start <= m.start and m.end <= end for start, end in named)]
    apart.sort(key=lambda m: (m.start, -m.end))
    non_overlapping: list[_Mention] = []
    for mention in apart:
        if not non_overlapping or mention.start >= non_overlapping[-1].end:
            non_overlapping.append(mention)
    return non_overlapping


def _subject_of(text: str, subjects: set[str]) -> str | None:
    """The subject that is named last in `text`."""
    at, name = max(((text.rfind(subject), subject) for subject in subjects), default=(-1, ""))
    return name if at >= 0 else None


def _attributes_of(mention: _Mention, before: str, after: str, facts: list[Fact]) -> tuple[str, ...]:
    """Which attributes a value can be meant for: by the label in front of it, else by the verb behind it. None where
    these are of attributes that cannot have it."""
    at, key = max((before.rfind(ATTRIBUTES[key].label), key) for key in mention.keys)
    others = [attribute for attribute in ATTRIBUTES.values() if attribute.key not in mention.keys]
    if any(re.search(attribute.label + _GOVERNS, before[max(at, 0) :]) for attribute in others):
        return ()
    if at >= 0:
        return (key,)

    def follows(verbs: str) -> bool:
        return bool(re.match(rf"\W*(?:{verbs})", after))

    by_verb = tuple(key for key in mention.keys if follows(ATTRIBUTES[key].verbs))
    if not by_verb and any(follows(attribute.verbs) for attribute in others):
        return ()
    known = {fact.attribute for fact in facts}
    return by_verb if set(by_verb) & known else mention.keys


def read_facts(path: str | None) -> dict[str, dict[str, Any]]:
    """The rows of the small world in a test set, by their ids; none where it has none."""
    if not path or not Path(path).is_file():
        return {}
    facts = {}
    for line in Path(path).read_bytes().splitlines():
        try:
            row = json.loads(line)
            check(row, "")
            if isinstance(row["user_content"], str):
                facts[row["id"]] = row
        except (ValueError, TypeError, LookupError, AttributeError):
            continue  # a row of something else
    return facts
