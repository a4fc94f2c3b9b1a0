"""Keys, rates, capacity, and the refusals of api_server.py that need no engine."""

import json
import shutil
import socket
from pathlib import Path

import pytest
from conftest import assert_refused, run_script

from sllm import cli
from sllm.serve import access, admission
from sllm.serve.access_log import RequestRecord
from sllm.serve.errors import ApiError


def test_keys_have_names_and_wrong_ones_have_none():
    keys = access.ApiKeys(["alice:s3cret", "plain-key"])
    assert keys
    assert keys.names == ["alice", "key2"]
    assert keys.name_of("s3cret") == "alice"
    assert keys.name_of("plain-key") == "key2"
    for wrong in ("", "s3cre", "s3cret ", "alice:s3cret", "키", "\udcff", "x" * 10_000):
        assert keys.name_of(wrong) is None
    assert not access.ApiKeys([])
    for given in (["a:"], [":k"], ["a:k", "a:l"], ["a:키"]):
        with pytest.raises(cli.InputError):
            access.ApiKeys(given)


def test_a_wrong_key_takes_as_long_however_right_it_begins(monkeypatch):
    """Whole digests are compared in constant time, and with every key, whatever the comparisons before say."""
    key = "k" * 64
    keys = access.ApiKeys([f"n{i}:{key[:-2]}{i:02}" for i in range(20)])
    compared, compare = [], access.hmac.compare_digest
    monkeypatch.setattr(access.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    for candidate in ("x" * 64, key[:-1] + "x", key[:-2] + "00", key[:-2] + "19"):
        compared.clear()
        keys.name_of(candidate)
        assert len(compared) == 20
        assert {len(side) for pair in compared for side in pair} == {32}  # digests


def test_rate_limits_are_for_each_caller(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(access.time, "monotonic", lambda: now[0])
    rate = access.RateLimit(60)
    assert [rate.wait("a") for _ in range(60)] == [0] * 60
    assert 0 < rate.wait("a") <= 1
    assert rate.wait("b") == 0
    now[0] += 1.01
    assert rate.wait("a") == 0
    assert rate.wait("a") > 0
    assert access.RateLimit(None).wait("a") == 0


def test_a_rate_limit_remembers_few_callers_and_forgets_the_idle(monkeypatch):
    monkeypatch.setattr(access, "CALLERS", 100)
    rate = access.RateLimit(1)
    for number in range(1000):
        assert rate.wait(f"caller{number}") == 0
    assert len(rate._buckets) == 100
    assert rate.wait("caller999") > 0


def test_keys_of_a_file_are_read_again(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# staff\nalice: one\n\n two \n", encoding="utf-8")
    keys = access.ApiKeys(["bob:three"], str(file))
    assert keys.names == ["bob", "alice", "key3"]
    assert keys.name_of("one") == "alice"
    assert keys.name_of("two") == "key3"
    file.write_text("alice: four\n", encoding="utf-8")
    keys.read()
    assert keys.name_of("one") is None
    assert keys.name_of("four") == "alice"
    assert keys.name_of("three") == "bob"
    for text in ("", "a:\n", "a:k\na:l\n"):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(cli.InputError):
            keys.read()
        assert keys.name_of("four") == "alice"  # as they were
    file.unlink()
    with pytest.raises(cli.InputError):
        keys.read()


def test_origins_are_what_browsers_send():
    for origin in ("https://a.example", "http://localhost:3000", "*"):
        assert access.check_origin(origin) == origin
    for origin in ("foo", "a.example", "https://", "https://a.example/page", "ftp://a"):
        with pytest.raises(cli.InputError):
            access.check_origin(origin)


def test_capacity_is_given_back_when_a_request_ends():
    capacity = admission.Capacity(2, 1)
    first, second = RequestRecord("a", "POST", "/"), RequestRecord("b", "POST", "/")
    capacity.take(first, 2)
    with pytest.raises(ApiError) as full:
        capacity.take(second, 2)
    assert full.value.status_code == 429
    assert int(full.value.headers["Retry-After"]) >= 1
    capacity.take(second, 1)
    assert capacity.taken == 3
    first.release(capacity)
    first.release(capacity)  # ends once
    second.release(capacity)
    assert capacity.taken == 0
    with pytest.raises(ApiError) as never:
        capacity.take(first, 4)
    assert never.value.status_code == 400


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
    refused("--model_id", tiny_base, "--allowed_origins", "foo", said=("--allowed_origins foo",))
    refused("--model_id", tiny_base, "--api_keys_file", "gone", said=("--api_keys_file gone",))
    refused("--model_id", tiny_base, "--tool_call_parser", "hermess", said=("--tool_call_parser hermess", "hermes"))
    refused("--model_id", tiny_base, "--reasoning_parser", "qwen33", said=("--reasoning_parser qwen33", "qwen3"))
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


BROKEN = {  # a file of the adapter → what is in it
    "config is not JSON": ("adapter_config.json", b"{", "adapter_config.json"),
    "config is a list": ("adapter_config.json", b"[]", "adapter_config.json"),
    "no base named": ("adapter_config.json", b'{"peft_type": "LORA", "r": 8}', "base_model_name_or_path"),
    "weights are cut": ("adapter_model.safetensors", b"\x00" * 100, "adapter_model.safetensors"),
    "weights are empty": ("adapter_model.safetensors", b"", "adapter_model.safetensors"),
    "weights are missing": ("adapter_model.safetensors", None, "no weights"),
    "run.json is not JSON": ("run.json", b"{", "run.json"),
    "run.json is a list": ("run.json", b"[]", "run.json"),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_adapter_is_one_line_before_the_engine_starts(tiny_base, sft_folder, tmp_path, name):
    file, data, said = BROKEN[name]
    adapter = copy(sft_folder, tmp_path / "adapter")
    (adapter / file).unlink()
    if data is not None:
        (adapter / file).write_bytes(data)
    if file != "run.json":
        (adapter / "run.json").unlink()  # whose hashes would tell first
    refused("--model_id", tiny_base, "--lora_modules", f"sft={adapter}", said=(said,))


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
