"""What an artifact was made from, down to the raw shards, and what was made from it: as a list, as text, as JSON.

Only manifests are read, and nothing is changed: what an artifact was made from is known even when payloads are gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nanochat.store.manifest import Manifest, Name
from nanochat.store.store import Store

METRICS_SHOWN = 3


def ancestors(store: Store, manifest: Manifest, known: dict[Name, Manifest] | None = None) -> list[Manifest]:
    """Everything it was made from, each once, nearest first; those that the store no longer has are left out.

    A manifest never changes: what is `known` is not read again, and what is read is known from then on.
    """
    known = {} if known is None else known
    known[manifest.name] = manifest
    seen, waiting = {manifest.name}, [manifest]
    for child in waiting:  # grows while it is walked
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
    reached, found = {manifest.name}, []
    for each in oldest_first(list(store.manifests())):
        if any(ref.name in reached for ref in each.parents):
            reached.add(each.name)
            found.append(each)
    return found


def family(store: Store, manifest: Manifest, *, down: bool = False) -> list[Manifest]:
    """It, and everything it was made from; or, looking `down`, everything that was made from it."""
    return [manifest, *(descendants if down else ancestors)(store, manifest)]


def oldest_first(manifests: Sequence[Manifest]) -> list[Manifest]:
    """The same by time, and each after all that it was made from, even if the clocks of two machines differ."""
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


def tree_down(store: Store, manifest: Manifest) -> list[str]:
    """Lines of a tree of what was made from it; `↓` stands further up already."""
    found = descendants(store, manifest)
    children: dict[Name, list[Manifest]] = {}
    for each in found:
        for name in dict.fromkeys(ref.name for ref in each.parents):
            children.setdefault(name, []).append(each)
    return [_line([manifest]), *_under(children, manifest, "", set())]


def _under(children: Mapping[Name, list[Manifest]], parent: Manifest, indent: str, shown: set[Name]) -> Iterator[str]:
    direct = children.get(parent.name, [])
    for child in direct:
        last = child is direct[-1]
        branch, deeper = ("└─ ", "   ") if last else ("├─ ", "│  ")
        if child.name in shown:
            yield f"{indent}{branch}{child.stage} {child.key[:8]} ↓"
            continue
        shown.add(child.name)
        yield f"{indent}{branch}{_line([child])}"
        yield from _under(children, child, indent + deeper, shown)


def tree(store: Store, manifest: Manifest) -> list[str]:
    """Lines of a tree. Shards are folded (`download ×12`); `↑` stands further up already, `(gone)` left the store."""
    known = {found.name: found for found in family(store, manifest)}
    return [_line([manifest]), *_below(known, [manifest], "", set())]


def _below(known: Mapping[Name, Manifest], group: Sequence[Manifest], indent: str, shown: set[Name]) -> Iterator[str]:
    inputs = _inputs(group)
    for position, ((label, stage), keys) in enumerate(inputs.items()):
        last = position == len(inputs) - 1
        branch, deeper = ("└─ ", "   ") if last else ("├─ ", "│  ")
        title = f"{indent}{branch}" + (f"{label}: " if label != stage else "")
        fresh = [key for key in keys if (stage, key) not in shown]
        found = [known[stage, key] for key in fresh if (stage, key) in known]
        shown.update((stage, key) for key in keys)
        several = f"{stage} ×{len(keys)}" if len(keys) > 1 else f"{stage} {keys[0][:8]}"
        if not fresh:
            yield f"{title}{several} ↑"
            continue
        notes = (f" ({len(fresh) - len(found)} gone)" if found else " (gone)") if len(found) < len(fresh) else ""
        notes += f" ({len(keys) - len(fresh)} ↑)" if len(fresh) < len(keys) else ""
        yield f"{title}{_line(found) if len(found) == len(keys) else several}{notes}"
        yield from _below(known, found, indent + deeper, shown)
        for leaf in found:
            if not leaf.inputs:
                yield from _files(leaf, indent + deeper)


def _inputs(group: Sequence[Manifest]) -> dict[tuple[str, str], list[str]]:
    """(name of the input, stage) → keys, over all of the group, each once."""
    keys: dict[tuple[str, str], dict[str, None]] = {}
    for manifest in group:
        for label, refs in manifest.inputs.items():
            for ref in refs:
                keys.setdefault((label, ref.stage), {})[ref.key] = None
    return {name: list(each) for name, each in keys.items()}


def _files(manifest: Manifest, indent: str) -> Iterator[str]:
    name = manifest.config.get("name", manifest.key[:8])
    for file in manifest.files:
        yield f"{indent}{name} {file.path}  sha256 {file.sha256}  {file.size:,} bytes"


def _line(group: Sequence[Manifest]) -> str:
    first, seconds = group[0], sum(manifest.producer.seconds for manifest in group)
    if len(group) > 1:
        return f"{first.stage} ×{len(group)}  ({first.kind}, made in {seconds:.1f} s)"
    numbers = [f"{name} {_number(value)}" for name, value in first.metrics.items() if _is_number(value)]
    made = f"made {first.producer.ended:%Y-%m-%d %H:%M} in {seconds:.1f} s"
    return f"{first.stage} {first.key[:8]}  ({', '.join([first.kind, *numbers[:METRICS_SHOWN], made])})"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def as_json(store: Store, manifest: Manifest, *, down: bool = False) -> str:
    """Nodes and edges, for other tools; an edge may begin where there is no node: gone, or not asked for."""
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
