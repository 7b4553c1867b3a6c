"""The size of the micro-batch: rows per forward and backward pass on one rank, as many as fit the memory.

On a GPU, it is estimated from passes of the plain network (`micro_batch_rows`), and then tried with the compiled one,
which needs more memory (`rows_that_run`).
"""

import time
from collections.abc import Callable

import torch

from nanochat.config.compute import Compute
from nanochat.errors import BadConfig, NotEnoughMemory
from nanochat.model.gpt import GPT
from nanochat.workers.ranks import World

CPU_TOKENS = 2_048
"""Tokens of a micro-batch on a CPU: more would use memory and not be faster."""
MAX_TOKENS = 65_536
"""Tokens of a micro-batch on a GPU, at which the cost of kernel launches is negligible."""
RESERVE = 0.12
"""Share of the free memory that the estimate leaves unused, for fragmentation and the needs of compiled code."""
LEFT = 0.03
"""Share of all memory that a pass leaves free, for the buffers of communication and the workspaces of libraries."""


def micro_batch_rows(compute: Compute, model: GPT, sequence_len: int, batch_rows: int, world: World) -> int:
    """Rows of one forward and backward pass: `parallelism.micro_batch_rows`, else as many as fit the device.

    It divides the rows that a rank has of a batch (`batch_rows` over all ranks), so that all passes have one shape.
    Raises `BadConfig` when `parallelism.exact` is set, and the device or the number of ranks does not allow exact sums.
    """
    if compute.parallelism.exact:
        if world.device.type == "cuda":
            raise BadConfig(
                "Sums are exact on CPUs only: kernels of a GPU add gradients in an order that changes from run to run.",
                hint="Leave out `compute.parallelism.exact`, or train on a CPU (`compute.parallelism.device=cpu`).",
            )
        if batch_rows % world.world_size or world.world_size & (world.world_size - 1):
            raise BadConfig(
                f"{world.world_size} ranks cannot share {batch_rows} rows so that sums are exact.",
                hint="Use 1, 2, 4, 8, … ranks that divide the batch, or do not set `compute.parallelism.exact`.",
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
    return even_share(mine, min(fitting, max(1, MAX_TOKENS // sequence_len)))


def rows_that_run(
    compute: Compute, model: GPT, rows: int, sequence_len: int, batch_rows: int, world: World
) -> tuple[int, str]:
    """Rows whose pass fits the memory as the network is prepared, and a description for the log.

    On a GPU it makes a pass of `rows` (or of all rows of a rank), or of a share of them if these do not fit.
    So all compilation of training comes before the first step. Numbers of rows that the config sets are not lowered:
    that raises `NotEnoughMemory`. On a CPU, `rows` and no description. Weights and generators of random numbers stay as
    they are.
    """
    if world.device.type != "cuda":
        return rows, ""
    began_s, most = time.monotonic(), min(rows, -(-batch_rows // world.world_size))
    found = largest_that_runs(most, lambda some: _runs(model, some, sequence_len, world.device))
    if not found or (found < most and compute.parallelism.micro_batch_rows):
        raise does_not_fit(model, found or rows, sequence_len, world.device)
    return rows if found == most else found, f"; the first pass took {time.monotonic() - began_s:.0f} s"


def largest_that_runs(rows: int, runs: Callable[[int], bool]) -> int:
    """`rows`, else the largest share of them that runs; 0 if not even one row does."""
    while not runs(rows):
        if rows == 1:
            return 0
        rows = even_share(rows, rows // 2)
    return rows


def does_not_fit(model: GPT, rows: int, sequence_len: int, device: torch.device) -> NotEnoughMemory:
    """The error of micro-batches of so many rows."""
    return NotEnoughMemory(
        f"Depth {model.architecture.depth} with micro-batches of {rows} rows of {sequence_len} tokens does not fit the "
        f"memory of `{device}`.",
        hint=f"Set `--compute parallelism.micro_batch_rows={max(1, rows // 2)}`, or a smaller `pretrain.model.depth`.",
    )


def most_that_fits(bytes_of: Callable[[int], int], free_bytes: int) -> int:
    """Rows whose pass takes at most `free_bytes`, extrapolated from one and two rows; at least 1."""
    one, two = bytes_of(1), bytes_of(2)
    per_row = max(two - one, 1)
    return max(1, (free_bytes - (one - per_row)) // per_row)


def even_share(rows: int, most: int) -> int:
    """The largest divisor of `rows` that is at most `most`."""
    return next(share for share in range(min(rows, max(most, 1)), 0, -1) if rows % share == 0)


def _pass_bytes(model: GPT, rows: int, sequence_len: int, device: torch.device) -> int:
    """Peak memory of a forward and backward pass of the plain network, without weights and gradients."""
    ids = torch.zeros((rows, sequence_len), dtype=torch.int64, device=device)
    model(ids, ids).backward()  # allocates the gradients
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    model(ids, ids).backward()
    taken = torch.cuda.max_memory_allocated(device) - before
    model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    return taken


def _runs(model: GPT, rows: int, sequence_len: int, device: torch.device) -> bool:
    """Whether a forward and backward pass fits, and leaves enough memory free."""
    ids = torch.zeros((rows, sequence_len), dtype=torch.int64, device=device)
    try:
        model(ids, ids, reduction="sum").backward()
        free_bytes, all_bytes = torch.cuda.mem_get_info(device)
        fits = free_bytes >= LEFT * all_bytes
    except torch.OutOfMemoryError:
        fits = False
    model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)  # the peak that is logged is that of training
    return fits
