"""/v1/chat/completions."""

import re
import time

from expectations.helpers import delta_text, good, refused, same, short, together, user
from expectations.registry import of
from expectations.servers import CONTEXT, SMALL

chat = of("chat")


@chat("an answer has id, object, created, model, choices and usage")
def _(s):
    answer = s.chat()
    same(answer["object"], "chat.completion")
    assert answer["id"].startswith("chatcmpl") and abs(answer["created"] - time.time()) < 60, short(answer)
    same(answer["model"], "m")
    same(answer["choices"][0]["message"]["role"], "assistant")
    same(answer["choices"][0]["index"], 0)


@chat("OpenAI's own client reads an answer and a stream")
def _(s):
    from openai import OpenAI

    client = OpenAI(base_url=s.url + "/v1", api_key="-", max_retries=0)
    whole = client.chat.completions.create(model="m", messages=user("안녕"), max_tokens=5, temperature=0)
    stream = client.chat.completions.create(model="m", messages=user("안녕"), max_tokens=5, temperature=0, stream=True)
    same("".join(chunk.choices[0].delta.content or "" for chunk in stream), whole.choices[0].message.content)


@chat("system, user and assistant turns all reach the prompt")
def _(s):
    turns = [{"role": role, "content": "가나다"} for role in ("system", "user", "assistant", "user")]
    counts = [s.chat(turns[:count])["usage"]["prompt_tokens"] for count in (2, 4)]
    assert counts[1] > counts[0], counts


@chat("role developer is accepted and reads as an instruction")
def _(s):
    with_it = s.chat([{"role": "developer", "content": "짧게"}, *user("안녕")])["usage"]["prompt_tokens"]
    assert with_it > s.chat("안녕")["usage"]["prompt_tokens"]


@chat("a message may have a name")
def _(s):
    s.chat([{"role": "user", "content": "안녕", "name": "kim"}])


@chat("a content in text parts costs what the same string costs")
def _(s):
    parts = s.chat(user([{"type": "text", "text": "안녕하세요"}]))["usage"]["prompt_tokens"]
    same(parts, s.chat("안녕하세요")["usage"]["prompt_tokens"])


@chat("an image part for a text-only model is a 400")
def _(s):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    refused(s.ask(user([{"type": "text", "text": "?"}, image])))


@chat("null in every optional field is the field left out")
def _(s):
    names = "n stop seed logprobs top_logprobs presence_penalty frequency_penalty logit_bias user stream stream_options"
    names += " top_p tools tool_choice response_format max_completion_tokens"
    same(s.say(**dict.fromkeys(names.split())), s.say())


@chat("null for temperature and max_tokens is accepted")
def _(s):
    s.chat(temperature=None, max_tokens=None, max_completion_tokens=4)


@chat("a request without model gets the served one")
def _(s):
    same(good(s.post("/v1/chat/completions", {"messages": user("안녕")} | SMALL))["model"], "m")


@chat("n: three choices with their indexes")
def _(s):
    same([choice["index"] for choice in s.chat(n=3, temperature=1)["choices"]], [0, 1, 2])


@chat("the choices of n differ from each other, also with a seed")
def _(s):
    texts = {choice["message"]["content"] for choice in s.chat(n=4, temperature=1, seed=7, max_tokens=16)["choices"]}
    assert len(texts) > 1, "all four are the same"


@chat("stop ends the answer and is not part of it")
def _(s):
    whole = s.say(max_tokens=24)
    stop = whole[6:8]
    choice = s.chat(max_tokens=24, stop=stop)["choices"][0]
    same(choice["message"]["content"], whole[: whole.index(stop)])
    same(choice["finish_reason"], "stop")


@chat("of a list of stops the first to appear ends the answer")
def _(s):
    whole = s.say(max_tokens=24)
    stops = ["없는말", whole[10:12], whole[5:7]]
    same(s.say(max_tokens=24, stop=stops), whole[: min(whole.index(stop) for stop in stops[1:])])


@chat("streamed, no piece of a stop text is sent")
def _(s):
    whole = s.say(max_tokens=24)
    stop = whole[6:9]
    same(delta_text(s.chunks(max_tokens=24, stop=stop)), whole[: whole.index(stop)])


@chat("max_tokens: exactly so many, finish_reason length")
def _(s):
    answer = s.chat(max_tokens=7, ignore_eos=True)
    same((answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]), (7, "length"))


@chat("max_completion_tokens does the same, and comes before max_tokens")
def _(s):
    same(s.chat(max_tokens=None, max_completion_tokens=5, ignore_eos=True)["usage"]["completion_tokens"], 5)
    same(s.chat(max_tokens=9, max_completion_tokens=5, ignore_eos=True)["usage"]["completion_tokens"], 5)


@chat("an answer that the model ends has finish_reason stop")
def _(s):
    same(s.chat(logit_bias={"2": 100})["choices"][0]["finish_reason"], "stop")


@chat("the template's end of turn ends an answer, though the model's files name another EOS")
def _(s):
    same(s.chat(logit_bias={"4": 100})["choices"][0]["finish_reason"], "stop")


@chat("without max_tokens an answer never exceeds the context")
def _(s):
    usage = s.chat("가" * 1000, max_tokens=None, ignore_eos=True)["usage"]
    assert usage["total_tokens"] <= CONTEXT, usage


@chat("the same seed gives the same answer at temperature 1")
def _(s):
    same(s.say(seed=11, temperature=1, max_tokens=16), s.say(seed=11, temperature=1, max_tokens=16))


@chat("other seeds give other answers")
def _(s):
    assert len({s.say(seed=seed, temperature=1, max_tokens=16) for seed in range(4)}) > 1, "all four are the same"


@chat("temperature 0 gives the same answer again, also among others")
def _(s):
    answers = together(8, lambda number: s.say(max_tokens=24))
    assert len(set(answers)) == 1, f"{len(set(answers))} different answers"


@chat("logprobs: one entry a token, none above 0")
def _(s):
    answer = s.chat(logprobs=True)
    content = answer["choices"][0]["logprobs"]["content"]
    same(len(content), answer["usage"]["completion_tokens"])
    assert all(entry["logprob"] <= 0 for entry in content)


@chat("top_logprobs 5: five a token, likeliest first, the greedy token on top")
def _(s):
    for entry in s.chat(logprobs=True, top_logprobs=5)["choices"][0]["logprobs"]["content"]:
        values = [other["logprob"] for other in entry["top_logprobs"]]
        assert len(values) == 5 and values == sorted(values, reverse=True), values
        same(entry["top_logprobs"][0]["bytes"], entry["bytes"])


@chat("logprobs without top_logprobs, and top_logprobs 0, have empty lists")
def _(s):
    for fields in ({}, {"top_logprobs": 0}):
        content = s.chat(logprobs=True, **fields)["choices"][0]["logprobs"]["content"]
        same([entry["top_logprobs"] for entry in content], [[]] * len(content))


@chat("the bytes of the logprobs join to the text")
def _(s):
    for seed in range(4):
        choice = s.chat(logprobs=True, max_tokens=24, temperature=1.5, seed=seed, ignore_eos=True, min_tokens=24)
        choice = choice["choices"][0]
        whole = b"".join(bytes(entry["bytes"]) for entry in choice["logprobs"]["content"])
        text = re.sub(r"<\|im_(start|end)\|>|</?s>|<pad>", "", whole.decode("utf-8", "ignore"))
        same(text, choice["message"]["content"].replace("\ufffd", ""))


@chat("without logprobs the field is null")
def _(s):
    same(s.chat()["choices"][0].get("logprobs"), None)


@chat("streamed logprobs are those of the whole answer")
def _(s):
    whole = s.chat(logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    chunks = s.chunks(logprobs=True, top_logprobs=2)
    parts = [choice["logprobs"]["content"] for c in chunks for choice in c["choices"] if choice.get("logprobs")]
    same([entry["token"] for part in parts for entry in part], [entry["token"] for entry in whole])


@chat("stream deltas join to the whole answer")
def _(s):
    same(delta_text(s.chunks(max_tokens=64)), s.say(max_tokens=64))


@chat("a stream is text/event-stream and ends with data: [DONE]")
def _(s):
    answer = s.ask(stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.headers["content-type"]
    assert answer.text.endswith("data: [DONE]\n\n"), answer.text[-80:]


@chat("a stream's first piece comes long before its last")
def _(s):
    started, first = time.monotonic(), None
    body = {"model": "m", "messages": user("안녕"), "stream": True, "max_tokens": 200, "ignore_eos": True}
    with s.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            first = first or ('"content":"' in line and time.monotonic() - started)
    assert first < 0.5 * (time.monotonic() - started), f"after {first:.2f} s"


@chat("the first chunk, and no other, says role assistant")
def _(s):
    roles = [choice["delta"].get("role") for chunk in s.chunks() for choice in chunk["choices"]]
    same(roles, ["assistant"] + [None] * (len(roles) - 1))


@chat("one finish_reason a choice, in its last chunk")
def _(s):
    reasons = [choice["finish_reason"] for chunk in s.chunks() for choice in chunk["choices"]]
    same([reason for reason in reasons if reason], ["length"])
    same(reasons[-1], "length")


@chat("the chunks of a stream share id, created and model")
def _(s):
    chunks = s.chunks()
    same(len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}), 1)
    same(chunks[0]["object"], "chat.completion.chunk")


@chat("a stream with n 2 brings both choices to their end")
def _(s):
    chunks = s.chunks(n=2, temperature=1, seed=3)
    ends = [choice["index"] for c in chunks for choice in c["choices"] if choice["finish_reason"]]
    same(sorted(ends), [0, 1])
    same([delta_text(chunks, index) for index in (0, 1)],
         [choice["message"]["content"] for choice in s.chat(n=2, temperature=1, seed=3)["choices"]])  # fmt: skip


@chat("usage counts add up")
def _(s):
    usage = s.chat(n=2, temperature=1, ignore_eos=True)["usage"]
    same(usage["completion_tokens"], 16)
    same(usage["total_tokens"], usage["prompt_tokens"] + 16)


@chat("include_usage: a last chunk without choices, usage null in the others")
def _(s):
    chunks = s.chunks(stream_options={"include_usage": True})
    same(chunks[-1]["choices"], [])
    same(chunks[-1]["usage"]["completion_tokens"], 8)
    assert all(chunk.get("usage") is None and chunk["choices"] for chunk in chunks[:-1])
    assert all("usage" in chunk for chunk in chunks), "some chunks have no usage field"


@chat("without include_usage no chunk has usage")
def _(s):
    assert all(chunk.get("usage") is None and chunk["choices"] for chunk in s.chunks())


@chat("continuous_usage_stats: usage in every chunk, rising")
def _(s):
    chunks = s.chunks(stream_options={"include_usage": True, "continuous_usage_stats": True})
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts) and counts[-1] == 8 and 0 < counts[len(counts) // 2] <= 8, counts


@chat("stream_options without stream is a 400")
def _(s):
    refused(s.ask(stream_options={"include_usage": True}))


@chat("continue_final_message continues the last turn")
def _(s):
    turns = [*user("옛날 이야기"), {"role": "assistant", "content": "옛날 옛적에"}]
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    usage = s.chat(turns, **fields)["usage"]["prompt_tokens"]
    assert usage < s.chat(turns)["usage"]["prompt_tokens"]


@chat("chat_template_kwargs are accepted")
def _(s):
    s.chat(chat_template_kwargs={"enable_thinking": False})


@chat("return_token_ids: ids of prompt and answer, as /tokenize gives them")
def _(s):
    answer = s.chat(return_token_ids=True)
    same(answer["prompt_token_ids"], s.chat_tokens("안녕하세요"))
    same(len(answer["choices"][0]["token_ids"]), answer["usage"]["completion_tokens"])


@chat("store, metadata, user, service_tier, reasoning_effort and prompt_cache_key are accepted")
def _(s):
    s.chat(
        store=False, metadata={"a": "b"}, user="u", service_tier="auto", prompt_cache_key="k", reasoning_effort="low"
    )


@chat("response_format text is accepted")
def _(s):
    same(s.say(response_format={"type": "text"}), s.say())
