"""Chat template → token ids and loss mask: the one rendering that SFT, DPO, inference and serving share.

The rule is "train on what the server would see and generate". A server sends the engine
`prompt_ids(messages)` and the model answers with the content and its end-of-turn token. So a training
example is, for each assistant turn, exactly those prompt ids followed by exactly those answer ids, and only
the answer ids are supervised. Where a template (or the tokenizer's merges) renders a turn differently once it
is history, one sequence cannot hold that for every turn, and the row becomes one example per turn.
"""

import hashlib
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sllm.cli import InputError
from sllm.turns import answer_text, end_of_turn, refuse_lost_contents, render
from sllm.turns import refuse_special_tokens as refuse_composed_special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["end_of_turn", "render"]  # and all that is defined here
TEMPLATES = Path(__file__).resolve().parent.parent / "templates" / "chat"
_SENTINEL = "가나다라"
# Templates that write today's date (Llama 3.2) would render another prompt tomorrow than was trained on.
_FIXED_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
PROBE_MESSAGES = [
    {"role": "system", "content": "당신은 질문에 한국어로 답하는 도우미입니다."},
    {"role": "user", "content": "###Question###:\n물은 몇 도에서 끓나요?\n\n###Answer###:"},
    {"role": "assistant", "content": "1기압에서 100℃입니다."},
    {"role": "user", "content": "그럼 산 위에서는요? 2,000 m라면…"},
]


@dataclass(frozen=True)
class Example:
    """One training sequence. `completion_mask` is 1 where a token is supervised; both have length (seq,)."""

    input_ids: list[int]
    completion_mask: list[int]


# ── set-up of a tokenizer ──────────────────────────────────────────────────────────────────────────────────


def load_tokenizer(model_id: str, *, trust_remote_code: bool = False) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model or adapter folder, or of a Hub id."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model_id, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise InputError(f"{model_id}: no tokenizer can be loaded ({str(error).splitlines()[0]})") from None


def set_chat_template(tokenizer: "PreTrainedTokenizerBase", name: str = "auto") -> str:
    """Give the tokenizer the chat template it will be trained, saved and served with, and a pad token.

    The template is completed so that it stands alone: BOS is written into it where the model has one, and a
    special token that this vocabulary lacks is replaced by the model's own EOS (end of turn) or left to be
    spelled out (start of turn), because an untrained new token would never be learned by LoRA.

    Args:
        name: "auto" (the tokenizer's own, else chatml), a name in templates/chat/, or a .jinja file.
    Returns:
        What was chosen, for people.
    Raises:
        InputError: unknown name, or a template that does not render, or that doubles BOS.
    """
    if name == "auto" and tokenizer.chat_template:
        chosen = "the tokenizer's own"
    else:
        chosen = "chatml" if name == "auto" else name
        path = Path(chosen) if chosen.endswith(".jinja") else TEMPLATES / f"{chosen}.jinja"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in TEMPLATES.glob("*.jinja")))
            raise InputError(f"chat template {chosen!r} is unknown; choose auto, one of {known}, or a .jinja file")
        tokenizer.chat_template = substitute_missing_eos(path.read_text(encoding="utf-8"), tokenizer)
    if "strftime_now" in tokenizer.chat_template and _FIXED_DATE not in tokenizer.chat_template:
        tokenizer.chat_template = _FIXED_DATE + tokenizer.chat_template
    try:
        if _adds_bos(tokenizer) and tokenizer.bos_token not in render(tokenizer, PROBE_MESSAGES[1:2]):
            tokenizer.chat_template = "{{- bos_token -}}" + tokenizer.chat_template
        prompt = render(tokenizer, PROBE_MESSAGES[1:])
    except InputError as error:
        raise InputError(f"chat template {chosen}: {error}") from None
    if tokenizer.bos_token and tokenizer.bos_token != tokenizer.eos_token and prompt.count(tokenizer.bos_token) > 1:
        raise InputError(f"chat template {chosen} writes BOS ({tokenizer.bos_token}) more than once")
    _ensure_pad(tokenizer)
    return chosen


def stop_token_ids(tokenizer: "PreTrainedTokenizerBase", configured: int | list[int] | None) -> list[int]:
    """Every token that ends an answer, the template's end of turn first. `configured`: `eos_token_id` of the model's
    generation config, or of its config."""
    eos = configured if isinstance(configured, list) else [configured]
    tokens = [end_of_turn(tokenizer)[1], *eos, tokenizer.eos_token_id]
    return list(dict.fromkeys(token for token in tokens if token is not None))


def describe_template(tokenizer: "PreTrainedTokenizerBase", name: str) -> str:
    """`chatml; a turn ends with <|im_end|>`."""
    return f"{name}; a turn ends with {end_of_turn(tokenizer)[0]}"


def substitute_missing_eos(template: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Replace an end-of-turn token that this vocabulary lacks by the tokenizer's EOS."""
    vocabulary = tokenizer.get_vocab()
    for end in ("<|im_end|>", "<|eot_id|>"):
        if end in template and end not in vocabulary:
            if not tokenizer.eos_token:
                raise InputError(f"this tokenizer has neither {end} nor an EOS token to end a turn with")
            template = template.replace(f"'{end}\\n'", "eos_token + '\\n'").replace(f"'{end}'", "eos_token")
    return template


def _adds_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Was the model trained with BOS in front? Its tokenizer tells by adding one to plain text."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer(_SENTINEL)["input_ids"][:1] == [bos]


def _ensure_pad(tokenizer: "PreTrainedTokenizerBase") -> None:
    """A pad token that is not EOS and not the end of turn: padding with EOS teaches a model never to stop."""
    taken = {tokenizer.eos_token_id, end_of_turn(tokenizer)[1]}
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in taken:
        return
    names = [tokenizer.added_tokens_decoder[i].content for i in sorted(tokenizer.added_tokens_decoder)]
    candidates = [name for name in names if "pad" in name.lower()] + [name for name in names if "reserved" in name]
    for token in [*candidates, tokenizer.unk_token, tokenizer.bos_token]:
        if token and tokenizer.convert_tokens_to_ids(token) not in taken:
            tokenizer.pad_token = token
            return
    raise InputError("the tokenizer has no token to pad with but EOS; give it a pad_token of its own")


def template_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    return hashlib.sha256((tokenizer.chat_template or "").encode()).hexdigest()


# ── token ids ──────────────────────────────────────────────────────────────────────────────────────────────


def nfc(text: str) -> str:
    """The text in composed form. Decomposed Hangul (macOS file names, some editors) looks the same, costs six times
    the tokens, and is not what a model has learned: training and serving compose it the same way."""
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def refuse_special_tokens(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, Any]]) -> None:
    """ValueError for a control token inside a content, as it is once composed: NFC turns some letters (K, the Kelvin
    sign) into plain ones."""
    refuse_composed_special_tokens(tokenizer, _nfc_messages(messages))


def _nfc_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message | {"content": nfc(message["content"])} for message in messages]


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, Any]]) -> list[int]:
    """Token ids that ask for the next assistant turn: what the engine is fed, and what training prefixes."""
    messages = _nfc_messages(messages)
    return _ids(tokenizer, render(tokenizer, messages, add_generation_prompt=True))


def completion_ids(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, Any]]) -> list[int]:
    """Token ids of the last message, an assistant turn, with its end-of-turn token: what generation yields. Raises
    ValueError as `build_examples` does."""
    messages = _nfc_messages(messages)
    refuse_special_tokens(tokenizer, messages)
    return _turn(tokenizer, messages, end_of_turn(tokenizer)[0])[1]


def build_examples(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, Any]]) -> list[Example]:
    """Training examples of a conversation: one, or one per assistant turn where history renders differently.

    An assistant turn with `"weight": 0` is context for the turns after it and is not supervised; after the last
    supervised turn the conversation is left out, since nothing would be learned from it.

    Raises:
        ValueError: no assistant turn is supervised; a content holds a special token of this model; an answer cannot
            follow the generation prompt (reasoning), or the template loses part of a content.
    """
    messages = _nfc_messages(messages)
    refuse_special_tokens(tokenizer, messages)
    end_text = end_of_turn(tokenizer)[0]
    turns: list[Example] = []
    for i, message in enumerate(messages):
        if message["role"] == "assistant" and _is_supervised(message):
            prompt, answer = _turn(tokenizer, messages[: i + 1], end_text)
            turns.append(Example(prompt + answer, [0] * len(prompt) + [1] * len(answer)))
    if not turns:
        has_answer = any(message["role"] == "assistant" for message in messages)
        raise ValueError("no assistant turn is supervised (weight 0)" if has_answer else "no assistant turn")
    longest = turns[-1]
    if any(longest.input_ids[: len(turn.input_ids)] != turn.input_ids for turn in turns):
        return turns
    mask = [0] * len(longest.input_ids)
    for turn in turns:
        mask[: len(turn.input_ids)] = [a | b for a, b in zip(mask, turn.completion_mask, strict=False)]
    return [Example(longest.input_ids, mask)]


def _turn(
    tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, Any]], end_text: str
) -> tuple[list[int], list[int]]:
    """(prompt ids, answer ids) of the last message, an assistant turn."""
    prompt = render(tokenizer, messages[:-1], add_generation_prompt=True)
    refuse_lost_contents(messages[:-1], prompt)
    return _ids(tokenizer, prompt), _ids(tokenizer, answer_text(tokenizer, messages, prompt, end_text))


def _is_supervised(message: dict[str, Any]) -> bool:
    weight = message.get("weight", 1)
    if weight not in (0, 1):
        raise ValueError(f"a message's weight is 0 (not supervised) or 1, not {weight!r}")
    return bool(weight)


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


# ── the prompt probe of run.json (guarantee 1) ─────────────────────────────────────────────────────────────


def probe(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """A fixed conversation and its token ids, for `run.json`."""
    messages = PROBE_MESSAGES
    try:
        render(tokenizer, messages, add_generation_prompt=True)
    except InputError:  # a template without a system turn
        messages = PROBE_MESSAGES[1:]
    return {"messages": messages, "token_ids": prompt_ids(tokenizer, messages)}


def identity(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """How this tokenizer renders a conversation, for run.json."""
    return {"probe": probe(tokenizer), "chat_template_hash": template_hash(tokenizer)}


def check_probe(tokenizer: "PreTrainedTokenizerBase", run: dict[str, Any] | None, folder: str | Path) -> None:
    """Refuse a folder whose tokenizer or template no longer renders what it was trained on."""
    if run is None or not run.get("probe"):
        return
    token_ids, recorded_ids = prompt_ids(tokenizer, run["probe"]["messages"]), run["probe"]["token_ids"]
    if token_ids != recorded_ids:
        first = next((i for i, (a, b) in enumerate(zip(token_ids, recorded_ids, strict=False)) if a != b), -1)
        raise InputError(
            f"{folder}: its tokenizer or chat template changed after training: the probe prompt differs from token "
            f"{first} on ({len(token_ids)} ids now, {len(recorded_ids)} in run.json); restore its tokenizer files"
        )
