"""Guarantees 1 and 2: what is trained is what is served, and only assistant tokens are supervised, with the end of
every turn. For every template, own and others', and any number of turns."""

import json
from pathlib import Path

import pytest
import trl
from conftest import ROOT
from tokenizers import AddedToken

from sllm import chat
from sllm.cli import InputError
from sllm.data import tokenize

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


# Templates of reasoning models: DeepSeek-R1-Distill, Qwen3 and Qwen3.5 as TRL ships them; the others shortened to what
# they do without tools.
R1, QWEN3, QWEN35 = "deepseek_r1_distill", "qwen3", "qwen3_5_think"
QWQ = (
    "{%- for m in messages %}{%- set content = m.content %}{%- if m.role == 'assistant' %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
)
EXAONE_DEEP = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}{{ '[|system|][|endofturn|]\\n' }}"
    "{% endif %}{% set content = message['content'] %}{% if '</thought>' in content %}"
    "{% set content = content.split('</thought>')[-1].lstrip('\\n') %}{% endif %}"
    "{{ '[|' + message['role'] + '|]' + content }}{% if not message['role'] == 'user' %}"
    "{{ '[|endofturn|]' }}{% endif %}{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n[|assistant|]<thought>\\n' }}{% endif %}"
)
# Mistral-7B-Instruct-v0.3: the system turn stands in the last user turn, while no answer follows it.
MISTRAL = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
    "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}{{- bos_token }}"
    "{%- for message in loop_messages %}{%- if message['role'] == 'user' %}"
    "{%- if loop.last and system_message is defined %}"
    "{{- '[INST] ' + system_message + '\\n\\n' + message['content'] + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}"
    "{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content']|trim + eos_token }}"
    "{%- endif %}{%- endfor %}"
)


def install(tokenizer, template: str) -> None:
    path = Path(trl.__file__).parent / "chat_templates" / f"{template[:40]}.jinja"
    tokenizer.chat_template = path.read_text(encoding="utf-8") if path.is_file() else template
    chat.set_chat_template(tokenizer)


def supervised(tokenizer, *messages: dict) -> list[tuple[str, str]]:
    """(prompt, supervised text) of each example."""
    cut = [(example, example.completion_mask.index(1)) for example in chat.build_examples(tokenizer, list(messages))]
    return [(tokenizer.decode(e.input_ids[:at]), tokenizer.decode(e.input_ids[at:])) for e, at in cut]


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
        assert answer[-1] == end
        assert answer.count(end) == 1
        assert tokenizer.decode(answer[:-1]).strip() == messages[turn]["content"].strip()


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["one", "three", "system+one", "system+three"])
def test_mask_and_prompt(tokenizer, name, messages):
    chat.set_chat_template(tokenizer, name)
    examples = chat.build_examples(tokenizer, messages)
    assert len(examples) == 1
    assert_mask_is_what_a_server_would_generate(tokenizer, messages, examples)
    assert examples[0].input_ids.count(tokenizer.bos_token_id) == 1
    assert examples[0].input_ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_template_travels_with_the_tokenizer(tokenizer, name, tmp_path):
    chat.set_chat_template(tokenizer, name)
    tokenizer.save_pretrained(tmp_path)
    again = chat.load_tokenizer(str(tmp_path))
    assert chat.set_chat_template(again, "auto") == "the tokenizer's own"
    assert chat.probe(again) == chat.probe(tokenizer)
    # the ecosystem's own call, as vLLM makes it, gives the same ids
    own = again.apply_chat_template(TURNS[:1], add_generation_prompt=True, return_dict=False)
    assert own == chat.prompt_ids(tokenizer, TURNS[:1])


@pytest.mark.parametrize("name", TEMPLATES)
def test_padding_is_never_the_end(tokenizer, name):
    tokenizer.pad_token = tokenizer.eos_token  # the commonest mistake
    chat.set_chat_template(tokenizer, name)
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, chat.end_of_turn(tokenizer)[1])


def test_end_of_turn_is_a_token_the_model_has(tokenizer):
    chat.set_chat_template(tokenizer, "chatml")
    assert chat.end_of_turn(tokenizer)[0] == "<|im_end|>"
    chat.set_chat_template(tokenizer, "llama3")  # <|eot_id|> is not in this vocabulary
    assert chat.end_of_turn(tokenizer) == (tokenizer.eos_token, tokenizer.eos_token_id)
    assert "eot_id" not in tokenizer.chat_template


def test_a_template_that_forgets_gives_one_example_per_turn(tokenizer):
    tokenizer.chat_template = FORGETFUL
    chat.set_chat_template(tokenizer)
    messages = [TURNS[0], {"role": "assistant", "content": "<think>음</think>100도"}, *TURNS[2:]]
    examples = chat.build_examples(tokenizer, messages)
    assert len(examples) == 3
    assert_mask_is_what_a_server_would_generate(tokenizer, messages, examples)


@pytest.mark.parametrize("template", [R1, QWEN35, QWQ, EXAONE_DEEP], ids=["r1", "qwen3.5", "qwq", "exaone-deep"])
@pytest.mark.parametrize("written", ["<think>\n{}\n</think>\n\n{}", "<think>{}</think>{}", "{}\n</think>\n\n{}"])
def test_reasoning_continues_where_the_prompt_opened_it(tokenizer, template, written):
    """The server's prompt ends with <think>, so the first thing to learn is the reasoning, as it is written."""
    install(tokenizer, template)
    tag = "thought" if template == EXAONE_DEEP else "think"
    content = written.format("2와 2를 더한다.", "답은 4입니다.").replace("think>", f"{tag}>")
    ((prompt, answer),) = supervised(tokenizer, TURNS[0], {"role": "assistant", "content": content})
    assert prompt.endswith(f"<{tag}>\n")
    assert prompt.count(f"<{tag}>") == 1
    assert answer.startswith("2와 2를 더한다.")
    assert f"<{tag}>" not in answer
    assert answer.count(f"</{tag}>") == 1
    learned, said = answer.removesuffix(chat.end_of_turn(tokenizer)[0]), content.removeprefix(f"<{tag}>")
    assert "".join(learned.split()) == "".join(said.split())
    assert template == QWEN35 or learned == said.removeprefix("\n")  # Qwen3.5's own rendering sets the line breaks


@pytest.mark.parametrize("template", [R1, QWQ, EXAONE_DEEP], ids=["r1", "qwq", "exaone-deep"])
def test_an_answer_inside_an_unclosed_block_is_refused(tokenizer, template):
    install(tokenizer, template)
    for content in ("답은 4입니다.", "<think>\n답은 4입니다."):
        with pytest.raises(
            ValueError, match="prompt opens <th.*write its reasoning into the content .* --chat_template"
        ):
            chat.build_examples(tokenizer, [TURNS[0], {"role": "assistant", "content": content}])


def test_templates_that_write_an_empty_block_teach_it(tokenizer):
    for template, empty in ((QWEN3, "<think>\n\n</think>\n\n"), (QWEN35, "\n</think>\n\n")):
        install(tokenizer, template)
        ((_, answer),) = supervised(tokenizer, TURNS[0], {"role": "assistant", "content": "답은 4입니다."})
        assert answer == f"{empty}답은 4입니다.<|im_end|>"
        with pytest.raises(ValueError, match="opens <think> and never closes it"):
            chat.build_examples(tokenizer, [TURNS[0], {"role": "assistant", "content": "<think>\n답은 4"}])


def test_reasoning_after_a_prompt_that_closed_it_is_refused(tokenizer):
    install(tokenizer, "qwen3_5_nothink")
    ((prompt, answer),) = supervised(tokenizer, TURNS[0], {"role": "assistant", "content": "답은 4"})
    assert prompt.endswith("</think>\n\n")
    assert answer == "답은 4<|im_end|>"
    with pytest.raises(ValueError, match="already ends with </think>: remove the reasoning"):
        chat.build_examples(tokenizer, [TURNS[0], {"role": "assistant", "content": "<think>음</think>답은 4"}])


def test_reasoning_is_in_every_turn_that_is_learned_and_in_no_history(tokenizer):
    install(tokenizer, R1)
    think = [{"role": "assistant", "content": f"<think>\n생각{i}\n</think>\n\n답{i}"} for i in range(2)]
    first, second = supervised(tokenizer, TURNS[0], think[0], TURNS[2], think[1])
    assert first[1] == "생각0\n</think>\n\n답0</s>"
    assert second[1] == "생각1\n</think>\n\n답1</s>"
    assert "생각0" not in second[0]
    assert "답0" in second[0]


def test_a_template_that_drops_reasoning_of_the_last_turn_does_not_lose_it(tokenizer):
    """DeepSeek-R1-Distill's first template: its prompt opens no block, and its history has none."""
    install(tokenizer, QWQ.replace("assistant\\n<think>\\n", "assistant\\n"))
    content = "<think>\n생각\n</think>\n\n답"
    assert supervised(tokenizer, TURNS[0], {"role": "assistant", "content": content})[0][1] == content + "<|im_end|>"
    install(tokenizer, QWEN3)  # keeps the first block and what follows the last one
    with pytest.raises(ValueError, match="leaves out or changes part of this answer"):
        chat.build_examples(
            tokenizer, [TURNS[0], {"role": "assistant", "content": "<think>가</think>나<think>다</think>라"}]
        )


@pytest.mark.parametrize("template", [R1, QWEN3, QWEN35, "qwen3_8", QWQ, MISTRAL, "chatml"])
def test_markup_in_an_answer_is_not_reasoning(tokenizer, template):
    if template == "chatml":
        chat.set_chat_template(tokenizer, template)
    else:
        install(tokenizer, template)
    content = "<think>가</think><b>굵게</b> 나<br> </p>"
    ((prompt, answer),) = supervised(tokenizer, TURNS[0], {"role": "assistant", "content": content})
    whole = "".join((prompt + answer).split())
    assert whole.count("<think>") == whole.count("</think>") == 1
    assert "<b>굵게</b>나<br></p>" in whole
    if template in (QWEN3, MISTRAL, "chatml"):
        ((_, answer),) = supervised(tokenizer, TURNS[0], {"role": "assistant", "content": "<p>네</p>"})
        assert "<p>네</p>" in answer


@pytest.mark.parametrize("turns", [2, 6])
def test_mistral_with_a_system_turn_keeps_the_space_before_the_answer(tokenizer, turns):
    install(tokenizer, MISTRAL)
    plain, told = (supervised(tokenizer, *messages)[-1] for messages in (TURNS[:turns], [SYSTEM, *TURNS[:turns]]))
    assert plain[1].startswith(" ")
    assert SYSTEM["content"] in told[0]
    end = len(TURNS[turns - 1]["content"].strip() + "</s>")
    assert told[1] == plain[1][-end - 1 :] == f" {TURNS[turns - 1]['content'].strip()}</s>"
    for number, (prompt, _) in enumerate(supervised(tokenizer, SYSTEM, *TURNS[:turns])):
        assert prompt == chat.render(tokenizer, [SYSTEM, *TURNS[: 2 * number + 1]], add_generation_prompt=True)


@pytest.mark.parametrize(
    ("changed", "role"),
    [
        ("{% if m.role != 'system' %}{{ m.role + ': ' + m.content }}{% endif %}", "system"),
        ("{{ m.role + ': ' + m.content[:10] }}", "user"),
        ("{{ m.role + ': ' + (m.content | replace('물', 'H2O')) }}", "user"),
    ],
)
def test_a_content_that_the_template_changes_is_refused(tokenizer, changed, role):
    install(tokenizer, ENDLESS.replace("{{ m.role }}: {{ m.content }}", changed))
    with pytest.raises(ValueError, match=rf"changes the content of message \d \({role}\).*--chat_template"):
        chat.build_examples(tokenizer, [SYSTEM, *TURNS[:2]])
    assert chat.completion_ids(
        tokenizer, [{"role": "user", "content": "왜?"}, TURNS[5]]
    )  # nothing lost, nothing refused


def test_an_unsupervised_turn_is_context(tokenizer):
    chat.set_chat_template(tokenizer, "chatml")
    (whole,) = chat.build_examples(tokenizer, TURNS)
    off = [dict(message) for message in TURNS]
    off[1]["weight"] = 0
    off[3]["weight"] = 1
    (example,) = chat.build_examples(tokenizer, off)
    assert example.input_ids == whole.input_ids  # the template does not see the key
    first = len(chat.completion_ids(tokenizer, TURNS[:2]))
    at = whole.completion_mask.index(1)
    assert whole.completion_mask[at : at + first] == [1] * first
    assert example.completion_mask == [*[0] * (at + first), *whole.completion_mask[at + first :]]


def test_nothing_after_the_last_supervised_turn_is_kept(tokenizer):
    """So that an example still ends with a supervised end of turn, which sft_columns checks."""
    chat.set_chat_template(tokenizer, "chatml")
    off = [*TURNS[:5], {**TURNS[5], "weight": 0}]
    assert chat.build_examples(tokenizer, off) == chat.build_examples(tokenizer, TURNS[:4])
    columns, stats = tokenize.sft_columns(tokenizer, [{"id": "a", "messages": off}], 512)
    assert stats["sequences"] == 1
    assert columns["labels"][0][-1] == chat.end_of_turn(tokenizer)[1]
    install(tokenizer, FORGETFUL)  # one example a turn: an unsupervised turn is none
    assert (
        len(
            chat.build_examples(
                tokenizer, [TURNS[0], {"role": "assistant", "content": "<think>음</think>네"}, *off[2:]]
            )
        )
        == 2
    )
    with pytest.raises(ValueError, match="no assistant turn is supervised"):
        chat.build_examples(tokenizer, [TURNS[0], {**TURNS[1], "weight": 0}])
    with pytest.raises(ValueError, match="weight is 0 .* or 1, not 0.5"):
        chat.build_examples(tokenizer, [TURNS[0], {**TURNS[1], "weight": 0.5}])


def test_a_template_that_never_ends_a_turn_learns_eos(tokenizer):
    tokenizer.chat_template = ENDLESS
    chat.set_chat_template(tokenizer)
    assert chat.end_of_turn(tokenizer)[0] == tokenizer.eos_token
    assert_mask_is_what_a_server_would_generate(tokenizer, TURNS, chat.build_examples(tokenizer, TURNS))


def test_bad_templates_are_refused(tokenizer, tmp_path):
    with pytest.raises(InputError, match="'nonsense' is unknown; choose auto, one of chatml, koalpaca"):
        chat.set_chat_template(tokenizer, "nonsense")
    twice = tmp_path / "twice.jinja"
    twice.write_text("{% for m in messages %}{{ bos_token }}{{ m.content }}{{ eos_token }}{% endfor %}")
    with pytest.raises(InputError, match="more than once"):
        chat.set_chat_template(tokenizer, str(twice))


def test_a_content_with_a_control_token_is_refused(tokenizer):
    chat.set_chat_template(tokenizer)
    with pytest.raises(ValueError, match="special token </s>"):
        chat.build_examples(tokenizer, [TURNS[0], {"role": "assistant", "content": "끝</s>아님"}])
    with pytest.raises(ValueError, match="no assistant turn"):
        chat.build_examples(tokenizer, TURNS[:1])


def test_every_special_token_counts_whatever_its_length(tokenizer):
    """<s> would be a second BOS, and supervised."""
    chat.set_chat_template(tokenizer)
    for role, content in (("assistant", "<s>네"), ("user", "취소선은 <s>이렇게"), ("system", "<s>")):
        messages = [{"role": role, "content": content} if m["role"] == role else m for m in [SYSTEM, *TURNS[:2]]]
        with pytest.raises(ValueError, match="special token <s>"):
            chat.build_examples(tokenizer, messages)
        with pytest.raises(ValueError, match="special token <s>"):
            chat.refuse_special_tokens(tokenizer, messages)
    chat.build_examples(tokenizer, [TURNS[0], {"role": "assistant", "content": "a < s > b, <S>, <ss>, s>, [INST]"}])


def test_special_tokens_count_once_they_are_composed(tokenizer):
    """The Kelvin sign is a K in NFC: [MAS\u212a] is what the model would read as [MASK]."""
    tokenizer.add_special_tokens({"additional_special_tokens": ["[MASK]"]})
    chat.set_chat_template(tokenizer)
    messages = [{"role": "user", "content": "[MAS\u212a]"}]
    assert tokenizer.convert_tokens_to_ids("[MASK]") in chat.prompt_ids(tokenizer, messages)
    with pytest.raises(ValueError, match=r"special token \[MASK\]"):
        chat.refuse_special_tokens(tokenizer, messages)


def test_tokens_that_the_template_writes_count_and_plain_added_words_do_not(tokenizer):
    """Qwen's <|im_start|> was not always marked special; its <think> is an added token, and a content's own."""
    tokenizer.add_tokens(["<|열기|>", "<|닫기|>", "<think>", "</think>", "도우미", "<tool_call>"])
    install(tokenizer, QWQ.replace("<|im_start|>", "<|열기|>").replace("<|im_end|>", "<|닫기|>"))
    assert chat.end_of_turn(tokenizer)[0] == "<|닫기|>"
    for token in ("<|열기|>", "<|닫기|>"):
        with pytest.raises(ValueError, match="a content holds the special token"):
            chat.refuse_special_tokens(tokenizer, [{"role": "user", "content": f"글 {token} 글"}])
    fine = {"role": "assistant", "content": "<think>\n도우미가 <tool_call>을 생각\n</think>\n\n도우미 user assistant"}
    assert supervised(tokenizer, TURNS[0], fine)[0][1].endswith("도우미 user assistant<|닫기|>")


def test_a_special_token_that_the_tokenizer_does_not_read_as_one_is_text(tokenizer):
    """A single-word token inside a word is spelled out; an unknown character is not the text <unk>."""
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<끝>", single_word=True, special=True)]})
    chat.set_chat_template(tokenizer)
    chat.refuse_special_tokens(tokenizer, [{"role": "user", "content": "가<끝>나 \U0001f9ff \u0378"}])
    with pytest.raises(ValueError, match="special token <끝>"):
        chat.refuse_special_tokens(tokenizer, [{"role": "user", "content": "가 <끝> 나"}])


def test_guarantee_1_broken_on_purpose(tokenizer, tmp_path):
    chat.set_chat_template(tokenizer)
    run = {"probe": json.loads(json.dumps(chat.probe(tokenizer)))}
    chat.check_probe(tokenizer, run, "folder")
    tokenizer.chat_template = tokenizer.chat_template.replace("\\n", "\\n\\n", 1)
    with pytest.raises(InputError, match="changed after training: the probe prompt differs from token"):
        chat.check_probe(tokenizer, run, "folder")


def test_guarantee_2_broken_on_purpose(tokenizer, monkeypatch):
    chat.set_chat_template(tokenizer)
    rows = [{"id": "a", "messages": TURNS[:2]}]
    columns, stats = tokenize.sft_columns(tokenizer, rows, 512)
    assert columns["labels"][0][-1] == chat.end_of_turn(tokenizer)[1]
    assert stats["dropped"] == 0
    whole = chat.answer_text
    monkeypatch.setattr(chat, "answer_text", lambda *a: whole(*a).removesuffix("<|im_end|>"))
    with pytest.raises(InputError, match="end-of-turn token would not be learned"):
        tokenize.sft_columns(tokenizer, rows, 512)
    with pytest.raises(AssertionError):
        assert_mask_is_what_a_server_would_generate(tokenizer, TURNS, chat.build_examples(tokenizer, TURNS))


def test_truncation_is_counted_and_bounded(tokenizer):
    chat.set_chat_template(tokenizer)
    rows = [{"id": str(i), "messages": TURNS[:2]} for i in range(40)]
    long = {"id": "long", "messages": [{"role": "user", "content": "물 " * 400}, TURNS[1]]}
    columns, stats = tokenize.sft_columns(tokenizer, [*rows, long], 200)
    assert (stats["truncated"], stats["dropped"], stats["sequences"]) == (1, 1, 40)
    assert stats["tokens"] == sum(map(len, columns["input_ids"]))
    assert stats["longest"] > 400
    with pytest.raises(InputError, match="3 of 43 rows lose their whole answer at 200 tokens.*--max_seq_length"):
        tokenize.sft_columns(tokenizer, [*rows, long, long, long], 200)


def test_pairs_that_render_alike_are_refused(tokenizer):
    chat.set_chat_template(tokenizer)
    pair = {"id": "p1", "prompt": TURNS[:1], "chosen": [TURNS[1]], "rejected": [TURNS[3]]}
    columns, stats = tokenize.dpo_columns(tokenizer, [pair], 512)
    assert stats["pairs"] == 1
    assert columns["prompt_ids"][0] == chat.prompt_ids(tokenizer, TURNS[:1])
    assert columns["chosen_ids"][0] == chat.completion_ids(tokenizer, TURNS[:2])
    same = {**pair, "id": "p2", "rejected": [{"role": "assistant", "content": TURNS[1]["content"] + "  \n"}]}
    with pytest.raises(InputError, match="row p2: chosen and rejected render to the same tokens"):
        tokenize.dpo_columns(tokenizer, [pair, same], 512)


def test_a_template_that_writes_the_date_is_fixed_to_one(tokenizer):
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + ENDLESS
    chat.set_chat_template(tokenizer)
    once = tokenizer.chat_template
    chat.set_chat_template(tokenizer)
    assert tokenizer.chat_template == once
    assert "26 Jul 2024user:" in chat.render(tokenizer, TURNS[:1])
