"""Do the statistics of evaluate_model.py hold what they say? By simulation: how often 95 % intervals contain the true
mean, how often the gate refuses a model that is as good as the old one, and how often it finds the difference that it
says it would find with 80 % probability. The intervals of which_data_helped.py stand beside those of a bootstrap.

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


def runs_coverage(seeds: int, contexts: int, spread: float, runs: int, seed: int) -> tuple[float, float]:
    """Shares of the intervals that contain the true difference of models that were trained several times: those of
    `statistics.compare_runs`, and of a bootstrap of seeds and contexts (percentiles). Contexts have 1 to 4 rows.

    Args:
        spread: standard deviation of the difference between seeds; that between rows is about 1.
    """
    random = np.random.default_rng(seed)
    hits = np.zeros(2)
    for _ in range(runs):
        context_of = np.repeat(np.arange(contexts), random.integers(1, 5, contexts))
        rows = len(context_of)
        of_context = (random.gamma(1, 1, contexts) - 1) / 2 + random.normal(0, 0.3, (seeds, contexts))
        of_row = 0.7 * (random.gamma(0.5, 1, rows) - 0.5) + random.normal(0, 0.4, (seeds, rows))
        differences = random.normal(0, spread, (seeds, 1)) + of_context[:, context_of] + of_row
        found = statistics.compare_runs(differences, context_of)
        low, high = bootstrap(differences, context_of, random)
        hits += found.low <= 0 <= found.high, low <= 0 <= high
    return tuple(hits / runs)


def bootstrap(differences: np.ndarray, context_of: np.ndarray, random) -> np.ndarray:
    """The 95 % interval of the mean of (seeds, rows), both resampled, rows by contexts."""
    seeds, contexts = len(differences), context_of.max() + 1
    sums = np.stack([np.bincount(context_of, one) for one in differences])  # (seeds, contexts)
    of_seeds = random.multinomial(seeds, [1 / seeds] * seeds, size=1000)
    of_contexts = random.multinomial(contexts, [1 / contexts] * contexts, size=1000)
    totals = ((of_seeds @ sums) * of_contexts).sum(1)
    return np.percentile(totals / seeds / (of_contexts @ np.bincount(context_of)), [2.5, 97.5])


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
    rows, results = [], {"coverage": {}, "differences": {}, "false_alarms": {}, "power": {}, "trained_again": {}}
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
    rows = []
    for seeds, contexts, spread in (
        (1, 10, 0.0), (1, 100, 0.0), (2, 100, 0.0), (2, 100, 0.3), (3, 10, 0.1), (3, 100, 0.0), (3, 100, 0.1),
        (3, 100, 0.3), (5, 10, 0.1), (5, 100, 0.1), (5, 100, 0.3),
    ):  # fmt: skip
        ours, theirs = runs_coverage(seeds, contexts, spread, args.runs, args.seed)
        rows.append((seeds, contexts, spread, f"{ours:.1%}", f"{theirs:.1%}"))
        results["trained_again"][f"{seeds} seeds {contexts} contexts {spread}"] = [ours, theirs]
    headers = ["seeds", "contexts", "spread of seeds", "95 % intervals that hold the true difference", "bootstrap"]
    print("\n" + cli.table(headers, rows))
    return results


if __name__ == "__main__":
    cli.run(main, build_parser())
