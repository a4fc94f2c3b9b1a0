"""May the second model replace the first? Not where it is significantly worse on any suite, nor where it is not
significantly better on those that it has to improve."""

import json
import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sllm import checkpoint, cli, gate_record, hashes
from sllm.cli import InputError
from sllm.evaluate import evaluation, statistics
from sllm.evaluate.evaluation import as_record
from sllm.evaluate.tables import difference_text, needed

SuiteScores = dict[str, dict[str, float]]  # suite → id of a question → score of the headline metric


@dataclass(frozen=True)
class Verdict:
    """`reasons`: why it failed; empty if it passed. `differences`: by suite, corrected for all suites together."""

    reasons: list[str]
    differences: dict[str, dict[str, Any]]

    @property
    def passed(self) -> bool:
        return not self.reasons


def decide(
    first: SuiteScores, second: SuiteScores, metrics: dict[str, dict[str, Any]], must_improve: Sequence[str] = ()
) -> Verdict:
    """Compare two models by each suite that both have, question by question, two-sided at 5 % over all suites (Holm).

    Args:
        metrics: each suite's headline metric, as results.json describes it.
    Raises:
        InputError: they share no question of one of the suites that the first has, or lack one of `must_improve`.
    """
    shared = [name for name in first if first[name].keys() & second.get(name, {}).keys()]
    problems = [
        f"{name}: no question has a score of both models, or none is held out; evaluate both by the same suites"
        for name in first
        if name not in shared
    ]
    problems += [
        f"--must_improve {name}: not a suite that both models have ({', '.join(shared) or 'none'})"
        for name in must_improve
        if name not in shared
    ]
    if problems:
        raise InputError(problems)
    differences = []
    for name in shared:
        ids = [id for id in first[name] if id in second[name]]
        values = (np.array([scores[name][id] for id in ids]) for scores in (first, second))
        span = _number(metrics[name]["most"]) - metrics[name]["least"]
        differences.append(statistics.compare(*values, comparisons=len(shared), span=span))
    records = {
        name: as_record(difference, metrics[name])
        for name, difference in zip(shared, statistics.holm(differences), strict=True)
    }
    reasons = []
    for name, record in records.items():
        unit = "points" if record["unit"] == "share" else record["unit"]
        found = f"{difference_text(record)} {unit} on {record['n']} questions, p = {record['corrected']:.2g}"
        if record["significant"] and not record["improved"]:
            reasons.append(f"{name}: significantly worse, {found}")
        elif name in must_improve and not record["significant"]:
            reasons.append(f"{name}: not significantly better, {found} (80 % power from {needed(record)})")
    return Verdict(reasons, records)


def _number(most: float | None) -> float:
    """JSON has no infinity."""
    return math.inf if most is None else most


def run(old: str, new: str, folder: Path, must_improve: Sequence[str]) -> tuple[Verdict, Path]:
    """Decide, print why, and write gate.json where the results of the new model are: the folder that is returned.

    Args:
        old, new: two models of the results in `folder`; or two folders, each with the results of one model.
    """
    if all((Path(path) / gate_record.RESULTS).is_file() for path in (old, new)):
        first, second = ((evaluation.load(path), _only_model(path)) for path in (old, new))
        _require_same_questions(old, first[0], new, second[0])
        folder = Path(new)
    else:
        results = evaluation.load(folder)
        first, second = (results, old), (results, new)
        problems = [
            f"--gate {name}: neither a model of {folder} ({', '.join(results.results['models'])}) nor a folder that "
            "evaluate_model.py wrote"
            for name in (old, new)
            if name not in results.results["models"]
        ]
        if problems:
            raise InputError(problems)
    metrics = {name: suite["metrics"][suite["headline"]] for name, suite in second[0].results["suites"].items()}
    _require_same_measurements(old, first[0].results["suites"], new, second[0].results["suites"])
    verdict = decide(evaluation.scores_of(*first), evaluation.scores_of(*second), metrics, must_improve)
    rows = [
        (name, difference_text(d), d["n"], f"{d['corrected']:.2g}", needed(d))
        for name, d in verdict.differences.items()
    ]
    headers = ["suite", "difference", "questions", "p (corrected)", "80 % power from"]
    print(f"\ngate: {old} → {new}\n{cli.table(headers, rows)}")
    record = {
        "old": old, "new": new, "new_name": second[1], "new_source": second[0].results["models"][second[1]]["source"],
        "must_improve": [*must_improve], "passed": verdict.passed, "reasons": verdict.reasons,
        "differences": verdict.differences, "results": hashes.file_hash(folder / gate_record.RESULTS),
    }  # fmt: skip
    checkpoint.write_atomically(
        folder / gate_record.GATE, json.dumps(cli.json_safe(record), ensure_ascii=False, indent=1) + "\n"
    )
    return verdict, folder


def decide_for(args: Namespace, folder: Path) -> dict[str, Any]:
    """Decide by the flags of evaluate_model.py; CheckFailed with the reasons where NEW does not pass."""
    old, new = args.gate
    verdict, folder = run(old, new, folder, args.must_improve)
    if not verdict.passed:
        raise cli.CheckFailed(f"{new} does not pass: {'; '.join(verdict.reasons)}")
    print(f"{new} passes")
    differences = {name: difference["value"] for name, difference in verdict.differences.items()}
    return {"output_dir": str(folder), "gate": "passed", "differences": differences}


def _require_same_measurements(old: str, first: dict[str, Any], new: str, second: dict[str, Any]) -> None:
    """InputError where a suite of both was measured in two ways: by other texts, examples, or another judge."""
    problems = [
        f"{name} of {old} and of {new} was measured in two ways ({', '.join(different)}); measure both in one"
        for name in first.keys() & second.keys()
        if (different := _different(first[name]["asked"], second[name]["asked"]))
        or first[name]["headline"] != second[name]["headline"]
    ]
    if problems:
        raise InputError(problems)


def _different(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    return sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))


def _require_same_questions(old: str, first: evaluation.Evaluation, new: str, second: evaluation.Evaluation) -> None:
    """InputError where the same id means different questions; says how many questions only one folder has."""
    before = {line["id"]: line for line in first.lines}
    shared = [line for line in second.lines if line["id"] in before]
    keys = ("messages", "reference", "task")
    other = [line["id"] for line in shared if any(line[key] != before[line["id"]][key] for key in keys)]
    if other:
        raise InputError(
            f"{old} and {new} have {cli.plural(len(other), 'different question')} of the same id ({other[0]}): they "
            "are of different test sets"
        )
    if left := len(first.lines) + len(second.lines) - 2 * len(shared):
        cli.say("note", f"{cli.plural(left, 'question')} that only one of the two folders has are left out")


def _only_model(folder: str) -> str:
    models = list(evaluation.load(folder).results["models"])
    if len(models) > 1:
        raise InputError(f"--gate {folder}: has {len(models)} models ({', '.join(models)}); give two folders of one "
                         "model each, or two names and their folder as --output_dir")  # fmt: skip
    return str(models[0])
