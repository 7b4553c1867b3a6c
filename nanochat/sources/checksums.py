"""Hashes of files, and checksum files (`SHA256SUMS`, `md5sum.txt`, `a.parquet.sha256`)."""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nanochat.errors import BadSource, DamagedTransfer
from nanochat.sources.file_names import file_format, is_hidden

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


DIGITS = {"sha256": 64, "sha512": 128, "blake2b": 128, "sha384": 96, "sha224": 56, "sha1": 40, "md5": 32}
"""Hexadecimal digits of each algorithm, the preferred first."""
SPELLINGS = {"sha2": "sha256", "sha2256": "sha256", "sha2512": "sha512", "sha2384": "sha384", "sha2224": "sha224",
             "b2": "blake2b", "blake2b512": "blake2b"}  # fmt: skip
GNU = re.compile(r"(?P<hash>[0-9A-Fa-f]{16,})[ \t]+[*?U^]?(?P<name>[^\s\0][^\0]*)")
BSD = re.compile(r"(?P<algorithm>[A-Za-z][\w/-]*) ?\((?P<name>.+)\) ?= ?(?P<hash>[0-9A-Fa-f]+)")
BARE = re.compile(r"[0-9A-Fa-f]{32,}")
ALGORITHM_IN_NAME = re.compile(r"sha-?(?:512|384|256|224|1)|md5|b2", re.I)
ESCAPES = {r"\\": "\\", r"\n": "\n", r"\r": "\r"}
HINT = "A line is `HASH  NAME`, as `sha256sum` prints it, or `SHA256 (NAME) = HASH`; correct it, or remove the file."
KNOWN = f"Known algorithms: {', '.join(DIGITS)}. Correct the line, or remove the checksum file."


@dataclass(frozen=True)
class Checksum:
    """One line of a checksum file."""

    name: str
    identity: str
    """`sha256:…`, `md5:…`"""
    where: str
    """The file and line, for messages."""


def read_checksum_file(file: Path, name: str = "") -> list[Checksum]:
    """The lines of a checksum file. Raises `BadSource`, naming file and line, for a line of another form."""
    name = name or str(file)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSource(f"`{name}` is not a list of checksums: it is not UTF-8.", hint=HINT) from error
    except OSError as error:
        raise BadSource(f"`{name}` cannot be read: {error.strerror}.", hint=HINT) from error
    found = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"`{name}`, line {number:,},"
        each = parse_checksum(line, where, _algorithm_of(file.name), only_file=_sidecar_target(file.name))
        if each is None:
            raise BadSource(f"{where} is not a checksum: `{line.strip()[:80]}`.", hint=HINT)
        found.append(each)
    return found


def parse_checksum(line: str, where: str, algorithm: str = "", only_file: str = "") -> Checksum | None:
    """The checksum in a line; None if it has another form.

    `algorithm` is the one that the name of the file contains; `only_file` is the file that a hash without a name
    belongs to. Raises `BadSource` for an unknown algorithm or a hash of the wrong length.
    """
    line = line.strip()
    escaped = line.startswith("\\")
    line = line.removeprefix("\\")
    if match := BSD.fullmatch(line):
        spelling = re.sub(r"[^a-z0-9]", "", match["algorithm"].lower())
        algorithm, name = SPELLINGS.get(spelling, spelling), match["name"]
        if algorithm not in DIGITS:
            raise BadSource(f"{where} has a hash of the unknown algorithm `{match['algorithm']}`.", hint=KNOWN)
    elif match := GNU.fullmatch(line):
        name = match["name"]
    elif only_file and (match := BARE.fullmatch(line)):
        name = only_file
    else:
        return None
    digits = match["hash"].lower() if "hash" in match.groupdict() else match[0].lower()
    algorithm = algorithm or next((each for each, length in DIGITS.items() if length == len(digits)), "")
    if DIGITS.get(algorithm) != len(digits):
        what = algorithm.upper() or "any known algorithm"
        raise BadSource(f"{where} has a hash of {len(digits)} digits, which is not one of {what}.", hint=KNOWN)
    if escaped:
        name = re.sub(r"\\[\\nr]", lambda found: ESCAPES[found[0]], name)
    if only_file and (name == "-" or re.split(r"[/\\]", name)[-1] == only_file):
        name = only_file  # made from standard input, or in another folder
    return Checksum(PurePosixPath(name).as_posix() if "://" not in name else name, f"{algorithm}:{digits}", where)


def expected_hashes(
    checksum_files: Iterable[Path], root: Path, paths: Iterable[str]
) -> tuple[dict[str, str], list[str]]:
    """The hashes of the files `paths` of the folder `root`, and the paths that no checksum file lists.

    A checksum file lists files beside it or below it. Raises `BadSource` if a line is not a checksum, if two lines
    contradict each other, or if a data file that one names is missing.
    """
    expected: dict[tuple[str, str], Checksum] = {}
    any_listed = False
    for file in sorted(checksum_files):
        any_listed = True
        for each in read_checksum_file(file, file.relative_to(root).as_posix()):
            path = _path_of(each.name, file.parent, root)
            algorithm = each.identity.partition(":")[0]
            before = expected.setdefault((path, algorithm), each)
            if before.identity != each.identity:
                raise BadSource(
                    f"{each.where} contradicts {before.where.rstrip(',')}: both have a hash of `{each.name}`.",
                    hint="Remove the wrong one.",
                )
            if file_format(path) and not is_hidden(path) and not (root / path).exists():
                raise BadSource(
                    f"{each.where} names `{each.name}`, which does not exist.", hint="Add it, or remove the line."
                )
    hashes = {
        path: expected[path, algorithm].identity
        for path in paths
        for algorithm in reversed(DIGITS)
        if (path, algorithm) in expected
    }
    return hashes, [path for path in paths if path not in hashes] if any_listed else []


def _path_of(name: str, beside: Path, root: Path) -> str:
    """The path in `root` of the file that a line of a checksum file in the folder `beside` names.

    `name` is relative to that folder or to one above it, where the command ran, or it is absolute. If no such file
    exists, it is taken as relative to `beside`.
    """
    top, start = root.absolute(), beside.absolute()
    for folder in (start, *start.parents):
        file = Path(os.path.normpath(folder / name))
        if file.is_relative_to(top) and os.path.lexists(file):
            return file.relative_to(top).as_posix()
    return os.path.normpath(beside.relative_to(root) / name)


def _algorithm_of(file_name: str) -> str:
    match = ALGORITHM_IN_NAME.search(file_name)
    spelling = match[0].lower().replace("-", "") if match else ""
    return SPELLINGS.get(spelling, spelling)


def _sidecar_target(name: str) -> str:
    """The file that `a.parquet.sha256` belongs to; empty for other names."""
    path = PurePosixPath(name)
    return path.stem if file_format(path.stem) else ""
