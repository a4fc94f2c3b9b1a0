"""The lean path beside vLLM's own handlers: the same requests, the same answers."""

import json
import random

import httpx
import pytest
from conftest import SAMPLE_ROWS
from server_process import Running

from sllm import chat

pytestmark = pytest.mark.torch
OTHER_WAY = {"skip_special_tokens": True}  # vLLM's default, named: the lean path does not know the field


@pytest.fixture(scope="module")
def server(tiny_base, sft_folder):
    running = Running(
        "--model_id", tiny_base, "--served_model_name", "base", "--lora_modules", f"sft={sft_folder}",
        "--max_seq_length", 512, "--max_tokens", 24, "--temperature", 0.7, "--frequency_penalty", 0.3,
    )  # fmt: skip
    yield running
    assert running.stop() == 0


def requests(count: int) -> list[tuple[str, dict]]:
    """Plain requests, drawn by a fixed seed: whatever the lean path takes."""
    draw = random.Random(13)
    rows = [json.loads(line) for line in SAMPLE_ROWS.read_text(encoding="utf-8").splitlines()]
    optional = {
        "max_tokens": lambda: draw.randint(1, 30),
        "top_p": lambda: draw.choice([0.5, 0.9, 1]),
        "top_k": lambda: draw.choice([0, 1, 20]),
        "min_p": lambda: draw.choice([0, 0.1]),
        "presence_penalty": lambda: draw.uniform(-2, 2),
        "frequency_penalty": lambda: draw.uniform(-2, 2),
        "repetition_penalty": lambda: draw.choice([0.8, 1.3]),
        "stop": lambda: draw.choice(["다.", ["니다", "\n"], None]),
        "ignore_eos": lambda: draw.choice([True, False]),
        "min_tokens": lambda: 1,
        "user": lambda: "누구",
        "model": lambda: draw.choice(["base", "sft", None]),
    }
    found = []
    for number in range(count):
        body = {name: make() for name, make in optional.items() if draw.random() < 0.35}
        body |= draw.choice([{"temperature": 0}, {"temperature": 1.5, "seed": number}, {"seed": number}])
        n = draw.choice([1, 1, 3]) if body.get("temperature") != 0 else 1
        body |= {"n": n} if n > 1 else {}
        if draw.random() < 0.5:
            row = draw.choice(rows)
            body["messages"] = [{"role": "user", "content": row["user_content"][:200]}]
            if draw.random() < 0.3:
                texts = (row["user_content"][:90], row["user_content"][90:200])
                body["messages"][0]["content"] = [{"type": "text", "text": text} for text in texts if text]
            if draw.random() < 0.5:
                body["messages"].insert(0, {"role": "system", "content": row["system_prompt"][:200]})
            if draw.random() < 0.3:
                body |= {"logprobs": True, "top_logprobs": draw.randint(0, 4)}
            found.append(("/v1/chat/completions", body))
        else:
            text = draw.choice(rows)["user_content"]
            body["prompt"] = draw.choice([text[:30], [text[:20], text[30:50]], [300, 301], [[300, 301], [302]]])
            body |= {"logprobs": draw.randint(0, 4)} if draw.random() < 0.3 else {}
            found.append(("/v1/completions", body))
    return found


def whole(server, path: str, body: dict) -> dict:
    answer = httpx.post(server.url + path, json=body, timeout=60)
    assert answer.status_code == 200, (body, answer.text)
    found = answer.json()
    return {
        "usage": {name: found["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
        "choices": {
            choice["index"]: {
                "text": choice["message"]["content"] if "message" in choice else choice["text"],
                **{name: choice[name] for name in ("finish_reason", "stop_reason", "logprobs")},
            }
            for choice in found["choices"]
        },
    }


def streamed(server, path: str, body: dict) -> dict:
    body = body | {"stream": True, "stream_options": {"include_usage": True}}
    events = httpx.post(server.url + path, json=body, timeout=60).text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    usage = chunks[-1]["usage"]
    choices: dict = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        one = choices.setdefault(
            choice["index"], {"text": "", "finish_reason": None, "stop_reason": None, "logprobs": None}
        )
        one["text"] += (choice["delta"].get("content") or "") if "delta" in choice else choice["text"]
        one["finish_reason"] = choice.get("finish_reason") or one["finish_reason"]
        one["stop_reason"] = choice.get("stop_reason") or one["stop_reason"]
        for name, values in (choice.get("logprobs") or {}).items():
            if name == "text_offset":  # vLLM counts what it has sent, which a held-back syllable is not part of
                continue
            one["logprobs"] = one["logprobs"] or {}
            one["logprobs"][name] = one["logprobs"].get(name, []) + (values or [])
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {"usage": {name: usage[name] for name in names}, "choices": choices}


def assert_same(one, other, place: str = "") -> None:
    """Equal, log-probabilities to the last digits of float32 (a row's neighbours in a batch may change those)."""
    if isinstance(one, float) and isinstance(other, float):
        assert one == pytest.approx(other, abs=2e-3), place
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for name in one:
            assert_same(one[name], other[name], f"{place}.{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), place
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{place}.{number}")
    else:
        assert one == other, place


def test_both_ways_give_the_same_answers(server):
    for path, body in requests(60):
        lean = whole(server, path, body)
        assert_same(lean, whole(server, path, body | OTHER_WAY), json.dumps(body, ensure_ascii=False))
        assert_same(streamed(server, path, body), streamed(server, path, body | OTHER_WAY), json.dumps(body))
        assert lean["usage"] == streamed(server, path, body)["usage"]


def test_plain_requests_take_the_lean_path_and_others_do_not(server):
    """vLLM's handlers say `system_fingerprint`; the lean path has no such field."""
    for path, body in requests(30):
        for extra, is_lean in (({}, True), (OTHER_WAY, False), ({"logit_bias": {"5": 1}}, False), ({"x": 1}, False)):
            found = httpx.post(server.url + path, json=body | extra, timeout=60).json()
            assert ("system_fingerprint" not in found) == is_lean, (body, extra, found)


def test_both_ways_refuse_the_same(server):
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "가 나 " * 900}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "가<s>"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "가"}], "max_tokens": 4000}),
        ("/v1/completions", {"prompt": [99_999]}),
        ("/v1/completions", {"prompt": "가", "temperature": 7}),
        ("/v1/completions", {"prompt": "가", "model": "없음"}),
    ):
        answers = [httpx.post(server.url + path, json=body | extra) for extra in ({}, OTHER_WAY)]
        assert [answer.status_code for answer in answers] in ([400, 400], [404, 404])
        assert answers[0].json() == answers[1].json()


def test_decomposed_hangul_costs_what_composed_hangul_costs(server):
    import unicodedata

    text = "물은 몇 도에서 끓나요"
    for extra in ({}, OTHER_WAY):
        costs = [
            whole(
                server,
                "/v1/chat/completions",
                {"messages": [{"role": "user", "content": given}], "max_tokens": 1} | extra,
            )
            for given in (text, unicodedata.normalize("NFD", text))
        ]
        assert costs[0]["usage"] == costs[1]["usage"]


def test_every_endpoint_gives_the_engine_the_ids_of_training(server, tiny_base):
    """Guarantee 1, with one BOS, through every way in; the log counts what the engine got."""
    tokenizer = chat.load_tokenizer(str(tiny_base))
    chat.set_chat_template(tokenizer)
    messages = [{"role": "system", "content": "짧게 답하세요."}, {"role": "user", "content": "물은 몇 도에서 끓나요?"}]
    ids = chat.prompt_ids(tokenizer, messages)
    parts = [messages[0], {"role": "user", "content": [{"type": "text", "text": messages[1]["content"]}]}]
    asked = {"model": "base", "max_tokens": 1}
    for body in ({"messages": messages}, {"messages": parts}, {"messages": messages, "chat_template_kwargs": {"x": 1}}):
        body = body | asked | {"return_token_ids": True}
        assert httpx.post(server.url + "/v1/chat/completions", json=body).json()["prompt_token_ids"] == ids
        found = httpx.post(server.url + "/tokenize", json={"messages": body["messages"]}).json()
        assert found["tokens"] == ids
    answer = httpx.post(server.url + "/v1/chat/completions", json={"messages": messages} | asked).json()
    assert answer["usage"]["prompt_tokens"] == len(ids)
    body = {"model": "base", "instructions": messages[0]["content"], "input": messages[1]["content"]}
    answer = httpx.post(server.url + "/v1/responses", json=body | {"max_output_tokens": 1}).json()
    assert answer["usage"]["input_tokens"] == len(ids)
    body = {"system": messages[0]["content"], "messages": messages[1:]} | asked
    answer = httpx.post(server.url + "/v1/messages", json=body).json()
    assert answer["usage"]["input_tokens"] == len(ids)
    counted = httpx.post(server.url + "/v1/messages/count_tokens", json=body).json()
    assert counted["input_tokens"] == len(ids)
    twice = httpx.post(server.url + "/v1/chat/completions", json={"messages": messages, "add_special_tokens": True})
    assert twice.status_code == 400
    assert "BOS twice" in twice.json()["error"]["message"]
