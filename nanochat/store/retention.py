"""What may be deleted, and why; and deleting it beside runs that go on.

Roots are the aliases, the artifacts of pinned runs, of the newest `keep_runs` runs and of runs that may be alive, what
a live lease protects, and what is younger than `min_age_hours`. A root stays, and everything that it was made from.
Beside artifacts that no root reaches, leftovers go, when they are older than that: payloads without a manifest,
checkpoints of a key that is published, files and uploads that were never finished, leases of the dead. Checkpoints of a
key that is *not* published stay: they are an interrupted training, which may go on.

**A reader never meets half an artifact**: the manifest goes first, the payload after. Killed in between, the next
deletion finds a payload without a manifest.

**Nothing vanishes under a run**, although it may find an artifact at the very moment at which this removes it:

1. What was planned is planned again, and only what both plans name is touched: an alias, a pin or a run that came
   meanwhile counts. Whoever publishes holds the lease of its key, from before its first byte until its manifest is
   there; so a payload without either is nobody's.
2. Manifests are read, and removed. From here on no run finds these artifacts: it would make them again.
3. Each run that is alive is awaited until it has written its record twice. Its store notes a key before it looks for
   it, and a record is made of what was noted (`runs.py`); the first record may have been on its way already, the second
   was made after step 2, and names whatever the run found before. A run that starts after step 2 finds nothing of it.
4. The roots are read again. Manifests that they now reach are put back, create-only: their payloads never went.
5. Payloads of the others go, then the leftovers.

What this rests on: a run that is silent for `SILENT_S` of this process's own clock is not awaited (what it wrote last
counts for two hours all the same). If it was merely frozen, and had found one of these artifacts in its last seconds,
it fails later, with a sentence; reads are verified, so no result is wrong. The store's clock and ours may differ, or
jump, by an hour. Who reads without a run (`nanochat chat`) is protected by the alias it names. Two deletions at once do
no harm: each removes only what it found unreachable, and deleting what is gone is fine. One that is stopped by Ctrl-C
or an error before step 5 puts every manifest back.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from nanochat.errors import NanochatError, StoreError
from nanochat.store import runs
from nanochat.store.artifacts import Store
from nanochat.store.manifest import Manifest, artifact_folder
from nanochat.store.objects import Entry, Unfinished

MAYBE_ALIVE_S = 2 * 3600.0
"""A run or lease that was written less than so long ago may have a living holder: they write every few seconds, and the
rest is for clocks that differ, or jump."""
SILENT_S = 30.0
POLL_S = 0.5
READS_AT_ONCE = 16

Name = tuple[str, str]
"""Stage and key."""


@dataclass(frozen=True)
class Item:
    """Something to delete."""

    what: Literal["artifact", "payload", "checkpoints", "unfinished", "lease"]
    name: str
    """`stage/key` of an artifact; else a path in the store."""
    why: str
    bytes: int
    paths: tuple[str, ...]
    """The objects, without an artifact's manifest."""
    unfinished: Unfinished | None = None


@dataclass(frozen=True)
class Plan:
    """What a deletion would delete."""

    items: tuple[Item, ...]
    kept: int
    """Artifacts that stay."""
    keep_runs: int
    min_age_hours: float

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)


@dataclass(frozen=True)
class Deleted:
    """What a deletion did."""

    items: tuple[Item, ...]
    spared: tuple[Item, ...]
    """Planned, and in use by now."""

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)


def plan(store: Store, *, keep_runs: int = 3, min_age_hours: float = 24.0) -> Plan:
    """Looks, and changes nothing. Raises `DamagedArtifact` at a manifest or record that this version cannot read:
    what it would protect is unknown."""
    return _plan(store, keep_runs, min_age_hours, {})


def delete(store: Store, doomed: Plan, *, on_wait: Callable[[str], None] = lambda run_id: None) -> Deleted:
    """Deletes what was planned and is still in nobody's use; `on_wait` is told for which runs it waits.

    Raises a `StoreError` when the store fails; the next deletion goes on from there.
    """
    known: dict[Name, Manifest] = {}
    announced = {(item.what, item.name) for item in doomed.items}
    current = _plan(store, doomed.keep_runs, doomed.min_age_hours, known)
    items = [item for item in current.items if (item.what, item.name) in announced]
    removed: dict[Name, bytes] = {}
    put_back: set[Name] = set()
    try:
        for item in items:
            if item.what == "artifact":
                with contextlib.suppress(FileNotFoundError):  # another deletion was first
                    removed[_name(item)] = store.objects.read(f"v1/artifacts/{item.name}/manifest.json")
                    store.objects.delete([f"v1/artifacts/{item.name}/manifest.json"])
        if removed:
            _let_runs_speak(store, on_wait)
            put_back = _needed_again(store, doomed, known, removed)
            _put_back(store, put_back, removed)
    except BaseException:  # stopped, or the store fails: nothing is lost yet
        with contextlib.suppress(NanochatError, OSError):
            _put_back(store, removed, removed)
        raise
    gone = [item for item in items if not (item.what == "artifact" and _name(item) in put_back)]
    for item in gone:
        store.objects.delete(item.paths)
        if item.unfinished:
            store.objects.abandon(item.unfinished)
    deleted = {(item.what, item.name) for item in gone}
    return Deleted(tuple(gone), tuple(item for item in doomed.items if (item.what, item.name) not in deleted))


# --- looking ----------------------------------------------------------------------------------------------------------


def _plan(store: Store, keep_runs: int, min_age_hours: float, known: dict[Name, Manifest]) -> Plan:
    youngest_s = _now() - min_age_hours * 3600
    there = _Contents(store.objects.list("v1"))
    roots, busy = _roots(store, there, keep_runs, min_age_hours)
    kept = _reach(store, roots, known)
    items: list[Item] = []
    for (stage, key), attempts in there.payloads.items():
        name = (stage, key)
        if name in there.manifests and name not in kept:
            entries = [entry for each in attempts.values() for entry in each]
            items.append(_item("artifact", f"{stage}/{key}", "no alias and no kept run needs it", entries))
            continue
        for attempt, entries in attempts.items():
            if (name not in kept or attempt != kept[name].payload) and key not in busy:
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
    items += [_item("unfinished", e.path, "it was never finished", [e]) for e in there.probes]
    old = [item for item in items if item.what == "artifact" or _last_written_s(there, item) <= youngest_s]
    for each in _unfinished(store):
        if each.modified_s <= min(youngest_s, _now() - MAYBE_ALIVE_S):
            name = f"{each.path} {each.upload}".rstrip()
            old.append(Item("unfinished", name, "it was never finished", each.size, (), each))
    return Plan(tuple(old), len(there.manifests.keys() & kept.keys()), keep_runs, min_age_hours)


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
    for position, run in enumerate(runs.chosen(store, keep_runs, alive_since_s)):
        alive = run.record.state == "running" and run.modified_s > alive_since_s
        busy |= {key for _, key in run.names} if alive else set()
        if alive or run.pinned or position < keep_runs:
            roots |= run.names
    youngest_s = _now() - min_age_hours * 3600
    roots |= {name for name, entry in there.manifests.items() if entry.modified_s > youngest_s or name[1] in busy}
    return roots, busy


def _reach(store: Store, roots: Iterable[Name], known: dict[Name, Manifest]) -> dict[Name, Manifest]:
    """The roots and all they were made from, as far as it is there. `known` saves reading: manifests never change."""
    found: dict[Name, Manifest] = {}
    seen, layer = set(roots), set(roots)
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        while layer:
            manifests = pool.map(lambda name: known.get(name) or store.read(*name), layer)
            fresh = {(manifest.stage, manifest.key): manifest for manifest in manifests if manifest}
            known.update(fresh)
            found.update(fresh)
            refs = (ref for manifest in fresh.values() for given in manifest.inputs.values() for ref in given)
            layer = {(ref.stage, ref.key) for ref in refs} - seen
            seen |= layer
    return found


def _unfinished(store: Store) -> list[Unfinished]:
    try:
        return store.objects.unfinished("v1")
    except StoreError:  # a server, or rights, that do not tell of uploads: what can be seen is cleaned
        return []


# --- deleting ---------------------------------------------------------------------------------------------------------


def _let_runs_speak(store: Store, on_wait: Callable[[str], None]) -> None:
    """Waits until each living run has written two more records; see the module's docstring."""
    first: dict[str, int] = {}
    last: dict[str, tuple[int, float]] = {}
    for run in runs.chosen(store, 0, _now() - MAYBE_ALIVE_S):
        if run.record.state == "running" and run.modified_s > _now() - MAYBE_ALIVE_S:
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
    known |= {name: Manifest.model_validate_json(data) for name, data in removed.items()}
    there = _Contents(store.objects.list("v1"))
    roots, busy = _roots(store, there, doomed.keep_runs, doomed.min_age_hours)
    roots |= {name for name in removed if name[1] in busy}
    return _reach(store, roots, known).keys() & removed.keys()


def _put_back(store: Store, names: Iterable[Name], removed: Mapping[Name, bytes]) -> None:
    for stage, key in names:
        # refused when it has been made again meanwhile; our payload then waits for the next deletion
        store.objects.create(f"{artifact_folder(stage, key)}/manifest.json", removed[stage, key])


# --- small ------------------------------------------------------------------------------------------------------------


def _now() -> float:
    return time.time()


def _item(
    what: Literal["artifact", "payload", "checkpoints", "unfinished", "lease"],
    name: str,
    why: str,
    entries: Iterable[Entry],
) -> Item:
    entries = list(entries)
    return Item(what, name, why, sum(entry.size for entry in entries), tuple(entry.path for entry in entries))


def _last_written_s(there: _Contents, item: Item) -> float:
    return max((there.modified_s[path] for path in item.paths), default=0.0)


def _name(item: Item) -> Name:
    stage, _, key = item.name.partition("/")
    return stage, key


def _id(entry: Entry) -> str:
    return entry.path.rpartition("/")[2].removesuffix(".json")
