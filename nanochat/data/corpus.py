"""Where raw text comes from, and what of it is held out.

`list_shards` turns a `DataConfig` into one `ShardConfig` a shard, before anything is fetched; `write_shard` makes the
payload of one: `train.parquet` and `validation.parquet`, a column `text`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from nanochat.config import DataConfig, ShardConfig
from nanochat.data import hub
from nanochat.data.documents import FORMATS, file_format, stem
from nanochat.data.raw import Documents, file_documents, split_documents, world_documents
from nanochat.data.retry import patiently
from nanochat.errors import BadSource
from nanochat.progress import Progress, silent
from nanochat.store.sources import fetch_url, list_url

VALIDATION_NAME = re.compile(r"validation|val(id)?(?![a-z])")
"""What the file or folder of a held-out shard is called, at its beginning."""
CREDENTIAL = re.compile(r"(?i)(token|signature|sig|credential|secret|password|api_?key)=")
FORMAT_ORDER = ((".parquet",), (".jsonl", ".ndjson"), (".txt",))
LISTING_THREADS = 16
SOURCES_HINT = (
    "`data.source` is `world`, a folder or file, `https://…`, `hf://org/name[@revision][/folder]` or "
    "`s3://bucket/prefix`."
)


@dataclass(frozen=True)
class Found:
    """A file of a source."""

    path: str
    """Its path inside the source, with `/`."""
    url: str
    identity: str


def list_shards(config: DataConfig) -> tuple[ShardConfig, ...]:
    """The shards of a source in order of name, each marked with what of it is held out.

    Raises `BadSource` when there is nothing to read or the validation shard is missing, `SourceUnreachable` when the
    network failed several times.
    """
    if config.source == "world":
        # how many shards there are says nothing about one of them, and must not be in its key
        world = config.world.model_copy(update={"shards": 1})
        names = [f"world_{index:05d}" for index in range(config.world.shards)]
        shards = [ShardConfig(name=name, url=f"world:{i}", identity="", world=world) for i, name in enumerate(names)]
    else:
        found = _list(config.source)
        shards = [
            ShardConfig(name=name, url=file.url, identity=file.identity, text_column=config.text_column)
            for name, file in zip(shard_names([file.path for file in found]), found, strict=True)
        ]
        if not shards:
            raise BadSource(
                f"`{config.source}` has no text: no file ends in {', '.join(FORMATS)}.",
                hint=SOURCES_HINT,
            )
    return hold_out(sorted(shards, key=lambda shard: shard.name), config)


def shard_names(paths: Sequence[str]) -> list[str]:
    """A unique name a path: without its format and the folders that all have; the format stays where names collide."""
    folders = {PurePosixPath(path).parent.as_posix() for path in paths}
    common = os.path.commonpath(folders) if folders else ""
    relative = [PurePosixPath(path).relative_to(common).as_posix() for path in paths]
    stems = [stem(path) for path in relative]
    count = Counter(stems)
    return [name if count[name] == 1 else path for name, path in zip(stems, relative, strict=True)]


def hold_out(shards: Sequence[ShardConfig], config: DataConfig) -> tuple[ShardConfig, ...]:
    """Marks the validation shards, and keeps as many training shards as asked for; order of `shards` stays."""
    held = _validation_names(shards, config)
    train = [shard for shard in shards if shard.name not in held]
    if not train:
        raise BadSource(
            f"`{config.source}` has no training shard: {_listed(held)} would be held out whole.",
            hint="Add shards, or let a sample be held out: give it another name.",
        )
    train = train[: config.train_shards or len(train)]
    if not held:
        sample = {"validation": "sample", "validation_documents": config.validation_documents}
        train[0] = train[0].model_copy(update=sample)
    whole = [shard.model_copy(update={"validation": "all"}) for shard in shards if shard.name in held]
    return tuple(sorted([*train, *whole], key=lambda shard: shard.name))


def _validation_names(shards: Sequence[ShardConfig], config: DataConfig) -> set[str]:
    wanted = config.validation_shard
    if not wanted:
        # several, when the split has several files: none of them may be trained on
        parts = {shard.name: shard.name.lower().split("/") for shard in shards}
        return {name for name in parts if any(VALIDATION_NAME.match(part) for part in parts[name])}
    for shard in shards:
        if shard.name in (wanted, stem(wanted)):
            return {shard.name}
    raise BadSource(
        f"`{config.source}` has no shard `{wanted}` to hold out; it has {_listed(shard.name for shard in shards)}.",
        hint="Name one of them with `data.validation_shard=…`, or leave it empty.",
    )


def _listed(names: Iterable[str], limit: int = 5) -> str:
    first = sorted(names)
    listed = ", ".join(f"`{name}`" for name in first[:limit])
    return f"{listed} and {len(first) - limit} more" if len(first) > limit else listed


# --- listing ----------------------------------------------------------------------------------------------------------


def _list(source: str) -> list[Found]:
    _refuse_credentials(source)
    scheme = urlsplit(source).scheme if "://" in source else ""
    match scheme:
        case "" | "file":
            return _list_local(Path(unquote(urlsplit(source).path)) if scheme else Path(source).expanduser())
        case "http" | "https":
            return _list_http(source)
        case "s3":
            files = patiently(lambda: list_url(source))
            return _one_format([Found(urlsplit(file.url).path.lstrip("/"), file.url, file.identity) for file in files])
        case "hf":
            files = [Found(file.path, file.url, file.identity) for file in patiently(lambda: hub.list_files(source))]
            return _one_format(files) or files  # streamed shards are no files
        case _:
            raise BadSource(f"`{source}`: sources of the kind `{scheme}://` are unknown.", hint=SOURCES_HINT)


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
    found = _one_format([_local_file(file, path) for file in files])
    if not found:
        raise BadSource(f"The folder `{path}` has no file of text ({', '.join(FORMATS)}).", hint=SOURCES_HINT)
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _local_file(file: Path, root: Path) -> Found:
    return Found(file.relative_to(root).as_posix(), file.absolute().as_posix(), local_identity(file))


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
    addresses = [urljoin(address, line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    for shard in addresses:
        if not file_format(urlsplit(shard).path) or " " in shard:
            raise BadSource(
                f"`{address}` is not a list of addresses: `{shard[:80]}` is none of a shard.",
                hint="Put the address of a Parquet or JSONL file on each line; fetch plain text into a folder first.",
            )
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        return list(pool.map(_http_file, addresses))


def _http_file(address: str) -> Found:
    _refuse_credentials(address)
    path = unquote(urlsplit(address).path).lstrip("/")
    if not file_format(path):
        raise BadSource(
            f"`{address}` is not the address of a file of text.",
            hint=f"It must end in {', '.join(FORMATS)}; for a dataset of the Hub say `hf://org/name`.",
        )
    (file,) = patiently(lambda: list_url(address))
    return Found(path, address, file.identity)


# --- one shard --------------------------------------------------------------------------------------------------------


def write_shard(shard: ShardConfig, out: Path, progress: Progress = silent) -> dict[str, Any]:
    """Fetches, checks and splits one shard: `train.parquet` and `validation.parquet` in `out`, if they have documents.

    Returns the counts of both. Raises `BadSource`, or `SourceUnreachable` when the network failed several times.
    """
    with TemporaryDirectory(dir=out.parent, prefix="fetched-") as scratch:
        documents = _open(shard, Path(scratch), progress)
        return split_documents(shard, documents, out, progress)


def _open(shard: ShardConfig, scratch: Path, progress: Progress) -> Documents:
    if shard.url.startswith("world:"):
        assert shard.world is not None
        return world_documents(shard.world, int(shard.url.removeprefix("world:")))
    if "://" not in shard.url:
        file = Path(shard.url)
        if not file.exists():
            raise BadSource(f"`{file}` is gone.", hint="Put it back, or start the run again.")
        if local_identity(file) != shard.identity:
            raise BadSource(f"`{file}` changed since the run began.", hint="Start the run again.")
        return file_documents(file, shard.text_column, shard.url)
    return file_documents(patiently(lambda: _fetch(shard, scratch, progress)), shard.text_column, shard.url)


def _fetch(shard: ShardConfig, scratch: Path, progress: Progress) -> Path:
    if shard.url.startswith(hub.STREAM):
        return hub.fetch_stream(shard.url, shard.text_column, scratch, progress)
    if shard.url.startswith("hf://"):
        return hub.fetch_file(shard.url, scratch)
    local = scratch / PurePosixPath(unquote(urlsplit(shard.url).path)).name
    fetch_url(shard.url, local, progress)
    return local
