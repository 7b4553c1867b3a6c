"""Hashes that files are promised to have: `SHA256SUMS`, `md5sum.txt`, `a.parquet.sha256`, and lists of addresses."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nanochat.errors import BadSource
from nanochat.sources.file_names import file_format, is_hidden

LENGTHS = {"sha256": 64, "sha512": 128, "blake2b": 128, "sha384": 96, "sha224": 56, "sha1": 40, "md5": 32}
"""Hexadecimal digits of each algorithm, the preferred first."""
SPELLINGS = {"sha2": "sha256", "sha2256": "sha256", "sha2512": "sha512", "sha2384": "sha384", "sha2224": "sha224",
             "b2": "blake2b", "blake2b512": "blake2b"}  # fmt: skip
GNU = re.compile(r"(?P<hash>[0-9A-Fa-f]{16,})[ \t]+[*?U^]?(?P<name>[^\s\0][^\0]*)")
BSD = re.compile(r"(?P<algorithm>[A-Za-z][\w/-]*) ?\((?P<name>.+)\) ?= ?(?P<hash>[0-9A-Fa-f]+)")
BARE = re.compile(r"[0-9A-Fa-f]{32,}")
IN_NAME = re.compile(r"sha-?(?:512|384|256|224|1)|md5|b2", re.I)
ESCAPES = {r"\\": "\\", r"\n": "\n", r"\r": "\r"}
HINT = "A line is `HASH  NAME`, as `sha256sum` prints it, or `SHA256 (NAME) = HASH`; correct it, or remove the file."


@dataclass(frozen=True)
class Sum:
    """What one line promises."""

    name: str
    identity: str
    """`sha256:…`, `md5:…`"""
    where: str
    """The file and line, for messages."""


def read_sums(file: Path, name: str = "") -> list[Sum]:
    """What a file of sums says. Raises `BadSource`, naming file and line, for what is not understood."""
    name = name or str(file)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSource(f"`{name}` is not a list of sums: it is not UTF-8.", hint=HINT) from error
    except OSError as error:
        raise BadSource(f"`{name}` cannot be read: {error.strerror}.", hint=HINT) from error
    found = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"`{name}`, line {number:,},"
        each = parse_sum(line, where, _algorithm_in(file.name), only_file=_sidecar_of(file.name))
        if each is None:
            raise BadSource(f"{where} is not a sum: `{line.strip()[:80]}`.", hint=HINT)
        found.append(each)
    return found


def parse_sum(line: str, where: str, algorithm: str = "", only_file: str = "") -> Sum | None:
    """What one line promises; None when it has not the form of a sum.

    `algorithm` is what the file's name says; `only_file` the file that a hash without a name is of.
    """
    line = line.strip()
    escaped = line.startswith("\\")
    line = line.removeprefix("\\")
    if match := BSD.fullmatch(line):
        said = re.sub(r"[^a-z0-9]", "", match["algorithm"].lower())
        algorithm, name = SPELLINGS.get(said, said), match["name"]
        if algorithm not in LENGTHS:
            raise BadSource(f"{where} has a hash of an unknown kind, `{match['algorithm']}`.", hint=_known())
    elif match := GNU.fullmatch(line):
        name = match["name"]
    elif only_file and (match := BARE.fullmatch(line)):
        name = only_file
    else:
        return None
    digits = match["hash"].lower() if "hash" in match.groupdict() else match[0].lower()
    algorithm = algorithm or next((each for each, length in LENGTHS.items() if length == len(digits)), "")
    if LENGTHS.get(algorithm) != len(digits):
        what = algorithm.upper() or "any known kind"
        raise BadSource(f"{where} has a hash of {len(digits)} digits, which is not one of {what}.", hint=_known())
    if escaped:
        name = re.sub(r"\\[\\nr]", lambda found: ESCAPES[found[0]], name)
    if only_file and (name == "-" or re.split(r"[/\\]", name)[-1] == only_file):
        name = only_file  # made of its bytes alone, or where it was before
    return Sum(PurePosixPath(name).as_posix() if "://" not in name else name, f"{algorithm}:{digits}", where)


def promised_hashes(sums: Iterable[Path], root: Path, paths: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The hash of each of the files `paths` of a folder, as its files of sums say, and which of them have none.

    A sum is of a file beside the file of sums, or below. Raises `BadSource` when a line is not understood, when one
    contradicts another, and when a file of data that one names is not there.
    """
    promised: dict[tuple[str, str], Sum] = {}
    listed = False
    for file in sorted(sums):
        listed = True
        for each in read_sums(file, file.relative_to(root).as_posix()):
            path = _path_of(each.name, file.parent, root)
            algorithm = each.identity.partition(":")[0]
            before = promised.setdefault((path, algorithm), each)
            if before.identity != each.identity:
                raise BadSource(
                    f"{each.where} contradicts {before.where.rstrip(',')}: both are of `{each.name}`.",
                    hint="Remove the wrong one.",
                )
            if file_format(path) and not is_hidden(path) and not (root / path).exists():
                raise BadSource(
                    f"{each.where} is of `{each.name}`, which is not there.", hint="Fetch it, or remove the line."
                )
    hashes = {
        path: promised[path, algorithm].identity
        for path in paths
        for algorithm in reversed(LENGTHS)
        if (path, algorithm) in promised
    }
    return hashes, [path for path in paths if path not in hashes] if listed else []


def _path_of(name: str, beside: Path, root: Path) -> str:
    """The path, relative to `root`, of the file that a checksum belongs to.

    The file is beside the checksum file, or where a command that ran in a folder above it, or with a full path, found
    it. For a missing file, the path is the one beside the checksum file.
    """
    top, start = root.absolute(), beside.absolute()
    for folder in (start, *start.parents):
        there = Path(os.path.normpath(folder / name))
        if there.is_relative_to(top) and os.path.lexists(there):
            return there.relative_to(top).as_posix()
    return os.path.normpath(beside.relative_to(root) / name)


def _algorithm_in(name: str) -> str:
    match = IN_NAME.search(name)
    said = match[0].lower().replace("-", "") if match else ""
    return SPELLINGS.get(said, said)


def _sidecar_of(name: str) -> str:
    """The file that `a.parquet.sha256` is of; empty for other names."""
    path = PurePosixPath(name)
    return path.stem if file_format(path.stem) else ""


def _known() -> str:
    return f"Known kinds: {', '.join(LENGTHS)}. Correct the line, or remove the file of sums."
