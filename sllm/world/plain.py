"""Plain texts about the small world, which a base model is trained on: never in the form of a task."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sllm.world import drills
from sllm.world.kinds import ATTRIBUTES, KINDS, KNOWN, TYPES, unlike
from sllm.world.korean import Word
from sllm.world.scenes import Fact, Piece, Scene, claim, lettered_choices, other_value, question, scene, text

Draw = random.Random
FORMS = ("question", "letter", "verdict")  # a question: open, with lettered choices, answered by yes or no
TURN_FORMS = (*FORMS, "either")  # and with two values to choose from


@dataclass(frozen=True)
class Level:
    """How hard the texts are: what is learned early makes the rest learnable.

    Attributes:
        max_facts: facts of a thing at most.
        documents: weights of the kinds of text, by name; see `DOCUMENTS`.
        turns: weights of the forms of a dialogue's questions, by name; see `TURN_FORMS`.
        lists, quizzes: forms of the short questions about a list and about a passage.
        min_retold: facts of a retelling at least.
        by_kind: short questions about common words stand by their kind, see `drills.about_a_kind`.
    """

    max_facts: int = 4
    documents: Mapping[str, int] = field(
        default_factory=lambda: {
            "passage": 1, "dialogue": 6, "retelling": 4, "table": 4, "common": 3, "list": 4, "quiz": 4
        }
    )  # fmt: skip
    turns: Mapping[str, int] = field(default_factory=lambda: {"question": 35, "letter": 30, "verdict": 30, "either": 5})
    lists: tuple[str, ...] = drills.LIST_FORMS
    quizzes: tuple[str, ...] = drills.QUIZ_FORMS
    min_retold: int = 1
    by_kind: bool = False


DEFAULT = Level()


def document(draw: Draw, level: Level = DEFAULT) -> str:
    """One text: the pieces of `document_pieces`."""
    return "".join(piece for piece, _ in document_pieces(draw, level))


def document_pieces(draw: Draw, level: Level) -> list[Piece]:
    """A passage, a passage with a dialogue about it or told again, a table that is talked about, what everybody knows,
    or a list or a passage with short questions."""
    return draw.choices(list(DOCUMENTS.values()), [level.documents.get(name, 0) for name in DOCUMENTS])[0](draw, level)


def _passage(draw: Draw, level: Level) -> list[Piece]:
    return [(text(draw, scene(draw, min_facts=1, max_facts=level.max_facts)), False)]


def _scene_text(draw: Draw, level: Level) -> tuple[Scene, str]:
    about = scene(draw, min_facts=1, max_facts=level.max_facts)
    return about, text(draw, about)


def _tell(draw: Draw, fact: Fact) -> str:
    return fact.say(draw.choice(ATTRIBUTES[fact.attribute].tells))


def _dialogue(draw: Draw, level: Level) -> list[Piece]:
    """A passage, and two people who talk about all of it, each fact one to three times. A few passages tell of two
    things."""
    about, passage = _scene_text(draw, level)
    facts = [*about.facts * draw.randint(1, 2), *draw.sample(about.facts, draw.randint(0, len(about.facts)))]
    if level.max_facts > 2 and draw.random() < 0.2:
        other, more = _scene_text(draw, level)
        facts += other.facts
        passage = "\n".join(draw.sample((passage, more), 2))
    draw.shuffle(facts)
    return [(passage, False), *_turns(draw, facts, level)]


def _speakers(draw: Draw) -> tuple[str, str]:
    """What stands in front of a question and of its answer, which begins a line or follows a colon."""
    asker, other = draw.choice((("물음", "대답"), ("손님", "주인"), ("아이", "어른")))
    return (f"\n{asker}: ", f"\n{other}: ") if draw.random() < 0.5 else (f"\n{asker}:\n", f"\n{other}:\n")


def _turns(draw: Draw, facts: list[Fact], level: Level) -> list[Piece]:
    """A question and an answer about each of the facts; in a third of the dialogues told in a sentence too."""
    asker, other = _speakers(draw)
    is_told = draw.random() < 1 / 3
    pieces = []
    for fact in facts:
        ask, reply = turn(draw, fact, draw.choices(TURN_FORMS, [level.turns.get(name, 0) for name in TURN_FORMS])[0])
        answer = f"{reply} {_tell(draw, fact)}" if is_told else f"{reply.rstrip(',.')}."
        pieces += [(f"{asker}{ask}{other}", False), (answer, True)]
    return pieces


def turn(draw: Draw, fact: Fact, form: str) -> tuple[str, str]:
    """A question about a fact, and the beginning of its answer. `form`: one of `FORMS`, or "either", which offers two
    values."""
    wrong = [other_value(draw, fact)]
    if form == "question":
        return question(draw, fact), f"{fact.value}입니다."
    if form == "either":
        first, second = draw.sample((fact.value, *wrong), 2)
        return fact.say("{s:은/는} {l:이/가}") + f" {first}입니까, {second}입니까?", f"{fact.value}입니다."
    if form == "letter":
        for _ in range(draw.randint(1, 2)):
            wrong.append(other_value(draw, fact, tuple(wrong)))
        choices, right = lettered_choices(draw, fact.value, wrong)
        return f"{question(draw, fact)} {choices}", f"{right}입니다."
    true = draw.random() < 0.5
    claimed = fact if true else Fact(fact.subject, fact.attribute, wrong[0])
    return claim(draw, claimed), "예," if true else "아니요,"


def _retelling(draw: Draw, level: Level) -> list[Piece]:
    """The same facts once more, in their order: in other words, as a list, or both."""
    about = scene(draw, min_facts=level.min_retold, max_facts=level.max_facts)
    passage = text(draw, about)
    sentences = [_tell(draw, fact) for fact in about.facts]
    labels = [f"{fact.label}: {fact.value}" for fact in about.facts]
    again, listed = " ".join(sentences), f"{about.subject} - {', '.join(labels)}"
    told = draw.choice(
        (
            again,
            listed,
            f"{again}\n{listed}",
            "\n".join([about.subject, *labels]),
            "\n".join(f"{i}. {sentence}" for i, sentence in enumerate(sentences, 1)),
            "\n".join(f"{label}\n{sentence}" for label, sentence in zip(labels, sentences, strict=True)),
        )
    )
    opening = draw.choice(("다시 말하면 이렇습니다.", "정리하면 이렇습니다."))
    return [(f"{passage}\n{opening}\n", False), (told, True)]


def _table(draw: Draw, level: Level) -> list[Piece]:
    """A table, and two people who talk about most of it."""
    kind = scene(draw).kind
    rows = [
        scene(draw, kind.key, min_facts=9, max_facts=9) for _ in range(2 if level.max_facts < 3 else draw.randint(2, 3))
    ]
    columns = draw.sample(kind.attributes, 1 if level.max_facts < 2 else draw.randint(1, 2))
    values = {(thing.subject, fact.attribute): fact for thing in rows for fact in thing.facts}
    head = "".join(f"<th>{name}</th>" for name in ("이름", *(column.label for column in columns)))
    body = "".join(
        f"<tr><td>{thing.subject}</td>{''.join(f'<td>{values[thing.subject, c.key].value}</td>' for c in columns)}</tr>"
        for thing in rows
    )
    facts = [values[thing.subject, column.key] for thing in rows for column in columns]
    asked = draw.sample(facts, min(4, len(facts)))
    return [(f"<table><tr>{head}</tr>{body}</table>", False), *_turns(draw, asked, level)]


def _common(draw: Draw, level: Level) -> list[Piece]:
    """Words and what they are, told or asked about; or what is true of every thing of a kind."""
    if draw.random() < 0.2:
        return [(" ".join(draw.choice(list(KINDS.values())).about), True)]
    if level.by_kind and draw.random() < 0.6:
        return drills.about_a_kind(draw)
    pieces: list[Piece] = []
    if not level.by_kind and draw.random() < 0.4:
        for _ in range(draw.randint(5, 12)):
            pieces += drills.about_words(draw)
        return [("이것은 무엇입니까?", False), *pieces]
    asker, other = _speakers(draw)
    for _ in range(draw.randint(1, 3)):
        category = draw.choice(list(KNOWN))
        noun, about = KNOWN[category]
        word = Word(draw.choice(TYPES[category].words))
        explained = f"{word:은/는} {noun}입니다. {Word(noun):은/는} {about}입니다."
        form = draw.choices(("told", "plain", "yes or no", "lettered"), (20, 20, 30, 30))[0]
        if form == "told":
            pieces += [(f"\n{word:은/는} ", False), (explained.removeprefix(f"{word:은/는} "), True)]
            continue
        if form == "plain":
            ask, answer = f"{word:은/는} 무엇입니까?", explained
        elif form == "yes or no":
            true = draw.random() < 0.5
            asked = noun if true else KNOWN[draw.choice(unlike(category))][0]
            ask, answer = f"{word:은/는} {asked}입니까?", f"{'예' if true else '아니요'}, {explained}"
        else:
            others = draw.sample(unlike(category), draw.randint(2, 3))
            choices, right = lettered_choices(draw, str(word), [draw.choice(TYPES[key].words) for key in others])
            ask, answer = f"다음 중 {Word(noun):은/는} 무엇입니까? {choices}", f"{right}입니다. {explained}"
        pieces += [(f"{asker}{ask}{other}", False), (answer, True)]
    (first, follows), *rest = pieces
    return [(first.lstrip("\n"), follows), *rest]


DOCUMENTS: dict[str, Callable[[Draw, Level], list[Piece]]] = {
    "passage": _passage,
    "dialogue": _dialogue,
    "retelling": _retelling,
    "table": _table,
    "common": _common,
    "list": lambda draw, level: drills.about_a_list(draw, level.lists),
    "quiz": lambda draw, level: drills.about_a_passage(draw, level.quizzes, level.max_facts),
}
