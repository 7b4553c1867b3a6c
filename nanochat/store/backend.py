"""The protocol of storage backends: a folder (`local.py`) and a bucket (`s3.py`) implement it, `objects.py` uses it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Entry:
    """A listed object."""

    path: str
    size: int
    modified_s: float
    """Time of the last write, in seconds since 1970, by the store's clock."""


@dataclass(frozen=True)
class Unfinished:
    """A write that was started and perhaps abandoned: a temporary file, or a multipart upload."""

    path: str
    size: int
    """Bytes so far; 0 if unknown."""
    modified_s: float
    upload: str = ""
    """Id of the multipart upload."""


class Backend(Protocol):
    """A folder or a bucket. Paths are relative to its root.

    Absence is `FileNotFoundError`, `None` or `False`, and only if the system reported it for that very path. Any other
    failure is a `StoreError` or `NoSpace`.
    """

    root: str
    """URL, normalised."""

    def local_path(self, path: str) -> Path | None:
        """Where this machine can read the object, or the objects of a folder, in place; None if they must be copied."""
        ...

    def read(self, path: str) -> bytes: ...
    def read_range(self, path: str, start: int, count: int) -> bytes: ...
    def size(self, path: str) -> int | None: ...
    def write(self, path: str, data: bytes) -> None: ...
    def create(self, path: str, data: bytes) -> bool: ...
    def swap(self, path: str, data: bytes, expected: bytes) -> bool: ...
    def upload(self, local: Path, path: str, *, share: bool, part_bytes: int | None = None) -> None: ...
    def download(self, path: str, local: Path) -> None: ...
    def move(self, path: str, to: str) -> bool: ...
    def list(self, prefix: str, *, everything: bool, page_keys: int = 1000) -> Iterable[Entry]: ...
    def delete(self, path: str) -> None: ...
    def unfinished(self, prefix: str) -> Iterable[Unfinished]: ...
    def abandon(self, what: Unfinished) -> None: ...
    def prepare(self) -> None: ...
    def check_swap(self, path: str) -> str:
        """Tries to replace an object; returns what is wrong with `swap` here, as the predicate of a sentence."""
        ...
