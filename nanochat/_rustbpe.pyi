"""The native code; see `rustbpe/src/python/`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

PATTERN: str
"""nanochat's split pattern."""
PATTERNS: dict[str, str]
"""Patterns with a scanner of their own, by the name of the model that uses them."""
DEBUG_BUILD: bool

Chunk = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
"""Buffers of an Arrow string array: bytes (uint8), offsets (int32 or int64)."""

Float32Array = np.ndarray[Any, np.dtype[np.float32]]

class Layer:
    def __new__(
        cls,
        matrices: tuple[Float32Array, ...],
        value_table: Float32Array | None,
        residual: tuple[float, float] | None,
        window: int,
        columns: int,
        weights: str,
    ) -> Layer: ...

class Network:
    def __new__(
        cls,
        heads: tuple[int, int, int],
        embedding: Float32Array,
        smear: Float32Array | None,
        rotation: tuple[Float32Array, Float32Array],
        scalars: tuple[float, float, float, float],
        layers: Sequence[Layer],
        head: Float32Array,
        weights: str,
        slots: int,
        threads: int,
    ) -> Network: ...
    def forward(
        self, slots: Sequence[int], positions: Sequence[int], ids: Sequence[int], previous: Sequence[int]
    ) -> Float32Array: ...
    def logits(self, hidden: Float32Array, cap: float = 0.0) -> Float32Array: ...
    def save(self, slot: int, start: int, stop: int) -> Float32Array: ...
    def load(self, slot: int, start: int, saved: Float32Array) -> None: ...
    @property
    def bytes(self) -> tuple[int, int]: ...

class Trainer:
    def __new__(cls, threads: int = 0, pattern: str = PATTERN) -> Trainer: ...
    def add(self, texts: Sequence[str]) -> None: ...
    def add_buffers(self, chunks: Sequence[Chunk]) -> None: ...
    def merges(self, merges: int, progress: Callable[[int], object] | None = None) -> list[tuple[int, int]]: ...
    @property
    def unique(self) -> int: ...

class Encoder:
    def __new__(cls, merges: Sequence[tuple[int, int]], pattern: str = PATTERN) -> Encoder: ...
    @staticmethod
    def from_tokens(
        tokens: Sequence[bytes | None],
        merges: Sequence[tuple[int, int]] | None = None,
        pattern: str = PATTERN,
        whole: bool = True,
    ) -> Encoder: ...
    def encode(self, value: str) -> list[int]: ...
    def encode_batch(
        self,
        texts: Sequence[str],
        threads: int,
        wide: bool,
        before: int | None = None,
        after: int | None = None,
        out: np.ndarray[Any, Any] | None = None,
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]: ...
    def encode_buffers(
        self,
        chunks: Sequence[Chunk],
        threads: int,
        wide: bool,
        before: int | None = None,
        after: int | None = None,
        out: np.ndarray[Any, Any] | None = None,
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]: ...
    def encode_parquet(
        self,
        path: bytes,
        column: Sequence[str],
        threads: int,
        wide: bool,
        before: int | None = None,
        after: int | None = None,
    ) -> Batches: ...
    def decode(self, ids: Sequence[int] | np.ndarray[Any, Any]) -> bytes: ...
    def token_bytes(self) -> list[bytes | None]: ...
    @property
    def vocab_size(self) -> int: ...

class Batches:
    """Batches of a Parquet file, in order."""

    @property
    def rows(self) -> int:
        """Number of documents in the file."""

    def __iter__(self) -> Batches: ...
    def __next__(self) -> Batch: ...

class Batch:
    """Documents of a Parquet file, and their ids."""

    @property
    def ids(self) -> np.ndarray[Any, Any]:
        """(N,) uint16 or uint32: ids of all documents."""

    @property
    def offsets(self) -> np.ndarray[Any, Any]:
        """(documents + 1,) int64: start of each document among the ids, and the end of the last one."""

    def byte_lengths(self) -> np.ndarray[Any, Any]:
        """(documents,) uint32: bytes of each document."""

    def hashes(self) -> np.ndarray[Any, Any]:
        """(documents,) uint64: XXH3 of each document's bytes."""

    def beginning(self, document: int, bytes: int) -> bytes:
        """The first bytes of a document."""

    def __len__(self) -> int: ...

def split_pieces(value: str, pattern: str = PATTERN) -> list[str]: ...
def is_fast(pattern: str) -> bool: ...
def derived_merges(tokens: Sequence[bytes | None]) -> list[tuple[int, int]]:
    """The pair of ids that makes each token of two bytes or more by tiktoken's rule, in the order of the tokens' ids.

    Tokens that no merges make, and that are matched as whole pieces only, have no pair. Raises `ValueError` if a single
    byte has no id, or two ids have the same bytes.
    """

def pack(ids: np.ndarray, offsets: np.ndarray, row_tokens: int) -> tuple[np.ndarray, int]:
    """Full rows (N, row_tokens), and the number of tokens dropped."""

def pack_padded(lengths: np.ndarray, row_tokens: int, open_rows: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Row and start of each document (int64), and the number of rows."""
