"""Where raw text comes from, and what of it is held out.

`list_shards` turns a `DataConfig` into one `ShardConfig` a shard, before anything is fetched; `write_shard` makes the
payload of one: `train.parquet` and `validation.parquet`, a column `text`.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from nanochat import settings
from nanochat.config.data import DataConfig, ShardConfig
from nanochat.errors import BadSource, DamagedTransfer
from nanochat.events import Reporter, silent
from nanochat.sources import hub
from nanochat.sources.file_names import SUFFIXES, named, names_validation, stem
from nanochat.sources.http_files import check_hash, is_hash
from nanochat.sources.listing import SOURCES_HINT, Found, list_files, local_identity
from nanochat.sources.local_files import check_regular, is_local
from nanochat.sources.remote_files import fetch_url, is_web
from nanochat.sources.retry import with_retries
from nanochat.sources.shard_writer import Documents, file_documents, split_documents, world_documents
from nanochat.sources.small_files import are_tiny, first_to_sample, gather, too_small_for_a_sample
from nanochat.sources.snapshots import SourceSnapshot, read_snapshot, update_snapshot
from nanochat.store.store import Store

LOG = logging.getLogger("nanochat.sources")
ABANDONED_S = 7 * 24 * 3600
"""Age at which what was fetched of a shard, and never finished, is given up."""


def list_shards(config: DataConfig, store: Store | None = None, *, keep: bool = True) -> tuple[ShardConfig, ...]:
    """The shards of a source in order of name, each marked with what of it is held out.

    What the store has pinned of the source counts: of which shard the validation sample is, and the files that
    `fetch_listing` found, in which case nobody is asked. The first run pins its sample, if it may `keep` it.

    Raises `BadSource` when there is nothing to read or the validation shard is missing, `SourceUnreachable` when the
    network failed several times.
    """
    if config.source == "world":
        # how many shards there are says nothing about one of them, and must not be in its key
        world = config.world.model_copy(update={"shards": 1})
        names = [f"world_{index:05d}" for index in range(config.world.shards)]
        shards = [ShardConfig(name=name, url=f"world:{i}", identity="", world=world) for i, name in enumerate(names)]
        return hold_out(shards, config)
    snapshot = read_snapshot(store, config) if store else SourceSnapshot(source=config.source)
    if snapshot.files is None:
        listing = list_files(config)
        if keep:
            for note in listing.notes:
                LOG.warning(note)
        shards = _as_shards(listing.files, config)
    else:
        shards = _as_shards(snapshot.files, config)
    marked, drawn = _split(shards, config, snapshot)
    if store and keep and drawn != snapshot and not snapshot.drawn:
        snapshot = update_snapshot(store, config, lambda now: now if now.drawn else _with(now, **drawn.split))
        return _split(shards, config, snapshot)[0]  # another run may have been first, with other shards
    return marked


def fetch_listing(config: DataConfig, store: Store, *, new_split: bool = False) -> tuple[ShardConfig, ...]:
    """Asks the source what it has now, and pins that in the store: runs ask nobody from then on.

    `new_split` gives the validation sample up that earlier runs held out. Raises as `list_shards` does.
    """
    if not is_local(config.source) and config.source != "world":
        listing = list_files(config)
        for note in listing.notes:
            LOG.warning(note)
        update_snapshot(store, config, lambda now: _with(now, files=listing.files))
    if new_split and config.source != "world":
        update_snapshot(store, config, lambda now: _with(now, **SourceSnapshot(source=config.source).split))
    return list_shards(config, store)


def _split(
    shards: list[ShardConfig], config: DataConfig, snapshot: SourceSnapshot
) -> tuple[tuple[ShardConfig, ...], SourceSnapshot]:
    """The shards, marked with their validation split, and the snapshot, with the split if it had none."""
    named_split = _validation_names(shards, config)
    gathered, held, carrier = snapshot.gathered, snapshot.held, snapshot.carrier
    if is_local(config.source) and not named_split:
        gathered = gathered or (not snapshot.drawn and too_small_for_a_sample(shards))
        if gathered:
            together = gather(shards, config, held)
            shards, held = together.shards, together.held
        carrier = carrier or first_to_sample([shard for shard in shards if not shard.files])
    elif is_local(config.source) and not config.validation_shard and are_tiny(shards):
        shards = gather(shards, config, sorted(named_split)).shards
    marked = hold_out(shards, config, carrier)
    (carrier,) = [shard.name for shard in marked if shard.validation == "sample"] or [""]
    return marked, _with(snapshot, carrier=carrier, gathered=gathered, held=held)


def _with(snapshot: SourceSnapshot, **changes: Any) -> SourceSnapshot:
    return snapshot.model_copy(update=changes)


def _as_shards(files: Sequence[Found], config: DataConfig) -> list[ShardConfig]:
    if not files:
        raise BadSource(f"`{config.source}` has no text: no file ends in {SUFFIXES}.", hint=SOURCES_HINT)
    names = shard_names([file.path for file in files])
    if len(set(names)) < len(names):  # a list may have the same path of two hosts, or with two queries
        names = shard_names([file.url.partition("://")[2] for file in files])
    shards = [
        ShardConfig(name=name, url=file.url, identity=file.identity, text_column=config.text_column)
        for name, file in zip(names, files, strict=True)
    ]
    return sorted(shards, key=lambda shard: shard.name)


def shard_names(paths: Sequence[str]) -> list[str]:
    """A unique name a path: without its format and the folders that all have; the format stays where names collide."""
    folders = {PurePosixPath(path).parent.as_posix() for path in paths}
    common = os.path.commonpath(folders) if folders else ""
    relative = [PurePosixPath(path).relative_to(common).as_posix() for path in paths]
    stems = [stem(path) for path in relative]
    count = Counter(stems)
    names = [name if count[name] == 1 else path for name, path in zip(stems, relative, strict=True)]
    return names if len(set(names)) == len(names) else relative


def hold_out(shards: Sequence[ShardConfig], config: DataConfig, carrier: str = "") -> tuple[ShardConfig, ...]:
    """Marks the validation shards, and keeps as many training shards as asked for; order of `shards` stays.

    When a sample is held out, it is of the shard `carrier`, whatever shards there are beside it; of the first without
    one.
    """
    held = _validation_names(shards, config)
    train = [shard for shard in shards if shard.name not in held]
    if not train:
        raise BadSource(
            f"`{config.source}` has no training shard: {named(held)} would be held out whole.",
            hint="Add shards, or let a sample be held out: give it another name.",
        )
    if not held:
        place = _place_of(carrier, train, config)
        sample = {"validation": "sample", "validation_documents": config.validation_documents}
        train.insert(0, train.pop(place).model_copy(update=sample))
    train = train[: config.train_shards or len(train)]
    whole = [shard.model_copy(update={"validation": "all"}) for shard in shards if shard.name in held]
    return tuple(sorted([*train, *whole], key=lambda shard: shard.name))


def _place_of(carrier: str, train: Sequence[ShardConfig], config: DataConfig) -> int:
    for place, shard in enumerate(train):
        if carrier in ("", shard.name):
            return place
    raise BadSource(
        f"`{config.source}` has lost the shard `{carrier}`, of which the validation documents of earlier runs are a "
        f"part; it has {named(shard.name for shard in train)}.",
        hint="Put it back, name a shard to hold out whole with `data.validation_shard=…`, or draw a new sample with "
        "`nanochat fetch --new-split`.",
    )


def _validation_names(shards: Sequence[ShardConfig], config: DataConfig) -> set[str]:
    wanted = config.validation_shard
    if not wanted:
        # a split that the config names, or a file that it names, is trained on whatever it is called
        by_name = not config.split and len(shards) > 1
        # several, when the split has several files: none of them may be trained on
        return {
            shard.name for shard in shards if shard.validation == "all" or (by_name and names_validation(shard.name))
        }
    for shard in shards:
        if shard.name in (wanted, stem(wanted)):
            return {shard.name}
    raise BadSource(
        f"`{config.source}` has no shard `{wanted}` to hold out; it has {named(shard.name for shard in shards)}.",
        hint="Name one of them with `data.validation_shard=…`, or leave it empty.",
    )


# --- one shard --------------------------------------------------------------------------------------------------------


def write_shard(shard: ShardConfig, out: Path, progress: Reporter = silent) -> dict[str, Any]:
    """Fetches, checks and splits one shard: `train.parquet` and `validation.parquet` in `out`, if they have documents.

    Returns the counts of both. Raises `BadSource`, or `SourceUnreachable` when the network failed several times.
    """
    if shard.url.startswith("world:"):
        assert shard.world is not None
        return split_documents(
            shard, world_documents(shard.world, int(shard.url.removeprefix("world:"))), out, progress
        )
    if "://" not in shard.url:
        return split_documents(shard, _local_documents(shard), out, progress)
    with _fetching(shard) as folder:
        file = with_retries(lambda: _fetch(shard, folder, progress), reached=lambda: _bytes_in(folder))
        return split_documents(shard, file_documents(file, shard.text_column, shard.url), out, progress)


def _local_documents(shard: ShardConfig) -> Documents:
    parts = [_checked(Path(url), identity, shard) for url, identity in shard.files or [(shard.url, shard.identity)]]

    def read() -> Iterator[pa.StringArray]:
        for part in parts:
            yield from part.read()

    return Documents(read, sum(part.total for part in parts))


def _checked(file: Path, identity: str, shard: ShardConfig) -> Documents:
    """The documents of a file that is what it was when it was listed, and stays so until they are read."""
    if not file.exists():
        raise BadSource(f"`{file}` is gone.", hint="Put it back, or start the run again.")
    check_regular(file)
    before = local_identity(file)
    if is_hash(identity):
        try:
            check_hash(file, identity, f"`{file}`")
        except DamagedTransfer as error:
            raise BadSource(error.message, hint="Fetch it again, or correct the file of sums.") from error
    elif before != identity:
        raise BadSource(f"`{file}` changed since the run began.", hint="Start the run again.")
    documents = file_documents(file, shard.text_column, str(file))

    def read() -> Iterator[pa.StringArray]:
        yield from documents.read()
        if local_identity(file) != before:
            raise BadSource(f"`{file}` changed while it was read.", hint="Start the run again.")

    return Documents(read, documents.total)


@contextmanager
def _fetching(shard: ShardConfig) -> Iterator[Path]:
    """A folder for what comes of a shard, the same for the same bytes: whoever was cut off finds there what it had.

    It goes when the shard is done, or turns out to be no good. A second process that wants the same one at the same
    time has a folder of its own.
    """
    root = settings.home() / "fetching"
    root.mkdir(parents=True, exist_ok=True)
    for old in root.iterdir():
        with suppress(FileNotFoundError):  # another process was done with it
            if time.time() - old.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(old, ignore_errors=True)
    name = hashlib.sha256(f"{shard.url}\n{shard.identity}".encode()).hexdigest()[:32]
    folder = root / name
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            folder = root / f"{name}-{os.getpid()}"
            folder.mkdir(exist_ok=True)
        try:
            yield folder
        except BadSource:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _bytes_in(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _fetch(shard: ShardConfig, folder: Path, progress: Reporter) -> Path:
    if shard.url.startswith(hub.STREAM):
        return hub.fetch_stream(shard.url, shard.text_column, folder, progress)
    if shard.url.startswith("hf://"):
        file = hub.fetch_file(shard.url, folder)
        if is_hash(shard.identity):
            try:
                check_hash(file, shard.identity, shard.url)
            except DamagedTransfer:
                shutil.rmtree(folder)  # with the Hub's notes that it is whole
                folder.mkdir()
                raise
        return file
    # only the end of its name matters here, and a name may have any characters
    path = unquote(urlsplit(shard.url).path) if is_web(shard.url) else shard.url
    file = folder / f"shard{path[len(stem(path)) :].lower()}"
    fetch_url(shard.url, file, progress, shard.identity)
    return file
