"""Sums over the rows of a batch, by default as fast as they come, or so that they round alike on any number of ranks.

Rounding depends on the order of the additions, and training blows up what it changes: after a dozen steps, losses of
one and of two ranks differ in the third digit. The exact sum of R rows is that of a fixed tree: every second row, plus
the others, and so on down while the number is even. Rank r of W has the rows r, r + W, r + 2W, …, so for W = 2, 4, 8, …
what it has is a subtree of its own, and the ranks' sums are the upper part of the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


def pass_in_tree_order(passes: Sequence[Callable[[], None]], parameters: Sequence[nn.Parameter]) -> None:
    """Runs the backward passes of single rows, in the order of this rank; the gradients add up as the tree says.

    Keeps one more gradient of the model for each time the number of passes can be halved.
    """
    if len(passes) % 2:
        for each in passes:
            each()
        return
    pass_in_tree_order(passes[::2], parameters)
    halves = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    pass_in_tree_order(passes[1::2], parameters)
    for parameter, half in zip(parameters, halves, strict=True):
        if half is not None:
            parameter.grad = half if parameter.grad is None else parameter.grad.add_(half)


def sum_scattered(mine: Tensor, whole: Tensor, *, exact: bool) -> dist.Work | None:
    """Into `mine` goes this rank's part of the sum of `whole` over the ranks, along the first dimension."""
    if not exact:
        return dist.reduce_scatter_tensor(mine, whole, async_op=True)
    parts = torch.empty_like(whole)
    dist.all_to_all_single(parts, whole)
    mine.copy_(_tree_sum(parts.view(-1, *mine.shape)))
    return None


def sum_everywhere(values: Tensor, *, exact: bool) -> dist.Work | None:
    """In place, over the ranks."""
    if not exact:
        return dist.all_reduce(values, async_op=True)
    parts = values.new_empty(dist.get_world_size() * values.numel())
    dist.all_gather_into_tensor(parts, values.flatten())
    values.copy_(_tree_sum(parts.view(-1, *values.shape)))
    return None


def _tree_sum(parts: Tensor) -> Tensor:
    """Of each rank's part: W first, a power of two."""
    while len(parts) > 1:
        parts = parts[: len(parts) // 2] + parts[len(parts) // 2 :]
    return parts[0]
