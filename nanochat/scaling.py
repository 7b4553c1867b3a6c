"""From a few knobs to sizes, tokens, steps and rates: arithmetic only, no torch.

`depth` sets the width; width and vocabulary set the parameters; parameters (or an explicit horizon) set the tokens;
tokens set the batch; the batch sets the rates and the weight decay. The rules, with S the parameters of matrices
and head, and `ref` meaning the same model at depth 12:

    tokens         D  = horizon (12 S by default)
    batch          B  = 2^round(log2(2^19 (S / S_ref)^0.383))         Power Lines, arXiv:2505.13738
    rates          x sqrt(B / 2^19)
    Muon's decay   x sqrt(B / 2^19) S_ref / S                         keeps the decay's time scale, in epochs, constant

A batch given by hand follows the same rules: 4,096 tokens scale the rates by 0.088. At width 128 that leaves 0.0018 for
the matrices and 0.065 for the embedding, and (aspect ratio 32, vocabulary 2,048) a decay of 0.52.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from nanochat.config import MAX_INTEGER, Config, Horizon, ModelConfig, PretrainConfig
from nanochat.errors import BadConfig

REFERENCE_DEPTH = 12
REFERENCE_BATCH_TOKENS = 1 << 19
BATCH_EXPONENT = 0.383
VALUE_GATE_CHANNELS = 12
SMEAR_GATE_CHANNELS = 24


class Architecture(Config):
    """Everything that fixes the shapes of a network; written next to its weights as JSON."""

    model: ModelConfig
    """The knobs."""
    vocab_size: Annotated[int, Field(ge=1)]
    """Ids of the vocabulary."""
    sequence_len: Annotated[int, Field(ge=1)]
    """T it is trained with, in tokens."""

    def model_post_init(self, context: object, /) -> None:
        if self.heads % self.model.queries_per_kv_head:
            raise BadConfig(
                f"`model.queries_per_kv_head` = {self.model.queries_per_kv_head} does not divide "
                f"the {self.heads} heads of depth {self.model.depth}.",
                hint=f"Take a divisor of {self.heads}.",
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
        """Query heads."""
        return math.ceil(self.model.depth * self.model.aspect_ratio / self.model.head_dim)

    @property
    def kv_heads(self) -> int:
        return self.heads // self.model.queries_per_kv_head

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def padded_vocab(self) -> int:
        """Rows of the tables: the vocabulary rounded up to a multiple of 64."""
        return math.ceil(self.vocab_size / 64) * 64

    @property
    def value_gate_channels(self) -> int:
        return min(VALUE_GATE_CHANNELS, self.width)

    @property
    def smear_gate_channels(self) -> int:
        return min(SMEAR_GATE_CHANNELS, self.width)

    def windows(self) -> tuple[int, ...]:
        """Tokens each layer looks back, besides the token itself: T, or a quarter of it in whole blocks of 128."""
        long = self.sequence_len
        short = min(long, math.ceil(long / 4 / 128) * 128)
        pattern = self.model.window_pattern
        windows = [long if pattern[layer % len(pattern)] == "L" else short for layer in range(self.depth)]
        return (*windows[:-1], long)

    def has_value_embedding(self, layer: int) -> bool:
        """Every other layer, the last one always."""
        return self.model.value_embeddings and layer % 2 == (self.depth - 1) % 2

    @property
    def value_embedding_layers(self) -> int:
        return sum(self.has_value_embedding(layer) for layer in range(self.depth))

    @property
    def matrix_parameters(self) -> int:
        """Weights of attention, its value gates, and the MLPs: what Muon steps."""
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
        """Residual scalars, smear and backout."""
        smear = self.smear_gate_channels + 1 if self.model.smear else 0
        return (2 * self.depth if self.model.residual_scalars else 0) + smear + (1 if self.model.backout else 0)

    @property
    def scaling_parameters(self) -> int:
        """S of the scaling rules: matrices and head."""
        return self.matrix_parameters + self.head_parameters

    @property
    def parameters(self) -> int:
        """All of them, the token embedding included."""
        tables = self.head_parameters + self.value_table_parameters
        return self.scaling_parameters + tables + self.scalar_parameters

    @property
    def flops_per_token(self) -> int:
        """Forward and backward: 6 per weight of a matrix product, 12 per channel and attended position."""
        smear_gate = self.smear_gate_channels if self.model.smear else 0
        attention = sum(12 * self.width * min(window, self.sequence_len) for window in self.windows())
        return 6 * (self.scaling_parameters + smear_gate) + attention

    def at_depth(self, depth: int) -> Architecture:
        """The same family of models at another depth."""
        model = self.model.model_copy(update={"depth": depth, "queries_per_kv_head": 1})
        return Architecture(model=model, vocab_size=self.vocab_size, sequence_len=self.sequence_len)


@dataclass(frozen=True)
class TrainingPlan:
    """What follows from a pretraining config: how long, in what steps, at what rates."""

    architecture: Architecture
    batch_tokens: int
    """Tokens per optimizer step, over all ranks."""
    steps: int
    lr_scale: float
    """Factor on all rates but smear's."""
    muon_weight_decay: float
    """At the first step; a cosine takes it to 0."""

    @property
    def tokens(self) -> int:
        """Tokens trained on: whole steps."""
        return self.steps * self.batch_tokens

    @property
    def flops(self) -> int:
        return self.tokens * self.architecture.flops_per_token

    @property
    def parameters(self) -> int:
        return self.architecture.parameters

    @property
    def batch_rows(self) -> int:
        """Rows of T tokens in one step, over all ranks."""
        return self.batch_tokens // self.architecture.sequence_len

    def describe(self) -> str:
        """One line for people."""
        shape = f"{self.architecture.depth} layers of {self.architecture.width}, {_short(self.parameters)} parameters"
        return (
            f"{shape}; {self.steps:,} steps of {self.batch_tokens:,} tokens = {_short(self.tokens)} tokens, "
            f"{self.flops:.2g} FLOP"
        )


def lr_scale(batch_tokens: int) -> float:
    """Square root of the batch over 2^19 tokens."""
    return math.sqrt(batch_tokens / REFERENCE_BATCH_TOKENS)


def best_batch_tokens(architecture: Architecture) -> int:
    """The power law of the horizon (arXiv:2505.13738), to the nearest power of two."""
    ratio = architecture.scaling_parameters / architecture.at_depth(REFERENCE_DEPTH).scaling_parameters
    return 1 << round(math.log2(REFERENCE_BATCH_TOKENS * ratio**BATCH_EXPONENT))


def scaled_muon_weight_decay(architecture: Architecture, batch_tokens: int, weight_decay: float) -> float:
    """Weight decay of Muon, from its value at depth 12 and 2^19 tokens a step."""
    reference = architecture.at_depth(REFERENCE_DEPTH).scaling_parameters
    return weight_decay * lr_scale(batch_tokens) * reference / architecture.scaling_parameters


def horizon_tokens(horizon: Horizon, architecture: Architecture, batch_tokens: int) -> int:
    """Tokens that a horizon means, before rounding to whole steps."""
    match horizon.unit:
        case "tokens_per_parameter":
            return int(horizon.amount * architecture.scaling_parameters)
        case "tokens":
            return int(horizon.amount)
        case "steps":
            return int(horizon.amount) * batch_tokens
        case "flops":
            return round(horizon.amount / (architecture.flops_per_token * batch_tokens)) * batch_tokens


def plan_steps(architecture: Architecture, *, batch_tokens: int, steps: int, muon_weight_decay: float) -> TrainingPlan:
    """The plan of a run whose batch and steps are known.

    `muon_weight_decay` is its value as it shall be used. Raises `BadConfig` when the batch is not made of whole rows
    or there is no step.
    """
    rows, rest = divmod(batch_tokens, architecture.sequence_len)
    if rest or not rows:
        near = max(1, round(batch_tokens / architecture.sequence_len)) * architecture.sequence_len
        raise BadConfig(
            f"`batch_tokens` = {batch_tokens:,} is not a multiple of a row's {architecture.sequence_len:,} tokens.",
            hint=f"Take `{near}`.",
        )
    if steps < 1:
        raise BadConfig(
            f"`horizon.amount` is less than one step of `batch_tokens` = {batch_tokens:,}.",
            hint="Train longer, or set a smaller `batch_tokens`.",
        )
    if steps > MAX_INTEGER // batch_tokens:
        raise BadConfig(
            f"`horizon.amount` asks for more tokens than can be counted (at most {MAX_INTEGER:,}).",
            hint="Is its `unit` right?",
        )
    return TrainingPlan(architecture, batch_tokens, steps, lr_scale(batch_tokens), muon_weight_decay)


def plan_training(pretrain: PretrainConfig, vocab_size: int, sequence_len: int) -> TrainingPlan:
    """All numbers of a pretraining run. Raises `BadConfig`, naming the field, when they do not work out."""
    architecture = Architecture(model=pretrain.model, vocab_size=vocab_size, sequence_len=sequence_len)
    batch_tokens = pretrain.batch_tokens or best_batch_tokens(architecture)
    return plan_steps(
        architecture,
        batch_tokens=batch_tokens,
        steps=horizon_tokens(pretrain.horizon, architecture, batch_tokens) // batch_tokens,
        muon_weight_decay=scaled_muon_weight_decay(architecture, batch_tokens, pretrain.optimizer.muon_weight_decay),
    )


def _short(number: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"
