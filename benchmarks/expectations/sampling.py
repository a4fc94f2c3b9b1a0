"""Sampling parameters."""

import re
from collections import Counter

from expectations.helpers import refused, same, short, user
from expectations.registry import of

sampling = of("sampling")


@sampling("top_k 1 at temperature 2 is greedy")
def _(s):
    same(s.write(temperature=2, top_k=1), s.write())


@sampling("top_p next to 0 at temperature 2 is greedy")
def _(s):
    same(s.write(temperature=2, top_p=1e-6), s.write())


@sampling("min_p 1 at temperature 2 is greedy")
def _(s):
    same(s.write(temperature=2, min_p=1), s.write())


@sampling("top_k -1 and 0 mean all tokens")
def _(s):
    for value in (-1, 0):
        s.write(temperature=1, top_k=value)


@sampling("min_tokens holds back the end of turn")
def _(s):
    for token in ("2", "4"):
        usage = s.chat(min_tokens=6, max_tokens=20, logit_bias={token: 90})["usage"]
        assert usage["completion_tokens"] >= 6, usage


@sampling("ignore_eos generates max_tokens")
def _(s):
    same(s.chat(ignore_eos=True, logit_bias={"2": 100}, max_tokens=9)["usage"]["completion_tokens"], 9)


@sampling("repetition_penalty, presence_penalty and frequency_penalty change the answer")
def _(s):
    common = {"max_tokens": 100, "ignore_eos": True, "temperature": 2, "seed": 4}
    whole = s.write(**common)
    for fields in ({"repetition_penalty": 1.8}, {"presence_penalty": 2}, {"frequency_penalty": 2}):
        assert s.write(**common, **fields) != whole, f"{fields} does nothing"


@sampling("frequency_penalty makes an answer repeat itself less")
def _(s):
    def most(**fields):
        ids = s.complete(max_tokens=96, ignore_eos=True, return_token_ids=True, **fields)["choices"][0]["token_ids"]
        return max(Counter(ids).values())

    assert most(frequency_penalty=2) < most()


@sampling("bad_words never appear")
def _(s):
    whole = s.write(max_tokens=24)
    word = re.findall(r"\w+", whole)[1]
    text = s.write(max_tokens=24, bad_words=[word])
    assert word not in text, f"{word!r} in {text!r}"


@sampling("logit_bias 100 forces a token, -100 forbids one")
def _(s):
    ids = s.complete(return_token_ids=True)["choices"][0]["token_ids"]
    forced = s.complete(logit_bias={"300": 100}, return_token_ids=True)["choices"][0]["token_ids"]
    same(set(forced), {300})
    forbidden = s.complete(logit_bias={str(ids[0]): -100}, return_token_ids=True)["choices"][0]["token_ids"]
    assert ids[0] not in forbidden, forbidden


@sampling("an invalid token id in logit_bias is a 400")
def _(s):
    for bias in ({"999999": 1}, {"가": 1}):
        refused(s.ask(logit_bias=bias))


@sampling("allowed_token_ids: only those")
def _(s):
    answer = s.complete(allowed_token_ids=[300, 301, 302], temperature=2, return_token_ids=True, ignore_eos=True)
    assert set(answer["choices"][0]["token_ids"]) <= {300, 301, 302}


@sampling("stop_token_ids: finish_reason stop, stop_reason the id")
def _(s):
    choice = s.complete(stop_token_ids=[300], logit_bias={"300": 100})["choices"][0]
    same((choice["finish_reason"], choice["stop_reason"]), ("stop", 300))


@sampling("stop_reason says which stop text ended the answer")
def _(s):
    stop = s.write(max_tokens=24)[6:8]
    same(s.complete(max_tokens=24, stop=["없는말", stop])["choices"][0]["stop_reason"], stop)


@sampling("include_stop_str_in_output keeps the stop text")
def _(s):
    whole = s.write(max_tokens=24)
    stop = whole[6:8]
    found = s.write(max_tokens=24, stop=stop, include_stop_str_in_output=True)
    same(found, whole[: whole.index(stop) + len(stop)])


@sampling("skip_special_tokens false shows control tokens, by default they are hidden")
def _(s):
    fields = {"logit_bias": {"3": 100}, "max_tokens": 2, "ignore_eos": True}
    same(s.write(**fields), "")
    assert "<|im_start|>" in s.write(**fields, skip_special_tokens=False)


@sampling("beam search: n beams, the likeliest first")
def _(s):
    choices = s.complete(use_beam_search=True, n=3, max_tokens=10)["choices"]
    same(len({choice["text"] for choice in choices}), 3)


@sampling("beam search in chat ends at the end of turn and shows no control token")
def _(s):
    choices = s.chat(use_beam_search=True, n=3, max_tokens=24)["choices"]
    for choice in choices:
        assert not re.search(r"<\|im_|</?s>|<pad>", choice["message"]["content"]), short(choice["message"]["content"])


@sampling("prompt_logprobs: one entry a prompt token, the first null")
def _(s):
    answer = s.complete("옛날 옛적에", prompt_logprobs=2)
    found = answer["choices"][0].get("prompt_logprobs") or answer.get("prompt_logprobs")
    same((len(found), found[0]), (answer["usage"]["prompt_tokens"], None))
    assert len(found[1]) in (2, 3), short(found[1])


@sampling("prompt_logprobs in chat")
def _(s):
    answer = s.chat(prompt_logprobs=1)
    same(len(answer["prompt_logprobs"]), answer["usage"]["prompt_tokens"])


@sampling("min_tokens above max_tokens is a 400")
def _(s):
    refused(s.ask(min_tokens=50, max_tokens=5))


@sampling("values out of range are a 400: temperature, top_p, top_k, min_p, penalties")
def _(s):
    for fields in (
        {"temperature": -1}, {"top_p": 1.5}, {"top_p": 0}, {"top_k": -5}, {"min_p": 2}, {"presence_penalty": 3},
        {"frequency_penalty": -3}, {"repetition_penalty": 0},
    ):  # fmt: skip
        refused(s.ask(**fields))


@sampling("a seed larger than 64 bits is a 400, not a 500")
def _(s):
    refused(s.ask(seed=2**80))


@sampling("min_p, top_k, repetition_penalty through OpenAI's client (extra_body)")
def _(s):
    from openai import OpenAI

    client = OpenAI(base_url=s.url + "/v1", api_key="-", max_retries=0)
    extra = {"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.1}
    client.chat.completions.create(model="m", messages=user("안녕"), max_tokens=4, extra_body=extra)
