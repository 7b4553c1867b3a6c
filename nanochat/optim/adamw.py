"""AdamW (arXiv:1711.05101) for tables, the head and scalars: torch's fused kernel, moments in fp32, state by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nanochat.optim.groups import Group

EPSILON = 1e-10


class AdamW:
    """A few groups of parameters, each with its rate, betas and decay."""

    def __init__(self, groups: list[Group], parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = {name: parameters[name] for group in groups for name in group.names}
        self._rates = [group.lr for group in groups]
        self._torch = torch.optim.AdamW(
            [
                {
                    "params": [parameters[name] for name in group.names],
                    "lr": group.lr,
                    "betas": group.betas,
                    "weight_decay": group.weight_decay,
                }
                for group in groups
            ],
            eps=EPSILON,
            fused=True,
        )
        for parameter in self._parameters.values():  # as torch would at the first step: a checkpoint is read into it
            self._torch.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self._parameters.values())

    def step(self, lr_multiplier: float) -> None:
        for group, lr in zip(self._torch.param_groups, self._rates, strict=True):
            group["lr"] = lr * lr_multiplier
        self._torch.step()

    def state(self) -> dict[str, Tensor]:
        """`<parameter>.first`, `.second` (moments) and `.step`: the tensors themselves."""
        names = {"first": "exp_avg", "second": "exp_avg_sq", "step": "step"}
        return {
            f"{name}.{short}": self._torch.state[parameter][long]
            for name, parameter in self._parameters.items()
            for short, long in names.items()
        }
