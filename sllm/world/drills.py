"""Many short questions with the answer right behind each: they teach a base model to look up and to choose."""

import random
from collections.abc import Sequence

from sllm.world.kinds import KNOWN, TYPES, unlike
from sllm.world.korean import Word
from sllm.world.scenes import Fact, Piece, claim, lettered_choices, other_value, question, scene, text

Draw = random.Random
# What `about_a_list` and `about_a_passage` can ask.
LIST_FORMS = ("member", "asked", "letter", "word", "choice")
QUIZ_FORMS = ("question", "pair", "asked pair", "sentence", "claim", "word", "letter", "asked letter")
WORDS = [word for key in KNOWN for word in TYPES[key].words]  # one token each
LIST_ASKS = (
    "{v}?", "{v:이/가} 있습니까?", "{v:이/가} 목록에 있습니까?", "목록에 {v:이/가} 들어 있습니까?",
    "목록에 있는 것은 {v}입니까?", "{v:을/를} 찾을 수 있습니까?", "여기에 {v:이/가} 적혀 있습니까?",
    "{v:은/는} 목록에서 볼 수 있는 말입니까?",
)  # fmt: skip


def about_words(draw: Draw) -> list[Piece]:
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


def about_a_kind(draw: Draw) -> list[Piece]:
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


def about_a_list(draw: Draw, forms: Sequence[str]) -> list[Piece]:
    """A list of words, and many short questions about it, each word once: an answer is not found in another one.

    The forms: is a word in the list (`member`: the answer right behind the word; `asked`: in a sentence, of values of
    an attribute too), which letter has it, which of some words is in the list, which of some lettered ones. Judging a
    claim and choosing an answer need this, and it emerges with the answer right behind the word, before it does with
    anything between them.
    """
    form = draw.choice(forms)
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


def about_a_passage(draw: Draw, forms: Sequence[str], max_facts: int) -> list[Piece]:
    """A passage, and many short questions about it: an attribute's value, asked for; an attribute and a value, judged
    (`pair`: the answer right behind the value; `sentence`, `claim`: in a sentence); values to choose from."""
    about = scene(draw, min_facts=1, max_facts=max_facts)
    pieces: list[Piece] = [(text(draw, about), False)]
    for _ in range(draw.randint(8, 20)):
        fact = draw.choice(about.facts)
        form = draw.choice(forms)
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
        choices, answer = lettered_choices(draw, right, wrong)
    else:
        choices, answer = ", ".join(draw.sample([right, *wrong], len(wrong) + 1)), right
    return f"{choices} 답: ", f"{answer}."
