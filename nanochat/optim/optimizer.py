"""One optimizer step over all ranks: gradients are averaged here, and nowhere else.

With W ranks the step has three phases, so that the network and the arithmetic overlap:

1. every gradient sets out to be added up, so that each rank gets its W-th of it: AdamW's a parameter at a time, Muon's
   a stack of equal matrices at a time (padded with zeros to a multiple of W). After `expect_last_pass` they do so
   during the backward pass, as soon as they are complete;
2. as they arrive, each rank steps its own share, whose state it alone has, and sends the new weights to all;
3. the weights of the others arrive.

What is sent is the least there is: each gradient and each weight (W-1)/W times. With one rank nothing is sent. The
result is the same for any W but for the rounding of the average; exact sums (`exact_sum.py`) round alike too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.config.training import OptimizerConfig
from nanochat.optim.adamw import AdamW, Run, Table
from nanochat.optim.exact_sum import sum_scattered
from nanochat.optim.muon import muon_step, second_moment_shape
from nanochat.optim.parameter_groups import Group, parameter_groups
from nanochat.optim.schedule import StepRates
from nanochat.scaling import Hyperparameters


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, hyperparameters: Hyperparameters, *, exact: bool = False
) -> Optimizer:
    """The optimizer of all parameters of a model; uses the width and `lr_scale` of `hyperparameters`.

    To be called after `torch.distributed` is up, if it shall be, and after the model is on its device. `exact` adds up
    over the ranks as `exact_sum.py` says.
    """
    return Optimizer(dict(model.named_parameters()), parameter_groups(model, config, hyperparameters), exact=exact)


class Optimizer:
    """Muon for the matrices, AdamW for the rest, over all ranks of `torch.distributed` if it is initialised."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], groups: list[Group], *, exact: bool = False) -> None:
        self.exact = exact
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.waited_s = 0.0
        """Seconds the host waited for other ranks (on GPUs the stream waits instead, and this stays near 0)."""
        self._adamw = AdamW(
            [group for group in groups if group.kind == "adamw"], parameters, self.rank, self.world_size, exact=exact
        )
        self._stacks = [
            _Stack(names, [parameters[name] for name in names], lr, self.rank, self.world_size, exact=exact)
            for group in groups
            if group.kind == "muon"
            for names, lr in _by_shape(group, parameters)
        ]
        self.parameters = [parameters[name] for group in groups for name in group.names]
        self._averaging: dict[_Stack | Table, dist.Work | None] = {}
        self._incomplete: dict[_Stack | Table, int] = {}
        """Parts of the model of which so many gradients are still to come in the last pass."""
        if self.world_size > 1:
            for part in self._parts:
                for weight in part.weights:
                    weight.register_post_accumulate_grad_hook(partial(self._gradient_came, part))

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @property
    def gradients(self) -> list[Tensor | None]:
        """Of all parameters, as this rank has them before a step."""
        return [parameter.grad for parameter in self.parameters]

    def expect_last_pass(self) -> None:
        """The next backward pass is the last of the step: gradients may set out while it runs."""
        self._incomplete = {part: len(part.weights) for part in self._parts}

    @torch.no_grad()
    def step(self, rates: StepRates, gradient_scale: float = 1.0) -> Tensor:
        """Average the gradients over the ranks and update; a parameter without a gradient counts as 0.

        Gradients are `gradient_scale` times what they should be. Returns this rank's share of the squared norm of the
        averaged gradient, (2,) fp32: of Muon's matrices and of AdamW's parameters. Nothing waits for a GPU.
        """
        self._incomplete = {}
        for part in self._parts:
            if part not in self._averaging:
                for weight in part.weights:
                    if weight.grad is None:
                        weight.grad = torch.zeros_like(weight)
                self._averaging[part] = part.average_grads()
        divisor = self.world_size * gradient_scale
        squares = []
        for stack in self._stacks:
            self._wait(self._averaging[stack])
            squares.append(stack.update(rates, divisor))
        other_squares = []
        for table in self._adamw.tables:
            self._wait(self._averaging[table])
            other_squares.append(table.divide_grads(divisor))
        self._adamw.step(rates.lr_multiplier)
        for table in self._adamw.tables:
            table.send()
        for part in self._parts:
            self._wait(part.arriving)
            part.receive()
        self._averaging = {}
        return torch.stack([torch.stack(squares).sum(), torch.stack(other_squares).sum()])

    def state(self) -> dict[str, Tensor | Run]:
        """This rank's state by parameter name: the tensors themselves, so that a checkpoint is read into them.

        Of AdamW's, small tensors are the same on all ranks, and of large ones each has a run; each of Muon's is on one
        rank. Which, depends on how many there are.
        """
        state = self._adamw.state()
        for stack in self._stacks:
            state |= stack.state()
        return state

    @property
    def _parts(self) -> list[_Stack | Table]:
        return [*self._stacks, *self._adamw.tables]

    @torch.no_grad()
    def _gradient_came(self, part: _Stack | Table, _: Tensor) -> None:
        """Called by autograd, in the same order on every rank."""
        if part in self._incomplete:
            self._incomplete[part] -= 1
            if not self._incomplete[part]:
                self._averaging[part] = part.average_grads()

    def _wait(self, work: dist.Work | None) -> None:
        if work is not None:
            began = time.monotonic()
            work.wait()
            self.waited_s += time.monotonic() - began


class _Stack:
    """Matrices of one shape, N of them padded to a multiple of the ranks; this rank owns a run of them."""

    def __init__(
        self, names: tuple[str, ...], weights: list[nn.Parameter], lr: float, rank: int, world_size: int, *, exact: bool
    ) -> None:
        self.names, self.weights, self.lr, self.world_size, self.exact = names, weights, lr, world_size, exact
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
        return sum_scattered(self._grads, grads, exact=self.exact)

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
