"""benchmarks/which_data_helped.py finds the source that a task needs and the one whose answers are wrong; its
statistics, and what it draws."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, SFT, assert_refused, run_script

from sllm.data import leave_out
from sllm.data.rows import Row
from sllm.evaluate import ablation, statistics

sys.path.insert(0, str(ROOT / "benchmarks"))
import which_data_helped

SCRIPT = "benchmarks/which_data_helped.py"
WORLD = ROOT / "sample_data" / "world"


def world_sources(folder: Path, families: dict[str, tuple[str, ...]], wrong: int) -> dict[str, Path]:
    """Name → file: the small world's rows of each family of tasks, and `shuffled`: the last `wrong` rows of each task,
    which have each other's answers and are in no other file. `test`: held-out rows of the same tasks."""

    def of(name: str, tasks: tuple[str, ...]) -> list[dict]:
        rows = [json.loads(line) for line in (WORLD / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        return [row for row in rows if row.get("task", "").startswith(tasks)]

    files, shuffled = {}, []
    for name, tasks in families.items():
        rows = of("train", tasks)
        of_task = {task: [row for row in rows if row["task"] == task] for task in sorted({row["task"] for row in rows})}
        files[name] = [row for rows in of_task.values() for row in rows[:-wrong]]
        shuffled += [row for rows in of_task.values() for row in rows[-wrong:]]
    answers = [row["assistant_content"] for row in shuffled]
    random.Random(0).shuffle(answers)
    files["shuffled"] = [row | {"assistant_content": text} for row, text in zip(shuffled, answers, strict=True)]
    every = tuple(task for tasks in families.values() for task in tasks)
    files["test"] = [
        row | {"id": f"{name}-{row['id']}"} for name in ("test_names", "test_phrasings") for row in of(name, every)
    ]
    for name, rows in files.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.jsonl" for name in files}


def rows_of(task: str, count: int) -> list[Row]:
    turns = ("user", "질문"), ("assistant", "답")
    return [
        Row({"id": f"{task}-{i}", "task": task, "messages": [{"role": role, "content": f"{text} {task} {i}"}
                                                             for role, text in turns]})
        for i in range(count)
    ]  # fmt: skip


SOURCES = {"a": rows_of("a", 60), "b": rows_of("b", 30), "c": rows_of("c", 10)}


# ── which rows ──


def test_every_training_has_as_many_rows_and_the_others_take_the_place_of_what_is_left_out():
    whole = leave_out.draw(SOURCES, 50, seed=1)
    assert [sum(row["task"] == name for row in whole.rows) for name in "abc"] == [30, 15, 5]
    without = leave_out.draw(SOURCES, 50, seed=1, without="a")
    assert {row["task"] for row in without.rows} == {"b", "c"}
    assert len(without.rows) == 50
    assert without.different == 40
    kept = {row["id"] for row in whole.rows if row["task"] != "a"}
    assert kept < {row["id"] for row in without.rows}  # the same rows of the others, and more of them
    assert leave_out.draw(SOURCES, 50, seed=2).rows != whole.rows


def test_a_test_row_that_a_source_has_is_found():
    test = [*rows_of("d", 3), Row(SOURCES["b"][7])]
    assert leave_out.overlapping(test, SOURCES) == {"a": set(), "b": {3}, "c": set()}


def test_sources_are_files_or_tasks(tmp_path):
    paths = []
    for folder, tasks in (("x", "ab"), ("y", "c")):
        (tmp_path / folder).mkdir()
        paths.append(str(tmp_path / folder / "rows.jsonl"))
        lines = [json.dumps(row, ensure_ascii=False) for name in tasks for row in SOURCES[name]]
        Path(paths[-1]).write_text("\n".join(lines), encoding="utf-8")
    by_source = leave_out.read_sources(paths, "source")
    assert {name: len(rows) for name, rows in by_source.items()} == {"rows": 90, "rows-2": 10}
    by_task = leave_out.read_sources(paths, "task")
    assert {name: len(rows) for name, rows in by_task.items()} == {"a": 60, "b": 30, "c": 10}
    with pytest.raises(leave_out.InputError, match="one source alone"):
        leave_out.read_sources(paths[:1], "source")
    with pytest.raises(leave_out.InputError, match="once"):
        leave_out.read_sources([paths[0], paths[0]], "source")


# ── statistics ──


def test_one_seed_and_rows_of_their_own_is_a_paired_t_test():
    from scipy.stats import ttest_1samp

    values = np.random.default_rng(0).normal(0.3, 1, 40)
    found, expected = statistics.compare_runs(values[None], range(40)), ttest_1samp(values, 0)
    interval = expected.confidence_interval(0.95)
    assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, interval.low, interval.high))
    assert found.value == pytest.approx(values.mean())


def test_rows_of_one_context_do_not_count_as_many():
    values = np.random.default_rng(0).normal(0.3, 1, (3, 20))
    single = statistics.compare_runs(values, range(20))
    repeated = statistics.compare_runs(np.repeat(values, 10, axis=1), np.repeat(range(20), 10))
    assert (repeated.low, repeated.high, repeated.p, repeated.n) == pytest.approx(
        (single.low, single.high, single.p, 20)
    )


def test_seeds_that_differ_widen_the_interval():
    rows = np.random.default_rng(0).normal(0.3, 0.5, 200)
    alike = statistics.compare_runs(np.stack([rows, rows, rows]), range(200))
    apart = statistics.compare_runs(np.stack([rows - 0.3, rows, rows + 0.3]), range(200))
    assert alike.p < 1e-6
    assert apart.value == pytest.approx(alike.value)
    assert apart.low < 0 < apart.high  # two degrees of freedom
    assert apart.p > 0.05


@pytest.mark.parametrize(("seeds", "of_seed"), [(1, 0.0), (3, 0.0), (3, 0.3), (5, 0.3)])
def test_intervals_contain_the_true_difference(seeds, of_seed):
    random = np.random.default_rng(0)
    contexts = np.repeat(range(50), 2)
    hits = 0
    for _ in range(300):
        each = random.normal(0, 0.5, 50) + random.normal(0, 0.3, (seeds, 50))
        values = random.normal(0, of_seed, (seeds, 1)) + each[:, contexts] + random.normal(0, 0.5, (seeds, 100))
        found = statistics.compare_runs(values, contexts)
        hits += found.low <= 0 <= found.high
    assert 0.91 <= hits / 300 <= 0.99


def test_what_cannot_be_compared_is_not_significant():
    nothing = statistics.compare_runs(np.full((2, 5), np.nan), range(5))
    assert (nothing.n, nothing.p) == (0, 1.0)
    one = statistics.compare_runs(np.ones((2, 5)), [7] * 5)
    assert (one.n, one.value, one.p) == (1, 1.0, 1.0)
    same = statistics.compare_runs(np.zeros((2, 5)), range(5))
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1.0)
    few = statistics.compare_runs(np.ones((2, 4)), range(4))  # four of four: a sign test finds 1/8
    assert few.p == 0.125


def test_analysis_in_words(tmp_path):
    random = np.random.default_rng(0)
    whole = np.full((2, 60), 0.5)
    loss = lambda change: whole + change + random.normal(0, 0.01, (2, 60))  # noqa: E731
    first = np.arange(60) < 30
    without = {"needed": loss(np.where(first, 0.4, 0.0)), "wrong": loss(-0.2), "한글": loss(0.0)}
    measured = ablation.Measured("held-out loss", True, False, whole, without)
    groups = ["task02" if is_first else "task08" for is_first in first]
    analysis = ablation.analyse(measured, range(60), groups)
    assert [found["verdict"] for found in analysis["sources"].values()] == ["helped", "hurt", "not shown"]
    assert analysis["groups"]["task02"]["needed"]["verdict"] == "helped"
    assert analysis["groups"]["task08"]["needed"]["verdict"] == "not shown"
    needed, wrong, other = (ablation.sentence(measured, analysis, name) for name in without)
    assert needed.startswith("needed helped: without it the held-out loss is 0.2")
    assert " higher (" in needed
    assert "it helped on task02 (+0.4" in needed
    assert wrong.startswith("wrong hurt: without it the held-out loss is 0.2")
    assert " lower (0.1" in wrong
    assert other.startswith("한글: no effect on the held-out loss shown (0.0")
    table = ablation.tables(measured, analysis, {"needed": "10 of 12", "wrong": "5 of 1,000", "한글": "5 of 5"})
    assert "1,000" in table
    assert "task02" in table
    ablation.plot(measured, analysis, tmp_path / "effects.png")
    assert (tmp_path / "effects.png").read_bytes().startswith(b"\x89PNG")


def test_of_shares_more_is_better():
    whole = np.tile([1.0, 1.0, 1.0, 0.0], (1, 20))
    measured = ablation.Measured("share of “True answers”", False, True, whole, {"needed": np.zeros((1, 80))})
    analysis = ablation.analyse(measured, range(80), ["task02"] * 80)
    assert analysis["groups"] == {}
    said = ablation.sentence(measured, analysis, "needed")
    assert said.startswith("needed helped: without it the share of “True answers” is 75.0 points lower (65.")


# ── the whole ──

TRAINING = SFT[SFT.index("--lora_r") : SFT.index("--report_to")]


def flags(files: dict[str, Path], tiny_base, out: Path, *more: str, training: tuple[str, ...] = ()) -> list[str]:
    sources = [str(path) for name, path in files.items() if name != "test"]
    words = ["--trainset_path", *sources, "--testset_path", str(files["test"]), "--model_id", str(tiny_base)]
    return [*words, "--output_dir", str(out), *more, "--", *TRAINING, *training]


@pytest.mark.torch
def test_it_finds_what_a_task_needs_and_what_is_wrong(tiny_base, tmp_path, monkeypatch, capsys):
    def start(command, log):
        done = run_script(Path(command[1]).name, *command[2:])
        log.write(done.stdout + done.stderr)
        return done.returncode

    def measured_once(*given):
        losses.append(losses[0] if losses else measure(*given))
        return losses[0]

    def main(*more: str) -> dict:
        words = flags(files, tiny_base, tmp_path / "out", *more, training=("--train_epochs", "1"))
        return which_data_helped.main(which_data_helped.build_parser().parse_args(words))

    files = world_sources(tmp_path, {"titles": ("task02",), "tables": ("task12_01",)}, 20)
    usual = ("--max_rows", "48", "--max_test_rows", "30", "--seeds", "1", "--only", "titles", "shuffled")
    measure, losses = which_data_helped.measure_losses, []
    monkeypatch.setattr(which_data_helped, "start", start)
    monkeypatch.setattr(which_data_helped, "measure_losses", measured_once)
    found = main(*usual)
    assert found["verdicts"] == {"titles": "helped", "shuffled": "hurt"}
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    of_titles = results["measures"][0]["groups"]["task02"]["titles"]
    assert of_titles["verdict"] == "helped"
    assert results["loss"]["all"] < results["loss"]["base"]
    assert (out / "effects.png").is_file()
    assert len((out / "losses.jsonl").read_text(encoding="utf-8").splitlines()) == found["test_rows"]
    steps = [json.loads(path.read_text(encoding="utf-8"))["metrics"]["steps"] for path in out.glob("seed1/*/run.json")]
    assert steps == [12, 12, 12]
    assert not [*out.glob("seed1/*/checkpoint-*")]

    monkeypatch.setattr(which_data_helped, "start", lambda *args: pytest.fail("trained again"))
    capsys.readouterr()
    assert main(*usual, "--resume")["verdicts"] == found["verdicts"]
    assert "titles helped: without it" in capsys.readouterr().out
    with pytest.raises(which_data_helped.InputError, match="max_rows was 48, now 20"):
        main("--max_rows", "20", "--resume")


def test_what_cannot_be_measured_is_refused(tiny_base, tmp_path):
    files = world_sources(tmp_path, {"titles": ("task02",)}, 20)
    usual = ("--max_rows", "40")
    out = tmp_path / "out"
    for words, said in (
        (flags(files, tiny_base, out, *usual, training=("--packing",)), "different numbers of rows"),
        (flags(files, tiny_base, out, *usual, training=("--seed", "3")), "--seed: every training has its own"),
        (flags(files, tiny_base, out, *usual, training=("--learning_rte", "3")), "did you mean --learning_rate"),
        (flags(files, tiny_base, out, *usual, "--only", "tables"), "not among the sources titles, shuffled"),
        (flags(files, tiny_base, out, *usual, "--resume"), "nothing to resume"),
        (flags(files | {"test": files["titles"]}, tiny_base, out, *usual), "nothing is held out"),
        (flags(files | {"test": tmp_path / "nowhere"}, tmp_path / "none", out), "nowhere"),
    ):
        done = run_script(SCRIPT, *words)
        assert_refused(done, said)
        assert not out.exists()
    assert "model folder" in done.stderr  # with the other problem
