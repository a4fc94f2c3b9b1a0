"""Output folders and files have one writer at a time; a failed start leaves nothing in the way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from sllm import checkpoint, locks, outputs, runs
from sllm.cli import InputError

HOLDER = (
    "import sys, time; from sllm import checkpoint\nout = sys.argv[1]\n{}\nprint('ready', flush=True); sys.stdin.read()"
)
FOLDER = "checkpoint.prepare_output(out, overwrite=True)"
FILE = "checkpoint.hold(out)"


class Running:
    """A process that holds an output until its standard input ends."""

    def __init__(self, out: Path, body: str = FOLDER, *words: str):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        code = [sys.executable, "-c", HOLDER.format(body), str(out), *words]
        self.process = subprocess.Popen(code, cwd=ROOT, text=True, **pipes)

    def __enter__(self):
        assert self.process.stdout.readline() == "ready\n", self.process.stderr.read()
        return self.process

    def __exit__(self, *args):
        self.process.communicate()


def refused(function, *values, **named) -> str:
    with pytest.raises(InputError) as error:
        function(*values, **named)
    (line,) = error.value.problems
    return line


def test_a_running_run_keeps_its_folder(tmp_path):
    out = tmp_path / "sft"
    with Running(out, FOLDER, "--a_flag") as process:
        (out / "checkpoint-4").mkdir()
        for check in (checkpoint.check_output, checkpoint.prepare_output):
            for flags in ({"overwrite": True}, {"overwrite": False}, {"overwrite": False, "resume": True}):
                said = refused(check, out, **flags)
                assert f"{out} is being written by another run (process {process.pid} on " in said
                assert "--a_flag" in said
                assert "since 20" in said
        assert (out / "checkpoint-4").is_dir()
    assert not locks.of_folder(out).exists()  # gone with the process that held it
    checkpoint.prepare_output(out, overwrite=True)
    assert not (out / "checkpoint-4").exists()


def test_a_killed_run_holds_nothing(tmp_path):
    out = tmp_path / "sft"
    with Running(out) as process:
        (out / "checkpoint-4").mkdir()
        process.send_signal(signal.SIGKILL)
    assert json.loads(locks.of_folder(out).read_text())["pid"] == process.pid
    assert checkpoint.prepare_output(out, overwrite=False, resume=True) == out
    assert json.loads(locks.of_folder(out).read_text())["pid"] == os.getpid()
    checkpoint.write_run(out, "sft", None)
    assert sorted(os.listdir(out)) == ["checkpoint-4", "run.json"]


def test_of_two_runs_that_start_at_once_one_runs(tmp_path):
    body = (
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "try: checkpoint.prepare_output(out, overwrite={0})\n"
        "except checkpoint.InputError as error: print('refused', error, flush=True); sys.exit(2)"
    )
    for overwrite in (False, True):
        import time

        out = tmp_path / f"sft {overwrite}"
        running = [Running(out, body.format(overwrite), str(time.time() + 1)).process for _ in range(4)]
        first = [process.stdout.readline() for process in running]
        assert first.count("ready\n") == 1, first
        assert all("is being written by another run" in line for line in first if line != "ready\n")
        for process in running:
            process.communicate()


def test_a_run_that_waited_does_not_empty_what_the_other_finished(tmp_path, monkeypatch):
    out = tmp_path / "sft"
    take = locks.take

    def finish_first(lock):
        subprocess.run(
            [sys.executable, "-c", f"from sllm import checkpoint as c; c.write_run({str(out)!r}, 'sft', None)"],
            cwd=ROOT, check=True,
        )  # fmt: skip
        take(lock)

    monkeypatch.setattr(locks, "take", finish_first)
    assert "exists; replace it with --overwrite" in refused(checkpoint.prepare_output, out, overwrite=False)
    assert os.listdir(out) == ["run.json"]


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    out = tmp_path / "sft"
    body = f"{FOLDER}\nimport os\nback, there = os.pipe()\n"
    body += "if os.fork() == 0:\n    os.write(there, b'x'); time.sleep(30); os._exit(0)\nos.read(back, 1)"
    with Running(out, body) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        checkpoint.prepare_output(out, overwrite=True)  # its child still sleeps
        process.stdin.close()
        process.stdout.close()
        process.stderr.close()
        process.stdin = process.stdout = process.stderr = None
    checkpoint.write_run(out, "sft", None)


def test_an_answer_file_has_one_writer_too(tmp_path):
    output = tmp_path / "outputs.jsonl"
    with Running(output, FILE) as process:
        said = refused(outputs.check_output, output, overwrite=True, resume=False)
        assert f"{output} is being written by another run (process {process.pid} " in said
        refused(outputs.begin, output, None, {}, keep=False)
        assert not output.exists()
    outputs.begin(output, None, {}, keep=False)
    assert locks.of_file(output).exists()
    outputs.finish(output, None, {}, {}, 0.0)
    assert sorted(os.listdir(tmp_path)) == ["outputs.jsonl", "outputs.run.json"]


# ── what a failed start leaves ─────────────────────────────────────────────────────────────────────────────


def test_a_failed_start_is_in_nobodys_way(tmp_path):
    out = checkpoint.prepare_output(tmp_path / "sft", overwrite=False)
    (out / "metrics.jsonl").touch()
    (out / "runs").mkdir()
    (out / "checkpoint-2").mkdir()  # torn: a disk that was full, or a kill, before the first one was whole
    (out / "README.md").touch()
    (out / ".metrics.jsonl.123").touch()
    checkpoint.check_output(out, overwrite=False)
    assert "--overwrite" in runs.unfinished(out)
    assert "--resume" not in runs.unfinished(out)
    checkpoint.prepare_output(out, overwrite=False)
    assert sorted(os.listdir(out)) == [".lock", ".unfinished"]
    for name in ("checkpoint-4/complete", "adapter_model.safetensors", "notes.txt"):
        (out / name).mkdir(parents=True)
        assert "exists" in refused(checkpoint.check_output, out, overwrite=False)
        assert ("--resume" in runs.unfinished(out)) == name.startswith("checkpoint")
        (out / name).rmdir()
        if "/" in name:
            (out / name).parent.rmdir()
    foreign = tmp_path / "board"
    (foreign / "runs").mkdir(parents=True)  # without our marker it is somebody's
    assert "exists" in refused(checkpoint.check_output, foreign, overwrite=False)


def test_emptying_that_is_stopped_halfway_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    out = checkpoint.prepare_output(tmp_path / "sft", overwrite=False)
    (out / "checkpoint-4").mkdir()
    checkpoint.write_run(out, "sft", None)

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.prepare_output(out, overwrite=True)
    assert sorted(os.listdir(out)) == [".unfinished", "checkpoint-4"]


def test_a_full_disk_leaves_no_lock(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    said = refused(checkpoint.prepare_output, tmp_path / "sft", overwrite=False)
    assert "cannot be written (No space left on device" in said
    assert os.listdir(tmp_path / "sft") == []


def test_a_write_that_fails_leaves_nothing_beside(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write_atomically(path, "new")
    assert os.listdir(tmp_path) == ["run.json"]
    assert path.read_text() == "old"


def test_places_where_nothing_can_be_written_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for place, said in (
        (tmp_path / "file" / "sft", "a file is in the way"),
        (tmp_path / ("x" * 300), "File name too long"),
        (Path("/proc/sft"), ""),
    ):
        line = refused(checkpoint.prepare_output, place, overwrite=True)
        assert line.startswith(f"{place} cannot be written (")
        assert said in line
        assert "name another folder" in line
        assert said in line
    monkeypatch.setattr(os, "access", lambda *args: False)
    assert "no permission" in refused(checkpoint.check_output, tmp_path / "sft", overwrite=False)
    assert "cannot be written" in refused(checkpoint.hold, tmp_path / "gone" / "outputs.jsonl")
