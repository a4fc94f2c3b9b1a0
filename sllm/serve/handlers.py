"""vLLM's handlers of the generating endpoints, one set for each served model, with our defaults and log-probabilities.

vLLM has one tokenizer and one chat template for all that it serves. Here each adapter has its own (equal ones are
shared), so each model gets handlers of its own over its own `EngineClient`, and `ByModel` finds them by the `model` of
a request.
"""

import copy
from functools import partial
from http import HTTPStatus
from types import SimpleNamespace

from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionLogProbs
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.protocol import CompletionLogProbs
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.tokenize.serving import ServingTokenization
from vllm.renderers.online_renderer import OnlineRenderer

from sllm.serve import grammar, logprobs
from sllm.serve.access_log import current
from sllm.serve.errors import ApiError
from sllm.serve.served_model import ServedModel

# Field that is refused → the reason.
UNSUPPORTED = {
    "kv_transfer_params": "moves caches between engines", "ec_transfer_params": "moves caches between engines",
    "prompt_embeds": "passes by the tokenizer", "mm_processor_kwargs": "these models read text only",
    "priority": "requests are served first come, first served",
}  # fmt: skip
NOT_IN_BEAM_SEARCH = {  # vLLM's beam search drops them without a word; field → the values that ask for nothing
    "stop": (), "stop_token_ids": (), "bad_words": (), "logit_bias": (), "structured_outputs": (), "tools": (),
    "min_tokens": (0,), "presence_penalty": (0,), "frequency_penalty": (0,), "repetition_penalty": (1,),
    "top_p": (1,), "top_k": (0, -1), "min_p": (0,),
}  # fmt: skip


class _Handler:
    """What ours add to a handler of vLLM's. Set by `handlers`."""

    served: ServedModel
    defaults: dict

    async def prepared(self, request):
        """The request with its defaults. ApiError for an output format that cannot be enforced: here a stream has not
        begun, and still is a 400."""
        refuse_unsupported(request)
        if getattr(request, "messages", None) and getattr(request, "add_special_tokens", False):
            message = "the chat template writes the special tokens; add_special_tokens would write BOS twice"
            raise ApiError(400, message, param="add_special_tokens")
        if hasattr(request, "extract_structured_outputs"):
            constraint = request.extract_structured_outputs()
            if constraint is not None:
                if getattr(request, "use_beam_search", False):
                    raise ApiError(400, "beam search cannot follow an output format", param="use_beam_search")
                await grammar.check(constraint, self.served.client)
        return self.fill(request)

    def fill(self, request):
        """Request defaults: the flags', for what the request leaves out or sets to null."""
        for name, value in self.defaults.items():
            if name != "max_tokens" and name in type(request).model_fields:
                if name not in request.model_fields_set or getattr(request, name) is None:
                    setattr(request, name, value)
        return request

    async def beam_search(self, prompt, request_id, params, **kwargs):
        """vLLM ends a beam at the tokenizer's EOS alone: here that is the token that ends this model's turns. A beam
        that holds another one of them is cut there, as in offline inference."""
        stops, record = self.served.stop_token_ids, current.get()
        record.model, record.in_beam_search = self.served.name, True
        decode = partial(self.renderer.get_tokenizer().decode, skip_special_tokens=True)
        tokenizer = SimpleNamespace(eos_token_id=stops[0], decode=decode)  # all that the search asks its renderer for
        handler = copy.copy(self)
        handler.renderer = SimpleNamespace(get_tokenizer=lambda: tokenizer)
        async for output in super(_Handler, handler).beam_search(prompt, request_id, params, **kwargs):
            record.prompt_tokens += len(output.prompt_token_ids)
            for piece in output.outputs:
                ends = [index for index, token in enumerate(piece.token_ids) if token in stops]
                if ends and not params.ignore_eos:
                    piece.token_ids, piece.finish_reason = piece.token_ids[: ends[0]], "stop"
                    piece.text = decode(piece.token_ids)
                piece.text = piece.text.replace("\ufffd", "")
                record.completion_tokens += len(piece.token_ids)
                record.finish_reason = piece.finish_reason
            yield output


def refuse_unsupported(request) -> None:
    """ApiError (400) for a field that would be dropped, or that this server does not let in."""
    for name, reason in UNSUPPORTED.items():
        if getattr(request, name, None):
            raise ApiError(400, f"{name} is not supported: {reason}", param=name, code="unsupported_field")
    if getattr(request, "use_beam_search", False):
        for name, neutral in NOT_IN_BEAM_SEARCH.items():
            value = getattr(request, name, None) if name in request.model_fields_set else None
            if (value and value not in neutral) or (value == 0 and name in ("top_p", "repetition_penalty")):
                raise ApiError(400, f"beam search has no {name}", param=name, code="unsupported_field")


class Chat(_Handler, OpenAIServingChat):
    async def create_chat_completion(self, request, raw_request=None):
        return await super().create_chat_completion(await self.prepared(request), raw_request)

    def _create_chat_logprobs(self, token_ids, top_logprobs, *args, **kwargs):
        if kwargs.get("return_as_token_id") or kwargs.get("logprob_token_ids") or None in top_logprobs:
            return super()._create_chat_logprobs(token_ids, top_logprobs, *args, **kwargs)
        top = kwargs.get("num_output_top_logprobs") or 0
        top = top if top >= 0 else len(self.served.tokenizer)
        return ChatCompletionLogProbs(**logprobs.chat_logprobs(self.served.vocabulary, token_ids, top_logprobs, top))


class Messages(Chat, AnthropicServingMessages):
    """Anthropic's API, which vLLM answers through chat."""


class Completion(_Handler, OpenAIServingCompletion):
    async def create_completion(self, request, raw_request=None):
        if raw_request is not None and raw_request.scope["sllm.json"].get("max_tokens") is None:
            request.max_tokens = None  # vLLM puts OpenAI's default, 16, where nothing was given
        return await super().create_completion(await self.prepared(request), raw_request)

    async def render_completion_request(self, request):
        inputs = await super().render_completion_request(request)
        if request.max_tokens is None:  # each prompt has what the context leaves of it
            request.max_tokens = self.defaults["max_tokens"]
        return inputs

    def _create_completion_logprobs(self, token_ids, top_logprobs, num_output_top_logprobs, **kwargs):
        if kwargs.get("return_as_token_id") or kwargs.get("logprob_token_ids"):
            return super()._create_completion_logprobs(token_ids, top_logprobs, num_output_top_logprobs, **kwargs)
        offset, vocabulary = logprobs.Offset(kwargs.get("initial_text_offset", 0)), self.served.vocabulary
        top = num_output_top_logprobs or 0
        return CompletionLogProbs(**logprobs.text_logprobs(vocabulary, token_ids, top_logprobs, top, offset))


class Responses(_Handler, OpenAIServingResponses):
    async def create_responses(self, request, raw_request=None):
        return await super().create_responses(await self.prepared(request), raw_request)


def handlers(served: ServedModel, *, path: str, defaults: dict, parsers: dict) -> SimpleNamespace:
    """The handlers of one model, by the names that vLLM's routes look for in the app's state.

    Args:
        path: folder or id of the model that is loaded.
        defaults: request defaults; see `_Handler.fill`.
        parsers: `tool_parser` and `reasoning_parser`, vLLM's names or None.
    """
    client = served.client
    models = OpenAIServingModels(client, [BaseModelPath(name=served.name, model_path=path)])
    template = {"chat_template": None, "chat_template_content_format": "auto"}
    parsing = {
        "tool_parser": parsers["tool_parser"],
        "reasoning_parser": parsers["reasoning_parser"] or "",
        "enable_auto_tools": parsers["tool_parser"] is not None,
    }
    renderer = OnlineRenderer(client.model_config, client.renderer, request_logger=None, **template, **parsing)
    shared = {"online_renderer": renderer, "request_logger": None}
    by_attribute = SimpleNamespace(
        openai_serving_models=models,
        openai_serving_chat=Chat(client, models, "assistant", **shared, **template, **parsing),
        openai_serving_completion=Completion(client, models, **shared),
        openai_serving_responses=Responses(client, models, **shared, **template, **parsing),
        anthropic_serving_messages=Messages(client, models, "assistant", **shared, **template, **parsing),
        serving_tokenization=ServingTokenization(models, renderer, request_logger=None, **template),
    )
    for handler in vars(by_attribute).values():
        if isinstance(handler, _Handler):
            handler.served, handler.defaults = served, defaults
            handler.default_sampling_params = dict(defaults)  # where max_tokens, and Anthropic's fields, come from
    return by_attribute


class ByModel:
    """One of vLLM's handlers as its routes see it: reserves capacity and passes a call on to the handler of the model
    that the request names."""

    def __init__(self, attribute: str, models, capacity):
        self._attribute, self._models, self._capacity = attribute, models, capacity

    def __getattr__(self, name: str):
        async def call(request, *args, **kwargs):
            record = current.get()
            served = self._models.use(request.model, record)
            record.stream = getattr(request, "stream", None)
            if name in ("create_chat_completion", "create_completion", "create_responses", "create_messages"):
                self._capacity.take(record, sequences(request))
            return await getattr(self._of(served), name)(request, *args, **kwargs)

        async def call_and_return_errors(*args, **kwargs):
            try:
                return await call(*args, **kwargs)
            except ApiError as error:  # vLLM's route would make a 500 of it
                current.get().error = error  # whose headers `ErrorFormat` writes
                return create_error_response(error.detail, status_code=HTTPStatus(error.status_code))

        return call_and_return_errors if self._attribute == "anthropic_serving_messages" else call

    def _of(self, served: ServedModel):
        if served.handlers is None:
            raise ApiError(503, "the server is loading", code="loading", headers={"Retry-After": "5"})
        return getattr(served.handlers, self._attribute)


def sequences(request) -> int:
    """How many sequences a request of vLLM's needs at once."""
    n = getattr(request, "n", None) or 1
    if n < 1 or n > 10_000:
        raise ApiError(400, "n must be a positive number", param="n")
    prompt = getattr(request, "prompt", None)
    is_list_of_prompts = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return n * (len(prompt) if is_list_of_prompts else 1)
