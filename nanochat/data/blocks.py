"""Packed rows from the store, a block at a time, through a bounded local cache.

1. an index (`nanochat.data.row_index`) says which blocks a split has: file in the store, size, SHA-256, rows;
2. a few threads fetch the blocks of the group that is read and of the next one, in that order; a block is checked
   against size and SHA-256, decompressed into the cache, and mapped;
3. `take` waits for the first group, then copies rows out of the mapped blocks, and waits only for what is late.

The cache is shared by all processes of a machine: one fetches a block, the others find it. What no group needs goes,
the oldest first, when the cache is over its limit; a block that another process has mapped lives on until it is done
with it. A store that fails is asked again for ten minutes: training goes on meanwhile, with what lies ahead.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import xxhash

from nanochat import settings
from nanochat.data.order import ShuffleGroup
from nanochat.data.row_index import Block, RowSet
from nanochat.data.rows import decode_block
from nanochat.errors import BadSource, DamagedArtifact, StoreUnreachable
from nanochat.store.object_names import is_foreign
from nanochat.store.objects import Objects

Columns = tuple[np.ndarray, ...]
"""Ids (N, T+1) and, for conversations, masks (N, T+1) uint8."""

GROUPS_AHEAD = 2
"""That are held at once: the one being read, and the next."""
FETCHES_AT_ONCE = 4
GIVE_UP_S = 600.0
PAUSE_S = (0.1, 10.0)
"""Between two attempts, at first and at most."""
DAMAGED_TRIES = 3
SUFFIX, PART = ".rows", ".part"
ABANDONED_S = 24 * 3600
"""Age at which a half-written block is taken for that of a dead process."""


class BlockReader:
    """The blocks of the groups that are read, mapped ahead of time.

    `groups` come in the order in which they will be read. Use from one thread; close it in the end.
    """

    def __init__(self, rows: RowSet, groups: Iterable[ShuffleGroup]) -> None:
        self._blocks = rows.blocks
        self._row_tokens = rows.row_tokens
        self._dtypes = [rows.dtype, np.dtype(np.uint8)][: 1 + rows.masked]
        self._groups: Iterator[ShuffleGroup] = iter(groups)
        self._held: deque[ShuffleGroup] = deque()
        self._uses: Counter[int] = Counter()  # by how many of the held groups
        self._mapped: dict[int, Columns | Future[Columns]] = {}
        self._began = False
        self._closed = threading.Event()
        self._cache = _Cache(rows, self._closed)
        self._pool = ThreadPoolExecutor(FETCHES_AT_ONCE, "fetch")
        self._hold(GROUPS_AHEAD)

    def take(
        self, blocks: np.ndarray, rows: np.ndarray, begin: int, empty: Callable[..., np.ndarray] = np.empty
    ) -> Columns:
        """Copies of rows (N, T+1), each given by its block (N,) and its number there (N,).

        `empty` gives memory for a shape and a dtype. `begin` is that of the first row's group: groups before it are
        read, and let go. Raises `StoreUnreachable` when a block could not be fetched for ten minutes,
        `DamagedArtifact` when it is not what was published.
        """
        while self._held and self._held[0].begin < begin:
            self._drop(self._held.popleft())
            self._hold(GROUPS_AHEAD)
        if not self._began:  # with a whole group, so that no step waits for its rest
            self._began = True
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
        """Ends the threads: fetches that run stop at their next attempt."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

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
            for block in group.blocks.tolist():
                self._uses[block] += 1
                if block not in self._mapped:
                    found = self._blocks[block]
                    self._cache.want(found)
                    self._mapped[block] = self._pool.submit(self._cache.get, found)

    def _drop(self, group: ShuffleGroup) -> None:
        for block in group.blocks.tolist():
            self._uses[block] -= 1
            if not self._uses[block]:
                del self._mapped[block]
                self._cache.release(self._blocks[block])


class _Cache:
    """Uncompressed blocks on the local disk: `<SHA-256 of the file in the store>.rows`.

    A block's file is its ids, its masks, and a checksum over both, with which a copy that an earlier process left is
    checked before it is used.
    """

    def __init__(self, rows: RowSet, closed: threading.Event) -> None:
        self._rows = rows
        self._folder = Path(rows.index.cache)
        self._objects = Objects(rows.index.store)
        self._closed = closed
        self._wanted: set[str] = set()
        self._lock = threading.Lock()
        self._folder.mkdir(parents=True, exist_ok=True)

    def want(self, block: Block) -> None:
        with self._lock:
            self._wanted.add(block.sha256 + SUFFIX)

    def release(self, block: Block) -> None:
        with self._lock:
            self._wanted.discard(block.sha256 + SUFFIX)

    def get(self, block: Block) -> Columns:
        """The block, mapped; from the store if it is not here."""
        place = self._folder / (block.sha256 + SUFFIX)
        if (found := self._open(place, block)) is not None:
            return found
        with self._alone(place.with_suffix(PART)) as part:
            if (found := self._open(place, block)) is not None:  # another process was first
                return found
            part.truncate(0)
            self._fetch(block, part)
            found = self._open(Path(part.name), block)  # before its name is there: others may delete what is
            Path(part.name).replace(place)
        self._make_room()
        assert found is not None
        return found

    # --- here -----------------------------------------------------------------------------------------------------

    def _open(self, place: Path, block: Block) -> Columns | None:
        """The mapped columns; None when the block is not here, or not whole."""
        try:
            # closing frees the file descriptor; the mapping lives as long as views of it
            with pa.memory_map(str(place)) as mapped:
                content = np.frombuffer(mapped.read_buffer(), np.uint8)
            os.utime(place)
        except (OSError, pa.ArrowInvalid):
            return None
        cells, itemsize = block.rows * self._rows.row_tokens, self._rows.dtype.itemsize
        ids_bytes, all_bytes = cells * itemsize, cells * (itemsize + self._rows.masked)
        whole = len(content) == all_bytes + 16 and _checksum(content[:all_bytes]) == content[all_bytes:].tobytes()
        if not whole:
            return None
        columns = [content[:ids_bytes].view(self._rows.dtype), content[ids_bytes:all_bytes]][: 1 + self._rows.masked]
        return tuple(column.reshape(block.rows, self._rows.row_tokens) for column in columns)

    @contextlib.contextmanager
    def _alone(self, part: Path) -> Iterator[IO[bytes]]:
        """The file that becomes the block, open for writing by nobody else; gone, unless it was renamed."""
        while True:
            with part.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(part.stat(), os.fstat(file.fileno())):  # else who had it is done with it
                        try:
                            yield file
                        finally:
                            with contextlib.suppress(OSError):
                                part.unlink()
                        return

    def _make_room(self) -> None:
        """Deletes what is oldest and not wanted here until the cache is within its limit."""
        found: list[tuple[float, int, Path]] = []
        for place in self._folder.iterdir():
            if is_foreign(place.name):
                continue
            with contextlib.suppress(FileNotFoundError):
                there = place.stat()
                if place.suffix == PART and time.time() - there.st_mtime > ABANDONED_S:
                    place.unlink(missing_ok=True)
                found.append((there.st_mtime, there.st_size, place))
        excess = sum(size for _, size, _ in found) - settings.rows_cache_bytes()
        for _, size, place in sorted(found):
            if excess <= 0:
                return
            with self._lock:
                if place.suffix == SUFFIX and place.name not in self._wanted:
                    place.unlink(missing_ok=True)
                    excess -= size

    # --- from the store -------------------------------------------------------------------------------------------

    def _fetch(self, block: Block, file: IO[bytes]) -> None:
        shape = (self._rows.row_tokens, self._rows.dtype)
        columns = decode_block(self._download(block), *shape, masked=self._rows.masked, name=block.path)
        if len(columns[0]) != block.rows:
            raise BadSource(f"`{block.path}` has {len(columns[0])} rows instead of {block.rows}.")
        for column in columns:
            file.write(column.data)
        file.write(_checksum(*columns))
        file.flush()

    def _download(self, block: Block) -> bytes:
        """The file of a block, checked; what can pass is tried again."""
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
                raise _damaged(block, "is not what was published")


def _checksum(*columns: np.ndarray) -> bytes:
    digest = xxhash.xxh3_128()
    for column in columns:
        digest.update(np.ascontiguousarray(column).data)
    return digest.digest()


def _damaged(block: Block, what: str) -> DamagedArtifact:
    return DamagedArtifact(
        f"`{block.path}` {what}.", hint="`nanochat verify --repair` takes it out; the next run makes it again."
    )
