"""Lists what can be deleted from a store, and why. `deletion.py` deletes it.

Garbage is every artifact that no root reaches (`reachability.py`), and leftovers older than `min_age_hours`: payloads
without a manifest, checkpoints of a published key, files and uploads that were never finished, expired leases.
Checkpoints of a key that is *not* published stay: an interrupted training can resume from them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from nanochat import settings
from nanochat.errors import BadConfig, StoreError, StoreUnreachable
from nanochat.store import reachability, trash
from nanochat.store.backend import Entry, Unfinished
from nanochat.store.manifest import Manifest, Name, artifact_folder
from nanochat.store.reachability import MAYBE_ALIVE_S, StoreListing, find_reachable, find_roots, lease_name
from nanochat.store.store import Store

What = Literal["artifact", "payload", "checkpoints", "unfinished", "lease", "trash"]


@dataclass(frozen=True)
class GarbageItem:
    """Something to delete."""

    what: What
    name: str
    """`stage/key` of an artifact; id of a deletion in the trash; otherwise a path in the store."""
    why: str
    bytes: int
    paths: tuple[str, ...]
    """The objects, without an artifact's manifest."""
    unfinished: Unfinished | None = None
    interrupted: trash.DeletionRecord | None = None
    """The interrupted deletion that began to delete it."""

    @property
    def artifact_name(self) -> Name:
        """Stage and key of an artifact."""
        stage, _, key = self.name.partition("/")
        return stage, key

    def as_part(self) -> trash.DeletedPart | None:
        """The entry in the record of the trash; None if it is deleted without the trash."""
        if self.what not in ("artifact", "payload", "checkpoints"):
            return None
        return trash.DeletedPart(what=self.what, name=self.name, why=self.why, bytes=self.bytes, paths=list(self.paths))


@dataclass(frozen=True)
class Garbage:
    """All that a deletion would delete."""

    items: tuple[GarbageItem, ...]
    kept: int
    """Number of artifacts that stay."""
    keep_runs: int
    min_age_hours: float
    trash_hours: float
    notes: tuple[str, ...] = ()
    """What could not be listed, and is kept."""

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)


def find_garbage(
    store: Store,
    *,
    keep_runs: int = 3,
    min_age_hours: float = 24.0,
    trash_hours: float | None = None,
    known: dict[Name, Manifest] | None = None,
) -> Garbage:
    """Lists what can be deleted. The trash keeps deletions for `trash_hours` (default `NANOCHAT_TRASH_HOURS`).

    `known` collects the manifests that were read. Raises `DamagedArtifact` at an alias, record or manifest that this
    version cannot read: what it protects is unknown.
    """
    trash_hours = settings.trash_hours() if trash_hours is None else trash_hours
    limits = (keep_runs, min_age_hours, trash_hours)
    if not all(0 <= number < float("inf") for number in limits):  # NaN would protect nothing
        raise BadConfig("The limits of a deletion are numbers from 0 on.", hint="`nanochat gc --help` lists them.")
    youngest_s = reachability.now_s() - min_age_hours * 3600
    alive_since_s = reachability.now_s() - MAYBE_ALIVE_S
    listing = StoreListing(store)
    roots, busy = find_roots(store, listing, keep_runs=keep_runs, min_age_hours=min_age_hours)
    kept = find_reachable(store, roots, {} if known is None else known, listing.manifests.keys())
    expired, interrupted = _in_trash(store, trash_hours)
    items = [*_artifacts(listing, kept, busy, interrupted), *_leftovers(listing, busy, alive_since_s)]
    old = [item for item in items if item.what == "artifact" or _last_written_s(listing, item) <= youngest_s]
    uploads, notes = _unfinished(store)
    for each in uploads:
        if each.modified_s <= min(youngest_s, alive_since_s):
            name = f"{each.path} {each.upload}".rstrip()
            old.append(GarbageItem("unfinished", name, "it was never finished", each.size, (), each))
    staying = len(listing.manifests.keys() & kept.keys())
    return Garbage((*old, *expired), staying, keep_runs, min_age_hours, trash_hours, notes)


def _artifacts(
    listing: StoreListing, kept: dict[Name, Manifest], busy: set[str], interrupted: dict[str, GarbageItem]
) -> Iterator[GarbageItem]:
    """Artifacts without a use, payloads without a manifest, and manifests without a payload."""
    completed: set[str] = set()
    for (stage, key), attempts in listing.payloads.items():
        name = (stage, key)
        if name in listing.manifests and name not in kept:
            entries = [entry for each in attempts.values() for entry in each]
            yield _item("artifact", f"{stage}/{key}", "no alias and no kept run needs it", entries)
            continue
        for attempt, entries in attempts.items():
            if (name in kept and attempt == kept[name].payload) or key in busy:
                continue
            item = next((interrupted[entry.path] for entry in entries if entry.path in interrupted), None)
            if item is None or name in listing.manifests:
                path = f"{artifact_folder(stage, key)}/{attempt}"
                yield _item("payload", path, "a payload without a manifest", entries)
            elif item.name not in completed:
                completed.add(item.name)
                yield item
    for stage, key in listing.manifests.keys() - listing.payloads.keys() - kept.keys():
        yield _item("artifact", f"{stage}/{key}", "its payload is gone, and nothing needs it", [])


def _leftovers(listing: StoreListing, busy: set[str], alive_since_s: float) -> Iterator[GarbageItem]:
    """Checkpoints of published keys, expired leases, and probes."""
    published = {key for _, key in listing.manifests}
    for key, entries in listing.checkpoints.items():
        if key in published and key not in busy:
            yield _item("checkpoints", f"v1/checkpoints/{key}", "the model trained with them is published", entries)
    for entry in listing.leases:
        if lease_name(entry) not in busy:
            yield _item("lease", entry.path, "its holder has ended", [entry])
    for entry in listing.probes:
        if entry.modified_s <= alive_since_s:  # a younger one may be in use
            yield _item("unfinished", entry.path, "it was never finished", [entry])


def _in_trash(store: Store, trash_hours: float) -> tuple[list[GarbageItem], dict[str, GarbageItem]]:
    """Deletions that the trash has kept long enough; and by path the artifacts whose deletion was interrupted."""
    expired: list[GarbageItem] = []
    interrupted: dict[str, GarbageItem] = {}
    for each in trash.deletions(store):
        record = each.record
        if each.modified_s <= reachability.now_s() - trash_hours * 3600:
            why = f"deleted {record.deleted:%Y-%m-%d %H:%M} UTC, and kept since"
            expired.append(GarbageItem("trash", record.id, why, each.bytes, ()))
        for part in record.parts if record.state != "deleted" else ():
            if part.what == "artifact":
                why = "its deletion was interrupted"
                item = GarbageItem("artifact", part.name, why, part.bytes, tuple(part.paths), interrupted=record)
                interrupted |= dict.fromkeys(part.paths, item)
    return expired, interrupted


def _unfinished(store: Store) -> tuple[list[Unfinished], tuple[str, ...]]:
    """Unfinished writes; and a note if the server does not list them, or not to this user."""
    try:
        return store.objects.unfinished("v1"), ()
    except StoreUnreachable:
        raise
    except StoreError as error:
        return [], (f"Uploads that were never finished are left alone: {error.message}",)


def _item(what: What, name: str, why: str, entries: Iterable[Entry]) -> GarbageItem:
    entries = list(entries)
    return GarbageItem(what, name, why, sum(entry.size for entry in entries), tuple(entry.path for entry in entries))


def _last_written_s(listing: StoreListing, item: GarbageItem) -> float:
    return max((listing.modified_s[path] for path in item.paths), default=0.0)
