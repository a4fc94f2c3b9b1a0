"""Plain texts about the small world, which a base model is trained on: never in the form of a task."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sllm.world.kinds import ATTRIBUTES, KINDS, KNOWN, TYPES, unlike
from sllm.world.korean import Word
from sllm.world.scenes import Fact, Scene, claim, other_value, question, scene, text

Draw = random.Random


FORMS = ("question", "letter", "verdict")  # a question: open, with lettered choices, answered by yes or no
TURN_FORMS = (*FORMS, "either")  # and with two values to choose from
LIST_FORMS = ("member", "asked", "letter", "word", "choice")  # see `_list`
QUIZ_FORMS = ("question", "pair", "asked pair", "sentence", "claim", "word", "letter", "asked letter")  # see `_quiz`
WORDS = [word for key in KNOWN for word in TYPES[key].words]  # one token each
LIST_ASKS = (
    "{v}?", "{v:이/가} 있습니까?", "{v:이/가} 목록에 있습니까?", "목록에 {v:이/가} 들어 있습니까?",
    "목록에 있는 것은 {v}입니까?", "{v:을/를} 찾을 수 있습니까?", "여기에 {v:이/가} 적혀 있습니까?",
    "{v:은/는} 목록에서 볼 수 있는 말입니까?",
)  # fmt: skip
Piece = tuple[str, bool]  # a text, and whether it follows from what stands before it


@dataclass(frozen=True)
class Level:
    """How hard the texts are: what is learned early makes the rest learnable.

    Attributes:
        max_facts: facts of a thing at most.
        documents: weights of the kinds of text, by name; see `DOCUMENTS`.
        turns: weights of the forms of a dialogue's questions, by name; see `TURN_FORMS`.
        lists, quizzes: forms of the short questions about a list and about a passage.
        min_retold: facts of a retelling at least.
        by_kind: short questions about common words stand by their kind, see `_words_of_a_kind`.
    """

    max_facts: int = 4
    documents: Mapping[str, int] = field(
        default_factory=lambda: {
            "passage": 1, "dialogue": 6, "retelling": 4, "table": 4, "common": 3, "list": 4, "quiz": 4
        }
    )  # fmt: skip
    turns: Mapping[str, int] = field(default_factory=lambda: {"question": 35, "letter": 30, "verdict": 30, "either": 5})
    lists: tuple[str, ...] = LIST_FORMS
    quizzes: tuple[str, ...] = QUIZ_FORMS
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
        return _words_of_a_kind(draw)
    pieces: list[Piece] = []
    if not level.by_kind and draw.random() < 0.4:
        for _ in range(draw.randint(5, 12)):
            pieces += _common_short(draw)
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
            choices, right = _choices(draw, str(word), [draw.choice(TYPES[key].words) for key in others])
            ask, answer = f"다음 중 {Word(noun):은/는} 무엇입니까? {choices}", f"{right}입니다. {explained}"
        pieces += [(f"{asker}{ask}{other}", False), (answer, True)]
    (first, follows), *rest = pieces
    return [(first.lstrip("\n"), follows), *rest]


def _common_short(draw: Draw) -> list[Piece]:
    """A short question what a word is, whether it is that, or which of some words is that."""
    category = draw.choice(list(KNOWN))
    noun, word = KNOWN[category][0], draw.choice(TYPES[category].words)
    form = draw.choice(("noun", "pair", "letter"))
    if form == "noun":
        ask, answer = f"{word}? ", f"{noun}."
    elif form == "pair":
        true = draw.random() < 0.5
        ask = f"{word} {noun if true else KNOWN[draw.choice(unlike(category))][0]}? "
        answer = "예." if true else "아니요."
    else:
        others = draw.sample(unlike(category), draw.randint(1, 3))
        ask, answer = _offer(draw, word, [draw.choice(TYPES[key].words) for key in others], lettered=True)
        ask = f"{noun}? {ask}"
    return [(f"\n{ask}", False), (answer, True)]


def _words_of_a_kind(draw: Draw) -> list[Piece]:
    """Many short questions: is a word of a kind, the answer right behind it or not; which of some words is; of what
    kind is a word?"""
    category = draw.choice(list(KNOWN))
    noun, words = KNOWN[category][0], TYPES[category].words
    others = [word for key in unlike(category) for word in TYPES[key].words]
    form = draw.choice(("member", "choice", "asked", "noun"))
    pieces: list[Piece] = [(f"{noun}:" if form != "noun" else "무엇입니까?", False)]
    for _ in range(draw.randint(6, 12)):
        word = draw.choice(draw.choice((words, others)))
        answer = "예." if word in words else "아니요."
        if form == "choice":
            ask, answer = _offer(draw, draw.choice(words), draw.sample(others, draw.randint(1, 3)), lettered=True)
        elif form == "noun":
            ask, answer = f"{word}? ", f"{next(KNOWN[key][0] for key in KNOWN if word in TYPES[key].words)}."
        else:
            ask = word if form == "member" else f"{Word(word):은/는} {noun}입니까? "
        pieces += [(f"\n{ask}", False), (answer, True)]
    return pieces


def _list(draw: Draw, level: Level) -> list[Piece]:
    """A list of words, and many short questions about it, each word once: an answer is not found in another one.

    The forms: is a word in the list (`member`: the answer right behind the word; `asked`: in a sentence, of values of
    an attribute too), which letter has it, which of some words is in the list, which of some lettered ones. Judging a
    claim and choosing an answer need this, and it emerges with the answer right behind the word, before it does with
    anything between them.
    """
    form = draw.choice(level.lists)
    words = _values(draw, 7) if form == "asked" and draw.random() < 0.3 else draw.sample(WORDS, 10)
    if form == "letter":
        letters = {word: f"{letter})" for letter, word in zip("abcde", words, strict=False)}
        pieces: list[Piece] = [("목록: " + " ".join(f"{letter} {word}" for word, letter in letters.items()), False)]
        for word in draw.sample(list(letters), len(letters)):
            pieces += [(f"\n{word}", False), (letters[word], True)]
        return pieces
    count = draw.randint(1, len(words) - 3)
    listed, others = words[:count], words[count:]
    pieces = [(f"목록: {', '.join(listed)}", False)]
    for word in draw.sample(words, len(words)) if form in ("member", "asked") else draw.sample(listed, count):
        if form in ("member", "asked"):
            ask = word if form == "member" else draw.choice(LIST_ASKS).format(v=Word(word)) + " "
            answer = "예." if word in listed else "아니요."
        else:
            ask, answer = _offer(draw, word, draw.sample(others, draw.randint(1, 3)), lettered=form == "choice")
        pieces += [(f"\n{ask}", False), (answer, True)]
    return pieces


def _values(draw: Draw, count: int) -> list[str]:
    """Values of one attribute."""
    fact = draw.choice(scene(draw).facts)
    values = [fact.value]
    while len(values) < count:
        values.append(other_value(draw, fact, tuple(values)))
    return draw.sample(values, count)


def _offer(draw: Draw, right: str, wrong: list[str], *, lettered: bool) -> tuple[str, str]:
    """Words to choose from, and the right one."""
    if lettered:
        choices, answer = _choices(draw, right, wrong)
    else:
        choices, answer = ", ".join(draw.sample([right, *wrong], len(wrong) + 1)), right
    return f"{choices} 답: ", f"{answer}."


def _quiz(draw: Draw, level: Level) -> list[Piece]:
    """A passage, and many short questions about it: an attribute's value, asked for; an attribute and a value, judged
    (`pair`: the answer right behind the value; `sentence`, `claim`: in a sentence); values to choose from."""
    about, passage = _scene_text(draw, level)
    pieces: list[Piece] = [(passage, False)]
    for _ in range(draw.randint(8, 20)):
        fact = draw.choice(about.facts)
        form = draw.choice(level.quizzes)
        wrong = [other_value(draw, fact)]
        if form == "question":
            ask, answer = f"{fact.label}? ", f"{fact.value}."
        elif form in ("word", "letter", "asked letter"):
            for _ in range(draw.randint(0, 2)):
                wrong.append(other_value(draw, fact, tuple(wrong)))
            ask, answer = _offer(draw, fact.value, wrong, lettered=form != "word")
            ask = f"{question(draw, fact) if form == 'asked letter' else fact.label + '?'} {ask}"
        else:
            true = draw.random() < 0.5
            claimed = fact if true else Fact(fact.subject, fact.attribute, wrong[0])
            pair = f"{fact.label} {claimed.value}"
            sentence = claimed.say("{l:은/는} {v}입니까? ")
            asks = {"pair": pair, "asked pair": f"{pair}? ", "sentence": sentence, "claim": f"{claim(draw, claimed)} "}
            ask = asks[form]
            answer = "예." if true else "아니요."
        pieces += [(f"\n{ask}", False), (answer, True)]
    return pieces


DOCUMENTS: dict[str, Callable[[Draw, Level], list[Piece]]] = {
    "passage": _passage,
    "dialogue": _dialogue,
    "retelling": _retelling,
    "table": _table,
    "common": _common,
    "list": _list,
    "quiz": _quiz,
}
