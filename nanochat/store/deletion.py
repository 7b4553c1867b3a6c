"""Deletes garbage (`garbage.py`) while runs may be active.

**A deletion can be undone.** Artifacts move to the trash (`trash.py`), whose record is written before the first object
moves. The trash keeps them for some hours; the next deletion after that deletes them for good. It also completes a
deletion that was interrupted, in the same place of the trash. Leases, probes and unfinished writes are not results, and
are deleted without the trash.

**A reader never sees half an artifact**: the manifest is removed first, the payload after it.

**A run never loses an artifact that it uses**, even if it finds one at the very moment of its removal:

1. The garbage is listed again, and only what both listings name is deleted: an alias, a pin or a run that was added
   meanwhile counts. A writer holds the lease of its key from before its first byte until its manifest exists; so a
   payload without a lease and a manifest belongs to no process.
2. Manifests are read, copied to the trash, and removed. From here on no run finds these artifacts: it would make them
   again.
3. The deletion waits until each live run has written its record twice. A run's store notes a key before it looks it up,
   and a record contains all that was noted (`runs.py`). The first record may have been in flight already; the second
   was made after step 2, and names everything that the run found before. A run that starts after step 2 finds none of
   it.
4. The roots are read again. Manifests that they now reach are put back, create-only: their payloads never moved.
5. Payloads of the others move to the trash, then the leftovers.

Limits: the deletion does not wait for a run that writes no record for `NO_HEARTBEAT_S` of this process's own clock (its
last record counts for two hours all the same). If that run was only suspended, and had found one of these artifacts in
its last seconds, it fails later with an error; reads are verified, so that no result is wrong. The clocks of the store
and of this machine may differ, or jump, by an hour. The alias protects a reader without a run (`nanochat chat`). A
lease serialises deletions. A deletion that ends by Ctrl-C or an error before step 5 puts every manifest back.
"""

import contextlib
import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace

from nanochat.errors import NanochatError, NoSpace, StoreError
from nanochat.store import reachability, runs, trash
from nanochat.store.garbage import Garbage, GarbageItem, find_garbage
from nanochat.store.lease import HeldLease
from nanochat.store.manifest import Manifest, Name, as_manifest, manifest_path
from nanochat.store.reachability import MAYBE_ALIVE_S, StoreListing, find_reachable, find_roots, lease_name
from nanochat.store.store import Store

NO_HEARTBEAT_S = 30.0
POLL_S = 0.5
CLOCKS_DIFFER_S = 3600.0


@dataclass(frozen=True)
class Deleted:
    """The result of a deletion."""

    items: tuple[GarbageItem, ...]
    spared: tuple[GarbageItem, ...]
    """Items that were announced, but are in use or gone by now."""
    trash_id: str = ""
    """Id in the trash, for `restore`; empty if nothing went there."""

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)


def delete_garbage(store: Store, garbage: Garbage, *, on_wait: Callable[[str], None] = lambda run_id: None) -> Deleted:
    """Deletes what was announced and is still unused; `on_wait` receives the id of each run that it waits for.

    Raises a `StoreError` when the store fails; the next deletion continues from there.
    """
    try:
        with trash.locked(store, on_wait) as held:
            _check_clock(store)
            return _delete(store, held, garbage, on_wait)
    except NoSpace as error:
        if garbage.trash_hours:
            hint = "`nanochat gc --delete --trash-hours 0` deletes without the trash, which needs no space."
            raise NoSpace(error.message, hint=hint) from error
        return _delete(store, None, garbage, on_wait)  # no space for a lease


def _delete(store: Store, held: HeldLease | None, garbage: Garbage, on_wait: Callable[[str], None]) -> Deleted:
    """Step 1 of the module's docstring, expired deletions in the trash, and the other steps."""
    known: dict[Name, Manifest] = {}
    announced = {(item.what, item.name) for item in garbage.items}
    current = find_garbage(
        store,
        keep_runs=garbage.keep_runs,
        min_age_hours=garbage.min_age_hours,
        trash_hours=garbage.trash_hours,
        known=known,
    )
    items = [item for item in current.items if (item.what, item.name) in announced]
    records = [each.record for each in trash.deletions(store)]
    expired = [record for record in records if ("trash", record.id) in {(item.what, item.name) for item in items}]
    for record in expired:
        if record.state == "deleted":  # first, because this frees space
            trash.empty(store, record)
    removal = _Removal(store, held, garbage, known, on_wait)
    gone = removal.run([item for item in items if item.what != "trash"])
    for record in records:
        if record.state != "deleted" and record in expired:
            trash.empty(store, record)
        elif record.state != "deleted" and held:
            trash.complete(store, record)
    deleted = {(item.what, item.name) for item in gone} | {pair for pair in announced if pair[0] == "trash"}
    done = tuple(item for item in items if (item.what, item.name) in deleted)
    spared = tuple(item for item in garbage.items if (item.what, item.name) not in deleted)
    return Deleted(done, spared, removal.trash_id)


class _Removal:
    """Steps 2 to 5 of one deletion."""

    def __init__(
        self,
        store: Store,
        held: HeldLease | None,
        garbage: Garbage,
        known: dict[Name, Manifest],
        on_wait: Callable[[str], None],
    ) -> None:
        self.trash_id = ""
        self._store = store
        self._held = held
        self._garbage = garbage
        self._known = known
        self._on_wait = on_wait
        self._removed: dict[Name, bytes] = {}
        """Manifests that were removed."""
        self._record: trash.DeletionRecord | None = None

    def run(self, items: Sequence[GarbageItem]) -> list[GarbageItem]:
        """Removes the items; returns those that were removed."""
        items = [self._with_files(item) for item in items]
        parts = [part for item in items if not item.interrupted and (part := item.as_part())]
        if parts and self._garbage.trash_hours:
            self._record = trash.begin(self._store, "gc", parts)
        try:
            spared = self._remove_manifests(items)
            if self._removed:
                _wait_for_runs(self._store, self._on_wait)
                needed = self._needed_again()
                self._put_back(needed, items)
                spared |= needed
            if self._held:
                trash.ensure_held(self._held)
        except BaseException:  # interrupted, or the store fails: nothing is lost yet
            with contextlib.suppress(NanochatError, OSError):
                self._put_back(self._removed, items)
                if self._record:
                    trash.finish(self._store, self._record, ())
            raise
        return self._move_payloads(
            item for item in items if not (item.what == "artifact" and item.artifact_name in spared)
        )

    def _with_files(self, item: GarbageItem) -> GarbageItem:
        """An artifact with all files of its manifest, which is added to `_removed`; any other item unchanged."""
        if item.what != "artifact":
            return item
        part, path = item.as_part(), manifest_path(*item.artifact_name)
        if item.interrupted and part:
            data = trash.kept_manifest(self._store, item.interrupted, part)
        else:
            try:
                data = self._store.objects.read(path)
            except FileNotFoundError:  # removed since it was listed
                data = None
        if data is None:
            return item
        self._removed[item.artifact_name] = data
        manifest = as_manifest(data, path)
        files = (f"{manifest.payload_folder}/{file.path}" for file in manifest.files)
        return replace(item, paths=tuple(dict.fromkeys((*item.paths, *files))))

    def _remove_manifests(self, items: Sequence[GarbageItem]) -> set[Name]:
        """Removes the manifests; returns those that changed since they were read, which stay."""
        spared: set[Name] = set()
        for item in items:
            name = item.artifact_name
            if item.what != "artifact" or item.interrupted or name not in self._removed:
                continue
            if self._record and (part := item.as_part()):
                trash.keep_manifest(self._store, self._record, part, self._removed[name])
            if _is_changed(self._store, name, self._removed[name]):  # made again, because its payload was lost
                del self._removed[name]
                spared.add(name)
            else:
                self._store.objects.delete([manifest_path(*name)])
        return spared

    def _needed_again(self) -> set[Name]:
        """The removed artifacts that roots reach by now."""
        for name, data in self._removed.items():
            self._known[name] = as_manifest(data, manifest_path(*name))
        listing = StoreListing(self._store)
        limits = self._garbage
        roots, busy = find_roots(self._store, listing, keep_runs=limits.keep_runs, min_age_hours=limits.min_age_hours)
        roots |= {name for name in self._removed if name[1] in busy}
        return find_reachable(self._store, roots, self._known).keys() & self._removed.keys()

    def _put_back(self, names: Container[Name], items: Sequence[GarbageItem]) -> None:
        for item in items:
            part, name = item.as_part(), item.artifact_name
            if item.what != "artifact" or part is None or name not in names or name not in self._removed:
                continue
            if item.interrupted:  # a part of its payload may have moved
                trash.move_back(self._store, item.interrupted, part)
            # refused if it has been made again meanwhile; this payload then waits for the next deletion
            self._store.objects.create(manifest_path(*name), self._removed[name])
            if record := item.interrupted or self._record:
                self._store.objects.delete([record.place(part.manifest_path)])

    def _move_payloads(self, items: Iterable[GarbageItem]) -> list[GarbageItem]:
        gone = [item for item in items if not _has_a_manifest(self._store, item)]
        for item in gone:
            part, record = item.as_part(), item.interrupted or self._record
            if part and record and self._garbage.trash_hours:
                trash.move_in(self._store, record, part)
            else:
                self._store.objects.delete(item.paths)
            if item.unfinished:
                self._store.objects.abandon(item.unfinished)
        kept = [part for item in gone if not item.interrupted and (part := item.as_part())]
        if self._record:
            trash.finish(self._store, self._record, kept)
            self.trash_id = self._record.id if kept else ""
        return gone


def _is_changed(store: Store, name: Name, data: bytes) -> bool:
    """Whether the manifest differs from the one that was read."""
    try:
        return store.objects.read(manifest_path(*name)) != data
    except FileNotFoundError:
        return False


def _has_a_manifest(store: Store, item: GarbageItem) -> bool:
    """Whether a payload that was listed without a manifest has one by now."""
    if item.what != "payload":
        return False
    _, _, stage, key, attempt = item.name.split("/")
    manifest = store.read(stage, key)
    return manifest is not None and manifest.payload == attempt


def _check_clock(store: Store) -> None:
    """Raises `StoreError` if the clocks of this machine and the store differ: deletions depend on ages."""
    for entry in store.objects.list("v1/leases"):
        if lease_name(entry) == trash.LEASE and abs(entry.modified_s - reachability.now_s()) > CLOCKS_DIFFER_S:
            hours = (reachability.now_s() - entry.modified_s) / 3600
            raise StoreError(
                f"The clock of this machine is {abs(hours):.1f} hours {'ahead of' if hours > 0 else 'behind'} that of "
                f"the store {store.objects.root}: ages are unknown.",
                hint="Set the clock; nothing was deleted.",
            )


def _wait_for_runs(store: Store, on_wait: Callable[[str], None]) -> None:
    """Waits until each live run has written two more records; see the module's docstring."""
    first: dict[str, int] = {}
    last: dict[str, tuple[int, float]] = {}
    for run in runs.alive(store, reachability.now_s() - MAYBE_ALIVE_S):
        first[run.record.id] = run.record.beat
        last[run.record.id] = (run.record.beat, time.monotonic())
        on_wait(run.record.id)
    while last:
        time.sleep(POLL_S)
        for run_id, (beat, since) in list(last.items()):
            record = runs.read(store, run_id)
            if record is None or record.state != "running" or record.beat >= first[run_id] + 2:
                del last[run_id]
            elif record.beat != beat:
                last[run_id] = (record.beat, time.monotonic())
            elif time.monotonic() - since > NO_HEARTBEAT_S:
                del last[run_id]
