"""Rollouts: sampled answers, with what training needs of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nanochat.rl.problems import Problem
from nanochat.rl.rewards import GivenAnswer, Reward


@dataclass(frozen=True)
class Prompt:
    """A problem at its position in the order, with the ids of its prompt."""

    position: int
    problem: Problem
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Rollout:
    """One sampled answer."""

    prompt: Prompt
    sample: int
    """Number in its group."""
    ids: tuple[int, ...]
    """The answer, with the end token that was sampled."""
    sampled: tuple[bool, ...]
    """For each id, whether the model sampled it; the calculator wrote the others."""
    logprobs: tuple[float, ...]
    """For each id, its log-probability (nats) under the temperature and top-k that were used."""
    text: str
    """What the user sees."""
    written: str
    """The answer with its special tokens and what the calculator wrote."""
    truncated: bool
    ended: bool
    """Whether the last id is an end token."""
    reward: Reward | None = None

    @property
    def given(self) -> GivenAnswer:
        return GivenAnswer(self.prompt.problem, self.text, len(self.ids))

    def rewarded(self, reward: Reward) -> Rollout:
        return replace(self, reward=reward)
