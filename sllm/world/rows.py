"""Rows of all tasks about the small world, each with the right answer and the facts that decide what is right."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sllm import tasks
from sllm.tasks.table import CHOICE_LABELS
from sllm.world.kinds import ATTRIBUTES, KNOWN, TYPES, unlike
from sllm.world.korean import Word
from sllm.world.scenes import Fact, Scene, claim, other_value, question, scene, text

Draw = random.Random


@dataclass
class Asked:
    """A question with its right answer.

    Attributes:
        fields: of the task. facts: all that its text says. must: the facts that a right answer says; `min_facts` of
            them are enough. starts: what the first line has to be. words: what the answer has to hold, and of the same
            kind nothing else.
    """

    fields: Mapping[str, str | list[str]]
    answer: str
    facts: tuple[Fact, ...] = ()
    must: tuple[Fact, ...] = ()
    min_facts: int | None = None
    starts: str = ""
    words: tuple[str, ...] = ()
    subject: str = ""
    named: bool = True  # the answer has to name the subject; not where the question does


@dataclass(frozen=True)
class Style:
    """How rows differ from those of training: held-out `names`, `unseen` phrasings, `long` texts about three things."""

    names: bool = False

    unseen: bool = False
    long: bool = False


TRAINED = Style()


def row(draw: Draw, task: str, style: Style = TRAINED) -> dict[str, Any]:
    """One row: the task row of the original's format, with `facts` and `expects` for `world.check`.

    Args:
        task: one of `TASKS`.
    """
    family, bullet = task.partition("_")[0], tasks.TASKS[task].style == "bullet"
    for _ in range(1000):  # a few answers break a rule, such as a text that is too short for its title
        example = _FAMILIES[family](draw, bullet, style)
        broken = tasks.check(task, dict(example.fields), example.answer)
        if not broken:
            break
    else:
        raise RuntimeError(f"no answer of {task} keeps its rules: {broken}")
    user_content = tasks.build_user_turn(task, dict(example.fields))
    return _as_row(task, {"system_prompt": tasks.TASKS[task].system_prompt, "user_content": user_content}, example)


def chat_row(draw: Draw, style: Style = TRAINED) -> dict[str, Any]:
    """A row without a task: a short text with a question, or a question about a word, as one would type it."""
    family = draw.choice((_short, _short, _yes_no, _known_answer))
    example = family(draw, False, style)
    text = " ".join(str(example.fields[name]) for name in ("context", "question") if name in example.fields)
    if family is _yes_no:
        example.answer = example.answer.replace("\n근거:\n", ", ")
    return _as_row("", {"user_content": text}, example)


def _as_row(task: str, prompt: dict[str, str], example: Asked) -> dict[str, Any]:
    return {
        **({"task": task} if task else {}),
        **prompt,
        "assistant_content": example.answer,
        "facts": [[fact.subject, fact.attribute, fact.value] for fact in example.facts],
        "expects": {
            "subject": example.subject,
            "named": example.named and bool(example.subject),
            "facts": [example.facts.index(fact) for fact in example.must],
            "least": len(example.must) if example.min_facts is None else example.min_facts,
            "starts": example.starts,
            "words": list(example.words),
        },
    }


def _scene_text(
    draw: Draw, style: Style, *, min_facts: int = 3, max_facts: int = 4
) -> tuple[Scene, tuple[Fact, ...], str]:
    """A scene to ask about, all facts of its text, and the text. A long text tells of other things as well."""
    about = scene(draw, min_facts=min_facts, max_facts=max_facts, held_out=style.names)
    scenes = [about]
    if style.long:
        kinds = [kind for kind in ("shop", "festival", "person", "hall", "village", "line") if kind != about.kind.key]
        scenes += [
            scene(draw, kind, min_facts=min_facts, max_facts=max_facts, held_out=style.names)
            for kind in draw.sample(kinds, 2)
        ]
        draw.shuffle(scenes)
    passage = "\n".join(text(draw, thing, unseen=style.unseen) for thing in scenes)
    return about, tuple(fact for thing in scenes for fact in thing.facts), passage


def _tell(fact: Fact) -> str:
    return fact.say(ATTRIBUTES[fact.attribute].tells[0])


def _retell(fact: Fact) -> str:
    return fact.say(ATTRIBUTES[fact.attribute].tells[1])


def _answer(fact: Fact, bullet: bool) -> str:
    """What is asked first, then a whole sentence."""
    if bullet:
        return f"- {fact.label}: {fact.value}\n  - {_tell(fact)}"
    return f"{fact.value}입니다. {_tell(fact)}"


def _summary(draw: Draw, bullet: bool, style: Style) -> Asked:
    about, facts, passage = _scene_text(draw, replace(style, long=False), min_facts=4, max_facts=4)
    main = about.facts[:2]
    if bullet:
        answer = f"- {about.subject}\n" + "\n".join(f"  - {_tell(fact)}" for fact in main)
    else:
        answer = " ".join(map(_tell, main))
    return Asked({"context": passage}, answer, facts, about.facts, 2, subject=about.subject)


def _title(draw: Draw, bullet: bool, style: Style) -> Asked:
    about, facts, passage = _scene_text(draw, replace(style, long=False))
    return Asked({"context": passage}, about.kind.topics[0].format(s=about.subject), facts, subject=about.subject)


def _lettered(draw: Draw, right: str, wrong: list[str]) -> tuple[list[str], str]:
    """Choices in random order, and the right one with its letter."""
    choices = [right, *wrong]
    draw.shuffle(choices)
    return choices, f"{CHOICE_LABELS[choices.index(right)]}) {right}"


def _because(sentences: list[str], bullet: bool) -> str:
    return "근거:\n" + ("\n".join(f"- {sentence}" for sentence in sentences) if bullet else " ".join(sentences))


def _word(draw: Draw, style: Style, category: str | None = None) -> tuple[str, str]:
    """A word and the key of its category. The last two words of each are asked about in no training row."""
    category = category or draw.choice(list(KNOWN))
    words = TYPES[category].words
    return draw.choice(words[-2:] if style.names else words[:-2]), category


def _explained(word: str, category: str) -> list[str]:
    noun, about = KNOWN[category]
    return [f"{Word(word):은/는} {noun}입니다.", f"{Word(noun):은/는} {about}입니다."]


def _known_choice(draw: Draw, bullet: bool, style: Style) -> Asked:
    word, category = _word(draw, style)
    others = draw.sample(unlike(category), 3)
    choices, right = _lettered(draw, word, [_word(draw, style, key)[0] for key in others])
    asks = (
        "다음 가운데 {n}은 무엇입니까?",
        "다음 중 {n}에 해당하는 것은 무엇입니까?",
        "보기에서 {n}인 것은 무엇입니까?",
    )
    noun = Word(KNOWN[category][0])
    ask = asks[2] if style.unseen else draw.choice(asks[:2])
    ask = ask.replace("{n}은", "{n:은/는}").format(n=noun)
    answer = f"{right}\n{_because(_explained(word, category), bullet)}"
    return Asked({"question": ask, "choices": choices}, answer, starts=right, words=(noun,))


def _known_answer(draw: Draw, bullet: bool, style: Style) -> Asked:
    word, category = _word(draw, style)
    asks = ("{w:은/는} 무엇입니까?", "{w:을/를} 한마디로 설명하면 무엇입니까?", "{w:이/가} 무엇인지 알려 주세요.")
    ask = (asks[2] if style.unseen else draw.choice(asks[:2])).format(w=Word(word))
    sentences = _explained(word, category)
    answer = "\n".join(f"- {sentence}" for sentence in sentences) if bullet else " ".join(sentences)
    return Asked({"question": ask}, answer, words=(KNOWN[category][0],))


def _known_yes_no(draw: Draw, bullet: bool, style: Style) -> Asked:
    word, category = _word(draw, style)
    asked = category if draw.random() < 0.5 else draw.choice(unlike(category))
    asks = ("{w:은/는} {n}입니까?", "{w:을/를} {n}이라고 할 수 있습니까?", "{w:을/를} {n:으로/로} 볼 수 있습니까?")
    noun = Word(KNOWN[asked][0])
    ask = asks[2] if style.unseen else draw.choice(asks[:2])
    ask = ask.replace("{n}이라고", "{n:이라/라}고").format(w=Word(word), n=noun)
    verdict = "예" if asked == category else "아니요"
    answer = f"{verdict}\n{_because(_explained(word, category), bullet)}"
    return Asked({"question": ask}, answer, starts=verdict, words=(KNOWN[category][0],))


def _choice(draw: Draw, bullet: bool, style: Style) -> Asked:
    about, facts, passage = _scene_text(draw, style)
    fact = draw.choice(about.facts)
    wrong: list[str] = []
    while len(wrong) < 3:
        wrong.append(other_value(draw, fact, tuple(wrong)))
    choices, right = _lettered(draw, fact.value, wrong)
    reasons = [_tell(fact)] + ([f"{fact.label}: {fact.value}"] if bullet else [])
    answer = f"{right}\n{_because(reasons, bullet)}"
    fields: dict[str, str | list[str]] = {
        "context": passage,
        "question": question(draw, fact, unseen=style.unseen),
        "choices": choices,
    }
    return Asked(fields, answer, facts, (fact,), starts=right, subject=about.subject, named=False)


def _yes_no(draw: Draw, bullet: bool, style: Style) -> Asked:
    about, facts, passage = _scene_text(draw, style)
    fact = draw.choice(about.facts)
    true = draw.random() < 0.5
    claimed = fact if true else Fact(fact.subject, fact.attribute, other_value(draw, fact))
    verdict = "예" if true else "아니요"
    reasons = [_tell(fact)] + ([f"{fact.label}: {fact.value}"] if bullet else [])
    answer = f"{verdict}\n{_because(reasons, bullet)}"
    fields = {"context": passage, "question": claim(draw, claimed, unseen=style.unseen)}
    return Asked(fields, answer, facts, (fact,), starts=verdict, subject=about.subject, named=False)


def _short(draw: Draw, bullet: bool, style: Style) -> Asked:
    about, facts, passage = _scene_text(draw, style)
    fact = draw.choice(about.facts)
    fields = {"context": passage, "question": question(draw, fact, unseen=style.unseen)}
    return Asked(fields, _answer(fact, bullet), facts, (fact,), subject=about.subject, named=False)


def _completion(draw: Draw, bullet: bool, style: Style) -> Asked:
    about, facts, passage = _scene_text(draw, replace(style, long=False))
    first, second = about.facts[:2]
    opening = "한마디로 말하면" if style.unseen else draw.choice(("정리하면", "다시 말하면"))
    answer = f"{first.say('{s:은/는} {l:이/가} {v}이고')} {second.say('{l:이/가} {v:이다/다}.')}"
    return Asked({"text": f"{passage} {opening}"}, answer, facts, about.facts, 2, subject=about.subject)


def _contents(draw: Draw, bullet: bool, style: Style) -> Asked:
    about = scene(draw, min_facts=3, held_out=style.names)
    fact = about.facts[0]
    title = fact.say("{l:이/가} {v}인 {s}" if style.unseen else draw.choice(("{s}, {l} {v}", "{s}: {l} {v}")))
    sentences = [_tell(fact), *about.kind.about]
    if bullet:
        answer = f"- {sentences[0]}\n" + "\n".join(f"  - {sentence}" for sentence in sentences[1:])
    else:
        answer = " ".join(sentences)
    return Asked({"title": title}, answer, (fact,), (fact,), subject=about.subject)


def _keywords(draw: Draw, bullet: bool, style: Style) -> Asked:
    about, facts, passage = _scene_text(draw, replace(style, long=False))
    first, second = about.facts[:2]
    answer = f"Keyword 1: {first.value}\n설명: {_tell(first)}\nKeyword 2: {second.value}\n설명: {_tell(second)}"
    return Asked({"context": passage}, answer, facts, about.facts, 2, subject=about.subject)


def _table(draw: Draw, bullet: bool, style: Style) -> Asked:
    kind = draw.choice(("shop", "festival", "person", "hall", "village", "line"))
    rows = [scene(draw, kind, min_facts=9, max_facts=9, held_out=style.names) for _ in range(4 if style.long else 2)]
    columns = draw.sample(rows[0].kind.attributes, 3 if style.long else 2)
    keys = [column.key for column in columns]
    by_row = [[next(fact for fact in thing.facts if fact.attribute == key) for key in keys] for thing in rows]
    head = "".join(f"<th>{text}</th>" for text in ("이름", *(column.label for column in columns)))
    body = "".join(
        f"<tr><td>{thing.subject}</td>{''.join(f'<td>{fact.value}</td>' for fact in facts)}</tr>"
        for thing, facts in zip(rows, by_row, strict=True)
    )
    fact = draw.choice(draw.choice(by_row))
    fields = {
        "table": f"<table><tr>{head}</tr>{body}</table>",
        "question": question(draw, fact, unseen=style.unseen),
    }
    facts = tuple(fact for facts in by_row for fact in facts)
    return Asked(fields, _answer(fact, bullet), facts, (fact,), subject=fact.subject, named=False)


def _paraphrase(draw: Draw, bullet: bool, style: Style) -> Asked:
    about, facts, passage = _scene_text(draw, replace(style, long=False), min_facts=3, max_facts=3)
    if bullet:
        answer = f"- {about.subject}\n" + "\n".join(f"  - {fact.label}: {fact.value}" for fact in about.facts)
    else:
        answer = " ".join(_other_words(passage, fact) for fact in about.facts)
    return Asked({"context": passage}, answer, facts, about.facts, subject=about.subject)


def _other_words(passage: str, fact: Fact) -> str:
    """The polite sentence that shares the fewest words with the text."""
    words = set(passage.split())
    return min((_tell(fact), _retell(fact)), key=lambda sentence: len(words & set(sentence.split())))


_FAMILIES: dict[str, Callable[[Draw, bool, Style], Asked]] = {
    "task01": _summary, "task02": _title, "task03": _known_choice, "task04": _known_answer, "task05": _known_yes_no,
    "task06": _choice, "task07": _yes_no, "task08": _short, "task09": _completion, "task10": _contents,
    "task11": _keywords, "task12": _table, "task13": _paraphrase,
}  # fmt: skip
TASKS = [task for task in tasks.TASKS if task.partition("_")[0] in _FAMILIES]  # whose answers are facts
