"""Are test items found that a model was trained on, and no others? Of 1,000 items 30 are planted among training rows:
as they are, with other spaces, punctuation and case, in Unicode's decomposed form, inside of a longer text, or with
another question or answer. Counts, for several seeds, how many of the 30 are found and how many others are marked.

Reads real Korean data where the flags name them: KorQuAD 1.0 (a paragraph and a question; training and test items are
of different articles), Chatbot_data (Q,A,label) and KorNLI. The rows of `python -m sllm.world` are the hard case: texts
by the same templates, about other things.

    python benchmarks/contamination.py --korquad KorQuAD_v1.0_dev.json --chatbot ChatbotData.csv --kornli dev.tsv
"""

import csv
import json
import random
import sys
import time
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sllm import cli, contamination, training_texts, world

Item = tuple[str, str, str]  # context, question, answer
PLANTED = 30


def build_parser():
    p = cli.parser(__doc__, "benchmarks/contamination.py")
    p.add_argument("--korquad", metavar="FILE")
    p.add_argument("--chatbot", metavar="FILE")
    p.add_argument("--kornli", metavar="FILE")
    p.add_argument("--items", type=cli.positive_int, default=1000, help="of each test set")
    p.add_argument("--seeds", type=cli.positive_int, default=10)
    p.add_argument("--budget", type=cli.positive_int, default=training_texts.BUDGET, help="hashes in a signature")
    p.add_argument("--show", action="store_true", help="print what was missed or marked falsely")
    return p


# ── data: groups of items, which are either tested or trained on ───────────────────────────────────────────


def korquad(path: str) -> list[list[Item]]:
    articles = json.loads(Path(path).read_text(encoding="utf-8"))["data"]
    return [
        [
            (paragraph["context"], question["question"], question["answers"][0]["text"])
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
        for article in articles
    ]


def chatbot(path: str) -> list[list[Item]]:
    """Equal questions are one group: else some would be leaks that nobody planted."""
    groups = defaultdict(list)
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            groups[letters(row["Q"])].append(("", row["Q"], row["A"]))
    return list(groups.values())


def kornli(path: str) -> list[list[Item]]:
    groups = defaultdict(list)
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            question = f"가설: {row['sentence2']}\n관계를 고르세요: 함의, 모순, 중립"
            groups[letters(row["sentence1"])].append((f"전제: {row['sentence1']}", question, row["gold_label"]))
    return list(groups.values())


def from_world(rows: int, style: world.Style) -> list[Item]:
    items = []
    for i in range(rows):
        row = world.row(random.Random(f"{style} {i}"), world.TASKS[i % len(world.TASKS)], style)
        items.append(("", row["user_content"], row["assistant_content"]))
    return items


def about(item: Item) -> str:
    """Items of one context or question are in the training rows together."""
    return letters(item[0] or item[1])


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


# ── leaks: an item as a training row ───────────────────────────────────────────────────────────────────────


def asked(item: Item) -> str:
    return "\n\n".join(filter(None, item[:2]))


def reformatted(item: Item, other: Item) -> list[str]:
    return [f"**{'  '.join(text.upper().split())}** !" for text in (asked(item), item[2])]


def decomposed(item: Item, other: Item) -> list[str]:
    return [unicodedata.normalize("NFD", text) for text in (asked(item), item[2])]


def inside(item: Item, other: Item) -> list[str]:
    return [f"{asked(other)} {asked(item)} {item[2]} {other[2]}", other[2]]


def other_question(item: Item, other: Item) -> list[str]:
    return [asked((item[0], other[1], "")), other[2]]


def other_answer(item: Item, other: Item) -> list[str]:
    return [asked(item), other[2]]


Leak = Callable[[Item, Item], list[str]]
LEAKS: dict[str, Leak] = {
    "as it is": lambda item, other: [asked(item), item[2]],
    "reformatted": reformatted,
    "decomposed": decomposed,
    "inside a text": inside,
    "other question": other_question,
    "other answer": other_answer,
}


def leak_of(item: Item, number: int) -> str:
    """The kind of the next leak, of those that leave enough of the item to tell it."""
    kinds = list(LEAKS)
    if len(letters(item[0])) < 0.6 * len(letters(asked(item))):
        kinds.remove("other question")
    if len(letters(asked(item))) < 20:
        kinds.remove("inside a text")
    return kinds[number % len(kinds)]


# ── the experiment ─────────────────────────────────────────────────────────────────────────────────────────


def halves(groups: list[list[Item]], draw: random.Random) -> tuple[list[Item], list[Item]]:
    """(items to test, items to train on): of different groups, about as many of each."""
    test, trained = [], []
    for group in draw.sample(groups, len(groups)):
        (test if len(test) <= len(trained) else trained).extend(group)
    return test, trained


def measure(pool: list[Item], trained: list[Item], args, draw: random.Random) -> dict:
    """found (of each kind of leak a list), marked (of the other items), and the size of all."""
    draw.shuffle(pool)
    leaked = draw.sample(list({about(item): item for item in pool}.values()), PLANTED)
    leaked_texts = set(map(about, leaked))
    others = [item for item in pool if about(item) not in leaked_texts][: args.items - PLANTED]
    kinds = [leak_of(item, number) for number, item in enumerate(leaked)]
    rows = [[asked(item), item[2]] for item in trained]
    rows += [LEAKS[kind](item, draw.choice(trained)) for kind, item in zip(kinds, leaked, strict=True)]
    draw.shuffle(rows)
    started = time.monotonic()
    signature = training_texts.signature_of(rows, budget=args.budget)
    items = [[asked(item), item[2]] for item in leaked + others]
    marked = [bool(each) for each in contamination.overlap(items, signature) >= contamination.THRESHOLD]
    seconds = time.monotonic() - started
    found = defaultdict(list)
    for kind, each in zip(kinds, marked, strict=False):
        found[kind].append(each)
    if args.show:
        for number, (item, each) in enumerate(zip(items, marked, strict=True)):
            if each != (number < PLANTED):
                kind = "marked" if each else f"missed ({kinds[number]})"
                print(f"  {kind}: {item[0][-99:]!r} → {item[1][:99]!r}")
    size = {"items": len(items), "rows": signature.rows, "characters": signature.characters, "seconds": seconds}
    size |= {"hashes": len(signature.runs), "every": signature.every}
    return {"found": found, "marked": marked[PLANTED:], **size}


def report(name: str, runs: list[dict]) -> dict:
    last = runs[-1]
    cli.say(name, f"{last['items']:,} items, {last['rows']:,} rows of {last['characters']:,} characters, "
                  f"{last['hashes']:,} hashes, every {last['every']}, {last['seconds']:.2f} s")  # fmt: skip
    kinds = {kind: [each for run in runs for each in run["found"][kind]] for kind in LEAKS}
    each_run = [sum(map(sum, run["found"].values())) for run in runs]
    total = sum(each_run) / (PLANTED * len(runs))
    listed = ", ".join(f"{kind} {sum(each)}/{len(each)}" for kind, each in kinds.items() if each)
    cli.say("", f"found {total:.1%}, at least {min(each_run)} of {PLANTED}: {listed}")
    shares = [sum(run["marked"]) / len(run["marked"]) for run in runs]
    mean = sum(shares) / len(shares)
    cli.say("", f"others marked {mean:.2%}, at most {max(shares):.2%}")
    return {"found": total, "marked": mean, "most_marked": max(shares)}


def main(args) -> dict:
    sources = {}
    for name, read in (("korquad", korquad), ("chatbot", chatbot), ("kornli", kornli)):
        if path := getattr(args, name):
            groups = read(path)
            sources[name] = lambda draw, groups=groups: halves(groups, draw)
    test, trained = from_world(args.items, world.Style(names=True)), from_world(2 * args.items, world.Style())
    sources["world"] = lambda draw: (list(test), trained)
    results = {}
    for name, source in sources.items():
        draws = [random.Random(f"{name} {seed}") for seed in range(args.seeds)]
        results[name] = report(name, [measure(*source(draw), args, draw) for draw in draws])
    return results


if __name__ == "__main__":
    cli.run(main, build_parser())
