"""Sums of gradients over rows and ranks; exact sums are bit-identical on 1, 2, 4, 8, … ranks.

Rounding depends on the order of additions, and training amplifies it: after a dozen steps, the losses of one and of two
ranks differ in the third digit. So the exact sum of R rows adds in a fixed tree: the sum of the rows with even index
plus the sum of the others, and so on down while their number is even. Rank r of W has the rows r, r + W, r + 2W, …:
for W = 2, 4, 8, … they are one subtree, and the sums of the ranks are the upper part of the tree.
"""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


def backward_in_tree_order(passes: Sequence[Callable[[], None]], parameters: Sequence[nn.Parameter]) -> None:
    """Runs the backward passes of this rank's rows, one per row, and adds their gradients in the order of the tree.

    Needs memory for one more gradient of the model each time that the number of passes can be halved.
    """
    if len(passes) % 2:
        for each in passes:
            each()
        return
    backward_in_tree_order(passes[::2], parameters)
    halves = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    backward_in_tree_order(passes[1::2], parameters)
    for parameter, half in zip(parameters, halves, strict=True):
        if half is not None:
            parameter.grad = half if parameter.grad is None else parameter.grad.add_(half)


def reduce_scatter(mine: Tensor, whole: Tensor, *, exact: bool) -> dist.Work | None:
    """Sums `whole` over the ranks; `mine` becomes this rank's part of the sum, along the first dimension."""
    if not exact:
        return dist.reduce_scatter_tensor(mine, whole, async_op=True)
    parts = torch.empty_like(whole)
    dist.all_to_all_single(parts, whole)
    mine.copy_(_tree_sum(parts.view(-1, *mine.shape)))
    return None


def all_reduce(values: Tensor, *, exact: bool) -> dist.Work | None:
    """Sums `values` over the ranks, in place."""
    if not exact:
        return dist.all_reduce(values, async_op=True)
    parts = values.new_empty(dist.get_world_size() * values.numel())
    dist.all_gather_into_tensor(parts, values.flatten())
    values.copy_(_tree_sum(parts.view(-1, *values.shape)))
    return None


def _tree_sum(parts: Tensor) -> Tensor:
    """Sum over the first dimension, the ranks (a power of two)."""
    while len(parts) > 1:
        parts = parts[: len(parts) // 2] + parts[len(parts) // 2 :]
    return parts[0]
