"""Is an answer about the small world true? Which facts it has right, wrong, made up, and which are missing."""

import re
from dataclasses import dataclass, field
from typing import Any

from sllm.world.kinds import ATTRIBUTES, KINDS, KNOWN, TYPES
from sllm.world.scenes import Fact

_NAMED = re.compile(
    r"([가-힣]{2,4}) ("
    + "|".join(name[3:] for kind in KINDS.values() for name in kind.names if name[2] == " ")
    + r")(?![가-힣]{2})"
)
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


def check(row: dict[str, Any], answer: str) -> Truth:
    """Compare an answer with the facts of its row.

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
    for line in re.split(r"\n|(?<=[.?!]) ", answer):
        _check_line(line, facts, subjects, expects["subject"], result)
    for named in _NAMED.finditer(answer):
        if facts and named[0] not in subjects | {fact.value for fact in facts}:
            result.invented.append(named[0])
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


def _check_line(line: str, facts: list[Fact], subjects: set[str], subject: str, result: Truth) -> None:
    mentions = _mentions(line, subjects)
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
        elif facts:
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
    """Which attributes a value can be meant for: by the label in front of it, else by the verb behind it."""
    labelled = [(before.rfind(ATTRIBUTES[key].label), key) for key in mention.keys]
    at, key = max(labelled)
    if at >= 0:
        return (key,)
    by_verb = tuple(key for key in mention.keys if re.match(rf"\W*(?:{ATTRIBUTES[key].verbs})", after))
    known = {fact.attribute for fact in facts}
    return by_verb if set(by_verb) & known else mention.keys
