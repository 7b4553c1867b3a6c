"""Local copies of a remote store's payloads, by digest, within a size limit."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nanochat import settings
from nanochat.store.manifest import Manifest

DOWNLOADS_AT_ONCE = 8


class Cache:
    """Folders named by digest; the least recently used go when there is no room. What this process uses stays."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._used: set[str] = set()

    def folder(self, manifest: Manifest, download: Callable[[str, Path], None]) -> Path:
        """The payload's local folder, downloaded if it is not here in full. The caller verifies it."""
        place = self.root / "payloads" / manifest.digest
        self._used.add(manifest.digest)
        if all((place / f.path).exists() and (place / f.path).stat().st_size == f.size for f in manifest.files):
            os.utime(place)
            return place
        self._make_room(sum(file.size for file in manifest.files))
        temporary = self.root / "incoming" / uuid.uuid4().hex
        temporary.mkdir(parents=True)
        try:
            with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
                list(pool.map(lambda file: download(file.path, temporary / file.path), manifest.files))
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                shutil.rmtree(place, ignore_errors=True)
            with contextlib.suppress(FileExistsError):  # another process was first with the same bytes
                temporary.rename(place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return place

    def forget(self, digest: str) -> None:
        """Drops a copy that turned out to be damaged."""
        shutil.rmtree(self.root / "payloads" / digest, ignore_errors=True)

    def scratch(self) -> Path:
        """A fresh name for a file that its user deletes."""
        folder = self.root / "incoming"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}"

    def _make_room(self, needed_bytes: int) -> None:
        folders = sorted((self.root / "payloads").glob("*"), key=lambda folder: folder.stat().st_mtime)
        sizes = {folder: sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) for folder in folders}
        excess = sum(sizes.values()) + needed_bytes - settings.cache_bytes()
        for folder in folders:
            if excess <= 0:
                return
            if folder.name not in self._used:
                shutil.rmtree(folder, ignore_errors=True)
                excess -= sizes[folder]
