"""Filters of rows by their texts, repairs, and both with personal data in one pass."""

import argparse
import copy
import json
import pickle
import unicodedata

import pytest
from conftest import ROOT, SAMPLE_PAIRS, SAMPLE_ROWS
from hypothesis import given, settings
from hypothesis import strategies as st

from sllm import cli
from sllm.cli import InputError
from sllm.data import characters, curation_flags, filters, formats
from sllm.data.curation import Curation
from sllm.data.filters import FILTERS, Thresholds
from sllm.data.rows import Row

PROSE = "한강은 서울을 가로질러 서해로 흐르는 강이며, 강가에는 공원이 많아 사람들이 자주 찾는다. "


def row(answer, question="한강을 설명해 주세요.", **more):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": "1", "task": None, "messages": turns, **more}


def pair(chosen, rejected, question="한강을 설명해 주세요.", task=None):
    return {
        "id": "1", "task": task, "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": chosen}], "rejected": [{"role": "assistant", "content": rejected}],
    }  # fmt: skip


def parse(*words):
    parser = argparse.ArgumentParser()
    curation_flags.add_curation_flags(parser)
    return parser.parse_args(words)


def reason(name, value, **limits):
    return FILTERS[name].check(value, Thresholds(**limits))


# ── repairs ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "repaired", "changes"),
    [
        (unicodedata.normalize("NFD", "한글과 café"), "한글과 café", {"decomposed characters": 6}),
        ("\ufeff가나\u200b다\u2060라", "가나다라", {"invisible characters": 3}),
        ("한\u00ad글 so\u00adft\u200d", "한글 soft", {"invisible characters": 3}),
        ("가\r\n나\r다\u2028라\x0c마", "가\n나\n다\n라\n마", {"line ends": 4}),
        ("가\u00a0나\u3000다\u2009라", "가 나 다 라", {"spaces": 3}),
        ("ᄒ\u200bᅡᆫ", "한", {"invisible characters": 1, "decomposed characters": 2}),
        ("👩\u200d💻 می\u200cخواهم", "👩\u200d💻 می\u200cخواهم", {}),  # joiners that do something
        ("ᄒᆞᆫ글", "ᄒᆞᆫ글", {}),  # old Hangul has no composed form
        ("㈜한글 ①½ﬁ", "㈜한글 ①½ﬁ", {}),  # no compatibility forms (NFKC)
        ("탭\t그대로\n끝 ", "탭\t그대로\n끝 ", {}),
    ],
)
def test_repairs(text, repaired, changes):
    assert characters.normalise_text(text) == (repaired, changes)


def test_a_repaired_row_is_a_copy_that_keeps_its_place():
    original = Row(row("가\r\n나"), ignored=("x",), context="본문").at("a.jsonl", 3)
    before = copy.deepcopy(dict(original))
    repaired, changes = characters.normalise(original)
    assert dict(original) == before
    assert repaired["messages"][1]["content"] == "가\n나"
    assert (type(repaired), repaired.file, repaired.line, repaired.ignored, repaired.context) == (
        Row, "a.jsonl", 3, ("x",), "본문",
    )  # fmt: skip
    assert changes == {"line ends": 1}
    assert characters.normalise(repaired)[0] is repaired


# ── encoding ───────────────────────────────────────────────────────────────────────────────────────────────


def read_as(text, written, read):
    return text.encode(written).decode(read, "replace")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("깨진 글자 \ufffd", "U+FFFD at character 6"),
        ("홀로 남은 \ud83d", "U+D83D"),
        ("가\x00나", "U+0000"),
        ("가\x1b[31m나", "U+001B"),
        ("가\x9d나", "U+009D"),
        ("ì•ˆë…•í•˜ì„¸ìš”", "UTF-8 read as Latin-1"),
        (read_as("안녕하세요", "utf-8", "latin-1").replace("\x95", ""), "U+0088"),
        ("donâ€™t 그리고 â€œ인용â€\x9d", "U+009D"),
        ("donâ€™t", "UTF-8 read as Latin-1"),
        ("cafÃ© 메뉴", "UTF-8 read as Latin-1"),
        ("ï»¿제목", "UTF-8 read as Latin-1"),
        (read_as("안녕하세요", "cp949", "latin-1"), "CP949 read as Latin-1"),
        ("占쏙옙占쏙옙", "UTF-8 read as CP949"),
        (read_as("안녕하세요 반갑습니다", "utf-8", "cp949").replace("\ufffd", ""), "UTF-8 read as CP949"),
        (read_as("안녕하세요", "cp949", "utf-8"), "U+FFFD"),
        (read_as("안녕하세요", "utf-8", "cp949"), "U+FFFD"),
    ],
)
def test_broken_encodings(text, what):
    assert characters.broken_encoding(text).startswith(what)
    assert reason("encoding", row(text)) == f"broken encoding: {characters.broken_encoding(text)} in message 2"
    assert "in message 1" in reason("encoding", row("네", question=text))
    assert "in rejected" in reason("encoding", pair("네", text))


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "그는 “안녕…”이라고 했다 — 정말?",
        "café, naïve, São Paulo, así”…, ÀÉÈÙ",
        "·········· 12쪽",
        "±½¼ °C µm ²³ «인용»",
        "똠방각하가 펲시를 뷁 하고 마셨다는 오래된 우스개가 있다",
        "ㅋㅋㅋㅋ ㅠㅠ 햏",
        "漢字와 かな, Ελληνικά, русский, العربية",
        "占領은 점령이다",
        "👩‍💻🇰🇷❤️",
        "ᄒᆞᆫ글과 나랏말ᄊᆞ미",
        "∑∫√≤≥≠∞ αβγ ½",
        "Tiếng Việt: cà phê sữa đá",
        "ÇÅÄÖ Überraschung",
    ],
)
def test_sound_texts_are_not_broken(text):
    assert characters.broken_encoding(text) is None


# ── language ───────────────────────────────────────────────────────────────────────────────────────────────

ENGLISH = "The Han River flows through Seoul to the Yellow Sea, and its banks are popular with walkers."
CODE = "def total(values):\n    result = 0\n    for value in values:\n        result += value\n    return result"


@pytest.mark.parametrize(
    "value",
    [
        row(ENGLISH),
        row("汉江流经首尔，最后注入黄海。河边有许多公园，市民经常来这里散步休息。"),
        row("Река Хан протекает через Сеул и впадает в Жёлтое море."),
        row("漢江はソウルを流れて黄海に注ぐ川で、川辺には公園がたくさんあります。"),
        row(f"{ENGLISH} (한강)"),
        row(f"{ENGLISH}\n```python\n{CODE}\n```"),
        pair(ENGLISH, PROSE),
        row(ENGLISH, question="Tell me about the Han River."),
        row(ENGLISH, question="바람이 불어 일어난 먼지가 온 영역으로 옮겨 간 까닭은?"),
    ],
)
def test_answers_that_are_not_korean(value):
    assert reason("language", value).startswith("not Korean: ")


@pytest.mark.parametrize(
    "value",
    [
        row(PROSE),
        row(unicodedata.normalize("NFD", PROSE)),
        row(ENGLISH, question="다음을 영어로 옮겨 주세요: 한강은 서울을 가로지른다."),
        row(ENGLISH, question="Translate: 한강은 서울을 가로지른다."),
        row(ENGLISH, question=f"강을 다룬 문장을 찾아 주세요.\n\n{ENGLISH} And it rains."),
        row(PROSE, question=f"Summarise in Korean: {ENGLISH}"),
        row(f"```python\n{CODE}\n```", question="합을 구하는 함수를 써 주세요."),
        row(CODE, question="합을 구하는 함수를 써 주세요."),
        row(f"다음과 같이 씁니다.\n\n{CODE}\n"),
        row("SELECT name, age FROM users WHERE age > 20 ORDER BY name;", question="스무 살 넘은 사람을 찾는 쿼리는?"),
        row("<table><tr><td>Seoul</td><td>Busan Metropolitan City</td></tr></table>", question="표로 만들어 주세요."),
        row('<div class="container"><span id="main-content">한강</span></div>'),
        row("Python의 requests 라이브러리와 BeautifulSoup으로 HTML을 가져와 파싱합니다."),
        row("https://example.com/a/very/long/path/without/any/hangul/in/it"),
        row(r"$\frac{\partial L}{\partial w} = \sum_i x_i \delta_i$"),
        row("3.14159265358979, 2.71828182845904"),
        row("NATO"),
        row("ㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋ"),
        {"id": "1", "task": None, "messages": [
            {"role": "user", "content": "안녕?"}, {"role": "assistant", "content": ENGLISH, "weight": 0},
            {"role": "user", "content": "우리말로"}, {"role": "assistant", "content": PROSE}]},
    ],
)  # fmt: skip
def test_answers_that_are_in_the_right_language(value):
    assert reason("language", value) is None


def test_the_least_share_of_hangul_can_be_set():
    mixed = row(f"{PROSE} {ENGLISH}")
    assert reason("language", mixed) is None
    assert reason("language", mixed, min_hangul=0.9) == (
        "not Korean: 50% of the letters of message 2 are Hangul (at least 90%)"
    )


# ── length ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_lengths():
    limits = {"prompt_chars": (3, 10), "answer_chars": (2, 5)}
    assert reason("length", row("다섯글자임", question="세 글자 "), **limits) is None
    assert reason("length", row(" 한\n", question="질문은?"), **limits) == (
        "answer too short: 1 characters (2 to 5) in message 2"
    )
    assert reason("length", row("여섯글자이다", question="질문은?"), **limits).startswith("answer too long: 6")
    assert reason("length", row("답임", question="?"), **limits) == "prompt too short: 1 characters (3 to 10)"
    assert reason("length", row("답임", question="가" * 1001), **limits).startswith("prompt too long: 1,001 characters")
    assert "in rejected" in reason("length", pair("답임", "긴 답이다 정말"), **limits)


# ── repetition ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        PROSE * 4,
        PROSE + "그래서 좋은 것은 좋은 것이고 " * 20,
        "감사합니다.\n" * 30,
        "네 " * 40,
        "\n".join(f"{i}. 규칙적으로 운동하고 골고루 먹으며 충분히 쉽니다." for i in range(20)),
        "아" * 200,
        "한강은 좋다." * 60,
        f"한강은 {'흐르고' * 60}",
        f"답은 다음과 같다. <b>강조</b> {'그것은 정말로 매우 매우 중요하다. ' * 20}",
        "하하하하하하" * 30,
    ],
)
def test_answers_that_repeat_themselves(text):
    assert reason("repetition", row(text)).startswith("repetition: ")
    assert reason("repetition", pair(text, PROSE)).startswith("repetition: ")
    assert reason("repetition", pair(PROSE, text)) is None  # it may have been rejected for that


TABLE = "<table>" + "<tr><td>해당 없음</td><td>0</td><td>해당 없음</td><td>0</td></tr>\n" * 40 + "</table>"
POEM = "\n".join(
    f"{line}\n강강술래 강강술래\n{line[::-1]}\n강강술래 강강술래"
    for line in (
        "달이 떠온다 달이 떠온다",
        "동해 동천 달이 떠온다",
        "저 달이 뉘 달인가",
        "방호방네 달이로세",
        "우리 님은 어디 갔나",
    )
)


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        PROSE * 2,
        TABLE,
        "| 이름 | 값 |\n|---|---|\n" + "| 해당 없음 | 해당 없음 |\n" * 30,
        POEM,
        "```c\n" + 'printf("*");\n' * 40 + "```",
        'print("안녕")\n' * 1 + 'System.out.println("*");\n' * 30,
        "\n".join(
            f"- {name}: 맑음, 최고 기온 {i}도"
            for i, name in enumerate("서울 부산 대구 인천 광주 대전 울산 세종".split())
        ),
        "아주 아주 아주 좋아요!",
        "-" * 300,
        f"{PROSE}\n{'=' * 200}\n{PROSE[::-1]}",
        "ㅋㅋㅋㅋㅋㅋ 재밌네요",
        " ".join(str(i) for i in range(200)),
        "",
    ],
)
def test_answers_that_do_not_repeat_themselves(text):
    assert reason("repetition", row(text)) is None


def test_the_quick_look_never_overlooks_what_the_count_would_find():
    words = "가 나 다 라 마 바".split()
    for n in range(15, 200):
        text = " ".join([f"낱말{i}" for i in range(n // 3)] + (words * n)[:n])
        share, _ = filters.repeated_share(text)
        assert filters.repeated_share(text, share - 0.01)[0] == share


# ── conformance ────────────────────────────────────────────────────────────────────────────────────────────


def sample(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    name = formats.detect(rows)
    return [formats.convert(value, name) for value in rows]


def test_conformance_names_the_rule():
    good = next(value for value in sample(SAMPLE_ROWS) if value["task"] == "task02")
    assert reason("conformance", good) is None
    bad = characters.rewrite(good, lambda text: text if "###" in text or "Context" in text else "가" * 30)
    assert reason("conformance", bad).startswith("breaks the task's rule title: 30자")
    assert reason("conformance", {**bad, "task": "다른 과제"}) is None
    assert reason("conformance", {**bad, "task": None}) is None


def test_conformance_of_a_pair_is_that_of_the_chosen_answer():
    good = next(value for value in sample(SAMPLE_ROWS) if value["task"] == "task02")
    *prompt, answer = good["messages"]
    worse = {"role": "assistant", "content": "나" * 30}
    value = {"id": "1", "task": "task02", "prompt": prompt, "chosen": [answer], "rejected": [worse]}
    assert reason("conformance", value) is None
    assert reason("conformance", {**value, "chosen": [worse], "rejected": [answer]})


# ── all of it ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_sample_rows_pass_every_filter():
    curation = Curation(parse("--filter", *FILTERS, "--personal_data", "reject"))
    for path in (SAMPLE_ROWS, ROOT / "sample_data/world/train.jsonl"):
        for value in sample(path):
            assert curation.apply(value) == (value, None, [])


def test_no_sample_pair_is_refused():
    """Two of them have an answer in English, rejected for that."""
    curation = Curation(parse("--filter", *FILTERS, "--personal_data", "reject"))
    assert [reason for value in sample(SAMPLE_PAIRS) if (reason := curation.apply(value)[1])] == []


def test_by_default_broken_texts_are_refused_and_the_rest_is_counted():
    curation = pickle.loads(pickle.dumps(Curation(parse())))
    kept, refused, notes = curation.apply(row("ì•ˆë…•"))
    assert (kept, refused, notes) == (None, "broken encoding: UTF-8 read as Latin-1, 'ì•ˆë…•' in message 2", [])
    value = row(f"{ENGLISH * 4}\r\n010-1234-5678, 010-1234-5679")
    kept, refused, notes = curation.apply(value)
    assert refused is None
    assert kept["messages"][1]["content"] == value["messages"][1]["content"].replace("\r", "")
    assert notes == [
        "normalised: line ends", "personal data: phone", "would refuse: language", "would refuse: repetition",
    ]  # fmt: skip


def test_all_reasons_are_named_and_personal_data_is_not_repeated():
    curation = Curation(parse("--filter", "language", "repetition", "--personal_data", "reject"))
    kept, refused, notes = curation.apply(row(ENGLISH * 4, question="010-1234-5678이 누구 번호야?"))
    assert kept is None
    assert refused.startswith("personal data: phone in message 1; not Korean: ")
    assert "; repetition: " in refused
    assert "1234" not in refused
    assert notes == ["personal data: phone"]


def test_both_answers_are_masked():
    curation = Curation(parse("--personal_data", "mask"))
    value = pair("010-1234-5678로 거세요.", "hong@example.com으로 보내세요.")
    kept, _, notes = curation.apply(value)
    assert [kept[side][0]["content"] for side in ("chosen", "rejected")] == [
        "[전화번호]로 거세요.", "[이메일 주소]로 보내세요.",
    ]  # fmt: skip
    assert sorted(notes) == ["masked: e-mail", "masked: phone"]
    assert "010-1234-5678" in value["chosen"][0]["content"]


def test_everything_can_be_switched_off():
    curation = Curation(parse("--filter", "none", "--no-normalise"))
    value = row("\x1b가\r\n나")
    assert curation.apply(value) == (value, None, ["would refuse: encoding"])


def test_thresholds_reach_the_filters():
    words = (
        "--filter language length repetition --min_hangul 0.1 --prompt_chars 1 9 --answer_chars 2 30 --max_repeated 1"
    )
    curation = Curation(parse(*words.split()))
    assert curation.thresholds == Thresholds(0.1, (1, 9), (2, 30), 1.0)
    assert curation.apply(row("네", question="왜?"))[1].startswith("answer too short: 1 characters (2 to 30)")


def test_wrong_flags_are_named_together():
    with pytest.raises(InputError) as caught:
        curation_flags.check_curation_flags(
            parse("--filter", "none", "length", "--min_hangul", "0.5", "--answer_chars", "9", "2")
        )
    assert caught.value.problems == [
        "--filter none length: none stands alone",
        "--min_hangul is for the filter language: add language to --filter",
        "--answer_chars 9 2: the least is above the most",
    ]
    curation_flags.check_curation_flags(parse())


def test_help_names_every_filter_and_default():
    parser = cli.parser("", "x.py")
    curation_flags.add_curation_flags(parser)
    text = " ".join(parser.format_help().split())
    for word in (*FILTERS, "default: 0.3", "default: 1 32000", "default: 1 16000", "default: 0.5", "default: keep"):
        assert word in text


# ── any text ───────────────────────────────────────────────────────────────────────────────────────────────

MARKS = (
    "ᄀ ᅡ ᆨ 가 e K 👩 ì • ˆ 占쏙옙 < > | $ ` ``` <table> </table> "
    "\r \n \x85 \u0301 \u0338 \u2000 \u200b \u200d \u00ad \ufeff \ud800"
)
PIECES = st.sampled_from([*MARKS.split(" "), "네 네 네 네 ", "def f(", "010-1234-5678"])
TEXTS = st.one_of(st.text(st.characters(codec=None), max_size=80), st.lists(PIECES, max_size=60).map("".join))


@settings(max_examples=300, deadline=None)
@given(TEXTS, TEXTS)
def test_any_text_can_be_filtered(question, answer):
    everything = Curation(parse("--filter", *FILTERS, "--personal_data", "mask"))
    nothing = Curation(parse("--filter", "none", "--no-normalise"))
    for value in (row(answer, question), pair(answer, question, question), row(answer, question, task="task02")):
        before = copy.deepcopy(value)
        kept, refused, _ = everything.apply(value)
        assert (kept is None) == (refused is not None)
        assert nothing.apply(value)[:2] == (before, None)
        assert value == before


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_normalising_again_changes_nothing(text):
    normal, _ = characters.normalise_text(text)
    assert characters.normalise_text(normal) == (normal, {})
    assert unicodedata.is_normalized("NFC", normal)
    assert not {"\r", "\u200b", "\ufeff", "\u00a0"} & {*normal}
