"""Where raw text comes from, and what of it is held out.

`list_shards` turns a `DataConfig` into one `ShardConfig` a shard, before anything is fetched; `write_shard` makes the
payload of one: `train.parquet` and `validation.parquet`, a column `text`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from nanochat import settings
from nanochat.config import DataConfig, ShardConfig
from nanochat.data import hub
from nanochat.data.documents import FORMATS, stem
from nanochat.data.listing import SOURCES_HINT, Found, is_local, list_files, local_identity
from nanochat.data.pins import Pin, change_pin, read_pin
from nanochat.data.raw import Documents, file_documents, split_documents, world_documents
from nanochat.sources.retry import patiently
from nanochat.errors import BadSource, DamagedTransfer
from nanochat.progress import Progress, silent
from nanochat.store.artifacts import Store
from nanochat.store.sources import check_hash, fetch_url
from nanochat.store.web import is_hash

VALIDATION_NAME = re.compile(r"validation|val(id)?(?![a-z])")
"""What the file or folder of a held-out shard is called, at its beginning."""
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
    pin = read_pin(store, config) if store else Pin(source=config.source)
    shards = _as_shards(list_files(config) if pin.files is None else pin.files, config)
    held_out = hold_out(shards, config, pin.carrier)
    (carrier,) = [shard.name for shard in held_out if shard.validation == "sample"] or [""]
    if store and keep and carrier != pin.carrier and not pin.carrier:
        pin = change_pin(store, config, lambda now: now if now.carrier else _with(now, carrier=carrier))
        return hold_out(shards, config, pin.carrier)  # another run may have been first, with other shards
    return held_out


def fetch_listing(config: DataConfig, store: Store, *, new_split: bool = False) -> tuple[ShardConfig, ...]:
    """Asks the source what it has now, and pins that in the store: runs ask nobody from then on.

    `new_split` gives the validation sample up that earlier runs held out. Raises as `list_shards` does.
    """
    if not is_local(config.source) and config.source != "world":
        files = list_files(config)
        change_pin(store, config, lambda now: _with(now, files=files))
    if new_split and config.source != "world":
        change_pin(store, config, lambda now: _with(now, carrier=""))
    return list_shards(config, store)


def _with(pin: Pin, **changes: Any) -> Pin:
    return pin.model_copy(update=changes)


def _as_shards(files: Sequence[Found], config: DataConfig) -> list[ShardConfig]:
    if not files:
        raise BadSource(f"`{config.source}` has no text: no file ends in {', '.join(FORMATS)}.", hint=SOURCES_HINT)
    shards = [
        ShardConfig(name=name, url=file.url, identity=file.identity, text_column=config.text_column)
        for name, file in zip(shard_names([file.path for file in files]), files, strict=True)
    ]
    return sorted(shards, key=lambda shard: shard.name)


def shard_names(paths: Sequence[str]) -> list[str]:
    """A unique name a path: without its format and the folders that all have; the format stays where names collide."""
    folders = {PurePosixPath(path).parent.as_posix() for path in paths}
    common = os.path.commonpath(folders) if folders else ""
    relative = [PurePosixPath(path).relative_to(common).as_posix() for path in paths]
    stems = [stem(path) for path in relative]
    count = Counter(stems)
    return [name if count[name] == 1 else path for name, path in zip(stems, relative, strict=True)]


def hold_out(shards: Sequence[ShardConfig], config: DataConfig, carrier: str = "") -> tuple[ShardConfig, ...]:
    """Marks the validation shards, and keeps as many training shards as asked for; order of `shards` stays.

    When a sample is held out, it is of the shard `carrier`, whatever shards there are beside it; of the first without
    one.
    """
    held = _validation_names(shards, config)
    train = [shard for shard in shards if shard.name not in held]
    if not train:
        raise BadSource(
            f"`{config.source}` has no training shard: {_listed(held)} would be held out whole.",
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
        f"part; it has {_listed(shard.name for shard in train)}.",
        hint="Put it back, name a shard to hold out whole with `data.validation_shard=…`, or draw a new sample with "
        "`nanochat fetch --new-split`.",
    )


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


# --- one shard --------------------------------------------------------------------------------------------------------


def write_shard(shard: ShardConfig, out: Path, progress: Progress = silent) -> dict[str, Any]:
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
        file = patiently(lambda: _fetch(shard, folder, progress), reached=lambda: _bytes_in(folder))
        return split_documents(shard, file_documents(file, shard.text_column, shard.url), out, progress)


def _local_documents(shard: ShardConfig) -> Documents:
    file = Path(shard.url)
    if not file.exists():
        raise BadSource(f"`{file}` is gone.", hint="Put it back, or start the run again.")
    if is_hash(shard.identity):
        try:
            check_hash(file, shard.identity, f"`{file}`")
        except DamagedTransfer as error:
            raise BadSource(error.message, hint="Fetch it again, or correct `SHA256SUMS`.") from error
    elif local_identity(file) != shard.identity:
        raise BadSource(f"`{file}` changed since the run began.", hint="Start the run again.")
    return file_documents(file, shard.text_column, shard.url)


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


def _fetch(shard: ShardConfig, folder: Path, progress: Progress) -> Path:
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
    file = folder / PurePosixPath(unquote(urlsplit(shard.url).path)).name
    fetch_url(shard.url, file, progress, shard.identity)
    return file
