"""Hashes of files: `sha256:…`, `md5:…` and so on, in hexadecimal."""

import hashlib
import re
from pathlib import Path

from nanochat.errors import DamagedTransfer

HASH = re.compile(
    r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}|sha1:[0-9a-f]{40}|sha224:[0-9a-f]{56}|sha384:[0-9a-f]{96}"
    r"|(?:sha512|blake2b):[0-9a-f]{128}"
)


def is_hash(identity: str) -> bool:
    """Whether an identity is a hash of the bytes, and not an ETag, or size and time."""
    return HASH.fullmatch(identity) is not None


def has_hash(file: Path, expected: str) -> bool:
    """Whether a file has the hash `expected`."""
    algorithm, _, wanted = expected.partition(":")
    return _hash(file, algorithm) == wanted


def check_hash(file: Path, expected: str, name: str) -> None:
    """Raises `DamagedTransfer`, which calls the file `name`, unless it has the hash `expected`."""
    algorithm, _, wanted = expected.partition(":")
    if (found := _hash(file, algorithm)) != wanted:
        raise DamagedTransfer(
            f"{name} is damaged: its {algorithm.upper()} is {found[:12]}… instead of {wanted[:12]}….",
            hint="Fetch it again; if that does not help, the source itself is damaged.",
        )


def _hash(file: Path, algorithm: str) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, algorithm).hexdigest()
