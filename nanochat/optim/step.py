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

import time
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.config import OptimizerConfig
from nanochat.errors import DamagedArtifact
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
        self.waited_s = 0.0
        """Seconds the host waited for other ranks (on GPUs the stream waits instead, and this stays near 0)."""
        self._parameters = [parameters[name] for group in groups for name in group.names]

    def zero_grad(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    @property
    def gradients(self) -> list[Tensor | None]:
        """Of all parameters, as this rank has them before a step."""
        return [parameter.grad for parameter in self._parameters]

    @torch.no_grad()
    def step(self, rates: StepRates, gradient_scale: float = 1.0) -> Tensor:
        """Average the gradients over the ranks and update; a parameter without a gradient counts as 0.

        Gradients are `gradient_scale` times what they should be. Returns this rank's share of the squared norm of the
        averaged gradient, (2,) fp32: of Muon's matrices and of AdamW's parameters. Nothing waits for a GPU.
        """
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        divisor = self.world_size * gradient_scale
        averaging = [(stack, stack.average_grads()) for stack in self._stacks]
        square = self._average_adamw(divisor)
        squares = []
        for stack, work in averaging:
            self._wait(work)
            squares.append(stack.update(rates, divisor))
        self._adamw.step(rates.lr_multiplier)
        for stack in self._stacks:
            self._wait(stack.arriving)
            stack.receive()
        return torch.stack([torch.stack(squares).sum() if squares else torch.zeros_like(square), square])

    def state_dict(self) -> dict[str, Tensor]:
        """All state, flat, by parameter name: the same on every rank and at any world size. All ranks must call."""
        state = self._adamw.state_dict()
        for stack in self._stacks:
            state |= stack.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """What `state_dict` gave, on this or another number of ranks. Raises `DamagedArtifact` if some is missing."""
        self._adamw.load_state_dict(state)
        for stack in self._stacks:
            stack.load_state_dict(state)

    def _average_adamw(self, divisor: float) -> Tensor:
        """Averages the gradients in place; returns this rank's share (an equal one) of their squared norm."""
        grads = [parameter.grad for parameter in self._adamw.parameters if parameter.grad is not None]
        if self.world_size > 1:
            flat = torch.cat([grad.flatten() for grad in grads])
            self._wait(dist.all_reduce(flat, async_op=True))
            pieces = flat.split([grad.numel() for grad in grads])
            for piece, grad in zip(pieces, grads, strict=True):
                grad.copy_(piece.view_as(grad))
        for grad in grads:
            if divisor != 1:
                grad.div_(divisor)
        return torch.stack([grad.norm() for grad in grads]).square().sum() / self.world_size

    def _wait(self, work: dist.Work | None) -> None:
        if work is not None:
            began = time.monotonic()
            work.wait()
            self.waited_s += time.monotonic() - began


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
        self.arriving: dist.Work | None = None

    def average_grads(self) -> dist.Work | None:
        """Adds the gradients up, each rank's share on that rank."""
        grads = self._stacked([weight.grad for weight in self.weights if weight.grad is not None])
        if self.world_size == 1:
            self._grads = grads
            return None
        self._grads = torch.empty_like(self.momentum)
        return dist.reduce_scatter_tensor(self._grads, grads, async_op=True)

    def update(self, rates: StepRates, divisor: float) -> Tensor:
        """Steps this rank's share and sends it out; returns the squared norm of its averaged gradients."""
        grads = self._grads.div_(divisor) if divisor != 1 else self._grads
        square = grads.square().sum()
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
        self._new_weights, self.arriving = self._gather(weights, async_op=True)
        return square

    def receive(self) -> None:
        """The new weights, which have arrived, into the model."""
        for index, weight in enumerate(self.weights):
            weight.copy_(self._new_weights[index])
        self._grads = self._new_weights = torch.empty(0)
        self.arriving = None

    def state_dict(self) -> dict[str, Tensor]:
        momentum, second = self._gather(self.momentum)[0], self._gather(self.second)[0]
        state: dict[str, Tensor] = {}
        for index, name in enumerate(self.names):
            state[f"{name}.momentum"], state[f"{name}.second"] = momentum[index], second[index]
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for kind, mine in (("momentum", self.momentum), ("second", self.second)):
            for place, name in enumerate(self.names[self.mine]):
                if f"{name}.{kind}" not in state:
                    raise DamagedArtifact(f"The state of the optimizer lacks `{name}.{kind}`.")
                mine[place].copy_(state[f"{name}.{kind}"])

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
