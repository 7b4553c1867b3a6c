"""One optimizer step over all ranks: gradients are averaged here, and nowhere else.

With W ranks the step has three phases, so that the network and the arithmetic overlap:

1. every gradient sets out to be averaged: AdamW's in one flat tensor, Muon's a stack of equal matrices at a time
   (the stack padded with zeros to a multiple of W);
2. as they arrive, each rank steps its own share of each stack, and sends the new weights to all; AdamW's parameters,
   whose state every rank has, are stepped by all;
3. the weights of the others arrive.

With one rank nothing is sent. The result is the same for any W but for the rounding of the average.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.config import OptimizerConfig
from nanochat.optim.adamw import AdamW
from nanochat.optim.groups import Group, parameter_groups
from nanochat.optim.muon import muon_step, second_moment_shape
from nanochat.optim.schedule import StepRates
from nanochat.scaling import TrainingPlan


def build_optimizer(model: nn.Module, config: OptimizerConfig, plan: TrainingPlan) -> Optimizer:
    """The optimizer of all of a model's parameters; of the plan it uses the width and the scale of the rates.

    To be called after `torch.distributed` is up, if it shall be, and after the model is on its device.
    """
    return Optimizer(dict(model.named_parameters()), parameter_groups(model, config, plan))


class Optimizer:
    """Muon for the matrices, AdamW for the rest, over all ranks of `torch.distributed` if it is initialised."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], groups: list[Group]) -> None:
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self._adamw = AdamW([group for group in groups if group.kind == "adamw"], parameters)
        self._stacks = [
            _Stack(names, [parameters[name] for name in names], lr, self.rank, self.world_size)
            for group in groups
            if group.kind == "muon"
            for names, lr in _by_shape(group, parameters)
        ]
        self._parameters = [parameters[name] for group in groups for name in group.names]

    def zero_grad(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rates: StepRates) -> None:
        """Average the gradients over the ranks and update; a parameter without a gradient counts as 0."""
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        averaging = [(stack, stack.average_grads()) for stack in self._stacks]
        self._average_adamw()
        for stack, work in averaging:
            _wait(work)
            stack.update(rates)
        self._adamw.step(rates.lr_multiplier)
        for stack in self._stacks:
            stack.receive()

    def state(self) -> dict[str, Tensor]:
        """This rank's state by parameter name: the tensors themselves, so that a checkpoint is read into them.

        All ranks have AdamW's; each of Muon's has one rank, which depends on how many there are.
        """
        state = self._adamw.state()
        for stack in self._stacks:
            state |= stack.state()
        return state

    def _average_adamw(self) -> None:
        if self.world_size == 1:
            return
        grads = [parameter.grad for parameter in self._adamw.parameters if parameter.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        flat.div_(self.world_size)
        pieces = flat.split([grad.numel() for grad in grads])
        for piece, grad in zip(pieces, grads, strict=True):
            grad.copy_(piece.view_as(grad))


class _Stack:
    """Matrices of one shape, N of them padded to a multiple of the ranks; this rank owns a run of them."""

    def __init__(
        self, names: tuple[str, ...], weights: list[nn.Parameter], lr: float, rank: int, world_size: int
    ) -> None:
        self.names, self.weights, self.lr, self.world_size = names, weights, lr, world_size
        shape, device = weights[0].shape, weights[0].device
        share = -(-len(weights) // world_size)
        self.mine = slice(rank * share, (rank + 1) * share)
        self.padded = share * world_size
        self.momentum = torch.zeros((share, *shape), device=device)
        self.second = torch.zeros(second_moment_shape(self.momentum.shape), device=device)
        self._grads = self._new_weights = torch.empty(0)
        self._arriving: dist.Work | None = None

    def average_grads(self) -> dist.Work | None:
        self._grads = self._stacked([weight.grad for weight in self.weights if weight.grad is not None])
        # Not reduce-scatter: gloo, for CPUs, hasn't had it everywhere.
        return dist.all_reduce(self._grads, async_op=True) if self.world_size > 1 else None

    def update(self, rates: StepRates) -> None:
        grads = self._grads[self.mine].div_(self.world_size) if self.world_size > 1 else self._grads
        weights = self._stacked(list(self.weights))[self.mine].contiguous()
        muon_step(
            weights,
            grads,
            self.momentum,
            self.second,
            lr=self.lr * rates.lr_multiplier,
            momentum=rates.muon_momentum,
            weight_decay=rates.muon_weight_decay,
        )
        self._new_weights, self._arriving = self._gather(weights, async_op=True)

    def receive(self) -> None:
        _wait(self._arriving)
        for index, weight in enumerate(self.weights):
            weight.copy_(self._new_weights[index])
        self._grads = self._new_weights = torch.empty(0)
        self._arriving = None

    def state(self) -> dict[str, Tensor]:
        held = (("momentum", self.momentum), ("second", self.second))
        return {
            f"{name}.{kind}": tensors[place]
            for place, name in enumerate(self.names[self.mine])
            for kind, tensors in held
        }

    def _stacked(self, tensors: list[Tensor]) -> Tensor:
        stack = torch.stack(tensors)
        missing = self.padded - len(tensors)
        return torch.cat([stack, stack.new_zeros(missing, *stack.shape[1:])]) if missing else stack

    def _gather(self, share: Tensor, *, async_op: bool = False) -> tuple[Tensor, dist.Work | None]:
        if self.world_size == 1:
            return share, None
        whole = share.new_empty(self.padded, *share.shape[1:])
        return whole, dist.all_gather_into_tensor(whole, share, async_op=async_op)


def _by_shape(group: Group, parameters: Mapping[str, nn.Parameter]) -> list[tuple[tuple[str, ...], float]]:
    shapes: dict[torch.Size, list[str]] = {}
    for name in group.names:
        shapes.setdefault(parameters[name].shape, []).append(name)
    return [(tuple(names), group.lr) for names in shapes.values()]


def _wait(work: dist.Work | None) -> None:
    if work is not None:
        work.wait()
