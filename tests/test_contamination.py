"""Test items that a model was trained on are found, however they are disguised, by what every stage leaves behind."""

import random
import shutil
import unicodedata

import numpy as np
import pytest
from conftest import ROOT, SFT, assert_refused, run_script, succeed

from sllm import checkpoint, cli, contamination, text_hashes, training_texts
from sllm.contamination import THRESHOLD, item_of, overlap
from sllm.data import formats, training
from sllm.hashes import TRAINING_TEXTS

WORLD = ROOT / "sample_data" / "world"
SYLLABLES = [chr(code) for code in range(ord("가"), ord("힣"), 23)]


def words(draw: random.Random, count: int) -> str:
    return " ".join("".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(count)) + "."


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    """200 training rows, each a question of about 100 characters and an answer of about 200."""
    draw = random.Random(1)
    return [[words(draw, 40), words(draw, 80)] for _ in range(200)]


@pytest.fixture(scope="module")
def signature(rows):
    return training_texts.signature_of(rows)


def others(count: int = 20) -> list[list[str]]:
    draw = random.Random(2)
    return [[words(draw, 40), words(draw, 20)] for _ in range(count)]


def marked(item: list[str], signature) -> bool:
    shares = overlap([item, *others()], signature)
    assert (shares[1:] < THRESHOLD).all()
    return bool(shares[0] >= THRESHOLD)


def signature_with(*texts: str):
    return training_texts.signature_of([[text, "답변"] for text in ("다른 질문입니다", *texts)])


# ── leaks ──────────────────────────────────────────────────────────────────────────────────────────────────

LONG = words(random.Random(3), 60)


@pytest.mark.parametrize(
    "leak",
    [
        LONG,
        f"**{'  '.join(LONG.split())}** (\n{LONG[:5]}…)",
        LONG.replace(".", "").replace(" ", ""),
        unicodedata.normalize("NFD", LONG),
        f"{words(random.Random(4), 99)} {LONG} {words(random.Random(5), 99)}",
    ],
    ids=["verbatim", "markup and spaces", "no spaces", "NFD", "inside a longer text"],
)
def test_a_leaked_question_is_found(leak):
    assert marked([LONG, "답"], signature_with(leak))


def test_case_makes_no_difference():
    question = "Explain what a LoRA adapter is, and why its rank matters."
    assert marked([question.lower(), ""], signature_with(question.upper()))


def test_a_leaked_context_is_found_with_another_question():
    assert marked([f"{LONG}\n\n누가 왔습니까?", "그 사람"], signature_with(f"{LONG}\n\n언제 일어난 일입니까?"))


def test_a_leaked_answer_is_found_where_nearly_all_of_it_is_in_a_row(rows, signature):
    answer = rows[0][1]
    assert marked(["그 사람에 대해 써 주세요", answer], signature)
    half = answer[: len(answer) // 2]
    assert not marked(["그 사람에 대해 써 주세요", half + words(random.Random(6), 40)], signature)
    assert not marked(["그 사람에 대해 써 주세요", "좋은 질문입니다."], signature_with("좋은 질문입니다."))


def test_parts_of_several_rows_are_no_leak(rows, signature):
    assert not marked([" ".join(row[0][:30] for row in rows[:6]), ""], signature)


@pytest.mark.parametrize("question", ["너 몇 살이야?", "안녕하세요, 반갑습니다!"])
def test_a_short_question_is_found_as_a_whole(question):
    assert marked([question, "비밀이에요."], signature_with(question.replace(" ", "") + "?!"))
    assert not marked([question, "비밀이에요."], signature_with(f"{question} 그리고 어디에 살아?"))
    assert not marked([question, "비밀이에요."], signature_with("너 몇 시에 자?"))


def test_the_turns_of_a_conversation_count_together(rows, signature):
    messages = [
        {"role": "system", "content": "친절하게 답하세요."},
        {"role": "user", "content": words(random.Random(7), 30)},
        {"role": "assistant", "content": words(random.Random(8), 30)},
        {"role": "user", "content": "더 자세히 알려 주세요"},
    ]
    item = item_of(messages, None)
    assert item == [turn["content"] for turn in messages[1:]] + [""]
    joined = training_texts.merge([signature, signature_with("더 자세히 알려 주세요")])
    assert not marked(item, joined)


def test_thirty_leaks_of_a_thousand_items_are_found_and_no_others():
    draw = random.Random(13)
    sentences = [words(draw, 6) for _ in range(400)]
    items = [[" ".join(draw.sample(sentences, 5)), draw.choice(sentences)] for _ in range(1000)]
    rows = [[" ".join(draw.sample(sentences, 5)), draw.choice(sentences)] for _ in range(3000)]
    for place, item in zip(draw.sample(range(3000), 30), items, strict=False):
        rows[place] = [f"{rows[place][0]} {item[0]}", item[1]]
    shares = overlap(items, training_texts.signature_of(rows))
    assert (shares[:30] >= THRESHOLD).all()
    assert (shares[30:] >= THRESHOLD).mean() <= 0.01


# ── frames ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_frames_of_tasks_are_not_compared():
    frame = words(random.Random(9), 60)
    draw = random.Random(10)
    items = [[f"{frame}\n{words(draw, 8)}", ""] for _ in range(50)]
    signature = signature_with(*(f"{frame}\n{words(draw, 8)}" for _ in range(20)), items[0][0])
    shares = overlap(items, signature)
    assert shares[0] == 1
    assert (shares[1:] < THRESHOLD).all()
    assert overlap(items[1:2], signature)[0] >= THRESHOLD  # one item alone does not show that it is a frame
    many = signature_with(*(f"{frame}\n{words(draw, 8)}" for _ in range(60)))
    assert overlap(items[1:2], many)[0] < THRESHOLD  # but the training rows do


def test_a_row_that_is_repeated_is_no_frame():
    signature = signature_with(*[LONG] * 500)
    assert len(signature.counts) == 2
    assert signature.rows == 501
    assert marked([LONG, ""], signature)


def test_an_item_that_is_all_frame_has_no_share():
    items = [["글을 요약해 주세요", ""]] * 10
    assert overlap(items, signature_with("글을 요약해 주세요")).tolist() == [0] * 10


def test_the_small_world_is_not_marked_for_its_templates():
    """6 of 240 are marked. They ask for a text with a title; the answers of 5 are training answers but for a sentence,
    and a title is one of training but for the name."""
    sets = [formats.load_rows(WORLD / "train.jsonl", "sft"), formats.load_rows(WORLD / "pairs.jsonl", "preference")]
    signature = training_texts.merge([training_texts.signature_of(training.texts(each)) for each in sets])
    rows = formats.load_rows(WORLD / "test_names.jsonl", "prompts")
    shares = overlap([item_of(row["messages"], row["reference"]) for row in rows], signature)
    found = {row["task"] for row, share in zip(rows, shares, strict=True) if share >= THRESHOLD}
    assert found <= {"task10_01", "task10_02"}
    assert (shares >= THRESHOLD).mean() < 0.03
    assert (overlap([item_of(row["messages"], None) for row in rows], signature) >= THRESHOLD).sum() <= 1


# ── the signature ──────────────────────────────────────────────────────────────────────────────────────────


def test_hashes_are_the_same_on_every_machine():
    hashes = text_hashes.hashes_of(["가나다라마바사아자차카타파하", "abc"])
    assert [int(value) for value in hashes.runs] == [812218920, 1193308108]
    assert [int(value) for value in hashes.wholes] == [7259825253250020261, 16488843966692891127]
    assert hashes.lengths.tolist() == [14, 3]


def test_runs_do_not_cross_texts():
    texts = ["가나다라마바사", "아자차카타파하거너더러머버", "", "가나다라마바사아자차카타파하거너더러머버"]
    hashes = text_hashes.hashes_of(texts)
    assert np.bincount(hashes.text_of_run, minlength=4).tolist() == [0, 1, 0, 8]
    assert hashes.runs[0] == hashes.runs[-1]


def test_a_large_set_is_sampled_and_leaks_are_found(rows):
    draw = random.Random(11)
    signature = training_texts.signature_of(rows, budget=8000)
    assert signature.every == 8
    assert len(signature.runs) <= 8000
    items = [*([row[0] + row[1], ""] for row in rows[:30]), *([words(draw, 120), ""] for _ in range(200))]
    shares = overlap(items, signature)
    assert (shares[:30] >= THRESHOLD).all()
    assert (shares[30:] < THRESHOLD).all()
    assert overlap([rows[5]], signature).tolist() == [1]  # as it is


def test_it_is_the_same_in_chunks_and_when_merged(rows, signature, monkeypatch):
    monkeypatch.setattr(text_hashes, "CHUNK", 1000)
    chunked = training_texts.signature_of(rows)
    merged = training_texts.merge([training_texts.signature_of(rows[:120]), training_texts.signature_of(rows[80:])])
    assert (chunked.rows, merged.rows) == (200, 240)
    for other in (chunked, merged):
        assert sorted(other.runs) == sorted(signature.runs)
        assert sorted(other.wholes) == sorted(signature.wholes)
    assert np.array_equal(overlap(rows, chunked), np.ones(200))
    new = [[words(random.Random(12), 200)]]
    sampled = training_texts.merge([signature, training_texts.signature_of(new, budget=100)])
    assert sampled.every == 8
    assert marked(rows[3], sampled)


@pytest.mark.parametrize("texts", [[], [[]], [[""]], [["", "…!"], []], [["\0", "\ud800"]]])
def test_nothing_to_compare(texts, signature):
    empty = training_texts.signature_of(texts)
    assert overlap([["너 몇 살이야?", ""], [LONG, LONG]], empty).tolist() == [0, 0]
    assert overlap([[*row, "", ""] for row in texts], signature).tolist() == [0] * len(texts)


def test_an_item_without_an_answer_says_so(signature):
    with pytest.raises(ValueError, match="last, the reference answer"):
        overlap([["너 몇 살이야?"]], signature)


def test_it_is_read_as_it_was_written(tmp_path, signature):
    record = training_texts.write(tmp_path, training_texts.replace(signature, missing=("sft-어제",)))
    assert record == {
        "file": TRAINING_TEXTS,
        "rows": 200,
        "characters": signature.characters,
        "hashes": len(signature.runs),
        "every": 1,
        "missing": ["sft-어제"],
    }
    assert [path.name for path in tmp_path.iterdir()] == [TRAINING_TEXTS]
    again = training_texts.read(tmp_path)
    for name, value in vars(signature).items():
        assert np.array_equal(getattr(again, name), value) or name == "missing"
    assert again.missing == ("sft-어제",)
    first = (tmp_path / TRAINING_TEXTS).read_bytes()
    training_texts.write(tmp_path, again)
    assert (tmp_path / TRAINING_TEXTS).read_bytes() == first


def test_a_model_without_one_is_unknown(tmp_path):
    assert training_texts.read(tmp_path) is None
    assert training_texts.read(tmp_path / "missing") is None
    assert training_texts.read("org/name") is None
    assert contamination.notes(tmp_path, [[LONG, ""]]) == []


def damaged(tmp_path, signature, damage: str) -> str:
    path = tmp_path / TRAINING_TEXTS
    training_texts.write(tmp_path, signature)
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "another file":
        path.write_text("no archive")
    elif damage == "a flipped byte":
        content = bytearray(path.read_bytes())
        content[2000] ^= 1
        path.write_bytes(content)
    elif damage == "an array is missing":
        np.savez(path, numbers=np.array([1, 1, 0, 0]))
    elif damage == "of other rows":
        training_texts.write(tmp_path, training_texts.replace(signature, counts=signature.counts[:-1]))
    with pytest.raises(cli.InputError) as error:
        training_texts.read(tmp_path)
    (line,) = error.value.problems
    return line


@pytest.mark.parametrize(
    "damage", ["cut off", "another file", "a flipped byte", "an array is missing", "of other rows"]
)
def test_a_damaged_file_is_told(tmp_path, signature, damage):
    line = damaged(tmp_path, signature, damage)
    assert f"{TRAINING_TEXTS} is damaged (" in line
    assert f"python -m sllm.accept {tmp_path}" in line


def test_hashes_of_another_version_are_not_compared(tmp_path, signature, monkeypatch):
    training_texts.write(tmp_path, signature)
    monkeypatch.setattr(text_hashes, "VERSION", 2)
    with pytest.raises(cli.InputError, match="of version 1, and this version reads 2"):
        training_texts.read(tmp_path)


def test_a_system_turn_that_repeats_is_kept_once():
    rows = [{"messages": [{"role": "system", "content": "규칙"}, {"role": "user", "content": text}]} for text in "가나"]
    pair = {"prompt": rows[0]["messages"], "chosen": [{"role": "assistant", "content": "좋은 답"}]}
    pair["rejected"] = [{"role": "assistant", "content": "나쁜 답"}]
    assert list(training.texts(rows)) == [["규칙", "가"], ["나"]]
    assert list(training.texts([pair])) == [["규칙", "가", "좋은 답", "나쁜 답"]]


# ── the lineage ────────────────────────────────────────────────────────────────────────────────────────────


def prompts_of(path) -> list[list[str]]:
    return [item_of(row["messages"], row["reference"]) for row in formats.load_rows(path, "prompts")]


def share_found(model, path) -> float:
    return float((overlap(prompts_of(path), training_texts.read(model)) >= THRESHOLD).mean())


@pytest.mark.torch
def test_every_stage_carries_the_texts_of_those_before(sft_folder, dpo_folder, few_rows, few_pairs, tmp_path):
    run = checkpoint.require(sft_folder, stage="sft")
    record = run["data"]["training_texts"]
    assert (record["file"], record["rows"], record["missing"]) == (TRAINING_TEXTS, 20, [])
    assert TRAINING_TEXTS in run["files"]
    assert TRAINING_TEXTS in (sft_folder / "README.md").read_text(encoding="utf-8")
    assert share_found(sft_folder, few_rows) == pytest.approx(20 / 23)  # 3 are for validation
    pairs = checkpoint.read_run(dpo_folder)["data"]["train"]["rows"]
    assert checkpoint.read_run(dpo_folder)["data"]["training_texts"]["rows"] == 20 + pairs
    merged = tmp_path / "merged"
    succeed("merged_weights.py", "--model_id", dpo_folder, "--merged_weights_path", merged, "--dtype", "float16")
    assert TRAINING_TEXTS in checkpoint.read_run(merged)["files"]
    for model in (dpo_folder, merged):
        assert share_found(model, few_rows) == pytest.approx(20 / 23)
        assert share_found(model, few_pairs) == 1
    assert contamination.notes(merged, prompts_of(few_rows)) == [
        "20 of 23 prompts overlap with rows that the model was trained on"
    ]
    (merged / TRAINING_TEXTS).unlink()
    with pytest.raises(cli.InputError, match=rf"{TRAINING_TEXTS} is missing.*sllm\.accept"):
        checkpoint.require_model(str(merged))


def test_a_parent_whose_texts_are_not_known_is_told(tiny_base, signature, tmp_path):
    assert training_texts.with_parent(signature, tiny_base).missing == ()  # a base
    assert training_texts.with_parent(signature, "org/name").missing == ()
    older, elsewhere, new = tmp_path / "older", tmp_path / "elsewhere", tmp_path / "new"
    for folder in (older, elsewhere, new):
        folder.mkdir()
    checkpoint.write_run(older, "merged", None)
    (elsewhere / "adapter_config.json").write_text("{}")
    assert training_texts.with_parent(signature, elsewhere).missing == ("elsewhere",)
    training_texts.write(new, training_texts.with_parent(signature, older))
    newer = training_texts.with_parent(signature_with(LONG), new)
    assert newer.missing == ("older",)
    assert marked([LONG, ""], newer)
    assert contamination.notes(new, others()) == ["the training rows of older are not known: more prompts may overlap"]


@pytest.mark.torch
def test_a_damaged_parent_is_refused_before_training(sft_folder, few_rows, tmp_path):
    parent = tmp_path / "sft"
    shutil.copytree(sft_folder, parent)
    (parent / TRAINING_TEXTS).write_bytes(b"PK")
    done = run_script(*SFT, "--trainset_path", few_rows, "--model_id", parent, "--output_dir", tmp_path / "out")
    assert_refused(done, f"{TRAINING_TEXTS} is damaged", f"{TRAINING_TEXTS} has 2 bytes")
