"""Batches for training and validation.

The order of training is a pure function (`nanochat.data.order`): step s takes the positions [s*R, (s+1)*R) of the
endless sequence of rows for a global batch of R rows. Rank r takes every W-th of them, in micro-batches. So the whole
state is one integer, the rows consumed by all ranks together, and any world size and micro-batch sees the same global
batches. A thread gathers rows ahead of time; for a GPU they travel as they are stored (uint16 mostly) from pinned
memory, and are widened there.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanochat.data.blocks import BlockReader
from nanochat.data.order import GROUP_TOKENS, Order
from nanochat.data.row_index import RowSet
from nanochat.errors import BadConfig

Places = tuple[np.ndarray, np.ndarray, int]
"""Block (B,) and row in it (B,) of the rows of a batch, and the begin of the first one's group."""

IGNORED = -1
AHEAD_BATCHES = 8
"""So that a thread that waits for its turn on the CPU makes no step wait."""
FOUND_ROWS = 4096
"""Whose places are computed at once (at most an epoch)."""


class Batch(NamedTuple):
    """Rows on the device."""

    inputs_BT: Tensor  # noqa: N815  # the suffix is the shape
    """(B, T) int64."""
    targets_BT: Tensor  # noqa: N815
    """(B, T) int64: the next token, or -1 where it is not to be learnt."""


class Loader:
    """Endless training batches of this rank.

    `step()` yields the micro-batches of one optimizer step; `rows_consumed` is the state to save after it, and
    `start_row` where a resumed run goes on. Iterating the loader yields micro-batches without end. `group_rows` is
    part of the order, and smaller in tests (0: 2^29 tokens).
    When the batch does not divide by the world size, ranks have unequal rows (`rank_rows`): weigh the loss by tokens.
    Raises `BadConfig` when a rank would have no row.
    """

    def __init__(
        self,
        rows: RowSet,
        seed: int,
        batch_rows: int,
        rank: int = 0,
        world_size: int = 1,
        micro_batch_rows: int = 0,
        device: torch.device | str = "cpu",
        start_row: int = 0,
        group_rows: int = 0,
    ) -> None:
        if not 0 < world_size <= batch_rows:
            raise BadConfig(
                f"A batch of {batch_rows} rows cannot be shared by {world_size} ranks.",
                hint="Use fewer ranks (`compute.parallelism.ranks`) or larger batches (`batch_tokens`).",
            )
        self.rows = rows
        self.seed = seed
        self.batch_rows = batch_rows
        self.rank = rank
        self.world_size = world_size
        self.rank_rows = len(range(rank, batch_rows, world_size))
        """Rows of one step on this rank."""
        self.micro_batch_rows = min(micro_batch_rows or self.rank_rows, self.rank_rows)
        self.micro_batches = -(-self.rank_rows // self.micro_batch_rows)
        """Micro-batches of one step on this rank; the last may be smaller."""
        self.rows_consumed = start_row
        """Rows consumed by all ranks in whole steps, since the beginning of training."""
        self.device = torch.device(device)
        self._order = Order(
            [block.rows for block in rows.blocks], seed, group_rows or max(1, GROUP_TOKENS // rows.row_tokens)
        )
        reader = BlockReader(rows, self._order.groups(start_row))
        self._ahead = _Ahead(reader, self._gather(start_row), self.device)

    @property
    def epoch(self) -> float:
        """Times the rows were seen."""
        return self.rows_consumed / len(self.rows)

    def step(self) -> Iterator[Batch]:
        """The micro-batches of the next optimizer step."""
        for _ in range(self.micro_batches):
            yield next(self._ahead)
        self.rows_consumed += self.batch_rows

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield from self.step()

    def close(self) -> None:
        """Ends the thread."""
        self._ahead.close()

    def _gather(self, start_row: int) -> Iterator[Places]:
        """Where the rows of each micro-batch of this rank lie."""
        steps = max(1, min(FOUND_ROWS, len(self.rows)) // self.rank_rows)
        of_rank = np.arange(self.rank, self.batch_rows, self.world_size)
        while True:
            # (steps, rank_rows)
            positions = start_row + self.batch_rows * np.arange(steps)[:, None] + of_rank
            found = [part.reshape(positions.shape) for part in self._order.find(positions.ravel())]
            for step in range(steps):
                for begin in range(0, self.rank_rows, self.micro_batch_rows):
                    blocks, rows, groups = (part[step, begin : begin + self.micro_batch_rows] for part in found)
                    yield blocks, rows, int(groups[0])
            start_row += steps * self.batch_rows


def sequential(
    rows: RowSet,
    batch_rows: int,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    limit_rows: int = 0,
) -> Iterator[Batch]:
    """Each row once, in order, for validation: rank r takes every W-th of the first `limit_rows` (0: of all).

    The last batch may be smaller, and ranks may have unequal numbers of batches (even none): add up sums and counts,
    and reduce once at the end.
    """
    count = min(limit_rows or len(rows), len(rows))
    order = Order([block.rows for block in rows.blocks], None, group_rows=1)  # a block each: no more is fetched

    def places() -> Iterator[Places]:
        for begin in range(rank, count, batch_rows * world_size):
            blocks, within, groups = order.find(np.arange(begin, count, world_size)[:batch_rows])
            yield blocks, within, int(groups[0])

    ahead = _Ahead(BlockReader(rows, order.groups(0, count)), places(), torch.device(device))
    try:
        yield from ahead
    finally:
        ahead.close()


class _Ahead:
    """Takes rows on a thread, a few batches ahead, and yields them on the device."""

    def __init__(self, reader: BlockReader, batches: Iterator[Places], device: torch.device) -> None:
        self._reader = reader
        self._device = device
        self._queue: queue.Queue[tuple[Tensor, ...] | BaseException | None] = queue.Queue(AHEAD_BATCHES)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(batches,), name="loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> _Ahead:
        return self

    def __next__(self) -> Batch:
        if self._closed.is_set():
            raise StopIteration
        found = self._queue.get()
        if isinstance(found, BaseException):
            self.close()
            raise found
        if found is None:
            self.close()
            raise StopIteration
        return Batch(*found) if self._device.type == "cpu" else _widened_there(found, self._device)

    def close(self) -> None:
        self._closed.set()
        self._reader.close()
        self._thread.join(timeout=10)

    def _run(self, batches: Iterator[Places]) -> None:
        on_gpu = self._device.type == "cuda"
        try:
            if on_gpu:
                torch.cuda.set_device(self._device)  # or pinning would open a context on GPU 0, in every rank
            for places in batches:
                columns = self._reader.take(*places, empty=_pinned if on_gpu else np.empty)
                if not self._put(tuple(map(_signed, columns)) if on_gpu else _widened_here(*columns)):
                    return
            self._put(None)
        except BaseException as error:  # noqa: BLE001  # raised again where the batch is waited for
            self._put(error)

    def _put(self, found: tuple[Tensor, ...] | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(found, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False


def _pinned(shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """Memory from which a GPU copies while the CPU goes on.

    It comes from PyTorch's caching allocator, which hands a block out again only when the copies from it are done: as
    many buffers turn as there are batches on their way, and none is overwritten.
    """
    return torch.empty(shape, dtype=getattr(torch, f"int{8 * dtype.itemsize}"), pin_memory=True).numpy().view(dtype)


def _signed(column: np.ndarray) -> Tensor:
    """The stored integers as a tensor of signed ones of the same width."""
    return torch.from_numpy(column.view(f"i{column.dtype.itemsize}"))


def _widened_here(ids: np.ndarray, mask: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T) of ids (B, T+1), and of the mask (B, T+1) if there is one."""
    inputs, targets = ids[:, :-1].astype(np.int64), ids[:, 1:].astype(np.int64)
    if mask is not None:
        targets[mask[:, 1:] == 0] = IGNORED
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def _widened_there(columns: tuple[Tensor, ...], device: torch.device) -> Batch:
    """The same on the device."""
    ids, *masks = (column.to(device, non_blocking=True) for column in columns)
    rows = ids.to(torch.int64) & ((1 << 8 * ids.element_size()) - 1)  # they were unsigned
    targets_BT = rows[:, 1:]
    for mask in masks:
        targets_BT = torch.where(mask[:, 1:] != 0, targets_BT, IGNORED)
    return Batch(rows[:, :-1].contiguous(), targets_BT.contiguous())
