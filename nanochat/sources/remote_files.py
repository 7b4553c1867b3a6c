"""Files anywhere on the network, to read from: what there is behind a URL, and its bytes.

Not part of the store: sources are other people's, and only read. `http(s)://` is read by `web.py`, everything else by
whatever fsspec has for it: `s3://` here, and `gs://`, `az://`, `ftp://`, … where their packages are installed.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from nanochat.sources.http_files import check_hash, has_bad_certificate, is_hash
from nanochat.store.s3 import open_s3

CHUNK_BYTES = 1 << 20
MD5 = re.compile(r"[0-9a-f]{32}")
IDENTITY_FIELDS = ("ETag", "etag", "md5Hash", "content_md5", "sha256", "generation", "version")
"""What file systems of object stores call that which changes with the bytes."""
UNREACHABLE = (
    aiohttp.ClientError,
    ConnectionError,
    TimeoutError,
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
)
"""What may pass by itself, as the libraries below fsspec call it."""
OF_OUR_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE)
"""Errors of the disk that is written to, which no server answers with."""
COMMON_SCHEMES = ("s3", "gs", "az", "ftp", "sftp")
TIME_FIELDS = ("LastModified", "last_modified", "updated", "mtime", "modify", "created")


@dataclass(frozen=True)
class SourceFile:
    """A file of a source."""

    url: str
    path: str
    """Inside its source, with `/`."""
    identity: str
    """Changes when the bytes do: `sha256:…` or `md5:…` of them, an ETag, or size and time."""


def list_url(url: str) -> list[SourceFile]:
    """The files below a prefix, or the one behind `http(s)://`.

    Raises `BadSource` when there is none or nobody knows such addresses, `SourceUnreachable`.
    """
    if is_web(url):
        path = unquote(urlsplit(url).path).lstrip("/")
        return [SourceFile(url, path, http_files.ask(url).identity)]
    with _answers(url):
        filesystem, root = _open(url)
        # where a file system has no listing of its own, fsspec's leaves out the folders that cannot be listed
        base = type(filesystem).find is fsspec.AbstractFileSystem.find
        listed: dict[str, Any] = _walk(filesystem, root) if base else filesystem.find(root, detail=True)
        if not listed:
            raise BadSource(f"There is nothing at {url}.", hint="Check `data.source`.")
        found: list[SourceFile] = []
        for path, info in sorted(listed.items()):
            inside = path.removeprefix(root).strip("/")
            place = f"{url.rstrip('/')}/{inside}" if inside else url
            found.append(SourceFile(place, inside or PurePosixPath(path).name, _identity(info)))
        return found


def _walk(filesystem: Any, root: str) -> dict[str, Any]:
    """Every file below a path, with what is known of it."""
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
    """Copies a file here, whole; what `local` already has of it is kept, and the rest asked for.

    `identity` is what it had when it was listed; one that is a hash is held against the bytes. Raises `BadSource`
    (there is none, it changed …), or `SourceUnreachable` when trying again may help.
    """
    if is_web(url):
        http_files.fetch(url, local, progress, identity)
        return
    with _answers(url):
        promised = _fetch(*_open(url), url, local, progress, identity)
    if promised := identity if is_hash(identity) else promised:
        try:
            check_hash(local, promised, url)
        except DamagedTransfer:
            local.unlink()  # nothing to go on from
            raise


def is_web(url: str) -> bool:
    """Whether an address is read over HTTP."""
    return url.startswith(("http://", "https://"))


def _fetch(filesystem: Any, path: str, url: str, local: Path, progress: Reporter, identity: str) -> str:
    """Copies a file of a file system; returns the hash that it promises for it, if any."""
    info = filesystem.info(path)
    if identity and not is_hash(identity) and _identity(info) != identity:
        local.unlink(missing_ok=True)
        raise BadSource(f"{url} changed since the run began.", hint="Start the run again.")
    expected = info.get("size")
    done = local.stat().st_size if local.exists() else 0
    if expected is not None and done > expected:
        done = 0
    with filesystem.open(path, "rb") as source, local.open("r+b" if done else "wb") as file:
        source.seek(done)
        file.seek(done)
        while chunk := source.read(CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            progress(done, expected or 0, "bytes", f"{done / 1e6:,.0f} MB of {PurePosixPath(url).name}")
    if expected is not None and done != expected:
        raise SourceUnreachable(f"{url} ended after {done:,} of {expected:,} bytes.")
    return _s3_hash(filesystem, path, identity) if url.startswith("s3://") else ""


def _s3_hash(filesystem: Any, path: str, tag: str) -> str:
    """An ETag is the MD5 of what was put in one part, and not encrypted with a key of its owner's."""
    if not MD5.fullmatch(tag):
        return ""
    bucket, _, key = path.partition("/")
    head = filesystem.call_s3("head_object", Bucket=bucket, Key=key)
    encrypted = head.get("SSECustomerAlgorithm") or head.get("ServerSideEncryption", "AES256") != "AES256"
    return "" if encrypted else f"md5:{tag}"


def _identity(info: dict[str, Any]) -> str:
    for field in IDENTITY_FIELDS:
        if info.get(field):
            return str(info[field]).strip('"')
    times = [info[field] for field in TIME_FIELDS if info.get(field)]
    seconds = [time.timestamp() if isinstance(time, datetime) else time for time in times[:1]]
    return "-".join(str(each) for each in (info.get("size", ""), *seconds))


def _open(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path that it has there."""
    if url.startswith("s3://"):
        return open_s3(), url.removeprefix("s3://").rstrip("/")
    scheme = urlsplit(url).scheme
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise BadSource(
            f"Sources of the kind `{scheme}://` need a package that is not here ({said}).",
            hint="Install it into this environment.",
        ) from error
    except ValueError as error:
        raise BadSource(
            f"`{url}`: sources of the kind `{scheme}://` are unknown.",
            hint=f"Known are `http://`, `https://`, `hf://` and {', '.join(f'`{k}://`' for k in COMMON_SCHEMES)}.",
        ) from error


@contextmanager
def _answers(url: str) -> Iterator[None]:
    """The errors of file systems as ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise BadSource(f"There is nothing at {url}.", hint="Check `data.source`.") from error
    except PermissionError as error:
        raise BadSource(f"{url} may not be read: {error}.", hint="Check the credentials.") from error
    except UNREACHABLE as error:
        if has_bad_certificate(error) or "CERTIFICATE_VERIFY_FAILED" in str(error):  # of which boto keeps only the text
            raise BadSource(
                f"The certificate of the server of {url} cannot be verified.",
                hint="Name its authority with `AWS_CA_BUNDLE` or `SSL_CERT_FILE`.",
            ) from error
        raise SourceUnreachable(
            f"{url} did not answer ({type(error).__name__}).", hint="Check the network and the address."
        ) from error
    except (boto.BotoCoreError, boto.ClientError) as error:
        said = " ".join(str(error).split()).rstrip(".")[:200]
        raise BadSource(f"{url} cannot be read: {said}.", hint="Check the address and the credentials.") from error
    except OSError as error:
        if error.filename or error.errno in OF_OUR_DISK:
            raise
        raise SourceUnreachable(f"{url} cannot be read: {error}.") from error
