"""AdamW (arXiv:1711.05101) for tables, the head and scalars: torch's fused kernel, moments in fp32, state by name.

With W ranks each steps a W-th of every large parameter, and has the moments of that part alone. As every element is
stepped by itself, the part is any run of the flattened parameter; small ones, and those that W does not divide, are
stepped by all ranks alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.optim.exact_sum import sum_everywhere, sum_scattered
from nanochat.optim.parameter_groups import Group

EPSILON = 1e-10
SMALLEST_SHARED = 1024
"""Elements of a parameter from which on it is worth sharing out."""


@dataclass(frozen=True)
class Run:
    """This rank's run of a flat tensor, of which each rank has an equal one, in the order of the ranks."""

    tensor: Tensor


class Table:
    """One parameter as AdamW steps it: `mine`, flat, is this rank's run of its elements."""

    def __init__(self, name: str, weight: nn.Parameter, rank: int, world_size: int, *, exact: bool) -> None:
        self.name, self.weights, self.world_size, self.exact = name, [weight], world_size, exact
        elements = weight.numel()
        self.shared = world_size > 1 and elements >= SMALLEST_SHARED and elements % world_size == 0
        run = elements // world_size if self.shared else elements
        self._run = slice(rank * run, (rank + 1) * run) if self.shared else slice(0, run)
        self.mine = weight.detach().view(-1)[self._run]
        self.arriving: dist.Work | None = None

    def average_grads(self) -> dist.Work | None:
        """Adds the gradients up over the ranks, each rank's run on that rank."""
        grad = self.weights[0].grad
        assert grad is not None
        flat = grad.reshape(-1)
        if not self.shared:
            self.mine.grad = flat
            return sum_everywhere(flat, exact=self.exact) if self.world_size > 1 else None
        self.mine.grad = torch.empty_like(self.mine)
        return sum_scattered(self.mine.grad, flat, exact=self.exact)

    def divide_grads(self, divisor: float) -> Tensor:
        """Divides the gradients that arrived; returns this rank's share of their squared norm."""
        assert self.mine.grad is not None
        if divisor != 1:
            self.mine.grad.div_(divisor)
        square = self.mine.grad.square().sum()
        return square if self.shared else square / self.world_size

    def send(self) -> None:
        """This rank's run sets out, now that it was stepped."""
        self.mine.grad = None
        if self.shared:
            whole = self.weights[0].detach().view(-1)
            self.arriving = dist.all_gather_into_tensor(whole, self.mine.clone(), async_op=True)

    def receive(self) -> None:
        """The runs of the others have arrived, in their place."""
        self.arriving = None

    def run_of(self, tensor: Tensor) -> Tensor | Run:
        """State of this rank's elements, marked as a run of something larger if it is one."""
        return Run(tensor) if self.shared else tensor


class AdamW:
    """A few groups of parameters, each with its rate, betas and decay."""

    def __init__(
        self, groups: list[Group], parameters: Mapping[str, nn.Parameter], rank: int, world_size: int, *, exact: bool
    ) -> None:
        self.tables = [
            Table(name, parameters[name], rank, world_size, exact=exact) for group in groups for name in group.names
        ]
        self._rates = [group.lr for group in groups]
        mine = {table.name: table.mine for table in self.tables}
        self._torch = torch.optim.AdamW(
            [
                {
                    "params": [mine[name] for name in group.names],
                    "lr": group.lr,
                    "betas": group.betas,
                    "weight_decay": group.weight_decay,
                }
                for group in groups
            ],
            eps=EPSILON,
            fused=True,
        )
        for table in self.tables:  # as torch would at the first step: a checkpoint is read into it
            self._torch.state[table.mine] = {
                "step": torch.zeros((), dtype=torch.float32, device=table.mine.device),
                "exp_avg": torch.zeros_like(table.mine),
                "exp_avg_sq": torch.zeros_like(table.mine),
            }

    def step(self, lr_multiplier: float) -> None:
        for group, lr in zip(self._torch.param_groups, self._rates, strict=True):
            group["lr"] = lr * lr_multiplier
        self._torch.step()

    def state(self) -> dict[str, Tensor | Run]:
        """`<parameter>.first`, `.second` (moments, flat) and `.step`: the tensors themselves."""
        state: dict[str, Tensor | Run] = {}
        for table in self.tables:
            mine = self._torch.state[table.mine]
            state[f"{table.name}.first"] = table.run_of(mine["exp_avg"])
            state[f"{table.name}.second"] = table.run_of(mine["exp_avg_sq"])
            state[f"{table.name}.step"] = mine["step"]
        return state
