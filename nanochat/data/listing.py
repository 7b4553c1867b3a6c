"""What a source has: its files, before anything is fetched."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urljoin, urlsplit

from nanochat.config import DataConfig
from nanochat.data import hub
from nanochat.data.documents import FORMATS, file_format
from nanochat.sources.retry import patiently
from nanochat.errors import BadSource
from nanochat.progress import silent
from nanochat.store.sources import fetch_url, list_url

CREDENTIAL = re.compile(r"(?i)(token|signature|sig|credential|secret|password|api_?key)=")
FORMAT_ORDER = ((".parquet",), (".jsonl", ".ndjson"), (".txt",))
LISTING_THREADS = 16
SHA256SUMS = "SHA256SUMS"
"""A file of a folder, or a list of addresses, in the form of `sha256sum`: what its files must be."""
SUM = re.compile(r"(?P<sha256>[0-9a-f]{64}) [ *](?P<name>.+)")
NO_SUMS: Mapping[str, str] = {}
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


def is_local(source: str) -> bool:
    """Whether a source is a folder or file of this machine."""
    return "://" not in source or urlsplit(source).scheme == "file"


def local_path(source: str) -> Path:
    """Where a local source is."""
    return Path(unquote(urlsplit(source).path)) if "://" in source else Path(source).expanduser()


def list_files(config: DataConfig) -> list[Found]:
    """The files of a source that may be shards; asks the network where the source is there.

    Raises `BadSource` when there is nothing to read, `SourceUnreachable` when the network failed several times.
    """
    source = config.source
    _refuse_credentials(source)
    if (config.subset or config.split) and not source.startswith("hf://"):
        raise BadSource(
            f"`{source}` has no subsets and splits: only `hf://…` does.", hint="Leave `data.subset` and `data.split`."
        )
    if is_local(source):
        return _list_local(local_path(source))
    if source.startswith(("http://", "https://")):
        return _list_http(source)
    if source.startswith("hf://"):
        listed = patiently(lambda: hub.list_files(source, config.subset, config.split))
        files = [Found(file.path, file.url, file.identity) for file in listed]
        return _one_format(files) or files  # streamed shards are no files
    files = patiently(lambda: list_url(source))
    return _one_format([Found(file.path, file.url, file.identity) for file in files])


def _refuse_credentials(address: str) -> None:
    """An address is part of a key and is written into manifests, which never carry a credential."""
    parts = urlsplit(address)
    if "://" in address and (parts.password or CREDENTIAL.search(parts.query)):
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
        raise BadSource(
            f"The address `{shown}` carries a credential.",
            hint="S3 takes it from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, the Hub from `hf auth login`; "
            "fetch anything else into a folder first.",
        )


def _list_local(path: Path) -> list[Found]:
    if path.is_file():
        if not file_format(path.name):
            raise BadSource(f"`{path}` is not a file of text.", hint=f"We read {', '.join(FORMATS)}.")
        return [_local_file(path, path.parent)]
    if not path.is_dir():
        name = path.as_posix()
        hint = (
            f"For a dataset of the Hub say `hf://{name}`." if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else SOURCES_HINT
        )
        raise BadSource(f"There is no file or folder `{path}`.", hint=hint)
    files = [file for file in path.rglob("*") if file.is_file() and not _hidden(file.relative_to(path))]
    sums = _sums((path / SHA256SUMS).read_text()) if (path / SHA256SUMS).is_file() else {}
    found = _one_format([_local_file(file, path, sums) for file in files])
    if not found:
        raise BadSource(f"The folder `{path}` has no file of text ({', '.join(FORMATS)}).", hint=SOURCES_HINT)
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _local_file(file: Path, root: Path, sums: Mapping[str, str] = NO_SUMS) -> Found:
    inside = file.relative_to(root).as_posix()
    return Found(inside, file.absolute().as_posix(), sums.get(inside) or local_identity(file))


def _sums(text: str) -> dict[str, str]:
    """Name → `sha256:…`, of lines as `sha256sum` prints them."""
    matches = (SUM.fullmatch(line) for line in text.splitlines())
    return {match["name"].removeprefix("./"): f"sha256:{match['sha256']}" for match in matches if match}


def local_identity(file: Path) -> str:
    """Size and time of change: what tells that a local file is another one now."""
    status = file.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def _one_format(files: Sequence[Found]) -> list[Found]:
    """Of a folder, its Parquet files; if it has none, its JSON lines; if none, its text.

    Beside the data often lies the same data in another format, or a `LICENSE.txt`.
    """
    for formats in FORMAT_ORDER:
        if chosen := [file for file in files if file_format(file.path) in formats]:
            return chosen
    return []


def _list_http(address: str) -> list[Found]:
    if not urlsplit(address).path.lower().endswith(".txt"):
        return [_http_file(address)]
    with TemporaryDirectory() as scratch:
        local = Path(scratch) / "addresses.txt"
        patiently(lambda: fetch_url(address, local, silent))
        try:
            lines = local.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise BadSource(f"`{address}` is not a list of addresses: it is not UTF-8.") from error
    shards: dict[str, str] = {}
    for line in (line.strip() for line in lines):
        if not line or line.startswith("#"):
            continue
        promised = SUM.fullmatch(line)
        shard = urljoin(address, promised["name"] if promised else line)
        if not file_format(urlsplit(shard).path) or " " in shard:
            raise BadSource(
                f"`{address}` is not a list of addresses: `{line[:80]}` is none of a shard.",
                hint="Put the address of a Parquet or JSONL file on each line, if you like after its SHA-256 and two "
                "spaces; fetch plain text into a folder first.",
            )
        shards[shard] = f"sha256:{promised['sha256']}" if promised else ""
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        return list(pool.map(_http_file, shards, shards.values()))


def _http_file(address: str, promised: str = "") -> Found:
    _refuse_credentials(address)
    path = unquote(urlsplit(address).path).lstrip("/")
    if not file_format(path):
        raise BadSource(
            f"`{address}` is not the address of a file of text.",
            hint=f"It must end in {', '.join(FORMATS)}; for a dataset of the Hub say `hf://org/name`.",
        )
    if promised:
        return Found(path, address, promised)
    (file,) = patiently(lambda: list_url(address))
    return Found(path, address, file.identity)
