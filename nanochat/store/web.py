"""Files behind `http(s)://`: what a server says of one, and its bytes, which go on where they were cut off."""

from __future__ import annotations

import base64
import binascii
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from nanochat.errors import BadSource, SourceUnreachable
from nanochat.progress import Progress

CONNECT_TIMEOUT_S = 15.0
SILENCE_TIMEOUT_S = 60.0
LONGEST_ASKED_WAIT_S = 120.0
"""Of a `Retry-After`, no more is waited for."""
PASSING = (408, 425, 429)
"""Refusals that may pass by themselves; so may all from 500 on."""
CONTENT_HASH = re.compile(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}")
SHA256_HEADER = re.compile(r"(?i)sha-256=:?([A-Za-z0-9+/]+=*)")


@dataclass(frozen=True)
class Answer:
    """What a server says of a file."""

    size: int | None
    """In bytes; None when it does not say."""
    identity: str
    """Changes when the bytes do: `sha256:…` or `md5:…` of them, the ETag, or size and time; empty when the server says
    nothing."""


def is_hash(identity: str) -> bool:
    """Whether an identity is a hash of the bytes: `sha256:…` or `md5:…`, in hexadecimal."""
    return CONTENT_HASH.fullmatch(identity) is not None


def ask(url: str) -> Answer:
    """What a server says of a file, without its bytes. Raises `BadSource` (404 …) or `SourceUnreachable`."""
    with _client(url) as client:
        answer = client.head(url)
        if answer.status_code in (403, 405, 501):  # whoever knows no HEAD may know GET
            with client.stream("GET", url, headers={"Range": "bytes=0-0"}) as answer:
                _check(answer, url)
                return _described(answer)
        _check(answer, url)
        return _described(answer)


def fetch(url: str, local: Path, progress: Progress, expected: str = "") -> str:
    """Copies a file here; what `local` already has of it is kept, and the rest asked for.

    `expected` is the identity it had when it was listed: another one is refused, as a changed file. Returns the hash
    that the server promises, if any. Raises `BadSource`, or `SourceUnreachable` when trying again may help: `local`
    then has what came.
    """
    have = local.stat().st_size if local.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with _client(url) as client, client.stream("GET", url, headers=headers) as answer:
        total = _total(answer)
        if answer.status_code == 416 and have:
            if total == have:  # it was all there; what it is was checked when it came
                return ""
            local.unlink()
            raise SourceUnreachable(f"{url} is shorter than what came of it before.")
        _check(answer, url)
        found = _described(answer).identity
        if expected and found and is_hash(found) == is_hash(expected) and found != expected:
            local.unlink(missing_ok=True)
            raise BadSource(f"{url} changed since the run began.", hint="Start the run again.")
        done = have if answer.status_code == 206 else 0  # else a server that knows no ranges: from the beginning
        with local.open("r+b" if done else "wb") as file:
            file.seek(done)
            for chunk in answer.iter_raw():  # as it comes: what is here when the line breaks is kept
                file.write(chunk)
                done += len(chunk)
                progress(done, total or 0, "bytes", f"{done / 1e6:,.0f} MB of {url.rpartition('/')[2]}")
        if total is not None and done != total:
            raise SourceUnreachable(f"{url} ended after {done:,} of {total:,} bytes.")
    return found if is_hash(found) else ""


@contextmanager
def _client(url: str) -> Iterator[httpx.Client]:
    """A client whose errors are ours; bytes come as they lie there, so that a range means what it says."""
    timeout = httpx.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    headers = {"Accept-Encoding": "identity", "User-Agent": "nanochat"}
    try:
        with httpx.Client(follow_redirects=True, timeout=timeout, headers=headers) as client:
            yield client
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects) as error:
        raise BadSource(f"{url} cannot be asked for: {error}.", hint="Check `data.source`.") from error
    except httpx.TimeoutException as error:
        raise SourceUnreachable(f"{url} was silent for too long.", hint="Check the network and the address.") from error
    except httpx.RemoteProtocolError as error:
        raise SourceUnreachable(f"{url} broke off.") from error
    except httpx.TransportError as error:
        raise SourceUnreachable(
            f"{url} did not answer ({type(error).__name__}).", hint="Check the network and the address."
        ) from error


def _check(answer: httpx.Response, url: str) -> None:
    status = answer.status_code
    if answer.is_success:
        return
    said = f"{url} answered {status} {answer.reason_phrase}."
    if status in (404, 410):
        raise BadSource(f"There is nothing at {url}.", hint="Check `data.source`.")
    if status in (401, 403):
        raise BadSource(
            f"{url} may not be read: it answered {status} {answer.reason_phrase}.",
            hint="Fetch what needs a login into a folder first, and name that.",
        )
    if status in PASSING or status >= 500:
        raise SourceUnreachable(said, retry_after_s=asked_wait_s(answer.headers.get("Retry-After", "")))
    raise BadSource(said, hint="Check `data.source`.")


def _described(answer: httpx.Response) -> Answer:
    size = _total(answer)
    changed = answer.headers.get("Last-Modified", "")
    # A weak tag (`W/`) says of two states only that they mean the same; it still changes when they do not.
    tag = answer.headers.get("ETag", "").removeprefix("W/").strip('"')
    plain = tag or (f"{size}-{changed}" if size is not None or changed else "")
    return Answer(size, _content_hash(answer.headers) or plain)


def _total(answer: httpx.Response) -> int | None:
    """Bytes of the whole file."""
    ranged = answer.headers.get("Content-Range", "").rpartition("/")[2]
    said = ranged or answer.headers.get("Content-Length", "")
    return int(said) if said.isdigit() else None


def _content_hash(headers: httpx.Headers) -> str:
    """From `Repr-Digest` (RFC 9530), `Digest` (RFC 3230), `x-goog-hash` or `Content-MD5`."""
    digest = SHA256_HEADER.search(headers.get("Repr-Digest", "") + "," + headers.get("Digest", ""))
    google = re.search(r"md5=([A-Za-z0-9+/]+=*)", headers.get("x-goog-hash", ""))
    if digest:
        return _hexadecimal("sha256", digest[1], 32)
    return _hexadecimal("md5", google[1] if google else headers.get("Content-MD5", ""), 16)


def _hexadecimal(name: str, encoded: str, length: int) -> str:
    try:
        data = base64.b64decode(encoded)
    except binascii.Error:
        return ""
    return f"{name}:{data.hex()}" if len(data) == length else ""


def asked_wait_s(said: str) -> float:
    """Seconds to wait that a `Retry-After` asks for, in seconds or as a date; 0 when it is neither."""
    try:
        asked = float(said) if said.isdigit() else (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return 0.0
    return min(max(asked, 0.0), LONGEST_ASKED_WAIT_S)


def has_bad_certificate(error: BaseException | None) -> bool:
    """Whether a certificate that cannot be verified is among the causes of an error."""
    for _ in range(20):
        if error is None or isinstance(error, ssl.SSLCertVerificationError):
            break
        error = error.__cause__ or error.__context__
    return isinstance(error, ssl.SSLCertVerificationError)
