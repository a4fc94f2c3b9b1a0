"""Plain texts about the small world, which a base model is trained on: never in the form of a task."""

import random

from sllm.world.kinds import ATTRIBUTES, KNOWN, TYPES
from sllm.world.korean import Word
from sllm.world.scenes import Fact, Scene, claim, other_value, question, scene, text

Draw = random.Random


def document(draw: Draw, *, max_facts: int = 4) -> str:
    """One text: a passage, a passage with a dialogue about it, a table that is read out, or what everybody knows.

    Args:
        max_facts: facts of a thing. Short texts first is easier to learn.
    """
    return draw.choices((_passage, _dialogue, _letter, _table, _common), (1, 5, 2, 2, 2))[0](draw, max_facts)


def _passage(draw: Draw, max_facts: int) -> str:
    return text(draw, scene(draw, min_facts=1, max_facts=max_facts))


def _scene_text(draw: Draw, max_facts: int) -> tuple[Scene, str]:
    about = scene(draw, min_facts=1, max_facts=max_facts)
    return about, text(draw, about)


def _tell(draw: Draw, fact: Fact) -> str:
    return fact.say(draw.choice(ATTRIBUTES[fact.attribute].tells))


def _dialogue(draw: Draw, max_facts: int) -> str:
    """A passage, and two people who talk about all of it, each fact once or twice: what is to be learned, reading an
    answer off the text, is in most of the tokens."""
    about, passage = _scene_text(draw, max_facts)
    facts = [*about.facts, *draw.sample(about.facts, draw.randint(0, len(about.facts)))]
    draw.shuffle(facts)
    asker, other = draw.choice((("물음", "대답"), ("손님", "주인"), ("아이", "어른")))
    lines = [passage]
    for fact in facts:
        turn, wrong = draw.random(), other_value(draw, fact)
        if turn < 0.5:
            ask, reply = question(draw, fact), f"{fact.value}입니다."
        elif turn < 0.7:
            choices, right = _choices(draw, fact.value, [wrong, other_value(draw, fact, (wrong,))])
            ask, reply = f"{question(draw, fact)} {choices}", f"{right}입니다."
        elif turn < 0.8:
            first, second = draw.sample((fact.value, wrong), 2)
            ask = fact.say("{s}의 {l:은/는}") + f" {first}입니까, {second}입니까?"
            reply = f"{fact.value}입니다."
        else:
            true = draw.random() < 0.5
            ask = claim(draw, fact if true else Fact(fact.subject, fact.attribute, wrong))
            reply = "예," if true else "아니요,"
        lines += [f"{asker}: {ask}", f"{other}: {reply} {_tell(draw, fact)}"]
    return "\n".join(lines)


def _choices(draw: Draw, right: str, wrong: list[str]) -> tuple[str, str]:
    """Lettered choices in random order, and the right one with its letter."""
    choices = draw.sample([right, *wrong], len(wrong) + 1)
    lettered = [f"{letter}) {choice}" for letter, choice in zip("abcde", choices, strict=False)]
    return " ".join(lettered), lettered[choices.index(right)]


def _letter(draw: Draw, max_facts: int) -> str:
    """The same facts twice, in other words."""
    about, passage = _scene_text(draw, max_facts)
    again = " ".join(_tell(draw, fact) for fact in draw.sample(about.facts, len(about.facts)))
    labels = ", ".join(f"{fact.label}: {fact.value}" for fact in about.facts)
    opening = draw.choice(("다시 말하면 이렇습니다.", "정리하면 이렇습니다."))
    return f"{passage}\n{opening} {again}\n{about.subject} - {labels}"


def _table(draw: Draw, max_facts: int) -> str:
    kind = scene(draw).kind
    rows = [scene(draw, kind.key, min_facts=9, max_facts=9) for _ in range(draw.randint(1, 3))]
    columns = draw.sample(kind.attributes, draw.randint(1, 2))
    values = {(thing.subject, fact.attribute): fact for thing in rows for fact in thing.facts}
    head = "".join(f"<th>{name}</th>" for name in ("이름", *(column.label for column in columns)))
    body = "".join(
        f"<tr><td>{thing.subject}</td>{''.join(f'<td>{values[thing.subject, c.key].value}</td>' for c in columns)}</tr>"
        for thing in rows
    )
    sentences = " ".join(_tell(draw, values[thing.subject, column.key]) for thing in rows for column in columns)
    return f"<table><tr>{head}</tr>{body}</table>\n{sentences}"


def _common(draw: Draw, max_facts: int) -> str:
    """Words and what they are, told or asked about."""
    lines = []
    for _ in range(draw.randint(1, 3)):
        category, other = draw.sample(list(KNOWN), 2)
        noun, about = KNOWN[category]
        word = Word(draw.choice(TYPES[category].words))
        is_noun = f"{word:은/는} {noun}입니다."
        explained = f"{is_noun} {Word(noun):은/는} {about}입니다."
        form = draw.random()
        if form < 0.3:
            lines += [explained]
        elif form < 0.5:
            lines += [f"물음: {word:은/는} 무엇입니까?", f"대답: {explained}"]
        elif form < 0.75:
            true = draw.random() < 0.5
            asked = noun if true else KNOWN[other][0]
            lines += [f"물음: {word:은/는} {asked}입니까?", f"대답: {'예' if true else '아니요'}, {explained}"]
        else:
            wrong = [draw.choice(TYPES[key].words) for key in draw.sample([k for k in KNOWN if k != category], 2)]
            choices, right = _choices(draw, str(word), wrong)
            lines += [f"물음: 다음 중 {Word(noun):은/는} 무엇입니까? {choices}", f"대답: {right}입니다. {explained}"]
    return "\n".join(lines)
