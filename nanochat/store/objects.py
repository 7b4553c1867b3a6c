"""The only door to object storage: the same verbs over `file://` and `s3://`.

A path is relative to the root. Writes are atomic: a reader sees a whole object or none. `create` writes only what does
not exist yet and `swap` only what has not changed; everything else in the store rests on these two.

A listing or read that fails is an error, never "nothing there": only a store that says so of the very path has nothing.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Generator, Iterable
from pathlib import Path

from nanochat.errors import BadConfig, NanochatError, StoreError
from nanochat.store import address
from nanochat.store.backend import Backend, Entry, Unfinished
from nanochat.store.local import Folder
from nanochat.store.object_names import is_path
from nanochat.store.s3 import Bucket
from nanochat.system_errors import from_system

__all__ = ["Entry", "Objects", "Unfinished"]


class Objects:
    """The objects under one root URL: a folder (`file:///…` or a plain path) or `s3://bucket/prefix`.

    `read_only` refuses every change, so that a command that only looks cannot change anything.
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
        """The object's bytes; `FileNotFoundError` when there is none."""
        return self.backend.read(_checked(path))

    def size(self, path: str) -> int | None:
        """The object's size in bytes; None when there is none."""
        return self.backend.size(_checked(path))

    def download(self, path: str, local: Path) -> None:
        """Copies an object to a local file; `FileNotFoundError` when there is none."""
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
        """All objects below a prefix (a folder's name), sorted by path; foreign files are left out (`names.py`).

        `everything` leaves out nothing but unfinished writes: below a payload, whose files may have any name.
        """
        return sorted(self.backend.list(_checked(prefix), everything=everything), key=lambda entry: entry.path)

    def unfinished(self, prefix: str) -> list[Unfinished]:
        """What `list` does not show: temporary files below a prefix, or multipart uploads that were never completed."""
        return list(self.backend.unfinished(_checked(prefix)))

    # --- writing --------------------------------------------------------------------------------------------------

    def write(self, path: str, data: bytes) -> None:
        """Writes or overwrites."""
        self._may_write()
        self.backend.write(_checked(path), data)

    def create(self, path: str, data: bytes) -> bool:
        """Writes only if there is nothing yet; whether it did."""
        self._may_write()
        return self.backend.create(_checked(path), data)

    def swap(self, path: str, data: bytes, expected: bytes | None) -> bool:
        """Replaces `expected` (None: nothing there yet) by `data`; False when something else is there."""
        if expected is None:
            return self.create(path, data)
        self._may_write()
        return self.backend.swap(_checked(path), data, expected)

    def upload(self, local: Path, path: str, *, share: bool = False) -> None:
        """Copies a local file in (multipart when it is large).

        `share` promises that nobody writes to the file any more: a store on the same disk then takes a hard link.
        """
        self._may_write()
        self.backend.upload(local, _checked(path), share=share)

    def move(self, path: str, to: str) -> bool:
        """Gives an object another path, replacing what is there; False when there is no such object.

        Where that is a copy and a deletion, one that is stopped in between leaves both, and may be repeated.
        """
        self._may_write()
        return self.backend.move(_checked(path), _checked(to))

    def delete(self, paths: Iterable[str]) -> None:
        """Deletes; what is missing is fine."""
        self._may_write()
        for path in paths:
            self.backend.delete(_checked(path))

    def abandon(self, what: Unfinished) -> None:
        """Deletes what was never finished; what has been completed or deleted meanwhile is fine."""
        self._may_write()
        self.backend.abandon(what)

    # --- opening --------------------------------------------------------------------------------------------------

    def make_bucket(self) -> None:
        """Creates the bucket when it is missing and we may."""
        self._may_write()
        self.backend.prepare()

    def probe(self) -> None:
        """Finds out whether the store can be written and keeps its two promises; raises `StoreError`."""
        path = f"v1/probe/{uuid.uuid4().hex}"
        try:
            if not self.create(path, b"1") or self.create(path, b"2"):
                raise StoreError(
                    f"The store {self.root} ignores create-only writes (`If-None-Match: *`).",
                    hint="Two runs could overwrite each other there; use a server that honours them.",
                )
            if not self.backend.check_swap(path):
                raise StoreError(
                    f"The store {self.root} ignores conditional writes (`If-Match`).",
                    hint="Two runs could overwrite each other there; use a server that honours them.",
                )
        finally:
            with contextlib.suppress(NanochatError):
                self.delete([path])

    def _may_write(self) -> None:
        if self.read_only:
            raise StoreError(f"The store {self.root} was opened for reading only.")


@contextlib.contextmanager
def _on_this_machine(local: Path) -> Generator[None]:
    """Errors at the copy must not be taken for absence of the object."""
    try:
        yield
    except OSError as error:
        raise from_system(error, f"the copy `{local}`") from error


def _checked(path: str) -> str:
    """The path, which stays below the root."""
    if not is_path(path):
        raise BadConfig(
            f"`{path}` cannot be a path in the store.",
            hint="It consists of names of up to 255 bytes, separated by single slashes.",
        )
    return path
