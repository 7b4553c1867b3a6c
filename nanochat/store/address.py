"""Parses the address of a store: a folder, `file:///folder` or `s3://bucket/prefix`.

Normalises repeated and trailing slashes and the case of the scheme. Refuses parts of a URL that would not be used: a
query, a user, a host, a port.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from nanochat.errors import BadConfig

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?")
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
USE = "Use a folder, `file:///folder` or `s3://bucket/prefix`."


@dataclass(frozen=True)
class Address:
    """The location of a store: a folder, or a bucket and a prefix."""

    root: str
    """The normalised URL."""
    folder: Path | None = None
    bucket: str = ""
    prefix: str = ""
    """Without slashes around it; may be empty."""


def parse(text: str) -> Address:
    """Parses an address; raises `BadConfig`."""
    if not text:
        raise BadConfig("The address of the store is empty.", hint=USE)
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise BadConfig(
            "The address of the store contains credentials.",
            hint="Give them as `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.",
        )
    if text != text.strip() or not _is_printable(text):
        raise _refused(text, "has spaces around it, or control characters such as a line break")
    scheme = SCHEME.match(text)
    if scheme is None:
        return _folder(text, _expanded(text))
    rest = text[scheme.end() :]
    if scheme[2] is None:
        raise _refused(text, f"begins with `{scheme[0]}`, but is no URL", hint=f"{USE} A folder of that name is `./…`.")
    if any(mark in rest for mark in "?#;"):
        raise _refused(text, "has a query, fragment or parameters (`?`, `#`, `;`), which are not used")
    match scheme[1].lower():
        case "file":
            return _file_url(text, rest)
        case "s3":
            return _s3_url(text, rest)
        case other:
            raise _refused(text, f"has the unknown scheme `{other}`")


def _file_url(text: str, rest: str) -> Address:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise _refused(text, f"names the host `{host}`", hint="A folder has three slashes: `file:///folder`.")
    if BROKEN_ESCAPE.search(path):
        raise _refused(text, "has a `%` that is not followed by two hexadecimal digits", hint="Write `%25` for `%`.")
    decoded = os.fsdecode(unquote_to_bytes(slash + path))
    if not _is_printable(decoded):
        raise _refused(text, "has control characters")
    return _folder(text, Path(decoded or "/"))


def _s3_url(text: str, rest: str) -> Address:
    bucket, *folders = rest.split("/")
    if not BUCKET.fullmatch(bucket):
        raise _refused(text, "names no bucket" if not bucket else f"names `{bucket}`, which cannot be a bucket")
    names = [name for name in folders if name]
    if "." in names or ".." in names:
        raise _refused(text, "has `.` or `..` in it, which mean nothing in a bucket")
    prefix = "/".join(names)
    return Address(root=f"s3://{bucket}/{prefix}".rstrip("/"), bucket=bucket, prefix=prefix)


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise _refused(text, "begins with the home folder of an unknown user") from error


def _folder(text: str, path: Path) -> Address:
    try:
        path = Path("/" + str(path.absolute()).lstrip("/"))
    except FileNotFoundError as error:
        raise _refused(text, "is relative to the working directory, which has been deleted") from error
    if path == Path("/"):
        raise _refused(text, "is the root of the file system")
    return Address(root=path.as_uri(), folder=path)


def _is_printable(text: str) -> bool:
    """Whether a text has no control characters; a path may have bytes that are not UTF-8."""
    return not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in text)


def _refused(text: str, why: str, *, hint: str = USE) -> BadConfig:
    shown = text if _is_printable(text) else repr(text)[1:-1]
    return BadConfig(f"The store `{shown}` {why}.", hint=hint)
