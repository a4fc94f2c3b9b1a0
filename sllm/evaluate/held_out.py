"""Which items were among the texts that the models were trained on; what is left is held out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sllm import contamination
from sllm.contamination import Signature
from sllm.evaluate.suites import Measured, Question
from sllm.evaluate.zero_shot import TestSet

Items = dict[str, list[str]]  # id → the texts that ask, and last the answer, as of `contamination.item_of`


@dataclass(frozen=True)
class Overlaps:
    """`ids`: what the items are of → id → the models that were trained on it. `record`: JSON for results.json, and
    `notes`: lines to print, None of them where nothing is known to overlap."""

    ids: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find(signatures: Mapping[str, Signature | None], items: Mapping[str, Items]) -> Overlaps:
    """Compare every item with what each model was trained on.

    Args:
        signatures: of each model; None where it has none, as of a base.
        items: by what they are of: questions, zero_shot.
    """
    ids: dict[str, dict[str, list[str]]] = {}
    for name, signature in signatures.items():
        for kind, texts in items.items() if signature else ():
            assert signature
            shares = contamination.overlap(list(texts.values()), signature)
            for id, share in zip(texts, shares, strict=True):
                if share >= contamination.THRESHOLD:
                    ids.setdefault(kind, {}).setdefault(id, []).append(name)
    record = {
        "threshold": contamination.THRESHOLD,
        "models": {
            name: {
                "known": signature is not None,
                "missing": list(signature.missing) if signature else [],
                "overlapping": {kind: sum(name in names for names in ids.get(kind, {}).values()) for kind in items},
            }
            for name, signature in signatures.items()
        },
        "items": {kind: {"all": len(texts), "overlapping": len(ids.get(kind, {}))} for kind, texts in items.items()},
    }
    return Overlaps(ids, record, _notes(record))


def _notes(record: dict[str, Any]) -> list[str]:
    lines = []
    for kind, counts in record["items"].items():
        if counts["overlapping"]:
            models = [name for name, of in record["models"].items() if of["overlapping"][kind]]
            lines.append(
                f"not held-out: {counts['overlapping']} of {counts['all']} {_WORDS[kind]} overlap with training "
                f"texts of {', '.join(models)}; “clean” and the comparisons leave them out"
            )
    missing = [f"{name} ({', '.join(of['missing'])})" for name, of in record["models"].items() if of["missing"]]
    if missing:
        lines.append(f"training texts that are not known, so that more may overlap: {'; '.join(missing)}")
    return lines


_WORDS = {"questions": "questions", "zero_shot": "labelled items", "lm_eval": "questions of lm-eval"}


def items(questions: Sequence[Question], sets: Sequence[TestSet], measured: Sequence[Measured]) -> dict[str, Items]:
    """What can be looked up among training texts: the questions of a test set, labelled items with the right one of
    their choices, and what lm-eval asked."""
    kinds: dict[str, Items] = {}
    if questions:
        kinds["questions"] = {q.id: contamination.item_of(q.messages, q.reference) for q in questions}
    if sets:
        kinds["zero_shot"] = {
            f"{one.name}-{item.id}": [item.context, item.choices[item.label]] for one in sets for item in one.items
        }
    for one in measured:
        if one.suite.name == "lm_eval" and one.items:
            kinds["lm_eval"] = {id: [item["context"], ""] for id, item in zip(one.ids, one.items, strict=True)}
    return kinds
