"""What becomes of a row before it is written: its texts are repaired, checked and masked."""

import argparse
from copy import copy
from dataclasses import fields, replace
from typing import Any, TypeVar

from sllm.data import personal_data
from sllm.data.characters import normalise, ordinary, rewrite, texts
from sllm.data.filters import FILTERS, Thresholds

R = TypeVar("R", bound=dict[str, Any])


class Curation:
    """The flags of `sllm.data.curation_flags`, applied to one row after the other. Can be pickled, for other processes.

    Args:
        args: parsed flags; others in it are not read.
    """

    def __init__(self, args: argparse.Namespace):
        given = {field.name: getattr(args, field.name) for field in fields(Thresholds)}
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        self.thresholds = replace(Thresholds(), **{name: value for name, value in given.items() if value is not None})
        self.refusing = frozenset() if "none" in args.filter else frozenset(("encoding", *args.filter))
        self.normalise: bool = args.normalise
        self.personal_data: str = args.personal_data

    def apply(self, row: R) -> tuple[R | None, str | None, list[str]]:
        """A converted row as it is to be written, why it is refused instead, and notes.

        Returns:
            (row, None, notes), the row a changed copy where something was repaired or masked; or (None, reasons,
            notes), the reasons joined by "; ". A note is said at most once for a row, so that their counts are numbers
            of rows: "normalised: line ends", "masked: phone", "personal data: phone" (kept or refused), "would refuse:
            language" (by a filter that is off).
        """
        notes: list[str] = []
        reasons: list[str] = []
        if not ordinary(row):
            if self.normalise:
                row, changes = normalise(row)
                notes += [f"normalised: {kind}" for kind in changes]
            reasons = self._check("encoding", row, notes)
        if not reasons:
            row, reasons = self._personal_data(row, notes)
            for name in FILTERS:
                # Broken rules are counted by task and rule, see `sllm.data.row_batches`.
                if name != "encoding" and (name != "conformance" or name in self.refusing):
                    reasons += self._check(name, row, notes)
        return (None, "; ".join(reasons), notes) if reasons else (row, None, notes)

    def _check(self, name: str, row: dict[str, Any], notes: list[str]) -> list[str]:
        reason = FILTERS[name].check(row, self.thresholds)
        if reason and name not in self.refusing:
            notes.append(f"would refuse: {name}")
            return []
        return [reason] if reason else []

    def _personal_data(self, row: R, notes: list[str]) -> tuple[R, list[str]]:
        """The row, masked if that is asked for, and the reason to refuse it, which does not repeat the data."""
        places = {item.kind: place for place, text, _ in reversed([*texts(row)]) for item in personal_data.find(text)}
        masked = self.personal_data == "mask"
        notes += [f"{'masked' if masked else 'personal data'}: {kind}" for kind in places]
        if places and masked:
            row = rewrite(row, lambda text: personal_data.mask(text)[0])
        if masked and personal_data.find(str(row["id"])):
            row = copy(row)
            row["id"] = personal_data.mask(str(row["id"]))[0]
        refused = self.personal_data == "reject"
        return row, [f"personal data: {kind} in {place}" for kind, place in places.items()] if refused else []
