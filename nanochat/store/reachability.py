"""Which artifacts are in use: the roots, and everything that they were made from.

Roots are the aliases, the artifacts of pinned runs, of the newest `keep_runs` runs and of runs that may be alive, the
artifacts that a live lease protects, and those younger than `min_age_hours`.

**Absence is proven.** The aliases, the pins and the records of all runs must be readable: otherwise their roots are
unknown, and an error is raised. A manifest that was listed and cannot be read is an error too.
"""

import time
from collections import defaultdict
from collections.abc import Container, Iterable
from concurrent.futures import ThreadPoolExecutor

from nanochat.errors import StoreUnreachable
from nanochat.store import runs
from nanochat.store.backend import Entry
from nanochat.store.manifest import Manifest, Name, manifest_path
from nanochat.store.store import Store

MAYBE_ALIVE_S = 2 * 3600.0
"""A run or lease written less than this ago may have a live holder: it writes every few seconds, and the rest is for
clocks that differ, or jump."""
READS_AT_ONCE = 16


def now_s() -> float:
    """The time of this machine, in seconds since 1970."""
    return time.time()


class StoreListing:
    """The objects of a store, by purpose."""

    def __init__(self, store: Store) -> None:
        self.manifests: dict[Name, Entry] = {}
        self.payloads: dict[Name, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        """By attempt."""
        self.checkpoints: dict[str, list[Entry]] = defaultdict(list)
        """By key."""
        self.leases: list[Entry] = []
        self.probes: list[Entry] = []
        self.modified_s: dict[str, float] = {}
        """By path."""
        for entry in store.objects.list("v1"):
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


def find_roots(
    store: Store, listing: StoreListing, *, keep_runs: int, min_age_hours: float
) -> tuple[set[Name], set[str]]:
    """The roots, and the keys that a run or lease may be working on."""
    alive_since_s = now_s() - MAYBE_ALIVE_S
    busy = {lease_name(entry) for entry in listing.leases if entry.modified_s > alive_since_s}
    roots = {(target.stage, target.key) for target in store.aliases().values()}
    for position, run in enumerate(runs.everything(store)):
        alive = run.record.state == "running" and run.modified_s > alive_since_s
        busy |= {key for _, key in run.names} if alive else set()
        if alive or run.pinned or position < keep_runs:
            roots |= run.names
    youngest_s = now_s() - min_age_hours * 3600
    roots |= {name for name, entry in listing.manifests.items() if entry.modified_s > youngest_s or name[1] in busy}
    return roots, busy


def find_reachable(
    store: Store, roots: Iterable[Name], known: dict[Name, Manifest], listed: Container[Name] = ()
) -> dict[Name, Manifest]:
    """The manifests of the roots and of everything that they were made from, as far as these exist.

    Manifests never change: those in `known` are not read again, and those read are added to it. Raises
    `StoreUnreachable` for a `listed` manifest that exists and cannot be read.
    """

    def read(name: Name) -> Manifest | None:
        found = known.get(name) or store.read(*name)
        if found is None and name in listed and store.objects.size(manifest_path(*name)) is not None:
            raise StoreUnreachable(f"`{manifest_path(*name)}` exists, and could not be read.", hint="Try again.")
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


def lease_name(entry: Entry) -> str:
    """The key that a lease protects, or `trash`."""
    return entry.path.rpartition("/")[2].removesuffix(".json")
