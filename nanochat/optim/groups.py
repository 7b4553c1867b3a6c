"""Which parameter is stepped how: the table of rates, by the parameters' names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from nanochat.config import OptimizerConfig
from nanochat.scaling import TrainingPlan

REFERENCE_WIDTH = 768


@dataclass(frozen=True)
class Group:
    """Parameters that are stepped alike."""

    kind: Literal["adamw", "muon"]
    names: tuple[str, ...]
    lr: float
    """At multiplier 1; Muon's still lacks the factor of the matrix's shape."""
    betas: tuple[float, float] = (0.8, 0.95)
    """AdamW's."""
    weight_decay: float = 0.0
    """AdamW's; Muon's is scheduled."""


def parameter_groups(model: nn.Module, config: OptimizerConfig, plan: TrainingPlan) -> list[Group]:
    """Every parameter in exactly one group; a name that no rule knows is an error of the programmer."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    wide = (plan.architecture.width / REFERENCE_WIDTH) ** -0.5
    scale = plan.lr_scale
    rules: list[tuple[str, Group]] = [
        ("head.", Group("adamw", (), config.head_lr * wide * scale, (0.8, 0.96), 0.01)),
        ("embedding.", Group("adamw", (), config.embedding_lr * wide * scale, (0.8, 0.995), 0.001)),
        ("value_embeddings.", Group("adamw", (), config.value_embedding_lr * wide * scale, (0.8, 0.995), 0.01)),
        ("residual_L", Group("adamw", (), config.scalar_lr * 0.01 * scale, (0.8, 0.95), 0.05)),
        ("first_L", Group("adamw", (), config.scalar_lr * scale, (0.96, 0.95))),
        ("smear", Group("adamw", (), config.smear_lr)),
        ("backout", Group("adamw", (), config.smear_lr)),
        ("blocks.", Group("muon", (), config.matrix_lr * scale)),
    ]
    groups: list[Group] = []
    for prefix, group in rules:
        mine = tuple(name for name in names if name.startswith(prefix))
        if mine:
            groups.append(Group(group.kind, mine, group.lr, group.betas, group.weight_decay))
    unknown = set(names) - {name for group in groups for name in group.names}
    assert not unknown, f"no group for {sorted(unknown)}"
    return groups
