"""Which questions were asked, and what each model answered: from the files that vllm_inference.py writes."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sllm import checkpoint, contamination, output_lines
from sllm.cli import InputError, collect_errors, plural
from sllm.contamination import Signature
from sllm.evaluate.suites import Answer, Question
from sllm.output_lines import SKIPPED


@dataclass(frozen=True)
class AnsweredBy:
    """A model's answers to every question, by the question's id. `source`: where they come from: the file, its hash,
    and from the record beside it the model, and how it was asked."""

    name: str
    source: dict[str, Any]
    answers: dict[str, list[Answer]]


@dataclass(frozen=True)
class Model:
    """A file of answers, or a model: `base` and, where it is an adapter, `adapter`."""

    path: Path
    base: str | None = None
    adapter: str | None = None


def named_models(
    pairs: Sequence[str], testset_path: str | None, suites: Sequence[str], *, api: bool = False
) -> dict[str, Model]:
    """The models of --models NAME=PATH by their names.

    Args:
        suites: those to be measured that ask the model itself.
        api: a PATH that is not a file is the name of a model behind an API.
    Raises:
        InputError: with all that is wrong with any of them.
    """
    models: dict[str, Model] = {}
    problems = []
    for pair in pairs:
        name, separator, path = pair.partition("=")
        if not separator or not name or not path:
            problems.append(f"--models {pair}: give each model as NAME=PATH")
        elif name in models or "/" in name:
            problems.append(f"--models {pair}: give each model a name of its own, without a slash")
        elif Path(path).is_file():
            models[name] = Model(Path(path))
            problems += [f"--models {pair}: {suite} needs the model itself, not its answers" for suite in suites]
        else:
            try:
                models[name] = Model(Path(path), *([] if api else checkpoint.require_model(path)))
            except InputError as error:
                problems += error.problems
            if api:
                problems += [f"--api_base_url: {suite} needs the model itself" for suite in suites]
            if not testset_path and not suites:
                problems.append(f"--models {pair} has to be asked: name its questions with --testset_path")
    if testset_path and not Path(testset_path).exists():
        problems.append(f"--testset_path {testset_path} does not exist")
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return models


def by_base(models: Mapping[str, Model]) -> dict[str, dict[str, str | None]]:
    """base → name → adapter: those of one base can be loaded together."""
    bases: dict[str, dict[str, str | None]] = {}
    for name, model in models.items():
        if model.base:
            base = str(Path(model.base).resolve()) if Path(model.base).is_dir() else model.base
            bases.setdefault(base, {})[name] = model.adapter
    return bases


def read(
    files: Mapping[str, Path], facts: Mapping[str, dict[str, Any]]
) -> tuple[list[Question], list[AnsweredBy], list[str]]:
    """The questions that every file answers, the answers, and what to say about rows that were left out.

    Args:
        files: by the name of the model.
        facts: rows of `python -m sllm.world` by their ids, where the questions are of these.
    Raises:
        InputError: not a file of answers; files that share no question, or mean different ones by the same id; facts
            that are of other questions.
    """
    if not files:
        return [], [], []
    each = collect_errors(*(partial(output_lines.read, path) for path in files.values()))
    lines = dict(zip(files, each, strict=True))
    first_name, first = next(iter(lines.items()))
    problems = []
    for name, rows in lines.items():
        asked = [id for id in rows if id in first and not _same_question(rows[id], first[id])]
        if asked:
            problems.append(
                f"{files[name]} and {files[first_name]} have {plural(len(asked), 'different question')} of the same "
                f"id ({asked[0]}): they are of different test sets; evaluate answers to one test set"
            )
    shared = [id for id in first if all(id in rows for rows in lines.values())]
    if not shared:
        problems.append(f"the files share no question: {', '.join(map(str, files.values()))}")
    other = [
        id
        for id in shared
        if id in facts and unicodedata.normalize("NFC", facts[id]["user_content"]) != _asked(first[id])[-1]["content"]
    ]
    if other:
        problems.append(
            f"{plural(len(other), 'row')} of --testset_path, {other[0]} the first, ask something else than the "
            "answered rows of the same id; name the file that was asked"
        )
    if problems:
        raise InputError(problems)
    notes = []
    for name, rows in lines.items():
        if missing := len(rows) - len(shared):
            notes.append(f"{plural(missing, 'question')} of {name} left out: not every model was asked")
    unasked = {id for id in shared if any(rows[id]["finish_reason"] == SKIPPED for rows in lines.values())}
    if unasked:
        notes.append(f"{plural(len(unasked), 'question')} left out: skipped by a model")
    kept = [id for id in shared if id not in unasked]
    if not kept:
        raise InputError(f"every question was skipped by a model: {', '.join(map(str, files.values()))}")
    questions = [
        Question(id, first[id]["task"], _asked(first[id]), first[id].get("reference"), facts.get(id)) for id in kept
    ]
    answered = [
        AnsweredBy(name, output_lines.source(files[name]), {id: _answers(rows[id]) for id in kept})
        for name, rows in lines.items()
    ]
    return questions, answered, notes


def _same_question(line: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(line.get(key) == other.get(key) for key in ("messages", "reference", "task"))


def _asked(line: dict[str, Any]) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = line["messages"]
    return messages


def _answers(line: dict[str, Any]) -> list[Answer]:
    return [Answer(text, reason) for text, reason in zip(line["outputs"], line["finish_reasons"], strict=True)]


def signatures(models: Mapping[str, Model]) -> dict[str, Signature | None]:
    """What each model was trained on; None where that is not known, as of a base."""
    paths = {
        name: model.path if model.base else output_lines.source(model.path).get("model")
        for name, model in models.items()
    }
    return {name: contamination.read(path) if path else None for name, path in paths.items()}


def sources(models: Mapping[str, Model], answered: Sequence[AnsweredBy]) -> dict[str, dict[str, Any]]:
    """Where each model comes from: its path, the hash of its adapter, and its answers with how they were asked."""
    found: dict[str, dict[str, Any]] = {name: {"model": str(model.path)} for name, model in models.items()}
    for name, model in models.items():
        if model.base:
            found[name]["adapter"] = checkpoint.folder_hash(model.adapter) if model.adapter else None
    for one in answered:
        found[one.name] |= one.source
    return found


def questions(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, dict[str, Any]]) -> list[Question]:
    """What rows of a test set ask, before any answer."""
    return [
        Question(row["id"], row["task"], row["messages"], row.get("reference"), facts.get(row["id"])) for row in rows
    ]
