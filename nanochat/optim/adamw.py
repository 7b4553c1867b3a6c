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

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self._parameters.values())

    def step(self, lr_multiplier: float) -> None:
        for group, lr in zip(self._torch.param_groups, self._rates, strict=True):
            group["lr"] = lr * lr_multiplier
        self._torch.step()

    def state_dict(self) -> dict[str, Tensor]:
        """`<parameter>.first`, `.second` (moments) and `.step`, of parameters that were stepped."""
        state: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            mine = self._torch.state.get(parameter)
            if mine:
                state[f"{name}.first"] = mine["exp_avg"]
                state[f"{name}.second"] = mine["exp_avg_sq"]
                state[f"{name}.step"] = mine["step"]
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._torch.state.clear()
        for name, parameter in self._parameters.items():
            if f"{name}.first" in state:
                self._torch.state[parameter] = {
                    "exp_avg": state[f"{name}.first"].to(parameter.device, copy=True),
                    "exp_avg_sq": state[f"{name}.second"].to(parameter.device, copy=True),
                    "step": state[f"{name}.step"].to(parameter.device, torch.float32, copy=True),
                }
