"""Reads packed rows from the store, one block at a time, through a bounded local cache.

1. The index (`nanochat.data.row_index`) lists the blocks of a split: file in the store, size, SHA-256, rows.
2. A few threads fetch the blocks of the current shuffle group and of the next one, in that order. They check size and
   SHA-256, decompress the block into the cache, and map it.
3. `take` waits for the whole first group, then copies rows out of mapped blocks and waits only for late blocks.

All processes of a machine share the cache: one fetches a block, the others find it. A cache over its limit deletes the
least recently used blocks that no group needs; a process that has mapped a deleted block can still read it. Reads from
a failing store are retried for ten minutes; training continues meanwhile, with prefetched blocks.
"""

import hashlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from nanochat import settings
from nanochat.data.order import ShuffleGroup
from nanochat.data.row_index import Block, RowSet
from nanochat.data.rows import decode_block
from nanochat.errors import BadSource, DamagedArtifact, StoreUnreachable, SystemFailed
from nanochat.store.cache import DiskCache
from nanochat.store.objects import Objects

Columns = tuple[np.ndarray, ...]
"""Ids (N, T+1) uint16 or uint32 and, for conversations, masks (N, T+1) uint8."""

GROUPS_AHEAD = 2
"""Groups that are held at once: the current one and the next."""
FETCHES_AT_ONCE = 4
GIVE_UP_S = 600.0
PAUSE_S = (0.1, 10.0)
"""Between two attempts: the first and the longest."""
DAMAGED_TRIES = 3
CHECKSUM_BYTES = 16


class BlockReader:
    """Maps the blocks of shuffle groups ahead of time, and copies rows out of them.

    `groups` are in the order in which they will be read. Use it from one thread, and close it at the end.
    """

    def __init__(self, rows: RowSet, groups: Iterable[ShuffleGroup]) -> None:
        self._blocks = rows.blocks
        self._row_tokens = rows.row_tokens
        self._dtypes = [rows.dtype, np.dtype(np.uint8)][: 1 + rows.masked]
        self._groups: Iterator[ShuffleGroup] = iter(groups)
        self._held: deque[ShuffleGroup] = deque()
        self._uses: Counter[int] = Counter()  # block → number of held groups that need it
        self._mapped: dict[int, Columns | Future[Columns]] = {}
        self._started = False
        self._closed = threading.Event()
        self._cache = _BlockCache(rows, self._closed)
        self._pool = ThreadPoolExecutor(FETCHES_AT_ONCE, "fetch")
        self._hold(GROUPS_AHEAD)

    def take(
        self, blocks: np.ndarray, rows: np.ndarray, begin: int, empty: Callable[..., np.ndarray] = np.empty
    ) -> Columns:
        """Copies rows: ids (N, T+1) and, for conversations, masks (N, T+1).

        `blocks` (N,) int64 has the block of each row, `rows` (N,) int64 its index in the block. `begin` is the begin of
        the first row's group: earlier groups are released. `empty` allocates memory for a shape and a dtype. Raises
        `StoreUnreachable` if a block could not be fetched for ten minutes, `DamagedArtifact` if it is damaged.
        """
        while self._held and self._held[0].begin < begin:
            self._drop(self._held.popleft())
            self._hold(GROUPS_AHEAD)
        if not self._started:  # wait for the whole group once, so that no later step does
            self._started = True
            for block in self._held[0].blocks.tolist():
                self._wait(block)
        places = list(zip(blocks.tolist(), rows.tolist(), strict=True))
        found = {block: self._wait(block) for block, _ in places}
        out = tuple(empty((len(places), self._row_tokens), dtype) for dtype in self._dtypes)
        for column, target in enumerate(out):
            for position, (block, row) in enumerate(places):
                target[position] = found[block][column][row]
        return out

    def close(self) -> None:
        """Stops the threads: running fetches end at their next attempt."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._cache.close()

    def _wait(self, block: int) -> Columns:
        while block not in self._mapped:  # groups may be smaller than a batch
            self._hold(len(self._held) + 1)
        columns = self._mapped[block]
        if isinstance(columns, Future):
            columns = self._mapped[block] = columns.result()
        return columns

    def _hold(self, count: int) -> None:
        while len(self._held) < count and (group := next(self._groups, None)) is not None:
            self._held.append(group)
            blocks: list[int] = group.blocks.tolist()
            self._uses.update(blocks)
            new = [block for block in blocks if block not in self._mapped]
            self._cache.use(self._blocks[block] for block in new)
            for block in new:
                self._mapped[block] = self._pool.submit(self._cache.get, self._blocks[block])

    def _drop(self, group: ShuffleGroup) -> None:
        blocks: list[int] = group.blocks.tolist()
        self._uses.subtract(blocks)
        unused = [block for block in blocks if not self._uses[block]]
        for block in unused:
            del self._mapped[block]
        self._cache.release(self._blocks[block] for block in unused)


class _BlockCache:
    """Uncompressed blocks on the local disk: `<SHA-256 of the file in the store>.rows`.

    A file contains the ids, the masks, and a checksum of both, which detects a damaged copy of an earlier process.
    """

    def __init__(self, rows: RowSet, closed: threading.Event) -> None:
        self._rows = rows
        self._cache = DiskCache(Path(rows.index.cache), settings.rows_cache_bytes, suffix=".rows")
        self._objects = Objects(rows.index.store)
        self._closed = closed

    def use(self, blocks: Iterable[Block]) -> None:
        """Protects blocks from deletion until `release`."""
        self._cache.use(block.sha256 for block in blocks)

    def release(self, blocks: Iterable[Block]) -> None:
        self._cache.release(block.sha256 for block in blocks)

    def close(self) -> None:
        self._cache.close()

    def get(self, block: Block) -> Columns:
        """The block, mapped; fetched from the store if there is no copy. The caller uses it."""
        cells, itemsize = block.rows * self._rows.row_tokens, self._rows.dtype.itemsize
        ids_bytes, data_bytes = cells * itemsize, cells * (itemsize + self._rows.masked)
        size = data_bytes + CHECKSUM_BYTES
        for _ in range(DAMAGED_TRIES):
            place = self._cache.get(
                block.sha256, size, lambda path: path.stat().st_size == size, lambda path: self._fetch(block, path)
            )
            content = _mapped(place)
            if content is not None and _checksum(content[:data_bytes]) == content[data_bytes:].tobytes():
                columns = [content[:ids_bytes].view(self._rows.dtype), content[ids_bytes:data_bytes]]
                shape = (block.rows, self._rows.row_tokens)
                return tuple(column.reshape(shape) for column in columns[: 1 + self._rows.masked])
            self._cache.forget(block.sha256)
        raise SystemFailed(f"The copy of `{block.path}` is damaged each time.", hint="Check the disk of the cache.")

    def _fetch(self, block: Block, path: Path) -> None:
        shape = (self._rows.row_tokens, self._rows.dtype)
        columns = decode_block(self._download(block), *shape, masked=self._rows.masked, name=block.path)
        if len(columns[0]) != block.rows:
            raise BadSource(f"`{block.path}` has {len(columns[0])} rows instead of {block.rows}.")
        with path.open("wb") as file:
            for column in columns:
                file.write(column.data)
            file.write(_checksum(*columns))

    def _download(self, block: Block) -> bytes:
        """The verified file of a block; transient errors are retried."""
        began, pause_s, damaged = time.monotonic(), PAUSE_S[0], 0
        while True:
            try:
                data = self._objects.read(block.path)
            except StoreUnreachable:
                if self._closed.is_set() or time.monotonic() - began > GIVE_UP_S:
                    raise
                self._closed.wait(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S[1])
                continue
            except FileNotFoundError:
                raise _damaged(block, "is missing") from None
            if len(data) == block.size and hashlib.sha256(data).hexdigest() == block.sha256:
                return data
            damaged += 1
            if damaged == DAMAGED_TRIES:
                raise _damaged(block, "does not match its manifest")


def _mapped(path: Path) -> np.ndarray | None:
    """The bytes of a file, mapped; None if it is gone."""
    try:
        # closing frees the file descriptor; the mapping lives as long as views of it
        with pa.memory_map(str(path)) as file:
            return np.frombuffer(file.read_buffer(), np.uint8)
    except (OSError, pa.ArrowInvalid):
        return None


def _checksum(*columns: np.ndarray) -> bytes:
    digest = xxhash.xxh3_128()
    for column in columns:
        digest.update(np.ascontiguousarray(column).data)
    return digest.digest()


def _damaged(block: Block, what: str) -> DamagedArtifact:
    return DamagedArtifact(
        f"`{block.path}` {what}.", hint="`nanochat verify --repair` removes it; the next run computes it again."
    )
