"""What inference and the server check before an engine starts, how they say why one does not start, and the file of
answers. No engine is started here."""

import asyncio
import errno
import json
import logging
import math
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

import api_server
import vllm_inference
from sllm import checkpoint, cli, generation, output_lines, outputs
from sllm.cli import InputError
from sllm.serve import dtypes, engine, environment, model_info, sampling, startup, warm_up

ROOT = Path(__file__).resolve().parent.parent


# ── the environment on a GPU ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with a GPU and nothing else: no nvcc, no ninja, no CUDA folder, nothing set."""
    tools = tmp_path / "tools" / "bin"
    tools.mkdir(parents=True)
    monkeypatch.setattr(environment, "on_cpu", lambda: False)
    monkeypatch.setattr(environment, "CUDA", tmp_path / "no" / "cuda")
    monkeypatch.setattr(os, "environ", {"PATH": str(tools)})

    def add(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return path

    return SimpleNamespace(tools=tools, add=add, folder=tmp_path)


def sampler(machine) -> str | None:
    environment.set_environment()
    return os.environ.get("VLLM_USE_FLASHINFER_SAMPLER")


def test_without_a_cuda_toolkit_vllm_is_told_not_to_compile_its_sampler(machine):
    machine.add(machine.tools / "ninja")
    assert sampler(machine) == "0"


@pytest.mark.parametrize("name", ["CUDA_HOME", "CUDA_PATH", "default", "path", "FLASHINFER_NVCC"])
def test_with_nvcc_where_flashinfer_looks_the_sampler_stays_vllms_choice(machine, monkeypatch, name):
    machine.add(machine.tools / "ninja")
    toolkit = machine.folder / "toolkit"
    nvcc = machine.add((machine.tools if name == "path" else toolkit / "bin") / "nvcc")
    if name == "default":
        monkeypatch.setattr(environment, "CUDA", toolkit)
    elif name == "FLASHINFER_NVCC":
        os.environ[name] = str(nvcc)
    elif name != "path":
        os.environ[name] = str(toolkit)
    assert sampler(machine) is None


@pytest.mark.parametrize("name", ["CUDA_HOME", "default"])
def test_a_cuda_folder_without_nvcc_compiles_nothing(machine, monkeypatch, name):
    """The runtime images of nvidia/cuda: /usr/local/cuda holds libraries alone."""
    machine.add(machine.tools / "ninja")
    (machine.folder / "runtime" / "lib64").mkdir(parents=True)
    if name == "default":
        monkeypatch.setattr(environment, "CUDA", machine.folder / "runtime")
    else:
        os.environ[name] = str(machine.folder / "runtime")
    assert sampler(machine) == "0"


def test_nvcc_without_ninja_compiles_nothing(machine):
    machine.add(machine.tools / "nvcc")
    assert sampler(machine) == "0"


@pytest.mark.parametrize("value", ["0", "1"])
def test_the_users_own_choice_of_sampler_stays(machine, value):
    os.environ["VLLM_USE_FLASHINFER_SAMPLER"] = value
    assert sampler(machine) == value


def test_on_a_cpu_the_sampler_is_not_touched(machine, monkeypatch):
    monkeypatch.setattr(environment, "on_cpu", lambda: True)
    assert sampler(machine) is None


# ── why an engine does not start ───────────────────────────────────────────────────────────────────────────

BUSY = (
    "Free memory on device cuda:0 (3.1/23.6 GiB) on startup is less than desired GPU memory utilization "
    "(0.9, 21.2 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)


ENDED = "Engine core initialization failed. See root cause above. Failed core proc(s):"


class OutOfMemoryError(RuntimeError):
    """torch's, by its name."""


@pytest.mark.parametrize(
    ("error", "said", "remedy"),
    [
        (ValueError(BUSY), "3.1/23.6 GiB", "--gpu_memory_utilization"),
        (OutOfMemoryError("Tried to allocate 2 GiB"), "Tried to allocate", "--quantization fp8"),
        (RuntimeError(f"{ENDED} {{'EngineCore_DP0': -9}}"),
         "signal 9", "--max_seq_length"),
        (RuntimeError(f"{ENDED} {{'EngineCore': 1}}"),
         "the reason is above", "VLLM_LOGGING_LEVEL=DEBUG"),
        (ValueError("GPTNeoXForCausalLM does not support LoRA yet."), "GPTNeoX", "merged_weights.py"),
        (ValueError("Total number of attention heads (4) must be divisible by tensor parallel size (8)."),
         "heads (4)", "--tensor_parallel_size"),
        (ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"),
         "cache blocks", "--kv_cache_dtype fp8"),
        (KeyError("something new"), "KeyError: 'something new'", "VLLM_LOGGING_LEVEL=DEBUG"),
        (ValueError("1 validation error for ModelConfig\n  Value error, Model architectures ['FooForCausalLM'] are not "
                    "supported for now. Supported architectures: dict_keys(['A', 'B']) [type=value_error]"),
         "['FooForCausalLM']", "this vLLM has no such architecture"),
    ],
)  # fmt: skip
def test_a_failed_start_is_one_line_with_reason_and_remedy(error, said, remedy):
    line = startup.explain("outputs/model", error)
    assert line.startswith("vLLM does not start with outputs/model: ")
    assert "\n" not in line
    assert said in line
    assert remedy in line.rpartition("; ")[2]
    assert "Supported architectures" not in line
    assert "validation error" not in line


def test_the_first_cause_that_the_engines_processes_name_is_reported():
    error = RuntimeError(f"{ENDED} {{'a': 1}}")
    causes = ["SafetensorError: incomplete metadata", "Exception: WorkerProc initialization failed due to an exception"]
    line = startup.explain("m", error, causes)
    assert "incomplete metadata" in line
    assert "damaged" in line
    assert "WorkerProc" not in line


def test_a_process_that_fails_writes_why_and_keeps_its_traceback(tmp_path, capfd):
    path = tmp_path / "reasons.jsonl"
    logger = logging.Logger("engine")
    shown = logging.StreamHandler(sys.stderr)
    shown.addFilter(startup.NoFailedStart())
    logger.addHandler(shown)
    logger.addHandler(startup.StartupErrorHandler(str(path), os.getpid(), quiet=True))
    for message in ("EngineCore failed to start.", "EngineCore encountered a fatal error."):
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logger.exception(message)
    assert [json.loads(line) for line in path.read_text().splitlines()] == ["ValueError: two lines"]
    assert "failed to start" not in capfd.readouterr().err  # and the later one is shown
    assert sys.stderr.name != os.devnull


# ── what the files of a model tell ─────────────────────────────────────────────────────────────────────────


def model_folder(folder: Path, base: Path, **config: object) -> Path:
    """The tiny base as a model of others, by links but for its config and a copy of its weights."""
    folder.mkdir(parents=True)
    for path in base.iterdir():
        if path.name == "run.json":
            continue
        if path.name == "config.json":
            written = json.loads(path.read_text(encoding="utf-8")) | config
            (folder / path.name).write_text(json.dumps(written), encoding="utf-8")
        elif path.suffix == ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
        else:
            (folder / path.name).symlink_to(path.resolve())
    return folder


def adapter_folder(folder: Path, base: Path) -> Path:
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")  # of no tensors
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).symlink_to((base / name).resolve())
    return folder


def test_an_adapter_of_an_architecture_without_lora_is_refused(tiny_base, tmp_path):
    with_lora = model_folder(tmp_path / "llama", tiny_base)
    without = model_folder(tmp_path / "neox", tiny_base, architectures=["GPTNeoXForCausalLM"])
    unknown = model_folder(tmp_path / "foo", tiny_base, architectures=["FooForCausalLM"])
    adapter = str(adapter_folder(tmp_path / "adapter", tiny_base))
    for folder in (with_lora, unknown):  # unknown: vLLM itself says so
        model_info.check_adapter(adapter, str(folder))
    with pytest.raises(InputError, match=r"for a GPTNeoXForCausalLM.*merged_weights\.py"):
        model_info.check_adapter(adapter, str(without))


@pytest.mark.torch
def test_a_config_that_transformers_cannot_use_is_one_line(tiny_base, tmp_path):
    folder = model_folder(tmp_path / "m", tiny_base, model_type="foo")
    with pytest.raises(InputError, match=r"config\.json cannot be used"):
        model_info.context_length(str(folder))


@pytest.mark.torch
def test_what_is_read_off_vllms_source_is_what_vllm_says():
    """LoRA by architecture, the names of --quantization and --kv_cache_dtype, and the ranges of the sampling flags."""
    families = "Llama Qwen2 Qwen3 Qwen3Moe Mistral Mixtral Gemma2 Gemma3 GPTNeoX Exaone Exaone4 Olmoe Olmo2 Phi3 Falcon"
    code = f"""
    import json
    from typing import get_args
    from pathlib import Path
    from sllm.serve import engine, environment, model_info, sampling
    environment.set_environment()
    from vllm import SamplingParams
    from vllm.config.cache import CacheDType
    from vllm.config.quantization import _ONLINE_SHORTHANDS
    from vllm.config.lora import MaxLoRARanks
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.model_executor.models import ModelRegistry
    from vllm.model_executor.models.interfaces import supports_lora
    import tempfile
    found = {{}}
    for family in {families.split()!r}:
        name = family + "ForCausalLM"
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "config.json").write_text(json.dumps({{"architectures": [name]}}))
            ours = model_info.no_lora(folder) is None
        found[name] = [ours, supports_lora(ModelRegistry._try_load_model_cls(name))]
    linear = [name for name, how in _ONLINE_SHORTHANDS.items() if how.linear]
    import vllm_inference
    parser = vllm_inference.build_parser()
    refused = []
    def params(**flags):
        words = [str(word) for name, value in flags.items() for word in ("--" + name, value)]
        args = parser.parse_args(["--testset_path", "t", *words])
        return sampling.sampling_params(args, stop_token_ids=[1], max_tokens=5, seed=sampling.seed_of(args.seed, 1))
    for name, values in {{
        "temperature": (0, 2), "top_p": (1e-6, 1), "top_k": (-1, 0, 2**31 - 1), "min_p": (0, 1),
        "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2), "repetition_penalty": (0.01, 100),
        "logprobs": (0, engine.LOGPROBS), "seed": (0, sampling.MAX_SEED),
    }}.items():
        for value in values:
            params(**{{"temperature": 1}} | {{name: value}})
    print(json.dumps({{
        "lora": found, "linear": sorted(linear), "quantizations": QUANTIZATION_METHODS,
        "kv": get_args(CacheDType), "ranks": get_args(MaxLoRARanks),
    }}))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert all(ours == theirs for ours, theirs in said["lora"].values()), said["lora"]
    assert not said["lora"]["GPTNeoXForCausalLM"][0]
    assert said["lora"]["LlamaForCausalLM"][0]
    assert set(dtypes.QUANTIZATIONS) <= set(said["quantizations"])
    assert sorted({*dtypes.QUANTIZATIONS} - {"fp8"}) == said["linear"]  # fp8 itself: Fp8Config, for every linear layer
    assert set(dtypes.KV_CACHE_DTYPES) <= set(said["kv"])
    assert "bitsandbytes" not in said["quantizations"]
    assert set(dtypes.CPU_QUANTIZATIONS) <= set(dtypes.QUANTIZATIONS)
    assert [rank for rank in said["ranks"] if rank] == list(model_info.LORA_RANKS)


def test_precision_that_a_cpu_has_not_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(dtypes, "on_cpu", lambda: True)
    monkeypatch.setattr(dtypes, "cpu_has_fp8_cache", lambda: False)
    with pytest.raises(InputError, match="AVX-512"):
        dtypes.check_precision("auto", None, "fp8")
    monkeypatch.setattr(dtypes, "cpu_has_fp8_cache", lambda: True)
    dtypes.check_precision("auto", "fp8_per_channel", "fp8")
    assert dtypes.resolve_dtype("auto", "fp8_per_channel") == "bfloat16"
    assert dtypes.resolve_dtype("auto") == "float32"
    for dtype, quantization, kv in (
        ("auto", "fp8", "auto"),
        ("float32", "fp8_per_channel", "auto"),
        ("auto", None, "float16"),
    ):
        with pytest.raises(InputError):
            dtypes.check_precision(dtype, quantization, kv)
    monkeypatch.setattr(dtypes, "on_cpu", lambda: False)
    for quantization in dtypes.QUANTIZATIONS:
        for kv in dtypes.KV_CACHE_DTYPES:
            dtypes.check_precision("auto", quantization, kv)


# ── wrong command lines ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def there(tiny_base, tmp_path_factory) -> dict[str, str]:
    """Things that a command line may name."""
    folder = tmp_path_factory.mktemp("there")
    rows = folder / "rows.jsonl"
    rows.write_text(json.dumps({"user_content": "물은 몇 도에서 끓나요?"}, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "empty.jsonl").touch()
    (folder / "no.json").write_text("{", encoding="utf-8")
    (folder / "list.json").write_text("[]", encoding="utf-8")
    (folder / "schema.json").write_text('{"type": "object", "properties": {"a": {"type": "banana"}}}', encoding="utf-8")
    cut = model_folder(folder / "cut", tiny_base)
    os.truncate(cut / "model.safetensors", 100_000)
    model_folder(folder / "other", tiny_base, max_position_embeddings=1024)
    model_folder(folder / "neox", tiny_base, architectures=["GPTNeoXForCausalLM"])
    adapter_folder(folder / "adapter", tiny_base)
    adapter_folder(folder / "of_neox", folder / "neox")
    return {"base": str(tiny_base), "rows": str(rows), "at": str(folder)}


def refused(script, words: list[str], monkeypatch, capsys) -> list[str]:
    """The error lines of a command that has to end with exit 2 and nothing else on stderr."""
    monkeypatch.setattr(sys, "argv", [script.__file__, *words])
    monkeypatch.setattr(environment, "set_environment", lambda *_, **__: None)
    monkeypatch.setattr(engine, "load", lambda *_, **__: pytest.fail("the model would be loaded"))
    with pytest.raises(SystemExit) as ended:
        cli.run(script.main, script.build_parser())
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2, lines
    assert lines, lines
    assert all(line.startswith("error: ") for line in lines), lines
    return lines


INFERENCE = [
    ("--model_id gone/folder/x", "gone/folder/x is missing"),
    ("--model_id {rows}", "is neither a model"),
    ("--model_id {at}/cut", "model.safetensors is damaged or cut"),
    ("--adapter {base}", "adapter_config.json"),
    ("--model_id {at}/of_neox", "merged_weights.py"),
    ("--testset_path {at}/gone.jsonl", "missing"),
    ("--testset_path {at}/empty.jsonl", "no rows"),
    ("--testset_path {at}", "run.json"),
    ("--testset_path /proc/self/mem", "cannot be read"),
    ("--output_path {rows} --overwrite", "would write over it"),
    ("--output_path {at}", "is a folder"),
    ("--output_path {rows}/o.jsonl", "not a folder"),
    ("--output_path /dev/full --overwrite", "is not a file"),
    ("--limit 0", "--limit"),
    ("--limit -3", "--limit"),
    ("--top_k -5", "--top_k"),
    ("--top_p 0", "--top_p"),
    ("--top_p nan", "--top_p"),
    ("--temperature 2.5", "--temperature"),
    ("--temperature inf", "--temperature"),
    ("--min_p -0.1", "--min_p"),
    ("--repetition_penalty 0", "--repetition_penalty"),
    ("--seed -1", "--seed"),
    ("--max_tokens 0", "--max_tokens"),
    ("--max_seq_length -1", "--max_seq_length"),
    ("--num_beams 1000 --use_beam_search", "--num_beams"),
    ("--gpu_memory_utilization 0", "--gpu_memory_utilization"),
    ("--gpu_memory_utilization 1.5", "--gpu_memory_utilization"),
    ("--tensor_parallel_size 0", "--tensor_parallel_size"),
    ("--quantization bitsandbytes", "--quantization"),
    ("--kv_cache_dtype int3", "--kv_cache_dtype"),
    ("--n 4", "--temperature"),
    ("--n 0", "--n"),
    ("--n 2 --temperature 1 --use_beam_search", "--use_beam_search"),
    ("--logprobs 21", "--logprobs"),
    ("--json_schema {at}/gone.json", "--json_schema"),
    ("--json_schema {at}/no.json", "is not JSON"),
    ("--json_schema {at}/list.json", "is not a JSON object"),
    ("--json_schema {at}/schema.json", "banana"),
    ("--json_schema {rows} --ignore_eos", "--ignore_eos"),
    ("--stop=", "--stop"),
    ("--task T99", "T99"),
    ("--chat_template gone", "gone"),
    ("--max_seq_length 2", "may have 2"),
    ("--overwrite --resume", "exclude each other"),
    ("--unknown", "--unknown"),
]  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize(("words", "said"), INFERENCE, ids=[words for words, _ in INFERENCE])
def test_a_wrong_command_line_of_inference_is_exit_2(words, said, there, monkeypatch, capsys, tmp_path):
    given = words.format(**there).split(" ")
    usual = {"--model_id": there["base"], "--testset_path": there["rows"], "--output_path": str(tmp_path / "o.jsonl")}
    if "--adapter" in given:
        del usual["--model_id"]
    full = [word for name, value in usual.items() if name not in given for word in (name, value)]
    lines = refused(vllm_inference, [*full, *given], monkeypatch, capsys)
    assert any(said in line for line in lines), lines
    assert not (tmp_path / "o.jsonl").exists()
    assert Path(there["rows"]).stat().st_size


SERVER = [
    ("--model_id gone/folder/x", "gone/folder/x is missing"),
    ("--model_id {rows}", "is neither a model"),
    ("--model_id {at}/of_neox", "merged_weights.py"),
    ("--model_id {at}/cut", "model.safetensors is damaged or cut"),
    ("--lora_modules a={at}/adapter a={at}/adapter", "twice"),
    ("--lora_modules a={base}", "NAME=FOLDER"),
    ("--lora_modules a", "NAME=FOLDER"),
    ("--model_id {at}/other --lora_modules a={at}/adapter", "was trained on"),
    ("--port 70000", "--port"),
    ("--port -1", "--port"),
    ("--host 0.0.0.0", "--allow_anonymous"),
    ("--host no.such.host.invalid --allow_anonymous", "no.such.host.invalid"),
    ("--top_k -5", "--top_k"),
    ("--top_p 1.1", "--top_p"),
    ("--temperature nan", "--temperature"),
    ("--seed -1", "--seed"),
    ("--max_waiting -1", "--max_waiting"),
    ("--max_num_seqs 0", "--max_num_seqs"),
    ("--max_seq_length 4", "--max_seq_length"),
    ("--gpu_memory_utilization 0", "--gpu_memory_utilization"),
    ("--data_parallel_size 0", "--data_parallel_size"),
    ("--request_timeout nan", "--request_timeout"),
    ("--shutdown_timeout -1", "--shutdown_timeout"),
    ("--max_body_mb 0", "--max_body_mb"),
    ("--quantization int4", "--quantization"),
    ("--kv_cache_dtype int3", "--kv_cache_dtype"),
    ("--chat_template gone", "gone"),
    ("--api_key :", "key"),
    ("--task_examples gone.jsonl", "gone.jsonl"),
    ("--task_examples {at}/no.json", "no.json"),
]  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize(("words", "said"), SERVER, ids=[words for words, _ in SERVER])
def test_a_wrong_command_line_of_the_server_is_exit_2(words, said, there, monkeypatch, capsys):
    given = words.format(**there).split(" ")
    usual = [] if "--model_id" in given else ["--model_id", there["base"]]
    usual += [] if "--port" in given else ["--port", "0"]
    lines = refused(api_server, [*usual, *given], monkeypatch, capsys)
    assert any(said in line for line in lines), lines


@pytest.mark.torch
def test_a_port_in_use_is_exit_2(there, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = ["--model_id", there["base"], "--port", str(taken.getsockname()[1])]
        (line,) = refused(api_server, words, monkeypatch, capsys)
    assert f"127.0.0.1:{words[-1]} is in use" in line
    assert "--port" in line


# ── samples, log-probabilities, beams ──────────────────────────────────────────────────────────────────────


def test_every_answer_has_a_seed_of_its_own_whatever_else_is_asked_for():
    seeds = {sampling.seed_of(42, row, sample) for row in range(2000) for sample in range(64)}
    assert len(seeds) == 2000 * 64
    assert sampling.seed_of(42, 3) == 45
    assert 0 <= sampling.seed_of(sampling.MAX_SEED, 10**6, 1023) < 2**32


def test_samples_of_a_row_come_together_in_their_order():
    def one(index):
        return generation.Generation([index], "stop", None)

    finished = [(index, one(index)) for index in (3, 0, 5, 4, 1, 2)]
    assert [(row, [a.token_ids[0] for a in group]) for row, group in generation.grouped(finished, 3)] == [
        (1, [3, 4, 5]),
        (0, [0, 1, 2]),
    ]


class Letters:
    """A tokenizer whose tokens are letters."""

    def decode(self, ids, **_):
        return "".join(chr(97 + token) for token in ids)


def test_log_probabilities_stay_json_and_end_with_the_ending_token():
    def one(logprob, rank):
        return SimpleNamespace(logprob=logprob, rank=rank)

    likely = [{0: one(-0.5, 1), 1: one(-1.25, 2)}, {2: one(-math.inf, 9), 1: one(-0.1, 1), 0: one(-0.7, 2)}]
    answer = generation.Generation([0, 2], "stop", None, likely)
    found = generation.logprobs_of(Letters(), answer, 2)
    assert [entry["token_id"] for entry in found] == [0, 2]
    assert found[1]["logprob"] == -9999.0
    assert [entry["token"] for entry in found[1]["top_logprobs"]] == ["b", "a"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert generation.logprobs_of(Letters(), answer, 0)[0]["top_logprobs"] == []
    line = output_lines.fields(Letters(), [answer, answer], [2], prompt_tokens=7, logprobs=1)
    assert line["output"] == "a" == line["outputs"][1]
    assert line["completion_token_counts"] == [2, 2]
    assert len(line["logprobs"]) == line["completion_tokens"] == 2
    assert len(line["outputs_logprobs"]) == 2


def test_beam_search_gives_the_tokenizer_its_eos_back_when_it_fails():
    tokenizer = SimpleNamespace(eos_token="</s>", convert_ids_to_tokens=lambda token: "<|im_end|>")

    def fail(*_, **__):
        assert tokenizer.eos_token == "<|im_end|>"
        raise KeyboardInterrupt

    llm = SimpleNamespace(get_tokenizer=lambda: tokenizer, beam_search=fail)
    params = [SimpleNamespace(max_tokens=5, ignore_eos=False)]
    with pytest.raises(KeyboardInterrupt):
        list(engine.beam_search(llm, [[1, 2]], params, stop_token_ids=[4]))
    assert tokenizer.eos_token == "</s>"


# ── the file of answers ────────────────────────────────────────────────────────────────────────────────────


def line(number: int, **more: object) -> dict:
    made = {"id": str(number), "task": None, "messages": [], "reference": None, "output": "가", "finish_reason": "stop"}
    return made | {"prompt_tokens": 3, "completion_tokens": 2} | more


def test_a_disk_that_fills_up_is_an_input_error_and_keeps_what_was_written(tmp_path, monkeypatch):
    output = tmp_path / "outputs.jsonl"
    real, room = outputs._write, [2]

    def write(file, content):
        if not room[0]:
            file.write(content[:20])  # what a full disk takes of a line
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= 1
        real(file, content)

    monkeypatch.setattr(outputs, "_write", write)
    done = []
    with pytest.raises(InputError, match="No space left on device"):
        done += outputs.write_in_order(((i, i) for i in range(4)), lambda index, _: line(index), output, 4)
    assert [json.loads(text)["id"] for text in outputs.complete_lines(output)] == ["0", "1"]
    assert output.read_bytes()[-1:] != b"\n"


def test_a_record_that_cannot_be_written_is_an_input_error(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(checkpoint, "write_run", full)
    for call in (
        lambda: outputs.begin(tmp_path / "o.jsonl", None, {}, keep=False),
        lambda: outputs.finish(tmp_path / "o.jsonl", None, {}, {}, 1.0),
    ):
        with pytest.raises(InputError, match="Read-only file system"):
            call()


def test_a_folder_that_may_not_be_written_is_said_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs.os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(InputError, match="may not be written"):
        outputs.check_output(tmp_path / "new" / "o.jsonl", overwrite=False, resume=False)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.run.jsonl", "link.jsonl"])
def test_what_is_read_is_never_written_over(tmp_path, name):
    read = tmp_path / "rows.jsonl"
    read.write_text("{}\n")
    if name == "link.jsonl":
        (tmp_path / name).symlink_to(read)
    elif name != read.name:
        read = tmp_path / "rows.run.json"  # the record that would stand beside rows.jsonl
        name = "rows.jsonl"
    with pytest.raises(InputError, match="would write over it"):
        outputs.check_output(tmp_path / name, overwrite=True, resume=False, inputs=[read, None])


def test_a_damaged_record_beside_the_answers_is_named(tmp_path):
    output = tmp_path / "o.jsonl"
    output.write_text(json.dumps(line(0)) + "\n")
    outputs.resume_file(output).write_text("{")
    with pytest.raises(InputError, match=r"o\.resume\.json is damaged"):
        outputs.resumable(output, [line(0)], {})


def test_resume_refuses_another_sample_count_schema_or_precision(tmp_path):
    output = tmp_path / "o.jsonl"
    output.write_text(json.dumps(line(0)) + "\n")
    before = {"max_tokens": 5, "model": "a" * 64}  # of an older release, which had none of these
    outputs.resume_file(output).write_text(json.dumps({"data": {"settings": before}}))
    none = dict.fromkeys(("n", "logprobs", "json_schema", "quantization", "kv_cache_dtype"))
    assert outputs.resumable(output, [line(0)], before | none)
    for name, value in (("n", 2), ("logprobs", 0), ("json_schema", {"type": "object"}), ("quantization", "fp8"),
                        ("kv_cache_dtype", "fp8"), ("model", "b" * 64)):  # fmt: skip
        with pytest.raises(InputError, match=f"made with {name}"):
            outputs.resumable(output, [line(0)], before | none | {name: value})


def test_results_count_every_sample_and_set_skipped_rows_apart(capsys):
    several = line(0, outputs=["가", ""], finish_reasons=["stop", "length"], completion_token_counts=[2, 5])
    skip = line(1) | output_lines.skipped("too long", prompt_tokens=9)
    found = output_lines.summary([several, skip], 2, 1.0, 0.5)
    assert found["rows"] == 2
    assert found["answers"] == 2
    assert found["skipped"] == 1
    assert found["empty"] == 1
    assert found["finish_reasons"] == {"stop": 1, "length": 1, "skipped": 1}
    assert found["completion_tokens"] == 7
    assert "1 row of 2 skipped: 1" in capsys.readouterr().out
    assert list(skip) == [*line(1), "reason"]
    assert skip["output"] == ""


@pytest.mark.torch
def test_resume_refuses_other_weights(there, tiny_base, tmp_path, monkeypatch):
    """One bit of the weights is another; names and sizes are the same. The engine is a stand-in."""

    def generate(llm, prompts, params, adapter=None):
        return ((index, generation.Generation([100], "length", None)) for index in range(len(prompts)))

    monkeypatch.setattr(environment, "set_environment", lambda *_, **__: None)
    monkeypatch.setattr(engine, "load", lambda *_, **__: None)
    monkeypatch.setattr(engine, "generate", generate)
    monkeypatch.setattr(sampling, "sampling_params", lambda *_, **__: None)
    folder = model_folder(tmp_path / "m", tiny_base)
    words = ["--model_id", folder, "--testset_path", there["rows"], "--output_path", tmp_path / "o.jsonl"]
    run = vllm_inference.build_parser().parse_args
    assert vllm_inference.main(run([*map(str, words)]))["rows"] == 1
    assert vllm_inference.main(run([*map(str, words), "--resume"]))["new_rows"] == 0
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(InputError, match="made with model"):
        vllm_inference.main(run([*map(str, words), "--resume"]))


@pytest.mark.parametrize(("seconds", "requests"), [(0.0, 1 + 2 + 8 + 1 + 1 + 2), (1.0, 1 + 2)])
def test_a_slow_model_is_not_kept_waiting_by_its_warm_up(monkeypatch, seconds, requests):
    asked, clock = [], [0.0]

    class Client:
        async def generate(self, prompt, params, request_id):
            asked.append(request_id)
            clock[0] += seconds
            yield None

    monkeypatch.setattr(warm_up, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(warm_up.chat, "prompt_ids", lambda tokenizer, messages: [1, 2, 3])
    served = SimpleNamespace(name="base", tokenizer=None, client=Client())
    asyncio.run(warm_up.warm_up(SimpleNamespace(by_name={"base": served}, context=64), 8))
    assert len(asked) == requests
