"""What may be deleted, and why; and deleting it beside runs that go on.

Roots are the aliases, the artifacts of pinned runs, of the newest `keep_runs` runs and of runs that may be alive, what
a live lease protects, and what is younger than `min_age_hours`. A root stays, and everything that it was made from.
Beside artifacts that no root reaches, leftovers go, when they are older than that: payloads without a manifest,
checkpoints of a key that is published, files and uploads that were never finished, leases of the dead. Checkpoints of a
key that is *not* published stay: they are an interrupted training, which may go on.

**Absence is proven.** The aliases, the pins and the records of all runs must be readable, else nothing is planned. What
is to go is looked at twice, by two listings. A manifest that was listed and cannot be read is an error, and so is a
clock that differs from the store's by more than an hour.

**It can be taken back.** What is deleted is moved to the trash (`trash.py`), whose record is written before the first
object moves, and is kept for some hours; then the next deletion deletes it for good. One that was stopped is completed
by the next, in the same place of the trash. Leases, probes and unfinished writes are no results, and are just deleted.

**A reader never meets half an artifact**: the manifest goes first, the payload after.

**Nothing vanishes under a run**, although it may find an artifact at the very moment at which this removes it:

1. What was planned is planned again, and only what both plans name is touched: an alias, a pin or a run that came
   meanwhile counts. Whoever publishes holds the lease of its key, from before its first byte until its manifest is
   there; so a payload without either is nobody's.
2. Manifests are read, copied to the trash, and removed. From here on no run finds these artifacts: it would make them
   again.
3. Each run that is alive is awaited until it has written its record twice. Its store notes a key before it looks for
   it, and a record is made of what was noted (`runs.py`); the first record may have been on its way already, the second
   was made after step 2, and names whatever the run found before. A run that starts after step 2 finds nothing of it.
4. The roots are read again. Manifests that they now reach are put back, create-only: their payloads never went.
5. Payloads of the others move to the trash, then the leftovers.

What this rests on: a run that is silent for `SILENT_S` of this process's own clock is not awaited (what it wrote last
counts for two hours all the same). If it was merely frozen, and had found one of these artifacts in its last seconds,
it fails later, with a sentence; reads are verified, so no result is wrong. The store's clock and ours may differ, or
jump, by an hour. Who reads without a run (`nanochat chat`) is protected by the alias it names. Deletions take turns, by
a lease. One that is stopped by Ctrl-C or an error before step 5 puts every manifest back.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from nanochat import settings
from nanochat.errors import BadConfig, NanochatError, NoSpace, StoreError, StoreUnreachable
from nanochat.store import runs, trash
from nanochat.store.lease import HeldLease
from nanochat.store.manifest import Manifest, Name, artifact_folder, as_manifest, manifest_path
from nanochat.store.objects import Entry, Unfinished
from nanochat.store.store import Store

MAYBE_ALIVE_S = 2 * 3600.0
"""A run or lease that was written less than so long ago may have a living holder: they write every few seconds, and the
rest is for clocks that differ, or jump."""
SILENT_S = 30.0
POLL_S = 0.5
READS_AT_ONCE = 16

CLOCKS_DIFFER_S = 3600.0

What = Literal["artifact", "payload", "checkpoints", "unfinished", "lease", "trash"]


@dataclass(frozen=True)
class Item:
    """Something to delete."""

    what: What
    name: str
    """`stage/key` of an artifact; id of a deletion in the trash; else a path in the store."""
    why: str
    bytes: int
    paths: tuple[str, ...]
    """The objects, without an artifact's manifest."""
    unfinished: Unfinished | None = None
    interrupted: trash.Record | None = None
    """The deletion that began with it and was stopped."""

    def as_part(self) -> trash.Part | None:
        """For the record of the trash; None of what is deleted without it."""
        if self.what not in ("artifact", "payload", "checkpoints"):
            return None
        return trash.Part(what=self.what, name=self.name, why=self.why, bytes=self.bytes, paths=list(self.paths))


@dataclass(frozen=True)
class Plan:
    """What a deletion would delete."""

    items: tuple[Item, ...]
    kept: int
    """Artifacts that stay."""
    keep_runs: int
    min_age_hours: float
    trash_hours: float
    notes: tuple[str, ...] = ()
    """What could not be looked at, and is left alone."""

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)


@dataclass(frozen=True)
class Deleted:
    """What a deletion did."""

    items: tuple[Item, ...]
    spared: tuple[Item, ...]
    """Planned, and in use by now."""
    trash_id: str = ""
    """Where it can be taken back from; empty: nowhere."""

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)


def plan(store: Store, *, keep_runs: int = 3, min_age_hours: float = 24.0, trash_hours: float | None = None) -> Plan:
    """Looks, and changes nothing; `trash_hours` is how long deletions are kept (`NANOCHAT_TRASH_HOURS`).

    Raises `DamagedArtifact` at an alias, record or manifest that this version cannot read: what it would protect is
    unknown.
    """
    hours = settings.trash_hours() if trash_hours is None else trash_hours
    if not all(0 <= number < float("inf") for number in (keep_runs, min_age_hours, hours)):  # NaN protects nothing
        raise BadConfig("What a deletion keeps are numbers from 0 on.", hint="`nanochat gc --help` lists them.")
    return _plan(store, keep_runs, min_age_hours, hours, {})


def delete(store: Store, doomed: Plan, *, on_wait: Callable[[str], None] = lambda run_id: None) -> Deleted:
    """Deletes what was planned and is still in nobody's use; `on_wait` is told what it waits for.

    Raises a `StoreError` when the store fails; the next deletion goes on from there.
    """
    try:
        with trash.locked(store, on_wait) as held:
            _check_clock(store)
            return _delete(store, held, doomed, on_wait)
    except NoSpace as error:
        if doomed.trash_hours:
            hint = "`nanochat gc --delete --trash-hours 0` deletes without the trash, which needs no room."
            raise NoSpace(error.message, hint=hint) from error
        return _delete(store, None, doomed, on_wait)  # no room for a lease


# --- looking ----------------------------------------------------------------------------------------------------------


def _plan(store: Store, keep_runs: int, min_age_hours: float, trash_hours: float, known: dict[Name, Manifest]) -> Plan:
    youngest_s = _now() - min_age_hours * 3600
    there = _Contents(store.objects.list("v1"))
    roots, busy = _roots(store, there, keep_runs, min_age_hours)
    kept = _reach(store, roots, known, there.manifests.keys())
    expired, interrupted = _in_trash(store, trash_hours)
    items: list[Item] = []
    for (stage, key), attempts in there.payloads.items():
        name = (stage, key)
        if name in there.manifests and name not in kept:
            entries = [entry for each in attempts.values() for entry in each]
            items.append(_item("artifact", f"{stage}/{key}", "no alias and no kept run needs it", entries))
            continue
        for attempt, entries in attempts.items():
            if (name not in kept or attempt != kept[name].payload) and key not in busy:
                began = next((interrupted[e.path] for e in entries if e.path in interrupted), None)
                if began and name not in there.manifests:
                    items += [began] if began not in items else []
                else:
                    why = "a payload without a manifest"
                    items.append(_item("payload", f"{artifact_folder(stage, key)}/{attempt}", why, entries))
    items += [  # a manifest whose payload is gone
        _item("artifact", f"{stage}/{key}", "its payload is gone, and nothing needs it", [])
        for stage, key in there.manifests.keys() - there.payloads.keys() - kept.keys()
    ]
    published = {key for _, key in there.manifests}
    items += [
        _item("checkpoints", f"v1/checkpoints/{key}", "what was trained with them is published", entries)
        for key, entries in there.checkpoints.items()
        if key in published and key not in busy
    ]
    items += [_item("lease", e.path, "its holder is dead", [e]) for e in there.leases if _id(e) not in busy]
    alive_since_s = _now() - MAYBE_ALIVE_S
    probes = [entry for entry in there.probes if entry.modified_s <= alive_since_s]  # younger ones may be in use
    items += [_item("unfinished", entry.path, "it was never finished", [entry]) for entry in probes]
    old = [item for item in items if item.what == "artifact" or _last_written_s(there, item) <= youngest_s]
    uploads, notes = _unfinished(store)
    for each in uploads:
        if each.modified_s <= min(youngest_s, alive_since_s):
            name = f"{each.path} {each.upload}".rstrip()
            old.append(Item("unfinished", name, "it was never finished", each.size, (), each))
    stay = len(there.manifests.keys() & kept.keys())
    return Plan(tuple(old + expired), stay, keep_runs, min_age_hours, trash_hours, notes)


def _in_trash(store: Store, trash_hours: float) -> tuple[list[Item], dict[str, Item]]:
    """What the trash has kept for long enough; and by path the artifacts whose deletion was stopped."""
    expired: list[Item] = []
    interrupted: dict[str, Item] = {}
    for each in trash.deletions(store):
        record = each.record
        if each.modified_s <= _now() - trash_hours * 3600:
            why = f"deleted {record.deleted:%Y-%m-%d %H:%M} UTC, and kept since"
            expired.append(Item("trash", record.id, why, each.bytes, ()))
        for part in record.parts if record.state != "deleted" else ():
            if part.what == "artifact":
                why = "its deletion was stopped"
                item = Item("artifact", part.name, why, part.bytes, tuple(part.paths), interrupted=record)
                interrupted |= dict.fromkeys(part.paths, item)
    return expired, interrupted


class _Contents:
    """The objects of the store, by what they are."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.manifests: dict[Name, Entry] = {}
        self.payloads: dict[Name, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        self.checkpoints: dict[str, list[Entry]] = defaultdict(list)
        self.leases: list[Entry] = []
        self.probes: list[Entry] = []
        self.modified_s: dict[str, float] = {}
        for entry in entries:
            self.modified_s[entry.path] = entry.modified_s
            match entry.path.split("/"):
                case [_, "artifacts", stage, key, "manifest.json"]:
                    self.manifests[stage, key] = entry
                case [_, "artifacts", stage, key, attempt, _, *_]:
                    self.payloads[stage, key][attempt].append(entry)
                case [_, "checkpoints", key, _, *_]:
                    self.checkpoints[key].append(entry)
                case [_, "leases", _]:
                    self.leases.append(entry)
                case [_, "probe", _]:
                    self.probes.append(entry)
                case _:
                    pass


def _roots(store: Store, there: _Contents, keep_runs: int, min_age_hours: float) -> tuple[set[Name], set[str]]:
    """What stays, and the keys with which somebody may be at work."""
    alive_since_s = _now() - MAYBE_ALIVE_S
    busy = {_id(entry) for entry in there.leases if entry.modified_s > alive_since_s}
    roots = {(target.stage, target.key) for target in store.aliases().values()}
    for position, run in enumerate(runs.everything(store)):
        alive = run.record.state == "running" and run.modified_s > alive_since_s
        busy |= {key for _, key in run.names} if alive else set()
        if alive or run.pinned or position < keep_runs:
            roots |= run.names
    youngest_s = _now() - min_age_hours * 3600
    roots |= {name for name, entry in there.manifests.items() if entry.modified_s > youngest_s or name[1] in busy}
    return roots, busy


def _reach(
    store: Store, roots: Iterable[Name], known: dict[Name, Manifest], listed: Container[Name] = ()
) -> dict[Name, Manifest]:
    """The roots and all they were made from, as far as it is there. `known` saves reading: manifests never change.

    Raises `StoreUnreachable` when one that was listed seems not to be there, and is.
    """

    def read(name: Name) -> Manifest | None:
        found = known.get(name) or store.read(*name)
        if found is None and name in listed and store.objects.size(manifest_path(*name)) is not None:
            raise StoreUnreachable(f"`{manifest_path(*name)}` is there, and could not be read.", hint="Try again.")
        return found

    found: dict[Name, Manifest] = {}
    seen, layer = set(roots), set(roots)
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        while layer:
            fresh = {manifest.name: manifest for manifest in pool.map(read, layer) if manifest}
            known.update(fresh)
            found.update(fresh)
            layer = {ref.name for manifest in fresh.values() for ref in manifest.parents} - seen
            seen |= layer
    return found


def _unfinished(store: Store) -> tuple[list[Unfinished], tuple[str, ...]]:
    """Unfinished writes; and a note where the server, or our rights, do not tell of them."""
    try:
        return store.objects.unfinished("v1"), ()
    except StoreUnreachable:
        raise
    except StoreError as error:
        return [], (f"Uploads that were never finished are left alone: {error.message}",)


# --- deleting ---------------------------------------------------------------------------------------------------------


def _delete(store: Store, held: HeldLease | None, doomed: Plan, on_wait: Callable[[str], None]) -> Deleted:
    """Step 1 of the module's docstring, what is in the trash, and the other steps."""
    known: dict[Name, Manifest] = {}
    announced = {(item.what, item.name) for item in doomed.items}
    current = _plan(store, doomed.keep_runs, doomed.min_age_hours, doomed.trash_hours, known)
    items = [item for item in current.items if (item.what, item.name) in announced]
    records = [each.record for each in trash.deletions(store)]
    expired = [record for record in records if ("trash", record.id) in {(item.what, item.name) for item in items}]
    for record in expired:
        if record.state == "deleted":  # first, as this makes room
            trash.empty(store, record)
    gone, trash_id = _remove(store, held, [item for item in items if item.what != "trash"], doomed, known, on_wait)
    for record in records:
        if record.state != "deleted" and record in expired:
            trash.empty(store, record)
        elif record.state != "deleted" and held:
            trash.complete(store, record)
    deleted = {(item.what, item.name) for item in gone} | {pair for pair in announced if pair[0] == "trash"}
    done = tuple(item for item in items if (item.what, item.name) in deleted)
    spared = tuple(item for item in doomed.items if (item.what, item.name) not in deleted)
    return Deleted(done, spared, trash_id)


def _remove(
    store: Store,
    held: HeldLease | None,
    items: Sequence[Item],
    doomed: Plan,
    known: dict[Name, Manifest],
    on_wait: Callable[[str], None],
) -> tuple[list[Item], str]:
    """Steps 2 to 5: what was removed, and its id in the trash."""
    removed: dict[Name, bytes] = {}
    spared: set[Name] = set()
    items = [_with_its_files(store, item, removed) for item in items]
    parts = [part for item in items if not item.interrupted and (part := item.as_part())]
    record = trash.begin(store, "gc", parts) if parts and doomed.trash_hours else None
    try:
        for item in items:
            name = _name(item)
            if item.what == "artifact" and not item.interrupted and name in removed:
                if record and (part := item.as_part()):
                    trash.keep_manifest(store, record, part, removed[name])
                if _is_changed(store, name, removed[name]):  # made again, as its payload was lost
                    del removed[name]
                    spared.add(name)
                else:
                    store.objects.delete([manifest_path(*name)])
        if removed:
            _let_runs_speak(store, on_wait)
            needed = _needed_again(store, doomed, known, removed)
            _put_back(store, needed, removed, items, record)
            spared |= needed
        if held:
            trash.ensure_held(held)
    except BaseException:  # stopped, or the store fails: nothing is lost yet
        with contextlib.suppress(NanochatError, OSError):
            _put_back(store, removed, removed, items, record)
            if record:
                trash.finish(store, record, ())
        raise
    gone = [
        item
        for item in items
        if not (item.what == "artifact" and _name(item) in spared) and not _has_a_manifest(store, item)
    ]
    for item in gone:
        part, place = item.as_part(), (item.interrupted or record) if doomed.trash_hours else None
        if part and place:
            trash.move_in(store, place, part)
        else:
            store.objects.delete(item.paths)
        if item.unfinished:
            store.objects.abandon(item.unfinished)
    kept = [part for item in gone if not item.interrupted and (part := item.as_part())]
    if record:
        trash.finish(store, record, kept)
    return gone, record.id if record and kept else ""


def _with_its_files(store: Store, item: Item, removed: dict[Name, bytes]) -> Item:
    """An artifact with all the files that its manifest names, which is noted in `removed`; anything else as it is."""
    if item.what != "artifact":
        return item
    part, path = item.as_part(), manifest_path(*_name(item))
    if item.interrupted and part:
        data = trash.kept_manifest(store, item.interrupted, part)
    else:
        try:
            data = store.objects.read(path)
        except FileNotFoundError:  # removed since it was listed
            data = None
    if data is None:
        return item
    removed[_name(item)] = data
    manifest = as_manifest(data, path)
    files = (f"{manifest.folder}/{manifest.payload}/{file.path}" for file in manifest.files)
    return replace(item, paths=tuple(dict.fromkeys((*item.paths, *files))))


def _is_changed(store: Store, name: Name, data: bytes) -> bool:
    """Whether there is another manifest by now than was read."""
    try:
        return store.objects.read(manifest_path(*name)) != data
    except FileNotFoundError:
        return False


def _has_a_manifest(store: Store, item: Item) -> bool:
    """Whether there is a manifest by now for what was listed as a payload without one."""
    if item.what != "payload":
        return False
    _, _, stage, key, attempt = item.name.split("/")
    manifest = store.read(stage, key)
    return manifest is not None and manifest.payload == attempt


def _check_clock(store: Store) -> None:
    """Ages say what may go: raises `StoreError` unless our clock and the store's agree, roughly."""
    for entry in store.objects.list("v1/leases"):
        if _id(entry) == trash.LEASE and abs(entry.modified_s - _now()) > CLOCKS_DIFFER_S:
            hours = (_now() - entry.modified_s) / 3600
            raise StoreError(
                f"The clock of this machine is {abs(hours):.1f} hours {'ahead of' if hours > 0 else 'behind'} that of "
                f"the store {store.objects.root}: ages cannot be told.",
                hint="Set the clock; nothing was deleted.",
            )


def _let_runs_speak(store: Store, on_wait: Callable[[str], None]) -> None:
    """Waits until each living run has written two more records; see the module's docstring."""
    first: dict[str, int] = {}
    last: dict[str, tuple[int, float]] = {}
    for run in runs.alive(store, _now() - MAYBE_ALIVE_S):
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
            elif time.monotonic() - since > SILENT_S:
                del last[run_id]


def _needed_again(store: Store, doomed: Plan, known: dict[Name, Manifest], removed: Mapping[Name, bytes]) -> set[Name]:
    """Of what was removed, that which roots reach by now."""
    for name, data in removed.items():
        known[name] = as_manifest(data, manifest_path(*name))
    there = _Contents(store.objects.list("v1"))
    roots, busy = _roots(store, there, doomed.keep_runs, doomed.min_age_hours)
    roots |= {name for name in removed if name[1] in busy}
    return _reach(store, roots, known).keys() & removed.keys()


def _put_back(
    store: Store,
    names: Container[Name],
    removed: Mapping[Name, bytes],
    items: Sequence[Item],
    record: trash.Record | None,
) -> None:
    for item in items:
        part = item.as_part()
        if item.what != "artifact" or part is None or _name(item) not in names or _name(item) not in removed:
            continue
        if item.interrupted:  # a part of its payload may have moved
            trash.move_back(store, item.interrupted, part)
        # refused when it has been made again meanwhile; our payload then waits for the next deletion
        store.objects.create(manifest_path(*_name(item)), removed[_name(item)])
        if place := item.interrupted or record:
            store.objects.delete([place.place(part.manifest_path)])


# --- small ------------------------------------------------------------------------------------------------------------


def _now() -> float:
    return time.time()


def _item(what: What, name: str, why: str, entries: Iterable[Entry]) -> Item:
    entries = list(entries)
    return Item(what, name, why, sum(entry.size for entry in entries), tuple(entry.path for entry in entries))


def _last_written_s(there: _Contents, item: Item) -> float:
    return max((there.modified_s[path] for path in item.paths), default=0.0)


def _name(item: Item) -> Name:
    stage, _, key = item.name.partition("/")
    return stage, key


def _id(entry: Entry) -> str:
    return entry.path.rpartition("/")[2].removesuffix(".json")
