"""Do the statistics of evaluate_model.py hold what they say? By simulation: how often 95 % intervals contain the true
mean, how often the gate refuses a model that is as good as the old one, and how often it finds the difference that it
says it would find with 80 % probability.

    python benchmarks/evaluation_statistics.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from sllm import cli
from sllm.evaluate import gate, statistics

SHARE = {"unit": "share", "lower": False, "least": 0.0, "most": 1.0}  # what each suite measures

CORRELATION = 0.5  # of two models' chances to answer a question well: some questions are hard for both


def build_parser():
    p = cli.parser(__doc__, "benchmarks/evaluation_statistics.py")
    p.add_argument("--runs", type=cli.positive_int, default=1000, help="simulated evaluations of each kind")
    p.add_argument("--seed", type=cli.seed, default=0)
    return p


def draw(random, kind: str, shape: tuple[int, ...], mean: float) -> np.ndarray:
    """Scores from 0 to 1. `kind`: yes_no (true answers, rules), or graded (F1: many 0 and 1, some between)."""
    if kind == "yes_no":
        return (random.random(shape) < mean).astype(float)
    graded = random.beta(2 * mean, 2 * (1 - mean), shape)
    return np.clip(1.2 * graded - 0.1, 0, 1)


def coverage(kind: str, mean: float, questions: int, answers: int, runs: int, seed: int) -> float:
    """Share of the intervals that contain the true mean. `answers`: to each question, which are alike."""
    random = np.random.default_rng(seed)
    graded = kind == "graded"
    true = float(draw(random, kind, (2_000_000,), mean).mean()) if graded else mean  # clipping moves it
    hits = 0
    for _ in range(runs):
        if answers == 1:
            scores = draw(random, kind, (questions,), mean)
        else:  # each question has a chance of its own
            chances = random.beta(mean, 1 - mean, questions)
            scores = (random.random((answers, questions)) < chances).mean(0)
        interval = statistics.mean(scores)
        hits += interval.low <= true <= interval.high
    return hits / runs


def pair(random, kind: str, questions: int, mean: float, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two models on the same questions, of which the second is better by `gain` on average."""
    if kind == "yes_no":
        shared = random.random(questions) < CORRELATION
        common = random.random(questions)
        first, second = (np.where(shared, common, random.random(questions)) for _ in range(2))
        return (first < mean).astype(float), (second < mean + gain).astype(float)
    common = random.normal(0, 0.2, questions)
    noise = random.normal(0, 0.15, (2, questions))
    return mean + common + noise[0], mean + gain + common + noise[1]


def difference_coverage(kind: str, questions: int, runs: int, seed: int) -> float:
    """Share of the intervals of a difference that contain the true one, 0."""
    random = np.random.default_rng(seed)
    each = (statistics.compare(*pair(random, kind, questions, 0.7, 0.0)) for _ in range(runs))
    return sum(difference.low <= 0 <= difference.high for difference in each) / runs


def stated(random, kind: str, questions: int, suites: int) -> float:
    """The difference that the gate says it would find, between two models that differ by it."""
    found = 0.0
    for _ in range(8):
        first, second = pair(random, kind, 50 * questions, 0.7, -found)
        found = statistics.detectable(second - first, suites) * np.sqrt(50)
    return found


def refused(kinds: list[str], questions: int, runs: int, seed: int, *, worse: bool) -> float:
    """Share of the runs in which the gate refuses a model that is equal in each suite; `worse`: in all but the first,
    where it is worse by what the gate says it would find."""
    random = np.random.default_rng(seed)
    loss = stated(random, kinds[0], questions, len(kinds)) if worse else 0.0
    count = 0
    for _ in range(runs):
        losses = [loss, *[0.0] * (len(kinds) - 1)]
        suites = [pair(random, kind, questions, 0.7, -less) for kind, less in zip(kinds, losses, strict=True)]
        first, second = (
            {str(i): dict(enumerate(map(float, scores[side]))) for i, scores in enumerate(suites)} for side in (0, 1)
        )
        count += not gate.decide(first, second, dict.fromkeys(first, SHARE)).passed
    return count / runs


def main(args) -> dict:
    rows, results = [], {"coverage": {}, "differences": {}, "false_alarms": {}, "power": {}}
    for kind, mean, questions, answers in (
        ("yes_no", 0.05, 100, 1), ("yes_no", 0.5, 100, 1), ("yes_no", 0.9, 240, 1), ("yes_no", 0.97, 240, 1),
        ("graded", 0.3, 50, 1), ("graded", 0.8, 100, 1), ("graded", 0.8, 240, 1), ("yes_no", 0.7, 100, 5),
    ):  # fmt: skip
        share = coverage(kind, mean, questions, answers, args.runs, args.seed)
        rows.append((kind, mean, questions, answers, f"{share:.1%}"))
        results["coverage"][f"{kind} {mean} {questions}x{answers}"] = share
    print(cli.table(["scores", "mean", "questions", "answers each", "95 % intervals that hold the mean"], rows))
    rows = []
    for kind, questions in (("yes_no", 30), ("yes_no", 240), ("graded", 10), ("graded", 30), ("graded", 240)):
        share = difference_coverage(kind, questions, args.runs, args.seed)
        rows.append((kind, questions, f"{share:.1%}"))
        results["differences"][f"{kind} {questions}"] = share
    print("\n" + cli.table(["scores", "questions", "95 % intervals that hold the true difference"], rows))
    rows = []
    for kinds, questions in (
        (["yes_no"], 240), (["graded"], 240), (["yes_no", "yes_no", "graded"], 240),
        (["yes_no", "yes_no", "graded"], 1000),
    ):  # fmt: skip
        alarms = refused(kinds, questions, args.runs, args.seed, worse=False)
        power = refused(kinds, questions, args.runs, args.seed + 1, worse=True)
        rows.append((" + ".join(kinds), questions, f"{alarms:.1%}", f"{power:.1%}"))
        results["false_alarms"][f"{len(kinds)} {kinds[0]} {questions}"] = alarms
        results["power"][f"{len(kinds)} {kinds[0]} {questions}"] = power
    print("\n" + cli.table(["suites", "questions", "equal model refused", "stated difference found"], rows))
    return results


if __name__ == "__main__":
    cli.run(main, build_parser())
