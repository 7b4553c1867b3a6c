"""The shapes and sizes of the network, computed from its config. Arithmetic only, no torch."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from nanochat.config.base import Config
from nanochat.config.training import ModelConfig
from nanochat.errors import BadConfig

VALUE_GATE_CHANNELS = 12
SMEAR_GATE_CHANNELS = 24
"""Number of leading channels of the residual stream that the gates read: nanochat's choices."""


class Architecture(Config):
    """Everything that determines the shapes of a network; stored next to its weights as `model.json`."""

    model: ModelConfig
    """Settings of the network."""
    vocab_size: Annotated[int, Field(ge=1)]
    """Token ids of the vocabulary."""
    sequence_len: Annotated[int, Field(ge=1)]
    """T, the length of a training row in tokens."""

    def model_post_init(self, context: object, /) -> None:
        if self.heads % self.model.queries_per_kv_head:
            raise BadConfig(
                f"`model.queries_per_kv_head` = {self.model.queries_per_kv_head} does not divide "
                f"the {self.heads} heads of depth {self.model.depth}.",
                hint=f"Use a divisor of {self.heads}.",
            )

    @property
    def depth(self) -> int:
        return self.model.depth

    @property
    def head_dim(self) -> int:
        return self.model.head_dim

    @property
    def width(self) -> int:
        """Channels of the residual stream."""
        return self.heads * self.head_dim

    @property
    def heads(self) -> int:
        """Query heads: depth x aspect ratio / head_dim, rounded up."""
        return math.ceil(self.model.depth * self.model.aspect_ratio / self.model.head_dim)

    @property
    def kv_heads(self) -> int:
        return self.heads // self.model.queries_per_kv_head

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def padded_vocab(self) -> int:
        """Rows of embedding and head: the vocabulary rounded up to a multiple of 64."""
        return math.ceil(self.vocab_size / 64) * 64

    @property
    def value_gate_channels(self) -> int:
        return min(VALUE_GATE_CHANNELS, self.width)

    @property
    def smear_gate_channels(self) -> int:
        return min(SMEAR_GATE_CHANNELS, self.width)

    def windows(self) -> tuple[int, ...]:
        """Earlier tokens that each layer attends to: T, or T/4 rounded up to a multiple of 128; T in the last."""
        long = self.sequence_len
        short = min(long, math.ceil(long / 4 / 128) * 128)
        pattern = self.model.window_pattern
        windows = [long if pattern[layer % len(pattern)] == "L" else short for layer in range(self.depth)]
        return (*windows[:-1], long)

    def has_value_embedding(self, layer: int) -> bool:
        """Whether the layer has a value embedding: every other one, counted back from the last."""
        return self.model.value_embeddings and layer % 2 == (self.depth - 1) % 2

    @property
    def value_embedding_layers(self) -> int:
        return sum(self.has_value_embedding(layer) for layer in range(self.depth))

    @property
    def matrix_parameters(self) -> int:
        """Weights of attention, value gates and MLPs: those that Muon updates."""
        attention = 2 * self.width * self.width + 2 * self.width * self.kv_width
        gates = self.value_embedding_layers * self.kv_heads * self.value_gate_channels
        return self.depth * (attention + 8 * self.width * self.width) + gates

    @property
    def head_parameters(self) -> int:
        return self.padded_vocab * self.width

    @property
    def value_table_parameters(self) -> int:
        return self.value_embedding_layers * self.padded_vocab * self.kv_width

    @property
    def scalar_parameters(self) -> int:
        """Weights of residual scalars, smear and backout."""
        smear = self.smear_gate_channels + 1 if self.model.smear else 0
        return (2 * self.depth if self.model.residual_scalars else 0) + smear + (1 if self.model.backout else 0)

    @property
    def scaling_parameters(self) -> int:
        """S of the scaling rules (`scaling.py`): matrices and head."""
        return self.matrix_parameters + self.head_parameters

    @property
    def parameters(self) -> int:
        """All weights, the embeddings included."""
        tables = self.head_parameters + self.value_table_parameters
        return self.scaling_parameters + tables + self.scalar_parameters

    @property
    def flops_per_token(self) -> int:
        """Forward and backward pass: 6 per weight of a matrix product, 12 per channel and attended position."""
        smear_gate = self.smear_gate_channels if self.model.smear else 0
        attention = sum(12 * self.width * min(window, self.sequence_len) for window in self.windows())
        return 6 * (self.scaling_parameters + smear_gate) + attention

    def at_depth(self, depth: int) -> Architecture:
        """The same model at another depth (without grouped queries, which may not divide its heads)."""
        model = self.model.model_copy(update={"depth": depth, "queries_per_kv_head": 1})
        return Architecture(model=model, vocab_size=self.vocab_size, sequence_len=self.sequence_len)
