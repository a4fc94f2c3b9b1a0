"""Whole conversations in one text, told apart by markers: Anthropic's HH strings, `### 질문:`, Llama-2, ChatML and the
like. Standard library only."""

import re

from sllm.data.drafts import Turn

_USER = "human user instruction question 질문 명령어 명령 지시 사용자 인간".split()
_INPUT = "input 입력 맥락".split()
_ASSISTANT = "assistant gpt bot response answer 답변 응답 대답 챗봇 도우미 어시스턴트".split()
_SYSTEM = "system 시스템".split()
_ROLES = {
    **dict.fromkeys(_USER, "user"), **dict.fromkeys(_INPUT, "input"), **dict.fromkeys(_ASSISTANT, "assistant"),
    **dict.fromkeys(_SYSTEM, "system"), "model": "assistant",
}  # fmt: skip
_NAME = "(" + "|".join(sorted(_ROLES, key=len, reverse=True)) + ")"
# Each marker's group is the role; the stricter styles come first, so that a colon in a text is not taken for a turn.
_STYLES = [
    re.compile(r"<\|im_start\|>[ \t]*(system|user|assistant)[ \t]*\n?"),
    re.compile(r"<\|start_header_id\|>(system|user|assistant)<\|end_header_id\|>\n{0,2}"),
    re.compile(r"<start_of_turn>(user|model)\n?"),
    re.compile(rf"^#{{2,4}} ?{_NAME} ?(?::|$)[ \t]*\n?", re.IGNORECASE | re.MULTILINE),
    re.compile(rf"(?:\A\s*|\n\n){_NAME} ?: ?", re.IGNORECASE),
    re.compile(rf"^{_NAME} ?: ?", re.IGNORECASE | re.MULTILINE),
]
_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<eos>", "### End", "<s>")
_STARTS = ("<s>", "<bos>", "<|begin_of_text|>")


def dialogue_turns(text: str) -> list[Turn] | None:
    """The turns of a conversation in one text, without its markers and the white space around them; None if it has
    none. A turn that only opens (the `Assistant:` behind a prompt) is left out."""
    text = text.strip()
    for token in _STARTS:
        text = text.removeprefix(token)
    if "[INST]" in text:
        return _llama_turns(text)
    questions = None
    for style in _STYLES:
        parsed = _marked_turns(style, text) or []
        roles = {turn["role"] for turn in parsed}
        if roles >= {"user", "assistant"}:
            return parsed
        if "user" in roles and questions is None:
            questions = parsed
    return questions


def _marked_turns(style: re.Pattern[str], text: str) -> list[Turn] | None:
    parts = style.split(text)  # text before, role, content, role, content …
    if len(parts) < 3:
        return None
    found: list[Turn] = []
    before = parts[0].strip()
    if before:
        found.append({"role": "system", "content": before})
    for name, content in zip(parts[1::2], parts[2::2], strict=True):
        role, content = _ROLES[name.lower()], _content(content)
        if role == "input":
            if not found or found[-1]["role"] != "user":
                return None
            if content:
                found[-1]["content"] += f"\n\n{content}"
        else:
            found.append({"role": role, "content": content})
    if found[-1]["role"] == "assistant" and not found[-1]["content"]:
        found.pop()
    return found


def _llama_turns(text: str) -> list[Turn] | None:
    """`<s>[INST] <<SYS>>…<</SYS>> question [/INST] answer </s><s>[INST] …`"""
    before, *rounds = text.split("[INST]")
    found: list[Turn] = []
    if before.strip():
        found.append({"role": "system", "content": before.strip()})
    for part in rounds:
        question, closing, answer = part.partition("[/INST]")
        if not closing:
            return None
        question = question.strip()
        if question.startswith("<<SYS>>") and "<</SYS>>" in question:
            lead, _, question = question.removeprefix("<<SYS>>").partition("<</SYS>>")
            found.append({"role": "system", "content": lead.strip()})
        found.append({"role": "user", "content": question.strip()})
        if answer := _content(answer):
            found.append({"role": "assistant", "content": answer})
    return found


def _content(text: str) -> str:
    """Without white space and the tokens that end a turn, or start the next."""
    text = text.strip()
    while end := next((token for token in _ENDS if text.endswith(token)), None):
        text = text.removesuffix(end).rstrip()
    return text
