"""A model as evaluations use it, ours or a foreign one: it scores continuations of a context, and answers prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from nanochat.inference.request import SamplingParameters

Report = Callable[[int], None]
"""Receives the number of items that are done."""
Say = Callable[[str], None]
"""Receives what happens before there is something to count."""


@dataclass(frozen=True)
class Context:
    """Ids, and the ids that may follow them. The context is computed once for all of its continuations."""

    ids: tuple[int, ...]
    """Begins with the BOS token if the model wants one."""
    continuations: tuple[tuple[int, ...], ...]
    """None is empty."""


@dataclass(frozen=True)
class Score:
    """How likely a continuation is."""

    nats: tuple[float, ...]
    """Negative log-probability of each token, given those before it."""
    most_likely: tuple[int, ...]
    """The most likely token at each place."""
    greedy: bool
    """Whether the continuation is what greedy decoding gives: `most_likely` is the continuation."""


@dataclass(frozen=True)
class Generated:
    """One answer to a prompt."""

    ids: tuple[int, ...]
    text: str
    complete: bool
    """Whether the answer ended by itself: not at `max_tokens`, nor at the end of the context."""


class LanguageModel(Protocol):
    """A model with its tokenizer. Scores and greedy answers do not depend on what is computed together."""

    name: str
    """As tables show it."""
    context_tokens: int | None
    """The most tokens it can read; None: no limit."""
    bos: int | None
    """The id that begins a context; None if the model was trained without one."""
    separator: int | None
    """The id between two documents: BOS, or the end-of-text token of a model without one."""
    vocabulary_size: int

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        ...

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The ids of a conversation up to the beginning of the assistant's answer."""
        ...

    def score(self, contexts: Sequence[Context], report: Report | None = None) -> Iterator[list[Score]]:
        """The score of each continuation of each context, in the order of the contexts."""
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParameters, answers: int = 1,
        report: Report | None = None,
    ) -> Iterator[list[Generated]]:  # fmt: skip
        """The answers to each prompt, in the order of the prompts; sampled ones depend on the prompt and the seed."""
        ...
