"""Parameter groups: the optimizer and the learning rate of each parameter, by its name."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from nanochat.config.training import OptimizerConfig
from nanochat.scaling import Hyperparameters

REFERENCE_WIDTH = 768
MATRICES = "blocks."
"""Prefix of the names of the matrices."""


@dataclass(frozen=True)
class Group:
    """Parameters with the same optimizer and settings."""

    kind: Literal["adamw", "muon"]
    names: tuple[str, ...]
    lr: float
    """Learning rate at multiplier 1. `muon_step` multiplies it by a factor of the matrix's shape."""
    betas: tuple[float, float] = (0.8, 0.95)
    """Betas of AdamW."""
    weight_decay: float = 0.0
    """Weight decay of AdamW; that of Muon follows a schedule (`StepRates`)."""


def parameter_groups(model: nn.Module, config: OptimizerConfig, hyperparameters: Hyperparameters) -> list[Group]:
    """Every trainable parameter in exactly one group, by the prefix of its name.

    Learning rates, betas and weight decays are nanochat's, found by sweeps; the rates of tables and head scale with
    width^-0.5 from width 768.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    wide = (hyperparameters.architecture.width / REFERENCE_WIDTH) ** -0.5
    scale = hyperparameters.lr_scale
    rules: list[tuple[str, Group]] = [
        ("head.", Group("adamw", (), config.head_lr * wide * scale, (0.8, 0.96), 0.01)),
        ("embedding.", Group("adamw", (), config.embedding_lr * wide * scale, (0.8, 0.995), 0.001)),
        ("value_embeddings.", Group("adamw", (), config.value_embedding_lr * wide * scale, (0.8, 0.995), 0.01)),
        ("residual_L", Group("adamw", (), config.scalar_lr * 0.01 * scale, (0.8, 0.95), 0.05)),
        ("first_L", Group("adamw", (), config.scalar_lr * scale, (0.96, 0.95))),
        ("smear", Group("adamw", (), config.smear_lr)),
        ("backout", Group("adamw", (), config.smear_lr)),
        (MATRICES, _matrices(config, config.matrix_lr * scale)),
    ]
    groups: list[Group] = []
    for prefix, group in rules:
        mine = tuple(name for name in names if name.startswith(prefix))
        if mine:
            groups.append(Group(group.kind, mine, group.lr, group.betas, group.weight_decay))
    unknown = set(names) - {name for group in groups for name in group.names}
    assert not unknown, f"no group for {sorted(unknown)}"
    return groups


def _matrices(config: OptimizerConfig, lr: float) -> Group:
    """The group of the matrices, without names. AdamW's settings are GPT-3's (arXiv:2005.14165, appendix B)."""
    if config.matrix_optimizer == "adamw":
        return Group("adamw", (), lr, (0.9, 0.95), 0.1)
    return Group("muon", (), lr)
