"""Bounds of a request, checked before it is queued."""

from __future__ import annotations

import math
import numbers

from nanochat.config.base import MAX_INTEGER
from nanochat.errors import BadConfig
from nanochat.inference.request import Request, SamplingParameters

MAX_ANSWERS = 1024
MAX_TEMPERATURE = 100.0
"""Logits divided by a higher one are all equal in fp32."""
MIN_TEMPERATURE = 1e-3
"""A lower temperature counts as 0: logits divided by it would overflow."""
MAX_STOPS, MAX_STOP_CHARACTERS = 64, 1000
MAX_TOP_LOGPROBS = 100

BOUNDS: dict[str, tuple[float, float]] = {
    "temperature": (0, MAX_TEMPERATURE),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 100),
    "presence_penalty": (-100, 100),
    "frequency_penalty": (-100, 100),
}
INTEGER_BOUNDS: dict[str, tuple[int, int]] = {
    "max_tokens": (0, MAX_INTEGER),
    "top_k": (0, MAX_INTEGER),
    "seed": (0, MAX_INTEGER),
    "logprobs": (0, MAX_TOP_LOGPROBS),
    "prompt_logprobs": (0, MAX_TOP_LOGPROBS),
}


def validate(request: Request, context_tokens: int, vocab_size: int) -> None:
    """Raises `BadConfig`, naming the field, for a request that the engine cannot answer."""
    prompt, sampling = request.prompt, request.sampling
    if not len(prompt):
        raise BadConfig("The prompt has no tokens.", hint="Begin it with BOS.")
    _within("answers", request.answers, 1, MAX_ANSWERS)
    _validate_sampling(sampling, vocab_size)
    room = 1 if sampling.max_tokens else 0
    if len(prompt) + room > context_tokens:
        raise BadConfig(
            f"The prompt has {len(prompt):,} tokens, the context {context_tokens:,}.",
            hint="Shorten the prompt, or drop the oldest messages.",
        )
    if not all(isinstance(token, numbers.Integral) and 0 <= token < vocab_size for token in prompt):
        raise BadConfig(f"The prompt has a token that is not an id from 0 to {vocab_size - 1:,}.")


def _validate_sampling(sampling: SamplingParameters, vocab_size: int) -> None:
    for name, (low, high) in BOUNDS.items():
        value = getattr(sampling, name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise BadConfig(f"`{name}` is {value}.", hint=f"Use {low:g} to {high:g}.")
    for name, bounds in INTEGER_BOUNDS.items():
        if getattr(sampling, name) is not None:
            _within(name, getattr(sampling, name), *bounds)
    if not sampling.top_p:
        raise BadConfig("`top_p` is 0.", hint="Use more than 0, or `temperature` 0 for the most likely token.")
    if isinstance(sampling.stop, str):
        raise BadConfig(f"`stop` is the text `{sampling.stop[:40]}`.", hint="Use a tuple of strings.")
    if len(sampling.stop) > MAX_STOPS or not all(0 < len(stop) <= MAX_STOP_CHARACTERS for stop in sampling.stop):
        raise BadConfig(
            "`stop` has too many strings, or one that is empty or too long.",
            hint=f"Use at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARACTERS:,} characters.",
        )
    for token, bias in sampling.logit_bias.items():
        if not 0 <= token < vocab_size or not math.isfinite(bias):
            raise BadConfig(
                f"`logit_bias` has {bias} for the id {token}.",
                hint=f"Use a number, for ids from 0 to {vocab_size - 1:,}.",
            )


def _within(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BadConfig(f"`{name}` is {value}.", hint=f"Use a whole number from {low} to {high:,}.")
