"""Scenes of the small world, and the texts that tell them."""

import random
from dataclasses import dataclass

from sllm.world.kinds import ATTRIBUTES, KINDS, TYPES, Kind
from sllm.world.korean import Word, name

Draw = random.Random
Piece = tuple[str, bool]  # of a text for a base model, and whether it follows from what stands before it


@dataclass(frozen=True)
class Fact:
    """`value` is what `attribute` (a key) of `subject` is."""

    subject: str
    attribute: str
    value: str

    def say(self, template: str) -> str:
        return template.format(s=Word(self.subject), v=Word(self.value), l=Word(self.label))

    @property
    def label(self) -> str:
        return ATTRIBUTES[self.attribute].label

    @property
    def type(self) -> str:
        return ATTRIBUTES[self.attribute].type


@dataclass(frozen=True)
class Scene:
    """One thing, and some facts about it in the order in which its text tells them."""

    kind: Kind
    subject: str
    facts: tuple[Fact, ...]


def scene(
    draw: Draw, kind: str | None = None, *, min_facts: int = 3, max_facts: int = 4, held_out: bool = False
) -> Scene:
    """A thing with `min_facts` to `max_facts` facts, all drawn at random. `held_out`: with a name that training never
    uses."""
    chosen = KINDS[kind or draw.choice(list(KINDS))]
    subject = draw.choice(chosen.names).format(name(draw, held_out=held_out))
    count = min(draw.randint(min_facts, max_facts), len(chosen.attributes))
    attributes = draw.sample(chosen.attributes, count)
    return Scene(chosen, subject, tuple(Fact(subject, a.key, TYPES[a.type].draw(draw)) for a in attributes))


def text(draw: Draw, about: Scene, *, unseen: bool = False) -> str:
    """The scene in sentences; the first one names the thing. `unseen`: in the phrasings that are held out."""
    sentences: list[str] = []
    for fact in about.facts:
        seen, held_out = ATTRIBUTES[fact.attribute].states[:-1], ATTRIBUTES[fact.attribute].states[-1:]
        templates = list(held_out if unseen else seen)
        if not sentences:
            templates = [t for t in templates if "{s" in t] or [t for t in seen if "{s" in t]
        sentences.append(fact.say(draw.choice(templates)))
    return " ".join(sentences)


def question(draw: Draw, fact: Fact, *, unseen: bool = False) -> str:
    asks = ATTRIBUTES[fact.attribute].asks
    return fact.say(asks[-1] if unseen else draw.choice(asks[:-1]))


def claim(draw: Draw, fact: Fact, *, unseen: bool = False) -> str:
    claims = ATTRIBUTES[fact.attribute].claims
    return fact.say(claims[-1] if unseen else draw.choice(claims[:-1]))


def other_value(draw: Draw, fact: Fact, avoid: tuple[str, ...] = ()) -> str:
    """A value of the same type that is not true."""
    while (value := TYPES[fact.type].draw(draw)) in (fact.value, *avoid):
        pass
    return value


def lettered_choices(draw: Draw, right: str, wrong: list[str]) -> tuple[str, str]:
    """Lettered choices in random order, and the right one with its letter."""
    choices = draw.sample([right, *wrong], len(wrong) + 1)
    lettered = [f"{letter}) {choice}" for letter, choice in zip("abcde", choices, strict=False)]
    return " ".join(lettered), lettered[choices.index(right)]
