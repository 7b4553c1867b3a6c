"""Which row is trained on when: a pure function of the number of rows in each block, a seed, and a position.

Position p of the endless sequence of rows is in epoch p // N. An epoch reads the blocks in an order of its own, and
cuts that order into groups of some blocks; in a group, its rows are shuffled. So at any position only one group's
blocks are needed (two at its end), and they are known ahead: rows can be streamed through a bounded cache. Blocks come
from all over the text, and a group has half a billion tokens, as much as a thousand steps of 2^19 take: what fits one
group is shuffled as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

GROUP_TOKENS = 1 << 29
ROUNDS = 8


@dataclass(frozen=True, eq=False)
class ShuffleGroup:
    """A stretch of the sequence, and the blocks it needs."""

    begin: int
    """Position of its first row."""
    rows: int
    blocks: np.ndarray
    """(blocks,) int64: numbers of the blocks it reads, whole."""
    starts: np.ndarray
    """(blocks,) int64: its rows, numbered through in the order of the blocks, begin a block here."""

    @property
    def end(self) -> int:
        return self.begin + self.rows


class Order:
    """The endless sequence of the rows of some blocks, shuffled by `seed`; without one, as they lie."""

    def __init__(self, block_rows: Sequence[int], seed: int | None, group_rows: int) -> None:
        self.rows = int(sum(block_rows))
        """Rows of an epoch."""
        self._block_rows = np.asarray(block_rows, np.int64)
        self._seed = seed
        self._group_rows = group_rows
        self._epoch = lru_cache(maxsize=2)(self._groups_of_epoch)

    def group(self, position: int) -> ShuffleGroup:
        """The group in which a position lies."""
        epoch, offset = divmod(position, self.rows)
        begins, groups = self._epoch(epoch)
        return groups[int(np.searchsorted(begins, offset, "right")) - 1]

    def groups(self, position: int, end: int | None = None) -> Iterator[ShuffleGroup]:
        """The groups from that of a position on, up to the position `end` or without end."""
        while end is None or position < end:
            group = self.group(position)
            yield group
            position = group.end

    def find(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Block, row in the block, and begin of the group (N,) int64 of each position (N,); positions ascend."""
        found = np.empty((3, len(positions)), np.int64)
        at = 0
        while at < len(positions):
            group = self.group(int(positions[at]))
            end = int(np.searchsorted(positions, group.end))
            cells = positions[at:end] - group.begin
            if self._seed is not None:
                cells = shuffled(cells, group.rows, self._key(group.begin, 1))
            block = np.searchsorted(group.starts, cells, "right") - 1
            found[0, at:end], found[1, at:end] = group.blocks[block], cells - group.starts[block]
            found[2, at:end] = group.begin
            at = end
        return found[0], found[1], found[2]

    def _key(self, of: int, kind: int) -> np.ndarray:
        """(1,) uint64 for a group (by its begin) or an epoch."""
        assert self._seed is not None
        seed, number = np.array([[self._seed % 2**64], [of % 2**64]], np.uint64)
        return _mix(_mix(_mix(seed) ^ number) + np.uint64(kind))

    def _groups_of_epoch(self, epoch: int) -> tuple[np.ndarray, list[ShuffleGroup]]:
        """Its groups, and where each begins in it."""
        count = len(self._block_rows)
        order = np.arange(count)
        if self._seed is not None:
            order = shuffled(order, count, self._key(epoch, 0))
        order = order[self._block_rows[order] > 0]
        starts = np.concatenate(([0], np.cumsum(self._block_rows[order])))
        firsts = np.flatnonzero(np.diff(starts[:-1] // self._group_rows, prepend=-1))
        begins, bounds = starts[firsts], [*firsts.tolist(), len(order)]
        groups = [
            ShuffleGroup(
                begin=epoch * self.rows + int(starts[first]),
                rows=int(starts[last] - starts[first]),
                blocks=order[first:last],
                starts=starts[first:last] - starts[first],
            )
            for first, last in pairwise(bounds)
        ]
        return begins, groups


def shuffled(cells: np.ndarray, count: int, key: np.ndarray) -> np.ndarray:
    """Where a permutation of `count` takes the cells (N,), each less than `count`: (N,) int64.

    A Feistel network over a x b >= count cells, walked until it lands below `count` (format-preserving encryption;
    Black and Rogaway, 2002). It needs no memory and no time to start, at any count, and depends on no library's stream
    of random numbers.
    """
    a = np.uint64(int(np.ceil(np.sqrt(count))))
    b = np.uint64(-(-count // int(a)))
    cells = _permuted(cells.astype(np.uint64), key, a, b)
    while (outside := cells >= np.uint64(count)).any():
        cells[outside] = _permuted(cells[outside], key, a, b)
    return cells.astype(np.int64)


def _permuted(cells: np.ndarray, key: np.ndarray, a: np.uint64, b: np.uint64) -> np.ndarray:
    left, right = np.divmod(cells, b)  # left < a, right < b
    for number in range(0, ROUNDS, 2):
        left = (left + _mix(right ^ _mix(key + np.uint64(number))) % a) % a
        right = (right + _mix(left ^ _mix(key + np.uint64(number + 1))) % b) % b
    return left * b + right


def _mix(values: np.ndarray) -> np.ndarray:
    """Finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
