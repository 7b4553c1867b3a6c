"""Turns a `DataConfig` into one `ShardConfig` per raw shard, before anything is downloaded."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from nanochat.config.data import DataConfig, ShardConfig
from nanochat.errors import BadSource
from nanochat.sources.file_names import SUFFIXES, stem
from nanochat.sources.file_selection import SourceFile
from nanochat.sources.listing import SOURCES_HINT, list_files
from nanochat.sources.local_files import is_local
from nanochat.sources.small_files import are_tiny, combine_small_files, first_to_sample, too_small_for_a_sample
from nanochat.sources.snapshots import SourceSnapshot, read_snapshot, update_snapshot
from nanochat.sources.validation_split import mark_split, validation_shards
from nanochat.store.store import Store

LOG = logging.getLogger("nanochat.sources")


def list_shards(config: DataConfig, store: Store | None = None, *, keep: bool = True) -> tuple[ShardConfig, ...]:
    """The shards of a source, sorted by name, each marked with what is held out of it.

    The store's snapshot of the source decides which shard the validation sample is taken from. If `fetch_listing`
    recorded the files there, the source is not listed again. The first run records its sample, unless `keep` is False.

    Raises `BadSource` if there is nothing to read or the validation shard is missing, and `SourceUnreachable` if the
    network failed several times.
    """
    if config.source == "world":
        # the number of shards must not be in the key of each of them
        world = config.world.model_copy(update={"shards": 1})
        names = [f"world_{index:05d}" for index in range(config.world.shards)]
        shards = [ShardConfig(name=name, url=f"world:{i}", identity="", world=world) for i, name in enumerate(names)]
        return mark_split(shards, config)
    snapshot = read_snapshot(store, config) if store else SourceSnapshot(source=config.source)
    files = snapshot.files
    if files is None:
        listing = list_files(config)
        if keep:
            for note in listing.notes:
                LOG.warning(note)
        files = listing.files
    shards = _as_shards(files, config)
    marked, drawn = _split(shards, config, snapshot)
    if store and keep and drawn != snapshot and not snapshot.drawn:
        snapshot = update_snapshot(store, config, lambda now: now if now.drawn else _with(now, **drawn.split))
        return _split(shards, config, snapshot)[0]  # another run may have recorded another split first
    return marked


def fetch_listing(config: DataConfig, store: Store, *, new_split: bool = False) -> tuple[ShardConfig, ...]:
    """Lists a remote source and records its files in the store: later runs use that list without the network.

    `new_split` discards the validation split of earlier runs. Raises what `list_shards` raises.
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
    """The shards, marked with their validation split, and the snapshot with that split."""
    whole = validation_shards(shards, config)
    gathered, held, carrier = snapshot.gathered, snapshot.held, snapshot.carrier
    if is_local(config.source) and not whole:
        gathered = gathered or (not snapshot.drawn and too_small_for_a_sample(shards))
        if gathered:
            combined = combine_small_files(shards, config, held)
            shards, held = combined.shards, combined.held
        carrier = carrier or first_to_sample([shard for shard in shards if not shard.files])
    elif is_local(config.source) and not config.validation_shard and are_tiny(shards):
        shards = combine_small_files(shards, config, sorted(whole)).shards
    marked = mark_split(shards, config, carrier)
    (carrier,) = [shard.name for shard in marked if shard.validation == "sample"] or [""]
    return marked, _with(snapshot, carrier=carrier, gathered=gathered, held=held)


def _with(snapshot: SourceSnapshot, **changes: Any) -> SourceSnapshot:
    return snapshot.model_copy(update=changes)


def _as_shards(files: Sequence[SourceFile], config: DataConfig) -> list[ShardConfig]:
    if not files:
        raise BadSource(f"`{config.source}` has no text: no file ends in {SUFFIXES}.", hint=SOURCES_HINT)
    names = shard_names([file.path for file in files])
    if len(set(names)) < len(names):  # a list may have one path of two hosts, or with two queries
        names = shard_names([file.url.partition("://")[2] for file in files])
    shards = [
        ShardConfig(name=name, url=file.url, identity=file.identity, text_column=config.text_column)
        for name, file in zip(names, files, strict=True)
    ]
    return sorted(shards, key=lambda shard: shard.name)


def shard_names(paths: Sequence[str]) -> list[str]:
    """A unique name per path: without the common folders, and without the format unless names would collide."""
    folders = {PurePosixPath(path).parent.as_posix() for path in paths}
    common = os.path.commonpath(folders) if folders else ""
    relative = [PurePosixPath(path).relative_to(common).as_posix() for path in paths]
    stems = [stem(path) for path in relative]
    count = Counter(stems)
    names = [name if count[name] == 1 else path for name, path in zip(stems, relative, strict=True)]
    return names if len(set(names)) == len(names) else relative
