"""Near-duplicates are found, and rows that share a context, an instruction or an answer on purpose are kept."""

import random

import numpy as np
import pytest
from conftest import ROOT

from sllm.data import formats, minhash
from sllm.data.compared_texts import Parts, compared_texts
from sllm.data.near_duplicates import find, signatures, similarities
from sllm.data.rows import Row

WORLD = ROOT / "sample_data" / "world"
SYLLABLES = [chr(code) for code in range(ord("가"), ord("힣"), 23)]


def words(draw: random.Random, count: int) -> str:
    return " ".join("".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(count)) + "."


def edited(text: str, draw: random.Random, edits: int) -> str:
    letters = list(text)
    for place in draw.sample(range(len(letters)), edits):
        letters[place] = draw.choice(SYLLABLES)
    return "".join(letters)


def as_similar(text: str, draw: random.Random, least: float) -> str:
    """A copy with as many edits as leave a similarity of `least` to `least` + 0.05."""
    for edits in range(1, len(text)):
        copy = edited(text, draw, edits)
        if jaccard(text, copy) < least + 0.05:
            return copy if jaccard(text, copy) >= least else as_similar(text, draw, least)
    raise AssertionError("too short")


def jaccard(left: str, right: str) -> float:
    """As the module's docstring says it, without its code."""

    def runs(text: str) -> set[str]:
        letters = "----" + "".join(filter(str.isalnum, text.lower())) + "----"
        return {letters[i : i + 5] for i in range(len(letters) - 4)}

    return len(runs(left) & runs(right)) / len(runs(left) | runs(right))


def parts(asked: str = "", answered: str = "", *, context: str = "", task: str = "", rejected: str = "") -> Parts:
    return Parts(task, context, asked, answered, rejected)


def found(rows: list[Parts], threshold: float = 0.8) -> dict[int, int]:
    return {each.row: each.kept for each in find([signatures(rows)], rows.__getitem__, threshold)}


def converted(*texts: str, task: str | None = None, context: str | None = None) -> Row:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return Row({"id": "x", "task": task, "messages": messages}, context=context)


def lost(rows: list[Row], threshold: float = 0.8) -> dict[int, int]:
    return found([compared_texts(row) for row in rows], threshold)


# ── what is found ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("threshold", [0.7, 0.8, 0.9])
def test_planted_near_duplicates_are_found_and_nothing_else(threshold):
    draw = random.Random(threshold)
    rows = [parts(words(draw, 60), words(draw, 90), context=words(draw, 120)) for _ in range(200)]
    rows += [parts(words(draw, 100), draw.choice(["긍정", "부정"])) for _ in range(200)]
    planted = {}
    for number in range(400):
        planted[len(rows)] = number
        changed = {
            name: as_similar(text, draw, threshold)
            for name, text in rows[number]._asdict().items()
            if len(text) > 100 and (number % 2 or name == "asked")
        }
        rows.append(rows[number]._replace(**changed))
    results = list(find([signatures(rows)], rows.__getitem__, threshold))
    assert all(planted[each.row] == each.kept for each in results)
    assert len(results) >= 0.985 * len(planted)
    for each in results[::10]:
        pairs = [pair for pair in zip(rows[each.row], rows[each.kept], strict=True) if pair[0]]
        assert each.similarity == pytest.approx(min(jaccard(*pair) for pair in pairs))
        assert each.similarity >= threshold


@pytest.mark.parametrize(
    ("text", "copy"),
    [
        ("너 몇 살이야?", "너 몇살이야"),
        ("Explain LoRA.", "**explain** LORA"),
        ("예", " 예."),
        ("😀", "😀 "),
    ],
)
def test_white_space_punctuation_and_case_make_no_difference(text, copy):
    assert found([parts(text, "비밀이에요."), parts(copy, "비밀이에요")]) == {1: 0}


@pytest.mark.parametrize(
    "other",
    [
        parts("의사를 한마디로 설명하면 무엇입니까?", "긍정"),
        parts("교사를 한마디로 설명하면 무엇입니까?", "부정"),
        parts("교사를 한마디로 설명하면 무엇입니까?", "긍정", task="task04_01"),
        parts("교사를 한마디로 설명하면 무엇입니까?", "긍정", rejected="모릅니다"),
        parts("교사를 한마디로 설명하면 무엇입니까?", "긍정", context="교사는 직업이다."),
        parts("긍정", "교사를 한마디로 설명하면 무엇입니까?"),
    ],
    ids=["asked", "answered", "task", "rejected", "context", "exchanged"],
)
def test_one_part_that_differs_is_enough_to_keep_a_row(other):
    assert not found([parts("교사를 한마디로 설명하면 무엇입니까?", "긍정"), other])


def test_rows_without_letters_are_told_apart():
    assert not found([parts("기분이 어때?", "😀"), parts("기분이 어때?", "😢")])
    assert not found([parts("1", "a"), parts("…", "a"), parts("!", "a")])


def test_the_first_of_a_group_is_kept_whatever_its_size():
    draw = random.Random(1)
    text = words(draw, 200)
    rows = [parts(edited(text, draw, 5), "답") for _ in range(400)]
    others = [parts(words(draw, 100), "답") for _ in range(50)]
    assert found([*others, *rows], 0.7) == dict.fromkeys(range(51, 450), 50)


def test_a_chain_loses_only_what_is_like_a_kept_row():
    draw = random.Random(2)
    chain = [words(draw, 150)]
    while len(chain) < 9:
        copy = as_similar(chain[-1], draw, 0.8)
        if all(jaccard(copy, earlier) < 0.8 for earlier in chain[:-1]):
            chain.append(copy)
    result = found([parts(text, "답") for text in chain])
    assert result == {1: 0, 3: 2, 5: 4, 7: 6}


@pytest.mark.parametrize("length", [8, 300])
def test_a_frame_in_the_same_line_hides_no_near_duplicates_and_makes_none(length):
    """Thousands of rows are alike by their instruction; by the longer one, more than 0.8."""
    draw = random.Random(length)
    frame = words(draw, length)
    rows = [parts(f"{frame} {words(draw, 25)}", draw.choice(["긍정", "부정"])) for _ in range(2000)]
    assert (jaccard(rows[0].asked, rows[1].asked) > 0.8) == (length == 300)
    planted = {}
    for number in draw.sample(range(2000), 100):
        planted[len(rows)] = number
        asked = rows[number].asked
        rows.append(rows[number]._replace(asked=asked[: len(frame)] + edited(asked[len(frame) :], draw, 1)))
    assert found(rows) == planted


# ── what is kept ───────────────────────────────────────────────────────────────────────────────────────────


def questions(draw: random.Random) -> list[tuple[str, str]]:
    return [(f"{words(draw, 4)[:-1]} {last}", words(draw, 1)) for last in ("누구입니까?", "언제입니까?", "어디입니까?")]


LAYOUTS = {
    "labelled": lambda context, question: f"###Context###:\n{context}\n\n###Question###:\n{question}\n\n###Answer###:",
    "after": lambda context, question: f"다음 글을 읽고 물음에 답하세요.\n\n{context}\n\n질문: {question}",
    "before": lambda context, question: f"{question}\n{context}",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("lines", [1, 6])
def test_questions_about_one_context_are_kept_and_copies_of_them_are_not(layout, lines):
    draw = random.Random(4)
    rows, copies = [], []
    for _ in range(40):
        context = "\n".join(words(draw, 160 // lines) for _ in range(lines))
        for question, answer in questions(draw):
            rows.append(converted(LAYOUTS[layout](context, question), answer))
            copies.append(
                converted(LAYOUTS[layout](edited(context, draw, 1).upper(), f"{question[:-1]} ?"), answer + "!")
            )
    assert not lost(rows)
    assert lost([*rows, *copies]) == {len(rows) + i: i for i in range(len(rows))}


def test_a_context_of_its_own_key_is_set_apart():
    draw = random.Random(5)
    context = "\n".join(words(draw, 30) for _ in range(4))
    rows = [converted(f"{question}\n\n{context}", "예", context=context) for question, _ in questions(draw)]
    assert compared_texts(rows[0]) == parts(rows[0]["messages"][0]["content"].splitlines()[0], "예", context=context)
    assert not lost(rows)


def test_one_instruction_with_many_contexts_is_kept():
    draw = random.Random(6)
    asked = LAYOUTS["labelled"]
    assert not lost([converted(asked(words(draw, 90), "이 글의 어조는 어떻습니까?"), "차분합니다.") for _ in range(50)])


def test_turns_of_a_conversation_and_both_answers_of_a_pair_count():
    texts = ["안녕?", "안녕하세요.", "이름이 뭐야?", "비밀이에요."]
    assert compared_texts(converted(*texts)) == parts("안녕?\n이름이 뭐야?", "안녕하세요.\n비밀이에요.")
    pair = {"task": "task02", "prompt": converted("제목?")["messages"]}
    pair |= {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    assert compared_texts(pair) == parts("제목?", "chosen", task="task02", rejected="rejected")


def test_system_turns_are_no_difference():
    row = converted("안녕?", "안녕하세요.")
    other = converted("안녕?", "안녕하세요.")
    other["messages"].insert(0, {"role": "system", "content": "친절하게 답하세요."})
    assert lost([row, other]) == {1: 0}


@pytest.mark.parametrize("name", ["train", "test_names", "test_phrasings", "test_long"])
def test_rows_of_one_template_are_kept(name):
    assert not lost(formats.load_rows(WORLD / f"{name}.jsonl", "sft"))


def test_pairs_of_one_template_are_kept():
    assert not lost(formats.load_rows(WORLD / "pairs.jsonl", "preference"))


# ── signatures ─────────────────────────────────────────────────────────────────────────────────────────────


def test_signatures_are_the_same_on_every_machine():
    signed = signatures([parts("안녕하세요, 오늘 날씨가 참 좋습니다.", "네, 정말 좋은 날씨입니다!"), parts("예", "예")])
    assert signed.dtype == np.uint8
    assert [int(value) for value in signed[:, :6].ravel()] == [246, 174, 147, 105, 141, 95, 175, 150, 6, 15, 59, 251]


def test_signatures_do_not_depend_on_the_other_rows(monkeypatch):
    draw = random.Random(7)
    rows = [parts(words(draw, draw.randint(0, 50)), words(draw, draw.randint(0, 5))) for _ in range(100)]
    signed = signatures(rows)
    assert signed.shape == (100, minhash.SLOTS)
    monkeypatch.setattr(minhash, "CHUNK", 1)
    assert np.array_equal(signatures(rows), signed)


@pytest.mark.parametrize("count", [15, 60, 300])
def test_equal_slots_tell_the_similarity(count):
    draw = random.Random(count)
    rows = [parts(words(draw, count), words(draw, count)) for _ in range(200)]
    copies = [
        row._replace(asked=edited(row.asked, draw, count // 5), answered=edited(row.answered, draw, 1)) for row in rows
    ]
    equal = (signatures(rows) == signatures(copies)).mean(axis=1)
    similar = [
        np.mean([jaccard(*pair) for pair in zip(row, copy, strict=True) if pair[0]])
        for row, copy in zip(rows, copies, strict=True)
    ]
    assert (equal - similar).mean() == pytest.approx(0, abs=0.012)
    assert np.abs(equal - similar).max() < 0.25


def test_nothing_to_compare():
    assert signatures([]).shape == (0, minhash.SLOTS)
    assert not list(find([], lambda row: parts()))
    assert found([parts()]) == {}
    assert similarities([]).tolist() == []
    assert similarities([(parts("가"), parts("가")), (parts("가"), parts("나"))]).tolist() == [1, 0]


def test_only_candidates_are_read():
    draw = random.Random(8)
    rows = [parts(words(draw, 50), "예") for _ in range(500)]
    rows.append(rows[7]._replace(asked=rows[7].asked + "!"))
    read = []
    results = list(find([signatures(rows[:200]), signatures(rows[200:])], lambda row: read.append(row) or rows[row]))
    assert results == [(500, 7, 1.0)]
    assert len(read) < 20


@pytest.mark.parametrize("threshold", [0.5, 1.1])
def test_a_threshold_that_means_nothing_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        list(find([], lambda row: parts(), threshold))
