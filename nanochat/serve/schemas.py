"""Bodies of requests. Every optional field may be null, which means its default; unknown fields are ignored.

Types are strict (`"1"` is not a number), and numbers are bounded, so that none is beyond 64 bits.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nanochat.serve.limits import (
    MAX_ANSWERS,
    MAX_BIASES,
    MAX_INTEGER,
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_PROMPTS,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
    MAX_TEXT_CHARACTERS,
    MAX_TOP_LOGPROBS,
)

Text = Annotated[str, Field(max_length=MAX_TEXT_CHARACTERS)]
Stop = Annotated[str, Field(max_length=MAX_STOP_CHARACTERS)]
TokenId = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Ids = Annotated[list[TokenId], Field(max_length=MAX_TEXT_CHARACTERS)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Tokens = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Body(BaseModel):
    """What all bodies have in common."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool | None = None
    """Whether a last chunk, without choices, has the number of tokens."""


class JsonSchema(Body):
    """The schema of an answer."""

    model_config = ConfigDict(populate_by_name=True)

    name: Text | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class ResponseFormat(Body):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class GenerationBody(Body):
    """Fields of both kinds of completions."""

    model: Text | None = None
    """A name from `/v1/models`; by default the first."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-MAX_INTEGER - 1, le=MAX_INTEGER)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=MAX_BIASES)] | None = None
    response_format: ResponseFormat | None = None
    # beyond OpenAI's
    top_k: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    scaled_logprobs: bool | None = None
    """Log-probabilities after temperature, top k, …; otherwise those of the model."""
    return_token_ids: bool | None = None
    """Whether the answer has the ids of its tokens, and of the prompt's."""
    calculator: bool | None = None
    """Whether python blocks of the answer are evaluated."""


class MessagePart(Body):
    """A part of a message: `text`, or the model's own `python` and `python_output`."""

    type: str
    text: Text | None = None


class Calculation(Body):
    """A calculation in an assistant's message, as answers have it."""

    expression: Text
    result: Text | None = None
    offset: Annotated[int, Field(ge=0, le=MAX_INTEGER)]
    """Characters of the content before it."""


class ChatMessage(Body):
    """A message of a conversation."""

    role: str
    content: Text | Annotated[list[MessagePart], Field(max_length=MAX_PARTS)] | None = None
    calculator: Annotated[list[Calculation], Field(max_length=MAX_PARTS)] | None = None
    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]


class ChatBody(GenerationBody):
    """A request for the next message of a conversation."""

    messages: Messages
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    # named to refuse them
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    web_search_options: Any = None


class CompletionBody(GenerationBody):
    """A request to continue texts."""

    prompt: (
        Text
        | Annotated[list[Text], Field(max_length=MAX_PROMPTS)]
        | Ids
        | Annotated[list[Ids], Field(max_length=MAX_PROMPTS)]
    )
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    # named to refuse them
    suffix: Text | None = None
    best_of: int | None = None


class TokenizeBody(Body):
    """A text, or the messages of a conversation."""

    model: Text | None = None
    prompt: Text | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    """Whether a text begins with BOS; by default it does."""
    return_token_strs: bool | None = None


class DetokenizeBody(Body):
    """Ids of tokens."""

    model: Text | None = None
    tokens: Ids
