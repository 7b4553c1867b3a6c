"""The only door to object storage: eight verbs over `file://` and `s3://`.

A path is relative to the root. Writes are atomic: a reader sees a whole object or none. `create` writes only what does
not exist yet and `swap` only what has not changed; everything else in the store rests on these two.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import fsspec
from botocore import exceptions as boto
from fsspec.asyn import sync

from nanochat import settings
from nanochat.errors import BadConfig, DamagedAnswer, NoSpace, StoreError, StoreUnreachable

PART = ".part"
"""Ending of files being written, whose names begin with a dot; never listed."""
LOCK = ".swap.lock"
"""Held for a compare-and-swap in its folder; stays."""

UPLOAD_S, SLOWEST_BYTES_PER_S = 120.0, 100_000
"""An upload that takes longer than both allow for its size has failed: a server may take bytes, and never answer."""


@dataclass(frozen=True)
class Entry:
    """An object that is there."""

    path: str
    size: int
    modified_s: float
    """When it was written, in seconds since 1970 by the store's clock."""


@dataclass(frozen=True)
class Unfinished:
    """What was being written, and may be no more: a temporary file, or a multipart upload."""

    path: str
    size: int
    """Bytes so far; 0 where the store does not say."""
    modified_s: float
    upload: str = ""
    """Id of the multipart upload."""


class Objects:
    """The objects under one root URL: a folder (`file:///…` or a plain path) or `s3://bucket/prefix`."""

    def __init__(self, root: str) -> None:
        address = urlparse(root) if "://" in root else None
        scheme = address.scheme if address else "file"
        self.local: Path | None = None
        if address and "@" in address.netloc:
            raise BadConfig(
                "The address of the store carries credentials.",
                hint="Give them as `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.",
            )
        if scheme == "file":
            if address and address.netloc not in ("", "localhost"):
                raise BadConfig(
                    f"The store `{root}` names the host `{address.netloc}`.",
                    hint="A folder has three slashes: `file:///…`.",
                )
            self.local = Path(unquote(address.path) if address else root).expanduser().absolute()
            self.root = self.local.as_uri()
        elif scheme == "s3" and address and address.netloc:
            self.root = root.rstrip("/")
            self._prefix = self.root.removeprefix("s3://")
            self._s3 = open_s3()
        else:
            raise BadConfig(
                f"The store `{root}` is not an address of one.",
                hint="Use a folder, `file:///…` or `s3://bucket/prefix`.",
            )

    def read(self, path: str) -> bytes:
        """The object's bytes; `FileNotFoundError` when there is none."""
        if self.local:
            with self._on_disk("read"):
                return (self.local / path).read_bytes()
        with self._answers(path):
            return self._s3.cat_file(self._key(path))

    def write(self, path: str, data: bytes) -> None:
        """Writes or overwrites."""
        if self.local:
            with self._beside(path) as temporary:
                _write_durably(temporary, data)
                temporary.replace(self.local / path)
            return
        with self._answers(path):
            self._s3.pipe_file(self._key(path), data)

    def create(self, path: str, data: bytes) -> bool:
        """Writes only if there is nothing yet; whether it did."""
        if self.local:
            with self._beside(path) as temporary:
                _write_durably(temporary, data)
                try:
                    os.link(temporary, self.local / path)
                except FileExistsError:
                    return False
            return True
        return self._conditional_put(path, data, IfNoneMatch="*")

    def swap(self, path: str, data: bytes, expected: bytes | None) -> bool:
        """Replaces `expected` (None: nothing there yet) by `data`; False when something else is there."""
        if expected is None:
            return self.create(path, data)
        if self.local:
            with self._beside(path) as temporary, (temporary.parent / LOCK).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                with contextlib.suppress(FileNotFoundError):
                    if (self.local / path).read_bytes() == expected:
                        _write_durably(temporary, data)
                        temporary.replace(self.local / path)
                        return True
            return False
        try:
            with self._answers(path):
                answer = self._call("get_object", Key=self._key(path))
                if self._read_body(answer) != expected:
                    return False
        except FileNotFoundError:
            return False
        return self._conditional_put(path, data, IfMatch=answer["ETag"])

    def upload(self, local: Path, path: str, *, share: bool = False) -> None:
        """Copies a local file in (multipart when it is large).

        `share` promises that nobody writes to the file any more: a store on the same disk then takes a hard link.
        """
        if self.local:
            with self._beside(path) as temporary:
                if not (share and _link(local, temporary)):
                    shutil.copyfile(local, temporary)
                temporary.replace(self.local / path)
            return
        limit_s = UPLOAD_S + local.stat().st_size / SLOWEST_BYTES_PER_S
        with self._answers(path):
            sync(self._s3.loop, asyncio.wait_for, self._s3._put_file(str(local), self._key(path)), limit_s)

    def download(self, path: str, local: Path) -> None:
        """Copies an object to a local file; `FileNotFoundError` when there is none."""
        local.parent.mkdir(parents=True, exist_ok=True)
        temporary = local.with_name(f".{local.name}.{uuid.uuid4().hex[:8]}")
        try:
            if self.local:
                shutil.copyfile(self.local / path, temporary)
            else:
                with self._answers(path):
                    self._s3.get_file(self._key(path), str(temporary))
            temporary.replace(local)
        finally:
            temporary.unlink(missing_ok=True)

    def list(self, prefix: str) -> list[Entry]:
        """All objects below a prefix (a folder's name), sorted by path."""
        if self.local:
            found = [
                Entry(path, there.st_size, there.st_mtime)
                for path, there in self._files(prefix)
                if not _is_part(path) and not path.endswith(f"/{LOCK}")
            ]
            return sorted(found, key=lambda entry: entry.path)
        with self._answers(prefix):
            listed: dict[str, Any] = self._s3.find(self._key(prefix), detail=True)
        start = len(self._prefix) + 1
        # some servers list a folder that has become empty as an object of its own name
        found = [
            Entry(key[start:], info["size"], info["LastModified"].timestamp())
            for key, info in listed.items()
            if info["type"] == "file"
        ]
        return sorted((entry for entry in found if entry.path != prefix), key=lambda entry: entry.path)

    def delete(self, paths: Iterable[str]) -> None:
        """Deletes; what is missing is fine."""
        paths = list(paths)
        if self.local:
            for path in paths:
                (self.local / path).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # folders that are empty now go, up to the first that is not
                    for folder in Path(path).parents[:-1]:
                        (self.local / folder).rmdir()
            return
        with self._answers(f"{len(paths)} objects"):
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    self._s3.rm_file(self._key(path))

    def unfinished(self, prefix: str) -> list[Unfinished]:
        """What `list` does not show: temporary files below a prefix, or multipart uploads that were never completed."""
        if self.local:
            files = self._files(prefix)
            return [Unfinished(path, there.st_size, there.st_mtime) for path, there in files if _is_part(path)]
        bucket, _, key = self._key(prefix).partition("/")
        uploads: list[dict[str, Any]] = []
        page: dict[str, Any] = {"IsTruncated": True}
        with self._answers(prefix):
            while page.get("IsTruncated"):
                names = ("KeyMarker", "UploadIdMarker")
                begin = {name: page[f"Next{name}"] for name in names if f"Next{name}" in page}
                page = self._s3.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{key}/", **begin)
                uploads += page.get("Uploads", [])
        start = len(key) - len(prefix)
        return [Unfinished(up["Key"][start:], 0, up["Initiated"].timestamp(), up["UploadId"]) for up in uploads]

    def abandon(self, what: Unfinished) -> None:
        """Deletes what was never finished; what has been completed or deleted meanwhile is fine."""
        if not what.upload:
            self.delete([what.path])
            return
        with self._answers(what.path), contextlib.suppress(FileNotFoundError):
            self._call("abort_multipart_upload", Key=self._key(what.path), UploadId=what.upload)

    def probe(self) -> None:
        """Finds out whether the store can be written and refuses to create what exists; raises `StoreError`."""
        path = f"v1/probe/{uuid.uuid4().hex}"
        try:
            if not self.create(path, b"1") or self.create(path, b"2"):
                raise StoreError(
                    f"The store {self.root} ignores create-only writes (`If-None-Match: *`).",
                    hint="Two runs could overwrite each other there; use a server that honours them.",
                )
        finally:
            with contextlib.suppress(StoreError):
                self.delete([path])

    def make_bucket(self) -> None:
        """Creates the bucket when it is missing and we may."""
        if self.local:
            return
        bucket = self._prefix.split("/")[0]
        try:
            with self._answers(bucket):
                self._s3.call_s3("head_bucket", Bucket=bucket)
        except FileNotFoundError:
            try:
                with self._answers(bucket), contextlib.suppress(FileExistsError):  # another was first
                    self._s3.call_s3("create_bucket", Bucket=bucket)
            except StoreUnreachable:
                raise
            except (StoreError, FileNotFoundError) as error:
                raise StoreError(
                    f"There is no bucket `{bucket}`, and it cannot be created: {_sentence(error.__cause__ or error)}.",
                    hint="Create it, or give credentials that may.",
                ) from error
        except StoreUnreachable:
            raise
        except StoreError:  # who may write objects need not have rights on the bucket: the probe finds out
            return

    # --- inside ---------------------------------------------------------------------------------------------------

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{path}"

    def _call(self, method: str, *, Key: str, **arguments: Any) -> Any:
        bucket, _, key = Key.partition("/")
        return self._s3.call_s3(method, Bucket=bucket, Key=key, **arguments)

    def _read_body(self, answer: Any) -> bytes:
        data: Any = sync(self._s3.loop, answer["Body"].read)
        return data

    def _conditional_put(self, path: str, data: bytes, **condition: str) -> bool:
        for pause_s in (0.05, 0.1, 0.2, 0.4, 0.0):
            try:
                with self._answers(path):
                    self._call("put_object", Key=self._key(path), Body=data, **condition)
            except (_Refused, FileNotFoundError):  # the latter: to be replaced, and deleted meanwhile
                return False
            except _Busy:
                if not pause_s:
                    raise
                time.sleep(pause_s)
            else:
                break
        return True

    def _files(self, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        """Whatever lies below a folder of the disk, whole or not; what goes away while we look is not there."""
        assert self.local
        for folder, _, names in os.walk(self.local / prefix):
            for name in names:
                place = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    yield place.relative_to(self.local).as_posix(), place.stat()

    @contextlib.contextmanager
    def _beside(self, path: str) -> Iterator[Path]:
        """An empty file next to the object, to be filled and renamed; gone afterwards."""
        assert self.local
        target = self.local / path
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{PART}")
        try:
            with self._on_disk("written"):
                _touch(temporary)
                yield temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    @contextlib.contextmanager
    def _on_disk(self, verb: str) -> Iterator[None]:
        """Turns what the file system says into our errors."""
        try:
            yield
        except (PermissionError, NotADirectoryError) as error:
            raise StoreError(
                f"The store {self.root} cannot be {verb}: {error.strerror} (`{error.filename}`).",
                hint="Choose another `--store`.",
            ) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._no_space() from error
            if error.errno == errno.EROFS:
                raise StoreError(f"The store {self.root} is read-only.", hint="Choose another `--store`.") from error
            raise

    def _no_space(self) -> NoSpace:
        return NoSpace(f"No space left for the store {self.root}.", hint="Free some, or choose another `--store`.")

    @contextlib.contextmanager
    def _answers(self, what: str) -> Iterator[None]:
        """Turns what S3 and the network say into our errors, in one sentence, without credentials."""
        try:
            yield
        except (FileNotFoundError, _Refused, _Busy):
            raise
        except (boto.NoCredentialsError, boto.PartialCredentialsError) as error:
            raise StoreError(
                f"There are no credentials for {self.root}.",
                hint="Set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.",
            ) from error
        except (boto.ConnectionError, boto.HTTPClientError, _of_aiohttp(), TimeoutError) as error:
            where = _without_login(settings.s3_endpoint()) or "Amazon S3"
            raise StoreUnreachable(
                f"The store {self.root} did not answer at {where}.",
                hint="Is the server up, and `AWS_ENDPOINT_URL` right?",
            ) from error
        except boto.FlexibleChecksumError as error:
            raise DamagedAnswer(f"What came of `{what}` from the store {self.root} is damaged.") from error
        except PermissionError as error:
            if _answer(error).get("Error", {}).get("Code") == "RequestTimeTooSkewed":
                raise StoreUnreachable(
                    f"The clock of the store {self.root} and that of this machine differ by more than it accepts.",
                    hint="Set this machine's clock.",
                ) from error
            raise StoreError(
                f"The store {self.root} refused `{what}`: {_sentence(error)}.",
                hint="Check the credentials and their rights.",
            ) from error
        except (OSError, boto.ClientError) as error:
            status = _http_status(error)
            if status == 412:
                raise _Refused(f"The store {self.root} has another `{what}` by now.") from error
            if isinstance(error, FileExistsError):
                raise
            if status == 409:
                raise _Busy(f"The store {self.root} is busy with other writers of `{what}`.") from error
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._no_space() from error
            if 400 <= status < 500 and status not in (408, 429):
                raise StoreError(f"The store {self.root} refused `{what}`: {_sentence(error)}.") from error
            raise StoreUnreachable(f"The store {self.root} failed at `{what}`: {_sentence(error)}.") from error
        except (boto.BotoCoreError, ValueError) as error:
            raise StoreError(
                f"The store {self.root} cannot be used: {_sentence(error)}.",
                hint="Check `--store` and `AWS_ENDPOINT_URL`.",
            ) from error


class _Refused(StoreError):
    """The condition of a conditional write did not hold (HTTP 412)."""


class _Busy(StoreUnreachable):
    """Conditional writes to one key met (HTTP 409): neither has been decided; to be tried again."""


def _of_aiohttp() -> type[Exception]:
    """What its connections raise."""
    import aiohttp  # noqa: PLC0415 - a tenth of a second, in every process that opens a store

    return aiohttp.ClientError


def open_s3() -> Any:
    """An S3 client: own connections, no cached listings, quick to say that nobody answers."""
    return fsspec.filesystem(
        "s3",
        endpoint_url=settings.s3_endpoint() or None,
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={
            "connect_timeout": 5,
            "read_timeout": 60,
            "retries": {"total_max_attempts": 3, "mode": "standard"},
            # an IPv6 address is in brackets where botocore looks it up in `NO_PROXY`, and httpx takes no brackets there
            **({"proxies": {}} if settings.is_loopback(settings.s3_endpoint()) else {}),
        },
    )


def _answer(error: BaseException) -> Any:
    """The server's, behind an error of s3fs, which keeps botocore's as its cause; empty when there is none."""
    return next((each.response for each in (error, error.__cause__) if isinstance(each, boto.ClientError)), {})


def _http_status(error: BaseException) -> int:
    """0 when there is none."""
    return _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _sentence(error: BaseException) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()).rstrip(".")


def _without_login(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def _is_part(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.startswith(".") and name.endswith(PART)


def _touch(path: Path) -> None:
    """Creates a file and its folder; tries again when who emptied the folder removes it in between."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError, FileExistsError):  # mkdir says either when it loses the race
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(exist_ok=False)
            return
    path.touch(exist_ok=False)


def _link(source: Path, target: Path) -> bool:
    """Replaces `target` by a hard link to `source`; whether the file system could."""
    if source.is_symlink():
        return False
    target.unlink()
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        return False
    return True


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
