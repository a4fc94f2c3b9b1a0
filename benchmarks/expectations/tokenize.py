"""/tokenize and /detokenize."""

from expectations.helpers import good, refused, said, same, short, user
from expectations.registry import of
from expectations.servers import CONTEXT, TOOL

tokenize = of("tokenize")


@tokenize("a text and back, Korean, emoji and line breaks")
def _(s):
    for text in ("대한민국의 수도는 서울입니다.\n\n 네?", "🎉 뷁 쀍 a\tb"):
        ids = s.tokens(text)
        same(good(s.post("/detokenize", {"model": "m", "tokens": ids}))["prompt"], text)


@tokenize("count and max_model_len")
def _(s):
    answer = good(s.post("/tokenize", {"model": "m", "prompt": "안녕하세요"}))
    same((answer["count"], answer["max_model_len"]), (len(answer["tokens"]), CONTEXT))


@tokenize("a chat has the tokens that the same chat request is charged for")
def _(s):
    for text in ("안녕하세요", " 앞뒤 빈칸 ", "여러\n줄"):
        same(len(s.chat_tokens(text)), s.chat(text)["usage"]["prompt_tokens"])


@tokenize("a chat and back shows the rendered prompt")
def _(s):
    text = good(s.post("/detokenize", {"model": "m", "tokens": s.chat_tokens("안녕하세요")}))["prompt"]
    assert "안녕하세요" in text and "assistant" in text, short(text)


@tokenize("add_generation_prompt false leaves the prompt for the answer out")
def _(s):
    body = {"model": "m", "messages": user("안녕"), "add_generation_prompt": False}
    assert len(good(s.post("/tokenize", body))["tokens"]) < len(s.chat_tokens("안녕"))


@tokenize("a chat with tools is tokenized")
def _(s):
    good(s.post("/tokenize", {"model": "m", "messages": user("안녕"), "tools": [TOOL]}))


@tokenize("return_token_strs names the tokens")
def _(s):
    answer = good(s.post("/tokenize", {"model": "m", "prompt": "the sea", "return_token_strs": True}))
    same(len(answer["token_strs"]), len(answer["tokens"]))


@tokenize("an adapter tokenizes as well", kind="adapters")
def _(s):
    good(s.post("/tokenize", {"model": "sft", "prompt": "안녕"}))


@tokenize("an unknown model is a 404, a wrong token id a 400, no body a 400")
def _(s):
    refused(s.post("/tokenize", {"model": "missing", "prompt": "안녕"}), 404)
    refused(s.post("/detokenize", {"model": "m", "tokens": ["a"]}))
    refused(s.post("/tokenize", {}))


@tokenize("an id that no token has is answered or a 400, not a 500")
def _(s):
    for ids in ([999_999], [-1], [2**40]):
        answer = s.post("/detokenize", {"model": "m", "tokens": ids})
        assert answer.status_code in (200, 400), f"{ids}: {said(answer)}"
