"""The optimizer over all ranks: Muon for the matrices, AdamW for the rest.

Each rank owns a shard of every large parameter, and has the optimizer state of that shard alone (ZeRO stage 1,
arXiv:1910.02054, section 5). `Optimizer.step` has three phases, in which communication and computation overlap:

1. reduce-scatter: the gradients are summed over the ranks, and each rank receives the sum of its shard. After
   `expect_last_pass`, this starts during the backward pass, for each part as soon as its gradients are complete;
2. update: each rank divides by the number of ranks and updates its shard;
3. all-gather: all ranks receive the new weights.

A part of the model is one parameter for AdamW (`adamw.AdamWShard`), a stack of matrices of one shape for Muon
(`muon.MuonShard`). With W ranks, each rank sends (W-1)/W of the gradients and of the weights, the least possible; with
one rank, nothing. The result depends on W only by the rounding of the sums; exact sums (`exact_sum.py`) do not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.config.training import OptimizerConfig
from nanochat.optim.adamw import AdamW, AdamWShard, FlatShard
from nanochat.optim.muon import MuonShard, shards_by_shape
from nanochat.optim.parameter_groups import MATRICES, Group, parameter_groups
from nanochat.optim.schedule import StepRates
from nanochat.scaling import Hyperparameters


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, hyperparameters: Hyperparameters, *, exact: bool = False
) -> Optimizer:
    """The optimizer of all parameters of a model; uses the width and `lr_scale` of `hyperparameters`.

    Call it after `torch.distributed` is initialised (if there are several ranks), and after the model is on its device.
    `exact` makes the sums over ranks exact (`exact_sum.py`).
    """
    return Optimizer(dict(model.named_parameters()), parameter_groups(model, config, hyperparameters), exact=exact)


class Optimizer:
    """Muon for the matrices, AdamW for the rest, over all ranks of `torch.distributed` if it is initialised."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], groups: list[Group], *, exact: bool = False) -> None:
        self.exact = exact
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.waited_s = 0.0
        """Seconds the host waited for other ranks (with GPUs the stream waits, and this stays near 0)."""
        self._adamw = AdamW(
            [group for group in groups if group.kind == "adamw"], parameters, self.rank, self.world_size, exact=exact
        )
        self._stacks = [
            stack
            for group in groups
            if group.kind == "muon"
            for stack in shards_by_shape(group, parameters, self.rank, self.world_size, exact=exact)
        ]
        self._parts: list[MuonShard | AdamWShard] = [*self._stacks, *self._adamw.shards]
        self.parameters = [parameters[name] for group in groups for name in group.names]
        self._reducing: dict[MuonShard | AdamWShard, dist.Work | None] = {}
        """Parts whose reduce-scatter has started."""
        self._missing_gradients: dict[MuonShard | AdamWShard, int] = {}
        """Number of gradients that the last pass has not computed yet, by part."""
        if self.world_size > 1:
            for part in self._parts:
                for weight in part.weights:
                    weight.register_post_accumulate_grad_hook(partial(self._on_gradient, part))

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @property
    def gradients(self) -> list[Tensor | None]:
        """The gradients of all parameters on this rank, before a step."""
        return [parameter.grad for parameter in self.parameters]

    def expect_last_pass(self) -> None:
        """The next backward pass is the last one before `step`: reduce-scatters may start while it runs."""
        self._missing_gradients = {part: len(part.weights) for part in self._parts}

    @torch.no_grad()
    def step(self, rates: StepRates, gradient_scale: float = 1.0) -> Tensor:
        """Averages the gradients over the ranks and updates the weights; a missing gradient counts as 0.

        Divides the gradients by `gradient_scale`. Returns (2,) fp32, this rank's share of the squared norm of the
        averaged gradient: of the matrices, and of all other parameters. The host does not wait for a GPU.
        """
        # 1. reduce-scatter the gradients, where the backward pass has not started it
        self._missing_gradients = {}
        for part in self._parts:
            if part not in self._reducing:
                for weight in part.weights:
                    if weight.grad is None:
                        weight.grad = torch.zeros_like(weight)
                self._reducing[part] = part.reduce_scatter()

        # 2. update the own shards, 3. and all-gather each as soon as it is updated
        divisor = self.world_size * gradient_scale
        matrix_squares, other_squares = [], []
        for stack in self._stacks:
            self._wait(self._reducing[stack])
            matrix_squares.append(stack.divide_gradients(divisor))
            stack.update(rates)
            stack.all_gather()
        for shard in self._adamw.shards:
            self._wait(self._reducing[shard])
            squares = matrix_squares if shard.name.startswith(MATRICES) else other_squares
            squares.append(shard.divide_gradients(divisor))
        self._adamw.update(rates.lr_multiplier)  # one fused kernel for all
        for shard in self._adamw.shards:
            shard.all_gather()

        for part in self._parts:
            self._wait(part.gathering)
            part.finish()
        self._reducing = {}
        return torch.stack([torch.stack(matrix_squares).sum(), torch.stack(other_squares).sum()])

    def state(self) -> dict[str, Tensor | FlatShard]:
        """This rank's optimizer state by parameter name: the tensors themselves, into which a checkpoint is loaded.

        The state of a small AdamW parameter is the same on all ranks; of a large one, each rank has a `FlatShard`; the
        state of a matrix is on the rank that owns it, which depends on the number of ranks.
        """
        state = self._adamw.state()
        for stack in self._stacks:
            state |= stack.state()
        return state

    @torch.no_grad()
    def _on_gradient(self, part: MuonShard | AdamWShard, _: Tensor) -> None:
        """Called by autograd when a gradient is complete, in the same order on every rank."""
        if part in self._missing_gradients:
            self._missing_gradients[part] -= 1
            if not self._missing_gradients[part]:
                self._reducing[part] = part.reduce_scatter()

    def _wait(self, work: dist.Work | None) -> None:
        if work is not None:
            began = time.monotonic()
            work.wait()
            self.waited_s += time.monotonic() - began
