"""The lineage graph: what an artifact was made from, down to the raw shards, and what was made from it.

Reads only manifests: ancestors are found even when their payloads are gone.
"""

import json
from collections.abc import Sequence
from typing import Any

from nanochat.store.artifacts import ArtifactStore
from nanochat.store.manifest import Manifest, Name
from nanochat.store.store import Store


def ancestors(store: ArtifactStore, manifest: Manifest, known: dict[Name, Manifest] | None = None) -> list[Manifest]:
    """Everything that it was made from, each once, nearest first, without those that left the store.

    Manifests never change: those in `known` are not read again, and those read are added to it.
    """
    known = {} if known is None else known
    known[manifest.name] = manifest
    seen, waiting = {manifest.name}, [manifest]
    for child in waiting:  # the list grows during the loop
        for ref in child.parents:
            if ref.name in seen:
                continue
            seen.add(ref.name)
            if found := known.get(ref.name) or store.read(*ref.name):
                known[ref.name] = found
                waiting.append(found)
    return waiting[1:]


def descendants(store: Store, manifest: Manifest) -> list[Manifest]:
    """Everything that was made from it, oldest first."""
    reached = {manifest.name}
    found: list[Manifest] = []
    for each in oldest_first(list(store.manifests())):
        if any(ref.name in reached for ref in each.parents):
            reached.add(each.name)
            found.append(each)
    return found


def family(store: Store, manifest: Manifest, *, down: bool = False) -> list[Manifest]:
    """The artifact and its ancestors; with `down`, the artifact and its descendants."""
    return [manifest, *(descendants if down else ancestors)(store, manifest)]


def oldest_first(manifests: Sequence[Manifest]) -> list[Manifest]:
    """Sorts by time, but each after all that it was made from, even if the clocks of two machines differ."""
    waiting = {each.name: each for each in sorted(manifests, key=lambda each: each.producer.ended)}
    found: list[Manifest] = []

    def take(name: Name) -> None:
        if manifest := waiting.pop(name, None):
            for ref in manifest.parents:
                take(ref.name)
            found.append(manifest)

    for name in list(waiting):
        take(name)
    return found


def as_json(store: Store, manifest: Manifest, *, down: bool = False) -> str:
    """Nodes and edges for other tools. The source of an edge has no node if it left the store or is not included."""
    found = family(store, manifest, down=down)
    nodes: list[dict[str, Any]] = [
        {
            "stage": m.stage, "kind": m.kind, "key": m.key, "digest": m.digest, "config": m.config,
            "files": [file.model_dump() for file in m.files], "git_commit": m.producer.git_commit,
            "ended": m.producer.ended.isoformat(),
        }
        for m in found
    ]  # fmt: skip
    edges = [
        {"from": f"{ref.stage}/{ref.key}", "to": f"{m.stage}/{m.key}", "as": name}
        for m in found
        for name, refs in m.inputs.items()
        for ref in refs
    ]
    return json.dumps({"top": f"{manifest.stage}/{manifest.key}", "artifacts": nodes, "edges": edges})
