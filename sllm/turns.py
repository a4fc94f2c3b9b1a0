"""How a chat template writes turns: the rendered text, the text of an answer, and contents that it cannot carry.

A server sends the rendered history with the generation prompt, and the model writes what follows it. So the text of
an answer is what the template writes after that prompt once the turn is history. Reasoning templates differ there:
some prompts open a block that history leaves out, and some histories leave out the block that the content has.
"""

import os
import re
from weakref import WeakKeyDictionary

from sllm.cli import InputError

_QUESTION, _ANSWER = "가나다라의질문", "가나다라의대답"
# The tags of a block such as <think> or [THINK]: anywhere in a text, or at its very end.
_OPENING = re.compile(r"<[A-Za-z_][\w:]*>|\[[A-Z_]+\]")
_OPENED = re.compile(rf"(?:{_OPENING.pattern})\s*\Z")
_CLOSING = re.compile(r"</[A-Za-z_][\w:]*>|\[/[A-Z_]+\]")
_CLOSED = re.compile(rf"({_CLOSING.pattern})\s*\Z")
_LOOKS_LIKE_CONTROL = re.compile(r"[<\[{|].*[>\]}|]")
_CONTROLS: WeakKeyDictionary = WeakKeyDictionary()


def render(tokenizer, messages: list[dict], *, add_generation_prompt: bool = False) -> str:
    """The conversation as text. InputError when the template refuses it.

    A message's `weight` is for the loss mask (see `sllm.chat.build_examples`); templates do not see it.
    """
    from jinja2 import TemplateError

    messages = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    except TemplateError as error:
        raise InputError(f"the chat template refuses this conversation: {error}") from None


def end_of_turn(tokenizer) -> tuple[str, int]:
    """Text and id of the token that ends an assistant turn: the template's own, else EOS."""
    text = render(tokenizer, [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}])
    if _ANSWER not in text:
        raise InputError("the chat template does not write an answer's text")
    tail = text[text.rindex(_ANSWER) + len(_ANSWER) :].lstrip()
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip()]
    special += [token for token in (tokenizer.eos_token,) if token]
    ends = [token for token in special if tail.startswith(token)]
    end = max(ends, key=len, default=tokenizer.eos_token)
    if not end:
        raise InputError("the chat template ends no turn and the tokenizer has no EOS: the model could never stop")
    return end, tokenizer.convert_tokens_to_ids(end)


# ── the text of an answer ──────────────────────────────────────────────────────────────────────────────────


def answer_text(tokenizer, messages: list[dict], prompt: str, end: str) -> str:
    """Text of the last message, an assistant turn, as it would be generated after `prompt`.

    It is what the template writes after the generation prompt, up to and including the end of turn, which is
    appended where the template writes none. Reasoning that history leaves out is taken from the content as written.

    Args:
        prompt: the messages before it, rendered with the generation prompt.
        end: text of the end-of-turn token.
    Raises:
        ValueError: the answer cannot follow this prompt, or the template loses part of the content.
    """
    content = messages[-1]["content"].strip()
    closed = _CLOSED.search(prompt)
    if closed and (closed[1] in content or content.startswith(closed[1].replace("/", "", 1))):
        raise ValueError(
            f"this answer has reasoning, but the generation prompt already ends with {closed[1]}: remove the "
            "reasoning, or choose a --chat_template that leaves it to the model"
        )
    rendered = render(tokenizer, messages)
    prompt_frame = history_frame = ""
    if _OPENED.search(prompt) or not rendered.startswith(prompt):
        prompt_frame, history_frame = _frame(tokenizer, messages)
    block = _open_block(prompt_frame, history_frame)
    as_written = _after_opening(content, prompt_frame, block)
    if rendered.startswith(prompt):
        answer = _before_end(rendered[len(prompt) :], end)
    elif history_frame.startswith(prompt_frame):
        answer = _apart_from_history(tokenizer, messages, len(history_frame) - len(prompt_frame), end)
    else:  # the generation prompt shows what history leaves out, such as an opened block: the content follows it
        answer = as_written
    if _loses_reasoning(content, answer, block):
        answer = as_written
    _refuse_unclosed(content, answer, block)
    if _compact(as_written) not in _compact(answer):
        raise ValueError(
            "the chat template leaves out or changes part of this answer, which would not be learned as written; "
            "choose another --chat_template"
        )
    return answer + end


def refuse_lost_contents(messages: list[dict], prompt: str) -> None:
    """ValueError where `prompt`, the rendered messages, lacks one of their contents (white space aside).

    Reasoning of earlier answers may be missing: most templates leave it out of the history, in serving too.
    """
    rendered = _compact(prompt)
    for number, message in enumerate(messages, 1):
        text = message["content"]
        if message["role"] == "assistant":
            text = _CLOSING.split(text)[-1]
        if _compact(text) not in rendered:
            raise ValueError(
                f"the chat template leaves out or changes the content of message {number} ({message['role']}); put "
                "what it says into another turn, or choose another --chat_template"
            )


def _frame(tokenizer, messages: list[dict]) -> tuple[str, str]:
    """What stands between the last question and a plain answer to it: in the generation prompt, and in history."""
    before = _with_plain_question(messages)
    prompt = render(tokenizer, before, add_generation_prompt=True)
    history = render(tokenizer, [*before, {"role": "assistant", "content": _ANSWER}]).rpartition(_ANSWER)[0]
    return prompt.rpartition(_QUESTION)[2], history.rpartition(_QUESTION)[2]


def _with_plain_question(messages: list[dict]) -> list[dict]:
    return [*messages[:-2], *({**message, "content": _QUESTION} for message in messages[-2:-1])]


def _open_block(prompt_frame: str, history_frame: str) -> tuple[str, str] | None:
    """(opening, closing) tag of a block that the generation prompt opens and that history closes or leaves out."""
    match = _OPENED.search(prompt_frame)
    if not match:
        return None
    tag = match.group().rstrip()
    closing = _closing(tag)
    if history_frame.startswith(prompt_frame) and closing not in history_frame[len(prompt_frame) :]:
        return None  # an answer's own frame, such as <bot>
    return tag, closing


def _apart_from_history(tokenizer, messages: list[dict], lead: int, end: str) -> str:
    """The answer, with the `lead` characters that history puts before it, where an earlier part renders differently.

    Mistral's templates write the system turn into the last user turn, but only while no answer follows it.
    """
    before = _with_plain_question(messages)
    history = render(tokenizer, [*before, {"role": "assistant", "content": _ANSWER}]).rpartition(_ANSWER)[0]
    rendered = render(tokenizer, [*before, messages[-1]])
    start = len(history) - lead
    if rendered.startswith(history[:start]):
        return _before_end(rendered[start:], end)
    return history[start:] + messages[-1]["content"].strip()


def _after_opening(content: str, prompt_frame: str, block: tuple[str, str] | None) -> str:
    """The content as it continues after a generation prompt that has opened `block` for it."""
    if not block or not content.startswith(block[0]):
        return content
    opened = prompt_frame[prompt_frame.rindex(block[0]) :]  # with the white space behind it
    return content.removeprefix(opened) if content.startswith(opened) else content.removeprefix(block[0])


def _loses_reasoning(content: str, answer: str, block: tuple[str, str] | None) -> bool:
    """Does the template write this answer without its reasoning, or put another block in front of it?"""
    written = _compact(answer)
    if block and block[1] in content:
        return written != _compact(content.removeprefix(block[0]))
    before = written.rpartition(_compact(content))[0]
    return any(written == _compact(content[tag.end() :]) or tag[0] in before for tag in _CLOSING.finditer(content))


def _refuse_unclosed(content: str, answer: str, block: tuple[str, str] | None) -> None:
    """ValueError for an answer inside a block that nothing closes."""
    if block and block[1] not in answer:
        raise ValueError(
            f"the generation prompt opens {block[0]} and this answer has no {block[1]}: write its reasoning into the "
            f"content ({block[0]}…{block[1]} and the answer), an empty block where it has none, or train with a "
            "--chat_template whose prompt opens no block"
        )
    if opened := _OPENING.match(content):
        closing = _closing(opened[0])
        if closing not in content and closing in _compact(answer).rpartition(_compact(content))[0]:
            raise ValueError(f"this answer opens {opened[0]} and never closes it: write {closing} where it ends")


def _closing(tag: str) -> str:
    return f"{tag[0]}/{tag[1:]}"


def _before_end(text: str, end: str) -> str:
    answer, separator, _ = text.rpartition(end)
    return answer if separator else text.rstrip()


def _compact(text: str) -> str:
    """Without white space, which templates trim and add."""
    return "".join(text.split())


# ── contents that would be read as control tokens ──────────────────────────────────────────────────────────


def refuse_special_tokens(tokenizer, messages: list[dict]) -> None:
    """ValueError for a control token inside a content: it ends the turn there, which its author never meant.

    A control token is one marked special, or one that the template writes around the turns. It counts where the
    tokenizer reads it as that token.
    """
    pattern, controls, always = _controls(tokenizer)
    for message in messages:
        content = message["content"]
        if always or pattern.search(content):
            special = controls.intersection(tokenizer(content, add_special_tokens=False)["input_ids"])
            if tokenizer.unk_token and tokenizer.unk_token not in content:  # it also stands for an unknown character
                special.discard(tokenizer.unk_token_id)
            if special:
                raise ValueError(f"a content holds the special token {tokenizer.convert_ids_to_tokens(min(special))}")


def _controls(tokenizer) -> tuple[re.Pattern, set[int], bool]:
    """(pattern of the control tokens' texts, their ids, whether a text without such a match may yield one)."""
    key = (tokenizer.chat_template, len(tokenizer))
    if tokenizer not in _CONTROLS or _CONTROLS[tokenizer][0] != key:
        added = tokenizer.added_tokens_decoder.values()
        texts = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
        normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
        always = normalizer is not None and any(token.special and token.normalized for token in added)
        candidates = {token.content for token in added if _LOOKS_LIKE_CONTROL.fullmatch(token.content)} - texts
        written = _written_around_turns(tokenizer) if candidates else ""
        texts |= {text for text in candidates if text in written}
        pattern = re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")
        _CONTROLS[tokenizer] = key, (pattern, set(tokenizer.convert_tokens_to_ids(sorted(texts))), always)
    return _CONTROLS[tokenizer][1]


def _written_around_turns(tokenizer) -> str:
    """All that the template writes around plain contents, without the tags of a reasoning block."""
    if not tokenizer.chat_template:
        return ""
    user = {"role": "user", "content": _QUESTION}
    prompt_frame, history_frame = _frame(tokenizer, [user, {"role": "assistant", "content": _ANSWER}])
    header = os.path.commonprefix([prompt_frame, history_frame])
    if block := _open_block(prompt_frame, history_frame):
        header = header.rpartition(block[0])[0] if block[0] in header else header
    try:
        turns = render(tokenizer, [{"role": "system", "content": _QUESTION}, user])
    except InputError:  # a template without a system turn
        turns = render(tokenizer, [user])
    return turns + header + end_of_turn(tokenizer)[0]
