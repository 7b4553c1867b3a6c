"""Derives the hyperparameters of a training run from its config. Arithmetic only, no torch.

`depth` sets the width; width and vocabulary set the parameters; parameters (or an explicit horizon) set the tokens;
tokens set the batch; the batch sets the learning rates and the weight decay. The rules, where S is the number of
parameters in the matrices and the head, and S_ref is S of the same model at depth 12:

    tokens               D  = horizon (12 S by default)
    batch                B  = 2^round(log2(2^19 (S / S_ref)^0.383))    Power Lines, arXiv:2505.13738
    learning rates       x sqrt(B / 2^19)
    Muon's weight decay  x sqrt(B / 2^19) S_ref / S                    keeps its time scale, in epochs, constant

An explicit batch follows the same rules: 4,096 tokens scale the learning rates by 0.088. At width 128, the matrices
then get 0.0018, the embedding 0.065, and (aspect ratio 32, vocabulary 2,048) the weight decay is 0.52.
"""

import math
from dataclasses import dataclass

from nanochat.config.base import MAX_INTEGER
from nanochat.config.training import Horizon, PretrainConfig
from nanochat.errors import BadConfig
from nanochat.model.architecture import Architecture

REFERENCE_DEPTH = 12
REFERENCE_BATCH_TOKENS = 1 << 19
BATCH_EXPONENT = 0.383


@dataclass(frozen=True)
class Hyperparameters:
    """Values derived from a training config: architecture, batch, steps, learning rates, weight decay."""

    architecture: Architecture
    batch_tokens: int
    """Tokens per optimizer step, over all ranks."""
    steps: int
    lr_scale: float
    """Factor on all learning rates except those of smear and backout."""
    muon_weight_decay: float
    """Weight decay of Muon at the first step; a cosine schedule takes it to 0."""

    @property
    def tokens(self) -> int:
        """Training tokens, over all steps."""
        return self.steps * self.batch_tokens

    @property
    def flops(self) -> int:
        return self.tokens * self.architecture.flops_per_token

    @property
    def parameters(self) -> int:
        return self.architecture.parameters

    @property
    def batch_rows(self) -> int:
        """Rows of T tokens per optimizer step, over all ranks."""
        return self.batch_tokens // self.architecture.sequence_len

    def describe(self) -> str:
        """One line for the terminal and the log."""
        shape = f"{self.architecture.depth} layers of {self.architecture.width}, {_short(self.parameters)} parameters"
        return (
            f"{shape}; {self.steps:,} steps of {self.batch_tokens:,} tokens = {_short(self.tokens)} tokens, "
            f"{self.flops:.2g} FLOP"
        )


def lr_scale(batch_tokens: int) -> float:
    """Factor on the learning rates: the square root of batch / 2^19 tokens."""
    return math.sqrt(batch_tokens / REFERENCE_BATCH_TOKENS)


def best_batch_tokens(architecture: Architecture) -> int:
    """Tokens per step by the power law of Power Lines (arXiv:2505.13738), rounded to a power of two."""
    ratio = architecture.scaling_parameters / architecture.at_depth(REFERENCE_DEPTH).scaling_parameters
    return 1 << round(math.log2(REFERENCE_BATCH_TOKENS * ratio**BATCH_EXPONENT))


def scaled_muon_weight_decay(architecture: Architecture, batch_tokens: int, weight_decay: float) -> float:
    """Weight decay of Muon; `weight_decay` is its value at depth 12 and 2^19 tokens per step."""
    reference = architecture.at_depth(REFERENCE_DEPTH).scaling_parameters
    return weight_decay * lr_scale(batch_tokens) * reference / architecture.scaling_parameters


def horizon_tokens(horizon: Horizon, architecture: Architecture, batch_tokens: int) -> int:
    """Training tokens of a horizon, before rounding to whole steps."""
    match horizon.unit:
        case "tokens_per_parameter":
            return int(horizon.amount * architecture.scaling_parameters)
        case "tokens":
            return int(horizon.amount)
        case "steps":
            return int(horizon.amount) * batch_tokens
        case "flops":
            return round(horizon.amount / (architecture.flops_per_token * batch_tokens)) * batch_tokens


def hyperparameters_from_steps(
    architecture: Architecture, *, batch_tokens: int, steps: int, muon_weight_decay: float
) -> Hyperparameters:
    """The hyperparameters of a run with this batch and number of steps; `muon_weight_decay` is used as it is.

    Raises `BadConfig` when the batch is not a whole number of rows, or there is no step.
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
            f"`horizon.amount` means more tokens than a 64-bit integer holds (at most {MAX_INTEGER:,}).",
            hint="Is its `unit` right?",
        )
    return Hyperparameters(architecture, batch_tokens, steps, lr_scale(batch_tokens), muon_weight_decay)


def derive_hyperparameters(pretrain: PretrainConfig, vocab_size: int, sequence_len: int) -> Hyperparameters:
    """The hyperparameters of a pretraining run. Raises `BadConfig`, naming the field, when they do not fit together."""
    architecture = Architecture(model=pretrain.model, vocab_size=vocab_size, sequence_len=sequence_len)
    batch_tokens = pretrain.batch_tokens or best_batch_tokens(architecture)
    return hyperparameters_from_steps(
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
