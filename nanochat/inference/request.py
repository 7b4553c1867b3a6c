"""What an engine is requested to do, and what it returns.

An answer depends on its prompt, its sampling parameters, its seed and its number among the answers of the request; not
on other requests, the cache or the order of arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

FinishReason = Literal["stop", "length", "cancelled"]
"""`stop`: an end token, a stop string or stop id; `length`: `max_tokens` or the end of the context."""
PartKind = Literal["text", "python", "python_output"]


class Grammar(Protocol):
    """The tokens that one answer may continue with, for answers that must be JSON."""

    @property
    def complete(self) -> bool:
        """Whether the answer may end here. An end token in an answer that is not complete cuts it off: `length`."""
        ...

    def allowed(self) -> np.ndarray:
        """(V,) bool: whether each id may come next. End tokens are where the answer is complete, or cannot continue."""
        ...

    def accept(self, token: int) -> None:
        """The answer continues with this id."""
        ...


@dataclass(frozen=True, kw_only=True)
class SamplingParameters:
    """How tokens are chosen, and when an answer ends."""

    max_tokens: int = 256
    temperature: float = 0.0
    """0 always takes the most likely token."""
    top_k: int = 0
    """Sample among this many most likely tokens; 0: all."""
    top_p: float = 1.0
    """Sample among the fewest tokens whose probabilities add up to this."""
    min_p: float = 0.0
    """Sample among tokens with at least this fraction of the most likely token's probability."""
    seed: int = 42
    repetition_penalty: float = 1.0
    """Divides positive logits, and multiplies negative ones, of tokens in the prompt or answer (arXiv:1909.05858)."""
    presence_penalty: float = 0.0
    """Subtracted once from the logits of tokens in the answer."""
    frequency_penalty: float = 0.0
    """Subtracted from the logits of tokens in the answer, once per occurrence."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these ids."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these strings."""
    stop_ids: frozenset[int] = frozenset()
    """The answer ends before the first of these ids, in addition to the end tokens."""
    ignore_end: bool = False
    """Whether end tokens are ordinary tokens: for measurements."""
    logprobs: int | None = None
    """Log-probabilities of the sampled tokens, and of this many most likely ones; None: none."""
    prompt_logprobs: int | None = None
    """The same for the tokens of the prompt."""
    scaled_logprobs: bool = False
    """Log-probabilities of the distribution that was sampled from; otherwise those of the model's logits."""
    calculator: bool = True
    """Whether python blocks are evaluated, and their result is inserted into the answer."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt with one or more answers."""

    prompt: Sequence[int]
    sampling: SamplingParameters = SamplingParameters()
    answers: int = 1
    """Independent samples of the prompt, which is computed once."""
    grammar: Callable[[], Grammar] | None = None
    """Makes the grammar of one answer."""
    cache_salt: str = ""
    """Requests share cached prefixes only with requests of the same salt, so that a client cannot find out by time what
    other clients sent."""


@dataclass(frozen=True)
class TokenLogprob:
    """Log-probability of a token in nats, and the most likely tokens at its position, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Part:
    """A piece of an answer: text, an expression for the calculator, or its result."""

    kind: PartKind
    text: str


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What a step appended to one answer. Joined, the deltas of an answer are the whole answer.

    A token is in a delta together with the last character of its text: incomplete characters, and text that may become
    a stop string, are held back with their tokens.
    """

    request: int
    """Number of the request, from `Engine.submit`."""
    answer: int
    """Number of the answer in the request."""
    ids: tuple[int, ...] = ()
    forced: tuple[bool, ...] = ()
    """For each id, whether the calculator wrote it: the model did not sample it."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each id, if the request wants them."""
    parts: tuple[Part, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    """In the first delta of answer 0, one for each token of the prompt; the first is None."""
    finish: FinishReason | None = None
    """In the last delta only."""
    stopped_by: str | int | None = None
    """The stop string or id that ended the answer."""
    end: TokenLogprob | None = None
    """The end token or stop id that was sampled, which is not part of the answer; only with `logprobs`."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer. Without the end token, or the stop string or id, that ended it."""

    ids: tuple[int, ...]
    forced: tuple[bool, ...]
    parts: tuple[Part, ...]
    finish: FinishReason
    stopped_by: str | int | None = None
    end: TokenLogprob | None = None
    """The end token or stop id that was sampled; only with `logprobs`, and if no stop string ended the answer."""
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join(part.text for part in self.parts if part.kind == "text")
