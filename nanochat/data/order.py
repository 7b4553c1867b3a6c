"""The order of training rows: a pure function of the number of rows in each block, a seed, and a position.

Position p of the endless sequence of rows is in epoch p // N. Each epoch shuffles the blocks, cuts their order into
shuffle groups, and shuffles the rows inside each group. So a position needs the blocks of one group only (of two at its
end), and these are known in advance: rows can be streamed through a bounded cache. The blocks of a group come from all
over the text. A group has half a billion tokens, a thousand steps of 2^19; a smaller corpus is shuffled as a whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

GROUP_TOKENS = 1 << 29
ROUNDS = 8
"""Rounds of the Feistel network."""


@dataclass(frozen=True, eq=False)
class ShuffleGroup:
    """A range of the sequence, and the blocks that it needs."""

    begin: int
    """Position of its first row."""
    rows: int
    blocks: np.ndarray
    """(blocks,) int64: numbers of its blocks; it contains all rows of each."""
    starts: np.ndarray
    """(blocks,) int64: index of the first row of each block, among the rows of the group before the shuffle."""

    @property
    def end(self) -> int:
        return self.begin + self.rows


class Order:
    """The endless sequence of the rows of some blocks, shuffled by `seed`, or in stored order if it is None."""

    def __init__(self, block_rows: Sequence[int], seed: int | None, group_rows: int) -> None:
        self.rows = int(sum(block_rows))
        """Rows per epoch."""
        self._block_rows = np.asarray(block_rows, np.int64)
        self._seed = seed
        self._group_rows = group_rows
        self._epoch = lru_cache(maxsize=2)(self._groups_of_epoch)

    def group(self, position: int) -> ShuffleGroup:
        """The group that contains a position."""
        epoch, offset = divmod(position, self.rows)
        begins, groups = self._epoch(epoch)
        return groups[int(np.searchsorted(begins, offset, "right")) - 1]

    def groups(self, position: int, end: int | None = None) -> Iterator[ShuffleGroup]:
        """The groups from the one that contains `position`, up to the position `end` or without end."""
        while end is None or position < end:
            group = self.group(position)
            yield group
            position = group.end

    def find(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Block, index in the block, and begin of the group, each (N,) int64, of ascending positions (N,) int64."""
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
        """The key (1,) uint64 of a shuffle: of a group (by its begin, kind 1) or an epoch (kind 0)."""
        assert self._seed is not None
        seed, number = np.array([[self._seed % 2**64], [of % 2**64]], np.uint64)
        return _mix(_mix(_mix(seed) ^ number) + np.uint64(kind))

    def _groups_of_epoch(self, epoch: int) -> tuple[np.ndarray, list[ShuffleGroup]]:
        """Begin of each group in the epoch, (groups,) int64, and the groups."""
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
    """Applies a pseudorandom permutation of `count` to cells (N,) int64, each below `count`; returns (N,) int64.

    A Feistel network over a x b >= count cells, repeated until the result is below `count` (format-preserving
    encryption with cycle walking; Black and Rogaway, 2002). It needs no memory and no setup at any count, and does not
    depend on a library's random numbers.
    """
    a = np.uint64(int(np.ceil(np.sqrt(count))))
    b = np.uint64(-(-count // int(a)))
    cells = _permute(cells.astype(np.uint64), key, a, b)
    while (outside := cells >= np.uint64(count)).any():
        cells[outside] = _permute(cells[outside], key, a, b)
    return cells.astype(np.int64)


def _permute(cells: np.ndarray, key: np.ndarray, a: np.uint64, b: np.uint64) -> np.ndarray:
    left, right = np.divmod(cells, b)  # left < a, right < b
    for number in range(0, ROUNDS, 2):
        left = (left + _mix(right ^ _mix(key + np.uint64(number))) % a) % a
        right = (right + _mix(left ^ _mix(key + np.uint64(number + 1))) % b) % b
    return left * b + right


def _mix(values: np.ndarray) -> np.ndarray:
    """Finalizer of SplitMix64 (Steele, Lea and Flood, 2014), element by element on uint64."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
