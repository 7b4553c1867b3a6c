"""Local copies of a remote store's payloads, by digest, within a size limit."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from nanochat import settings
from nanochat.errors import NoSpace, SystemFailed, SystemRefused
from nanochat.store.file_walk import walk_files
from nanochat.store.manifest import Manifest
from nanochat.store.object_names import is_foreign
from nanochat.system_errors import DISK_FULL, TRANSIENT

DOWNLOADS_AT_ONCE = 8
ABANDONED_S = 24 * 3600
"""Age at which a half-finished download is taken for that of a dead process."""


class Cache:
    """Folders named by digest; the least recently used are deleted when there is no room.

    A folder that a live `Cache` returned, in this process or another, is not deleted.

    payloads/<digest>/…    whole copies, renamed into place
    incoming/<random>      being downloaded, or being deleted
    users/<random>         digests that one `Cache` handed out; locked as long as it lives, however its process ends
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._claimed: set[str] = set()
        self._claims: IO[str] | None = None

    def folder(self, manifest: Manifest, download: Callable[[str, Path], None]) -> Path:
        """The payload's local folder, downloaded if it is not here in full. The caller verifies it."""
        place = self.root / "payloads" / manifest.digest
        with self._alone():
            self._claim(manifest.digest)
            if _whole(place, manifest):
                os.utime(place)
                return place
            self._make_room(sum(file.size for file in manifest.files))
        temporary = self.scratch()
        with self._on_disk():
            temporary.mkdir()
        try:
            with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
                list(pool.map(lambda file: download(file.path, temporary / file.path), manifest.files))
            with self._alone():
                if not _whole(place, manifest):  # else another process was first
                    self._discard(place)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    temporary.rename(place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return place

    def forget(self, digest: str) -> None:
        """Drops a copy that turned out to be damaged."""
        with self._alone():
            self._discard(self.root / "payloads" / digest)

    def scratch(self) -> Path:
        """A fresh name for a file or folder that its user deletes."""
        folder = self.root / "incoming"
        with self._on_disk():
            folder.mkdir(parents=True, exist_ok=True)
        return folder / uuid.uuid4().hex

    # --- inside ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other thread or process looks or changes meanwhile; for short steps only."""
        with self._on_disk():
            self.root.mkdir(parents=True, exist_ok=True)
            with (self.root / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        """Turns what the file system says into our errors."""
        try:
            yield
        except OSError as error:
            if error.errno in DISK_FULL:
                raise NoSpace(f"No space left for the cache `{self.root}`.", hint="Free some.") from error
            kind = SystemFailed if error.errno in TRANSIENT else SystemRefused
            raise kind(
                f"The cache `{self.root}` cannot be used: {error.strerror or error} (`{error.filename or 'lock'}`).",
                hint="Point `NANOCHAT_HOME` at a disk that can be written and locked.",
            ) from error

    def _claim(self, digest: str) -> None:
        if self._claims is None:
            folder = self.root / "users"
            folder.mkdir(exist_ok=True)
            self._claims = (folder / uuid.uuid4().hex).open("w")
            fcntl.flock(self._claims, fcntl.LOCK_EX)
        if digest not in self._claimed:
            self._claimed.add(digest)
            self._claims.write(f"{digest}\n")
            self._claims.flush()

    def _in_use(self) -> set[str]:
        """Digests that a living `Cache` handed out. What cannot be looked at raises: it may be in use."""
        used: set[str] = set()
        for path in _inside(self.root / "users"):
            with path.open() as claims:
                try:
                    fcntl.flock(claims, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    used.update(claims.read().split())
                else:
                    path.unlink()  # nobody has it open any more
        return used

    def _make_room(self, needed_bytes: int) -> None:
        for path in _inside(self.root / "incoming"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > ABANDONED_S:
                    _delete(path)
        folders = sorted(_inside(self.root / "payloads"), key=lambda folder: folder.stat().st_mtime)
        sizes = {folder: sum(there.st_size for _, there in walk_files(folder)) for folder in folders if folder.is_dir()}
        excess = sum(sizes.values()) + needed_bytes - settings.cache_bytes()
        if excess <= 0:
            return
        used = self._in_use()
        for folder, size in sizes.items():
            if excess > 0 and folder.name not in used:
                self._discard(folder)
                excess -= size

    def _discard(self, place: Path) -> None:
        """Takes a folder away at once, so that nobody meets half of it."""
        away = self.scratch()
        with contextlib.suppress(FileNotFoundError):
            place.rename(away)
            shutil.rmtree(away, ignore_errors=True)


def _whole(place: Path, manifest: Manifest) -> bool:
    return all((place / f.path).is_file() and (place / f.path).stat().st_size == f.size for f in manifest.files)


def _inside(folder: Path) -> list[Path]:
    """What is in a folder, without files that are not ours; nothing where there is no such folder."""
    try:
        return [path for path in folder.iterdir() if not is_foreign(path.name)]
    except FileNotFoundError:
        return []


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
