"""Small models for the engine: a random network in which nothing is 0, and a decoder that follows a script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat.config.training import ModelConfig
from nanochat.inference.decoder import Block, Rows
from nanochat.inference.engine import Engine, EngineSettings
from nanochat.inference.request import Answer, Request, SamplingParameters
from nanochat.model.architecture import Architecture
from nanochat.model.gpt import GPT
from nanochat.tokenizer.bpe import Tokenizer

TOKENIZER = Tokenizer.from_merges([])
"""One token per byte, and the special tokens."""
PROMPTS = [[TOKENIZER.bos, 5, 9, 9, 200], [TOKENIZER.bos], [TOKENIZER.bos, *range(40, 70)]]


def built(sequence_len: int = 256, seed: int = 1, **options: Any) -> GPT:
    """A model in which nothing is 0, so that nothing hides; some of its layers see a window only."""
    config = ModelConfig.model_validate({"depth": 3, "aspect_ratio": 11, "head_dim": 8} | options)
    architecture = Architecture(model=config, vocab_size=TOKENIZER.vocab_size, sequence_len=sequence_len)
    return with_random_weights(GPT(architecture), seed)


def with_random_weights(model: GPT, seed: int) -> GPT:
    model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model.eval()


def without_cache(model: GPT, prompt: Sequence[int], tokens: int) -> list[int]:
    """The greedy continuation, each token from a pass over everything before it."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(tokens):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def greedy(prompt: Sequence[int], max_tokens: int = 12, **parameters: Any) -> Request:
    """A request whose answer has exactly `max_tokens` tokens, unless a parameter ends it."""
    values: dict[str, Any] = {"max_tokens": max_tokens, "ignore_end": True, "calculator": False} | parameters
    return Request(prompt=prompt, sampling=SamplingParameters(**values))


def ids_of(answers: Sequence[Sequence[Answer]]) -> list[list[int]]:
    """The ids of the first answer of each request."""
    return [list(answer[0].ids) for answer in answers]


def tokens_of(*words: str) -> list[int]:
    """Ids of texts and of the names of special tokens."""
    return [
        token
        for word in words
        for token in ([TOKENIZER.special(word)] if word.startswith("<|") else TOKENIZER.encode(word))
    ]


class Scripted:
    """A decoder after which the next token at each position is that of a script, whatever it is given."""

    script: Sequence[int] = ()
    vocab_size = TOKENIZER.vocab_size
    longest_run_tokens = kept_tokens = 512
    cache_bytes = 0

    def __init__(self, model: GPT, slots: int, context_tokens: int, *_: object) -> None:
        self.context_tokens = context_tokens
        self.seen: list[int] = []

    def forward(self, rows: Rows) -> Tensor:
        self.seen += rows.ids
        return torch.tensor(rows.positions)

    def logits(self, hidden_NC: Tensor) -> Tensor:
        next_N = torch.tensor([self.script[int(position)] for position in hidden_NC])
        return torch.nn.functional.one_hot(next_N, self.vocab_size).float() * 10

    def save(self, slot: int, start: int, stop: int) -> Block:
        return (torch.empty(0),)

    def load(self, slot: int, start: int, block: Block) -> None:
        pass


def scripted(
    monkeypatch: pytest.MonkeyPatch,
    script: Sequence[int],
    tokenizer: Tokenizer = TOKENIZER,
    settings: EngineSettings = EngineSettings(),
) -> Engine:
    """An engine whose model generates this script after a prompt of one token."""
    monkeypatch.setattr("nanochat.inference.engine.make_decoder", Scripted)
    monkeypatch.setattr(Scripted, "script", [*script, *[0] * 64])
    monkeypatch.setattr(Scripted, "vocab_size", tokenizer.vocab_size)
    model = built()
    model.architecture = model.architecture.model_copy(update={"vocab_size": tokenizer.vocab_size})
    return Engine(model, tokenizer, settings)
