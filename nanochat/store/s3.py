"""A store in a bucket of S3, or of a compatible server; and the client, which sources in S3 use too."""

# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false

import asyncio
import contextlib
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import sync

from nanochat import settings
from nanochat.errors import BadConfig, StoreError, StoreUnreachable
from nanochat.store.address import Address
from nanochat.store.backend import Entry, Unfinished
from nanochat.store.object_names import is_foreign
from nanochat.store.s3_errors import (
    ABSENT,
    CHECK_SERVER,
    Conflict,
    PreconditionFailed,
    converted,
    error_response,
    sentence,
)

UPLOAD_S, SLOWEST_BYTES_PER_S = 120.0, 100_000
"""An upload fails after `UPLOAD_S` plus its size at this rate: a server may receive all bytes and never answer."""
COPY_BYTES = 256 << 20
"""Size of one copy request, which the server answers at its end; S3 allows up to 5 GB."""
READ_TRIES = 3
"""Attempts to read an object whose body broke off."""
CONFLICT_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.0)
PAGE_KEYS = 1000
"""Objects in one page of a listing; S3 has no larger ones."""
NO_OBJECTS_TAG = '"00000000000000000000000000000000"'


class Bucket:
    """The objects below a prefix of a bucket."""

    def __init__(self, address: Address) -> None:
        self.root = address.root
        self._bucket = address.bucket
        self._before = f"{address.prefix}/" if address.prefix else ""
        self._s3 = open_s3()
        self._bare_tags = False
        """Whether the server compares the tag of a condition without its quotes (Ceph RGW 16); see `check_swap`."""

    def local_path(self, path: str) -> Path | None:
        return None

    # --- reading --------------------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        return self._get(path)[1]

    def read_range(self, path: str, start: int, count: int) -> bytes:
        return self._get(path, Range=f"bytes={start}-{start + count - 1}")[1]

    def size(self, path: str) -> int | None:
        try:
            with self._reading(path):
                return self._call("head_object", path)["ContentLength"]
        except FileNotFoundError:
            return None

    def download(self, path: str, local: Path) -> None:
        with self._reading(path):
            self._s3.get_file(self._place(path), str(local))

    def list(self, prefix: str, *, everything: bool, page_keys: int = PAGE_KEYS) -> Iterator[Entry]:
        start = len(self._before)
        for entry in self._listing(f"{self._key(prefix)}/", page_keys):
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
            response, found = self._get(path)
        except FileNotFoundError:
            return False
        return found == expected and self._replace(path, data, response["ETag"])

    def upload(self, local: Path, path: str, *, share: bool, part_bytes: int | None = None) -> None:
        with converted(self.root, path):
            size = local.stat().st_size
            limit_s = UPLOAD_S + size / SLOWEST_BYTES_PER_S
            upload = self._s3._put_file(str(local), self._place(path), chunksize=part_bytes)
            sync(self._s3.loop, asyncio.wait_for, upload, limit_s)
        if self.size(path) != size:
            raise StoreUnreachable(f"The store {self.root} reported success, but does not have all of `{path}`.")

    def move(self, path: str, to: str) -> bool:
        size = self.size(path)
        if size is None:
            return False
        places = self._place(path), self._place(to)
        with converted(self.root, path):  # the server copies
            if size > COPY_BYTES:
                sync(self._s3.loop, self._s3._copy_managed, *places, size, block=COPY_BYTES)
            else:
                sync(self._s3.loop, self._s3._copy_basic, *places)
        if self.size(to) != size:
            raise StoreUnreachable(f"The store {self.root} reported success, but has not copied `{path}`.")
        self.delete(path)
        return True

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError), converted(self.root, path):
            self._call("delete_object", path)

    def abandon(self, what: Unfinished) -> None:
        with contextlib.suppress(FileNotFoundError), converted(self.root, what.path):
            self._call("abort_multipart_upload", what.path, UploadId=what.upload)

    # --- opening --------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Creates the bucket if it is missing and the credentials allow it."""
        try:
            with converted(self.root, self._bucket, absent=("404", "NoSuchBucket")):
                self._s3.call_s3("head_bucket", Bucket=self._bucket)
        except FileNotFoundError:
            try:
                with converted(self.root, self._bucket), contextlib.suppress(FileExistsError):  # another was first
                    self._s3.call_s3("create_bucket", Bucket=self._bucket)
            except StoreUnreachable:
                raise
            except (StoreError, FileNotFoundError) as error:
                raise StoreError(
                    f"There is no bucket `{self._bucket}`, and it cannot be created: "
                    f"{sentence(error.__cause__ or error)}.",
                    hint="Create it, give credentials that may, or name another.",
                ) from error
        except StoreUnreachable:
            raise
        except StoreError:  # writing objects needs no rights on the bucket: the probe finds out
            return

    def check_swap(self, path: str) -> str:
        """Also finds out how the server compares tags, which only a server that has just written the object can show.

        HTTP puts a tag in quotes (RFC 9110, 8.8.3), and some servers compare it without.
        """
        for attempt in range(4):  # twice each: a write whose response was lost looks like one that was refused
            self._bare_tags = attempt % 2 == 1
            if self._replace(path, b"new", self._get(path)[0]["ETag"]):
                return "ignores conditional writes (`If-Match`)" if self._replace(path, b"x", NO_OBJECTS_TAG) else ""
        self._bare_tags = False
        return "refuses conditional writes of an object that has not changed (`If-Match`)"

    def _key(self, path: str) -> str:
        return self._before + path

    def _place(self, path: str) -> str:
        return f"{self._bucket}/{self._key(path)}"

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        return self._s3.call_s3(method, Bucket=self._bucket, Key=self._key(path), **arguments)

    def _put(self, path: str, data: bytes, **condition: str) -> None:
        """Writes an object. A response without an ETag is not that of an S3 server."""
        with converted(self.root, path):
            response = self._call("put_object", path, Body=data, **condition)
        if not response.get("ETag"):
            raise StoreUnreachable(f"The store {self.root} did not confirm that it has `{path}`.", hint=CHECK_SERVER)

    def _get(self, path: str, **arguments: str) -> tuple[Any, bytes]:
        """The response to a GET, and its body."""
        tries_left = READ_TRIES
        while True:
            tries_left -= 1
            with self._reading(path):
                response = self._call("get_object", path, **arguments)
            try:
                with converted(self.root, path):
                    data: Any = sync(self._s3.loop, _read_body, response["Body"])
            except StoreUnreachable:
                if not tries_left:
                    raise
                continue
            if not response.get("ETag"):  # for example a page of a proxy
                raise StoreUnreachable(
                    f"The response of the store {self.root} to `{path}` is not an object.", hint=CHECK_SERVER
                )
            return response, data

    @contextlib.contextmanager
    def _reading(self, path: str) -> Generator[None]:
        """Raises `FileNotFoundError` only if there is no such object.

        A 404 that does not name the missing object may come from a proxy (a response to HEAD cannot name it): a listing
        must confirm it.
        """
        try:
            with converted(self.root, path, absent=("404", *ABSENT)):
                yield
        except FileNotFoundError as error:
            unnamed = error_response(error).get("Error", {}).get("Code") not in ABSENT
            if unnamed and any(entry["Key"] == self._key(path) for entry in self._listing(self._key(path))):
                raise StoreUnreachable(
                    f"The store {self.root} lists `{path}`, and reports it as missing.", hint="Try again."
                ) from error
            raise

    def _listing(self, prefix: str, page_keys: int = PAGE_KEYS) -> Iterator[dict[str, Any]]:
        markers = {"ContinuationToken": "NextContinuationToken"}
        for page in self._pages("list_objects_v2", prefix, markers, MaxKeys=page_keys):
            for entry in page.get("Contents", []):
                if not entry["Key"].startswith(prefix):
                    raise self._bad_listing(prefix, "it has keys with another prefix")
                yield entry

    def _pages(self, method: str, prefix: str, markers: dict[str, str], **arguments: int) -> Iterator[dict[str, Any]]:
        """All pages of a listing. One that is truncated, or is not a listing, is an error."""
        begin: dict[str, str] = {}
        while True:
            with converted(self.root, prefix, absent=()):
                page: dict[str, Any] = self._s3.call_s3(
                    method, Bucket=self._bucket, Prefix=prefix, **arguments, **begin
                )
            if not isinstance(page.get("IsTruncated"), bool):
                raise self._bad_listing(prefix, "the response is not a listing")
            yield page
            if not page["IsTruncated"]:
                return
            following: dict[str, str] = {name: page[after] for name, after in markers.items() if page.get(after)}
            if not following or following == begin:
                raise self._bad_listing(prefix, "it is truncated")
            begin = following

    def _bad_listing(self, prefix: str, why: str) -> StoreUnreachable:
        return StoreUnreachable(
            f"The listing of `{prefix}` from the store {self.root} cannot be used: {why}.", hint=CHECK_SERVER
        )

    def _replace(self, path: str, data: bytes, tag: str) -> bool:
        return self._conditional_put(path, data, IfMatch=tag.strip('"') if self._bare_tags else tag)

    def _conditional_put(self, path: str, data: bytes, **condition: str) -> bool:
        for pause_s in CONFLICT_PAUSES_S:
            try:
                self._put(path, data, **condition)
            except (PreconditionFailed, FileNotFoundError):  # the latter: deleted before it was replaced
                return False
            except Conflict:
                if not pause_s:
                    raise
                time.sleep(pause_s)
            else:
                break
        return True


async def _read_body(body: Any) -> bytes:
    """The bytes of a response. A body that broke off is closed too: a client has ten connections."""
    try:
        return await body.read()
    finally:
        body.close()


def open_s3() -> Any:
    """A client with its own connections, without cached listings, and with short time-outs; raises `BadConfig`."""
    for name, value in settings.aws_variables().items():
        if value != value.strip() or not value.isprintable():
            raise BadConfig(
                f"`{name}` has a space or line break at its beginning or end, or a control character.",
                hint="Set it again without; `echo -n`, or `$(cat file)`, omits the line break.",
            )
    if "@" in settings.s3_endpoint():
        raise BadConfig(
            "`AWS_ENDPOINT_URL` contains a login, which is not used.",
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
            # botocore expects an IPv6 address in `NO_PROXY` in brackets, and httpx accepts none there
            **({"proxies": {}} if settings.is_loopback(settings.s3_endpoint()) else {}),
        },
    )
