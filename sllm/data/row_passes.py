"""What is done to the rows of a preparation once all of them are known: each a pass over the kept ones."""

import json
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from sllm.data import decontamination, near_duplicates
from sllm.data.compared_texts import Parts, compared_texts
from sllm.data.parallel import ordered_map
from sllm.data.preparation import ROWS, Preparation
from sllm.data.splits import Array
from sllm.progress import stream

R = TypeVar("R")
BLOCK = 1000  # rows
SMALL = 4 * BLOCK  # rows: what is not worth the start of a process
SHOWN_GROUPS, SHOWN_COPIES = 20, 5  # of near-duplicates, in the report
_worker: dict[str, Any] = {}  # of this process


class Rows(NamedTuple):
    """Some kept rows: their numbers, their lines, and where each was read."""

    numbers: list[int]
    lines: list[bytes]
    places: list[tuple[str, int]]

    def parsed(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


def over_kept(
    state: Preparation,
    function: Callable[[Rows], R],
    processes: int,
    initializer: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[tuple[list[int], R]]:
    """`function` of the kept rows, a block at a time: the numbers of its rows, and the result."""
    count = int(state.kept.sum())
    numbers: list[list[int]] = []

    def rows() -> Iterator[Rows]:
        for block, lines in state.blocks(BLOCK):
            numbers.append(block.tolist())
            yield Rows(numbers[-1], lines, [state.place(row) for row in numbers[-1]])

    report = stream("row", count)
    results = ordered_map(
        function,
        rows(),
        processes=processes if count > SMALL else 1,
        initializer=initializer,
        arguments=arguments,
    )
    for done, result in enumerate(results):
        report(len(numbers[done]), len(numbers[done]))
        yield numbers[done], result
    report(0, 0, finished=True)


# ── test sets ──


def decontaminate(state: Preparation, sets: list[decontamination.ItemSet], processes: int) -> None:
    """Drop the rows that overlap with an item of a test set, by the evaluation's own measure."""
    print("comparing with the test sets")
    numbers, chunks = [], []
    for rows, found in over_kept(state, _find, processes, _start_finding, (sets,)):
        numbers += rows
        chunks.append(found)
    for overlap in decontamination.overlaps(chunks, sets):
        state.drop(numbers[overlap.row], overlap.reason)


def _start_finding(sets: list[decontamination.ItemSet]) -> None:
    _worker["hashes"] = decontamination.ItemHashes(sets)


def _find(rows: Rows) -> decontamination.Found:
    found: decontamination.Found = _worker["hashes"].find(rows.parsed())
    return found


# ── near-duplicates ──


def drop_near_duplicates(state: Preparation, threshold: float, processes: int) -> list[dict[str, Any]]:
    """Drop the rows that are nearly an earlier one. Returns the largest groups, for the report: {"kept", "text",
    "dropped": [{"place", "similarity", "text"}]}."""
    print("comparing the rows with each other")
    numbers: list[int] = []
    signed: list[Array] = []
    for rows, signatures in over_kept(state, _sign, processes):
        numbers += rows
        signed.append(signatures)
    copies: dict[int, list[tuple[int, float]]] = {}
    with (state.folder / ROWS).open("rb") as file:

        def parts(row: int) -> Parts:
            return compared_texts(json.loads(state.line_at(file, numbers[row])))

        for found in near_duplicates.find(signed, parts, threshold):
            row, kept = numbers[found.row], numbers[found.kept]
            path, line = state.place(kept)
            state.drop(row, f"near-duplicate of {path}:{line} (similarity {found.similarity:.2f})")
            copies.setdefault(kept, []).append((row, found.similarity))
    largest = sorted(copies, key=lambda kept: (-len(copies[kept]), kept))[:SHOWN_GROUPS]
    return [_group(state, kept, copies[kept]) for kept in largest]


def _sign(rows: Rows) -> Array:
    return near_duplicates.signatures([compared_texts(row) for row in rows.parsed()])


def _group(state: Preparation, kept: int, copies: list[tuple[int, float]]) -> dict[str, Any]:
    return {
        "kept": _place(state, kept),
        "text": _text(state, kept),
        "count": len(copies),
        "dropped": [
            {"place": _place(state, row), "similarity": similarity, "text": _text(state, row)}
            for row, similarity in copies[:SHOWN_COPIES]
        ],
    }


def _place(state: Preparation, row: int) -> str:
    path, line = state.place(row)
    return f"{path}:{line}"


def _text(state: Preparation, number: int) -> str:
    row = state.row(number)
    turns = row["messages"] if "messages" in row else row["prompt"] + row["chosen"] + row["rejected"]
    return "\n".join(turn["content"] for turn in turns if turn["role"] != "system")


# ── all of them ──


def run(state: Preparation, args: Namespace, sets: list[decontamination.ItemSet], processes: int) -> dict[str, Any]:
    """What the flags ask for; returns what the report says of it."""
    if sets:
        decontaminate(state, sets, processes)
    groups = drop_near_duplicates(state, args.near_duplicates, processes) if args.near_duplicates else []
    return {"near_duplicates": groups}
