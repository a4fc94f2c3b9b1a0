"""/v1/completions."""

import math

from expectations.helpers import good, plain_text, refused, said, same, short, together
from expectations.registry import of

completions = of("completions")


@completions("an answer has object text_completion, choices and usage")
def _(s):
    answer = s.complete()
    same((answer["object"], answer["choices"][0]["index"]), ("text_completion", 0))
    assert answer["id"].startswith("cmpl") and answer["usage"]["completion_tokens"] == 8, short(answer)


@completions("a prompt of token ids answers as its text does")
def _(s):
    same(s.write(s.ids("옛날에")), s.write("옛날에"))


@completions("a list of prompts: a choice for each, as if asked alone")
def _(s):
    choices = s.complete(["옛날에", "바다는"])["choices"]
    same([choice["text"] for choice in choices], [s.write("옛날에"), s.write("바다는")])
    same([choice["index"] for choice in choices], [0, 1])


@completions("a list of lists of token ids")
def _(s):
    choices = s.complete([s.ids("옛날에"), s.ids("바다는")])["choices"]
    same([choice["text"] for choice in choices], [s.write("옛날에"), s.write("바다는")])


@completions("usage of a batch is the sum of its prompts")
def _(s):
    usage = s.complete(["옛날에", "바다는"], ignore_eos=True)["usage"]
    same(usage["prompt_tokens"], sum(s.complete(text)["usage"]["prompt_tokens"] for text in ("옛날에", "바다는")))
    same(usage["completion_tokens"], 16)


@completions("n 2 of two prompts: four choices, index prompt by prompt")
def _(s):
    choices = s.complete(["옛날에", "바다는"], n=2, echo=True, temperature=1)["choices"]
    same([choice["index"] for choice in choices], [0, 1, 2, 3])
    same([choice["text"][:3] for choice in choices], ["옛날에", "옛날에", "바다는", "바다는"])


@completions("n 2 at temperature 0 gives the same choice twice")
def _(s):
    texts = [choice["text"] for choice in s.complete(n=2)["choices"]]
    same(texts, [s.write()] * 2)


@completions("without max_tokens an answer has 16 tokens, or ends before")
def _(s):
    answer = good(s.post("/v1/completions", {"model": "m", "prompt": "옛날에", "ignore_eos": True, "temperature": 0}))
    assert answer["usage"]["completion_tokens"] <= 16, f"{answer['usage']['completion_tokens']} tokens"


@completions("echo: the text begins with the prompt")
def _(s):
    same(s.write("옛날 옛적에", echo=True), "옛날 옛적에" + s.write("옛날 옛적에"))


@completions("echo with max_tokens 0 gives the prompt back")
def _(s):
    same(s.write("옛날 옛적에 🎉", echo=True, max_tokens=0), "옛날 옛적에 🎉")


@completions("echo of a prompt of token ids is its text")
def _(s):
    same(s.write(s.tokens("옛날 옛적에"), echo=True, max_tokens=1)[:6], "옛날 옛적에")


@completions("echo, logprobs 1, max_tokens 0 (scoring): one a prompt token, the first null")
def _(s):
    ids = s.tokens("옛날 옛적에 바다가")
    found = s.complete(ids, echo=True, logprobs=1, max_tokens=0)["choices"][0]["logprobs"]
    same((len(found["token_logprobs"]), found["token_logprobs"][0]), (len(ids), None))
    assert all(value <= 0 for value in found["token_logprobs"][1:])


@completions("echo, logprobs 1, max_tokens 1 (lm-evaluation-harness): one more, top holds the greedy token")
def _(s):
    ids = s.tokens("옛날 옛적에 바다가")
    found = s.complete([ids], echo=True, logprobs=1, max_tokens=1, seed=1234)["choices"][0]["logprobs"]
    same(len(found["token_logprobs"]), len(ids) + 1)
    for value, top in list(zip(found["token_logprobs"], found["top_logprobs"], strict=True))[1:]:
        assert value <= max(top.values()) + 1e-6


@completions("the score of a text does not depend on the batch")
def _(s):
    def score(text):
        found = s.complete(text, echo=True, logprobs=0, max_tokens=0)["choices"][0]["logprobs"]["token_logprobs"]
        return sum(found[1:])

    alone, among = score("바다는 넓고 푸르다"), together(6, lambda number: score("바다는 넓고 푸르다"))
    assert all(abs(one - alone) < 1e-3 for one in among), (alone, among)


@completions("logprobs 0: the sampled token's, no others")
def _(s):
    found = s.complete(logprobs=0)["choices"][0]["logprobs"]
    same(len(found["token_logprobs"]), 8)
    assert all(len(top or {}) <= 1 for top in found["top_logprobs"] or [])


@completions("logprobs 5: at most six a token, the sampled one among them")
def _(s):
    found = s.complete("the sea", logprobs=5, temperature=2, seed=1)["choices"][0]["logprobs"]
    for token, value, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
        assert len(top) in (5, 6), f"{len(top)} for a token"
        assert token in top and math.isclose(top[token], value, abs_tol=1e-5), f"{token!r} is not in {short(top)}"


@completions("text_offset says where each token begins in the text")
def _(s):
    choice = s.complete(s.tokens("the sea is wide and"), echo=True, logprobs=0, max_tokens=0)["choices"][0]
    found = choice["logprobs"]
    for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
        same(choice["text"][offset : offset + len(token)], token)


@completions("text_offset of Korean never leaves the text nor goes back")
def _(s):
    choice = s.complete("옛날에 뷁쀍이 쩗", echo=True, logprobs=0, max_tokens=4)["choices"][0]
    offsets = choice["logprobs"]["text_offset"]
    assert offsets == sorted(offsets) and offsets[0] == 0 and offsets[-1] <= len(choice["text"]), offsets


@completions("text_offset continues through a stream")
def _(s):
    whole = s.complete("the sea", logprobs=0, max_tokens=12)["choices"][0]["logprobs"]["text_offset"]
    parts = [choice["logprobs"] for c in s.text_chunks("the sea", logprobs=0, max_tokens=12) for choice in c["choices"]]
    same([offset for part in parts if part for offset in part["text_offset"]], whole)


@completions("logprobs above 20 are a 400")
def _(s):
    refused(s.post("/v1/completions", {"model": "m", "prompt": "가", "logprobs": 25}))


@completions("suffix, which this model cannot do, is a 400")
def _(s):
    refused(s.post("/v1/completions", {"model": "m", "prompt": "가", "suffix": "나", "max_tokens": 4}))


@completions("stream pieces join to the whole")
def _(s):
    same(plain_text(s.text_chunks(max_tokens=48)), s.write(max_tokens=48))


@completions("a streamed batch brings each prompt to its end")
def _(s):
    chunks = s.text_chunks(["옛날에", "바다는"])
    same([plain_text(chunks, index) for index in (0, 1)], [s.write("옛날에"), s.write("바다는")])
    same(sorted(choice["index"] for c in chunks for choice in c["choices"] if choice["finish_reason"]), [0, 1])


@completions("a stream with echo begins with the prompt")
def _(s):
    same(plain_text(s.text_chunks("옛날에", echo=True)), "옛날에" + s.write("옛날에"))


@completions("include_usage in a stream of a batch counts all of it")
def _(s):
    last = s.text_chunks(["옛날에", "바다는"], stream_options={"include_usage": True}, ignore_eos=True)[-1]
    same((last["choices"], last["usage"]["completion_tokens"]), ([], 16))


@completions("a prompt longer than the context is a 400 that says maximum context length")
def _(s):
    answer = s.post("/v1/completions", {"model": "m", "prompt": [9] * 3000, "max_tokens": 4})
    assert "maximum context length" in refused(answer)["message"], said(answer)


@completions("truncate_prompt_tokens with truncation_side left keeps the prompt's end")
def _(s):
    ids = s.tokens("옛날 옛적에 바다가 있었다")
    answer = s.complete(ids, truncate_prompt_tokens=4, truncation_side="left")
    same(answer["usage"]["prompt_tokens"], 4)
    same(answer["choices"][0]["text"], s.write(ids[-4:]))


@completions("a token id outside the vocabulary, or below 0, is a 400")
def _(s):
    for token in (999_999, -1):
        refused(s.post("/v1/completions", {"model": "m", "prompt": [5, token], "max_tokens": 2}))


@completions("a list that mixes ids and texts is a 400")
def _(s):
    refused(s.post("/v1/completions", {"model": "m", "prompt": [5, "가"], "max_tokens": 2}))


@completions("an empty prompt is answered or a 400, never a 500")
def _(s):
    for prompt in ("", [], [[]], [""]):
        answer = s.post("/v1/completions", {"model": "m", "prompt": prompt, "max_tokens": 2})
        assert answer.status_code in (200, 400), f"{prompt!r}: {said(answer)}"


@completions("return_tokens_as_token_ids names tokens by id")
def _(s):
    found = s.complete(logprobs=1, return_tokens_as_token_ids=True)["choices"][0]["logprobs"]["tokens"]
    assert all(token.startswith("token_id:") for token in found), found[:3]
