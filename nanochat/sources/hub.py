"""Datasets of the Hugging Face Hub: `hf://org/name[@revision][/folder]`, of which a subset and a split may be chosen.

A revision is resolved to its commit once, so that the addresses of all shards are of one state. Parquet and JSONL files
are fetched as they are; a repository that has none of them is streamed through `datasets`, a shard of its stream each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.hf_api import RepoFile

from nanochat.errors import BadSource
from nanochat.events import Reporter
from nanochat.sources.file_names import LINES, Choice, Skipped, choose, file_format, is_hidden, named, split_of
from nanochat.sources.hub_address import parse_hub_address
from nanochat.sources.hub_errors import as_ours, dataset_errors, hub_errors
from nanochat.sources.json_records import text_of
from nanochat.sources.shard_writer import write_texts

STREAM = "hf-stream://"
FETCHED = ((".parquet",), LINES)
"""Formats of files that are fetched as they are, the preferred first."""
CHOICE = re.compile(r"config|split|subset", re.I)
"""In what the `datasets` library says of a subset or split that is not there."""
FETCHED_FORMATS = (".parquet", *LINES)


@dataclass(frozen=True)
class HubFile:
    """A file, or a shard of a stream."""

    path: str
    url: str
    identity: str


def list_files(address: str, subset: str = "", split: str = "") -> Choice[HubFile]:
    """The files of a dataset that may be shards: of one subset or split, as its card says, or by their names.

    Raises `BadSource` when the dataset is not there, not ours to read, or has nothing to train on, `SourceUnreachable`
    when the Hub does not answer.
    """
    repo, revision, folder = parse_hub_address(address)
    with hub_errors(address):
        api = HfApi()
        commit = api.dataset_info(repo, revision=revision).sha
        if not commit:
            raise BadSource(f"The Hub says no commit of `{address}`.", hint="Is `HF_ENDPOINT` that of a Hub?")
        if file_format(folder):  # may be the file itself, of which the Hub has no tree
            entries = api.get_paths_info(repo, [folder], repo_type="dataset", revision=commit)
            if any(isinstance(entry, RepoFile) for entry in entries):
                file = HubFile(folder, f"hf://{repo}@{commit}/{folder}", _identity(cast(RepoFile, entries[0]), commit))
                return Choice([file], Skipped())
        tree = api.list_repo_tree(repo, folder or None, recursive=True, repo_type="dataset", revision=commit)
        there = {entry.path: _identity(entry, commit) for entry in tree if isinstance(entry, RepoFile)}
    if subset or split:
        return Choice(_list_declared(address, repo, commit, subset, split, there), Skipped())
    chosen = choose(there, lambda path: path.removeprefix(f"{folder}/"), FETCHED)
    if chosen.files:
        files = [HubFile(path, f"hf://{repo}@{commit}/{path}", there[path]) for path in chosen.files]
        return Choice(files, chosen.skipped, [HubFile(path, "", "") for path in chosen.sums])
    if any(file_format(path) in FETCHED_FORMATS and not is_hidden(path) for path in there):
        raise BadSource(
            f"`{address}` has nothing to train on: it has {chosen.skipped}.", hint="Name a split with `data.split=…`."
        )
    return Choice(_list_stream(address, repo, commit, folder), Skipped())


def _identity(file: RepoFile, commit: str) -> str:
    """Of a large file the Hub tells the SHA-256."""
    return f"sha256:{file.lfs.sha256}" if file.lfs else commit


def _list_declared(
    address: str, repo: str, commit: str, subset: str, split: str, there: Mapping[str, str]
) -> list[HubFile]:
    """The files that the dataset's card, or its layout, gives to a subset and its splits."""
    import datasets  # noqa: PLC0415  # a second, only for those who need it

    with dataset_errors(address, repo, commit), _choices(address):
        declared = datasets.load_dataset_builder(repo, subset or None, revision=commit).config.data_files or {}
    splits = [split] if split else _used_splits([str(name) for name in declared], address)
    if split and split not in declared:
        raise BadSource(
            f"`{address}` has no split `{split}`; it has {', '.join(f'`{name}`' for name in declared) or 'none'}."
        )
    files: list[HubFile] = []
    for name in splits:
        # `…@<commit>/<path>`: the only place where the library says which file it would read
        paths = [str(url).rpartition(f"@{commit}/")[2] for url in declared[name]]
        if not all(file_format(path) in FETCHED_FORMATS and path in there for path in paths):
            return _list_stream(address, repo, commit, subset, split)
        where = "" if len(splits) == 1 else f"{name}/"
        files += [HubFile(f"{where}{path}", f"hf://{repo}@{commit}/{path}", there[path]) for path in paths]
    return files


def fetch_file(url: str, folder: Path) -> Path:
    """Downloads a file into `folder` and returns its path there."""
    repo, revision, path = parse_hub_address(url)
    with hub_errors(url):
        return Path(hf_hub_download(repo, path, repo_type="dataset", revision=revision, local_dir=folder))


def fetch_stream(url: str, text_column: str, folder: Path, progress: Reporter) -> Path:
    """Writes the texts of one shard of a stream into a Parquet file in `folder` and returns its path."""
    import datasets  # noqa: PLC0415  # a second, only for those who need it

    commit, where = url.removeprefix(STREAM).rsplit("@", 1)[1].split("/", 1)
    repo = url.removeprefix(STREAM).rsplit("@", 1)[0]
    config, split, index, count = where.split("/")
    with dataset_errors(url, repo, commit):
        stream = datasets.load_dataset(repo, _config(config), split=split, streaming=True, revision=commit)
        part = stream.shard(num_shards=int(count), index=int(index))
        path = folder / "streamed.parquet"
        write_texts(_texts(part, text_column, url, progress), path, text_column)
    return path


def _list_stream(address: str, repo: str, commit: str, config: str, split: str = "") -> list[HubFile]:
    import datasets  # noqa: PLC0415  # a second, only for those who need it

    with dataset_errors(address, repo, commit), _choices(address):
        splits = datasets.load_dataset(repo, _config(config), streaming=True, revision=commit)
    found: list[HubFile] = []
    for name in [split] if split else _used_splits([str(name) for name in splits], address):
        count = splits[name].num_shards
        where = f"{STREAM}{repo}@{commit}/{quote(config, safe='') or 'default'}/{name}"
        found += [HubFile(f"{name}-{i:05d}", f"{where}/{i}/{count}", commit) for i in range(count)]
    return found


def _config(config: str) -> str | None:
    return None if config in ("", "default") else unquote(config)


def _texts(
    records: Iterable[Mapping[str, Any]], text_column: str, name: str, progress: Reporter
) -> Iterator[str | None]:
    for number, record in enumerate(records, 1):
        text = record.get(text_column)
        if not ((text is None and text_column in record) or isinstance(text, str)):
            what = "is not text" if text_column in record else "is missing"
            raise BadSource(
                f"The column `{text_column}` of `{name}` {what}; there are {', '.join(f'`{key}`' for key in record)}.",
                hint="Name the one that holds the text with `data.text_column=…`.",
            )
        if number % 1000 == 0:
            progress(number, 0, "documents", "fetching")
        yield text_of(text, f"Row {number:,} of `{name}`") if text else text


def _used_splits(splits: list[str], address: str) -> list[str]:
    """Without those that are for tests."""
    if used := [split for split in splits if split_of(split) != "test"]:
        return used
    raise BadSource(
        f"`{address}` has no split to train on: it has {named(splits)}.", hint="Name one with `data.split=…`."
    )


@contextmanager
def _choices(address: str) -> Iterator[None]:
    """What the library says to a subset that is not there, or has to be chosen."""
    try:
        yield
    except ValueError as error:
        if not CHOICE.search(str(error)):
            raise
        if ours := as_ours(error, address):
            raise ours from error
        said = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
        raise BadSource(
            f"`{address}`: {'; '.join(said[:2])}.", hint="Name one with `data.subset=…`, or leave `data.split` too."
        ) from error
