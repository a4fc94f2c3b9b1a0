"""The chat store, and what build_preferences.py makes of it. No browser, no torch."""

import contextlib
import json
import sqlite3
import subprocess
from collections import Counter

import numpy as np
import pytest
from conftest import assert_refused, run_script, succeed

from sllm import bradley_terry
from sllm.chatstore import ChatStore, NotStored, StoredAnswer
from sllm.cli import InputError
from sllm.data import chat_votes, preferences

PROMPT = [{"role": "user", "content": "물은 몇 도에서 끓나요?"}]


@pytest.fixture
def store(tmp_path):
    opened = ChatStore(f"sqlite:///{tmp_path}/chat.db")
    yield opened
    opened.close()


def answer(id, text, model="sft", prompt=None, user_id="minji", **kwargs) -> StoredAnswer:
    return StoredAnswer(id, "c1", user_id, model, prompt or PROMPT, text, kwargs.pop("finish_reason", "stop"), **kwargs)


def vote(store, number, left, right, choice, **kwargs) -> None:
    models = kwargs.pop("models", ("sft", "dpo"))
    pair = [
        answer(f"{number}-{i}", text, model, **kwargs)
        for i, text, model in zip((0, 1), (left, right), models, strict=True)
    ]
    store.add_comparison(str(number), *pair)
    if choice:
        store.vote(str(number), choice)


def test_what_is_written_reads_back(store):
    given = answer("a", "100도입니다.", sampling={"seed": 7}, template_hash="f" * 64, task="task08_02")
    store.put_answer(given)
    kept = store.answer("a")
    assert kept.time
    assert kept == given
    store.set_thumb("a", 0, "틀렸다")
    store.set_thumb("a", 1, "다시 보니 맞다")
    assert [(t.value, t.comment) for t in store.read().thumbs] == [(1, "다시 보니 맞다")]
    store.set_thumb("a", None)
    assert store.read().thumbs == []
    with pytest.raises(KeyError):
        store.set_thumb("nobody", 1)
    with pytest.raises(KeyError):
        store.vote("nothing", "left")
    store.delete_conversation("c1")
    assert not store.read().answers


def test_a_vote_that_does_not_arrive_is_an_error(store, tmp_path):
    vote(store, 1, "가", "나", None)
    with sqlite3.connect(tmp_path / "chat.db") as other:
        other.execute("CREATE TRIGGER lost AFTER UPDATE ON sllm_comparisons BEGIN "
                      "UPDATE sllm_comparisons SET choice = 'tie' WHERE id = new.id; END")  # fmt: skip
    with pytest.raises(NotStored):
        store.vote("1", "left")
    with sqlite3.connect(tmp_path / "chat.db") as other:
        other.execute("DROP TABLE sllm_thumbs")
    with pytest.raises(NotStored):
        store.set_thumb("1-0", 1)


def test_a_comparison_is_whole_or_not_there(store):
    store.put_answer(answer("1-1", "있던 답"))
    with pytest.raises(NotStored):
        vote(store, 1, "가", "나", None)
    assert [a.id for a in store.read().answers.values()] == ["1-1"]
    assert store.read().comparisons == []


def test_votes_become_pairs(store):
    system = [{"role": "system", "content": "짧게."}, *PROMPT, {"role": "assistant", "content": "100도"}, *PROMPT]
    vote(store, 1, "가", "나", "left", prompt=system)
    vote(store, 2, "가", "나", "right")
    vote(store, 3, "가", "나", "tie")
    vote(store, 4, "가", "나", "both_bad")
    vote(store, 5, "가", "나", None)
    vote(store, 6, "같다", "같다", "left")
    vote(store, 7, "잘린 답", "나", "left", finish_reason="length")
    collected = chat_votes.from_chat(store.read())
    entries = preferences.merge(collected)
    assert [(e.row["prompt"], e.row["chosen"][0]["content"]) for e in entries] == [(system, "가"), (PROMPT, "나")]
    assert entries[1].models == {"chosen": "dpo", "rejected": "sft"}
    assert collected.dropped == {
        "tie": 1, "both bad": 1, "both answers are the same": 1, "the chosen answer was cut off": 1,
    }  # fmt: skip
    assert len(preferences.merge(chat_votes.from_chat(store.read(), keep_truncated=True))) == 3


def test_duplicates_merge_and_contradictions_are_reported(store):
    for number, (choice, user_id) in enumerate([("left", "a"), ("left", "b"), ("right", "c")]):
        vote(store, number, "가", "나", choice, user_id=user_id)
    vote(store, 10, "다", "라", "left", user_id="a")
    vote(store, 11, "다", "라", "right", user_id="a")
    vote(store, 12, "가", "나", "right", user_id="c")  # the same user once more
    collected = chat_votes.from_chat(store.read())
    (entry,) = preferences.merge(collected)
    assert entry.judgements == 2
    assert entry.user_ids == ["a", "b"]
    assert entry.row["chosen"][0]["content"] == "가"
    assert [(c["for"], c["against"], c["kept"]) for c in collected.contradictions] == [
        (["a", "b"], ["c"], True), (["a"], ["a"], False),
    ]  # fmt: skip
    assert collected.dropped == {"the same judgement again": 2, "outvoted": 1, "judged both ways equally often": 2}


def test_thumbs_under_the_same_prompt_become_pairs(store):
    for id, text, value in (("a", "좋은 답", 1), ("b", "나쁜 답", 0), ("c", "딴 답", 0)):
        store.put_answer(answer(id, text))
        store.set_thumb(id, value)
    store.put_answer(answer("d", "혼자", prompt=[{"role": "user", "content": "딴 질문"}]))
    store.set_thumb("d", 1)
    collected = chat_votes.from_chat(store.read())
    pairs = {(e.row["chosen"][0]["content"], e.row["rejected"][0]["content"]) for e in preferences.merge(collected)}
    assert pairs == {("좋은 답", "나쁜 답"), ("좋은 답", "딴 답")}
    assert not collected.dropped
    for id, value, user_id in (("e", 1, "a"), ("f", 0, "b")):
        store.put_answer(answer(id, "갈리는 답", user_id=user_id))
        store.set_thumb(id, value)
    collected = chat_votes.from_chat(store.read())
    assert len(collected.pairs) == 2
    assert collected.dropped == {"an answer with thumbs up and down": 2}
    assert [(c["for"], c["against"]) for c in collected.contradictions] == [(["a"], ["b"])]
    rows, dropped = chat_votes.unpaired(store.read())
    assert {(row["completion"][0]["content"], row["label"]) for row in rows} == {
        ("좋은 답", True), ("나쁜 답", False), ("딴 답", False), ("혼자", True),
    }  # fmt: skip
    assert dropped == {"judged both ways": 1}


def test_ratings_agree_with_an_independent_fit():
    """With the maximum of the same likelihood, climbed step by step, and with what the votes were drawn from."""
    generator = np.random.default_rng(0)
    truth = {"base": 900.0, "sft": 1000.0, "dpo": 1100.0}
    votes = []
    for _ in range(1500):
        left, right = generator.choice(list(truth), 2, replace=False)
        win = generator.random() < 1 / (1 + 10 ** ((truth[right] - truth[left]) / 400))
        votes.append((str(left), str(right), "left" if win else "right"))
    rated = bradley_terry.rate(votes, samples=200)
    assert [m.model for m in rated.models] == ["dpo", "sft", "base"]
    names = list(truth)
    tied = [("base", "sft"), ("base", "dpo"), ("sft", "dpo")]
    games = [*((left, right, choice == "left") for left, right, choice in votes), *((a, b, 0.5) for a, b in tied)]
    sides = np.array([[names.index(left), names.index(right)] for left, right, _ in games])
    score, strength = np.array([float(won) for *_, won in games]), np.zeros(3)
    for _ in range(4000):  # the likelihood climbed by its gradient
        p = 1 / (1 + np.exp(strength[sides[:, 1]] - strength[sides[:, 0]]))
        np.add.at(strength, sides[:, 0], 1e-3 * (score - p))
        np.add.at(strength, sides[:, 1], -1e-3 * (score - p))
    fitted = dict(zip(names, 1000 + 400 / np.log(10) * (strength - strength.mean()), strict=True))
    for model in rated.models:
        assert model.rating == pytest.approx(fitted[model.model], abs=0.5)
        assert model.low < truth[model.model] < model.high
    pair = rated.pairs[0]
    assert pair.a_wins + pair.b_wins == pair.votes
    assert pair.low < pair.a_rate < pair.high


def test_ratings_of_a_long_chain_are_converged():
    """Of two models that only met each other the rating gap has a closed form: 400 · log10 of the odds."""
    rated = bradley_terry.rate([("a", "b", "left")] * 100 + [("c", "d", "left")] * 30 + [("c", "d", "right")] * 10)
    gap = {m.model: m.rating for m in rated.models}
    assert gap["a"] - gap["b"] == pytest.approx(400 * np.log10(100.5 / 0.5), abs=0.2)
    assert gap["c"] - gap["d"] == pytest.approx(400 * np.log10(30.5 / 10.5), abs=0.2)
    assert {m.model: m.group for m in rated.models} == {"a": 0, "b": 0, "c": 1, "d": 1}
    chain = bradley_terry.rate([(f"m{n}", f"m{n + 1}", "left") for n in range(7) for _ in range(100)], samples=100)
    steps = np.diff([m.rating for m in chain.models])
    assert steps == pytest.approx(-400 * np.log10(100.5 / 0.5), abs=0.2)


def test_ratings_of_few_votes_are_finite():
    rated = bradley_terry.rate([("a", "b", "left")] * 3 + [("a", "c", "both_bad")])
    assert next(m.model for m in rated.models) == "a"
    assert all(np.isfinite(m.rating) for m in rated.models)
    assert rated.pairs[-1].both_bad + rated.pairs[0].both_bad == 1
    assert bradley_terry.rate([]) == bradley_terry.Ratings()


def test_the_script_writes_what_it_says(store, tmp_path):
    for number in range(4):
        vote(store, number, f"가{number}", f"나{number}", "left")
    out = tmp_path / "preferences"
    done = succeed("build_preferences.py", "--from_chat", tmp_path / "chat.db", "--output_dir", out, "--kto")
    assert done["rows"] == 4
    assert done["kto_rows"] == 8
    assert {file.name for file in out.iterdir()} == {
        "train.jsonl", "kto.jsonl", "ratings.json", "ratings.png", "rejects.jsonl", "report.json", "run.json",
    }  # fmt: skip
    row = json.loads((out / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert set(row) == {"id", "task", "prompt", "chosen", "rejected"}
    assert_refused(
        run_script("build_preferences.py", "--from_chat", tmp_path / "chat.db", "--output_dir", out), "--overwrite"
    )


def test_the_script_refuses_what_holds_nothing(store, tmp_path):
    refused = run_script("build_preferences.py", "--from_chat", tmp_path / "no.db", "--output_dir", tmp_path / "out")
    assert_refused(refused, "no.db does not exist")
    vote(store, 1, "가", "나", "tie")
    refused = run_script("build_preferences.py", "--from_chat", tmp_path / "chat.db", "--output_dir", tmp_path / "out")
    assert_refused(refused, "1 tie")
    (tmp_path / "text.db").write_text("이것은 데이터베이스가 아니다. " * 99)
    refused = run_script("build_preferences.py", "--from_chat", tmp_path / "text.db", "--output_dir", tmp_path / "out")
    assert_refused(refused, "not a database")
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE somebodys (id INTEGER)")
    before = (tmp_path / "other.db").read_bytes()
    refused = run_script("build_preferences.py", "--from_chat", tmp_path / "other.db", "--output_dir", tmp_path / "out")
    assert_refused(refused, "not a database of chainlit_app.py")
    assert (tmp_path / "other.db").read_bytes() == before
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="not a SQLAlchemy URL"):
        ChatStore("chat.db")


def test_answers_without_a_prompt_make_no_rows(store):
    for id, value in (("a", 1), ("b", 0)):
        store.put_answer(StoredAnswer(id, "c", "r", "sft", [], f"답 {id}", "stop"))
        store.set_thumb(id, value)
    assert not chat_votes.from_chat(store.read()).pairs
    assert not chat_votes.unpaired(store.read())[0]


def test_many_thumbs_on_one_prompt_stay_a_few_balanced_pairs(store):
    for number in range(60):
        for value in (1, 0):
            store.put_answer(answer(f"{number}-{value}", f"{value} 답 {number}"))
            store.set_thumb(f"{number}-{value}", value)
    collected = chat_votes.from_chat(store.read(), max_pairs_per_prompt=90)
    assert len(collected.pairs) == 90
    assert len({pair.key for pair in collected.pairs}) == 90
    for side in ("chosen", "rejected"):
        uses = Counter(getattr(pair, side).text for pair in collected.pairs)
        assert len(uses) == 60
        assert set(uses.values()) == {1, 2}
    assert collected.capped == [{"prompt": PROMPT, "up": 60, "down": 60, "kept": 90}]
    assert collected.dropped == {"more pairs of thumbs than --max_pairs_per_prompt": 3510}
    assert len(chat_votes.from_chat(store.read()).pairs) == 10
    assert len(chat_votes.from_chat(store.read(), max_pairs_per_prompt=5000).pairs) == 3600


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 60), (6, 4), (5, 7), (0, 3)])
def test_pairs_are_balanced_wherever_they_are_cut_off(up, down):
    pairs = list(chat_votes.balanced_pairs(list(range(up)), list(range(down))))
    assert len(pairs) == len(set(pairs)) == up * down
    for length in range(1, len(pairs) + 1):
        for side, number in ((0, up), (1, down)):
            uses = Counter(pair[side] for pair in pairs[:length])
            assert max(uses.values()) - min(uses.get(i, 0) for i in range(number)) <= 1


SPOILT = [
    *(
        (f"UPDATE sllm_answers SET prompt = '{prompt}' WHERE id = '0-0'", reason)
        for prompt, reason in (
            ('[{"role": "user"', "not a JSON list"), ("{}", "not a JSON list"), ("[]", "not a JSON list"),
            ('[{"role": "user", "content": null}]', "without text"),
            ('[{"role": "tool", "content": "x"}]', "role 'tool'"),
            ('[{"role": "assistant", "content": "x"}]', "does not end with a question"),
        )
    ),
    ("UPDATE sllm_answers SET sampling = '3' WHERE id = '0-0'", "sampling"),
    ("DELETE FROM sllm_answers WHERE id = '0-0'", "left answer is missing"),
    ("UPDATE sllm_comparisons SET choice = 'middle' WHERE id = '0'", "'middle'"),
    ("UPDATE sllm_thumbs SET value = 7", "value 7"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "reason"), SPOILT)
def test_rows_that_cannot_be_used_are_rejects_with_a_reason(store, tmp_path, damage, reason):
    vote(store, 0, "왼쪽", "오른쪽", "left")
    store.set_thumb("0-0", 1)
    vote(store, 1, "가", "나", "right")
    with sqlite3.connect(tmp_path / "chat.db") as other:
        assert other.execute(damage).rowcount == 1
    out = tmp_path / "out"
    done = succeed("build_preferences.py", "--from_chat", tmp_path / "chat.db", "--output_dir", out, "--kto")
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert any(reason in reject["reason"] for reject in rejects), rejects
    rows = (out / "train.jsonl").read_text(encoding="utf-8")
    assert done["rejects"] == len(rejects)
    assert '"나"' in rows
    assert ("왼쪽" in rows) == ("thumbs" in damage)


def test_a_vote_after_the_names_is_kept_apart_and_not_trained_on(store):
    vote(store, 0, "왼쪽", "오른쪽", "left")
    store.vote("0", "right")
    assert (store.read().comparisons[0].choice, store.read().comparisons[0].changed) == ("left", "right")
    (entry,) = preferences.merge(chat_votes.from_chat(store.read()))
    assert entry.row["chosen"][0]["content"] == "왼쪽"
    store.delete_conversation("c1")
    assert store.read().comparisons == []


def test_a_database_of_an_older_page_is_read(store, tmp_path):
    vote(store, 0, "왼쪽", "오른쪽", "left")
    with sqlite3.connect(tmp_path / "chat.db") as other:
        other.execute("DROP TABLE sllm_changed_votes")
    old = ChatStore(f"sqlite:///{tmp_path}/chat.db", must_exist=True)
    assert [c.choice for c in old.read().comparisons] == ["left"]


def test_a_killed_writer_leaves_a_clean_database(tmp_path):
    """kill -9 in the middle of votes: at most the one that was being written is missing."""
    import signal
    import sys

    code = f"""
import sys; sys.path.insert(0, {str(tmp_path.parent)!r})
from sllm.chatstore import StoredAnswer, ChatStore
store = ChatStore("sqlite:///{tmp_path}/chat.db")
for number in range(10_000):
    prompt = [{{"role": "user", "content": "물은?"}}]
    pair = [StoredAnswer(f"{{number}}-{{side}}", "c", "r", side, prompt, side) for side in ("left", "right")]
    store.add_comparison(str(number), *pair)
    store.vote(str(number), "left")
    print(number, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    said = [process.stdout.readline() for _ in range(40)]
    process.send_signal(signal.SIGKILL)
    said += process.stdout.readlines()
    process.wait()
    last = int([line for line in said if line.endswith("\n")][-1])
    with sqlite3.connect(tmp_path / "chat.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store = ChatStore(f"sqlite:///{tmp_path}/chat.db", must_exist=True)
    voted = [c for c in store.read().comparisons if c.choice]
    assert last + 1 <= len(voted) <= last + 2
    assert len(store.read().comparisons) - len(voted) <= 1
