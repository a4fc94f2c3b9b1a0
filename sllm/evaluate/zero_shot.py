"""Which of the given texts a model finds likeliest after a question: accuracy and macro-F1 on labelled test sets."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sllm import chat
from sllm.cli import InputError, plural
from sllm.evaluate import labelled, statistics
from sllm.evaluate.labelled import Item
from sllm.evaluate.statistics import Scores
from sllm.evaluate.suites import Measured, Metric, Suite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STYLES = ("plain", "chat")
DELIMITER, BETWEEN_SHOTS = " ", "\n\n"  # as in lm-evaluation-harness
LogLikelihoods = dict[str, list[list[float]]]  # style → item → choice
Pair = tuple[list[int], list[int]]  # token ids of a context and of what follows it


@dataclass(frozen=True)
class TestSet:
    """A file of labelled items; `shots`: examples that stand before each question; `left_out`: rows without a text or a
    label."""

    name: str
    path: str
    format: str
    items: list[Item]
    shots: list[Item]
    left_out: int


def load(paths: Sequence[str], shot_paths: Sequence[str], num_shots: int, seed: int) -> list[TestSet]:
    """The test sets, each with examples drawn from the file at the same place in `shot_paths`, as many of each label
    as can be. InputError with what is wrong with any of the files."""
    sets: list[TestSet] = []
    problems: list[str] = []
    if num_shots and len(shot_paths) != len(paths):
        problems.append(f"--num_shots {num_shots}: name a training file for each of --zero_shot_path: --shots_path …")
    for i, path in enumerate(paths):
        try:
            format, items, left_out = labelled.load(path)
            shots = []
            if num_shots and len(shot_paths) == len(paths):
                shot_format, candidates, _ = labelled.load(shot_paths[i])
                if shot_format != format:
                    raise InputError(f"--shots_path {shot_paths[i]} is {shot_format}, {path} is {format}")
                shots = _draw(candidates, num_shots, random.Random(seed))
        except InputError as error:
            problems += error.problems
            continue
        name = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        names = [one.name for one in sets]
        sets.append(TestSet(name if name not in names else path, path, format, items, shots, left_out))
    if problems:
        raise InputError(problems)
    return sets


def notes(sets: list[TestSet]) -> list[str]:
    """What to say about rows that were left out."""
    left_out = {one.path: one.left_out for one in sets if one.left_out}
    return [f"{plural(count, 'row')} of {path} left out: no text or no label" for path, count in left_out.items()]


def _draw(items: list[Item], count: int, drawn: random.Random) -> list[Item]:
    by_label: dict[int, list[Item]] = {}
    for item in drawn.sample(items, len(items)):
        by_label.setdefault(item.label, []).append(item)
    ordered = [of[i] for i in range(len(items)) for of in by_label.values() if i < len(of)]
    return drawn.sample(ordered[:count], min(count, len(ordered)))


def pairs(tokenizer: "PreTrainedTokenizerBase", test_set: TestSet, style: str) -> list[Pair]:
    """Token ids of each item's context and of each of its choices, in order: `plain` as the text runs on, `chat` as the
    answer of a turn, without its end."""
    asked = [(item, choice) for item in test_set.items for choice in item.choices]
    if style == "chat":
        return [_turns(tokenizer, test_set.shots, item, choice) for item, choice in asked]
    before = "".join(f"{s.context}{DELIMITER}{s.choices[s.label]}{BETWEEN_SHOTS}" for s in test_set.shots)
    contexts = tokenizer([before + item.context for item, _ in asked])["input_ids"]
    wholes = tokenizer([before + item.context + DELIMITER + choice for item, choice in asked])["input_ids"]
    return [(list(ids), list(whole[len(ids) :])) for ids, whole in zip(contexts, wholes, strict=True)]


def _turns(tokenizer: "PreTrainedTokenizerBase", shots: list[Item], item: Item, choice: str) -> Pair:
    messages = []
    for shot in shots:
        messages += [{"role": "user", "content": shot.context}]
        messages += [{"role": "assistant", "content": shot.choices[shot.label]}]
    messages += [{"role": "user", "content": item.context}]
    prompt = chat.prompt_ids(tokenizer, messages)
    answer = chat.completion_ids(tokenizer, [*messages, {"role": "assistant", "content": choice}])
    return prompt, answer[: answer.index(chat.end_of_turn(tokenizer)[1])]


def measure(
    tokenizer: "PreTrainedTokenizerBase",
    sets: list[TestSet],
    styles: Sequence[str],
    score: Callable[[list[Pair]], list[tuple[float, bool]]],
) -> dict[str, LogLikelihoods]:
    """The log-likelihood of every choice: test set → style → item → choice, in nats. `score`: of pairs of token ids."""
    found: dict[str, LogLikelihoods] = {}
    for one in sets:
        found[one.name] = {}
        for style in styles:
            values = iter(value for value, _ in score(pairs(tokenizer, one, style)))
            found[one.name][style] = [[next(values) for _ in item.choices] for item in one.items]
    return found


# ── scores ──


def suite(styles: Sequence[str]) -> Suite:
    """Accuracy in the first of the styles is what models are compared by."""
    names = {"plain": ("", ""), "chat": (" (대화 형식)", " (as a chat)")}
    metrics = [
        Metric(f"{key}_{style}", f"{ko}{names[style][0]}", f"{en}{names[style][1]}")
        for style in styles
        for key, ko, en in (
            ("accuracy", "정답률", "Zero-shot accuracy"),
            ("accuracy_norm", "정답률 (우도를 글자 수로 나눔)", "Zero-shot accuracy, per character"),
        )
    ]
    return Suite("zero_shot", "우도로 고르기", "Zero-shot", tuple(metrics), "labels", items="labelled items")


def picked(choices: Sequence[str], values: Sequence[float], *, per_character: bool) -> int:
    """The index of the likeliest choice."""
    lengths = [len(choice) if per_character else 1 for choice in choices]
    return int(np.argmax([value / length for value, length in zip(values, lengths, strict=True)]))


def measured(sets: list[TestSet], styles: Sequence[str], models: dict[str, dict[str, LogLikelihoods]]) -> Measured:
    """What `measure` found of every model, as scores of each item and macro-F1 of each test set."""
    scores: dict[str, dict[str, Scores]] = {}
    accuracy: dict[str, Any] = {}
    macro_f1: dict[str, Any] = {}
    for model, found in models.items():
        scores[model] = {}
        for style in styles:
            for key, per_character in ((f"accuracy_{style}", False), (f"accuracy_norm_{style}", True)):
                right: list[float] = []
                for one in sets:
                    picks = [
                        picked(item.choices, values, per_character=per_character)
                        for item, values in zip(one.items, found[one.name][style], strict=True)
                    ]
                    labels = [item.label for item in one.items]
                    same = np.equal(picks, labels).astype(float)
                    right += same.tolist()
                    accuracy.setdefault(one.name, {}).setdefault(model, {})[key] = {
                        "value": float(same.mean()), "standard_error": statistics.standard_error(same), "n": len(same),
                    }  # fmt: skip
                    if len({item.choices for item in one.items}) == 1:  # else a label has no meaning of its own
                        macro_f1.setdefault(one.name, {}).setdefault(model, {})[key] = f1(labels, picks)
                scores[model][key] = np.array(right)
    items = [
        {"context": item.context, "choices": item.choices, "label": item.label,
         "log_likelihoods": {
             model: {style: found[one.name][style][i] for style in styles} for model, found in models.items()}}
        for one in sets for i, item in enumerate(one.items)
    ]  # fmt: skip
    details = {
        "accuracy": accuracy,
        "macro_f1": macro_f1,
        "test_sets": {one.name: {"path": one.path, "format": one.format, "items": len(one.items),
                                 "left_out": one.left_out, "shots": [shot.id for shot in one.shots]} for one in sets},
    }  # fmt: skip
    ids = [f"{one.name}-{item.id}" for one in sets for item in one.items]
    tasks: list[str | None] = [one.name for one in sets for _ in one.items]
    asked = {
        "style": styles[0],
        "items": {one.name: hash_of([(item.context, item.choices, item.label) for item in one.items]) for one in sets},
        "shots": {one.name: hash_of([(shot.context, shot.label) for shot in one.shots]) for one in sets},
    }
    return Measured(suite(styles), ids, tasks, scores, details, asked, items)


def hash_of(items: list[Any]) -> str:
    return hashlib.sha256(repr(items).encode()).hexdigest()


def f1(labels: Sequence[int], picks: Sequence[int]) -> dict[str, float]:
    """Macro-F1 over the labels that occur, its standard error and 95 % interval (bootstrap over the items)."""
    num_labels = max(*labels, *picks) + 1
    cells = np.zeros((num_labels, num_labels))
    np.add.at(cells, (np.array(labels), np.array(picks)), 1)
    drawn = np.random.default_rng(statistics.SEED).multinomial(
        len(labels), (cells / len(labels)).ravel(), size=statistics.RESAMPLES
    )
    resampled = _macro_f1(drawn.reshape(-1, num_labels, num_labels))
    low, high = (float(np.percentile(resampled, percent)) for percent in (2.5, 97.5))
    return {"value": float(_macro_f1(cells[None])[0]), "standard_error": float(resampled.std(ddof=1)),
            "low": low, "high": high, "n": len(labels)}  # fmt: skip


def _macro_f1(cells: np.ndarray) -> Scores:  # (draws, labels, picks) → (draws,)
    right = np.diagonal(cells, axis1=1, axis2=2)
    either = cells.sum(1) + cells.sum(2)  # 2 × right + missed + wrongly picked
    occurs = either > 0
    values = np.divide(2 * right, either, out=np.zeros(right.shape), where=occurs)
    result: Scores = values.sum(1) / occurs.sum(1)
    return result
