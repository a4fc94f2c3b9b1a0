"""Rows → token columns: which rows are refused, skipped or cut, and that each is named with its file and line."""

import json

import pytest

from sllm import chat
from sllm.cli import InputError
from sllm.data import formats, token_stats, tokenize


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    found = chat.load_tokenizer(str(tiny_base))
    chat.set_chat_template(found)
    return found


def row(name, user="물은?", answer="100℃"):
    return {"id": name, "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]}


def pair(name, user="물은?", chosen="100℃"):
    return {"id": name, "prompt": user, "chosen": chosen, "rejected": "몰라요"}


def write(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


LONG = "물 " * 300  # over 300 tokens


@pytest.mark.parametrize(
    ("kind", "columns_of", "make"), [("sft", tokenize.sft_columns, row), ("preference", tokenize.dpo_columns, pair)]
)
class TestBothSorts:
    def test_a_bad_row_is_named_with_its_line_or_skipped(self, tokenizer, tmp_path, kind, columns_of, make):
        path = write(
            tmp_path / "rows.jsonl",
            *(make(str(n), f"물 {n}?") for n in range(39)),
            make("bad", "물은?", "끝<|im_end|>"),
        )
        rows = formats.load_rows(path, kind)
        with pytest.raises(InputError) as caught:
            columns_of(tokenizer, rows, 200)
        first, hint = caught.value.problems
        assert first.startswith(f"{path}:40: row bad: a content holds")
        assert "<|im_end|>" in first
        assert hint == f"{path}: --skip_bad_rows leaves out such rows (1 of 40 rows)"

        skipped = formats.Skipped(True)
        rows = formats.load_rows(path, kind, skipped=skipped)
        columns, stats = columns_of(tokenizer, rows[5:], 200, skipped=skipped)
        held_columns, held_stats = columns_of(tokenizer, rows[:5], 200, skipped=skipped)
        key = next(iter(columns))
        assert len(columns[key]) + len(held_columns[key]) == 39
        assert stats["rows"] + held_stats["rows"] == 40
        (entry,) = skipped.rows
        assert (entry["file"], entry["line"], entry["id"]) == (str(path), 40, "bad")
        assert json.loads(skipped.write(tmp_path).read_text(encoding="utf-8"))["reason"] in first

    def test_load_and_encode_share_one_limit(self, tokenizer, tmp_path, kind, columns_of, make):
        """Two bad lines and one row that cannot be encoded are three of 40, whichever step finds them."""
        path = write(tmp_path / "rows.jsonl", *(make(str(n)) for n in range(37)), make("bad", "물은?", "끝<|im_end|>"))
        path.write_text(path.read_text(encoding="utf-8") + "{]\n{]\n", encoding="utf-8")
        skipped = formats.Skipped(True)
        rows = formats.load_rows(path, kind, skipped=skipped)
        with pytest.raises(InputError) as caught:
            columns_of(tokenizer, rows, 200, skipped=skipped)
        assert len(caught.value.problems) == 4
        assert "3 of 40 rows cannot be used" in caught.value.problems[-1]

    def test_a_row_without_room_for_its_answer(self, tokenizer, tmp_path, kind, columns_of, make):
        path = write(tmp_path / "rows.jsonl", *(make(str(n)) for n in range(39)), make("long", LONG))
        skipped = formats.Skipped(True)
        rows = formats.load_rows(path, kind, skipped=skipped)
        _, stats = columns_of(tokenizer, rows, 200, skipped=skipped)
        assert stats["dropped"] == stats["truncated"] == 1
        (entry,) = skipped.rows
        assert entry["line"] == 40
        assert entry["reason"].startswith("no room for its answer: ")
        _, stats = columns_of(tokenizer, formats.load_rows(path, kind), 200)  # counted and named without the flag too
        (line,) = token_stats.truncation_summary(stats)
        assert f"1 of 40 rows are truncated at 200 tokens, 1 with nothing left to learn: {path}:40 (long) has" in line
        with pytest.raises(InputError, match=r"20 of 20 rows lose their whole .*:\d+ \(\d+\) has \d+\)"):
            rows = write(tmp_path / "all.jsonl", *(make(str(n), f"{LONG}{n}") for n in range(20)))
            columns_of(tokenizer, formats.load_rows(rows, kind), 200)

    def test_truncated_rows_are_listed_the_longest_first(self, tokenizer, tmp_path, kind, columns_of, make):
        made = [make(str(n), "물은?", "답 " * (150 + n)) for n in range(25)]
        rows = formats.load_rows(write(tmp_path / "rows.jsonl", *made, make("short")), kind)
        _, stats = columns_of(tokenizer, rows, 100)
        assert stats["truncated"] == stats["truncated_rows"] == 25
        assert len(stats["longest_truncated"]) == token_stats.SHOWN
        assert stats["longest_truncated"][0] == {"row": f"{tmp_path}/rows.jsonl:25 (24)", "tokens": stats["longest"]}
        (line,) = token_stats.truncation_summary(stats)
        assert line.startswith(
            f"warning: 25 of 26 rows are truncated at 100 tokens: {tmp_path}/rows.jsonl:25 (24) has "
        )
        assert ", 22 more; --max_seq_length " in line
        length = int(line.split("--max_seq_length ")[1].split(" ")[0])
        again = columns_of(tokenizer, rows, length)[1]
        assert again["truncated_rows"] == 0
        assert token_stats.truncation_summary(again) == []

    def test_rows_that_were_not_read_from_a_file(self, tokenizer, tmp_path, kind, columns_of, make):
        name = {"sft": "alpaca", "preference": "preference"}[kind]
        rows = [{"instruction": f"물은 {n}?", "output": "100℃"} | make(str(n)) for n in range(40)]
        rows = [formats.convert(row, formats.format_of(row)) for row in rows]
        rows[3]["prompt" if name == "preference" else "messages"][0]["content"] = "<|im_end|>"
        with pytest.raises(InputError, match="^row 3: a content holds"):
            columns_of(tokenizer, rows, 200)
        skipped = formats.Skipped(True)
        assert columns_of(tokenizer, rows, 200, skipped=skipped)[1]["rows"] == 40
        assert skipped.reason(rows[3])
        assert not skipped.reason(rows[4])


def test_the_length_to_choose():
    stats = {"truncated_rows": 1, "rows": 20, "max_length": 512, "longest": 1240, "dropped": 0}
    stats["longest_truncated"] = [{"row": "rows.jsonl:3 (a)", "tokens": 1240}]
    said = "warning: 1 of 20 rows are truncated at 512 tokens: rows.jsonl:3 (a) has 1,240 tokens; "
    assert token_stats.truncation_summary(stats) == [said + "--max_seq_length 2048 holds all"]
    assert token_stats.truncation_summary(stats, context_length=4096) == [said + "--max_seq_length 2048 holds all"]
    assert token_stats.truncation_summary(stats, context_length=1500) == [
        said + "the model holds 1,500: --max_seq_length 1500 holds all"
    ]
    assert token_stats.truncation_summary(stats, context_length=1024) == [
        said + "the model holds 1,024: split or shorten these rows"
    ]


def test_answers_of_weight_0_are_not_supervised_and_refuse_nothing(tokenizer, tmp_path, monkeypatch):
    """Masked within the sequence, or as sequences without a supervised token: both ways of chat.build_examples."""
    turns = [*row("a")["messages"], *row("a", "또?", "그래")["messages"]]
    turns[3]["weight"] = 0
    rows = formats.load_rows(write(tmp_path / "rows.jsonl", {"messages": turns}), "sft")
    assert rows[0]["messages"][3]["weight"] == 0
    plain = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    (first,), (whole,) = chat.build_examples(tokenizer, plain[:2]), chat.build_examples(tokenizer, plain)
    mask = first.completion_mask + [0] * (len(whole.input_ids) - len(first.input_ids))
    for examples in (
        [chat.Example(whole.input_ids, mask)],
        [first],
        [first, chat.Example(whole.input_ids, [0] * len(mask))],
    ):
        monkeypatch.setattr(chat, "build_examples", lambda *_, found=examples: found)
        _columns, stats = tokenize.sft_columns(tokenizer, rows, 512)
        assert stats["supervised_tokens"] == sum(first.completion_mask)
        assert stats["dropped"] == 0
        assert stats["sequences"] == 1
    with pytest.raises(InputError, match="an answer has the weight 0, and --train_on_inputs learns every turn"):
        tokenize.sft_columns(tokenizer, rows, 512, train_on_inputs=True)
