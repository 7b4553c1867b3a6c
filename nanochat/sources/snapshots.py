"""The recorded state of a source in the store (`v1/sources/<hash of the source>.json`).

Later runs use the same files and the same validation split as the run that recorded them.
"""

import hashlib
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from nanochat.config.base import canonical_json
from nanochat.config.data import DataConfig
from nanochat.errors import StoreUnreachable
from nanochat.sources.file_selection import SourceFile
from nanochat.sources.local_files import is_local, local_path
from nanochat.store.record_format import parse_record
from nanochat.store.store import Store


class SourceSnapshot(BaseModel, frozen=True):
    """What the store has recorded about one source."""

    format: int = 1
    source: str
    carrier: str = ""
    """Name of the shard that the validation sample is taken from, once a run has drawn one."""
    gathered: bool = False
    """Whether the small files of the folder are combined into few shards."""
    held: tuple[str, ...] = ()
    """Names of the combined files that are held out."""
    files: list[SourceFile] | None = None
    """The files of the source; None if they were not fetched ahead, and the source has to be listed."""

    @property
    def split(self) -> dict[str, Any]:
        """The fields that define the validation split."""
        return self.model_dump(include={"carrier", "gathered", "held"})

    @property
    def drawn(self) -> bool:
        """Whether a run has drawn the validation split."""
        return bool(self.carrier or self.held)


def read_snapshot(store: Store, config: DataConfig) -> SourceSnapshot:
    """The snapshot of a source; an empty one if no run has recorded it."""
    try:
        return _parse(config, store.objects.read(_path(config)))
    except FileNotFoundError:
        return SourceSnapshot(source=config.source)


def update_snapshot(
    store: Store, config: DataConfig, change: Callable[[SourceSnapshot], SourceSnapshot]
) -> SourceSnapshot:
    """Changes the snapshot by compare-and-swap, and returns the new one."""
    path = _path(config)
    for _ in range(20):
        try:
            before = store.objects.read(path)
        except FileNotFoundError:
            before = None
        snapshot = change(SourceSnapshot(source=config.source) if before is None else _parse(config, before))
        after = snapshot.model_dump_json().encode()
        if before == after or store.objects.swap(path, after, before):
            return snapshot
    raise StoreUnreachable(f"The snapshot of `{config.source}` could not be updated: other processes keep changing it.")


def _parse(config: DataConfig, data: bytes) -> SourceSnapshot:
    hint = "Move it away, and run `nanochat fetch`."
    return parse_record(SourceSnapshot, data, _path(config), "the snapshot of a source", hint=hint)


def _path(config: DataConfig) -> str:
    source = local_path(config.source).absolute().as_uri() if is_local(config.source) else config.source
    identity = canonical_json([source, config.subset, config.split])
    return f"v1/sources/{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"
