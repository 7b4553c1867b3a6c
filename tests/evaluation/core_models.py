"""Small models for CORE."""

from __future__ import annotations

from nanochat.config.training import ModelConfig
from nanochat.model.architecture import Architecture
from nanochat.model.gpt import GPT
from nanochat.tokenizer.bpe import Tokenizer
from tests.inference.models import with_random_weights


def small_model(tokenizer: Tokenizer, row_tokens: int, seed: int = 3) -> GPT:
    """A model in which nothing is 0."""
    config = ModelConfig.model_validate({"depth": 3, "aspect_ratio": 11, "head_dim": 8})
    architecture = Architecture(model=config, vocab_size=tokenizer.vocab_size, sequence_len=row_tokens)
    return with_random_weights(GPT(architecture), seed)
