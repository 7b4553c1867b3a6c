"""Files behind `http(s)://`: their size and identity, and their bytes. An interrupted transfer is resumed."""

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

from nanochat.errors import BadSource, DamagedTransfer, SourceUnreachable
from nanochat.events import Reporter
from nanochat.sources.checksums import check_hash, has_hash, is_hash
from nanochat.sources.content_encoding import decode, encodings_of, encodings_to_decode

CONNECT_TIMEOUT_S = 15.0
READ_TIMEOUT_S = 60.0
MAX_RETRY_AFTER_S = 120.0
"""A longer `Retry-After` is cut to this."""
TRANSIENT_STATUSES = (408, 425, 429)
"""Client errors that are worth a retry; every status from 500 on is too."""
CONTENT_RANGE = re.compile(r"bytes (\d+)-")
SHA256_HEADER = re.compile(r"(?i)sha-256=:?([A-Za-z0-9+/]+=*)")


@dataclass(frozen=True)
class RemoteFile:
    """What a server reports about a file."""

    size: int | None
    """In bytes; None if unknown."""
    identity: str
    """Changes when the bytes do: their hash (`sha256:…`, `md5:…`), the ETag, or size and time; empty if unknown."""


def describe(url: str) -> RemoteFile:
    """Size and identity of a file, without its bytes. Raises `BadSource` (404 …) or `SourceUnreachable`."""
    with _client(url) as client:
        head = client.head(url)
        if head.is_success and (_total_bytes(head) or "ETag" in head.headers):
            _check_status(head, url)
            return _described(head)
        # some servers refuse HEAD or send no size with it, but answer GET
        with client.stream("GET", url, headers={"Range": "bytes=0-0"}) as response:
            if response.status_code == 416 and head.is_success:  # the file is empty
                response = head
            _check_status(response, url)
            return _described(response)


def fetch(url: str, local: Path, progress: Reporter, expected: str = "") -> None:
    """Downloads and decodes a file to `local`. A partial download is kept in `local`.part and resumed.

    `expected` is the identity that the listing found: the file must still have it. If it is a hash, the bytes are
    checked against it; they are also checked against a hash that the server sends. Raises `BadSource`, or
    `SourceUnreachable` if a retry may help.
    """
    if local.exists():  # complete and checked: only then does it get this name
        return
    part = local.with_name(f"{local.name}.part")
    headers = _download(url, part, progress, expected)
    try:
        encodings = encodings_to_decode(headers, local)
        hashes = [each for each in (_content_hash(headers), expected) if is_hash(each)]
        if not encodings:
            for each in hashes:
                check_hash(part, each, url)
            part.replace(local)
            return
        # a hash may be of the encoded bytes or of the decoded file
        decoded = local.with_name(f"{local.name}.decoded")
        decode(part, decoded, encodings, url)
        for each in hashes:
            if not has_hash(part, each):
                check_hash(decoded, each, url)
        decoded.replace(local)
    except DamagedTransfer:  # resuming would keep the damage
        part.unlink(missing_ok=True)
        raise
    part.unlink(missing_ok=True)


def _download(url: str, part: Path, progress: Reporter, expected: str) -> httpx.Headers:
    """Appends the bytes, still encoded, to `part`; returns the headers of the response."""
    offset = part.stat().st_size if part.exists() else 0

    def start_over(why: str) -> SourceUnreachable:
        part.unlink(missing_ok=True)
        return SourceUnreachable(f"{url} {why}.", hint="Try again later.")

    headers = {"Range": f"bytes={offset}-"} if offset else {}
    with _client(url) as client, client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416 and offset:
            raise start_over("has fewer bytes than the partial download")
        _check_status(response, url)
        done = 0  # a server without range requests sends the whole file
        if response.status_code == 206:
            begin = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
            if not begin or int(begin[1]) != offset or (offset and encodings_of(response.headers)):
                raise start_over("sent another range than the requested one")
            done = offset
        if expected and _has_changed(response, expected):
            part.unlink(missing_ok=True)
            raise BadSource(
                f"{url} changed since the run began.",
                hint="Start the run again; if this repeats, download the file into a folder and use that.",
            )
        total = _total_bytes(response)
        with part.open("r+b" if done else "wb") as file:
            file.seek(done)
            for chunk in response.iter_raw():  # written at once, so that an interruption loses nothing
                file.write(chunk)
                done += len(chunk)
                progress(done, total or 0, "bytes", f"{done / 1e6:,.0f} MB of {url.rpartition('/')[2]}")
        if total is not None and done > total:
            raise start_over(f"sent {done:,} bytes, more than its {total:,}")
        if total is not None and done < total:
            raise SourceUnreachable(f"{url} ended after {done:,} of {total:,} bytes.", hint="Try again later.")
        return response.headers


def _has_changed(response: httpx.Response, expected: str) -> bool:
    """Whether the server has another file now; False if the two identities cannot be compared."""
    found = _described(response)
    if is_hash(found.identity) or is_hash(expected):
        same_kind = found.identity.partition(":")[0] == expected.partition(":")[0]
        return same_kind and found.identity != expected and not encodings_of(response.headers)
    if found.size is None and "ETag" not in response.headers:
        return False
    return bool(found.identity) and found.identity != expected


@contextmanager
def _client(url: str) -> Iterator[httpx.Client]:
    """A client that raises our errors. It requests bytes unencoded, so that a range means bytes of the file."""
    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    headers = {"Accept-Encoding": "identity", "User-Agent": "nanochat"}
    try:
        client = httpx.Client(follow_redirects=True, timeout=timeout, headers=headers)
    except (ValueError, ImportError) as error:  # from the proxy variables
        raise BadSource(
            f"{url} cannot be requested: the proxy settings cannot be used ({error}).",
            hint="Correct or unset `HTTP_PROXY`, `HTTPS_PROXY` and `ALL_PROXY`.",
        ) from error
    try:
        with client:
            yield client
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects, UnicodeError) as error:
        raise BadSource(f"{url} cannot be requested: {str(error).rstrip('.')}.", hint="Check `data.source`.") from error
    except httpx.TimeoutException as error:
        raise SourceUnreachable(f"{url} timed out.", hint="Check the network and the address.") from error
    except httpx.RemoteProtocolError as error:
        raise SourceUnreachable(f"{url} closed the connection.", hint="Try again later.") from error
    except httpx.TransportError as error:
        if has_bad_certificate(error):
            raise BadSource(
                f"The certificate of {url} cannot be verified.",
                hint="If a proxy replaces certificates, set `SSL_CERT_FILE` to its authority.",
            ) from error
        raise SourceUnreachable(
            f"{url} did not answer ({type(error).__name__}).", hint="Check the network, the proxy and the address."
        ) from error


def _check_status(response: httpx.Response, url: str) -> None:
    """Raises our error for a failed response, and for a redirect from `https://` to `http://`."""
    status = response.status_code
    schemes = [hop.url.scheme for hop in (*response.history, response)]
    if "https" in schemes and "http" in schemes[schemes.index("https") :]:
        raise BadSource(f"{url} redirects from `https://` to the insecure `http://`.", hint="Check the address.")
    if response.is_success:
        return
    answered = f"{url} answered {status} {response.reason_phrase}."
    if status in (404, 410):
        raise BadSource(f"There is nothing at {url}.", hint="Check `data.source`.")
    if status in (401, 403):
        raise BadSource(
            f"Access to {url} is denied: {status} {response.reason_phrase}.",
            hint="If it needs a login, download it into a folder and use that.",
        )
    if status in TRANSIENT_STATUSES or status >= 500:
        wait_s = retry_after_s(response.headers.get("Retry-After", ""))
        raise SourceUnreachable(answered, hint="Try again later.", retry_after_s=wait_s)
    raise BadSource(answered, hint="Check `data.source`.")


def _described(response: httpx.Response) -> RemoteFile:
    size = _total_bytes(response)
    changed = response.headers.get("Last-Modified", "")
    # a weak ETag (`W/`) does not promise equal bytes, but it changes when the content does
    tag = response.headers.get("ETag", "").removeprefix("W/").strip('"')
    plain = tag or (f"{size}-{changed}" if size is not None or changed else "")
    return RemoteFile(size, _content_hash(response.headers) or plain)


def _total_bytes(response: httpx.Response) -> int | None:
    """Size of the whole file, also if the response is a range of it."""
    ranged = response.headers.get("Content-Range", "").rpartition("/")[2]
    size = ranged or response.headers.get("Content-Length", "")
    return int(size) if size.isdigit() else None


def _content_hash(headers: httpx.Headers) -> str:
    """From `Repr-Digest` (RFC 9530), `Digest` (RFC 3230), `x-goog-hash` or `Content-MD5`."""
    if headers.get("x-goog-stored-content-encoding", "identity") != "identity" and not encodings_of(headers):
        return ""  # the hash is of the stored bytes, which the server decoded
    digest = SHA256_HEADER.search(headers.get("Repr-Digest", "") + "," + headers.get("Digest", ""))
    google = re.search(r"md5=([A-Za-z0-9+/]+=*)", headers.get("x-goog-hash", ""))
    if digest:
        return _hexadecimal("sha256", digest[1], 32)
    return _hexadecimal("md5", google[1] if google else headers.get("Content-MD5", ""), 16)


def _hexadecimal(algorithm: str, encoded: str, length: int) -> str:
    try:
        data = base64.b64decode(encoded)
    except binascii.Error:
        return ""
    return f"{algorithm}:{data.hex()}" if len(data) == length else ""


def retry_after_s(header: str) -> float:
    """Seconds to wait after a `Retry-After` header, which has seconds or a date; 0 if it has neither."""
    try:
        if header.isdigit():
            seconds = float(header)
        else:
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def has_bad_certificate(error: BaseException | None) -> bool:
    """Whether a certificate that cannot be verified is among the causes of an error."""
    for _ in range(20):
        if error is None or isinstance(error, ssl.SSLCertVerificationError):
            break
        error = error.__cause__ or error.__context__
    return isinstance(error, ssl.SSLCertVerificationError)
