"""Makes the payload of one raw shard: fetches its file, checks it, and splits its documents."""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from filelock import FileLock, Timeout

from nanochat import settings
from nanochat.config.data import ShardConfig
from nanochat.errors import BadSource, DamagedTransfer
from nanochat.events import Reporter, silent
from nanochat.sources import hub
from nanochat.sources.checksums import check_hash, is_hash
from nanochat.sources.file_names import stem
from nanochat.sources.listing import local_identity
from nanochat.sources.local_files import check_regular
from nanochat.sources.remote_files import fetch_url, is_http
from nanochat.sources.retry import with_retries
from nanochat.sources.shard_writer import Documents, file_documents, split_documents, world_documents

ABANDONED_S = 7 * 24 * 3600
"""Age at which an unfinished download is deleted."""


def write_shard(shard: ShardConfig, out: Path, progress: Reporter = silent) -> dict[str, Any]:
    """Fetches, checks and splits one shard into `train.parquet` and `validation.parquet` in `out`.

    A split without documents has no file. Returns the counts of both. Raises `BadSource`, or `SourceUnreachable` if the
    network failed several times.
    """
    if shard.url.startswith("world:"):
        assert shard.world is not None
        documents = world_documents(shard.world, int(shard.url.removeprefix("world:")))
        return split_documents(shard, documents, out, progress)
    if "://" not in shard.url:
        return split_documents(shard, _local_documents(shard), out, progress)
    with _download_folder(shard) as folder:
        file = with_retries(lambda: _fetch(shard, folder, progress), progress=lambda: _bytes_in(folder))
        return split_documents(shard, file_documents(file, shard.text_column, shard.url), out, progress)


def _local_documents(shard: ShardConfig) -> Documents:
    files = [_checked(Path(url), identity, shard) for url, identity in shard.files or [(shard.url, shard.identity)]]

    def read() -> Iterator[pa.StringArray]:
        for each in files:
            yield from each.read()

    return Documents(read, sum(each.total for each in files))


def _checked(file: Path, identity: str, shard: ShardConfig) -> Documents:
    """The documents of a local file, which must not change between its listing and the end of reading."""
    if not file.exists():
        raise BadSource(f"`{file}` no longer exists.", hint="Restore it, or start the run again.")
    check_regular(file)
    before = local_identity(file)
    if is_hash(identity):
        try:
            check_hash(file, identity, f"`{file}`")
        except DamagedTransfer as error:
            raise BadSource(error.message, hint="Fetch it again, or correct the checksum file.") from error
    elif before != identity:
        raise BadSource(f"`{file}` changed since the run began.", hint="Start the run again.")
    documents = file_documents(file, shard.text_column, str(file))

    def read() -> Iterator[pa.StringArray]:
        yield from documents.read()
        if local_identity(file) != before:
            raise BadSource(f"`{file}` changed while it was read.", hint="Start the run again.")

    return Documents(read, documents.total)


@contextmanager
def _download_folder(shard: ShardConfig) -> Iterator[Path]:
    """The folder for the download of a shard: the same for the same bytes, so that a later process can resume.

    It is deleted when the shard is complete or invalid. A second process that downloads the same shard at the same time
    uses a folder of its own.
    """
    root = settings.home() / "fetching"
    root.mkdir(parents=True, exist_ok=True)
    for old in root.iterdir():
        with suppress(FileNotFoundError):  # another process deleted it
            if time.time() - old.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(old, ignore_errors=True)
    name = hashlib.sha256(f"{shard.url}\n{shard.identity}".encode()).hexdigest()[:32]
    folder = root / name
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / ".lock", fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        folder = root / f"{name}-{os.getpid()}"
        folder.mkdir(exist_ok=True)
    try:
        yield folder
    except BadSource:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.release()


def _bytes_in(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _fetch(shard: ShardConfig, folder: Path, progress: Reporter) -> Path:
    if shard.url.startswith(hub.STREAM):
        return hub.fetch_stream(shard.url, shard.text_column, folder, progress)
    if shard.url.startswith("hf://"):
        file = hub.fetch_file(shard.url, folder)
        if is_hash(shard.identity):
            try:
                check_hash(file, shard.identity, shard.url)
            except DamagedTransfer:
                shutil.rmtree(folder)  # also the Hub library's notes, by which the file is complete
                folder.mkdir()
                raise
        return file
    # only the suffix matters here, and the rest of a name may have any characters
    path = unquote(urlsplit(shard.url).path) if is_http(shard.url) else shard.url
    file = folder / f"shard{path[len(stem(path)) :].lower()}"
    fetch_url(shard.url, file, progress, shard.identity)
    return file
