"""Datasets of the Hugging Face Hub: `hf://org/name[@revision][/folder]`, with an optional subset and split.

A revision is resolved to its commit once, so that all shards have addresses of the same state. Parquet and JSONL files
are downloaded as they are. A repository without such files is streamed through `datasets`, one shard per stream shard.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.hf_api import RepoFile

from nanochat.errors import BadSource
from nanochat.events import Reporter
from nanochat.sources.file_names import LINES, file_format, is_hidden, quoted_names, split_of
from nanochat.sources.file_selection import Selection, SkippedFiles, SourceFile, select_files
from nanochat.sources.hub_address import parse_hub_address
from nanochat.sources.hub_errors import as_ours, dataset_errors, hub_errors
from nanochat.sources.json_records import check_text
from nanochat.sources.shard_writer import write_texts

STREAM = "hf-stream://"
DOWNLOADED = ((".parquet",), LINES)
"""Formats of files that are downloaded as they are, the preferred first."""
WRONG_CHOICE = re.compile(r"config|split|subset", re.I)
"""Matches messages of the `datasets` library about a missing subset or split."""
DOWNLOADED_FORMATS = (".parquet", *LINES)


def list_files(address: str, subset: str = "", split: str = "") -> Selection[SourceFile]:
    """The files of a dataset that may be shards: of one subset or split by its card, or else by their names.

    Raises `BadSource` if the dataset does not exist, access is denied or it has nothing to train on, and
    `SourceUnreachable` if the Hub does not answer.
    """
    repo, revision, folder = parse_hub_address(address)
    with hub_errors(address):
        api = HfApi()
        commit = api.dataset_info(repo, revision=revision).sha
        if not commit:
            raise BadSource(f"The Hub reports no commit for `{address}`.", hint="Is `HF_ENDPOINT` that of a Hub?")
        if file_format(folder):  # the address may name a file, for which the Hub has no tree
            entries = api.get_paths_info(repo, [folder], repo_type="dataset", revision=commit)
            if any(isinstance(entry, RepoFile) for entry in entries):
                file = SourceFile(
                    folder, f"hf://{repo}@{commit}/{folder}", _identity(cast(RepoFile, entries[0]), commit)
                )
                return Selection([file], SkippedFiles())
        tree = api.list_repo_tree(repo, folder or None, recursive=True, repo_type="dataset", revision=commit)
        identities = {entry.path: _identity(entry, commit) for entry in tree if isinstance(entry, RepoFile)}
    if subset or split:
        return Selection(_list_declared(address, repo, commit, subset, split, identities), SkippedFiles())
    chosen = select_files(identities, lambda path: path.removeprefix(f"{folder}/"), DOWNLOADED)
    if chosen.files:
        files = [SourceFile(path, f"hf://{repo}@{commit}/{path}", identities[path]) for path in chosen.files]
        return Selection(files, chosen.skipped, [SourceFile(path, "", "") for path in chosen.checksum_files])
    if any(file_format(path) in DOWNLOADED_FORMATS and not is_hidden(path) for path in identities):
        raise BadSource(
            f"`{address}` has nothing to train on: it has {chosen.skipped}.", hint="Name a split with `data.split=…`."
        )
    return Selection(_list_stream(address, repo, commit, folder), SkippedFiles())


def _identity(file: RepoFile, commit: str) -> str:
    """The SHA-256, which the Hub has for large files, or the commit."""
    return f"sha256:{file.lfs.sha256}" if file.lfs else commit


def _list_declared(
    address: str, repo: str, commit: str, subset: str, split: str, identities: Mapping[str, str]
) -> list[SourceFile]:
    """The files of a subset and its splits, by the dataset's card or its layout."""
    import datasets  # noqa: PLC0415  # takes a second, and few sources need it

    with dataset_errors(address, repo, commit), _choice_errors(address):
        declared = datasets.load_dataset_builder(repo, subset or None, revision=commit).config.data_files or {}
    splits = [split] if split else _used_splits([str(name) for name in declared], address)
    if split and split not in declared:
        raise BadSource(
            f"`{address}` has no split `{split}`; it has {', '.join(f'`{name}`' for name in declared) or 'none'}."
        )
    files: list[SourceFile] = []
    for name in splits:
        # `…@<commit>/<path>` is the only place where the library has the path of a file
        paths = [str(url).rpartition(f"@{commit}/")[2] for url in declared[name]]
        if not all(file_format(path) in DOWNLOADED_FORMATS and path in identities for path in paths):
            return _list_stream(address, repo, commit, subset, split)
        where = "" if len(splits) == 1 else f"{name}/"
        files += [SourceFile(f"{where}{path}", f"hf://{repo}@{commit}/{path}", identities[path]) for path in paths]
    return files


def fetch_file(url: str, folder: Path) -> Path:
    """Downloads a file into `folder` and returns its path."""
    repo, revision, path = parse_hub_address(url)
    with hub_errors(url):
        return Path(hf_hub_download(repo, path, repo_type="dataset", revision=revision, local_dir=folder))


def fetch_stream(url: str, text_column: str, folder: Path, progress: Reporter) -> Path:
    """Writes the texts of one shard of a stream into a Parquet file in `folder` and returns its path."""
    import datasets  # noqa: PLC0415  # takes a second, and few sources need it

    commit, where = url.removeprefix(STREAM).rsplit("@", 1)[1].split("/", 1)
    repo = url.removeprefix(STREAM).rsplit("@", 1)[0]
    config, split, index, count = where.split("/")
    with dataset_errors(url, repo, commit):
        stream = datasets.load_dataset(repo, _config(config), split=split, streaming=True, revision=commit)
        part = stream.shard(num_shards=int(count), index=int(index))
        path = folder / "streamed.parquet"
        write_texts(_texts(part, text_column, url, progress), path, text_column)
    return path


def _list_stream(address: str, repo: str, commit: str, config: str, split: str = "") -> list[SourceFile]:
    import datasets  # noqa: PLC0415  # takes a second, and few sources need it

    with dataset_errors(address, repo, commit), _choice_errors(address):
        splits = datasets.load_dataset(repo, _config(config), streaming=True, revision=commit)
    found: list[SourceFile] = []
    for name in [split] if split else _used_splits([str(name) for name in splits], address):
        count = splits[name].num_shards
        where = f"{STREAM}{repo}@{commit}/{quote(config, safe='') or 'default'}/{name}"
        found += [SourceFile(f"{name}-{i:05d}", f"{where}/{i}/{count}", commit) for i in range(count)]
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
        yield check_text(text, f"Row {number:,} of `{name}`") if text else text


def _used_splits(splits: list[str], address: str) -> list[str]:
    """The splits that are not for tests. Raises `BadSource` if there is none."""
    if used := [split for split in splits if split_of(split) != "test"]:
        return used
    raise BadSource(
        f"`{address}` has no split to train on: it has {quoted_names(splits)}.", hint="Name one with `data.split=…`."
    )


@contextmanager
def _choice_errors(address: str) -> Iterator[None]:
    """Raises `BadSource` if a subset or split is missing, or has to be named."""
    try:
        yield
    except ValueError as error:
        if not WRONG_CHOICE.search(str(error)):
            raise
        if ours := as_ours(error, address):
            raise ours from error
        lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
        raise BadSource(
            f"`{address}`: {'; '.join(lines[:2])}.", hint="Name one with `data.subset=…`, or unset `data.split` too."
        ) from error
