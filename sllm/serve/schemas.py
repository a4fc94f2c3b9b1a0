"""What requests look like: OpenAI's fields, vLLM's extras, and the task endpoints.

A field that is not listed here is refused, with the reason where there is one: nothing that would change an answer is
ignored in silence. Fields that change nothing at the value given (`tools: []`, `best_of: 1`) are let through.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

# field → (values that change nothing, why others are refused)
REFUSED = {
    "use_beam_search": ((False,), "the async engine has no beam search; use vllm_inference.py --use_beam_search"),
    "length_penalty": ((1, 1.0), "it belongs to beam search, which vllm_inference.py has"),
    "early_stopping": ((False,), "it belongs to beam search, which vllm_inference.py has"),
    "tools": (([],), "these models are not trained to call tools"),
    "tool_choice": (("none", "auto"), "these models are not trained to call tools"),
    "parallel_tool_calls": ((True, False), "these models are not trained to call tools"),
    "functions": (([],), "these models are not trained to call functions"),
    "function_call": (("none", "auto"), "these models are not trained to call functions"),
    "best_of": ((1,), "ask for n answers and choose among them"),
    "suffix": (("",), "these models do not fill in the middle"),
    "echo": ((False,), "the prompt is not repeated; /v1/tokenize shows how it is read"),
    "prompt_logprobs": ((), "log-probabilities are given for the answer only"),
    "modalities": ((["text"],), "these models read and write text"),
    "audio": ((), "these models read and write text"),
    "prediction": ((), "predicted outputs are not supported"),
    "reasoning_effort": (("none",), "these models do not reason in a separate channel"),
    "verbosity": ((), "ask for the length you want in the prompt"),
    "web_search_options": ((), "this server does not search the web"),
    "chat_template": ((), "the template is the one that the model was trained with; a change would break parity"),
    "chat_template_kwargs": (({},), "the template is the one that the model was trained with"),
    "add_generation_prompt": ((True,), "a chat request always asks for the next assistant turn"),
    "continue_final_message": ((False,), "a chat request always asks for the next assistant turn"),
    "truncate_prompt_tokens": ((), "a prompt too long is refused, never cut"),
    "service_tier": (("auto", "default"), "there is one tier"),
    "store": ((False,), "this server stores nothing"),
    # of a message that a client appends as it got it
    "tool_calls": (([],), "these models are not trained to call tools"),
    "annotations": (([],), "these models do not cite"),
}
_HARMLESS = {"metadata", "safety_identifier", "prompt_cache_key"}  # of OpenAI; change no answer


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_what_changes_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data

        known = {field.alias or name for name, field in cls.model_fields.items()}

        def changes_nothing(name, value) -> bool:
            if name in known:
                return False
            return value is None or name in _HARMLESS or (name in REFUSED and value in REFUSED[name][0])

        return {name: value for name, value in data.items() if not changes_nothing(name, value)}


class Top(Strict):
    """A whole body. JSON can hold half of a surrogate pair (a client that cut an emoji in two), which is no text."""

    @model_validator(mode="before")
    @classmethod
    def _is_unicode(cls, data: Any) -> Any:
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise PydanticCustomError("unicode", "a text holds half of a surrogate pair") from None
        except (TypeError, ValueError, RecursionError):
            pass  # no JSON: the validation that follows says so
        return data


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _content(value: Any) -> Any:
    """OpenAI's list of text parts, joined by line breaks as vLLM joins them."""
    if not isinstance(value, list):
        return value
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise PydanticCustomError("text_part", "every part must be a text part; these models read text only")
    return "\n".join(part["text"] for part in value)


_STRING = {"type": "string"}
_STRINGS = {"type": "array", "items": _STRING}
Content = Annotated[
    str,
    BeforeValidator(_content),
    WithJsonSchema(
        {
            "anyOf": [
                _STRING,
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"type": {"const": "text"}, "text": _STRING},
                        "required": ["type", "text"],
                    },
                },
            ]
        }
    ),
]
Stop = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200)]],
    BeforeValidator(_texts),
    Field(max_length=16),
    WithJsonSchema({"anyOf": [_STRING, _STRINGS]}),
]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class StreamOptions(Strict):
    include_usage: bool = Field(False, description="one more chunk at the end, with the usage of the whole request")
    include_obfuscation: bool | None = Field(None, description="accepted; nothing is padded")


class JsonSchema(Strict):
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _together(self):
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError("json_schema", "json_schema belongs to type json_schema, which needs it")
        return self


class Sampling(Top):
    """How an answer is sampled. What a request leaves out is set by the server's flags of the same names."""

    model: str | None = Field(None, description="a name of GET /v1/models; left out: the first of them")
    max_tokens: int | None = Field(None, ge=1, description="of the answer; prompt and answer have to fit the context")
    temperature: float | None = Field(None, ge=0, le=2, description="0: greedy")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31, description="0 or -1: all tokens")
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    min_tokens: int | None = Field(None, ge=0, description="before an answer may end")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="the same seed and request give the same answer")
    stop: Stop | None = Field(None, description="texts that end an answer and are left out of it")
    stop_token_ids: list[TokenId] | None = Field(None, max_length=128)
    ignore_eos: bool | None = Field(None, description="run to max_tokens, for measurements")
    include_stop_str_in_output: bool | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, description="token id → added to its logit"
    )
    response_format: ResponseFormat | None = None
    stream: bool | None = Field(None, description="server-sent events, ended by [DONE]")
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="accepted; not used")
    return_token_ids: bool | None = Field(None, description="add token ids of prompt and answer")

    @model_validator(mode="after")
    def _agree(self):
        if self.stream_options and not self.stream:
            raise PydanticCustomError("stream_options", "stream_options is only for stream: true")
        return self


class Many(Sampling):
    n: int | None = Field(None, ge=1, le=128, description="answers to each prompt")


class Message(Strict):
    """A message; an assistant's may be sent back as the client got it, with its null fields."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content


class ChatRequest(Many):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "messages": [
                        {"role": "system", "content": "당신은 질문에 한국어로 답하는 도우미입니다."},
                        {"role": "user", "content": "물은 몇 도에서 끓나요?"},
                    ],
                    "temperature": 0,
                    "max_tokens": 64,
                }
            ]
        }
    )
    messages: list[Message] = Field(min_length=1, max_length=2048)
    max_completion_tokens: int | None = Field(None, ge=1, description="OpenAI's newer name of max_tokens")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def _names(self):
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "top_logprobs needs logprobs: true")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise PydanticCustomError("max_tokens", "max_tokens and max_completion_tokens differ; give one")
        self.max_tokens = self.max_tokens or self.max_completion_tokens
        return self


def _prompts(value: Any) -> Any:
    """Every form of OpenAI's `prompt` as a list of prompts, each a text or a list of token ids."""
    if isinstance(value, str) or (isinstance(value, list) and value and all(type(v) is int for v in value)):
        return [value]
    return value


class CompletionRequest(Many):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "옛날 어느 마을에", "max_tokens": 32, "temperature": 0}]}
    )
    prompt: Annotated[
        list[Annotated[str, Field(min_length=1)] | Annotated[list[TokenId], Field(min_length=1)]],
        BeforeValidator(_prompts),
        Field(min_length=1, max_length=256),
        WithJsonSchema(
            {
                "anyOf": [
                    _STRING,
                    _STRINGS,
                    {"type": "array", "items": {"type": "integer"}},
                    {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
                ]
            }
        ),
    ] = Field(description="text or token ids, one or several; no chat template is put around it")
    logprobs: int | None = Field(None, ge=0, le=20)


class TaskRequest(Sampling):
    """The fields of the task (GET /v1/tasks says which), and how to answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "context": "제주도는 화산 활동으로 생긴 섬이다. 섬 가운데에는 높이 1,947m의 한라산이 있다.",
                    "question": "한라산의 높이는 얼마인가?",
                    "temperature": 0,
                    "max_tokens": 64,
                }
            ]
        }
    )
    context: str | None = None
    question: str | None = None
    choices: list[str] | None = None
    title: str | None = None
    table: str | None = Field(None, description="an HTML table")
    text: str | None = None

    def fields(self) -> dict[str, Any]:
        names = ("context", "question", "choices", "title", "table", "text")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


class TokenizeRequest(Top):
    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "안녕하세요"}]})
    model: str | None = None
    messages: list[Message] | None = Field(None, min_length=1, max_length=2048)
    text: str | None = None

    @model_validator(mode="after")
    def _one(self):
        if (self.messages is None) == (self.text is None):
            raise PydanticCustomError("one_of", "give messages (with the chat template around them) or text")
        return self


FIELDS = sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields, *TaskRequest.model_fields})
