"""Rows that overlap with a test set are found, and afterwards the evaluation finds no overlap."""

import random

import numpy as np
import pytest
from conftest import ROOT

from sllm import cli, contamination, training_texts
from sllm.contamination import THRESHOLD
from sllm.data import decontamination, formats, training
from sllm.data.decontamination import ItemHashes, ItemSet, Overlap, overlaps
from sllm.data.json_writer import write_jsonl

SYLLABLES = [chr(code) for code in range(ord("가"), ord("힣"), 23)]


def words(draw: random.Random, count: int) -> str:
    return " ".join("".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(count)) + "."


def row(*texts: str, system: str = "") -> dict:
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"task": None, "messages": [*([{"role": "system", "content": system}] if system else []), *turns]}


def pair(prompt: str, chosen: str, rejected: str) -> dict:
    answers = {"chosen": chosen, "rejected": rejected}
    turns = {name: [{"role": "assistant", "content": text}] for name, text in answers.items()}
    return {"task": None, "prompt": [{"role": "user", "content": prompt}], **turns}


def item_set(items: list[list[str]], name: str = "test.jsonl") -> ItemSet:
    return ItemSet(name, [f"q{number}" for number in range(len(items))], items)


def left_out(rows: list[dict], *sets: ItemSet, chunk: int = 300, budget: int = 2**22) -> list[Overlap]:
    hashes = ItemHashes(sets)
    chunks = [hashes.find(rows[start : start + chunk]) for start in range(0, len(rows), chunk)]
    return list(overlaps(chunks, sets, budget=budget))


def kept(rows: list[dict], found: list[Overlap]) -> list[dict]:
    numbers = {each.row for each in found}
    return [each for number, each in enumerate(rows) if number not in numbers]


def assert_the_evaluation_agrees(rows: list[dict], *sets: ItemSet, budget: int = 2**22) -> int:
    signature = training_texts.signature_of(training.texts(rows), budget=budget)
    for each in sets:
        shares = contamination.overlap(each.items, signature)
        assert shares.max(initial=0) < THRESHOLD, each.ids[int(shares.argmax())]
    return signature.every


# ── leaks ──────────────────────────────────────────────────────────────────────────────────────────────────


def edited(text: str, draw: random.Random) -> str:
    """Every 40th letter is another."""
    letters = list(text)
    for place in range(20, len(letters), 40):
        letters[place] = draw.choice(SYLLABLES)
    return "".join(letters)


LEAKS = {
    "question and answer": lambda item, draw: row(f"다음에 답하세요.\n{item[0]}", item[1]),
    "question alone": lambda item, draw: row(item[0].replace(" ", "").replace(".", "!"), words(draw, 20)),
    "inside a context": lambda item, draw: row(f"{words(draw, 60)}\n{item[0]}\n{words(draw, 60)}", words(draw, 5)),
    "edited": lambda item, draw: row(edited(item[0], draw), edited(item[1], draw)),
    "one of several turns": lambda item, draw: row(words(draw, 9), words(draw, 30), item[0], words(draw, 30)),
    "a rejected answer": lambda item, draw: pair(words(draw, 30), words(draw, 30), item[0]),
    "a system turn": lambda item, draw: row(words(draw, 9), words(draw, 9), system=item[0]),
}


@pytest.mark.parametrize("seed", range(3))
def test_thirty_leaks_among_a_thousand_items_are_found_and_no_others(seed):
    draw = random.Random(seed)
    frame = words(draw, 20)
    sentences = [words(draw, 6) for _ in range(500)]

    def asked() -> str:
        return f"{frame}\n{' '.join(draw.sample(sentences, 4))} {words(draw, 6)}"

    items = [[asked(), " ".join(draw.sample(sentences, 2))] for _ in range(1000)]
    rows = [row(asked(), " ".join(draw.sample(sentences, 2))) for _ in range(3000)]
    kinds = list(LEAKS.values())
    leaked = dict(zip(draw.sample(range(3000), 30), draw.sample(range(1000), 30), strict=True))
    for number, (place, item) in enumerate(leaked.items()):
        rows[place] = kinds[number % len(kinds)](items[item], draw)
    found = {each.row: each for each in left_out(rows, item_set(items))}
    assert found.keys() >= leaked.keys()
    for place, item in leaked.items():
        assert f"test.jsonl item q{item} (" in found[place].reason
    assert len(found) - 30 <= 0.01 * 2970
    assert_the_evaluation_agrees(kept(rows, list(found.values())), item_set(items))


def test_unrelated_rows_are_kept_however_long():
    draw = random.Random(4)
    rows = [row(words(draw, 300), words(draw, 300)) for _ in range(400)]
    assert not left_out(rows, item_set([[words(draw, 600), words(draw, 200)] for _ in range(100)]))


def test_a_reason_names_the_files_the_items_and_the_shares():
    draw = random.Random(5)
    first, second = words(draw, 40), words(draw, 40)
    sets = [item_set([[first, ""], [words(draw, 40), ""]], "a.jsonl"), item_set([[words(draw, 9), second]], "b.jsonl")]
    rows = [row(words(draw, 30), "예"), row(first, second), row(f"{first[:80]}", "예")]
    both, part = left_out(rows, *sets)
    assert both == (1, 1.0, "overlaps with a test set: a.jsonl item q0 (100%), b.jsonl item q0 (90%)")
    assert part.row == 2
    assert part.reason == f"overlaps with a test set: a.jsonl item q0 ({part.share:.0%})"
    assert THRESHOLD <= part.share < 1


# ── agreement with the evaluation ──────────────────────────────────────────────────────────────────────────


def random_case(draw: random.Random) -> tuple[list[dict], list[ItemSet]]:
    """Rows and items that share frames, sentences and stock answers, of all lengths: some rare, some in most rows."""
    frames = ["", *(words(draw, draw.choice([3, 10, 40])) for _ in range(3))]
    stock = [words(draw, draw.choice([1, 6, 30])) for _ in range(5)]
    sentences = [words(draw, draw.randint(3, 12)) for _ in range(draw.choice([30, 300]))]
    systems = ["", *(words(draw, 20) for _ in range(2)), draw.choice(sentences)]

    def asked() -> str:
        body = draw.sample(sentences, draw.randint(1, 5))
        return "\n".join(filter(None, [draw.choice(frames), *body, words(draw, draw.choice([2, 20, 60]))]))

    def answer() -> str:
        return draw.choice([draw.choice(stock), words(draw, draw.choice([1, 20, 40])), draw.choice(sentences)])

    sets = [
        item_set(
            [[*(asked() for _ in range(draw.choice([1, 1, 3]))), answer()] for _ in range(count)], f"{count}.jsonl"
        )
        for count in (2, 60)
    ]
    rows = [row(asked(), answer(), system=draw.choice(systems)) for _ in range(draw.choice([80, 600]))]
    rows += [pair(asked(), answer(), answer()) for _ in range(50)]
    for each in sets:
        for item in draw.sample(each.items, len(each.items) // 2):
            leak = draw.choice(list(LEAKS.values()))(item, draw)
            rows += [leak] * draw.choice([1, 1, 60])
    draw.shuffle(rows)
    return rows, sets


@pytest.mark.parametrize("seed", range(8))
def test_afterwards_the_evaluation_finds_no_overlap(seed):
    rows, sets = random_case(random.Random(seed))
    for budget in (2**22, 2**13):
        found = left_out(rows, *sets, budget=budget)
        assert found
        assert [each.row for each in found] == sorted({each.row for each in found})
        every = assert_the_evaluation_agrees(kept(rows, found), *sets, budget=budget)
        assert (every > 1) == (budget < 2**22)
    assert left_out(rows, *sets, chunk=7, budget=budget) == found
    assert not left_out(kept(rows, found), *sets)


def test_a_frame_that_ends_being_one_is_compared():
    """It is in 51 of 100 rows, a frame, until the two rows with the whole item are left out."""
    draw = random.Random(6)
    frame = words(draw, 40)
    item = [f"{frame}\n{words(draw, 10)}", ""]
    rows = [row(f"{frame}\n{words(draw, 10)}", "예") for _ in range(49)] + [
        row(words(draw, 30), "예") for _ in range(49)
    ]
    rows += [row(item[0], words(draw, 9)) for _ in range(2)]
    sets = item_set([item, [words(draw, 30), ""]])
    found = left_out(rows, sets)
    assert [each.row for each in found] == [*range(49), 98, 99]
    assert_the_evaluation_agrees(kept(rows, found), sets)
    more = [*rows, *(row(f"{frame}\n{words(draw, 10)}", "예") for _ in range(20))]
    assert [each.row for each in left_out(more, sets)] == [98, 99]


def test_rows_that_are_equal_are_left_out_together_and_are_no_frame():
    draw = random.Random(7)
    text = words(draw, 40)
    rows = [row(words(draw, 30), "예") for _ in range(20)] + [row(text, "예")] * 70 + [row(text.replace(" ", ""), "예")]
    assert [each.row for each in left_out(rows, item_set([[text, ""], [words(draw, 9), ""]]))] == list(range(20, 91))


def test_the_small_world_keeps_its_rows():
    """Its test sets are rows by the same templates about other things. 5 of 1,440 go; see the evaluation's own test."""
    rows = formats.load_rows(ROOT / "sample_data" / "world" / "train.jsonl", "sft")
    sets = decontamination.read([ROOT / "sample_data" / "world" / "test_names.jsonl"])
    found = left_out(rows, *sets)
    assert len(found) < 0.01 * len(rows)
    assert {rows[each.row]["task"] for each in found} <= {"task10_01", "task10_02"}
    assert_the_evaluation_agrees(kept(rows, found), *sets)


# ── input ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_test_sets_are_read_and_all_problems_are_told(tmp_path):
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    write_jsonl(
        good, [{"id": "q-1", "prompt": "너 몇 살이야?"}, {"id": "q-2", "prompt": "안녕?", "completion": "안녕"}]
    )
    bad.write_text('{"id": 1}\n', encoding="utf-8")
    (each,) = decontamination.read([good])
    assert each == ItemSet(str(good), ["q-1", "q-2"], [["너 몇 살이야?", ""], ["안녕?", "안녕"]])
    with pytest.raises(cli.InputError) as error:
        decontamination.read([bad, good, tmp_path / "missing.jsonl"])
    assert [str(tmp_path) in problem for problem in error.value.problems] == [True, True]


def test_nothing_to_compare():
    assert not left_out([], item_set([["안녕?", ""]]))
    assert not left_out([row("…", "!"), row("가", "나")], item_set([["…", ""], ["안녕?", ""]]))
    assert not left_out([row("가", "나")], item_set([]))


def test_what_is_found_is_small():
    draw = random.Random(8)
    hashes = ItemHashes([item_set([[words(draw, 300), ""] for _ in range(200)])])
    found = hashes.find([row(words(draw, 200), words(draw, 200)) for _ in range(100)])
    assert sum(array.nbytes for array in found[1:]) <= 100 * 32
    assert found.runs.dtype == found.counts.dtype == np.uint32
