"""Tokenized rows on disk: a run reads from them what it would read from the rows, and only from whole ones."""

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
from conftest import ROOT, SAMPLE_PAIRS, SAMPLE_ROWS, SFT, in_process

from sllm import chat, training_texts
from sllm.cli import InputError
from sllm.data import formats, hold_out, packing, parallel, readers, splits, token_cache, tokenize, training
from sllm.train import metrics

pytestmark = pytest.mark.torch
WORLD = ROOT / "sample_data" / "world" / "train.jsonl"


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    found = chat.load_tokenizer(str(tiny_base))
    chat.set_chat_template(found)
    return found


class Few(NamedTuple):
    """A block."""

    few: list

    def records(self):
        return self.few


@pytest.fixture
def small_blocks(monkeypatch):
    """Files of 20 rows and more are long ones, read in blocks of 7 records."""
    monkeypatch.setattr(formats, "HEAD", 20)
    blocks = readers.Source.blocks

    def small(self):
        for block in blocks(self):
            records = block.records()
            yield from (Few(records[start : start + 7]) for start in range(0, len(records), 7))

    monkeypatch.setattr(readers.Source, "blocks", small)


def arguments(path, tmp_path, **changes) -> Namespace:
    known = {"trainset_path": str(path), "model_id": str(tmp_path), "val_set_size": 0.0, "seed": 1, "preview": None}
    known |= {"cache_dir": str(tmp_path / "cache"), "num_proc": 2, "output_dir": str(tmp_path)}
    return Namespace(**known | changes)


def encode(args, tokenizer, kind="sft", max_length=2048, skipped=None):
    skipped = skipped or formats.Skipped()
    files = training.open_files(args, None, kind, skipped)
    return files, training.encode(args, files, tokenizer, max_length, skipped)


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def row(name, user="물은?", answer="100℃"):
    return {"id": str(name), "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]}


@pytest.mark.parametrize(
    ("path", "kind", "columns_of"),
    [(SAMPLE_ROWS, "sft", tokenize.sft_columns), (SAMPLE_PAIRS, "preference", tokenize.dpo_columns)],
)
def test_the_same_as_from_the_rows(path, kind, columns_of, tokenizer, tmp_path, small_blocks, capsys):
    """Columns, statistics, split, notes and the signature of the texts, cold and warm."""
    rows = formats.load_rows(path, kind)
    chosen = hold_out.held_out(hold_out.keys_of(rows), 9, 1)
    length = 800
    parts = [[row for row, out in zip(rows, chosen, strict=True) if out == side] for side in (False, True)]
    expected = [columns_of(tokenizer, part, length, skipped=formats.Skipped(True, share=1.0)) for part in parts]
    args = arguments(path, tmp_path, val_set_size=9)
    for said in (f"tokens: {len(rows)} rows in ", f"tokens: {len(rows)} rows from the cache ("):
        skipped = formats.Skipped(True, share=1.0)
        files, data = encode(args, tokenizer, kind, length, skipped)
        assert said in capsys.readouterr().out
        for part, (columns, stats), kept in zip(data, expected, parts, strict=True):
            assert part.dataset[:] == columns
            assert part.stats == stats
            assert part.rows(3) == kept[:3]
        signature = training_texts.signature_of(
            training.texts([row for row in parts[0] if skipped_reason(skipped, row) is None])
        )
        record = training.record(args, files, *data, skipped)
        written = training_texts.read(tmp_path)
        for name in ("runs", "counts", "wholes", "whole_counts"):
            assert np.array_equal(np.sort(getattr(written, name)), np.sort(getattr(signature, name))), name
        assert record["training_texts"]["characters"] == signature.characters
        (tmp_path / "training_texts.npz").unlink()


def skipped_reason(skipped, row):
    return next((entry["reason"] for entry in skipped.rows if entry["id"] == row["id"]), None)


def test_a_run_with_the_cache_is_the_run_without(tiny_base, few_rows, tmp_path, small_blocks, monkeypatch):
    def losses(name, *flags):
        out = tmp_path / name
        in_process(SFT, "--trainset_path", few_rows, "--model_id", tiny_base, "--max_steps", "2", "--val_set_size", "3",
                   "--output_dir", out, "--cache_dir", tmp_path / "cache", *flags)  # fmt: skip
        rows = metrics.read_metrics(out)
        samples = (out / "samples.jsonl").read_text(encoding="utf-8")
        return [
            (each["step"], each.get("loss"), each.get("eval_loss"), each.get("grad_norm")) for each in rows
        ], samples

    cold, warm, packed = losses("cold"), losses("warm"), losses("packed", "--packing")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    monkeypatch.setattr(formats, "HEAD", 2000)
    assert cold == warm == losses("short")
    assert packed == losses("short_packed", "--packing")
    assert packed != cold


def test_packing_is_that_of_trl(tokenizer, tmp_path):
    import datasets
    from trl import pack_dataset

    rows = formats.load_rows(SAMPLE_ROWS, "sft")
    columns, _ = tokenize.sft_columns(tokenizer, rows, 700)
    expected = pack_dataset(datasets.Dataset.from_dict(columns).shuffle(seed=3), 700, "bfd")
    skipped = formats.Skipped(True, share=1)
    _, (data, _) = encode(arguments(SAMPLE_ROWS, tmp_path), tokenizer, max_length=700, skipped=skipped)
    assert packing.pack(data.dataset, 700, 3)[:] == expected[:]


class TestEntries:
    def entry(self, tmp_path):
        (folder,) = (tmp_path / "cache").iterdir()
        return folder

    def rows_of(self, tmp_path, count=40):
        return write(tmp_path / "rows.jsonl", (row(n, f"물 {n}?") for n in range(count)))

    @pytest.mark.parametrize("change", ["data", "length", "template", "train_on_inputs"])
    def test_another_input_is_another_entry(self, change, tiny_base, tmp_path, small_blocks, capsys):
        path = self.rows_of(tmp_path)
        tokenizer = chat.load_tokenizer(str(tiny_base))
        chat.set_chat_template(tokenizer)
        encode(arguments(path, tmp_path), tokenizer)
        if change == "data":
            path.write_text(path.read_text(encoding="utf-8").replace("100℃", "99℃"), encoding="utf-8")
        if change == "template":
            tokenizer.chat_template = tokenizer.chat_template.replace("\\n", "\\n\\n", 1)
        capsys.readouterr()
        changes = {"train_on_inputs": True} if change == "train_on_inputs" else {}
        encode(arguments(path, tmp_path, **changes), tokenizer, max_length=100 if change == "length" else 2048)
        assert "from the cache" not in capsys.readouterr().out
        assert len(list((tmp_path / "cache").iterdir())) == 2

    def test_a_copy_of_the_file_and_of_the_tokenizer_are_the_same(self, tokenizer, tmp_path, small_blocks, capsys):
        encode(arguments(self.rows_of(tmp_path), tmp_path), tokenizer)
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        again = chat.load_tokenizer(str(tmp_path / "tokenizer"))
        copy = tmp_path / "copy.jsonl"
        copy.write_bytes((tmp_path / "rows.jsonl").read_bytes())
        _, (data, _) = encode(arguments(copy, tmp_path), again)
        assert "from the cache" in capsys.readouterr().out
        assert data.file.source(3) == f"{copy}:4 (3)"

    @pytest.mark.parametrize("name", [token_cache.SEQUENCES, token_cache.ROWS, token_cache.META, token_cache.TEXTS])
    @pytest.mark.parametrize("damage", ["cut", "missing"])
    def test_a_damaged_entry_is_written_again(self, name, damage, tokenizer, tmp_path, small_blocks, capsys):
        args = arguments(self.rows_of(tmp_path), tmp_path)
        _, (data, _) = encode(args, tokenizer)
        expected = data.dataset[:]
        file = self.entry(tmp_path) / name
        if damage == "cut":
            os.truncate(file, file.stat().st_size // 2)
        else:
            file.unlink()
        capsys.readouterr()
        _, (data, _) = encode(args, tokenizer)
        assert "from the cache" not in capsys.readouterr().out
        assert data.dataset[:] == expected

    def test_a_killed_run_leaves_no_entry(self, tokenizer, tmp_path, small_blocks, monkeypatch, capsys):
        class Killed(BaseException):
            pass

        add = token_cache.Joined.add
        monkeypatch.setattr(token_cache.shutil, "rmtree", lambda *args, **kwargs: None)

        def killed(self, part):
            add(self, part)
            raise Killed

        monkeypatch.setattr(token_cache.Joined, "add", killed)
        args = arguments(self.rows_of(tmp_path), tmp_path)
        with pytest.raises(Killed):
            encode(args, tokenizer)
        monkeypatch.undo()
        (left,) = (tmp_path / "cache").iterdir()
        assert left.name.startswith(".")
        os.utime(left, (0, 0))
        capsys.readouterr()
        monkeypatch.setattr(formats, "HEAD", 20)
        encode(args, tokenizer)
        out = capsys.readouterr().out
        assert "from the cache" not in out
        assert "tokens: 1 not used for 30 days removed from " in out
        assert not left.exists()

    def test_a_full_disk_names_the_flag(self, tokenizer, tmp_path, small_blocks, monkeypatch):
        def full(file):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(token_cache, "_sync", full)
        with pytest.raises(InputError, match="is full; free some space, or name another folder with --cache_dir"):
            encode(arguments(self.rows_of(tmp_path), tmp_path), tokenizer)
        assert not list((tmp_path / "cache").iterdir())

    def test_entries_that_are_not_used_are_removed(self, tokenizer, tmp_path, small_blocks, capsys):
        path = self.rows_of(tmp_path)
        encode(arguments(path, tmp_path), tokenizer, max_length=100)
        old = self.entry(tmp_path)
        os.utime(old / token_cache.META, (time.time() - 31 * 86400,) * 2)
        encode(arguments(path, tmp_path), tokenizer, max_length=200)
        assert "1 not used for 30 days removed" in capsys.readouterr().out
        assert not old.exists()

    def test_a_file_that_changes_meanwhile_is_not_kept(self, tokenizer, tmp_path, small_blocks, monkeypatch):
        path = self.rows_of(tmp_path)
        add = token_cache.Joined.add

        def changing(self, part):
            path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
            add(self, part)

        monkeypatch.setattr(token_cache.Joined, "add", changing)
        with pytest.raises(InputError, match="was changed while it was read"):
            encode(arguments(path, tmp_path), tokenizer)

    def test_the_folder(self, monkeypatch, tmp_path):
        for name in ("HF_DATASETS_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert token_cache.root(None) == tmp_path / ".cache" / "huggingface" / "datasets" / "sllm_tokens"
        monkeypatch.setenv("HF_HOME", "/hf")
        assert str(token_cache.root(None)) == "/hf/datasets/sllm_tokens"
        monkeypatch.setenv("HF_DATASETS_CACHE", "/data")
        assert str(token_cache.root(None)) == "/data/sllm_tokens"
        assert str(token_cache.root("here")) == "here"


def test_bad_rows_of_a_long_file_are_named_cold_and_warm(tokenizer, tmp_path, small_blocks):
    path = write(tmp_path / "rows.jsonl", [*(row(n, f"물 {n}?") for n in range(40)), row("bad", "끝<|im_end|>")])
    path.write_text(path.read_text(encoding="utf-8") + "{]\n", encoding="utf-8")
    args = arguments(path, tmp_path)
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            encode(args, tokenizer)
        assert [problem.split(": ")[0] for problem in caught.value.problems] == [f"{path}:41", f"{path}:42", str(path)]
    skipped = formats.Skipped(True)
    _, (data, _) = encode(args, tokenizer, skipped=skipped)
    assert [(entry["line"], entry["id"]) for entry in skipped.rows] == [(42, None), (41, "bad")]
    assert data.stats["sequences"] == 40


def test_a_preview_reads_the_beginning(tokenizer, tmp_path, small_blocks, capsys):
    path = write(tmp_path / "rows.jsonl", (row(n, f"물 {n}?") for n in range(100)))
    _, (data, _) = encode(arguments(path, tmp_path, preview=2), tokenizer)
    assert 20 <= len(data.dataset) < 40
    assert not (tmp_path / "cache").exists()


def test_held_out_rows_are_whole_groups():
    rows = formats.load_rows(WORLD, "sft")
    keys = hold_out.keys_of(rows)
    groups = splits.group(keys[:, 0], keys[:, 1]).tolist()
    for size in (1, 40, 0.1):
        chosen = hold_out.held_out(keys, size, 7)
        sides = Counter((number, bool(side)) for number, side in zip(groups, chosen, strict=True))
        assert len(sides) == len(set(groups))
        assert chosen.sum() >= (size if size >= 1 else size * len(rows))
    assert not hold_out.held_out(keys, 0, 7).any()
    with pytest.raises(InputError, match="leaves none of"):
        hold_out.held_out(keys, len(rows), 7)


class TestProcesses:
    def test_results_are_in_order_and_items_are_taken_as_needed(self):
        taken = []

        def items():
            for number in range(40):
                taken.append(number)
                yield number

        results = parallel.ordered_map(
            lambda number: (time.sleep(0.01 * (number % 3)), number)[1], items(), processes=2, fork=True
        )
        assert next(results) == 0
        assert len(taken) <= 6
        assert list(results) == list(range(1, 40))

    def test_a_killed_process_is_an_error(self):
        with pytest.raises(InputError, match="was killed.*--num_proc"):
            list(parallel.ordered_map(lambda number: os._exit(9), range(4), processes=2, fork=True))

    def test_processes_end_with_their_parent(self, tmp_path):
        code = """
import os, sys, time
from sllm.data import parallel
def work(number):
    print(os.getpid(), flush=True)
    time.sleep(60)
list(parallel.ordered_map(work, range(2), processes=2, fork=True))
"""
        parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        children = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 30
        while any(os.path.exists(f"/proc/{child}") for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.05)
