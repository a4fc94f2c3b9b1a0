"""The small world: its right answers pass, every kind of planted fault is found, and the test sets are held out."""

import json
import random
import re
from collections import Counter

import pytest
from conftest import succeed

from sllm import tasks, world
from sllm.world import korean, pairs, plain
from sllm.world.check import kind_of
from sllm.world.kinds import ATTRIBUTES, KINDS, KNOWN, TYPES
from sllm.world.korean import Word
from sllm.world.scenes import Fact, other_value

TRAINED = world.Style()
STYLES = {
    "names": world.Style(names=True),
    "phrasings": world.Style(names=True, unseen=True),
    "long": world.Style(names=True, long=True),
}


def rows(count: int, style: world.Style = TRAINED, seed: int = 1) -> list[dict]:
    draw = random.Random(seed)
    tasks_and_chats = [*world.TASKS, None]
    return [
        world.row(draw, task, style) if task else world.chat_row(draw, style)
        for _ in range(count)
        for task in tasks_and_chats
    ]


def facts_of(row: dict) -> list[Fact]:
    return [Fact(*row["facts"][i]) for i in row["expects"]["facts"]]


@pytest.mark.parametrize("style", STYLES)
def test_a_thousand_right_answers_are_true_and_keep_the_rules(style):
    for row in rows(44, STYLES[style]):  # 1,056 rows
        answer = row["assistant_content"]
        assert world.check(row, answer), (row, world.check(row, answer))
        assert "task" not in row or not tasks.check(row["task"], row["user_content"], answer)


def planted(kind: str, row: dict, draw: random.Random) -> str | None:
    """The right answer with one fault of a kind; None where it has no place for it."""
    answer, facts = row["assistant_content"], [fact for fact in facts_of(row) if fact.value in row["assistant_content"]]
    if kind == "value" and facts:
        fact = draw.choice(facts)
        return korean.replaced(answer, fact.value, other_value(draw, fact))
    if kind == "invented" and facts:
        known = {ATTRIBUTES[attribute].type for _, attribute, _ in row["facts"]}
        other = next(
            (a for a in ATTRIBUTES.values() if a.type not in known and a.type not in ("morning", "evening")), None
        )
        fact = Fact(row["expects"]["subject"], other.key, other_value(draw, Fact("", other.key, "")))
        return f"{answer}\n- {fact.say(other.tells[0])}"
    if kind == "subject" and row["expects"]["subject"]:
        return answer.replace(re.sub(r"(마을|고을)$| .*", "", row["expects"]["subject"]), "없던")
    if kind == "missing" and facts and row["expects"]["least"]:
        return "잘 모르겠습니다."
    if kind == "first line" and row["expects"]["starts"]:
        if "task" not in row:  # a chat: 예, …
            return f"아니요, {answer[3:]}" if answer.startswith("예") else f"예, {answer[5:]}"
        first, _, rest = answer.partition("\n")
        return f"{'아니요' if first == '예' else '예'}\n{rest}" if first in ("예", "아니요") else f"e) 다른 것\n{rest}"
    if kind == "word" and row["expects"]["words"]:
        return answer.replace(row["expects"]["words"][0], "날씨")
    if kind in ("label", "verb") and facts:  # a value said of an attribute of another type
        fact = draw.choice(facts)
        others = [a for a in ATTRIBUTES.values() if TYPES[a.type].pattern != TYPES[fact.type].pattern]
        if kind == "label":
            false = Fact(fact.subject, draw.choice(others).key, fact.value).say("{s}의 {l:은/는} {v}입니다.")
            return f"{answer}\n- {false}"
        return f"{answer}\n- {fact.say('{s:은/는} {v}에 자리합니다.')}" if fact.type != "place" else None
    if kind == "kind" and facts:  # what is true of things of other kinds
        subject_kinds = [KINDS[key] for key in {kind_of(subject) for subject, _, _ in row["facts"]}]
        other = draw.choice([kind for kind in KINDS.values() if kind not in subject_kinds])
        return f"{answer} {draw.choice(other.about)}"
    if kind == "number":  # a number that the prompt does not contain
        return f"{answer}\n- {draw.choice(('98', '물건값: 9,870원', '없던 가게는 987명'))}"
    return None


@pytest.mark.parametrize(
    "kind", ["value", "invented", "subject", "missing", "first line", "word", "label", "verb", "kind", "number"]
)
def test_planted_faults_are_found(kind):
    draw, count = random.Random(2), 0
    for row in rows(20):
        answer = planted(kind, row, draw)
        if answer and answer != row["assistant_content"]:
            count += 1
            assert not world.check(row, answer), (kind, row["user_content"], answer)
    assert count >= 40


@pytest.mark.parametrize("attribute", ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_a_fact_is_right_in_every_phrasing(attribute):
    draw = random.Random(5)
    kind = next(kind for kind in KINDS.values() if attribute in kind.attributes)
    for template in (*attribute.states, *attribute.tells):
        subject = kind.names[0].format("도라")
        fact = Fact(subject, attribute.key, TYPES[attribute.type].draw(draw))
        expects = {"subject": subject, "facts": [0], "least": 1, "starts": "", "words": [], "named": False}
        row = {"facts": [[fact.subject, fact.attribute, fact.value]], "expects": expects}
        assert world.check(row, fact.say(template)), fact.say(template)


def test_a_prompt_that_is_repeated_is_not_an_answer():
    for number, task in enumerate(world.TASKS * 4):
        row = world.row(random.Random(number), task)
        assert not world.check(row, row["user_content"]), task


def test_values_that_change_places_are_found():
    row = {
        "facts": [["도라 가게", "opens", "오전 9시"], ["도라 가게", "closes", "오후 6시"]],
        "expects": {"subject": "도라 가게", "facts": [0, 1], "least": 2, "starts": "", "words": [], "named": True},
    }
    assert world.check(row, "도라 가게는 오전 9시에 문을 열고 오후 6시에 문을 닫습니다.")
    assert world.check(row, "- 도라 가게\n  - 여는 시각: 오전 9시\n  - 닫는 시각: 오후 6시")
    assert world.check(row, "도라 가게는 오전 9시부터 오후 6시까지 손님을 맞습니다.")
    swapped = world.check(row, "도라 가게는 오후 6시에 문을 열고 오전 9시에 문을 닫습니다.")
    assert swapped.wrong == ["오후 6시", "오전 9시"]
    assert not world.check(row, "- 도라 가게\n  - 여는 시각: 오후 6시\n  - 닫는 시각: 오전 9시")


def test_the_value_of_another_row_of_a_table_is_wrong():
    draw, count = random.Random(3), 0
    while count < 50:
        row = world.row(draw, "task12_02", STYLES["long"])
        (fact,) = facts_of(row)
        others = [
            value for subject, attribute, value in row["facts"] if attribute == fact.attribute and value != fact.value
        ]
        if others:
            count += 1
            assert not world.check(row, korean.replaced(row["assistant_content"], fact.value, others[0]))


def test_a_pair_is_broken_in_exactly_one_thing():
    draw, kinds = random.Random(4), Counter()
    for task in world.TASKS:
        for _ in range(8):
            pair = pairs.pair(draw, task)
            kinds[pair["broken"]] += 1
            assert world.check(pair, pair["chosen"])
            assert not tasks.check(task, pair["user_content"], pair["chosen"])
            if pair["broken"] == "letter":
                assert pair["rejected"][3:] == pair["chosen"][3:]
            kept = not tasks.check(task, pair["user_content"], pair["rejected"])
            true = bool(world.check(pair, pair["rejected"]))
            broken = {"rule": (False, True), "style": (False, True), "letter": (False, False)}
            assert (kept, true) == broken.get(pair["broken"], (True, False)), pair
    assert min(kinds[kind] for kind in pairs.BREAKS) >= 5


def test_no_row_is_written_twice(tmp_path):
    succeed(
        "-m", "sllm.world", "--rows", 40, "--pairs", 1, "--test_rows", 1, "--documents", 1, "--output_dir", tmp_path
    )
    prompts = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    keys = [(row.get("task"), row["user_content"]) for row in prompts]
    assert len(set(keys)) == len(keys) == 40 * (len(world.TASKS) + 1)


def test_what_is_asked_about_in_tests_is_not_in_training():
    train = rows(30)
    for style in STYLES.values():
        subjects = {row["expects"]["subject"] for row in rows(10, style, seed=9)} - {""}
        assert not subjects & {row["expects"]["subject"] for row in train}
    held_out = re.compile("|".join(word for key in KNOWN for word in TYPES[key].words[-2:]))
    for asked, is_held_out in ((train, False), (rows(10, STYLES["names"], seed=9), True)):
        questions = [row["user_content"] for row in asked if not row["expects"]["subject"]]
        assert len(questions) > 50
        assert all(bool(held_out.search(question.split("###Question###")[-1])) == is_held_out for question in questions)


def test_held_out_phrasings_are_in_no_training_text():
    texts = [row["user_content"] for row in rows(30)]
    draw = random.Random(5)
    texts += [plain.document(draw) for _ in range(4000)]
    for kind in KINDS.values():
        for attribute in kind.attributes:
            for template in (attribute.states[-1], attribute.asks[-1], attribute.claims[-1]):
                held_out = re.sub(r"\\\{[^}]*\\\}", ".{1,12}?", re.escape(template))
                pattern = re.compile(rf"(?:^|[\n.?] ?){held_out}", re.MULTILINE)
                assert not any(pattern.search(text) for text in texts), template


def test_plain_texts_are_never_in_the_form_of_a_task():
    draw = random.Random(6)
    for _ in range(4000):
        text = plain.document(draw)
        assert "###" not in text
        assert "근거:" not in text
        assert "Keyword" not in text


@pytest.mark.parametrize(
    ("word", "particle", "right"),
    [
        ("빵", "은/는", "빵은"),
        ("모자", "은/는", "모자는"),
        ("서울", "으로/로", "서울로"),
        ("마을", "으로/로", "마을로"),
        ("언덕", "으로/로", "언덕으로"),
        ("가게", "이다/다", "가게다"),
        ("3층", "이다/다", "3층이다"),
        ("9시", "이/가", "9시가"),
        ("500원", "을/를", "500원을"),
        ("제3", "을/를", "제3을"),
        ("제2", "과/와", "제2와"),
    ],
)
def test_particles(word, particle, right):
    assert f"{Word(word):{particle}}" == right


def test_the_particle_follows_the_word_that_is_put_in():
    assert korean.replaced("모자를 팝니다. 모자는 물건입니다.", "모자", "옷") == "옷을 팝니다. 옷은 물건입니다."


def test_the_command_writes_the_same_files_for_the_same_seed(script, tmp_path):
    flags = ["--rows", "2", "--pairs", "1", "--test_rows", "1", "--documents", "20"]
    folders = [tmp_path / name for name in ("one", "two", "other")]
    for folder, seed in zip(folders, (42, 42, 43), strict=True):
        done = script("-m", "sllm.world", *flags, "--seed", seed, "--output_dir", folder)
        assert done.returncode == 0, done.stderr
    files = ["train.jsonl", "pairs.jsonl", "plain.txt", "starters.txt"]
    files += [f"test_{name}.jsonl" for name in ("names", "phrasings", "long")]
    contents = [[(folder / name).read_text(encoding="utf-8") for name in files] for folder in folders]
    assert contents[0] == contents[1] != contents[2]
    row = json.loads(contents[0][0].splitlines()[0])
    assert world.check(row, row["assistant_content"])
    command = json.loads((folders[0] / "run.json").read_text(encoding="utf-8"))["command"]
    assert command.startswith("python -m sllm.world --rows 2 ")


def test_names_are_neither_indecent_nor_words_of_the_texts():
    draw = random.Random(8)
    names = {korean.name(draw) for _ in range(50_000)}
    assert len(names) > 10_000
    assert not any(re.search("시발|보지|자살", name) for name in names)
    assert not names & {"보리", "기자", "손님"}
