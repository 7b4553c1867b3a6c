"""Files on the network that sources name: listing them and fetching their bytes.

`http(s)://` is read by `http_files.py`, every other address by fsspec: `s3://` here, and `gs://`, `az://`, `ftp://`, …
where their packages are installed. These files are read only; the store has its own object storage.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import fsspec
from botocore import exceptions as boto

from nanochat.errors import BadSource, DamagedTransfer, SourceUnreachable
from nanochat.events import Reporter
from nanochat.sources import http_files
from nanochat.sources.checksums import check_hash, is_hash
from nanochat.sources.file_selection import SourceFile
from nanochat.sources.http_files import has_bad_certificate
from nanochat.store.s3 import open_s3

CHUNK_BYTES = 1 << 20
MD5 = re.compile(r"[0-9a-f]{32}")
IDENTITY_FIELDS = ("ETag", "etag", "md5Hash", "content_md5", "sha256", "generation", "version")
"""Fields of fsspec's file information that change with the bytes."""
TIME_FIELDS = ("LastModified", "last_modified", "updated", "mtime", "modify", "created")
TRANSIENT_ERRORS = (
    aiohttp.ClientError,
    ConnectionError,
    TimeoutError,
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
)
"""Network errors of the libraries below fsspec."""
LOCAL_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE)
"""Errors of the disk that is written to; no server answers with them."""
COMMON_SCHEMES = ("s3", "gs", "az", "ftp", "sftp")


def list_url(url: str) -> list[SourceFile]:
    """The files below a prefix, or the one file behind `http(s)://`.

    Raises `BadSource` if there is none or the scheme is unknown, `SourceUnreachable` if the network failed.
    """
    if is_http(url):
        path = unquote(urlsplit(url).path).lstrip("/")
        return [SourceFile(path, url, http_files.describe(url).identity)]
    with _file_system_errors(url):
        filesystem, root = _open(url)
        # fsspec's own `find` omits folders that cannot be listed: use it only where a file system overrides it
        base = type(filesystem).find is fsspec.AbstractFileSystem.find
        listed: dict[str, Any] = _walk(filesystem, root) if base else filesystem.find(root, detail=True)
        if not listed:
            raise BadSource(f"There is nothing at {url}.", hint="Check `data.source`.")
        found: list[SourceFile] = []
        for path, info in sorted(listed.items()):
            inside = path.removeprefix(root).strip("/")
            place = f"{url.rstrip('/')}/{inside}" if inside else url
            found.append(SourceFile(inside or PurePosixPath(path).name, place, _identity(info)))
        return found


def _walk(filesystem: Any, root: str) -> dict[str, Any]:
    """Every file below a path, with its information."""
    top = filesystem.info(root)
    if top["type"] != "directory":
        return {top["name"]: top}
    found: dict[str, Any] = {}
    waiting = [root]
    while waiting:
        place = waiting.pop()
        for info in filesystem.ls(place, detail=True):
            name = info["name"].rstrip("/")
            if info["type"] != "directory":
                found[name] = info
            elif name != place.rstrip("/"):
                waiting.append(name)
    return found


def fetch_url(url: str, local: Path, progress: Reporter, identity: str = "") -> None:
    """Downloads a file to `local`. A partial download there is resumed.

    `identity` is what the listing found; if it is a hash, the bytes are checked against it. Raises `BadSource` (file
    missing, changed, …), or `SourceUnreachable` if a retry may help.
    """
    if is_http(url):
        http_files.fetch(url, local, progress, identity)
        return
    with _file_system_errors(url):
        expected = _fetch(*_open(url), url, local, progress, identity)
    if expected := identity if is_hash(identity) else expected:
        try:
            check_hash(local, expected, url)
        except DamagedTransfer:
            local.unlink()  # resuming would keep the damage
            raise


def is_http(url: str) -> bool:
    """Whether an address is read over HTTP."""
    return url.startswith(("http://", "https://"))


def _fetch(filesystem: Any, path: str, url: str, local: Path, progress: Reporter, identity: str) -> str:
    """Downloads a file from a file system; returns the hash it should have, or an empty string."""
    info = filesystem.info(path)
    if identity and not is_hash(identity) and _identity(info) != identity:
        local.unlink(missing_ok=True)
        raise BadSource(f"{url} changed since the run began.", hint="Start the run again.")
    size = info.get("size")
    done = local.stat().st_size if local.exists() else 0
    if size is not None and done > size:
        done = 0
    with filesystem.open(path, "rb") as source, local.open("r+b" if done else "wb") as file:
        source.seek(done)
        file.seek(done)
        while chunk := source.read(CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            progress(done, size or 0, "bytes", f"{done / 1e6:,.0f} MB of {PurePosixPath(url).name}")
    if size is not None and done != size:
        raise SourceUnreachable(f"{url} ended after {done:,} of {size:,} bytes.")
    return _s3_hash(filesystem, path, identity) if url.startswith("s3://") else ""


def _s3_hash(filesystem: Any, path: str, etag: str) -> str:
    """The MD5 in an ETag: only an object that was uploaded in one part, without a customer's or KMS key, has one."""
    if not MD5.fullmatch(etag):
        return ""
    bucket, _, key = path.partition("/")
    head = filesystem.call_s3("head_object", Bucket=bucket, Key=key)
    encrypted = head.get("SSECustomerAlgorithm") or head.get("ServerSideEncryption", "AES256") != "AES256"
    return "" if encrypted else f"md5:{etag}"


def _identity(info: dict[str, Any]) -> str:
    for field in IDENTITY_FIELDS:
        if info.get(field):
            return str(info[field]).strip('"')
    times = [info[field] for field in TIME_FIELDS if info.get(field)]
    seconds = [time.timestamp() if isinstance(time, datetime) else time for time in times[:1]]
    return "-".join(str(each) for each in (info.get("size", ""), *seconds))


def _open(url: str) -> tuple[Any, str]:
    """The file system of a URL, and its path there."""
    if url.startswith("s3://"):
        return open_s3(), url.removeprefix("s3://").rstrip("/")
    scheme = urlsplit(url).scheme
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise BadSource(
            f"Sources of the kind `{scheme}://` need a package that is not installed ({reason}).",
            hint="Install it into this environment.",
        ) from error
    except ValueError as error:
        raise BadSource(
            f"`{url}`: sources of the kind `{scheme}://` are unknown.",
            hint=f"Known are `http://`, `https://`, `hf://` and {', '.join(f'`{k}://`' for k in COMMON_SCHEMES)}.",
        ) from error


@contextmanager
def _file_system_errors(url: str) -> Iterator[None]:
    """Raises the errors of file systems as ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise BadSource(f"There is nothing at {url}.", hint="Check `data.source`.") from error
    except PermissionError as error:
        raise BadSource(f"Access to {url} is denied: {error}.", hint="Check the credentials.") from error
    except TRANSIENT_ERRORS as error:
        if has_bad_certificate(error) or "CERTIFICATE_VERIFY_FAILED" in str(error):  # boto keeps only the text
            raise BadSource(
                f"The certificate of the server of {url} cannot be verified.",
                hint="Set `AWS_CA_BUNDLE` or `SSL_CERT_FILE` to its authority.",
            ) from error
        raise SourceUnreachable(
            f"{url} did not answer ({type(error).__name__}).", hint="Check the network and the address."
        ) from error
    except (boto.BotoCoreError, boto.ClientError) as error:
        reason = " ".join(str(error).split()).rstrip(".")[:200]
        raise BadSource(f"{url} cannot be read: {reason}.", hint="Check the address and the credentials.") from error
    except OSError as error:
        if error.filename or error.errno in LOCAL_DISK_ERRNOS:
            raise
        raise SourceUnreachable(f"{url} cannot be read: {error}.") from error
