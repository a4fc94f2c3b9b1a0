"""The doctor's checks of tokenizer and chat template; see `sllm.evaluate.doctor`."""

import re
from typing import TYPE_CHECKING

from sllm import chat, hashes, turns
from sllm.cli import InputError
from sllm.evaluate.model_folder import Folder, NotChecked, Note

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANSWER = {"role": "assistant", "content": "1기압에서 100℃입니다."}
_MARKER = re.compile(r"<\|[a-z0-9_]+\|>|</?s>|<(?:bos|eos|pad|start_of_turn|end_of_turn)>|\[/?INST\]")


def template(folder: Folder) -> str:
    try:
        has_template = bool(folder.tokenizer.chat_template)
    except NotChecked as error:
        raise InputError(f"{error}; get the tokenizer's files again") from None
    if not has_template and not folder.adapter:
        raise NotChecked("no chat template: right for a base model, wrong for one that was tuned on chats")
    if not has_template:
        raise InputError(
            "no chat template: a server would have to guess one; save the one of training in the tokenizer "
            "(tokenizer.chat_template = …; tokenizer.save_pretrained(FOLDER))"
        )
    problems, tokenizer = [], folder.tokenizer
    user = {"role": "user", "content": "물은 몇 도에서 끓나요?"}
    for what, messages in (
        ("one question", [user]),
        ("several turns", [user, _ANSWER, {"role": "user", "content": "산 위에서는요?"}]),
    ):
        if reason := _not_rendered(tokenizer, messages):
            problems.append(f"the chat template cannot render {what}: {reason}; correct chat_template.jinja")
    if problems:
        raise InputError(problems)
    if reason := _not_rendered(tokenizer, [{"role": "system", "content": "한국어로 답하세요."}, user]):
        raise Note(f"takes no system prompt ({reason}); put what it says into the first question")
    return "renders questions, several turns and system prompts"


def _not_rendered(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]]) -> str | None:
    """Why the template cannot render messages; None if it does."""
    try:
        turns.refuse_lost_contents(messages, chat.render(tokenizer, messages, add_generation_prompt=True))
    except Exception as error:  # whatever the template's own code raises
        return str(error) or type(error).__name__
    return None


def special_tokens(folder: Folder) -> str:
    tokenizer = folder.prompted
    text = chat.render(tokenizer, [chat.PROBE_MESSAGES[1], _ANSWER, chat.PROBE_MESSAGES[3]], add_generation_prompt=True)
    markers = list(dict.fromkeys(_MARKER.findall(text)))
    spelled = [marker for marker in markers if len(tokenizer(marker, add_special_tokens=False)["input_ids"]) > 1]
    after = text[text.index(_ANSWER["content"]) + len(_ANSWER["content"]) :].lstrip()
    if ends := [marker for marker in spelled if after.startswith(marker)]:
        raise InputError(
            f"the chat template ends a turn with {ends[0]}, which this vocabulary does not have as one token: no token "
            "ends a turn; choose a template for this model, or the model's own tokenizer"
        )
    if spelled and any("<|" in marker for marker in spelled):
        raise Note(f"{', '.join(spelled)}: spelled out, not one token each; is the template of another model?")
    return f"{', '.join(markers)}" if markers else "the template writes none"


def end_of_turn(folder: Folder) -> str:
    text, end = chat.end_of_turn(folder.prompted)
    if folder.adapter:
        return f"{text} ({end}) ends a turn; servers of an adapter stop by the tokenizer"
    config = folder.path / "generation_config.json"
    source = config if config.is_file() else folder.path / "config.json"
    ids = hashes.read_json(source).get("eos_token_id")
    eos = ids if isinstance(ids, list) else [ids]
    if end not in eos:
        raise InputError(
            f"{source.name}: eos_token_id {ids} lacks {end} ({text}), which ends a turn: answers would not stop; add it"
        )
    return f"{text} ({end}) is in eos_token_id"


def padding(folder: Folder) -> str:
    tokenizer = folder.tokenizer
    pad = tokenizer.pad_token_id
    if pad is None:
        raise Note("the tokenizer has no pad token; before training, set one that is not EOS")
    taken = {tokenizer.eos_token_id: "EOS"}
    if tokenizer.chat_template:
        taken[chat.end_of_turn(tokenizer)[1]] = "the end of a turn"
    if pad in taken:
        text = (
            f"pad is {tokenizer.pad_token}, {taken[pad]}: a trainer that masks padding then never teaches the model to "
            "stop; choose another pad_token in tokenizer_config.json"
        )
        raise InputError(text) if folder.adapter else Note(text)  # of a model that is only served it costs nothing
    return f"{tokenizer.pad_token} ({pad}), not EOS"


def bos(folder: Folder) -> str:
    tokenizer = folder.prompted
    if tokenizer.bos_token_id is None:
        return "the model has none"
    count = chat.prompt_ids(tokenizer, chat.PROBE_MESSAGES[1:]).count(tokenizer.bos_token_id)
    wanted = tokenizer("가")["input_ids"][:1] == [tokenizer.bos_token_id]
    if tokenizer.bos_token_id == tokenizer.eos_token_id or (count <= 1 and count == int(wanted)):
        return f"{tokenizer.bos_token} once in a prompt" if count else f"{tokenizer.bos_token} is not used"
    if count > 1:
        raise InputError(f"a prompt has {tokenizer.bos_token} {count} times; leave it to the chat template alone")
    if wanted:
        raise Note(
            f"the tokenizer puts {tokenizer.bos_token} in front of a text, the chat template does not: prompts lack "
            "what the model was trained with; begin the template with {{ bos_token }}"
        )
    return f"{tokenizer.bos_token} once in a prompt"


def history(folder: Folder) -> str:
    tokenizer = folder.prompted
    asked = chat.PROBE_MESSAGES[1:2]
    prompt = chat.prompt_ids(tokenizer, asked)
    later = chat.prompt_ids(tokenizer, [*asked, _ANSWER, chat.PROBE_MESSAGES[3]])
    if later[: len(prompt)] != prompt:
        text = chat.render(tokenizer, asked, add_generation_prompt=True)
        if re.search(r"</?think\w*>|<\w+>\s*$", text):
            raise Note("the prompt opens a block of reasoning, which the history leaves out")
        raise InputError(
            "an answer looks different once it is history: the prompt of the next turn does not begin with the prompt "
            "of this one, so what was learned is not what is seen; compare add_generation_prompt with the assistant "
            "turns of the chat template"
        )
    return "the prompt of a turn begins the prompt of the next"
