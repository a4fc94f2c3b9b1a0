"""Show the same prompts as several models answered them, from the files that vllm_inference.py wrote.

python -m sllm.compare_outputs base=outputs/demo/compare/base.jsonl merged=outputs/demo/answers.jsonl
"""

import json
import math
from pathlib import Path

from sllm import checkpoint, cli, tasks, world

TITLES = {"true": "true", "true_names": "of made-up names", "rules_passed": "all rules passed", "stopped": "stopped"}


def build_parser():
    p = cli.parser(__doc__, "-m sllm.compare_outputs")
    p.add_argument("answers", nargs="+", metavar="NAME=FILE", help="a name to show and its answers (.jsonl)")
    p.add_argument("--rows", type=cli.positive_int, default=3, help="prompts to show, each of another kind; with "
                   "--facts those that the last model answers truly, and one that it does not")  # fmt: skip
    p.add_argument("--equal", nargs=2, metavar="NAME", help="count the rows that these two answered identically")
    p.add_argument("--facts", metavar="FILE", help="rows of `python -m sllm.world`, those that were asked: count true "
                   "answers")  # fmt: skip
    p.add_argument("--test", nargs=2, metavar="NAME", dest="tested", help="is the second better than the first? exact "
                   "McNemar test on the rows that only one of them has right")  # fmt: skip
    p.add_argument("--run", nargs="+", default=[], metavar="FOLDER", help="show the metrics of these stages too")
    return p


def main(args) -> dict:
    answers = {}
    for pair in args.answers:
        name, separator, path = pair.partition("=")
        if not separator or not Path(path).is_file():
            raise cli.InputError(f"{pair} is not NAME=FILE with a file that exists; make it with vllm_inference.py")
        if not name or name in answers:
            raise cli.InputError(f"{pair}: give each file a name of its own")
        answers[name] = read(path)
    for flag, names in (("--equal", args.equal), ("--test", args.tested)):
        if unknown := [name for name in names or [] if name not in answers]:
            raise cli.InputError(f"{flag} {' '.join(unknown)}: not among {', '.join(answers)}")
    runs = {folder: checkpoint.read_run(folder) for folder in args.run}
    if None in runs.values():
        missing = ", ".join(folder for folder, record in runs.items() if record is None)
        raise cli.InputError(f"--run {missing}: no run.json; name folders of finished stages")
    first = next(iter(answers.values()))
    shared = [row for key, row in first.items() if all(key in rows for rows in answers.values())]
    if not shared:
        raise cli.InputError("the files share no row ids: they answer different test sets")

    facts = read_facts(args.facts) if args.facts else {}
    if args.facts and not all(
        row["id"] in facts and facts[row["id"]]["user_content"] == row["messages"][-1]["content"] for row in shared
    ):
        raise cli.InputError(
            f"--facts {args.facts}: does not have all rows that were answered; give the file that was asked"
        )
    verdicts = {name: verdicts_of(shared, rows, facts) for name, rows in answers.items()}
    for row in _examples(shared, next(reversed(verdicts.values())).get("true"), args.rows):
        title = tasks.get(row["task"]).name_ko if row["task"] in tasks.TASKS else ""
        print(f"\n■ {row['task'] or ''} {title}\n  {_clip(row['messages'][-1]['content'], 150)}")
        for name in answers:
            answer = answers[name][row["id"]]["output"]
            mark = ("✓ " if world.check(facts[row["id"]], answer) else "✗ ") if facts else ""
            print(f"  {name:>8} │ {mark}{_clip(answer, 150)}")
        if row.get("reference"):
            print(f"  {'answer':>8} │ {'  ' if facts else ''}{_clip(row['reference'], 150)}")
    if facts:
        print("\n✓ true, ✗ not: a fact is wrong, invented, missing or not asked for")

    columns = list(next(iter(verdicts.values())))
    table = [(name, *(share(cells[column]) for column in columns)) for name, cells in verdicts.items()]
    print("\n" + cli.table(["model", *(TITLES[column] for column in columns)], table))
    print("in brackets: 95 % interval (Wilson)")
    results: dict = {"rows": len(shared)}
    results |= {column: {name: sum(cells[column]) for name, cells in verdicts.items()} for column in columns}
    if args.tested:
        results["p"] = _print_test(*args.tested, verdicts)
    if args.equal:
        first_answers, second_answers = (answers[name] for name in args.equal)
        identical = sum(first_answers[row["id"]]["output"] == second_answers[row["id"]]["output"] for row in shared)
        print(f"{args.equal[0]} and {args.equal[1]} give the same answer to {identical} of {len(shared)} prompts")
        results["identical"] = identical
    for folder, record in runs.items():
        metrics = record.get("metrics", {})
        runs[folder] = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        print(f"{folder}: " + ", ".join(f"{name} {value:.4g}" for name, value in runs[folder].items()))
    return results | ({"runs": runs} if runs else {})


def _examples(rows: list[dict], true: list[bool] | None, count: int) -> list[dict]:
    """The first row of `count` kinds of tasks; where it is known which answers are `true`, true ones and then one that
    is not."""
    verdicts = true or [True] * len(rows)
    of_kind: dict[str, dict] = {}
    for row, verdict in zip(rows, verdicts, strict=True):
        if verdict:
            of_kind.setdefault((row["task"] or "").partition("_")[0], row)
    wrong = [row for row, verdict in zip(rows, verdicts, strict=True) if not verdict]
    return list(of_kind.values())[:count] + wrong[:1]


def read(path: str) -> dict[str, dict]:
    """Lines of vllm_inference.py by their id. InputError for a file of anything else."""
    rows, lines = {}, 0
    try:
        for line in Path(path).read_text(encoding="utf-8").split("\n"):
            lines += 1
            if line.strip():
                row = json.loads(line)
                rows[row["id"]] = row
                row["output"].strip(), row["task"], row["messages"][-1]["content"], row["finish_reason"]
    except (ValueError, TypeError, LookupError, AttributeError):
        raise cli.InputError(f"{path}:{lines}: not a line of answers; make the file with vllm_inference.py") from None
    return rows


def read_facts(path: str) -> dict[str, dict]:
    try:
        rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        return {row["id"]: row for row in rows if row["expects"] and row["facts"] is not None}
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise cli.InputError(f"--facts {path}: not rows of `python -m sllm.world` ({error})") from None


def verdicts_of(rows: list[dict], answers: dict[str, dict], facts: dict[str, dict]) -> dict[str, list[bool]]:
    """What holds of the answers to which rows: column → a verdict for each row that can have one."""
    known = [row for row in rows if row["task"] in tasks.TASKS]
    output = {key: answer["output"] for key, answer in answers.items()}
    verdicts = {}
    if facts:  # what common words mean a model may have learned before; of made-up names only the prompt tells
        true = {row["id"]: bool(world.check(facts[row["id"]], output[row["id"]])) for row in rows}
        names = [verdict for key, verdict in true.items() if facts[key]["expects"]["subject"]]
        verdicts = {"true": list(true.values()), "true_names": names}
    return verdicts | {
        "rules_passed": [
            not tasks.check(row["task"], row["messages"][-1]["content"], output[row["id"]]) for row in known
        ],
        "stopped": [answers[row["id"]]["finish_reason"] == "stop" for row in rows],
    }


def _print_test(first: str, second: str, verdicts: dict[str, dict[str, list[bool]]]) -> dict[str, float]:
    """The exact McNemar test of each column (McNemar, 1947); returns its two-sided p-values."""
    values = {}
    for column, before in verdicts[first].items():
        pairs = list(zip(before, verdicts[second][column], strict=True))
        worse, better = pairs.count((True, False)), pairs.count((False, True))
        one_side = sum(math.comb(better + worse, k) for k in range(min(better, worse) + 1)) / 2 ** (better + worse)
        values[column] = min(1.0, 2 * one_side)
        print(f"{first} → {second}, {TITLES[column]}: {better} more, {worse} fewer (p = {values[column]:.2g})")
    return values


def share(verdicts: list[bool]) -> str:
    """Count, share and its 95 % interval."""
    if not verdicts:
        return "-"
    count, total = sum(verdicts), len(verdicts)
    low, high = interval(count / total, total)
    return f"{count}/{total} {count / total:4.0%} ({low:.0%}–{high:.0%})"


def interval(ratio: float, total: int) -> tuple[float, float]:
    """The 95 % interval of a share of `total` (Wilson, 1927)."""
    z = 1.96
    middle = (ratio + z * z / (2 * total)) / (1 + z * z / total)
    half = z * (ratio * (1 - ratio) / total + z * z / (4 * total * total)) ** 0.5 / (1 + z * z / total)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _clip(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


if __name__ == "__main__":
    cli.run(main, build_parser())
