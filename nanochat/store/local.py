"""A store in a folder.

Each object is a file that is written beside its place, flushed to disk and renamed. How a disk creates a file only if
there is none, and how it locks, differs between disks (`local_files.py`).
"""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from nanochat.errors import NoSpace, StoreError, StoreUnreachable
from nanochat.store import local_files as files
from nanochat.store.backend import Entry, Unfinished
from nanochat.store.object_names import is_foreign, is_hidden
from nanochat.system_errors import DISK_FULL, TRANSIENT

COPY_BYTES = 1 << 20


class Folder:
    """The objects in a folder."""

    def __init__(self, folder: Path) -> None:
        self.root = folder.as_uri()
        self._folder = folder

    def local_path(self, path: str) -> Path | None:
        return self._folder / path

    # --- reading --------------------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        with self._reading(path):
            return (self._folder / path).read_bytes()

    def read_range(self, path: str, start: int, count: int) -> bytes:
        with self._reading(path), (self._folder / path).open("rb") as file:
            file.seek(start)
            return file.read(count)

    def size(self, path: str) -> int | None:
        try:
            with self._reading(path):
                return (self._folder / path).stat().st_size
        except FileNotFoundError:
            return None

    def download(self, path: str, local: Path) -> None:
        with self._reading(path), (self._folder / path).open("rb") as source:
            try:
                with local.open("wb") as target:
                    shutil.copyfileobj(source, target, COPY_BYTES)
            except FileNotFoundError as error:  # of the target: the object exists
                raise StoreError(f"`{local}` cannot be written: its folder is gone.") from error
            except OSError as error:
                if error.errno in DISK_FULL:  # never raised by reading
                    raise NoSpace(f"No space left for `{local}`.", hint="Free some.") from error
                raise

    def list(self, prefix: str, *, everything: bool, page_keys: int = 1000) -> Iterator[Entry]:
        for path, stat in self._files(prefix, _is_unfinished if everything else is_hidden):
            if everything or not is_foreign(path):
                yield Entry(path, stat.st_size, stat.st_mtime)

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        for path, stat in self._files(prefix, lambda name: is_hidden(name) and not _is_part(name)):
            if _is_part(path.rpartition("/")[2]):
                yield Unfinished(path, stat.st_size, stat.st_mtime)

    # --- writing --------------------------------------------------------------------------------------------------

    def write(self, path: str, data: bytes) -> None:
        with self._beside(path) as temporary:
            files.write_durably(temporary, data)
            temporary.replace(self._folder / path)

    def create(self, path: str, data: bytes) -> bool:
        with self._beside(path) as temporary:
            files.write_durably(temporary, data)
            return files.rename_if_free(temporary, self._folder / path)

    def swap(self, path: str, data: bytes, expected: bytes) -> bool:
        with self._beside(path) as temporary:
            files.write_durably(temporary, data)
            with files.locked_folder(temporary.parent):
                try:
                    if (self._folder / path).read_bytes() != expected:
                        return False
                except FileNotFoundError:
                    return False
                temporary.replace(self._folder / path)
                return True

    def upload(self, local: Path, path: str, *, share: bool, part_bytes: int | None = None) -> None:
        with self._beside(path) as temporary:
            if not (share and files.link_copy(local, temporary)):
                shutil.copyfile(local, temporary)
            temporary.replace(self._folder / path)

    def move(self, path: str, to: str) -> bool:
        source, target = self._folder / path, self._folder / to
        if self.size(path) is None:
            return False
        with self._writing():
            try:
                files.in_folder(target, lambda: source.replace(target))
            except FileNotFoundError:
                if self.size(path) is None:  # another process was first
                    return False
                raise
            except OSError as error:
                if error.errno != errno.EXDEV:  # a part of the store on another disk
                    raise
                self.upload(source, to, share=False)
        self.delete(path)
        return True

    def delete(self, path: str) -> None:
        with self._writing():
            (self._folder / path).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # deletes folders that are empty now, up to the first that is not
            for folder in Path(path).parents[:-1]:
                (self._folder / folder).rmdir()

    def abandon(self, what: Unfinished) -> None:
        self.delete(what.path)

    # --- opening --------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Does nothing: the folder is created with the first object in it."""

    def check_swap(self, path: str) -> str:
        before = self.read(path)
        if not self.swap(path, b"new", before):
            return "refuses to swap an object that has not changed"
        return "swaps an object that has changed" if self.swap(path, b"lost", before) else ""

    def _files(self, prefix: str, skip: Callable[[str], bool]) -> Iterator[tuple[str, os.stat_result]]:
        with self._reading(prefix):
            for place, stat in files.walk_files(self._folder / prefix, skip):
                yield place.relative_to(self._folder).as_posix(), stat

    @contextlib.contextmanager
    def _beside(self, path: str) -> Generator[Path]:
        """An empty file next to the object, to be filled and renamed; deleted afterwards."""
        target = self._folder / path
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{files.PART}")
        try:
            with self._writing():
                files.in_folder(temporary, lambda: temporary.touch(exist_ok=False))
                yield temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    @contextlib.contextmanager
    def _reading(self, path: str) -> Generator[None]:
        """Converts errors of the file system; raises `FileNotFoundError` only if there is no file at `path`."""
        try:
            try:
                yield
            except FileNotFoundError:
                files.refuse_dangling_link(self._folder / path)
                raise
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._error("read", error) from error

    @contextlib.contextmanager
    def _writing(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise self._error("written", error) from error

    def _error(self, verb: str, error: OSError) -> StoreError | NoSpace:
        if error.errno in DISK_FULL:
            return NoSpace(f"No space left for the store {self.root}.", hint="Free some, or choose another `--store`.")
        if error.errno == errno.EROFS:
            return StoreError(f"The store {self.root} is read-only.", hint="Choose another `--store`.")
        where = f" (`{error.filename}`)" if error.filename else ""
        message = f"The store {self.root} cannot be {verb}: {error.strerror or error}{where}."
        if error.errno in TRANSIENT:
            return StoreUnreachable(message, hint="Try again; if that does not help, check the disk.")
        return StoreError(message, hint="Check the folder and its permissions, or choose another `--store`.")


def _is_part(name: str) -> bool:
    return name.startswith(".") and name.endswith(files.PART)


def _is_unfinished(name: str) -> bool:
    """Whether a file of ours is no object."""
    return _is_part(name) or name in (files.LOCK, files.CLAIM)
