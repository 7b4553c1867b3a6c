"""Files behind `http(s)://`: what a server says of one, and its bytes, which go on where they were cut off."""

from __future__ import annotations

import base64
import binascii
import hashlib
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
from nanochat.sources.content_encoding import decode, sent_as, to_undo

CONNECT_TIMEOUT_S = 15.0
SILENCE_TIMEOUT_S = 60.0
LONGEST_ASKED_WAIT_S = 120.0
"""Of a `Retry-After`, no more is waited for."""
PASSING = (408, 425, 429)
"""Refusals that may pass by themselves; so may all from 500 on."""
CONTENT_HASH = re.compile(
    r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}|sha1:[0-9a-f]{40}|sha224:[0-9a-f]{56}|sha384:[0-9a-f]{96}"
    r"|(?:sha512|blake2b):[0-9a-f]{128}"
)
CONTENT_RANGE = re.compile(r"bytes (\d+)-")
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
    """Whether an identity is a hash of the bytes: `sha256:…`, `md5:…` and so on, in hexadecimal."""
    return CONTENT_HASH.fullmatch(identity) is not None


def ask(url: str) -> Answer:
    """What a server says of a file, without its bytes. Raises `BadSource` (404 …) or `SourceUnreachable`."""
    with _client(url) as client:
        answer = client.head(url)
        if answer.is_success and (_total(answer) or "ETag" in answer.headers):
            _check(answer, url)
            return _described(answer)
        # a server that answers HEAD with an error, or with no size, may answer GET
        with client.stream("GET", url, headers={"Range": "bytes=0-0"}) as ranged:
            if ranged.status_code == 416 and answer.is_success:  # there is not even one byte
                ranged = answer
            _check(ranged, url)
            return _described(ranged)


def fetch(url: str, local: Path, progress: Reporter, expected: str = "") -> None:
    """Copies a file here, decoded; what came of it before is kept beside `local`, and the rest asked for.

    `expected` is the identity it had when it was listed: another one is refused, as a changed file, and a hash is held
    against the bytes, as is one that the server gives. Raises `BadSource`, or `SourceUnreachable` when trying again may
    help.
    """
    if local.exists():  # whole and checked: only then it has this name
        return
    part = local.with_name(f"{local.name}.part")
    headers = _receive(url, part, progress, expected)
    try:
        encodings = to_undo(headers, local)
        promised = [each for each in (_content_hash(headers), expected) if is_hash(each)]
        if not encodings:
            for each in promised:
                check_hash(part, each, url)
            part.replace(local)
            return
        # a hash may be of the bytes as they are sent, or of the file
        decoded = local.with_name(f"{local.name}.decoded")
        decode(part, decoded, encodings, url)
        for each in promised:
            if not has_hash(part, each):
                check_hash(decoded, each, url)
        decoded.replace(local)
    except DamagedTransfer:  # nothing to go on from
        part.unlink(missing_ok=True)
        raise
    part.unlink(missing_ok=True)


def _receive(url: str, part: Path, progress: Reporter, expected: str) -> httpx.Headers:
    """Fetches the bytes as they are sent, from where `part` ends; returns what the server said of them."""
    have = part.stat().st_size if part.exists() else 0

    def again(why: str) -> SourceUnreachable:
        part.unlink(missing_ok=True)
        return SourceUnreachable(f"{url} {why}.", hint="Try again later.")

    headers = {"Range": f"bytes={have}-"} if have else {}
    with _client(url) as client, client.stream("GET", url, headers=headers) as answer:
        if answer.status_code == 416 and have:
            raise again("has no more bytes than came before, which were not known to be all")
        _check(answer, url)
        done = 0  # a server that knows no ranges begins at the beginning
        if answer.status_code == 206:
            begins = CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
            if not begins or int(begins[1]) != have or (have and sent_as(answer.headers)):
                raise again("answered another part than was asked for")
            done = have
        if expected and _changed(answer, expected):
            part.unlink(missing_ok=True)
            raise BadSource(
                f"{url} changed since the run began.",
                hint="Start the run again; if the server says so each time, fetch the file into a folder first.",
            )
        total = _total(answer)
        with part.open("r+b" if done else "wb") as file:
            file.seek(done)
            for chunk in answer.iter_raw():  # as it comes: what is here when the line breaks is kept
                file.write(chunk)
                done += len(chunk)
                progress(done, total or 0, "bytes", f"{done / 1e6:,.0f} MB of {url.rpartition('/')[2]}")
        if total is not None and done > total:
            raise again(f"sent {done:,} bytes, more than its {total:,}")
        if total is not None and done < total:
            raise SourceUnreachable(f"{url} ended after {done:,} of {total:,} bytes.", hint="Try again later.")
        return answer.headers


def check_hash(local: Path, promised: str, url: str) -> None:
    """Raises `DamagedTransfer` unless the file has the hash (`sha256:…`, `md5:…`)."""
    name, _, wanted = promised.partition(":")
    found = _hash(local, name)
    if found != wanted:
        raise DamagedTransfer(
            f"{url} is damaged: its {name.upper()} is {found[:12]}… instead of {wanted[:12]}….",
            hint="Fetch it again; if that does not help, it is damaged where it lies.",
        )


def has_hash(local: Path, promised: str) -> bool:
    """Whether a file has a hash (`sha256:…`, `md5:…`)."""
    name, _, wanted = promised.partition(":")
    return _hash(local, name) == wanted


def _hash(local: Path, name: str) -> str:
    with local.open("rb") as file:
        return hashlib.file_digest(file, name).hexdigest()


def _changed(answer: httpx.Response, expected: str) -> bool:
    """Whether the server has another file now. What it does not say now, and hashes of two kinds, tell nothing."""
    found = _described(answer)
    if is_hash(found.identity) or is_hash(expected):
        same_kind = found.identity.partition(":")[0] == expected.partition(":")[0]
        return same_kind and found.identity != expected and not sent_as(answer.headers)
    if found.size is None and "ETag" not in answer.headers:
        return False
    return bool(found.identity) and found.identity != expected


@contextmanager
def _client(url: str) -> Iterator[httpx.Client]:
    """A client whose errors are ours; bytes come as they lie there, so that a range means what it says."""
    timeout = httpx.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    headers = {"Accept-Encoding": "identity", "User-Agent": "nanochat"}
    try:
        client = httpx.Client(follow_redirects=True, timeout=timeout, headers=headers)
    except (ValueError, ImportError) as error:  # of the variables that name a proxy
        raise BadSource(
            f"{url} cannot be asked for: the proxy that is set cannot be used ({error}).",
            hint="Correct or unset `HTTP_PROXY`, `HTTPS_PROXY` and `ALL_PROXY`.",
        ) from error
    try:
        with client:
            yield client
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects, UnicodeError) as error:
        raise BadSource(f"{url} cannot be asked for: {str(error).rstrip('.')}.", hint="Check `data.source`.") from error
    except httpx.TimeoutException as error:
        raise SourceUnreachable(f"{url} was silent for too long.", hint="Check the network and the address.") from error
    except httpx.RemoteProtocolError as error:
        raise SourceUnreachable(f"{url} broke off.", hint="Try again later.") from error
    except httpx.TransportError as error:
        if has_bad_certificate(error):
            raise BadSource(
                f"The certificate of {url} cannot be verified.",
                hint="A proxy may have one of its own: name its authority with `SSL_CERT_FILE`.",
            ) from error
        raise SourceUnreachable(
            f"{url} did not answer ({type(error).__name__}).", hint="Check the network, the proxy and the address."
        ) from error


def _check(answer: httpx.Response, url: str) -> None:
    status = answer.status_code
    hops = [hop.url.scheme for hop in (*answer.history, answer)]
    if "https" in hops and "http" in hops[hops.index("https") :]:
        raise BadSource(f"{url} leads from `https://` to `http://`, where anybody may change it.", hint="Check it.")
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
        wait_s = asked_wait_s(answer.headers.get("Retry-After", ""))
        raise SourceUnreachable(said, hint="Try again later.", retry_after_s=wait_s)
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
    if headers.get("x-goog-stored-content-encoding", "identity") != "identity" and not sent_as(headers):
        return ""  # of the bytes as they are stored, which were decoded on the way
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
