"""The only access to object storage: the same operations for `file://` and `s3://`.

Paths are relative to the root. Writes are atomic: a reader sees a complete object or none. `create` writes only if
there is no object, `swap` only if the object has not changed; the rest of the store relies on these two.

A listing or read that fails is an error, never absence: an object is absent only if the store reports that for its
path.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Generator, Iterable
from pathlib import Path

from nanochat.errors import BadConfig, StoreError
from nanochat.store import address, conformance
from nanochat.store.backend import Backend, Entry, Unfinished
from nanochat.store.local import Folder
from nanochat.store.object_names import is_path
from nanochat.store.s3 import Bucket
from nanochat.system_errors import from_system

__all__ = ["Entry", "Objects", "Unfinished"]


class Objects:
    """The objects under one root URL: a folder (`file:///…` or a plain path) or `s3://bucket/prefix`.

    `read_only` refuses every change.
    """

    def __init__(self, root: str, *, read_only: bool = False) -> None:
        place = address.parse(root)
        self.backend: Backend = Folder(place.folder) if place.folder else Bucket(place)
        self.read_only = read_only

    @property
    def root(self) -> str:
        """The URL, normalised."""
        return self.backend.root

    def local_path(self, path: str = "") -> Path | None:
        """Where this machine can read an object or folder in place (the root: no path); None if it must be copied."""
        return self.backend.local_path(_checked(path) if path else path)

    # --- reading --------------------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        """The object's bytes; raises `FileNotFoundError` if there is none."""
        return self.backend.read(_checked(path))

    def size(self, path: str) -> int | None:
        """The object's size in bytes; None if there is none."""
        return self.backend.size(_checked(path))

    def download(self, path: str, local: Path) -> None:
        """Copies an object to a local file; raises `FileNotFoundError` if there is none."""
        temporary = local.with_name(f".{local.name}.{uuid.uuid4().hex[:8]}")
        with _on_this_machine(local):
            local.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.backend.download(_checked(path), temporary)
            with _on_this_machine(local):
                temporary.replace(local)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def list(self, prefix: str, *, everything: bool = False) -> list[Entry]:
        """All objects below a prefix (a folder's name), sorted by path, without foreign files (`object_names.py`).

        `everything` includes those too, for payloads, whose files may have any name; but no unfinished writes.
        """
        return sorted(self.backend.list(_checked(prefix), everything=everything), key=lambda entry: entry.path)

    def unfinished(self, prefix: str) -> list[Unfinished]:
        """Temporary files below a prefix, or multipart uploads that were never completed; `list` omits them."""
        return list(self.backend.unfinished(_checked(prefix)))

    # --- writing --------------------------------------------------------------------------------------------------

    def write(self, path: str, data: bytes) -> None:
        """Writes or overwrites."""
        self._may_write()
        self.backend.write(_checked(path), data)

    def create(self, path: str, data: bytes) -> bool:
        """Writes only if there is no object; returns whether it did."""
        self._may_write()
        return self.backend.create(_checked(path), data)

    def swap(self, path: str, data: bytes, expected: bytes | None) -> bool:
        """Replaces `expected` (None: no object) by `data`; returns False if the object is different."""
        if expected is None:
            return self.create(path, data)
        self._may_write()
        return self.backend.swap(_checked(path), data, expected)

    def upload(self, local: Path, path: str, *, share: bool = False) -> None:
        """Copies a local file to the store (in parts if it is large).

        With `share` the file must not change any more: a store on the same disk makes a hard link.
        """
        self._may_write()
        self.backend.upload(local, _checked(path), share=share)

    def move(self, path: str, to: str) -> bool:
        """Renames an object, replacing the target; returns False if there is no such object.

        In a bucket this is a copy and a deletion: if interrupted, both objects exist, and it can be repeated.
        """
        self._may_write()
        return self.backend.move(_checked(path), _checked(to))

    def delete(self, paths: Iterable[str]) -> None:
        """Deletes objects; ignores missing ones."""
        self._may_write()
        for path in paths:
            self.backend.delete(_checked(path))

    def abandon(self, what: Unfinished) -> None:
        """Deletes an unfinished write; ignores one that was completed or deleted meanwhile."""
        self._may_write()
        self.backend.abandon(what)

    # --- opening --------------------------------------------------------------------------------------------------

    def make_bucket(self) -> None:
        """Creates the bucket if it is missing and the credentials allow it."""
        self._may_write()
        self.backend.prepare()

    def probe(self) -> None:
        """Checks that the store can be written, and does what the rest relies on; raises `StoreError`."""
        self._may_write()
        conformance.require(self.backend)

    def _may_write(self) -> None:
        if self.read_only:
            raise StoreError(f"The store {self.root} was opened for reading only.")


@contextlib.contextmanager
def _on_this_machine(local: Path) -> Generator[None]:
    """Errors of the local copy must not look like absence of the object."""
    try:
        yield
    except OSError as error:
        raise from_system(error, f"the copy `{local}`") from error


def _checked(path: str) -> str:
    """Raises `BadConfig` unless the path stays below the root."""
    if not is_path(path):
        raise BadConfig(
            f"`{path}` cannot be a path in the store.",
            hint="It consists of names of up to 255 bytes, separated by single slashes.",
        )
    return path
