"""The list of expectations.."""

from dataclasses import dataclass


@dataclass
class Expectation:
    area: str
    name: str
    ask: object
    kind: str  # of server


EXPECTATIONS: list[Expectation] = []


def of(area: str, kind: str = "open"):
    """A decorator that adds an expectation of this area."""

    def named(name: str, kind: str = kind):
        def add(ask):
            EXPECTATIONS.append(Expectation(area, name, ask, kind))
            return ask

        return add

    return named
