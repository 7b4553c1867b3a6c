"""What a store has pinned about a source, so that runs go on with what earlier ones began with.

v1/sources/<hash of the source>.json
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict

from nanochat.config.base import canonical_json
from nanochat.config.data import DataConfig
from nanochat.errors import StoreUnreachable
from nanochat.sources.listing import Found
from nanochat.sources.local_files import is_local, local_path
from nanochat.store.record_format import parse_record
from nanochat.store.store import Store


class SourceSnapshot(BaseModel):
    """What is pinned of one source."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    source: str
    carrier: str = ""
    """Name of the shard of which the validation sample is, once a run has drawn one."""
    gathered: bool = False
    """Whether the small files of the folder are gathered into few shards."""
    held: tuple[str, ...] = ()
    """Of gathered files, the names of those that are held out."""
    files: list[Found] | None = None
    """What the source has; None when nobody fetched it ahead, and it is to be asked."""

    @property
    def split(self) -> dict[str, Any]:
        """The fields that say what is held out."""
        return self.model_dump(include={"carrier", "gathered", "held"})

    @property
    def drawn(self) -> bool:
        """Whether a run has drawn what is held out."""
        return bool(self.carrier or self.held)


def read_snapshot(store: Store, config: DataConfig) -> SourceSnapshot:
    """What is pinned of a source; nothing as yet, when no run has met it."""
    try:
        return _parse(config, store.objects.read(_path(config)))
    except FileNotFoundError:
        return SourceSnapshot(source=config.source)


def update_snapshot(
    store: Store, config: DataConfig, change: Callable[[SourceSnapshot], SourceSnapshot]
) -> SourceSnapshot:
    """Changes what is pinned, by compare-and-swap, and returns it as it is then."""
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
    raise StoreUnreachable(f"What is pinned of `{config.source}` is being changed by others all the time.")


def _parse(config: DataConfig, data: bytes) -> SourceSnapshot:
    hint = "Move it away, and run `nanochat fetch`."
    return parse_record(SourceSnapshot, data, _path(config), "what is pinned of a source", hint=hint)


def _path(config: DataConfig) -> str:
    source = local_path(config.source).absolute().as_uri() if is_local(config.source) else config.source
    asked = canonical_json([source, config.subset, config.split])
    return f"v1/sources/{hashlib.sha256(asked.encode()).hexdigest()[:32]}.json"
