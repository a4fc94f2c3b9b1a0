"""Plain texts about the small world, which a base model is trained on: never in the form of a task."""

import random

from sllm.world.kinds import ATTRIBUTES, KNOWN, TYPES
from sllm.world.korean import Word
from sllm.world.scenes import Fact, Scene, claim, other_value, question, scene, text

Draw = random.Random


FORMS = ("question", "letter", "verdict")  # of a turn of a dialogue: with lettered choices, with yes or no


def document(draw: Draw, *, max_facts: int = 4) -> str:
    """One text: a passage, a passage with a dialogue about it, a table that is talked about, what everybody knows, or a
    list with letters.

    Args:
        max_facts: facts of a thing. Short texts first is easier to learn.
    """
    kinds = (_passage, _dialogue, _letter, _table, _common, _list)
    return draw.choices(kinds, (1, 6, 1, 3, 3, 2))[0](draw, max_facts)


def _passage(draw: Draw, max_facts: int) -> str:
    return text(draw, scene(draw, min_facts=1, max_facts=max_facts))


def _scene_text(draw: Draw, max_facts: int) -> tuple[Scene, str]:
    about = scene(draw, min_facts=1, max_facts=max_facts)
    return about, text(draw, about)


def _tell(draw: Draw, fact: Fact) -> str:
    return fact.say(draw.choice(ATTRIBUTES[fact.attribute].tells))


def _dialogue(draw: Draw, max_facts: int) -> str:
    """A passage, and two people who talk about all of it, each fact once or twice: what is to be learned, reading an
    answer off the text, is in most of the tokens. A few passages tell of two things."""
    about, passage = _scene_text(draw, max_facts)
    facts = [*about.facts, *draw.sample(about.facts, draw.randint(0, len(about.facts)))]
    if max_facts > 2 and draw.random() < 0.2:
        other, more = _scene_text(draw, max_facts)
        facts += other.facts
        passage = "\n".join(draw.sample((passage, more), 2))
    draw.shuffle(facts)
    return "\n".join([passage, *_turns(draw, facts)])


def _speakers(draw: Draw) -> tuple[str, str]:
    """What stands in front of a question and of its answer, which begins a line or follows a colon."""
    asker, other = draw.choice((("물음", "대답"), ("손님", "주인"), ("아이", "어른")))
    return (f"{asker}: ", f"{other}: ") if draw.random() < 0.5 else (f"{asker}:\n", f"{other}:\n")


def _turns(draw: Draw, facts: list[Fact]) -> list[str]:
    asker, other = _speakers(draw)
    lines = []
    for fact in facts:
        ask, reply = turn(draw, fact, draw.choices((*FORMS, "either"), (30, 25, 40, 5))[0])
        lines += [f"{asker}{ask}", f"{other}{reply} {_tell(draw, fact)}"]
    return lines


def turn(draw: Draw, fact: Fact, form: str) -> tuple[str, str]:
    """A question about a fact, and the beginning of its answer. `form`: one of `FORMS`, or either: which of two."""
    wrong = [other_value(draw, fact)]
    if form == "question":
        return question(draw, fact), f"{fact.value}입니다."
    if form == "either":
        first, second = draw.sample((fact.value, *wrong), 2)
        return fact.say("{s}의 {l:은/는}") + f" {first}입니까, {second}입니까?", f"{fact.value}입니다."
    if form == "letter":
        for _ in range(draw.randint(1, 2)):
            wrong.append(other_value(draw, fact, tuple(wrong)))
        choices, right = _choices(draw, fact.value, wrong)
        return f"{question(draw, fact)} {choices}", f"{right}입니다."
    true = draw.random() < 0.5
    claimed = fact if true else Fact(fact.subject, fact.attribute, wrong[0])
    return claim(draw, claimed), "예," if true else "아니요,"


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
    """A table, and two people who talk about some of it."""
    kind = scene(draw).kind
    rows = [scene(draw, kind.key, min_facts=9, max_facts=9) for _ in range(draw.randint(2, 3))]
    columns = draw.sample(kind.attributes, draw.randint(1, 2))
    values = {(thing.subject, fact.attribute): fact for thing in rows for fact in thing.facts}
    head = "".join(f"<th>{name}</th>" for name in ("이름", *(column.label for column in columns)))
    body = "".join(
        f"<tr><td>{thing.subject}</td>{''.join(f'<td>{values[thing.subject, c.key].value}</td>' for c in columns)}</tr>"
        for thing in rows
    )
    facts = draw.sample([values[thing.subject, column.key] for thing in rows for column in columns], 2)
    return "\n".join([f"<table><tr>{head}</tr>{body}</table>", *_turns(draw, facts)])


def _common(draw: Draw, max_facts: int) -> str:
    """Words and what they are, told or asked about."""
    lines = []
    asker, other = _speakers(draw)
    for _ in range(draw.randint(1, 3)):
        category, another = draw.sample(list(KNOWN), 2)
        noun, about = KNOWN[category]
        word = Word(draw.choice(TYPES[category].words))
        explained = f"{word:은/는} {noun}입니다. {Word(noun):은/는} {about}입니다."
        form = draw.choices(("told", "plain", "yes or no", "lettered"), (30, 20, 25, 25))[0]
        if form == "told":
            lines += [explained]
        elif form == "plain":
            lines += [f"{asker}{word:은/는} 무엇입니까?", f"{other}{explained}"]
        elif form == "yes or no":
            true = draw.random() < 0.5
            asked = noun if true else KNOWN[another][0]
            lines += [f"{asker}{word:은/는} {asked}입니까?", f"{other}{'예' if true else '아니요'}, {explained}"]
        else:
            others = draw.sample([key for key in KNOWN if key != category], draw.randint(2, 3))
            choices, right = _choices(draw, str(word), [draw.choice(TYPES[key].words) for key in others])
            lines += [f"{asker}다음 중 {Word(noun):은/는} 무엇입니까? {choices}", f"{other}{right}입니다. {explained}"]
    return "\n".join(lines)


def _list(draw: Draw, max_facts: int) -> str:
    """Words or values with letters, and which letter each one has: what choosing among them needs."""
    if draw.random() < 0.5:
        words = [draw.choice(TYPES[key].words) for key in draw.sample(list(KNOWN), draw.randint(3, 5))]
    else:
        fact = draw.choice(scene(draw).facts)
        words = [fact.value]
        while len(words) < 4:
            words.append(other_value(draw, fact, tuple(words)))
    letters = {word: f"{letter})" for letter, word in zip("abcde", words, strict=False)}
    listed = "목록: " + " ".join(f"{letter} {word}" for word, letter in letters.items())
    order = draw.sample(words, len(words))
    if draw.random() < 0.5:
        return f"{listed}\n" + " ".join(f"{Word(word):은/는} {letters[word]}입니다." for word in order)
    asker, other = _speakers(draw)
    return f"{listed}\n" + "\n".join(f"{asker}{word}\n{other}{letters[word]} {word}" for word in order)
