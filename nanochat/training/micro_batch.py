"""How many rows go through the network at once: as many as fit, and the batch comes out exact."""

from __future__ import annotations

from collections.abc import Callable

import torch

from nanochat.config.compute import Compute
from nanochat.errors import BadConfig
from nanochat.model.gpt import GPT
from nanochat.workers.ranks import World

CPU_TOKENS = 2_048
"""More is not faster there, and takes memory."""
MOST_TOKENS = 65_536
"""On a GPU; from there on launching kernels costs nothing."""
RESERVE = 0.12
"""Share of the free memory that is left: fragments, and what compiled code needs besides."""


def micro_batch_rows(compute: Compute, model: GPT, sequence_len: int, batch_rows: int, world: World) -> int:
    """Rows of one forward and backward pass: as asked, else what fits the device.

    The rows that a rank has of a batch (`batch_rows` over all) are divided evenly, so that every pass has one shape.
    Raises `BadConfig` when the ranks cannot add up exactly, as they were asked to.
    """
    if compute.parallelism.exact:
        if batch_rows % world.world_size or world.world_size & (world.world_size - 1):
            raise BadConfig(
                f"{world.world_size} ranks cannot share {batch_rows} rows so that sums are exact.",
                hint="Take 1, 2, 4, 8, … ranks that divide the batch, or leave `compute.parallelism.exact` out.",
            )
        return 1
    if compute.parallelism.micro_batch_rows:
        return compute.parallelism.micro_batch_rows
    mine = -(-batch_rows // world.world_size)
    if world.device.type != "cuda":
        return even_share(mine, max(1, CPU_TOKENS // sequence_len))
    free_bytes, _ = torch.cuda.mem_get_info(world.device)
    free_bytes -= 3 * sum(parameter.nbytes for parameter in model.parameters())  # gradients and the optimizer's state
    fitting = most_that_fits(
        lambda rows: _pass_bytes(model, rows, sequence_len, world.device), round(free_bytes * (1 - RESERVE))
    )
    return even_share(mine, min(fitting, max(1, MOST_TOKENS // sequence_len)))


def most_that_fits(bytes_of: Callable[[int], int], free_bytes: int) -> int:
    """Rows whose pass takes at most the free bytes, from what one and two rows take; at least 1."""
    one, two = bytes_of(1), bytes_of(2)
    per_row = max(two - one, 1)
    return max(1, (free_bytes - (one - per_row)) // per_row)


def even_share(rows: int, most: int) -> int:
    """The largest divisor of the rows that is at most so many."""
    return next(share for share in range(min(rows, max(most, 1)), 0, -1) if rows % share == 0)


def _pass_bytes(model: GPT, rows: int, sequence_len: int, device: torch.device) -> int:
    """Memory of a forward and backward pass besides weights and gradients; not compiled, which needs more."""
    ids = torch.zeros((rows, sequence_len), dtype=torch.int64, device=device)
    model(ids, ids).backward()  # gradients are there from here on
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    model(ids, ids).backward()
    taken = torch.cuda.max_memory_allocated(device) - before
    model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    return taken
