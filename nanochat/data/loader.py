"""Batches for training and validation.

The order of training is a pure function: position p of the endless sequence of rows is row `shuffled(p mod N)` of
epoch p // N, and step s takes the positions [s*R, (s+1)*R) for a global batch of R rows. Rank r takes every W-th of
them, in micro-batches. So the whole state is one integer, the rows consumed by all ranks together, and any world size
and micro-batch sees the same global batches. A thread gathers rows ahead of time; they travel to the device as they
are stored (uint16 mostly) and are widened there.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanochat.data.rows import RowFiles
from nanochat.errors import BadConfig

IGNORED = -1
AHEAD_BATCHES = 2
ROUNDS = 8


class Batch(NamedTuple):
    """Rows on the device."""

    inputs_BT: Tensor  # noqa: N815  # the suffix is the shape
    """(B, T) int64."""
    targets_BT: Tensor  # noqa: N815
    """(B, T) int64: the next token, or -1 where it is not to be learnt."""


def row_at(positions: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """Indices (N,) int64 of the rows at those positions (N,) of the endless shuffled sequence.

    Each epoch is a permutation made by a Feistel network over a x b >= rows cells, walked until it lands on a row
    (format-preserving encryption; Black and Rogaway, 2002). It needs no memory and no time to start, at any number of
    rows, and depends on no library's stream of random numbers.
    """
    positions = np.asarray(positions, np.uint64)
    epochs, cells = np.divmod(positions, np.uint64(rows))
    keys = _mix(_mix(np.full_like(epochs, seed)) ^ epochs)
    a = np.uint64(int(np.ceil(np.sqrt(rows))))
    b = np.uint64(-(-rows // int(a)))
    cells = _permuted(cells, keys, a, b)
    while (outside := cells >= np.uint64(rows)).any():
        cells[outside] = _permuted(cells[outside], keys[outside], a, b)
    return cells.astype(np.int64)


def _permuted(cells: np.ndarray, keys: np.ndarray, a: np.uint64, b: np.uint64) -> np.ndarray:
    left, right = np.divmod(cells, b)  # left < a, right < b
    for number in range(0, ROUNDS, 2):
        left = (left + _mix(right ^ _mix(keys + np.uint64(number))) % a) % a
        right = (right + _mix(left ^ _mix(keys + np.uint64(number + 1))) % b) % b
    return left * b + right


def _mix(values: np.ndarray) -> np.ndarray:
    """Finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Loader:
    """Endless training batches of this rank.

    `step()` yields the micro-batches of one optimizer step; `rows_consumed` is the state to save after it, and
    `start_row` where a resumed run goes on. Iterating the loader yields micro-batches without end.
    When the batch does not divide by the world size, ranks have unequal rows (`rank_rows`): weigh the loss by tokens.
    Raises `BadConfig` when a rank would have no row.
    """

    def __init__(
        self,
        rows: RowFiles,
        seed: int,
        batch_rows: int,
        rank: int = 0,
        world_size: int = 1,
        micro_batch_rows: int = 0,
        device: torch.device | str = "cpu",
        start_row: int = 0,
    ) -> None:
        if not 0 < world_size <= batch_rows:
            raise BadConfig(
                f"A batch of {batch_rows} rows cannot be shared by {world_size} ranks.",
                hint="Use fewer ranks (`compute.ranks`) or larger batches (`batch_tokens`).",
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
        self._ahead = _Ahead(self._gather(start_row), self.device)

    @property
    def epoch(self) -> float:
        """Times the rows were seen."""
        return self.rows_consumed / len(self.rows)

    def indices(self, start_row: int) -> np.ndarray:
        """Row indices (rank_rows,) of this rank in the step that begins at `start_row`."""
        positions = np.arange(start_row + self.rank, start_row + self.batch_rows, self.world_size)
        return row_at(positions, len(self.rows), self.seed)

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

    def _gather(self, start_row: int) -> Iterator[tuple[np.ndarray, ...]]:
        while True:
            indices = self.indices(start_row)
            for begin in range(0, len(indices), self.micro_batch_rows):
                yield self.rows.take(indices[begin : begin + self.micro_batch_rows])
            start_row += self.batch_rows


def sequential(
    rows: RowFiles,
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
    mine = np.arange(rank, min(limit_rows or len(rows), len(rows)), world_size)
    batches = (rows.take(mine[begin : begin + batch_rows]) for begin in range(0, len(mine), batch_rows))
    ahead = _Ahead(batches, torch.device(device))
    try:
        yield from ahead
    finally:
        ahead.close()


class _Ahead:
    """Runs an iterator of stored rows on a thread, a few batches ahead, and yields them on the device."""

    def __init__(self, batches: Iterator[tuple[np.ndarray, ...]], device: torch.device) -> None:
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
        return _on_device(found, self._device)

    def close(self) -> None:
        self._closed.set()
        self._thread.join(timeout=10)

    def _run(self, batches: Iterator[tuple[np.ndarray, ...]]) -> None:
        try:
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)  # or pinning would open a context on GPU 0, in every rank
            for columns in batches:
                if not self._put(tuple(self._host(column) for column in columns)):
                    return
            self._put(None)
        except BaseException as error:  # noqa: BLE001  # raised again where the batch is waited for
            self._put(error)

    def _host(self, column: np.ndarray) -> Tensor:
        """The stored integers as a tensor of signed ones of the same width, pinned for a GPU.

        Pinned memory comes from PyTorch's caching allocator, which hands a block out again only when the copies from
        it are done; no buffer of ours can be overwritten on its way.
        """
        signed = torch.from_numpy(column.view(f"i{column.dtype.itemsize}"))
        return signed.pin_memory() if self._device.type == "cuda" else signed

    def _put(self, found: tuple[Tensor, ...] | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(found, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False


def _on_device(columns: tuple[Tensor, ...], device: torch.device) -> Batch:
    """Widened on the device: ids (B, T+1), and the mask (B, T+1) if there is one."""
    ids, *masks = (column.to(device, non_blocking=True) for column in columns)
    rows = ids.to(torch.int64) & ((1 << 8 * ids.element_size()) - 1)  # they were unsigned
    targets_BT = rows[:, 1:]
    for mask in masks:
        targets_BT = torch.where(mask[:, 1:] != 0, targets_BT, IGNORED)
    return Batch(rows[:, :-1].contiguous(), targets_BT.contiguous())
