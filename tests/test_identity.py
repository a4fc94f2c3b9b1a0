"""What a folder is, by content: the base of an adapter, moved trees, damaged and unfinished folders, Hub ids."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, assert_refused, run_script

from sllm import accept, checkpoint, hashes, hub
from sllm.cli import InputError

SHIPPED = ROOT / "sample_data" / "tiny_base"


def problems(function, *values, **named) -> str:
    with pytest.raises(InputError) as error:
        function(*values, **named)
    return "\n".join(error.value.problems)


def tensors(weights: bytes) -> bytes:
    """A safetensors file of one tensor."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [len(weights)], "data_offsets": [0, len(weights)]}}).encode()
    return len(header).to_bytes(8, "little") + header + weights


def model(folder: Path, weights: bytes = b"weights", **config) -> Path:
    """A folder that looks like a model to everything that does not load it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8} | config))
    (folder / "model.safetensors").write_bytes(tensors(weights))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def adapter(folder: Path, base: Path | str, parent: Path | str | None = None, *, record: bool = True) -> Path:
    """An adapter as SFT leaves it, or DPO, where `parent` is the adapter that it went on from."""
    folder.mkdir(parents=True)
    named = str(Path(base).resolve()) if Path(base).exists() else str(base)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": named, "r": 8}))
    (folder / "adapter_model.safetensors").write_bytes(tensors(folder.name.encode()))
    (folder / "tokenizer.json").write_text("{}")
    if record:
        stage = "dpo" if parent else "sft"
        checkpoint.write_run(folder, stage, None, parents=[parent or base], base_model=str(base))
    return folder


@pytest.fixture
def tree(tmp_path) -> Path:
    """outputs/ with base, sft and dpo."""
    outputs = tmp_path / "outputs"
    base = model(outputs / "base")
    checkpoint.write_run(base, "base", None)
    sft = adapter(outputs / "sft", base)
    adapter(outputs / "dpo", base, sft)
    return outputs


# ── identity ───────────────────────────────────────────────────────────────────────────────────────────────


def test_identity_is_contents_and_nothing_else(tmp_path):
    one = model(tmp_path / "one")
    identity = hashes.identity(one)
    copy = Path(shutil.copytree(one, tmp_path / "copy"))
    checkpoint.write_run(copy, "base", None)  # another time, another place
    (copy / "config.json").write_text('{"transformers_version": "9", "_name_or_path": "/there", "hidden_size": 8}')
    (copy / "README.md").write_text("x")
    assert hashes.identity(copy) == identity
    assert checkpoint.folder_hash(copy) == identity.hash
    (copy / "tokenizer.json").write_text("[]")
    assert hashes.identity(copy).weights == identity.weights
    assert hashes.identity(copy).hash != identity.hash
    for change in ({"weights": b"weighty"}, {"hidden_size": 9}):
        other = model(tmp_path / f"{change}", **change)
        assert hashes.identity(other).weights != identity.weights


def test_an_adapter_is_the_same_wherever_its_base_lies(tmp_path):
    one = adapter(tmp_path / "one" / "a", "/here/base", record=False)
    other = adapter(tmp_path / "other" / "a", "/there/base", record=False)
    assert checkpoint.folder_hash(one) == checkpoint.folder_hash(other)
    (other / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/here/base", "r": 16}))
    assert checkpoint.folder_hash(one) != checkpoint.folder_hash(other)


def test_weights_are_the_files_that_a_loader_takes(tmp_path):
    folder = model(tmp_path / "model")
    (folder / "consolidated.safetensors").write_bytes(tensors(b"the same once more"))
    (folder / "training_args.bin").write_bytes(b"no weights")
    assert hashes.weight_files(folder) == ["model.safetensors"]
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "b.safetensors", "c": "a.safetensors"}}))
    (folder / "a.safetensors").write_bytes(tensors(b"a"))
    assert hashes.weight_files(folder) == [index.name, "a.safetensors", "b.safetensors"]
    assert "b.safetensors is missing" in problems(checkpoint.require_model, str(folder))
    index.write_text('{"weight_map": {')
    assert "index.json cannot be read" in problems(checkpoint.require_model, str(folder))


def test_large_files_are_hashed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "CACHED_FROM", 4)
    read = []
    monkeypatch.setattr(
        hashes, "_read", lambda path, progress, real=hashes._read: read.append(1) or real(path, progress)
    )
    path = tmp_path / "weights.bin"
    path.write_bytes(b"young")
    assert checkpoint.file_hash(path) == checkpoint.file_hash(path)
    assert len(read) == 2
    monkeypatch.setattr(hashes, "SETTLED", -(10**12))
    first = checkpoint.file_hash(path)
    assert len(read) == 3
    assert checkpoint.file_hash(path) == first
    assert len(read) == 3
    hashes._in_memory.clear()  # another process: from the file
    assert checkpoint.file_hash(path) == first
    assert len(read) == 3
    before = path.stat()
    path.write_bytes(b"YOUNG")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a copying tool sets it back
    assert checkpoint.file_hash(path) != first
    (tmp_path / "cache" / "sllm" / "hashes.json").write_text('{"torn')
    hashes._in_memory.clear()
    assert checkpoint.file_hash(path) != first


def test_a_home_that_cannot_be_written_to_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(hashes, "CACHED_FROM", 0)
    monkeypatch.setattr(hashes, "SETTLED", -(10**12))
    path = tmp_path / "weights.bin"
    path.write_bytes(b"x")
    assert checkpoint.file_hash(path) == checkpoint.file_hash(path)


def test_processes_that_write_the_cache_at_once_leave_it_whole(tmp_path):
    code = (
        "import sys; from sllm import hashes\n"
        "hashes.CACHED_FROM, hashes.SETTLED = 0, -10**12\n"
        "[hashes.file_hash(path) for path in sys.argv[1:]]"
    )
    paths = [tmp_path / f"{number}.bin" for number in range(30)]
    for path in paths:
        path.write_text(path.name)
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    running = [subprocess.Popen([sys.executable, "-c", code, *map(str, paths)], cwd=ROOT, env=env) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    folder = tmp_path / "cache" / "sllm"
    known = json.loads((folder / "hashes.json").read_text())
    assert {Path(path).name for path in known} <= {path.name for path in paths}
    assert len(known) >= 10
    assert os.listdir(folder) == ["hashes.json"]


def test_long_hashing_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"x" * 2**23)
    clock = iter(range(0, 100, 3))
    monkeypatch.setattr(hashes.time, "monotonic", lambda: next(clock))
    hashes.file_hash(path)
    assert f"hashing {tmp_path}: 0.0 of 0.0 GiB" in capsys.readouterr().out


# ── the base of an adapter ─────────────────────────────────────────────────────────────────────────────────


def test_every_stage_records_its_base(tree):
    base = checkpoint.read_run(tree / "dpo")["base"]
    assert base["path"] == str(tree / "base")
    assert base["relative"] == "../base"
    assert (base["hash"], base["weights"]) == hashes.identity(tree / "base")


def test_a_moved_tree_works_as_it_did(tree, tmp_path):
    moved = tree.rename(tmp_path / "elsewhere")
    for name in ("sft", "dpo"):
        assert checkpoint.require_model(str(moved / name)) == (str(moved / "base"), str(moved / name))
        assert checkpoint.notes(moved / name, str(moved / "base")) == []
    shutil.rmtree(moved / "sft")  # no adapter needs the one that it went on from
    assert checkpoint.require_model(str(moved / "dpo"))[0] == str(moved / "base")
    model(tree / "base", b"another one, where the old one was")
    assert checkpoint.require_model(str(moved / "dpo"))[0] == str(moved / "base")
    shutil.rmtree(tree)
    record = checkpoint.read_run(moved / "dpo")
    assert checkpoint.find(moved / "dpo", record, str(tree / "base")) == str(moved / "base")


def test_a_base_with_other_weights_of_the_same_size_is_refused(tree, tmp_path):
    (tree / "base" / "run.json").unlink()  # a base of others: nothing but the adapter knows what it was
    (tree / "base" / "model.safetensors").write_bytes(tensors(b"weighty"))
    for name in ("sft", "dpo"):
        said = problems(checkpoint.require_model, str(tree / name))
        assert "has changed since" in said
        assert "train again" in said
        assert said.count("…") == 2
        assert "has changed since" in problems(checkpoint.require_base, tree / name, str(tree / "base"))


def test_the_base_that_is_named_is_compared_too(tree, tmp_path):
    other = model(tmp_path / "random", b"WEIGHTS")
    sft = str(tree / "sft")
    assert "which is not" in problems(checkpoint.require_model, sft, base_model=str(other))
    assert "which is not" in problems(checkpoint.require_base, sft, str(other))
    same = Path(shutil.copytree(tree / "base", tmp_path / "same"))
    assert checkpoint.require_model(sft, base_model=str(same)) == (str(same), sft)
    checkpoint.require_base(sft, str(same))
    shutil.rmtree(tree / "base")
    assert "is missing; name it: --base_model" in problems(checkpoint.require_model, sft)
    assert checkpoint.require_model(sft, base_model=str(same))[0] == str(same)


def test_a_base_that_was_put_into_the_config_is_the_one_that_is_meant(tree, tmp_path):
    other = model(tmp_path / "other", b"WEIGHTS")
    config = {"base_model_name_or_path": str(other), "r": 8}
    (tree / "sft" / "adapter_config.json").write_text(json.dumps(config))
    assert "which is not" in problems(checkpoint.require_model, str(tree / "sft"))


def test_a_config_that_was_changed_is_another_base(tree):
    (tree / "base" / "run.json").unlink()
    (tree / "base" / "config.json").write_text('{"hidden_size": 8, "rope_theta": 5}')
    assert "has changed since" in problems(checkpoint.require_model, str(tree / "sft"))


def test_an_adapter_of_a_quantised_base_goes_with_its_original(tmp_path):
    quantised = model(tmp_path / "bits", b"4 bit", quantization_config={"bits": 4})
    original, other = model(tmp_path / "original"), model(tmp_path / "other", b"8 bit", quantization_config={"bits": 8})
    sft = str(adapter(tmp_path / "sft", quantised))
    assert checkpoint.require_model(sft, base_model=str(original))[0] == str(original)
    assert any("is quantised" in note for note in checkpoint.notes(sft, str(original)))
    assert "which is not" in problems(checkpoint.require_model, sft, base_model=str(other))


def test_records_of_older_versions_are_named_without_a_traceback(tmp_path):
    base = model(tmp_path / "base")
    sft = adapter(tmp_path / "sft", base, record=False)
    parents = [{"path": str(base), "stage": "base", "hash": "of names and sizes"}]
    (sft / "run.json").write_text(json.dumps({"stage": "sft", "parents": parents, "base_model": str(base)}))
    assert checkpoint.require_model(str(sft)) == (str(base), str(sft))
    checkpoint.require_base(sft, str(base))
    said = "\n".join(checkpoint.notes(sft, str(base)))
    assert "older version" in said
    assert "does not record the hash of its base" in said
    accept.main(accept.build_parser().parse_args([str(sft)]))
    assert checkpoint.notes(sft, str(base)) == []
    (base / "model.safetensors").write_bytes(tensors(b"weighty"))
    assert "has changed since" in problems(checkpoint.require_model, str(sft))


def test_adapters_of_other_tools_are_used_with_a_note(tmp_path):
    base, same = model(tmp_path / "base"), model(tmp_path / "same")
    other = model(tmp_path / "other", b"WEIGHTS")
    foreign = adapter(tmp_path / "foreign", base, record=False)
    assert checkpoint.require_model(str(foreign)) == (str(base), str(foreign))
    assert "was not made here" in checkpoint.notes(foreign, str(base))[0]
    checkpoint.require_base(foreign, str(same))
    assert "was trained on" in problems(checkpoint.require_base, foreign, str(other))


# ── damaged and unfinished folders ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_file_that_changed_is_named(tmp_path, name):
    folder = model(tmp_path / "merged")
    checkpoint.write_run(folder, "merged", None)
    assert set(checkpoint.read_run(folder)["files"]) == {"model.safetensors", "config.json", "tokenizer.json"}
    assert checkpoint.require_model(str(folder)) == (str(folder), None)
    assert checkpoint.notes(folder) == []
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content.replace(b"w", b"W").replace(b"8", b"9").replace(b"{}", b"[]"))
    for check in (checkpoint.require_model, lambda folder: checkpoint.require(folder, stage="merged")):
        said = problems(check, str(folder))
        assert f"{folder / name} was changed since" in said
        assert "merged_weights.py" in said
        assert "sllm.accept" in said
    if name == "model.safetensors":
        (folder / name).write_bytes(content[:-1])
        assert f"has {len(content) - 1} bytes, {len(content)} were written" in problems(
            checkpoint.require_model, str(folder)
        )
        (folder / name).unlink()
        assert f"{folder / name} is missing" in problems(checkpoint.require_model, str(folder))


def test_a_torn_file_of_others_is_named_before_anything_loads_it(tmp_path):
    folder = model(tmp_path / "foreign")
    content = (folder / "model.safetensors").read_bytes()
    for torn in (
        content[:-1],
        content + b"x",
        content[:20],
        b"",
        b"\xff" * 30,
        tensors(b"x").replace(b"data", b"date"),
    ):
        (folder / "model.safetensors").write_bytes(torn)
        assert "model.safetensors is damaged or cut off" in problems(checkpoint.require_model, str(folder))
    (folder / "model.safetensors").write_bytes(content)
    checkpoint.require_model(str(folder))
    (folder / ".unfinished").touch()
    foreign = adapter(tmp_path / "adapter", folder, record=False)
    assert f"{folder} is unfinished" in problems(checkpoint.require_model, str(foreign))


def test_what_was_added_and_what_may_be_edited(tmp_path):
    folder = model(tmp_path / "merged")
    (folder / "generation_config.json").write_text('{"temperature": 0.7}')
    checkpoint.write_run(folder, "merged", None)
    (folder / "generation_config.json").write_text('{"temperature": 0.2}')
    checkpoint.require_model(str(folder))
    assert "generation_config.json was edited since" in checkpoint.notes(folder)[0]
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert "chat_template.jinja was added since" in problems(checkpoint.require_model, str(folder))
    results = accept.main(accept.build_parser().parse_args([str(folder)]))
    assert results["files"] == ["chat_template.jinja", "generation_config.json"]
    checkpoint.require_model(str(folder))
    assert checkpoint.notes(folder) == []
    assert len(checkpoint.read_run(folder)["accepted"]) == 1


def test_another_base_is_accepted_only_by_name(tree, tmp_path):
    other = model(tmp_path / "other", b"WEIGHTS")
    accept.main(accept.build_parser().parse_args([str(tree / "sft")]))
    assert "which is not" in problems(checkpoint.require_model, str(tree / "sft"), base_model=str(other))
    accept.main(accept.build_parser().parse_args([str(tree / "sft"), "--base_model", str(other)]))
    assert checkpoint.require_model(str(tree / "sft"))[0] == str(other)  # and found without the flag
    assert "no run.json" in problems(accept.main, accept.build_parser().parse_args([str(other)]))
    (tree / "dpo" / "adapter_model.safetensors").unlink()
    assert "cannot be accepted" in problems(accept.main, accept.build_parser().parse_args([str(tree / "dpo")]))


def test_prepared_rows_that_changed_are_refused(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    checkpoint.write_run(tmp_path, "data", None)
    before = checkpoint.folder_hash(tmp_path)
    checkpoint.require(tmp_path, stage="data")
    (tmp_path / "train.jsonl").write_text("[]\n")
    assert "train.jsonl was changed since" in problems(checkpoint.require, tmp_path, stage="data")
    assert checkpoint.folder_hash(tmp_path) != before


@pytest.mark.parametrize("left", ["", "{", "[]", '{"--lora_r": 8}'])
def test_an_unfinished_folder_is_refused(tmp_path, left):
    base = model(tmp_path / "base")
    folder = adapter(tmp_path / "sft", base, record=False)
    (folder / ".unfinished").write_text(left)
    (folder / "tokenizer.json").unlink()
    said = problems(checkpoint.require_model, str(folder))
    assert "is unfinished (no run.json)" in said
    assert "\n" not in said
    (base / ".unfinished").write_text(left)
    finished = adapter(tmp_path / "dpo", base)
    assert f"{base} is unfinished" in problems(checkpoint.require_model, str(finished))
    (folder / "checkpoint-4").mkdir()
    assert "start it over with its own command" in problems(checkpoint.require_model, str(folder))  # a torn one
    (folder / "checkpoint-4" / "complete").touch()
    assert "resume it with its own command and --resume" in problems(checkpoint.require_model, str(folder))


def test_an_unfinished_folder_names_the_command_that_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_LoRA_SFT.py", "--output_dir", "a b", "--overwrite"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # of `python -m pytest`
    folder = checkpoint.prepare_output(tmp_path / "sft", overwrite=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text("{}")
    said = problems(checkpoint.require_model, str(folder))
    assert "train_LoRA_SFT.py --output_dir 'a b' --overwrite`" in said
    (folder / "checkpoint-4").mkdir()
    (folder / "checkpoint-4" / "complete").touch()
    said = problems(checkpoint.require_model, str(folder))
    assert "train_LoRA_SFT.py --output_dir 'a b' --resume`" in said


def test_a_damaged_record_is_one_line(tmp_path):
    folder = model(tmp_path / "model")
    for text in ("{", "[]", ""):
        (folder / "run.json").write_text(text)
        assert "run.json" in problems(checkpoint.require_model, str(folder))
    (folder / "run.json").write_text("{}")
    assert checkpoint.require_model(str(folder)) == (str(folder), None)
    assert "is a damaged folder" in problems(checkpoint.require, folder, stage="sft")


def test_the_shipped_base_is_what_its_record_says(tmp_path):
    assert checkpoint.require_model(str(SHIPPED)) == (str(SHIPPED), None)
    assert checkpoint.notes(SHIPPED) == []
    copy = Path(shutil.copytree(SHIPPED, tmp_path / "base"))
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        last = file.read(2)
        file.seek(-2, os.SEEK_END)
        file.write(bytes([last[0], last[1] ^ 0x80]))  # one bfloat16 negated
    assert "model.safetensors was changed since" in problems(checkpoint.require_model, str(copy))


# ── Hub ids ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    from huggingface_hub import constants

    hub._why_not.cache_clear()
    hub._download_size.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hub"


def cached(cache: Path, repository: str, **files) -> Path:
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("c0ffee")
    return model(folder / "snapshots" / "c0ffee", **files)


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does for a repository that is there, gated, absent, or holds only an adapter."""

    def do_HEAD(self):
        status, code = {
            "/org/there": (302, ""),
            "/org/gated": (401, "GatedRepo"),
            "/org/absent": (401, "RepoNotFound"),
            "/org/adapter": (404, "EntryNotFound"),
            "/org/busy": (503, ""),
        }[self.path.partition("/resolve/")[0]]
        self.send_response(status)
        self.send_header("Location", "http://127.0.0.1:1/never-asked")
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()

    def do_GET(self):
        """What the Hub says of a repository's files."""
        sizes = {"model.safetensors": 3 * 2**30, "config.json": 700, "pytorch_model.bin": 2**40}
        files = [{"rfilename": name, "size": size} for name, size in sizes.items()]
        body = json.dumps({"id": "org/there", "siblings": files}).encode()
        self.send_response(200 if self.path.startswith("/api/models/org/there?") else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def test_what_the_hub_answers_is_one_line(cache, monkeypatch):
    from huggingface_hub import constants

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        assert checkpoint.require_model("org/there") == ("org/there", None)
        assert checkpoint.notes("org/there") == ["org/there: 3.00 GiB to download from the Hub"]
        assert checkpoint.notes("org/adapter") == []  # the Hub does not say
        assert checkpoint.require_model("org/adapter") == ("org/adapter", None)
        assert "access is restricted" in problems(checkpoint.require_model, "org/gated")
        assert "nor a public repository" in problems(checkpoint.require_model, "org/absent")
        assert "cannot serve it now (status 503)" in problems(checkpoint.require_model, "org/busy")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name", ["models/tinybase", "models/tiny_bas/", "models/deep/../tinybase"])
def test_a_misspelt_folder_is_answered_with_the_one_that_was_meant(cache, monkeypatch, tmp_path, name):
    model(tmp_path / "models" / "tiny_base")
    (tmp_path / "models" / "deep").mkdir()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    assert "tiny_base?" in problems(checkpoint.require_model, name).partition("; did you mean models/")[2]


@pytest.mark.parametrize("name", ["tests", "nothing/tiny_base", "models/unlike", "closed/tiny_base"])
def test_nothing_is_suggested_where_no_model_is_similar(cache, monkeypatch, tmp_path, name):
    model(tmp_path / "models" / "tiny_base")
    (tmp_path / "test").mkdir()  # no model
    (tmp_path / "closed").mkdir(mode=0o300)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    assert "did you mean" not in problems(checkpoint.require_model, name)


def test_a_hub_that_cannot_be_reached_is_one_line_at_once(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "no_proxy": "*"}
        started = time.monotonic()
        done = run_script(
            "vllm_inference.py", "--model_id", "org/name", "--testset_path", "sample_data/task_rows.jsonl",
            "--output_path", tmp_path / "o.jsonl", **env,
        )  # fmt: skip
    assert time.monotonic() - started < 6
    assert_refused(done, "org/name is not in the local cache and the Hub", endpoint, "cannot be reached")
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


def test_a_hub_that_never_answers_is_given_up(cache, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(hub, "SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert "cannot be reached" in problems(checkpoint.require_model, "org/name")
        assert time.monotonic() - started < 3
        cached(cache, "org/whole")
        assert checkpoint.require_model("org/whole") == ("org/whole", None)
        assert "cannot be reached" in checkpoint.notes("org/whole")[0]
        assert constants.HF_HUB_OFFLINE
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        constants.HF_HUB_OFFLINE = False
        (cached(cache, "org/part") / "model.safetensors").unlink()
        assert "only in part in the local cache" in problems(checkpoint.require_model, "org/part")


def test_offline_is_offline(cache, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in problems(checkpoint.require_model, "org/name")
    cached(cache, "org/name")
    assert checkpoint.require_model("org/name") == ("org/name", None)


def test_a_hub_base_is_known_by_its_cached_contents(cache, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    snapshot = cached(cache, "org/name")
    sft = adapter(tmp_path / "outputs" / "sft", "org/name")
    base = checkpoint.read_run(sft)["base"]
    assert base["path"] == "org/name"
    assert base["commit"] == "c0ffee" == checkpoint.folder_hash("org/name")
    assert base["weights"] == hashes.identity(snapshot).weights
    assert base["relative"] is None
    assert checkpoint.require_model(str(sft)) == ("org/name", str(sft))
    assert checkpoint.notes(sft, "org/name") == []
    copy = Path(shutil.copytree(snapshot, tmp_path / "copy"))
    assert checkpoint.require_model(str(sft), base_model=str(copy))[0] == str(copy)
    (copy / "model.safetensors").write_bytes(tensors(b"WEIGHTS"))
    assert "was trained on org/name" in problems(checkpoint.require_model, str(sft), base_model=str(copy))
    (snapshot / "model.safetensors").write_bytes(tensors(b"WEIGHTS"))
    assert "has changed since" in problems(checkpoint.require_model, str(sft))


def test_a_folder_imports_nothing_of_the_hub():
    code = (
        f"import sys; from sllm import checkpoint; checkpoint.require_model({str(SHIPPED)!r})\n"
        "print([name for name in sys.modules if name.startswith(('huggingface_hub', 'torch'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_size_of_a_download_is_that_of_what_loaders_fetch(cache, monkeypatch):
    import huggingface_hub

    gib = 2**30
    sizes = {"config.json": 10, "onnx/model.safetensors": 9 * gib, "consolidated.safetensors": 8 * gib}
    weights = {"pytorch_model.bin": 3 * gib, "model.safetensors": 2 * gib}

    def info(*args, **kwargs):
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, size=size) for name, size in sizes.items()])

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    for name, size in weights.items():  # safetensors are taken where both are there
        sizes[name] = size
        hub._download_size.cache_clear()
        assert hub.notes("org/new") == [f"org/new: {size // gib}.00 GiB to download from the Hub"]
