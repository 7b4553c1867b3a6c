"""Lists the files of a source, before anything is downloaded."""

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
from nanochat.sources.checksums import expected_hashes, parse_checksum
from nanochat.sources.file_contents import open_text
from nanochat.sources.file_names import SUFFIXES, TEXT_FORMATS, file_format, names_validation, quoted_names
from nanochat.sources.file_selection import Selection, SourceFile, select_files
from nanochat.sources.hub_address import parse_hub_address
from nanochat.sources.local_files import is_local, list_local, local_path
from nanochat.sources.remote_files import fetch_url, list_url
from nanochat.sources.retry import with_retries

CREDENTIAL = re.compile(r"(?i)(token|signature|sig|credential|secret|password|api_?key)=")
BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
"""Schemes of object stores: an empty part of such an address is a mistake."""
LISTING_THREADS = 16
MAX_LIST_BYTES = 64 << 20
ADDRESSES_HINT = (
    "A line of a list is the address of a Parquet or JSONL file, optionally after its SHA-256 and two spaces; download "
    "plain text into a folder."
)
SOURCES_HINT = (
    "`data.source` is `world`, a folder or file, `https://…`, `hf://org/name[@revision][/folder]`, "
    "`s3://bucket/prefix` or another address that fsspec supports."
)


@dataclass(frozen=True)
class Listing:
    """The files of a source that may be shards."""

    files: list[SourceFile]
    notes: tuple[str, ...] = ()
    """What is not read or not checked, as sentences."""


def list_files(config: DataConfig) -> Listing:
    """The files of a source that may be shards; a remote source is listed over the network.

    Raises `BadSource` if there is nothing to read, `SourceUnreachable` if the network failed several times.
    """
    source = config.source
    _check_address(source)
    if (config.subset or config.split) and not source.startswith("hf://"):
        raise BadSource(
            f"`{source}` has no subsets and splits: only `hf://…` does.", hint="Unset `data.subset` and `data.split`."
        )
    if is_local(source):
        return _list_local(local_path(source), config)
    if source.startswith(("http://", "https://")):
        return _list_http(source, config)
    if source.startswith("hf://"):
        listed = with_retries(lambda: hub.list_files(source, config.subset, config.split))
        folder = parse_hub_address(source)[2]
        if [file.path for file in listed.files] != [folder]:  # else the address is that of the file
            _check_training(config, [file.path.removeprefix(f"{folder}/") for file in listed.files])
        return Listing(listed.files, _notes(source, listed))
    scheme, _, path = source.partition("://")
    if scheme in BUCKETS and (not path.strip("/") or path.startswith("/") or "//" in path):
        raise BadSource(
            f"`{source}` has an empty part.", hint=f"It is `{scheme}://bucket/prefix`: is a variable in it empty?"
        )
    if scheme in BUCKETS and "?versionId=" in path:
        raise BadSource(f"`{source}` names a version, which is not supported.", hint="Copy it to another key.")
    files = with_retries(lambda: list_url(source))
    if [file.url for file in files] == [source]:  # the address is that of a file
        if not file_format(files[0].path):
            raise BadSource(f"`{source}` is not a text file.", hint=f"Known formats: {SUFFIXES}.")
        return Listing(files)
    chosen = select_files(files, lambda file: file.path, TEXT_FORMATS)
    if not chosen.files:
        why = f": it has {chosen.skipped}" if chosen.skipped else ""
        raise BadSource(f"`{source}` has no text file{why}.", hint=f"Known formats: {SUFFIXES}.")
    _check_training(config, [file.path for file in chosen.files])
    return Listing(chosen.files, _notes(source, chosen))


def _check_training(config: DataConfig, paths: list[str]) -> None:
    """Raises `BadSource` if all files belong to a validation split which the config does not name."""
    if paths and not config.validation_shard and not config.split and all(map(names_validation, paths)):
        raise BadSource(
            f"`{config.source}` has nothing to train on: it has only a validation split, {quoted_names(paths)}.",
            hint="Add training data; to train on these files, rename them, or set `data.source` to the one file.",
        )


def _notes(source: str, chosen: Selection[Any], *, checksums_are_verified: bool = False) -> tuple[str, ...]:
    notes = (f"Not read of `{source}`: {chosen.skipped}.",) if chosen.skipped else ()
    if any("_delta_log" in PurePosixPath(path).parts for path in chosen.skipped.files.get("hidden", [])):
        notes = (*notes, f"`{source}` is a Delta table: files that its log has removed are read too.")
    if chosen.checksum_files and not checksums_are_verified:
        notes = (*notes, f"`{source}` has checksum files, which are used only in a folder of this machine.")
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
            f"The address `{shown}` contains a credential.",
            hint="S3 reads it from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, the Hub from `hf auth login`; "
            "download anything else into a folder.",
        )


def _list_local(path: Path, config: DataConfig) -> Listing:
    name = path.as_posix()
    may_be_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", name)
    chosen = list_local(
        path, TEXT_FORMATS, f"For a dataset of the Hub write `hf://{name}`." if may_be_hub else SOURCES_HINT
    )
    if path.is_dir():
        _check_training(config, [each.path for each in chosen.files])
    hashes, unchecked = expected_hashes(
        [each.file for each in chosen.checksum_files], path, [each.path for each in chosen.files]
    )
    found = [
        SourceFile(each.path, each.file.absolute().as_posix(), hashes.get(each.path) or local_identity(each.file))
        for each in chosen.files
    ]
    notes = _notes(name, chosen, checksums_are_verified=True)
    if unchecked:
        notes = (*notes, f"No checksum in `{name}` lists {quoted_names(unchecked)}: not checked.")
    return Listing(found, notes)


def local_identity(file: Path) -> str:
    """Size and modification time of a local file, by which a changed file is detected."""
    status = file.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def _list_http(address: str, config: DataConfig) -> Listing:
    parts = urlsplit(address)
    if parts.fragment:
        raise BadSource(f"`{address}` has a fragment, which is not supported.", hint="In a path, write `#` as `%23`.")
    if not parts.path.lower().endswith(".txt"):
        return Listing([_http_file(address)])
    with TemporaryDirectory() as scratch:
        local = Path(scratch) / "addresses.txt"
        with_retries(lambda: fetch_url(address, local, silent))
        shards, duplicates = _addresses(local, address)
    if not shards:
        raise BadSource(f"`{address}` is not a list of addresses: it has none.", hint=ADDRESSES_HINT)
    # the folders of an address belong to the server: only the file's name counts
    _check_training(config, [PurePosixPath(unquote(urlsplit(shard).path)).name for shard in shards])
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        files = list(pool.map(_http_file, shards, shards.values()))
    return Listing(files, (f"`{address}` lists {quoted_names(duplicates)} twice: read once.",) if duplicates else ())


def _addresses(local: Path, name: str) -> tuple[dict[str, str], set[str]]:
    """The addresses in a list, each with its expected hash or an empty string, and the addresses listed twice."""
    with open_text(local, name) as stream:
        data = stream.read(MAX_LIST_BYTES + 1)
    if len(data) > MAX_LIST_BYTES:
        raise BadSource(
            f"`{name}` is not a list of addresses: it has more than {MAX_LIST_BYTES >> 20} MB.", hint=ADDRESSES_HINT
        )
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadSource(f"`{name}` is not a list of addresses: it is not UTF-8.", hint=ADDRESSES_HINT) from error
    shards: dict[str, str] = {}
    duplicates: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"`{name}`, line {number:,},"
        checksum = parse_checksum(line, where)
        # beside a checksum is a file name, in which `#` and `?` are ordinary characters
        shard = _join(name, _quote(checksum.name) if checksum else line.strip())
        if not shard:
            raise BadSource(
                f"`{name}` is not a list of addresses: line {number:,}, `{line.strip()[:80]}`, does not name a shard.",
                hint=ADDRESSES_HINT,
            )
        if shard in shards:
            duplicates.add(shard)
        before = shards.setdefault(shard, checksum.identity if checksum else "")
        if checksum and before != checksum.identity:
            if before:
                raise BadSource(f"{where} contradicts another checksum of `{shard}`.", hint="Remove the wrong one.")
            shards[shard] = checksum.identity
    return shards, duplicates


def _join(base: str, address: str) -> str:
    """An address in a list, made absolute; empty if it is not the address of a text file."""
    try:
        joined = urljoin(base, address)
        parts = urlsplit(joined)
    except ValueError:
        return ""
    unusable = parts.fragment or parts.scheme in ("", "file") or re.search(r"\s", joined)
    return joined if file_format(unquote(parts.path)) and not unusable else ""


def _quote(name: str) -> str:
    return name if "://" in name else name.replace("#", "%23").replace("?", "%3F").replace(" ", "%20")


def _http_file(address: str, expected_hash: str = "") -> SourceFile:
    _check_address(address)
    path = unquote(urlsplit(address).path).lstrip("/")
    if not file_format(path):
        raise BadSource(
            f"`{address}` is not the address of a text file.",
            hint=f"Known formats: {SUFFIXES}; for a dataset of the Hub write `hf://org/name`.",
        )
    if expected_hash:
        return SourceFile(path, address, expected_hash)
    (file,) = with_retries(lambda: list_url(address))
    return SourceFile(path, address, file.identity)
