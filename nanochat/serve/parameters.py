"""The parameters of a request as the engine's. A parameter that cannot be honoured is refused by its name."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

from nanochat.errors import BadConfig
from nanochat.inference.request import Grammar, SamplingParameters
from nanochat.serve.error_envelope import invalid
from nanochat.serve.grammar import grammar
from nanochat.serve.schemas import ChatBody, CompletionBody, GenerationBody
from nanochat.tokenizer.bpe import Tokenizer

TEMPERATURE, TOP_K = 0.6, 50
"""Defaults, those of `nanochat chat`."""
COMPLETION_TOKENS = 16
"""Default of `max_tokens` for `/v1/completions`, as OpenAI's."""
NO_TOOLS = ("none", "auto")
"""Values of `tool_choice` with which a request without tools has no tool call."""
SEED_BITS = 63


def refuse_unsupported(body: ChatBody | CompletionBody) -> None:
    """Raises `ApiError`, 400, for a parameter whose meaning would be lost. Values that ask for nothing pass."""
    wanted: dict[str, Any] = {}
    if isinstance(body, ChatBody):
        wanted = {name: getattr(body, name) for name in ("tools", "functions", "audio", "web_search_options")}
        wanted["tool_choice"] = body.tool_choice if body.tool_choice not in NO_TOOLS else None
        wanted["function_call"] = body.function_call if body.function_call not in NO_TOOLS else None
        wanted["modalities"] = body.modalities if body.modalities != ["text"] else None
        if body.top_logprobs is not None and not body.logprobs:
            raise invalid("`top_logprobs` needs `logprobs`: true.", "top_logprobs")
    else:
        wanted = {"suffix": body.suffix, "best_of": body.best_of if body.best_of != (body.n or 1) else None}
    for name, value in wanted.items():
        if value:
            raise invalid(f"This server does not support `{name}`.", name, "unsupported_parameter")
    if body.stream_options is not None and not body.stream:
        raise invalid("`stream_options` needs `stream`: true.", "stream_options")


def sampling_parameters(
    body: ChatBody | CompletionBody, context_tokens: int, prompt_tokens: int, vocabulary: int
) -> SamplingParameters:
    """The engine's parameters. An answer ends at the end of the context at the latest. Raises `ApiError`: 400."""
    if prompt_tokens >= context_tokens:
        raise invalid(
            f"The prompt has {prompt_tokens:,} tokens; with an answer, the model's context has {context_tokens:,}.",
            "messages" if isinstance(body, ChatBody) else "prompt", "context_length_exceeded",
        )  # fmt: skip
    logprobs, prompt_logprobs = _logprobs(body)
    return SamplingParameters(
        max_tokens=_max_tokens(body, context_tokens, prompt_tokens),
        temperature=TEMPERATURE if body.temperature is None else body.temperature,
        top_k=TOP_K if body.top_k is None else min(body.top_k, vocabulary),
        top_p=1.0 if body.top_p is None else body.top_p,
        min_p=body.min_p or 0.0,
        seed=secrets.randbits(SEED_BITS) if body.seed is None else body.seed % (1 << SEED_BITS),
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=_biases(body, vocabulary),
        stop=_stops(body),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        scaled_logprobs=bool(body.scaled_logprobs),
        ignore_end=_scores_prompt(body),
        calculator=isinstance(body, ChatBody) if body.calculator is None else body.calculator,
    )


async def grammar_factory(body: GenerationBody, tokenizer: Tokenizer) -> Callable[[], Grammar] | None:
    """Makes the grammar of an answer that must be JSON; None for ordinary text. Raises `ApiError`: 400."""
    if body.response_format is None:
        return None
    wanted = body.response_format.model_dump(by_alias=True, exclude_none=True)
    try:
        return await asyncio.to_thread(grammar, wanted, tokenizer)  # a large schema takes a while
    except BadConfig as error:
        raise invalid(str(error), "response_format") from error


def _max_tokens(body: ChatBody | CompletionBody, context_tokens: int, prompt_tokens: int) -> int:
    limit, name = body.max_tokens, "max_tokens"
    if isinstance(body, ChatBody) and body.max_completion_tokens is not None:
        limit, name = body.max_completion_tokens, "max_completion_tokens"
    room = context_tokens - prompt_tokens
    if limit is None:
        return room if isinstance(body, ChatBody) else min(room, COMPLETION_TOKENS)
    if limit > context_tokens:
        raise invalid(f"`{name}` is {limit}, but the model's context has {context_tokens:,} tokens.", name)
    if limit == 0 and not (isinstance(body, CompletionBody) and body.echo):
        raise invalid(f"`{name}` is 0: only a completion with `echo` may have no new token.", name)
    return min(limit, room)


def _scores_prompt(body: GenerationBody) -> bool:
    """Whether only the prompt's log-probabilities matter. Evaluators drop exactly one token after it, even an end."""
    return isinstance(body, CompletionBody) and bool(body.echo) and body.logprobs is not None and body.max_tokens == 1


def _stops(body: GenerationBody) -> tuple[str, ...]:
    given = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return tuple(each for each in given if each)


def _biases(body: GenerationBody, vocabulary: int) -> dict[int, float]:
    biases: dict[int, float] = {}
    for token, bias in (body.logit_bias or {}).items():
        if not (token.isascii() and token.isdecimal() and len(token) < 20 and int(token) < vocabulary):
            raise invalid(f"`logit_bias` has `{token[:40]}`, which is not an id of the vocabulary.", "logit_bias")
        biases[int(token)] = bias
    return biases


def _logprobs(body: ChatBody | CompletionBody) -> tuple[int | None, int | None]:
    """How many most likely tokens the answer's tokens have, and the prompt's; None for no log-probabilities."""
    if isinstance(body, ChatBody):
        return (body.top_logprobs or 0) if body.logprobs else None, None
    return body.logprobs, body.logprobs if body.echo else None
