"""Clients of the tiny model, served without flags."""

import json
from pathlib import Path

import pytest
from asking import ENVIRONMENTS, HERE, KEY, ask, check_node, check_python, of_debian, serve


@pytest.fixture(scope="module")
def server(tiny_base):
    with serve("plain", tiny_base) as started:
        yield started


@pytest.mark.parametrize("client", ["openai", "langchain", "litellm", "llm", "instructor", "outlines"])
def test_python(server, client, tmp_path):
    check_python(server, client, tmp_path)


def test_node(server):
    check_node(server)


def test_java_asks_to_upgrade_to_http2(server):
    """java.net.http.HttpClient, as Spring and Kotlin clients have it: HTTP/2 unless told otherwise."""
    ask(server, of_debian("java"), "Client.java", server.url, KEY)


@pytest.mark.parametrize("stream", [False, True])
def test_curl_asks_to_upgrade_to_http2(server, stream):
    asked = {"messages": [{"role": "user", "content": "안녕하세요. " * 60}], "max_tokens": 4, "stream": stream}
    said = ask(server, of_debian("curl"), "--http2", "-sS", "--fail-with-body", server.url + "/v1/chat/completions",
        "-H", f"Authorization: Bearer {KEY}", "--json", json.dumps(asked))  # fmt: skip
    if stream:
        assert said.startswith("data: {")
        assert said.endswith("data: [DONE]\n\n")
    else:
        assert json.loads(said)["choices"][0]["message"]["content"] is not None


def test_guidellm(server, tiny_base, tmp_path):
    ask(server, ENVIRONMENTS / "guidellm" / "bin" / "guidellm", "run",
        "--backend", f"kind=openai_http,target={server.url},model=tiny,api_key={KEY}",
        "--profile", "kind=concurrent,streams=2", "--constraint", "kind=max_requests,count=6",
        "--data", "kind=synthetic_text,prompt_tokens=24,output_tokens=8",
        "--tokenizer", f"kind=hf_auto,model={tiny_base}", "--output", f"kind=json,path={tmp_path / 'report.json'}",
        "--disable-console")  # fmt: skip
    report = json.loads((tmp_path / "report.json").read_text())
    requests = report["benchmarks"][0]["requests"]
    assert len(requests["successful"]) == 6
    assert not requests["errored"]


@pytest.mark.parametrize("api", ["completions", "chat-completions"])
def test_lm_eval(server, tiny_base, tmp_path, api):
    """Log-likelihoods of given answers (completions with echo), and generated answers."""
    url = f"{server.url}/v1/{api.replace('-', '/')}"
    tasks = ["sllm_choose", "sllm_write"] if api == "completions" else ["sllm_write"]
    chat = ["--apply_chat_template"] if api != "completions" else []
    ask(server, ENVIRONMENTS / "lm_eval" / "bin" / "lm_eval", "run", "--model", f"local-{api}", "--model_args",
        f"model=tiny,base_url={url},num_concurrent=2,max_retries=1,tokenizer={tiny_base},max_length=2048",
        "--tasks", *tasks, "--include_path", HERE / "lm_eval_tasks", "--output_path", tmp_path, "--log_samples", *chat,
        HF_HOME=str(tmp_path / "cache"), HF_DATASETS_OFFLINE="1")  # fmt: skip
    results = json.loads(next(tmp_path.rglob("results_*.json")).read_text())["results"]
    assert set(results) == set(tasks)
    answers = samples(tmp_path, "sllm_write")
    assert len(answers) == 4
    assert all(answer["resps"][0][0].strip() for answer in answers)
    if api == "completions":
        for question in samples(tmp_path, "sllm_choose"):
            for number, response in enumerate(question["resps"]):
                given = question["arguments"][f"gen_args_{number}"]
                expected = log_likelihood(tiny_base, given["arg_0"], given["arg_1"])
                assert float(response[0][0]) == pytest.approx(expected, abs=0.01)


def samples(folder: Path, task: str) -> list[dict]:
    return [json.loads(line) for line in next(folder.rglob(f"samples_{task}_*.jsonl")).read_text().splitlines()]


def log_likelihood(tiny_base: Path, question: str, answer: str) -> float:
    """Of the answer's tokens after the question, by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    asked, whole = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (question, question + answer))
    with torch.no_grad():
        logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)  # (token, vocabulary)
    return sum(float(logits[place - 1, whole[place]]) for place in range(len(asked), len(whole)))
