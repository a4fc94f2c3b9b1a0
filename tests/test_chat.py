"""Guarantees 1 and 2: what is trained is what is served, and only assistant tokens are supervised, with the end of
every turn. For every template, own and others', and any number of turns."""

import json

import pytest
from conftest import ROOT

from sllm import chat
from sllm.cli import InputError
from sllm.data import encode

pytestmark = pytest.mark.torch

TEMPLATES = sorted(path.stem for path in (ROOT / "templates" / "chat").glob("*.jinja"))
TURNS = [
    {"role": "user", "content": "물은 몇 도에서 끓나요?"},
    {"role": "assistant", "content": "1기압에서 100℃입니다.\n\n- 높은 곳에서는 더 낮습니다."},
    {"role": "user", "content": " 왜요? "},
    {"role": "assistant", "content": "\n기압이 낮기 때문입니다.  "},
    {"role": "user", "content": "고마워요"},
    {"role": "assistant", "content": "네!"},
]
SYSTEM = {"role": "system", "content": "한국어로 답하세요."}
CONVERSATIONS = [TURNS[:2], TURNS, [SYSTEM, *TURNS[:2]], [SYSTEM, *TURNS]]
# Like Qwen3's: history loses its thinking, and the generation prompt shows something that history does not.
FORGETFUL = (
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1] if not loop.last else m.content }}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENDLESS = "{%- for m in messages -%}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"  # noqa: E501


@pytest.fixture
def tokenizer(tiny_base):
    return chat.load_tokenizer(str(tiny_base))


def assert_mask_is_what_a_server_would_generate(tokenizer, messages, examples):
    end = chat.end_of_turn(tokenizer)[1]
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    spans = []  # (prompt ids, answer ids) of every supervised span of every example
    for example in examples:
        start = None
        for i, on in enumerate([*example.completion_mask, 0]):
            if on and start is None:
                start = i
            if not on and start is not None:
                spans.append((example.input_ids[:start], example.input_ids[start:i]))
                start = None
    assert len(spans) == len(turns)
    for turn, (prompt, answer) in zip(turns, spans, strict=True):
        assert prompt == chat.prompt_ids(tokenizer, messages[:turn])  # guarantee 1
        assert answer[-1] == end and answer.count(end) == 1  # guarantee 2
        assert tokenizer.decode(answer[:-1]).strip() == messages[turn]["content"].strip()


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["one", "three", "system+one", "system+three"])
def test_mask_and_prompt(tokenizer, name, messages):
    chat.install_template(tokenizer, name)
    examples = chat.encode(tokenizer, messages)
    assert len(examples) == 1
    assert_mask_is_what_a_server_would_generate(tokenizer, messages, examples)
    assert (
        examples[0].input_ids.count(tokenizer.bos_token_id) == 1 and examples[0].input_ids[0] == tokenizer.bos_token_id
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_template_travels_with_the_tokenizer(tokenizer, name, tmp_path):
    chat.install_template(tokenizer, name)
    tokenizer.save_pretrained(tmp_path)
    again = chat.load_tokenizer(str(tmp_path))
    assert chat.install_template(again, "auto") == "the tokenizer's own"
    assert chat.probe(again) == chat.probe(tokenizer)
    # the ecosystem's own call, as vLLM makes it, gives the same ids
    own = again.apply_chat_template(TURNS[:1], add_generation_prompt=True, return_dict=False)
    assert own == chat.prompt_ids(tokenizer, TURNS[:1])


@pytest.mark.parametrize("name", TEMPLATES)
def test_padding_is_never_the_end(tokenizer, name):
    tokenizer.pad_token = tokenizer.eos_token  # the commonest mistake
    chat.install_template(tokenizer, name)
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, chat.end_of_turn(tokenizer)[1])


def test_end_of_turn_is_a_token_the_model_has(tokenizer):
    chat.install_template(tokenizer, "chatml")
    assert chat.end_of_turn(tokenizer)[0] == "<|im_end|>"
    chat.install_template(tokenizer, "llama3")  # <|eot_id|> is not in this vocabulary
    assert chat.end_of_turn(tokenizer) == (tokenizer.eos_token, tokenizer.eos_token_id)
    assert "eot_id" not in tokenizer.chat_template


def test_a_template_that_forgets_gives_one_example_per_turn(tokenizer):
    tokenizer.chat_template = FORGETFUL
    chat.install_template(tokenizer)
    messages = [TURNS[0], {"role": "assistant", "content": "<think>음</think>100도"}, *TURNS[2:]]
    examples = chat.encode(tokenizer, messages)
    assert len(examples) == 3
    assert_mask_is_what_a_server_would_generate(tokenizer, messages, examples)


def test_a_template_that_never_ends_a_turn_learns_eos(tokenizer):
    tokenizer.chat_template = ENDLESS
    chat.install_template(tokenizer)
    assert chat.end_of_turn(tokenizer)[0] == tokenizer.eos_token
    assert_mask_is_what_a_server_would_generate(tokenizer, TURNS, chat.encode(tokenizer, TURNS))


def test_bad_templates_are_refused(tokenizer, tmp_path):
    with pytest.raises(InputError, match="'nonsense' is unknown; choose auto, one of chatml, koalpaca"):
        chat.install_template(tokenizer, "nonsense")
    twice = tmp_path / "twice.jinja"
    twice.write_text("{% for m in messages %}{{ bos_token }}{{ m.content }}{{ eos_token }}{% endfor %}")
    with pytest.raises(InputError, match="more than once"):
        chat.install_template(tokenizer, str(twice))


def test_a_content_with_a_control_token_is_refused(tokenizer):
    chat.install_template(tokenizer)
    with pytest.raises(ValueError, match="special token </s>"):
        chat.encode(tokenizer, [TURNS[0], {"role": "assistant", "content": "끝</s>아님"}])
    with pytest.raises(ValueError, match="no assistant turn"):
        chat.encode(tokenizer, TURNS[:1])


def test_guarantee_1_broken_on_purpose(tokenizer, tmp_path):
    chat.install_template(tokenizer)
    run = {"probe": json.loads(json.dumps(chat.probe(tokenizer)))}
    chat.check_probe(tokenizer, run, "folder")
    tokenizer.chat_template = tokenizer.chat_template.replace("\\n", "\\n\\n", 1)
    with pytest.raises(InputError, match="changed after training: the probe prompt differs from token"):
        chat.check_probe(tokenizer, run, "folder")


def test_guarantee_2_broken_on_purpose(tokenizer, monkeypatch):
    chat.install_template(tokenizer)
    rows = [{"id": "a", "messages": TURNS[:2]}]
    columns, stats = encode.sft_columns(tokenizer, rows, 512)
    assert columns["labels"][0][-1] == chat.end_of_turn(tokenizer)[1] and stats["dropped"] == 0
    whole = chat._completion
    monkeypatch.setattr(chat, "_completion", lambda *a: whole(*a).removesuffix("<|im_end|>"))
    with pytest.raises(InputError, match="end-of-turn token would not be learned"):
        encode.sft_columns(tokenizer, rows, 512)
    with pytest.raises(AssertionError):
        assert_mask_is_what_a_server_would_generate(tokenizer, TURNS, chat.encode(tokenizer, TURNS))


def test_truncation_is_counted_and_bounded(tokenizer):
    chat.install_template(tokenizer)
    rows = [{"id": str(i), "messages": TURNS[:2]} for i in range(40)]
    long = {"id": "long", "messages": [{"role": "user", "content": "물 " * 400}, TURNS[1]]}
    columns, stats = encode.sft_columns(tokenizer, [*rows, long], 200)
    assert (stats["truncated"], stats["dropped"], stats["sequences"]) == (1, 1, 40)
    assert stats["tokens"] == sum(map(len, columns["input_ids"])) and stats["longest"] > 400
    with pytest.raises(InputError, match="3 of 43 rows lose their whole answer at 200 tokens.*--max_seq_length"):
        encode.sft_columns(tokenizer, [*rows, long, long, long], 200)


def test_pairs_that_render_alike_are_refused(tokenizer):
    chat.install_template(tokenizer)
    pair = {"id": "p1", "prompt": TURNS[:1], "chosen": [TURNS[1]], "rejected": [TURNS[3]]}
    columns, stats = encode.dpo_columns(tokenizer, [pair], 512)
    assert stats["pairs"] == 1
    assert columns["prompt_ids"][0] == chat.prompt_ids(tokenizer, TURNS[:1])
    assert columns["chosen_ids"][0] == chat.completion_ids(tokenizer, TURNS[:2])
    same = {**pair, "id": "p2", "rejected": [{"role": "assistant", "content": TURNS[1]["content"] + "  \n"}]}
    with pytest.raises(InputError, match="row p2: chosen and rejected render to the same tokens"):
        encode.dpo_columns(tokenizer, [pair, same], 512)


def test_a_template_that_writes_the_date_is_fixed_to_one(tokenizer):
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + ENDLESS
    chat.install_template(tokenizer)
    once = tokenizer.chat_template
    chat.install_template(tokenizer)
    assert tokenizer.chat_template == once and "26 Jul 2024user:" in chat.render(tokenizer, TURNS[:1])
