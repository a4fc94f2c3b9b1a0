"""api_server.py over HTTP: the tiny base with two adapters on the real engine, asked by the real openai client."""

import asyncio
import json
import random
import re

import httpx
import openai
import pytest
from conftest import SAMPLE_ROWS
from server_process import Running

from sllm import chat, tasks
from sllm.serve import app

pytestmark = pytest.mark.torch
MAX_TOKENS = 48
QUESTION = [
    {"role": "system", "content": "당신은 질문에 한국어로 답하는 도우미입니다."},
    {"role": "user", "content": "###Question###:\n물은 몇 도에서 끓나요?\n\n###Answer###:"},
]


@pytest.fixture(scope="module")
def server(tiny_base, sft_folder, dpo_folder):
    running = Running(
        "--model_id", tiny_base, "--served_model_name", "base", "--max_seq_length", 1024, "--max_tokens", MAX_TOKENS,
        "--lora_modules", f"sft={sft_folder}", f"dpo={dpo_folder}",
        "--max_num_seqs", 64, "--max_waiting", 50, "--max_body_mb", 1,
    )  # fmt: skip
    yield running
    assert running.stop() == 0
    assert json.loads(running.lines[-1])["stage"] == "served"
    assert not [line for line in running.log if line["level"] == "error" and "logger" not in line], running.errors
    assert not [line for line in running.errors if not line.startswith("{")]


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0, timeout=60)


def rows(count: int) -> list[dict]:
    lines = SAMPLE_ROWS.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:: len(lines) // count]][:count]


def conversation(row: dict) -> list[dict]:
    return [
        {"role": "system", "content": row["system_prompt"]},
        {"role": "user", "content": row["user_content"]},
    ]


def post(server, path: str, body: dict, **kwargs) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=60, **kwargs)


def refused(server, path: str, body: dict, param: str | None, status: int = 400) -> str:
    """The message of an error in OpenAI's shape."""
    answer = httpx.post(server.url + path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param, error
    assert "Traceback" not in error["message"]
    assert "/work" not in error["message"]
    return error["message"]


# ── models and parity ──────────────────────────────────────────────────────────────────────────────────────


def test_models_are_listed_with_what_they_are(client, server):
    found = {model.id: model for model in client.models.list()}
    assert list(found) == ["base", "sft", "dpo"]
    assert [found[name].kind for name in found] == ["base", "sft", "dpo"]
    assert found["sft"].parent == "base"
    assert client.models.retrieve("dpo").max_model_len == 1024
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="gone", messages=QUESTION)
    assert error.value.body["code"] == "model_not_found"
    assert "base, sft, dpo" in error.value.body["message"]


def test_the_engine_gets_the_ids_of_training(server, sft_folder):
    """Guarantee 1 through the server, against the rendering that training masks."""
    tokenizer = chat.load_tokenizer(str(sft_folder))
    for row in rows(6):
        answer = [*conversation(row), {"role": "assistant", "content": row["assistant_content"]}]
        (example,) = chat.build_examples(tokenizer, answer)
        prompt = example.input_ids[: example.completion_mask.index(1)]
        body = {"model": "sft", "messages": conversation(row), "return_token_ids": True, "max_tokens": 4}
        found = post(server, "/v1/chat/completions", body).json()
        assert found["prompt_token_ids"] == prompt
        assert found["usage"]["prompt_tokens"] == len(prompt)
        del body["return_token_ids"]  # then it is the lean path that answers
        assert post(server, "/v1/chat/completions", body).json()["usage"]["prompt_tokens"] == len(prompt)
        counted = post(server, "/tokenize", {"model": "sft", "messages": conversation(row)}).json()
        assert counted["tokens"] == prompt
        assert counted["count"] == len(prompt)
        assert counted["max_model_len"] == 1024


def test_models_side_by_side_answer_as_each_does_alone(server, client):
    """One batch holds rows of the base and of both adapters."""
    asked = [(model, row) for row in rows(8) for model in ("base", "sft", "dpo")]

    def alone(model, row):
        answer = client.chat.completions.create(model=model, messages=conversation(row), temperature=0)
        return answer.choices[0].message.content

    async def together():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as many:
            ask = many.chat.completions.create
            done = await asyncio.gather(
                *(ask(model=model, messages=conversation(row), temperature=0) for model, row in asked)
            )
            return [answer.choices[0].message.content for answer in done]

    one_by_one = [alone(model, row) for model, row in asked]
    assert asyncio.run(together()) == one_by_one
    assert len(set(one_by_one[0::3]) & set(one_by_one[1::3])) < 4  # adapters change answers


# ── streams ────────────────────────────────────────────────────────────────────────────────────────────────


def test_joined_deltas_are_the_whole_answer(client):
    for row in rows(6):
        ask = {"model": "sft", "messages": conversation(row), "temperature": 0}
        whole = client.chat.completions.create(**ask)
        chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
        assert chunks[0].choices[0].delta.role == "assistant"
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(pieces) == whole.choices[0].message.content
        assert len(pieces) > 3
        assert chunks[-1].usage == whole.usage
        assert not chunks[-1].choices
        assert [c.choices[0].finish_reason for c in chunks[:-1]][-1] == whole.choices[0].finish_reason
        assert all("\ufffd" not in piece for piece in pieces)


def test_random_bytes_never_show_as_broken_characters(client, server, tiny_base):
    """At temperature 2 the model writes parts of syllables in any order."""
    tokenizer = chat.load_tokenizer(str(tiny_base))
    parts = [i for i in range(len(tokenizer)) if "\ufffd" in tokenizer.decode([i])]
    bias = {str(token): 100 for token in parts[:200]}
    held = broken = 0
    for seed in range(12):
        ask = {
            "model": "base",
            "prompt": "가",
            "temperature": 2,
            "seed": seed,
            "max_tokens": 40,
            "logit_bias": bias,
            "extra_body": {"return_token_ids": True},
        }
        whole = client.completions.create(**ask)
        chunks = list(client.completions.create(**ask, stream=True))
        pieces = [chunk.choices[0].text for chunk in chunks]
        ids = [token for chunk in chunks for token in chunk.choices[0].token_ids]
        assert ids == whole.choices[0].token_ids
        assert "".join(pieces) == whole.choices[0].text
        assert not any("\ufffd" in piece for piece in pieces)
        broken += "\ufffd" in tokenizer.decode(ids)
        held += sum(not piece for piece in pieces)
    assert broken
    assert held


def test_server_sent_events_are_framed_as_openai_frames_them(server):
    body = {"model": "sft", "messages": QUESTION, "stream": True, "max_tokens": 8, "temperature": 0}
    with httpx.stream("POST", server.url + "/v1/chat/completions", json=body, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-request-id"]
        text = answer.read().decode()
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in events[:-1])
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert "usage" not in chunks[0]
    assert set(chunks[1]["choices"][0]) == {"index", "delta", "logprobs", "finish_reason"}


# ── what a request may ask ─────────────────────────────────────────────────────────────────────────────────


def test_answers_have_the_documented_shape(server):
    body = {
        "model": "sft",
        "messages": QUESTION,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 3,
        "max_tokens": 12,
        "seed": 1,
    }
    found = post(server, "/v1/chat/completions", body).json()
    openai.types.chat.ChatCompletion.model_validate(found)
    assert [choice["index"] for choice in found["choices"]] == [0, 1]
    assert found["choices"][0]["message"]["content"] != found["choices"][1]["message"]["content"]
    content = found["choices"][0]["logprobs"]["content"]
    assert all(len(token["top_logprobs"]) == 3 and token["logprob"] <= 0 for token in content)
    text = b"".join(bytes(token["bytes"]) for token in content if not token["token"].startswith("<|"))
    assert text.decode(errors="ignore").startswith(found["choices"][0]["message"]["content"][:5])
    again = post(server, "/v1/chat/completions", body).json()
    assert [c["message"] for c in again["choices"]] == [c["message"] for c in found["choices"]]  # the seed holds

    body = {"prompt": ["옛날에", [100, 101, 102]], "n": 2, "logprobs": 2, "max_tokens": 6, "temperature": 1}
    found = post(server, "/v1/completions", body).json()
    openai.types.Completion.model_validate(found)
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    assert all(len(tops) <= 3 for tops in found["choices"][0]["logprobs"]["top_logprobs"])


def test_streams_of_several_answers_carry_logprobs(client):
    ask = {
        "model": "sft",
        "messages": QUESTION,
        "n": 3,
        "seed": 5,
        "max_tokens": 10,
        "logprobs": True,
        "top_logprobs": 1,
    }
    whole = client.chat.completions.create(**ask)
    texts, tokens = {}, {}
    for chunk in client.chat.completions.create(**ask, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
        tokens.setdefault(choice.index, []).extend(choice.logprobs.content if choice.logprobs else [])
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    for choice in whole.choices:
        for one, other in zip(tokens[choice.index], choice.logprobs.content, strict=True):
            assert one.bytes == other.bytes
            assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
            assert len(one.top_logprobs) == 1


def test_sampling_fields_reach_the_engine(client, tiny_base):
    tokenizer = chat.load_tokenizer(str(tiny_base))

    def ask(**kwargs):
        extra = {
            name: kwargs.pop(name)
            for name in list(kwargs)
            if name
            in (
                "min_tokens",
                "stop_token_ids",
                "ignore_eos",
                "top_k",
                "min_p",
                "repetition_penalty",
                "return_token_ids",
            )
        }
        kwargs = {"max_tokens": 24, "temperature": 0} | kwargs
        answer = client.chat.completions.create(
            model="sft", messages=QUESTION, **kwargs, extra_body=extra | {"return_token_ids": True}
        )
        return answer.choices[0]

    plain = ask()
    text, ids = plain.message.content, plain.token_ids
    stop = re.search(r"\S\S", text[3:])[0]
    assert ask(stop=stop).message.content == text.partition(stop)[0]
    assert ask(stop=[stop]).finish_reason == "stop"
    assert ask(stop_token_ids=[ids[4]]).token_ids == ids[: ids.index(ids[4]) + 1]
    assert ask(max_tokens=3).token_ids == ids[:3]
    assert ask(max_tokens=3).finish_reason == "length"
    assert ask(max_completion_tokens=3, max_tokens=3).token_ids == ids[:3]
    assert len(ask(ignore_eos=True, max_tokens=40).token_ids) == 40
    assert ask(logit_bias={str(ids[0]): -100}).token_ids[0] != ids[0]
    assert ask(temperature=2, top_k=1).token_ids == ids
    assert ask(temperature=2, top_p=1e-6).token_ids == ids
    assert ask(temperature=2, min_p=1).token_ids == ids
    assert ask(repetition_penalty=5.0, ignore_eos=True).token_ids != ids
    long = {"ignore_eos": True, "max_tokens": 300}
    assert ask(frequency_penalty=2, **long).token_ids != ask(**long).token_ids
    assert ask(presence_penalty=2, **long).token_ids != ask(**long).token_ids
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end not in ask(min_tokens=24).token_ids[:23]
    assert ask(temperature=1, seed=3).token_ids == ask(temperature=1, seed=3).token_ids
    assert ask(temperature=1, seed=3).token_ids != ask(temperature=1, seed=4).token_ids


def test_json_is_enforced_by_the_engine(client):
    schema = {
        "type": "object",
        "properties": {"답": {"enum": ["예", "아니요"]}, "수": {"type": "integer", "maximum": 9, "minimum": 0}},
        "required": ["답", "수"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    for model in ("base", "sft"):
        answer = client.chat.completions.create(model=model, messages=QUESTION, response_format=form, max_tokens=100)
        found = json.loads(answer.choices[0].message.content)
        assert found["답"] in ("예", "아니요")
        assert 0 <= found["수"] <= 9
    answer = client.chat.completions.create(
        model="base", messages=QUESTION, response_format={"type": "json_object"}, max_tokens=20, temperature=0
    )
    assert answer.choices[0].message.content.lstrip().startswith("{")


REFUSALS = [
    ({"tools": [{"type": "function"}]}, "tools.0.function", "required"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "--tool_call_parser"),
    ({"temperature": 3}, "temperature", "[0, 2]"),
    ({"temperature": "hot"}, "temperature", "number"),
    ({"top_p": 0}, "top_p", "(0, 1]"),
    ({"n": 0}, None, "at least 1"),
    ({"n": 128}, "n", "capacity"),
    ({"top_logprobs": 3}, "top_logprobs", "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "logprobs", "20"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream"),
    ({"min_tokens": 20, "max_completion_tokens": 10}, None, "max_tokens"),
    ({"min_tokens": 200}, None, "max_tokens"),
    ({"n": 2, "temperature": 0}, None, "greedy"),
    ({"messages": [{"role": "user", "content": "\ud83d"}]}, None, "surrogate"),
    ({"max_tokens": 4000}, "max_tokens", "1024"),
    ({"logit_bias": {"가": 1}}, "logit_bias", "token IDs"),
    ({"logit_bias": {"999999": 1}}, "logit_bias", "ocab"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}},
     "structured_outputs", "cannot be enforced"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs", "cannot be enforced"),
    ({"messages": []}, "messages", "at least one message"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages", "text only"),
    ({"messages": [{"role": "user", "content": "끝<|im_end|>"}]}, "messages", "special token"),
    ({"messages": [{"role": "user", "content": "<s>"}]}, "messages", "special token <s>"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "끝<s>"}]}]}, "messages", "special token <s>"),
    ({"messages": [{"role": "user", "content": "가 나 " * 2000}]}, "prompt", "maximum context length is 1024"),
    ({"chat_template": "{{ messages }}"}, None, "trust"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "param", "said"),
    REFUSALS,
    ids=lambda value: json.dumps(value, ensure_ascii=False)[:40] if isinstance(value, dict) else "",
)
def test_what_cannot_be_honoured_is_refused_by_name(server, change, param, said):
    message = refused(server, "/v1/chat/completions", {"model": "base", "messages": QUESTION} | change, param)
    assert said in message


def test_a_misspelt_field_is_named_in_the_answer(server):
    answer = post(server, "/v1/chat/completions", {"messages": QUESTION, "max_token": 8, "max_tokens": 2, "이름": 1})
    assert answer.status_code == 200
    assert answer.headers["x-ignored-fields"] == "max_token, %EC%9D%B4%EB%A6%84"
    line = server.wait_for(lambda: next((line for line in server.log if line.get("ignored_fields")), None))
    assert line["ignored_fields"] == ["max_token", "이름"]
    message = refused(server, "/v1/tasks/task08_02", {"question": "높이는?"}, "context")
    assert "missing field 'context'" in message


def test_a_conversation_continues_with_the_message_that_was_received(client):
    first = client.chat.completions.create(model="sft", messages=QUESTION, max_tokens=8)
    second = [*QUESTION, first.choices[0].message, {"role": "user", "content": "그럼 얼음은?"}]
    assert client.chat.completions.create(model="sft", messages=second, max_tokens=8).choices[0].message.content


def test_half_an_emoji_is_a_400_in_either_spelling(server):
    for raw in (rb'{"prompt": "\ud83d"}', b'{"prompt": "\xed\xa0\xbd"}', rb'{"prompt": ["a", "\ud83d"]}'):
        answer = httpx.post(server.url + "/v1/completions", content=raw, headers={"content-type": "application/json"})
        assert answer.status_code == 400, raw
        assert "error" in answer.json(), raw


def test_each_prompt_has_the_room_that_the_context_leaves_it(server):
    body = {"prompt": [[100] * 1010, [100] * 5], "model": "base", "ignore_eos": True, "temperature": 0}
    long, short = post(server, "/v1/completions", body | {"return_token_ids": True}).json()["choices"]
    assert len(long["token_ids"]) == 14
    assert len(short["token_ids"]) == MAX_TOKENS


def test_offsets_of_a_stream_are_those_of_the_whole(server):
    body = {"prompt": "봄이", "model": "base", "temperature": 1, "seed": 4, "logprobs": 0, "max_tokens": 40}
    whole = post(server, "/v1/completions", body).json()["choices"][0]
    events = post(server, "/v1/completions", body | {"stream": True}).text.split("\n\n")[:-2]
    pieces = [json.loads(event.removeprefix("data: "))["choices"][0]["logprobs"] for event in events]
    offsets = [offset for piece in pieces for offset in piece["text_offset"]]
    assert offsets == whole["logprobs"]["text_offset"]
    assert offsets[0] == 0
    assert offsets == sorted(offsets)
    for token, offset in zip(whole["logprobs"]["tokens"], offsets, strict=True):
        assert token.startswith(("bytes:", "<|", "</s>")) or whole["text"][offset:].startswith(token)


def test_hundred_clients_that_leave_in_the_middle(server):
    body = {"model": "base", "prompt": "옛날에", "max_tokens": 800, "ignore_eos": True, "stream": True}

    async def leave(client: httpx.AsyncClient) -> int:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            async for _ in answer.aiter_bytes():
                break  # closes the connection
            return answer.status_code

    async def all_of_them() -> list[int]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
            return await asyncio.gather(*(leave(client) for _ in range(100)))

    before = sum(line.get("status") == 499 for line in server.log)
    assert asyncio.run(all_of_them()) == [200] * 100
    server.wait_for(server.idle, 2)
    server.wait_for(lambda: sum(line.get("status") == 499 for line in server.log) == before + 100, 2)


async def stream_with_the_async_client(url: str) -> str:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-") as client:
        ask = client.chat.completions.create(model="sft", messages=QUESTION, temperature=0, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in await ask])


def test_a_seed_gives_the_same_answer_in_a_crowd_as_alone(server):
    """Forty at once are more prompt tokens than a step reads: some prompts are read in parts."""
    bodies = [
        {"model": "sft", "messages": conversation(row), "seed": number, "temperature": 0.9, "max_tokens": 12}
        for number, row in enumerate(rows(40))
    ]

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            return await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for body in bodies))

    crowd = asyncio.run(ask())
    assert [answer.status_code for answer in crowd] == [200] * 40
    texts = [answer.json()["choices"][0]["message"] for answer in crowd]
    alone = [post(server, "/v1/chat/completions", body).json()["choices"][0]["message"] for body in bodies[::4]]
    assert texts[::4] == alone
    assert len({text["content"] for text in texts}) > 30


def test_the_async_client_streams(server, client):
    whole = client.chat.completions.create(model="sft", messages=QUESTION, temperature=0)
    assert asyncio.run(stream_with_the_async_client(server.url)) == whole.choices[0].message.content


def test_a_prompt_too_long_names_both_numbers(server):
    message = refused(server, "/v1/completions", {"prompt": [100] * 1100, "model": "base"}, "prompt")
    assert "1100" in message
    assert "maximum context length is 1024 tokens" in message
    refused(server, "/v1/completions", {"prompt": [99_999], "model": "base"}, None)
    refused(server, "/v1/tasks/task02", {"context": "가 나 " * 2000, "model": "base"}, None)


def test_what_changes_nothing_is_let_through(server):
    body = {"model": "base", "messages": QUESTION, "max_tokens": 2, "best_of": 1, "use_beam_search": False}
    body |= {"metadata": {"a": "b"}, "user": "u", "store": False, "tool_choice": "none", "logit_bias": None}
    assert post(server, "/v1/chat/completions", body).status_code == 200
    parts = [{"role": "user", "content": [{"type": "text", "text": "가"}, {"type": "text", "text": "나"}]}]
    plain = [{"role": "user", "content": "가\n나"}]
    found = [post(server, "/tokenize", {"model": "base", "messages": m}).json() for m in (parts, plain)]
    assert found[0] == found[1]


# ── tasks ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_examples_of_tasks_are_the_first_rows_of_a_file(tmp_path):
    from sllm import world
    from sllm.data import formats
    from sllm.serve import tasks_api

    rows = [world.row(random.Random(i), task) for i, task in enumerate(["task08_01", "task08_01", "task02"])]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [world.chat_row(random.Random(9)), *rows]))
    listed = tasks_api.task_entries(formats.load_rows(path, "prompts"))
    examples = {entry["id"]: entry["example"] for entry in listed if entry["example"]}
    assert examples == {row["task"]: tasks.split_user_turn(row["task"], row["user_content"]) for row in rows[::2]}


def test_the_list_of_tasks_tells_the_two_groups_apart():
    from sllm.serve import tasks_api

    listed = {entry["id"]: entry for entry in tasks_api.task_entries([])}
    assert list(listed) == list(tasks.TASKS)
    assert {id for id, entry in listed.items() if entry["group"] == "earlier"} == set(tasks.EARLIER)
    assert {id for id, entry in listed.items() if entry["group"] == "original"} == set(tasks.ORIGINAL)
    assert listed["kositp13"]["chars"] == [1, 50]
    assert listed["kositp06"]["chars"] == [80, None]
    assert listed["task10_01"]["length_ratio"] == [5, None]
    assert listed["task10_01"]["chars"] is None
    json.dumps(list(listed.values()), allow_nan=False)


def test_every_task_answers_its_own_example_with_a_verdict(server):
    listed = httpx.get(server.url + "/v1/tasks").json()
    assert [entry["id"] for entry in listed["data"]] == list(tasks.TASKS)
    for entry in listed["data"]:
        assert {field["name"] for field in entry["fields"] if field["required"]} <= set(entry["example"])
        body = entry["example"] | {"model": "sft", "temperature": 0, "max_tokens": 24}
        found = post(server, f"/v1/tasks/{entry['id']}", body).json()
        assert set(found) == {
            "object", "id", "created", "model", "task", "answer", "finish_reason", "conformance", "messages", "usage"
        }  # fmt: skip
        assert found["messages"] == tasks.build_messages(entry["id"], entry["example"])
        broken = tasks.check(entry["id"], found["messages"][-1]["content"], found["answer"])
        assert {r["rule"]: r["reason"] for r in found["conformance"]["rules"] if not r["ok"]} == {
            failure.rule: failure.reason for failure in broken
        }
        assert found["conformance"]["ok"] == (not broken)


def test_a_streamed_task_ends_with_its_verdict(server):
    body = {"model": "sft", "question": "하늘은 파란가?", "temperature": 0, "stream": True, "max_tokens": 24}
    whole = post(server, "/v1/tasks/task05_02", body | {"stream": False}).json()
    text = post(server, "/v1/tasks/task05_02", body | {"stream_options": {"include_usage": True}}).text
    chunks = [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n")[:-2]]
    assert "".join(c["choices"][0]["delta"]["content"] for c in chunks if c["choices"]) == whole["answer"]
    assert chunks[-2]["conformance"] == whole["conformance"]
    assert chunks[-1]["usage"] == whole["usage"]


def test_fields_of_a_task_are_checked(server):
    assert "missing field 'question'" in refused(server, "/v1/tasks/task08_01", {"context": "글"}, "question")
    assert "unknown field 'table'" in refused(server, "/v1/tasks/task02", {"context": "글", "table": "x"}, "table")
    assert "2 to 5" in refused(server, "/v1/tasks/task03_01", {"question": "?", "choices": ["하나"]}, "choices")
    assert "task08_01" in refused(server, "/v1/tasks/task99", {"context": "글"}, "task_id", 404)


# ── the rest of HTTP ───────────────────────────────────────────────────────────────────────────────────────


def test_other_paths_methods_and_bodies_are_refused_in_the_same_shape(server):
    for method, path, body, status in (
        ("GET", "/v1/nothing", None, 404),
        ("GET", "/v1/chat/completions", None, 405),
        ("DELETE", "/v1/models", None, 405),
        ("POST", "/v1/chat/completions", b"", 400),
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b'{"messages": "\xff\xfe"}', 400),
        ("POST", "/v1/chat/completions", b"[" * 100_000, 400),
        ("POST", "/v1/chat/completions", b'{"messages":' + b'[{"role":' * 20_000, 400),
        ("POST", "/v1/chat/completions", b"1" * 10_000, 400),
        ("POST", "/v1/chat/completions", b" " * 2**20 + b"{}", 413),
    ):
        answer = httpx.request(method, server.url + path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == status, (path, body and body[:20], answer.text[:300])
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert not re.search(r"Traceback|\.py|/work", answer.text)


def test_a_twenty_megabyte_body_is_refused_at_once(server):
    for body in (b"x" * 20 * 2**20, iter([b"x" * 2**16] * 320)):  # with Content-Length, and chunked
        answer = httpx.post(server.url + "/v1/completions", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 413
        assert "max_body_mb" in answer.json()["error"]["message"]


def test_request_ids_are_honoured_and_logged_without_prompts(server):
    body = {"model": "sft", "messages": [{"role": "user", "content": "비밀문장입니다"}], "max_tokens": 5}
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    events = post(server, "/v1/chat/completions", body | usage, headers={"X-Request-ID": "my-id-8"}).text.split("\n\n")
    streamed = json.loads(events[-3].removeprefix("data: "))["usage"]
    answer = post(server, "/v1/chat/completions", body, headers={"X-Request-ID": "my-id-7"})
    assert answer.headers["x-request-id"] == "my-id-7"
    assert answer.json()["id"] == "chatcmpl-my-id-7"
    line = server.wait_for(lambda: next((line for line in server.log if line.get("request_id") == "my-id-7"), None))
    assert line["status"] == 200
    assert line["model"] == "sft"
    assert line["path"] == "/v1/chat/completions"
    assert line["completion_tokens"] == answer.json()["usage"]["completion_tokens"]
    assert line["ttft_ms"] is None
    line = next(line for line in server.log if line.get("request_id") == "my-id-8")
    assert line["completion_tokens"] == streamed["completion_tokens"]
    assert line["total_ms"] >= line["ttft_ms"] > 0
    assert "비밀" not in "".join(server.errors)
    bad = post(server, "/v1/chat/completions", body, headers={"X-Request-ID": "a b" * 99})
    assert re.fullmatch(r"[0-9a-f]{32}", bad.headers["x-request-id"])


def test_state_and_metrics(server):
    assert httpx.get(server.url + "/health").json() == {"status": "ok"}
    assert httpx.get(server.url + "/ready").json() == {"status": "ready"}
    assert server.metric("sllm_requests_total") > 0
    assert server.metric("vllm:generation_tokens_total") > 0


def test_the_documentation_page_needs_no_other_host(server):
    page = httpx.get(server.url + "/docs").text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) >= 2
    assert all(link.startswith("/") for link in links)
    assert all(httpx.get(server.url + link).status_code == 200 for link in links)


def test_examples_of_the_documentation_work(server):
    document = httpx.get(server.url + "/openapi.json").json()
    tried = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if method != "post" or not content:
                continue
            named = content.get("examples") or {"": {"value": content["example"]}} if "lora" not in path else {}
            for name, example in named.items():
                answer = post(server, path.replace("{task_id}", name), example["value"])
                assert answer.status_code == 200, (path, name, answer.text)
                tried += 1
    assert tried == len(app.EXAMPLES) + len(tasks.TASKS)
    assert "422" not in json.dumps(document["paths"])
