"""One optimizer step: forward and backward passes over the micro-batches of a batch, then one update.

It is the same function for pretraining, fine-tuning and reinforcement learning; `docs/training_step.md` follows it
through all files.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.data.loader import IGNORED, Batch
from nanochat.optim.exact_sum import backward_in_tree_order
from nanochat.optim.optimizer import Optimizer
from nanochat.optim.schedule import StepRates
from nanochat.training.loss_scale import LossScale
from nanochat.training.metrics import Clock

Objective = Callable[[Any, Any], Tensor]
"""(network, batch) → the loss of a micro-batch, summed over its counted tokens."""


class BatchSource(Protocol):
    """What training reads; `Loader` is one. All ranks call `step` together."""

    world_size: int
    rows_consumed: int
    """The position in the data after the last step, which a resumed run passes to a new source."""

    @property
    def device(self) -> torch.device: ...

    @property
    def epoch(self) -> float:
        """How often the data was seen."""
        ...

    def step(self) -> Any:
        """The micro-batches of the next optimizer step: at least one on each rank, or none on all ranks."""
        ...

    def close(self) -> None: ...


def next_token_loss(network: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of the next token, in nats."""
    return network(batch.inputs_BT, batch.targets_BT, reduction="sum")


def optimizer_step(
    network: nn.Module,
    optimizer: Optimizer,
    loader: BatchSource,
    rates: StepRates,
    clock: Clock,
    scale: LossScale | None,
    objective: Objective = next_token_loss,
) -> Tensor:
    """Accumulates gradients over the micro-batches of this rank, and updates the weights once.

    The loss is the mean over all counted tokens of the batch, for any number of ranks and micro-batches. Returns (4,)
    float64 on the device, over all ranks: the sum of the loss in nats, the number of counted tokens, and the squared
    gradient norms of Muon's matrices and of AdamW's parameters. The host does not wait for the device. With a loss
    scale, a step whose gradients overflow makes no update; neither does a step without batches.
    """
    with clock.counting("data"):
        batches: Sequence[Any] = list(loader.step())
    if not batches:
        return torch.zeros(4, dtype=torch.float64, device=loader.device)
    factor = scale.factor if scale else 1.0
    counted = torch.stack([(batch.targets_BT != IGNORED).sum() for batch in batches]).sum()
    with clock.counting("communication"):
        _sum_over_ranks_(counted)
    weight = loader.world_size * factor / counted.clamp_min(1)  # the optimizer averages over the ranks
    total = torch.zeros((), dtype=torch.float64, device=loader.device)

    def forward_backward(batch: Any) -> None:
        nats = objective(network, batch)
        (nats * weight).backward()
        total.add_(nats.detach())

    if optimizer.exact:
        backward_in_tree_order([partial(forward_backward, batch) for batch in batches], optimizer.parameters)
    else:
        for number, batch in enumerate(batches, 1):
            if number == len(batches) and scale is None:
                optimizer.expect_last_pass()
            forward_backward(batch)
    squares = torch.zeros(2, device=loader.device)
    if scale is None or scale.accepts(optimizer.gradients):
        waited_s = optimizer.waited_s
        squares = optimizer.step(rates, factor)
        clock.add("communication", optimizer.waited_s - waited_s)
    optimizer.zero_grad()
    summed = torch.cat([total[None], squares.double()])
    with clock.counting("communication"):
        _sum_over_ranks_(summed)
    return torch.cat([summed[:1], counted.double()[None], summed[1:]])


def _sum_over_ranks_(values: Tensor) -> None:
    """Sums in place; the host does not wait for a GPU."""
    if dist.is_initialized():
        dist.all_reduce(values)
