"""Files anywhere on the network, to read from: what there is behind a URL, and its bytes.

Not part of the store: sources are other people's, and only read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import aiohttp
import fsspec
from botocore import exceptions as boto

from nanochat.errors import BadSource, SourceUnreachable
from nanochat.progress import Progress
from nanochat.store.objects import open_s3

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class SourceFile:
    """A file of a source; `identity` changes when its bytes do (ETag, or size and time)."""

    url: str
    name: str
    size: int
    identity: str


def list_url(url: str) -> list[SourceFile]:
    """The files below an `s3://` prefix, or the one behind `http(s)://`; raises `BadSource`, `SourceUnreachable`."""
    with _answers(url):
        filesystem = _filesystem(url)
        if url.startswith("s3://"):
            found: dict[str, Any] = filesystem.find(url, detail=True)
            if not found:
                raise BadSource(f"There is nothing at {url}.", hint="Check `data.source`.")
            return [
                SourceFile(f"s3://{path}", PurePosixPath(path).name, info["size"], str(info.get("ETag", "")).strip('"'))
                for path, info in sorted(found.items())
            ]
        info = filesystem.info(url)
        size = int(info.get("size") or 0)
        identity = str(info.get("ETag") or f"{size}-{info.get('Last-Modified', '')}").strip('"')
        return [SourceFile(url, PurePosixPath(url.split("?")[0]).name, size, identity)]


def fetch_url(url: str, local: Path, progress: Progress) -> None:
    """Copies a file here, whole: a short read is an error. Raises `BadSource` (404 …) or `SourceUnreachable`."""
    with _answers(url):
        filesystem = _filesystem(url)
        expected = int(filesystem.info(url).get("size") or 0)
        done = 0
        with (
            filesystem.open(url, "rb", block_size=0 if url.startswith("http") else None) as source,
            local.open("wb") as file,
        ):
            while chunk := source.read(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                progress(done, expected, "bytes", f"{done / 1e6:,.0f} MB of {PurePosixPath(url).name}")
        if expected and done != expected:
            raise SourceUnreachable(f"{url} ended after {done:,} of {expected:,} bytes.")


def _filesystem(url: str) -> Any:
    if url.startswith("s3://"):
        return open_s3()
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60)
    return fsspec.filesystem("http", client_kwargs={"timeout": timeout}, use_listings_cache=False)


@contextmanager
def _answers(url: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise BadSource(f"There is nothing at {url}.", hint="Check `data.source`.") from error
    except PermissionError as error:
        raise BadSource(f"{url} may not be read: {error}.", hint="Check the credentials.") from error
    except aiohttp.ClientResponseError as error:
        if error.status in (408, 425, 429) or error.status >= 500:
            raise SourceUnreachable(f"{url} answered {error.status} {error.message}.") from error
        raise BadSource(f"{url} answered {error.status} {error.message}.", hint="Check `data.source`.") from error
    except (aiohttp.ClientError, TimeoutError, boto.HTTPClientError) as error:
        raise SourceUnreachable(
            f"{url} did not answer ({type(error).__name__}).", hint="Check the network and the address."
        ) from error
    except (boto.BotoCoreError, boto.ClientError) as error:
        raise BadSource(f"{url} cannot be read: {error}.", hint="Check the address and the credentials.") from error
