"""What answers look like, for the OpenAPI document; the server writes them itself (`wire`, `reply`)."""

from typing import Any, Literal

from pydantic import BaseModel, Field


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    error: ErrorBody


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class AnswerMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None = None


FinishReason = Literal["stop", "length"]


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    token_ids: list[int] | None = None


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | None = None


class TextLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class TextCompletion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class Verdict(BaseModel):
    """One rule of the task."""

    rule: str
    ok: bool
    reason: str | None = Field(description="왜 어겼는지")


class Conformance(BaseModel):
    ok: bool
    rules: list[Verdict]


class AnyMessage(BaseModel):
    role: str
    content: str


class TaskAnswer(BaseModel):
    id: str
    object: Literal["task.answer"]
    created: int
    model: str
    task: str
    answer: str
    finish_reason: FinishReason
    conformance: Conformance
    messages: list[AnyMessage] = Field(description="the prompt that was built from the fields")
    usage: Usage
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None


class TaskField(BaseModel):
    name: str
    description: str
    required: bool


class TaskEntry(BaseModel):
    id: str
    name_ko: str
    name_en: str
    style: str
    fields: list[TaskField]
    question: str | None = Field(description="the instruction that is used when the request gives none")
    rules: list[str]
    length_ratio: list[float | None] | None = Field(description="least and greatest length relative to the context")
    system_prompt: str
    example: dict[str, Any] | None = Field(description="fields of a real request, to start from")


class TaskList(BaseModel):
    object: Literal["list"]
    data: list[TaskEntry]


class ModelCard(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: Literal["base", "sft", "dpo", "merged", "model", "adapter"]
    parent: str | None
    chat_template_sha256: str
    max_model_len: int


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelCard]


class Tokens(BaseModel):
    count: int
    tokens: list[int]
    max_model_len: int


class Status(BaseModel):
    status: Literal["ok", "loading", "ready", "draining", "dead"]
