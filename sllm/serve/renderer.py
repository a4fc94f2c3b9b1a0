"""vLLM's renderer for one served model: conversations become the token ids that training would have made of them."""

from vllm.renderers.hf import HfRenderer

from sllm import chat
from sllm.cli import InputError
from sllm.serve.errors import ApiError

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
TEXT_PARTS = {"text", "input_text", "output_text", "refusal", "thinking", None}
# What the endpoints say of a template's arguments where a request says nothing.
DEFAULTS = {"add_generation_prompt": True, "continue_final_message": False, "tokenize": False}


class Renderer(HfRenderer):
    """Plain conversations are rendered by `sllm.chat`, as in training (guarantee 1). Those with tools, template
    arguments or a turn to continue are rendered by vLLM, with the same tokenizer and template.

    Contents are brought to NFC and refused where they hold a control token of this model, on both ways.
    """

    def render_messages(self, messages, params):
        messages = [dict(message) for message in messages]
        for message in messages:
            self._prepare(message)
        plain = plain_conversation(messages, params.chat_template_kwargs | {"template": params.chat_template})
        if plain is None:
            conversation, prompt = super().render_messages(messages, params)
            if "prompt_token_ids" not in prompt:  # the template has written BOS; vLLM would add one for Responses
                ids = self.get_tokenizer()(prompt["prompt"], add_special_tokens=False)["input_ids"]
                prompt = {"prompt_token_ids": ids, "prompt": prompt["prompt"]}
            return conversation, prompt
        try:
            ids = chat.prompt_ids(self.get_tokenizer(), plain)
        except (InputError, ValueError) as error:
            raise ApiError(400, str(error), param="messages") from None
        return plain, {"prompt_token_ids": ids}

    async def render_messages_async(self, messages, params):
        return await self._render_in_pool(messages, params)

    def __init__(self, config, tokenizer):
        from vllm.utils.async_utils import make_async

        super().__init__(config, tokenizer)
        self._render_in_pool = make_async(self.render_messages, executor=self._executor)

    def _prepare(self, message: dict) -> None:
        content = message.get("content")
        if content is not None and not isinstance(content, str):
            try:
                message["content"] = content = list(content)  # vLLM validates the parts when they are read
            except ValueError as error:
                reason = str(error).splitlines()[2:3] or [str(error)]
                message = f"a content part is not a text ({reason[0].strip()[:200]}); these models read text only"
                raise ApiError(400, message, param="messages") from None
        texts = [content] if isinstance(content, str) else []
        if isinstance(content, list):
            message["content"] = content = [dict(part) if isinstance(part, dict) else part for part in content]
            for part in content:
                if isinstance(part, dict) and part.get("type") not in TEXT_PARTS:
                    # before vLLM would fetch what the part names
                    raise ApiError(
                        400, f"these models read text only, not {part.get('type')!r}"[:200], param="messages"
                    )
                if isinstance(part, dict) and isinstance(part.get("text"), str):
                    part["text"] = chat.nfc(part["text"])
                    texts.append(part["text"])
        elif isinstance(content, str):
            message["content"] = chat.nfc(content)
        try:
            chat.refuse_special_tokens(self.get_tokenizer(), [{"content": text} for text in texts])
        except ValueError as error:
            raise ApiError(400, str(error), param="messages") from None


def plain_conversation(messages: list[dict], template_kwargs: dict) -> list[dict] | None:
    """The conversation as training writes it, [{"role", "content"}]; None where a template has more to say of it."""
    extra = {name: value for name, value in template_kwargs.items() if value is not None}
    if any(name not in DEFAULTS or DEFAULTS[name] != value for name, value in extra.items()):
        return None
    plain = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            content = _joined(content)
        others = [value for name, value in message.items() if name not in ("role", "content") and value]
        if message.get("role") not in ROLES or not isinstance(content, str) or others:
            return None
        plain.append({"role": ROLES[message["role"]], "content": content})
    return plain


def _joined(parts: list) -> str | None:
    """The text of a content in parts, joined as vLLM joins them; None where a part is not a text."""
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part for part in parts]
    return "\n".join(texts) if texts and all(isinstance(text, str) for text in texts) else None
