"""AdamW (arXiv:1711.05101) for embeddings, head and scalars: torch's fused kernel, moments in fp32, state by name.

AdamW updates each element by itself, so a shard is any contiguous part of the flattened parameter. Small parameters,
and those whose size the number of ranks does not divide, are not sharded: all ranks make the same update.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.optim.exact_sum import all_reduce, reduce_scatter
from nanochat.optim.parameter_groups import Group

EPSILON = 1e-10
MIN_SHARDED = 1024
"""Smallest number of elements of a sharded parameter."""


@dataclass(frozen=True)
class FlatShard:
    """This rank's part of a flat tensor; all ranks have parts of equal size, in the order of the ranks."""

    tensor: Tensor


class AdamWShard:
    """This rank's shard of one parameter: `mine`, a flat view of its elements (all of them if it is not sharded)."""

    def __init__(self, name: str, weight: nn.Parameter, rank: int, world_size: int, *, exact: bool) -> None:
        self.name, self.weights, self.world_size, self.exact = name, [weight], world_size, exact
        elements = weight.numel()
        self.sharded = world_size > 1 and elements >= MIN_SHARDED and elements % world_size == 0
        size = elements // world_size if self.sharded else elements
        begin = rank * size if self.sharded else 0
        self.mine = weight.detach().view(-1)[begin : begin + size]
        self.gathering: dist.Work | None = None

    def reduce_scatter(self) -> dist.Work | None:
        """Starts to sum the gradients over the ranks; this rank receives the sum of its shard in `mine.grad`."""
        grad = self.weights[0].grad
        assert grad is not None
        flat = grad.reshape(-1)
        if not self.sharded:
            self.mine.grad = flat
            return all_reduce(flat, exact=self.exact) if self.world_size > 1 else None
        self.mine.grad = torch.empty_like(self.mine)
        return reduce_scatter(self.mine.grad, flat, exact=self.exact)

    def divide_gradients(self, divisor: float) -> Tensor:
        """Divides the summed gradients; returns this rank's share of their squared norm, a scalar."""
        assert self.mine.grad is not None
        if divisor != 1:
            self.mine.grad.div_(divisor)
        square = self.mine.grad.square().sum()
        return square if self.sharded else square / self.world_size

    def all_gather(self) -> None:
        """Starts to send the updated shard to all ranks, into their weights."""
        self.mine.grad = None
        if self.sharded:
            whole = self.weights[0].detach().view(-1)
            self.gathering = dist.all_gather_into_tensor(whole, self.mine.clone(), async_op=True)

    def finish(self) -> None:
        """Called when the all-gather is complete."""
        self.gathering = None

    def as_state(self, tensor: Tensor) -> Tensor | FlatShard:
        """A state tensor of `mine`, marked as a shard if it is one."""
        return FlatShard(tensor) if self.sharded else tensor


class AdamW:
    """The AdamW groups, each with its learning rate, betas and weight decay."""

    def __init__(
        self, groups: list[Group], parameters: Mapping[str, nn.Parameter], rank: int, world_size: int, *, exact: bool
    ) -> None:
        self.shards = [
            AdamWShard(name, parameters[name], rank, world_size, exact=exact)
            for group in groups
            for name in group.names
        ]
        self._lrs = [group.lr for group in groups]
        mine = {shard.name: shard.mine for shard in self.shards}
        self._torch = torch.optim.AdamW(
            [
                {"params": [mine[name] for name in group.names], "lr": group.lr, "betas": group.betas,
                 "weight_decay": group.weight_decay}
                for group in groups
            ],
            eps=EPSILON, fused=True,
        )  # fmt: skip
        for shard in self.shards:  # torch does this at the first step; a checkpoint is loaded before
            self._torch.state[shard.mine] = {
                "step": torch.zeros((), dtype=torch.float32, device=shard.mine.device),
                "exp_avg": torch.zeros_like(shard.mine),
                "exp_avg_sq": torch.zeros_like(shard.mine),
            }

    def update(self, lr_multiplier: float) -> None:
        """Updates all shards with the gradients in `mine.grad`."""
        for group, lr in zip(self._torch.param_groups, self._lrs, strict=True):
            group["lr"] = lr * lr_multiplier
        self._torch.step()

    def state(self) -> dict[str, Tensor | FlatShard]:
        """`<parameter>.first` and `.second` (the moments, flat) and `.step`: the tensors themselves."""
        state: dict[str, Tensor | FlatShard] = {}
        for shard in self.shards:
            mine = self._torch.state[shard.mine]
            state[f"{shard.name}.first"] = shard.as_state(mine["exp_avg"])
            state[f"{shard.name}.second"] = shard.as_state(mine["exp_avg_sq"])
            state[f"{shard.name}.step"] = mine["step"]
        return state
