"""Keys, rates, places, and the refusals of api_server.py that need no engine."""

import json
import shutil
import socket
import statistics
import time
from pathlib import Path

import pytest
from conftest import assert_refused, run_script

from sllm import cli
from sllm.serve import limits


def test_keys_have_names_and_wrong_ones_have_none():
    keys = limits.Keys(["alice:s3cret", "plain-key"])
    assert keys and keys.names == ["alice", "key2"]
    assert keys.name_of("s3cret") == "alice" and keys.name_of("plain-key") == "key2"
    for wrong in ("", "s3cre", "s3cret ", "alice:s3cret", "키", "\udcff", "x" * 10_000):
        assert keys.name_of(wrong) is None
    assert not limits.Keys([])
    for given in (["a:"], [":k"], ["a:k", "a:l"], ["a:키"]):
        with pytest.raises(cli.InputError):
            limits.Keys(given)


def test_a_wrong_key_takes_as_long_however_right_it_begins():
    key = "k" * 64
    keys = limits.Keys([f"n{i}:{key[:-2]}{i:02}" for i in range(20)])
    candidates = {"far": "x" * 64, "near": key[:-1] + "x", "right": key[:-2] + "00", "last": key[:-2] + "19"}
    times = {name: [] for name in candidates}
    for _ in range(400):
        for name, candidate in candidates.items():
            started = time.perf_counter()
            for _ in range(10):
                keys.name_of(candidate)
            times[name].append(time.perf_counter() - started)
    fast = {name: statistics.quantiles(found, n=10)[0] for name, found in times.items()}
    assert max(fast.values()) < 1.3 * min(fast.values()), fast


def test_rate_limits_are_for_each_caller(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])
    rate = limits.RateLimit(60)
    assert [rate.wait("a") for _ in range(60)] == [0] * 60
    assert 0 < rate.wait("a") <= 1 and rate.wait("b") == 0
    now[0] += 1.01
    assert rate.wait("a") == 0 and rate.wait("a") > 0
    assert limits.RateLimit(None).wait("a") == 0


def test_places_are_given_back_whatever_happens():
    seats = limits.Seats(2, 1)
    with seats.take(2):
        with pytest.raises(limits.Full) as full, seats.take(2):
            pass
        assert full.value.retry_after >= 1
        with pytest.raises(ZeroDivisionError), seats.take(1):
            raise ZeroDivisionError
        assert seats.taken == 2
    assert seats.taken == 0


# ── bad input: exit 2, one line each, before any weight is loaded ──────────────────────────────────────────


def refused(*words: object, said: tuple[str, ...], **env: str) -> None:
    done = run_script("api_server.py", *words, **env)
    assert_refused(done, *said)
    assert "loading" not in done.stdout


def test_everything_wrong_with_a_command_line_is_said_at_once(tiny_base):
    said = ("folder gone is missing", "--allow_anonymous", "x=gone", "y is not")
    wrong = ["--host", "0.0.0.0", "--lora_modules", "x=gone", "y"]
    refused("--model_id", "gone", *wrong, said=said)
    refused("--model_id", tiny_base, "--port", "99999", said=("whole number from 0 to 65535",))
    refused("--model_id", tiny_base, "--max_waiting", "-1", said=("whole number from 0",))
    refused("--model_id", tiny_base, "--temperature", "9", said=("number from 0 to 2",))
    refused("--model_id", tiny_base, "--api_key", "a:", said=("API key 1",))
    refused("--model_id", tiny_base, "--host", "0.0.0.0", said=("--host 0.0.0.0", "SLLM_API_KEYS"))


@pytest.mark.torch
def test_a_port_in_use_is_one_line(tiny_base):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        refused("--model_id", tiny_base, "--port", sock.getsockname()[1], said=("is in use",))


def copy(folder: Path, to: Path, **changes: str) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name not in changes:
            shutil.copy(path, to)
    for name, text in changes.items():
        (to / name).write_text(text, encoding="utf-8")
    return to


@pytest.mark.torch
def test_folders_that_fail_their_contract_are_refused(tiny_base, sft_folder, tmp_path):
    template = (sft_folder / "chat_template.jinja").read_text(encoding="utf-8").replace("assistant", "assistent")
    changed = copy(sft_folder, tmp_path / "changed", **{"chat_template.jinja": template})
    refused("--model_id", tiny_base, "--lora_modules", f"sft={changed}", said=("chat_template.jinja", "was ", "since"))

    config = (tiny_base / "config.json").read_text(encoding="utf-8").replace("1e-06", "1e-05")
    other = copy(tiny_base, tmp_path / "other", **{"config.json": config})
    (other / "run.json").unlink()
    refused("--model_id", other, "--lora_modules", f"sft={sft_folder}", said=("was trained on", "which is not"))
    refused(
        "--model_id", tiny_base, "--lora_modules", f"a={sft_folder}", f"a={sft_folder}", said=("has a twice",)
    )  # fmt: skip
    config = json.loads((sft_folder / "adapter_config.json").read_text(encoding="utf-8"))
    dora = copy(sft_folder, tmp_path / "dora", **{"adapter_config.json": json.dumps(config | {"use_dora": True})})
    refused("--model_id", tiny_base, "--lora_modules", f"dora={dora}", said=("DoRA",))


@pytest.mark.torch
def test_a_base_that_changed_since_the_adapter_was_trained_is_refused(tiny_base, sft_folder, tmp_path):
    base = copy(tiny_base, tmp_path / "base")
    config = json.loads((sft_folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = str(base)
    adapter = copy(sft_folder, tmp_path / "adapter", **{"adapter_config.json": json.dumps(config)})
    rows = Path("sample_data/task_rows.jsonl")
    (base / "run.json").unlink()
    with (base / "model.safetensors").open("r+b") as file:  # one weight, and the size stays
        file.seek(-1, 2)
        file.write(b"\x77")
    done = run_script(
        "vllm_inference.py", "--model_id", adapter, "--testset_path", rows, "--output_path", tmp_path / "o"
    )
    assert_refused(done, "was trained on", "which is not", "--base_model")
