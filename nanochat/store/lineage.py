"""What an artifact was made from, down to the raw shards: as text, as a picture, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from nanochat.store.artifacts import Store
from nanochat.store.manifest import InputRef, Manifest

SHARDS_SHOWN = 4
"""Keys of mapped artifacts that are spelt out."""


def ancestors(store: Store, manifest: Manifest) -> list[Manifest]:
    """Everything it was made from, each once, nearest first."""
    seen: dict[tuple[str, str], Manifest] = {}
    waiting = [ref for refs in manifest.inputs.values() for ref in refs]
    while waiting:
        ref = waiting.pop(0)
        if (ref.stage, ref.key) in seen:
            continue
        if (found := store.find(ref.stage, ref.key)) is not None:
            seen[ref.stage, ref.key] = found
            waiting += [below for refs in found.inputs.values() for below in refs]
    return list(seen.values())


def tree(store: Store, manifest: Manifest) -> list[str]:
    """Lines of a tree; an artifact that stands further up already is only named, with `↑`."""
    known = {(found.stage, found.key): found for found in [manifest, *ancestors(store, manifest)]}
    return [_line(manifest), *_below(known, manifest, "", {(manifest.stage, manifest.key)})]


def _below(
    known: dict[tuple[str, str], Manifest], manifest: Manifest, indent: str, shown: set[tuple[str, str]]
) -> Iterator[str]:
    entries = list(_folded(manifest))
    for position, (name, refs) in enumerate(entries):
        last = position == len(entries) - 1
        branch, deeper = ("└─ ", "   ") if last else ("├─ ", "│  ")
        ref = refs[0]
        found = known.get((ref.stage, ref.key))
        label = f"{name}: " if name != ref.stage else ""
        if len(refs) > 1:
            keys = ", ".join(each.key[:8] for each in refs[:SHARDS_SHOWN]) + (" …" if len(refs) > SHARDS_SHOWN else "")
            yield f"{indent}{branch}{label}{ref.stage} ×{len(refs)}: {keys}"
            if (refs[0].stage, "×") not in shown and found is not None:
                shown.add((refs[0].stage, "×"))
                if found.inputs:
                    yield from _below(known, found, indent + deeper, shown)
                for each in (known.get((r.stage, r.key)) for r in refs):
                    if each is not None and not each.inputs:
                        yield from _files(each, indent + deeper)
        elif found is None:
            yield f"{indent}{branch}{label}{ref.stage} {ref.key[:8]} (gone)"
        elif (ref.stage, ref.key) in shown:
            yield f"{indent}{branch}{label}{ref.stage} {ref.key[:8]} ↑"
        else:
            shown.add((ref.stage, ref.key))
            yield f"{indent}{branch}{label}{_line(found)}"
            yield from _below(known, found, indent + deeper, shown)
            if not found.inputs:
                yield from _files(found, indent + deeper)


def _folded(manifest: Manifest) -> Iterator[tuple[str, list[InputRef]]]:
    for name, refs in manifest.inputs.items():
        if refs:
            yield name, refs


def _files(manifest: Manifest, indent: str) -> Iterator[str]:
    name = manifest.config.get("name", manifest.key[:8])
    for file in manifest.files:
        yield f"{indent}{name} {file.path}  sha256 {file.sha256}  {file.size:,} bytes"


def _line(manifest: Manifest) -> str:
    made = f"{manifest.producer.ended:%Y-%m-%d %H:%M}"
    return f"{manifest.stage} {manifest.key[:8]}  ({manifest.kind}, made {made} in {manifest.producer.seconds:.1f} s)"


def as_json(store: Store, manifest: Manifest) -> str:
    """Nodes and edges, for other tools."""
    found = [manifest, *ancestors(store, manifest)]
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
