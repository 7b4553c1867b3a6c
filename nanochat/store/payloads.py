"""Payloads of artifacts: uploads a folder, copies payloads to this machine, and compares them with their manifests."""

import contextlib
import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from nanochat import settings
from nanochat.errors import DamagedArtifact, DamagedResponse, NanochatError, StoreUnreachable
from nanochat.store.cache import DiskCache
from nanochat.store.local_files import refuse_dangling_link, walk_files
from nanochat.store.manifest import FileEntry, Manifest, describe_file, payload_digest
from nanochat.store.objects import Objects
from nanochat.system_errors import from_system

UPLOADS_AT_ONCE = 8
DOWNLOADS_AT_ONCE = 8
READ_TRIES = 3


class Payloads:
    """The payloads of one store. Threads may share it."""

    def __init__(self, objects: Objects, cache: Path) -> None:
        self.cache_root = cache
        self._objects = objects
        self._cache = DiskCache(cache, settings.cache_bytes, entries="payloads")
        self._verified: dict[str, Path] = {}
        self._fetching: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def upload(self, folder: Path, to: str) -> list[FileEntry]:
        """Uploads the files of a folder below the path `to`; deletes them again if one fails."""
        names = local_files(folder)

        def send(name: str) -> FileEntry:
            entry = describe_file(folder / name, name)
            self._objects.upload(folder / name, f"{to}/{name}", share=True)
            return entry

        try:
            with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
                return list(pool.map(send, names))
        except BaseException:
            with contextlib.suppress(NanochatError, OSError):
                self._objects.delete(f"{to}/{name}" for name in names)
            raise

    def missing(self, manifest: Manifest) -> list[str]:
        """Files that are absent or have another size. A listing alone is no proof: each such file is checked itself.

        Raises `StoreUnreachable` when a listing omits a file that exists.
        """
        folder = manifest.payload_folder
        sizes = {entry.path: entry.size for entry in self._objects.list(folder, everything=True)}
        missing = [file for file in manifest.files if sizes.get(f"{folder}/{file.path}") != file.size]
        for file in missing:
            if self._objects.size(f"{folder}/{file.path}") == file.size:
                raise StoreUnreachable(f"The listing of `{folder}` omits `{file.path}`, which exists.")
        return [file.path for file in missing]

    def fetch(self, manifest: Manifest) -> Path:
        """Local folder of a payload; each process verifies it once. Raises `DamagedArtifact`."""
        place = manifest.payload_folder
        with self._lock:
            if place in self._verified:
                return self._verified[place]
            fetching = self._fetching.setdefault(manifest.digest, threading.Lock())
        with fetching:
            with self._lock:
                if place in self._verified:
                    return self._verified[place]
            path, problem = self._local_folder(manifest)
            if problem and path != self._objects.local_path(place):  # the copy may be damaged, and the store intact
                self._cache.forget(manifest.digest)
                path, problem = self._local_folder(manifest)
                if problem:
                    self._cache.forget(manifest.digest)
            if problem:
                raise DamagedArtifact(
                    f"The artifact {manifest.stage}/{manifest.key[:8]} is damaged: {problem}.",
                    hint="`nanochat verify --repair` moves it to the trash; the next run makes it again.",
                )
            with self._lock:
                self._verified[place] = path
            return path

    def forget(self, manifest: Manifest) -> None:
        """The next `fetch` verifies the payload again."""
        with self._lock:
            self._verified.pop(manifest.payload_folder, None)

    def read_file(self, manifest: Manifest, name: str) -> bytes:
        """One file of a payload, verified, without a copy of the others. Raises `DamagedArtifact`."""
        (entry,) = (file for file in manifest.files if file.path == name)
        try:
            data = self._objects.read(f"{manifest.payload_folder}/{name}")
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise DamagedArtifact(
                f"`{name}` of {manifest.stage}/{manifest.key[:8]} is missing, or differs from what was published.",
                hint="`nanochat verify --repair` moves the artifact to the trash; the next run makes it again.",
            )
        return data

    def verify(self, manifest: Manifest) -> list[str]:
        """Hashes the payload in the store; returns its problems as sentences.

        Only bytes that were read count. Raises a `StoreError` when an object cannot be read.
        """
        problems = [problem for file in manifest.files if (problem := self._problem_in_store(manifest, file))]
        if payload_digest(manifest.files) != manifest.digest:
            problems.append("its digest does not match its files")
        return problems

    def _local_folder(self, manifest: Manifest) -> tuple[Path, str]:
        """The payload's local folder, and its first problem."""
        place = manifest.payload_folder
        path = self._objects.local_path(place)
        if path is None:
            self._cache.use([manifest.digest])
            size = sum(file.size for file in manifest.files)
            path = self._cache.get(
                manifest.digest, size, partial(_has_files, manifest), partial(self._download, manifest)
            )
        return path, next((found for file in manifest.files if (found := _problem(path / file.path, file))), "")

    def _download(self, manifest: Manifest, folder: Path) -> None:
        def download(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):  # `fetch` finds and names it
                self._objects.download(f"{manifest.payload_folder}/{name}", folder / name)

        folder.mkdir()
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            list(pool.map(download, [file.path for file in manifest.files]))

    def _problem_in_store(self, manifest: Manifest, file: FileEntry) -> str:
        """The problem of an object. Damage that appears only once may come from the transfer: it must appear twice."""
        path = f"{manifest.payload_folder}/{file.path}"
        if local := self._objects.local_path(path):
            return _problem(local, file)
        before = None
        for _ in range(READ_TRIES):
            scratch = self._cache.scratch()
            try:
                self._objects.download(path, scratch)
                if not (problem := _problem(scratch, file)):
                    return ""
                received = describe_file(scratch, file.path)
            except FileNotFoundError:
                problem, received = f"`{file.path}` is missing", None
            except OSError as error:
                raise from_system(error, f"the copy of `{path}` to be checked") from error
            finally:
                with contextlib.suppress(OSError):
                    scratch.unlink()
            if self._objects.size(path) != (received and received.size):
                raise StoreUnreachable(f"The store {self._objects.root} does not send all of `{path}`.")
            if received is None or received == before:
                return problem
            before = received
        raise DamagedResponse(f"The store {self._objects.root} sends different bytes each time for `{path}`.")


def _has_files(manifest: Manifest, folder: Path) -> bool:
    return all((folder / file.path).stat().st_size == file.size for file in manifest.files)


def local_files(folder: Path) -> Sequence[str]:
    """The files of a folder that will be published, sorted. Fails rather than omit a file that cannot be read."""
    try:
        return sorted(path.relative_to(folder).as_posix() for path, _ in walk_files(folder))
    except OSError as error:
        raise from_system(error, "an artifact to be published") from error


def _problem(path: Path, file: FileEntry) -> str:
    """How a local file differs from its entry; empty if it does not. Raises a `NanochatError` if it is unreadable."""
    try:
        size = path.stat().st_size
        if size != file.size:
            return f"`{file.path}` has {size:,} bytes instead of {file.size:,}"
        if describe_file(path, file.path).sha256 != file.sha256:
            return f"the bytes of `{file.path}` have changed"
    except FileNotFoundError:
        pass
    except OSError as error:
        raise from_system(error, "the store") from error
    else:
        return ""
    try:
        refuse_dangling_link(path)
    except OSError as error:
        raise from_system(error, "the store") from error
    return f"`{file.path}` is missing"
