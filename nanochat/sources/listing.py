"""What a source has: its files, before anything is fetched."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from nanochat.config.data import DataConfig
from nanochat.errors import BadSource
from nanochat.events import silent
from nanochat.sources import hub
from nanochat.sources.checksum_files import parse_sum, promised_hashes
from nanochat.sources.file_names import SUFFIXES, TEXT_FORMATS, Choice, choose, file_format, named, names_validation
from nanochat.sources.file_signature import open_source
from nanochat.sources.hub_address import parse_hub_address
from nanochat.sources.local_files import is_local, list_local, local_path
from nanochat.sources.remote_files import fetch_url, list_url
from nanochat.sources.retry import with_retries

CREDENTIAL = re.compile(r"(?i)(token|signature|sig|credential|secret|password|api_?key)=")
BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
"""Schemes of object stores, in whose addresses an empty part is a mistake."""
LISTING_THREADS = 16
MOST_LIST_BYTES = 64 << 20
ADDRESSES_HINT = (
    "A line of a list is the address of a Parquet or JSONL file, if you like after its SHA-256 and two spaces; fetch "
    "plain text into a folder first."
)
SOURCES_HINT = (
    "`data.source` is `world`, a folder or file, `https://…`, `hf://org/name[@revision][/folder]`, "
    "`s3://bucket/prefix` or another address that fsspec knows."
)


@dataclass(frozen=True)
class Found:
    """A file of a source."""

    path: str
    """Its path inside the source, with `/`."""
    url: str
    identity: str
    """Changes when the bytes do."""


@dataclass(frozen=True)
class Listing:
    """The files of a source that may be shards."""

    files: list[Found]
    notes: tuple[str, ...] = ()
    """What of the source is not read or not checked, as sentences."""


def list_files(config: DataConfig) -> Listing:
    """The files of a source that may be shards; asks the network where the source is there.

    Raises `BadSource` when there is nothing to read, `SourceUnreachable` when the network failed several times.
    """
    source = config.source
    _check_address(source)
    if (config.subset or config.split) and not source.startswith("hf://"):
        raise BadSource(
            f"`{source}` has no subsets and splits: only `hf://…` does.", hint="Leave `data.subset` and `data.split`."
        )
    if is_local(source):
        return _list_local(local_path(source), config)
    if source.startswith(("http://", "https://")):
        return _list_http(source, config)
    if source.startswith("hf://"):
        listed = with_retries(lambda: hub.list_files(source, config.subset, config.split))
        folder = parse_hub_address(source)[2]
        if [file.path for file in listed.files] != [folder]:  # else the file itself is named
            _check_training(config, [file.path.removeprefix(f"{folder}/") for file in listed.files])
        return Listing([Found(file.path, file.url, file.identity) for file in listed.files], _notes(source, listed))
    scheme, _, path = source.partition("://")
    if scheme in BUCKETS and (not path.strip("/") or path.startswith("/") or "//" in path):
        raise BadSource(
            f"`{source}` has an empty part.", hint=f"It is `{scheme}://bucket/prefix`: is a variable in it empty?"
        )
    if scheme in BUCKETS and "?versionId=" in path:
        raise BadSource(f"`{source}` names a version, which is not read.", hint="Copy it to a key of its own.")
    files = [Found(file.path, file.url, file.identity) for file in with_retries(lambda: list_url(source))]
    if [file.url for file in files] == [source]:  # the file itself is named
        if not file_format(files[0].path):
            raise BadSource(f"`{source}` is not a file of text.", hint=f"Known formats: {SUFFIXES}.")
        return Listing(files)
    chosen = choose(files, lambda file: file.path, TEXT_FORMATS)
    if not chosen.files:
        why = f": it has {chosen.skipped}" if chosen.skipped else ""
        raise BadSource(f"`{source}` has no file of text{why}.", hint=f"Known formats: {SUFFIXES}.")
    _check_training(config, [file.path for file in chosen.files])
    return Listing(chosen.files, _notes(source, chosen))


def _check_training(config: DataConfig, paths: list[str]) -> None:
    """Raises `BadSource` where all files of a folder or list are of a validation split, and nobody chose that split."""
    if paths and not config.validation_shard and not config.split and all(map(names_validation, paths)):
        raise BadSource(
            f"`{config.source}` has nothing to train on: it has only a validation split, {named(paths)}.",
            hint="Add the training data; to train on this, rename it, or let `data.source` be the one file.",
        )


def _notes(source: str, chosen: Choice[Any], *, sums_are_checked: bool = False) -> tuple[str, ...]:
    notes = (f"Not read of `{source}`: {chosen.skipped}.",) if chosen.skipped else ()
    if any("_delta_log" in PurePosixPath(path).parts for path in chosen.skipped.files.get("hidden", [])):
        notes = (*notes, f"`{source}` is a Delta table: files that its log has removed are read too.")
    if chosen.sums and not sums_are_checked:
        notes = (*notes, f"`{source}` has sums of its files, which are checked only in a folder of this machine.")
    return notes


def _check_address(address: str) -> None:
    """Raises `BadSource` for an invalid address, and for an address with a credential.

    An address is part of a key and is written into manifests, which never contain credentials.
    """
    scheme, _, rest = address.partition("://")
    if not rest or is_local(address):
        return
    if scheme != scheme.lower():
        raise BadSource(f"`{scheme}://` is not a known kind of address.", hint=f"Write `{scheme.lower()}://`.")
    try:
        parts = urlsplit(address)
        user = scheme in ("http", "https") and parts.port != 0 and parts.username
    except ValueError as error:
        raise BadSource(f"`{address}` is not an address: {error}.", hint="Check `data.source`.") from error
    if user or parts.password or CREDENTIAL.search(parts.query):
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
        raise BadSource(
            f"The address `{shown}` carries a credential.",
            hint="S3 takes it from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, the Hub from `hf auth login`; "
            "fetch anything else into a folder first.",
        )


def _list_local(path: Path, config: DataConfig) -> Listing:
    name = path.as_posix()
    may_be_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", name)
    chosen = list_local(
        path, TEXT_FORMATS, f"For a dataset of the Hub say `hf://{name}`." if may_be_hub else SOURCES_HINT
    )
    if path.is_dir():
        _check_training(config, [each.path for each in chosen.files])
    hashes, unchecked = promised_hashes([each.file for each in chosen.sums], path, [each.path for each in chosen.files])
    found = [
        Found(each.path, each.file.absolute().as_posix(), hashes.get(each.path) or local_identity(each.file))
        for each in chosen.files
    ]
    notes = _notes(name, chosen, sums_are_checked=True)
    if unchecked:
        notes = (*notes, f"No sum in `{name}` is of {named(unchecked)}: not checked.")
    return Listing(found, notes)


def local_identity(file: Path) -> str:
    """Size and time of change: what tells that a local file is another one now."""
    status = file.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def _list_http(address: str, config: DataConfig) -> Listing:
    parts = urlsplit(address)
    if parts.fragment:
        raise BadSource(f"`{address}` has a fragment, which is not asked for.", hint="In a path `#` is written `%23`.")
    if not parts.path.lower().endswith(".txt"):
        return Listing([_http_file(address)])
    with TemporaryDirectory() as scratch:
        local = Path(scratch) / "addresses.txt"
        with_retries(lambda: fetch_url(address, local, silent))
        shards, twice = _addresses(local, address)
    if not shards:
        raise BadSource(f"`{address}` is not a list of addresses: it has none.", hint=ADDRESSES_HINT)
    # of an address, the folders above the file are of the server
    _check_training(config, [PurePosixPath(unquote(urlsplit(shard).path)).name for shard in shards])
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        files = list(pool.map(_http_file, shards, shards.values()))
    return Listing(files, (f"`{address}` has {named(twice)} twice: read once.",) if twice else ())


def _addresses(local: Path, name: str) -> tuple[dict[str, str], set[str]]:
    """The addresses in a list, each with the hash that is promised of it, or an empty text; and those there twice."""
    with open_source(local, name) as stream:
        data = stream.read(MOST_LIST_BYTES + 1)
    if len(data) > MOST_LIST_BYTES:
        raise BadSource(
            f"`{name}` is not a list of addresses: it has more than {MOST_LIST_BYTES >> 20} MB.", hint=ADDRESSES_HINT
        )
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadSource(f"`{name}` is not a list of addresses: it is not UTF-8.", hint=ADDRESSES_HINT) from error
    shards: dict[str, str] = {}
    twice: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"`{name}`, line {number:,},"
        promised = parse_sum(line, where)
        # the name of a sum is that of a file: in it these are no parts of an address
        shard = _joined(name, _quoted(promised.name) if promised else line.strip())
        if not shard:
            raise BadSource(
                f"`{name}` is not a list of addresses: line {number:,}, `{line.strip()[:80]}`, is none of a shard.",
                hint=ADDRESSES_HINT,
            )
        if shard in shards:
            twice.add(shard)
        before = shards.setdefault(shard, promised.identity if promised else "")
        if promised and before != promised.identity:
            if before:
                raise BadSource(f"{where} contradicts another sum of `{shard}`.", hint="Remove the wrong one.")
            shards[shard] = promised.identity
    return shards, twice


def _joined(base: str, address: str) -> str:
    """An address of a list, relative to that of the list; empty where it is not that of a file of text."""
    try:
        joined = urljoin(base, address)
        parts = urlsplit(joined)
    except ValueError:
        return ""
    unusable = parts.fragment or parts.scheme in ("", "file") or re.search(r"\s", joined)
    return joined if file_format(unquote(parts.path)) and not unusable else ""


def _quoted(name: str) -> str:
    return name if "://" in name else name.replace("#", "%23").replace("?", "%3F").replace(" ", "%20")


def _http_file(address: str, promised: str = "") -> Found:
    _check_address(address)
    path = unquote(urlsplit(address).path).lstrip("/")
    if not file_format(path):
        raise BadSource(
            f"`{address}` is not the address of a file of text.",
            hint=f"Known formats: {SUFFIXES}; for a dataset of the Hub say `hf://org/name`.",
        )
    if promised:
        return Found(path, address, promised)
    (file,) = with_retries(lambda: list_url(address))
    return Found(path, address, file.identity)
