"""Near-duplicates and decontamination: what is found, what is lost by mistake, how fast, with how much memory.

Planted copies: of 2,000 rows (a question of 400 characters and an answer of 400) 300 are edited until their similarity
is that of the threshold or up to 0.03 more; found are those copies that are left out, wrong are other rows. Beside
datasketch and rensa (`pip install datasketch rensa`; one that is missing is left out), which compare whole rows.
Questions: several about each context, none of them a duplicate, and edited copies of a tenth; KorQuAD's where --korquad
names its file. It has 11 questions twice. Decontamination: half of the questions are a test set, 30 of them in edited
copies among the other half. Size: --rows rows, which are written to a file; of candidates the texts are read again.

Rates are rows in a second of one core's time (the process's CPU time).

    python benchmarks/curation.py --korquad KorQuAD_v1.0_dev.json --rows 1540000
"""

import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sllm import cli

SYLLABLES = [chr(code) for code in range(ord("가"), ord("힣"), 23)]
THRESHOLDS = (0.7, 0.8, 0.9)
PLANTED = 300
CHUNK = 2000  # rows that a worker would get
Texts = tuple[str, str, str]  # context, question, answer


def build_parser():
    p = cli.parser(__doc__, "benchmarks/curation.py")
    p.add_argument("--korquad", metavar="FILE", help="questions of the second part (default: made up)")
    p.add_argument("--rows", type=cli.positive_int, default=100_000, help="rows of the third part")
    p.add_argument("--length", type=cli.positive_int, default=800, help="characters of such a row, about")
    p.add_argument("--seed", type=cli.seed, default=42)
    return p


# ── rows ───────────────────────────────────────────────────────────────────────────────────────────────────


def words(draw: random.Random, letters: int) -> str:
    """A text of about so many characters."""
    listed, size = [], 0
    while size < letters:
        listed.append("".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))))
        size += len(listed[-1]) + 1
    return " ".join(listed) + "."


def edited(text: str, draw: random.Random, edits: int) -> str:
    letters = list(text)
    for place in draw.sample(range(len(letters)), edits):
        letters[place] = draw.choice(SYLLABLES)
    return "".join(letters)


def planted_rows(draw: random.Random, threshold: float) -> tuple[list[Texts], set[int]]:
    """2,000 rows and, in the same list, copies; the numbers of the copies."""
    rows = [("", words(draw, 400), words(draw, 400)) for _ in range(2000)]
    for row in rows[:PLANTED]:
        rows.append(("", *(as_similar(text, draw, threshold) for text in row[1:])))
    return rows, set(range(2000, len(rows)))


def as_similar(text: str, draw: random.Random, threshold: float) -> str:
    from sllm.data.near_duplicates import similarities

    while True:  # an edit of one letter changes 5 runs in each of the texts: (n - 5 e) / (n + 5 e)
        edits = round(len(text) / 5 * (1 - threshold) / (1 + threshold)) + draw.choice((-3, -2, -1, 0))
        copy = edited(text, draw, max(1, edits))
        if threshold <= similarities([(as_parts(("", text, "")), as_parts(("", copy, "")))])[0] <= threshold + 0.03:
            return copy


def question_rows(draw: random.Random, korquad: str | None) -> tuple[list[Texts], set[int]]:
    if korquad:
        articles = json.loads(Path(korquad).read_text(encoding="utf-8"))["data"]
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        rows = [(each["context"], q["question"], q["answers"][0]["text"]) for each in paragraphs for q in each["qas"]]
    else:
        contexts = [words(draw, 500) for _ in range(400)]
        rows = [(context, words(draw, 30), words(draw, 8)) for context in contexts for _ in range(5)]
    number = len(rows)
    for context, question, answer in draw.sample(rows, number // 10):
        rows.append((edited(context, draw, len(context) // 100), question.upper() + "?", answer + "."))
    return rows, set(range(number, len(rows)))


def as_parts(row: Texts):
    from sllm.data.compared_texts import compared_texts

    context, question, answer = row
    if context:
        question = f"###Context###:\n{context}\n\n###Question###:\n{question}\n\n###Answer###:"
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return compared_texts({"task": None, "messages": messages})


# ── tools: rows and a threshold → (the rows that they leave out, seconds to sign, seconds to search) ───────


def ours(rows: list[Texts], threshold: float) -> tuple[set[int], float, float]:
    from sllm.data import near_duplicates

    started = time.process_time()
    parts = [as_parts(row) for row in rows]
    signed = [near_duplicates.signatures(parts[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)]
    middle = time.process_time()
    found = {each.row for each in near_duplicates.find(signed, parts.__getitem__, threshold)}
    return found, middle - started, time.process_time() - middle


def shingles(row: Texts) -> set[str]:
    text = "".join(filter(str.isalnum, " ".join(row).casefold()))
    return {text[i : i + 5] for i in range(len(text) - 4)}


def datasketch(rows: list[Texts], threshold: float) -> tuple[set[int], float, float]:
    from datasketch import MinHash, MinHashLSH

    started = time.process_time()
    signed = MinHash.bulk([[each.encode() for each in shingles(row)] for row in rows], num_perm=128)
    middle = time.process_time()
    index, found = MinHashLSH(threshold=threshold, num_perm=128), set()
    for number, each in enumerate(signed):
        if index.query(each):
            found.add(number)
        else:
            index.insert(number, each)
    return found, middle - started, time.process_time() - middle


def rensa(rows: list[Texts], threshold: float) -> tuple[set[int], float, float]:
    from rensa import RMinHash, RMinHashDeduplicator

    started = time.process_time()
    signed = RMinHash.from_token_sets([list(shingles(row)) for row in rows], 128, 42)
    middle = time.process_time()
    index = RMinHashDeduplicator(threshold, 128, True)
    found = {number for number, each in enumerate(signed) if not index.add(str(number), each)}
    return found, middle - started, time.process_time() - middle


TOOLS: dict[str, Callable] = {"ours": ours, "datasketch": datasketch, "rensa": rensa}


# ── the parts ──────────────────────────────────────────────────────────────────────────────────────────────


def compare(name: str, tool: Callable, args) -> dict:
    """Of one tool: the shares of planted copies that it finds, rows lost by mistake, and rates."""
    seconds = [0.0, 0.0]
    rows_read = wrong = 0
    found = {}
    for threshold in THRESHOLDS:
        rows, copies = planted_rows(random.Random(f"{args.seed} {threshold}"), threshold)
        left_out, *both = tool(rows, threshold)
        found[threshold] = len(left_out & copies) / len(copies)
        wrong += len(left_out - copies)
        rows_read += len(rows)
        seconds = [a + b for a, b in zip(seconds, both, strict=True)]
    rows, copies = question_rows(random.Random(args.seed), args.korquad)
    left_out, *_ = tool(rows, 0.8)
    result = {f"found_at_{threshold}": share for threshold, share in found.items()}
    result |= {
        "wrong": wrong,
        "signed_per_second": rows_read / seconds[0],
        "searched_per_second": rows_read / seconds[1],
    }
    return result | {
        "questions": len(rows) - len(copies),
        "questions_lost": len(left_out - copies),
        "copies_found": len(left_out & copies) / len(copies),
    }


def size(args) -> dict:
    """Rates and the peak of memory: signatures as a worker makes them, the search with texts read from a file."""
    from sllm.data import near_duplicates

    before = peak()
    with tempfile.NamedTemporaryFile("w+b", suffix=".jsonl") as file:
        offsets, signed, seconds, copies = [], [], 0.0, 0
        for chunk, planted in chunks(args):
            copies += planted
            for row in chunk:
                offsets.append(file.tell())
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            started = time.process_time()
            signed.append(near_duplicates.signatures([as_parts(row) for row in chunk]))
            seconds += time.process_time() - started
        file.flush()

        def text_of(number: int):
            file.seek(offsets[number])
            return as_parts(json.loads(file.readline()))

        started = time.process_time()
        found = sum(1 for _ in near_duplicates.find(signed, text_of))
        searched = time.process_time() - started
        gigabytes = Path(file.name).stat().st_size / 1e9
    return {
        "rows": len(offsets),
        "gigabytes": gigabytes,
        "copies": copies,
        "near_duplicates": found,
        "signed_per_second": len(offsets) / seconds,
        "search_seconds": searched,
        "memory_mb": peak() - before,
    }


def chunks(args) -> Iterator[tuple[list[Texts], int]]:
    """(rows, copies among them). A third are questions about shared contexts, a third plain questions, a third labels
    under one long instruction; every 20th is an edited copy of a row of the chunk before."""
    draw = random.Random(args.seed)
    pool = [words(draw, 40) for _ in range(50_000)]
    instruction = words(draw, 150)

    def text(letters: int) -> str:
        return " ".join(draw.choices(pool, k=max(1, letters // 42)))

    before: list[Texts] = []
    for start in range(0, args.rows, CHUNK):
        rows: list[Texts] = []
        originals: list[Texts] = []
        copies = 0
        while len(rows) < min(CHUNK, args.rows - start):
            kind = len(rows) % 3
            if len(rows) % 20 == 19 and before:
                row = draw.choice(before)
                rows.append(tuple(edited(part, draw, len(part) // 100) if len(part) > 100 else part for part in row))
                copies += 1
                continue
            if kind == 0:
                context = rows[-3][0] if len(rows) > 3 and len(rows) % 15 and rows[-3][0] else text(args.length - 80)
                rows.append((context, words(draw, 30), words(draw, 50)))
            elif kind == 1:
                rows.append(("", text(args.length // 4), text(3 * args.length // 4)))
            else:
                rows.append(("", f"{instruction} {text(args.length - 150)}", draw.choice(("긍정", "부정"))))
            originals.append(rows[-1])
        yield rows, copies
        before = originals


def peak() -> float:
    """MB of resident memory at most, up to now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def decontaminate(args) -> dict:
    """Questions of other articles (or contexts) as the test set, its edited copies as leaks."""
    from sllm.data.decontamination import ItemHashes, ItemSet, overlaps

    rows, copies = question_rows(random.Random(args.seed), args.korquad)
    plain = rows[: len(rows) - len(copies)]
    half = next(i for i in range(len(plain) // 2, len(plain)) if plain[i][0] != plain[i - 1][0])
    items = [[f"{context}\n{question}", answer] for context, question, answer in plain[:half]]
    tested = set(plain[:half])
    of_items = {context for context, *_ in tested}
    draw = random.Random(args.seed)
    leaks = [(edited(c, draw, len(c) // 100), q, a) for c, q, a in draw.sample(plain[:half], 30)]
    trained = [row for row in plain[half:] if row[0] not in of_items]
    messages = [
        {"messages": [{"role": "user", "content": f"{c}\n{q}"}, {"role": "assistant", "content": a}]}
        for c, q, a in trained + leaks
    ]
    sets = [ItemSet("test", [str(number) for number in range(len(items))], items)]
    hashes = ItemHashes(sets)
    started = time.process_time()
    found = [hashes.find(messages[start : start + CHUNK]) for start in range(0, len(messages), CHUNK)]
    middle = time.process_time()
    left_out = {each.row for each in overlaps(found, sets)}
    ended = time.process_time()
    leaked = set(range(len(trained), len(messages)))
    return {
        "items": len(items),
        "rows": len(messages),
        "leaks_found": len(left_out & leaked) / 30,
        "others": len(left_out - leaked),
        "searched_per_second": len(messages) / (middle - started),
        "decision_seconds": ended - middle,
    }


def main(args) -> dict:
    at_size = size(args)  # before anything else has taken memory
    results, missing = {}, []
    for name, tool in TOOLS.items():
        try:
            results[name] = compare(name, tool, args)
        except ModuleNotFoundError as error:
            missing.append(str(error.name))
    columns = list(results["ours"])
    print(
        cli.table(["", *results], [[column, *(shown(results[name][column]) for name in results)] for column in columns])
    )
    if missing:
        print(f"not compared: {', '.join(missing)} (pip install {' '.join(missing)})")
    for name, part in (("decontamination", decontaminate(args)), ("size", at_size)):
        results[name] = part
        cli.say(name, ", ".join(f"{key} {shown(value)}" for key, value in part.items()))
    return results


def shown(value: float) -> str:
    return f"{value:,.3f}" if isinstance(value, float) and value < 10 else f"{value:,.0f}"


if __name__ == "__main__":
    cli.run(main, build_parser())
