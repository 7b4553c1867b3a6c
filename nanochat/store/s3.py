"""A store in a bucket of S3, or of a server that speaks its language."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from botocore import exceptions as boto
from fsspec.asyn import sync

from nanochat import settings
from nanochat.errors import BadConfig, DamagedResponse, StoreError, StoreUnreachable
from nanochat.store.address import Address
from nanochat.store.backend import Entry, Unfinished
from nanochat.store.object_names import is_foreign
from nanochat.system_errors import DISK_FULL, from_system

UPLOAD_S, SLOWEST_BYTES_PER_S = 120.0, 100_000
"""An upload that takes longer than both allow for its size has failed: a server may take bytes, and never answer."""
COPY_BYTES = 256 << 20
"""Copied at once on the server, which answers when it is done; S3 allows up to 5 GB."""
READ_TRIES = 3
"""Of an object whose bytes broke off."""
ABSENT = ("NoSuchKey", "NoSuchUpload")
"""Error codes with which a server says that there is no such object. A missing bucket, or a page of a proxy with the
status 404, says nothing about the object."""
UNKNOWN_TO_THE_SERVER = (501, 505)


class Bucket:
    """The objects below a prefix of a bucket."""

    def __init__(self, address: Address) -> None:
        self.root = address.root
        self._bucket = address.bucket
        self._before = f"{address.prefix}/" if address.prefix else ""
        self._s3 = open_s3()

    def local_path(self, path: str) -> Path | None:
        return None

    # --- reading --------------------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        return self._get(path)[1]

    def size(self, path: str) -> int | None:
        try:
            with self._reading(path):
                return self._call("head_object", path)["ContentLength"]
        except FileNotFoundError:
            return None

    def download(self, path: str, local: Path) -> None:
        with self._reading(path):
            self._s3.get_file(f"{self._bucket}/{self._key(path)}", str(local))

    def list(self, prefix: str, *, everything: bool) -> Iterator[Entry]:
        start = len(self._before)
        for entry in self._listing(f"{self._key(prefix)}/"):
            path = entry["Key"][start:]
            # a key that ends in a slash is an empty folder, as consoles and some servers make it
            if not path.endswith("/") and (everything or not is_foreign(path)):
                yield Entry(path, entry["Size"], entry["LastModified"].timestamp())

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        start = len(self._before)
        markers = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
        for page in self._pages("list_multipart_uploads", f"{self._key(prefix)}/", markers):
            for up in page.get("Uploads", []):
                yield Unfinished(up["Key"][start:], 0, up["Initiated"].timestamp(), up["UploadId"])

    # --- writing --------------------------------------------------------------------------------------------------

    def write(self, path: str, data: bytes) -> None:
        self._put(path, data)

    def create(self, path: str, data: bytes) -> bool:
        return self._conditional_put(path, data, IfNoneMatch="*")

    def swap(self, path: str, data: bytes, expected: bytes) -> bool:
        try:
            answer, found = self._get(path)
        except FileNotFoundError:
            return False
        return found == expected and self._conditional_put(path, data, IfMatch=answer["ETag"])

    def upload(self, local: Path, path: str, *, share: bool) -> None:
        with self._answers(path):
            size = local.stat().st_size
            limit_s = UPLOAD_S + size / SLOWEST_BYTES_PER_S
            place = f"{self._bucket}/{self._key(path)}"
            sync(self._s3.loop, asyncio.wait_for, self._s3._put_file(str(local), place), limit_s)
        if self.size(path) != size:
            raise StoreUnreachable(f"The store {self.root} has not taken all of `{path}`, though it said so.")

    def move(self, path: str, to: str) -> bool:
        size = self.size(path)
        if size is None:
            return False
        places = f"{self._bucket}/{self._key(path)}", f"{self._bucket}/{self._key(to)}"
        with self._answers(path):  # on the server
            if size > COPY_BYTES:
                sync(self._s3.loop, self._s3._copy_managed, *places, size, block=COPY_BYTES)
            else:
                sync(self._s3.loop, self._s3._copy_basic, *places)
        if self.size(to) != size:
            raise StoreUnreachable(f"The store {self.root} has not copied `{path}`, though it said so.")
        self.delete(path)
        return True

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._answers(path):
            self._call("delete_object", path)

    def abandon(self, what: Unfinished) -> None:
        with contextlib.suppress(FileNotFoundError), self._answers(what.path):
            self._call("abort_multipart_upload", what.path, UploadId=what.upload)

    # --- opening --------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Creates the bucket when it is missing and we may."""
        try:
            with self._answers(self._bucket, absent=("404", "NoSuchBucket")):
                self._s3.call_s3("head_bucket", Bucket=self._bucket)
        except FileNotFoundError:
            try:
                with self._answers(self._bucket), contextlib.suppress(FileExistsError):  # another was first
                    self._s3.call_s3("create_bucket", Bucket=self._bucket)
            except StoreUnreachable:
                raise
            except (StoreError, FileNotFoundError) as error:
                raise StoreError(
                    f"There is no bucket `{self._bucket}`, and it cannot be created: "
                    f"{_sentence(error.__cause__ or error)}.",
                    hint="Create it, give credentials that may, or name another.",
                ) from error
        except StoreUnreachable:
            raise
        except StoreError:  # who may write objects need not have rights on the bucket: the probe finds out
            return

    def check_swap(self, path: str) -> bool:
        return not self._conditional_put(path, b"3", IfMatch='"00000000000000000000000000000000"')

    # --- inside ---------------------------------------------------------------------------------------------------

    def _key(self, path: str) -> str:
        return self._before + path

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        return self._s3.call_s3(method, Bucket=self._bucket, Key=self._key(path), **arguments)

    def _put(self, path: str, data: bytes, **condition: str) -> None:
        """Writes an object. An answer without its tag is not that of a store that has taken it."""
        with self._answers(path):
            answer = self._call("put_object", path, Body=data, **condition)
        if not answer.get("ETag"):
            raise StoreUnreachable(
                f"The store {self.root} did not say that it has taken `{path}`.",
                hint="Is there an S3 server at `AWS_ENDPOINT_URL`, and no proxy before it?",
            )

    def _get(self, path: str) -> tuple[Any, bytes]:
        """The answer to a GET, and its bytes."""
        tries_left = READ_TRIES
        while True:
            tries_left -= 1
            with self._reading(path):
                answer = self._call("get_object", path)
            try:
                with self._answers(path):
                    data: Any = sync(self._s3.loop, _read_to_its_end, answer["Body"])
            except StoreUnreachable:
                if not tries_left:
                    raise
                continue
            if not answer.get("ETag"):  # a page of a proxy, say
                raise StoreUnreachable(
                    f"The store {self.root} answered to `{path}` with something that is no object.",
                    hint="Is there an S3 server at `AWS_ENDPOINT_URL`, and no proxy before it?",
                )
            return answer, data

    @contextlib.contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        """Raises `FileNotFoundError` only if there is no such object.

        A 404 that does not name the missing object may come from a proxy (an answer to HEAD cannot name it): a listing
        must confirm it.
        """
        try:
            with self._answers(path, absent=("404", *ABSENT)):
                yield
        except FileNotFoundError as error:
            unnamed = _answer(error).get("Error", {}).get("Code") not in ABSENT
            if unnamed and any(entry["Key"] == self._key(path) for entry in self._listing(self._key(path))):
                raise StoreUnreachable(
                    f"The store {self.root} lists `{path}`, and says that it is not there.", hint="Try again."
                ) from error
            raise

    def _listing(self, prefix: str) -> Iterator[dict[str, Any]]:
        for page in self._pages("list_objects_v2", prefix, {"ContinuationToken": "NextContinuationToken"}):
            for entry in page.get("Contents", []):
                if not entry["Key"].startswith(prefix):
                    raise self._no_listing(prefix, "it names what was not asked for")
                yield entry

    def _pages(self, method: str, prefix: str, markers: dict[str, str]) -> Iterator[dict[str, Any]]:
        """The pages of a listing, to its end. One that is cut short, or is no listing, is an error."""
        begin: dict[str, str] = {}
        while True:
            with self._answers(prefix, absent=()):
                page = self._s3.call_s3(method, Bucket=self._bucket, Prefix=prefix, **begin)
            if not isinstance(page.get("IsTruncated"), bool):
                raise self._no_listing(prefix, "the answer is not one")
            yield page
            if not page["IsTruncated"]:
                return
            following = {name: page[after] for name, after in markers.items() if page.get(after)}
            if not following or following == begin:
                raise self._no_listing(prefix, "it is cut short")
            begin = following

    def _no_listing(self, prefix: str, why: str) -> StoreUnreachable:
        return StoreUnreachable(
            f"The listing of `{prefix}` from the store {self.root} cannot be used: {why}.",
            hint="Is there an S3 server at `AWS_ENDPOINT_URL`, and no proxy before it?",
        )

    def _conditional_put(self, path: str, data: bytes, **condition: str) -> bool:
        for pause_s in (0.05, 0.1, 0.2, 0.4, 0.0):
            try:
                self._put(path, data, **condition)
            except (_Refused, FileNotFoundError):  # the latter: to be replaced, and deleted meanwhile
                return False
            except _Busy:
                if not pause_s:
                    raise
                time.sleep(pause_s)
            else:
                break
        return True

    @contextlib.contextmanager
    def _answers(self, what: str, absent: tuple[str, ...] = ABSENT) -> Iterator[None]:
        """Turns what S3 and the network say into our errors, in one sentence, without credentials.

        `FileNotFoundError` passes when the server's code is one of `absent`.
        """
        try:
            yield
        except (_Refused, _Busy):
            raise
        except (boto.NoCredentialsError, boto.PartialCredentialsError) as error:
            raise StoreError(
                f"There are no credentials for {self.root}.",
                hint="Set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.",
            ) from error
        except (boto.ConnectionError, boto.HTTPClientError, _of_aiohttp(), TimeoutError, ConnectionError) as error:
            where = _without_login(settings.s3_endpoint()) or "Amazon S3"
            raise StoreUnreachable(
                f"The store {self.root} did not answer at {where}.",
                hint="Is the server up, and `AWS_ENDPOINT_URL` right?",
            ) from error
        except boto.FlexibleChecksumError as error:
            raise DamagedResponse(f"What came of `{what}` from the store {self.root} is damaged.") from error
        except (OSError, boto.ClientError) as error:
            answer = _answer(error)
            if not answer and isinstance(error, OSError) and (error.filename or error.errno in DISK_FULL):
                raise from_system(error, "a transfer to or from the store") from error
            raised = self._from_answer(what, answer, error, absent)
            if raised is error:
                raise
            raise raised from error
        except (boto.BotoCoreError, ValueError) as error:
            raise StoreError(
                f"The store {self.root} cannot be used: {_sentence(error)}.",
                hint="Check `--store` and what AWS tools read: `AWS_ENDPOINT_URL`, `AWS_PROFILE`, `~/.aws/config`, ….",
            ) from error

    def _from_answer(self, what: str, answer: Any, error: Exception, absent: tuple[str, ...]) -> Exception:
        """The error that an answer of the server stands for."""
        code = answer.get("Error", {}).get("Code", "")
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        said = f"The store {self.root} refused `{what}`: {_sentence(error)}."
        if code in absent and isinstance(error, FileNotFoundError):
            return error
        if code == "NoSuchBucket":
            return StoreError(
                f"There is no bucket `{self._bucket}`.", hint="Check `--store`; `nanochat run` creates it if it may."
            )
        if code == "RequestTimeTooSkewed":
            return StoreUnreachable(
                f"The clock of the store {self.root} and that of this machine differ by more than it accepts.",
                hint="Set this machine's clock.",
            )
        if status == 412:
            return _Refused(f"The store {self.root} has another `{what}` by now.")
        if isinstance(error, FileExistsError):
            return error
        if status == 409:
            return _Busy(f"The store {self.root} is busy with other writers of `{what}`.")
        if status == 404:
            return StoreUnreachable(
                f"The store {self.root} answered 404 to `{what}`, and not that there is no such object.",
                hint="Is there an S3 server at `AWS_ENDPOINT_URL`, and no proxy before it?",
            )
        if isinstance(error, PermissionError) or status in (401, 403):
            return StoreError(said, hint="Check the credentials and their rights.")
        if status in UNKNOWN_TO_THE_SERVER:
            return StoreError(
                said, hint="The server does not know this request (conditional writes, perhaps): use another one."
            )
        if 300 <= status < 500 and status not in (408, 425, 429):
            return StoreError(said, hint="Check `--store`, `AWS_ENDPOINT_URL` and the region.")
        return StoreUnreachable(f"The store {self.root} failed at `{what}`: {_sentence(error)}.")


class _Refused(StoreError):
    """The condition of a conditional write did not hold (HTTP 412)."""


class _Busy(StoreUnreachable):
    """Conditional writes to one key met (HTTP 409): neither has been decided; to be tried again."""


def open_s3() -> Any:
    """An S3 client: own connections, no cached listings, quick to say that nobody answers."""
    for name, value in settings.aws_variables().items():
        if value != value.strip() or not value.isprintable():
            raise BadConfig(
                f"`{name}` has a space or line break at its beginning or end, or a control character.",
                hint="Set it again without; `echo -n`, or `$(cat file)`, leaves the line break out.",
            )
    if "@" in settings.s3_endpoint():
        raise BadConfig(
            "`AWS_ENDPOINT_URL` carries a login, which is not used.",
            hint="Give it as `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.",
        )
    bundle = settings.aws_variables().get("AWS_CA_BUNDLE", "")
    if bundle and not Path(bundle).exists():
        raise BadConfig(f"`AWS_CA_BUNDLE` is `{bundle}`, which does not exist.", hint="Name a file of certificates.")
    return fsspec.filesystem(
        "s3",
        endpoint_url=settings.s3_endpoint() or None,
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={
            "connect_timeout": 5,
            "read_timeout": 60,
            "retries": {"total_max_attempts": 3, "mode": "standard"},
            # botocore looks an IPv6 address up in `NO_PROXY` in brackets, and httpx takes none there
            **({"proxies": {}} if settings.is_loopback(settings.s3_endpoint()) else {}),
        },
    )


async def _read_to_its_end(body: Any) -> bytes:
    """The bytes of an answer. A body that broke off is closed too: ten that are open are all that a client has."""
    try:
        return await body.read()
    finally:
        body.close()


def _of_aiohttp() -> type[Exception]:
    """What its connections raise."""
    import aiohttp  # noqa: PLC0415 - a tenth of a second, in every process that opens a store

    return aiohttp.ClientError


def _answer(error: BaseException) -> Any:
    """The server's, behind an error of s3fs, which keeps botocore's as its cause; empty when there is none."""
    return next((each.response for each in (error, error.__cause__) if isinstance(each, boto.ClientError)), {})


def _sentence(error: BaseException) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()).rstrip(".")


def _without_login(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
