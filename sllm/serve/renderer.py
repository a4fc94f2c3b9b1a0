"""vLLM's renderer for one served model: conversations become the token ids that training would have made of them."""

import asyncio

from vllm.renderers.hf import HfRenderer

from sllm import chat
from sllm.cli import InputError
from sllm.serve.errors import ApiError

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal", "thinking": "thinking"}
# What the endpoints say of a template's arguments where a request says nothing.
DEFAULTS = {"add_generation_prompt": True, "continue_final_message": False, "tokenize": False}


class Renderer(HfRenderer):
    """Plain conversations are rendered by `sllm.chat`, as in training (guarantee 1). Those with tools, template
    arguments or a turn to continue are rendered by vLLM, with the same tokenizer and template.

    Contents are brought to NFC; every text that the template may write is refused where it holds a control token.
    """

    def render_messages(self, messages, params):
        messages = [dict(message) for message in messages]
        for message in messages:
            message["content"] = text_content(message.get("content"))
            if message.get("tool_calls"):
                message["tool_calls"] = _listed(message["tool_calls"])
        kwargs = {name: value for name, value in params.chat_template_kwargs.items() if name != "chat_template"}
        texts = list(_strings([*messages, kwargs]))
        self._check_length(sum(map(len, texts)))
        try:
            chat.refuse_special_tokens(self.get_tokenizer(), [{"content": text} for text in texts])
        except ValueError as error:
            raise ApiError(400, str(error), param="messages") from None
        plain_messages = plain_conversation(messages, params.chat_template_kwargs | {"template": params.chat_template})
        if plain_messages is None:
            conversation, prompt = super().render_messages(messages, params)
            if "prompt_token_ids" not in prompt:  # the template has written BOS; vLLM would add one for Responses
                ids = self.get_tokenizer()(prompt["prompt"], add_special_tokens=False)["input_ids"]
                prompt = {"prompt_token_ids": ids, "prompt": prompt["prompt"]}
            return conversation, prompt
        try:
            ids = chat.prompt_ids(self.get_tokenizer(), plain_messages)
        except (InputError, ValueError) as error:
            raise ApiError(400, str(error), param="messages") from None
        return plain_messages, {"prompt_token_ids": ids}

    async def render_messages_async(self, messages, params):
        return await asyncio.get_running_loop().run_in_executor(self._executor, self.render_messages, messages, params)

    async def _tokenize_singleton_prompt_async(self, prompt, params):
        if isinstance(prompt.get("prompt"), str):
            prompt = prompt | {"prompt": chat.nfc(prompt["prompt"])}
        return await super()._tokenize_singleton_prompt_async(prompt, params)

    def _check_length(self, characters: int) -> None:
        """Refuse what cannot fit before it is tokenized, as vLLM does for the prompts of completions."""
        context = self.config.model_config.max_model_len
        if characters > context * self.get_tokenizer().max_chars_per_token:
            message = f"This model's maximum context length is {context} tokens; {characters:,} characters exceed it"
            raise ApiError(400, message, param="messages", code="context_length_exceeded")


def text_content(content):
    """A message's content as vLLM's parser takes it, in NFC. ApiError (400) for a part that is not a text: it would
    name what the server has to fetch."""
    if content is None or isinstance(content, str):
        return content and chat.nfc(content)
    texts = []
    for part in _listed(content):
        kind = str(part.get("type")) if isinstance(part, dict) else ""
        text = part if isinstance(part, str) else part.get(TEXT_PARTS[kind]) if kind in TEXT_PARTS else None
        if not isinstance(text, str):
            raise ApiError(400, f"these models read text only, not {kind or 'other parts'}"[:200], param="messages")
        texts.append({"type": "text", "text": chat.nfc(text)})
    return texts


def _listed(parts) -> list:
    """Parts that vLLM validates when they are read, which works once."""
    try:
        return list(parts)
    except ValueError as error:
        reason = (str(error).splitlines()[2:3] or [str(error)])[0].strip()[:200]
        raise ApiError(400, f"a part is wrong ({reason}); these models read text only", param="messages") from None


def _strings(value):
    """Every text in nested lists and dictionaries."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def plain_conversation(messages: list[dict], template_kwargs: dict) -> list[dict] | None:
    """The conversation as training writes it, [{"role", "content"}]; None where a template has more to say of it."""
    extra = {name: value for name, value in template_kwargs.items() if value is not None}
    if any(name not in DEFAULTS or DEFAULTS[name] != value for name, value in extra.items()):
        return None
    plain_messages = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):  # joined as vLLM joins them
            content = "\n".join(part["text"] for part in content) if content else None
        others = [value for name, value in message.items() if name not in ("role", "content") and value]
        if message.get("role") not in ROLES or not isinstance(content, str) or others:
            return None
        plain_messages.append({"role": ROLES[message["role"]], "content": content})
    return plain_messages
