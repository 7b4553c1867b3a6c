"""Batches for training and validation.

The order of training is a pure function (`nanochat.data.order`): step s reads positions [s*R, (s+1)*R) of the endless
sequence of rows, for a global batch of R rows. Rank r reads every W-th of them, in micro-batches. So the whole state is
one integer, the number of rows that all ranks consumed, and any world size and micro-batch size gives the same global
batches. A thread prefetches rows. For a GPU they are copied from pinned memory in their stored dtype (mostly uint16),
and widened to int64 on the device.
"""

import queue
import threading
from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from nanochat.data.blocks import BlockReader
from nanochat.data.order import GROUP_TOKENS, Order
from nanochat.data.row_index import RowSet
from nanochat.errors import BadConfig

Places = tuple[np.ndarray, np.ndarray, int]
"""Block (B,) int64 and index in the block (B,) int64 of the rows of a batch, and the begin of the first row's group."""

IGNORED = -1
"""Target of a token that is not trained on."""
PREFETCHED_BATCHES = 8
"""Enough that no step waits while the loader's thread waits for the CPU."""
LOCATED_ROWS = 4096
"""Rows whose places are computed at once (at most an epoch)."""


class Batch(NamedTuple):
    """Rows on the device."""

    inputs_BT: Tensor  # noqa: N815  # the suffix is the shape
    """(B, T) int64."""
    targets_BT: Tensor  # noqa: N815
    """(B, T) int64: the next token, or -1 where it is not trained on."""


class Loader:
    """Endless training batches of this rank.

    `step()` yields the micro-batches of one optimizer step. `rows_consumed` is the state to save after it; a resumed
    run passes it as `start_row`. Iterating the loader yields micro-batches without end. `group_rows` is part of the
    order; tests set it lower (0: 2^29 tokens).
    If the world size does not divide the batch, ranks have unequal numbers of rows (`rank_rows`): weight the loss by
    tokens. Raises `BadConfig` if a rank would have no row.
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
        """Rows per step on this rank."""
        self.micro_batch_rows = min(micro_batch_rows or self.rank_rows, self.rank_rows)
        self.micro_batches = -(-self.rank_rows // self.micro_batch_rows)
        """Micro-batches per step on this rank; the last may be smaller."""
        self.rows_consumed = start_row
        """Rows that all ranks consumed in complete steps since the start of training."""
        self.device = torch.device(device)
        self._order = Order(
            [block.rows for block in rows.blocks], seed, group_rows or max(1, GROUP_TOKENS // rows.row_tokens)
        )
        reader = BlockReader(rows, self._order.groups(start_row))
        self._prefetcher = _Prefetcher(reader, self._locate(start_row), self.device)

    @property
    def epoch(self) -> float:
        """How often the rows were seen."""
        return self.rows_consumed / len(self.rows)

    def step(self) -> Iterator[Batch]:
        """The micro-batches of the next optimizer step."""
        for _ in range(self.micro_batches):
            yield next(self._prefetcher)
        self.rows_consumed += self.batch_rows

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield from self.step()

    def close(self) -> None:
        """Stops the thread."""
        self._prefetcher.close()

    def _locate(self, start_row: int) -> Iterator[Places]:
        """Yields the places of the rows of each micro-batch of this rank."""
        steps = max(1, min(LOCATED_ROWS, len(self.rows)) // self.rank_rows)
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
    """Yields each row once, in order, for validation: rank r reads every W-th of the first `limit_rows` (0: all).

    The last batch may be smaller, and ranks may have unequal numbers of batches, even none: accumulate sums and counts,
    and reduce once at the end.
    """
    count = min(limit_rows or len(rows), len(rows))
    order = Order([block.rows for block in rows.blocks], None, group_rows=1)  # one block per group

    def places() -> Iterator[Places]:
        for begin in range(rank, count, batch_rows * world_size):
            blocks, within, groups = order.find(np.arange(begin, count, world_size)[:batch_rows])
            yield blocks, within, int(groups[0])

    prefetcher = _Prefetcher(BlockReader(rows, order.groups(0, count)), places(), torch.device(device))
    try:
        yield from prefetcher
    finally:
        prefetcher.close()


class _Prefetcher:
    """Reads rows in a thread, a few batches ahead, and yields them on the device."""

    def __init__(self, reader: BlockReader, batches: Iterator[Places], device: torch.device) -> None:
        self._reader = reader
        self._device = device
        self._queue: queue.Queue[tuple[Tensor, ...] | BaseException | None] = queue.Queue(PREFETCHED_BATCHES)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(batches,), name="loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Self:
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
        return Batch(*found) if self._device.type == "cpu" else _widen_on_device(found, self._device)

    def close(self) -> None:
        self._closed.set()
        self._reader.close()
        self._thread.join(timeout=10)

    def _run(self, batches: Iterator[Places]) -> None:
        on_gpu = self._device.type == "cuda"
        try:
            if on_gpu:
                torch.cuda.set_device(self._device)  # otherwise pinning opens a context on GPU 0 in every rank
            for places in batches:
                columns = self._reader.take(*places, empty=_pinned if on_gpu else np.empty)
                if not self._put(tuple(map(_signed, columns)) if on_gpu else _widen_on_cpu(*columns)):
                    return
            self._put(None)
        except BaseException as error:  # noqa: BLE001  # raised again in `__next__`
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
    """Pinned memory, from which a GPU copies asynchronously.

    PyTorch's caching allocator reuses a block only after all copies from it are complete, so none is overwritten.
    """
    return torch.empty(shape, dtype=getattr(torch, f"int{8 * dtype.itemsize}"), pin_memory=True).numpy().view(dtype)


def _signed(column: np.ndarray) -> Tensor:
    """The stored unsigned integers as a tensor of signed ones of the same width."""
    return torch.from_numpy(column.view(f"i{column.dtype.itemsize}"))


def _widen_on_cpu(ids: np.ndarray, mask: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T) int64 from ids (B, T+1) and, if present, the mask (B, T+1)."""
    inputs, targets = ids[:, :-1].astype(np.int64), ids[:, 1:].astype(np.int64)
    if mask is not None:
        targets[mask[:, 1:] == 0] = IGNORED
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def _widen_on_device(columns: tuple[Tensor, ...], device: torch.device) -> Batch:
    """Copies columns (B, T+1) to the device and widens them there to inputs and targets (B, T) int64."""
    ids, *masks = (column.to(device, non_blocking=True) for column in columns)
    rows = ids.to(torch.int64) & ((1 << 8 * ids.element_size()) - 1)  # the stored ids are unsigned
    targets_BT = rows[:, 1:]
    for mask in masks:
        targets_BT = torch.where(mask[:, 1:] != 0, targets_BT, IGNORED)
    return Batch(rows[:, :-1].contiguous(), targets_BT.contiguous())
