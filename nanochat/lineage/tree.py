"""The lineage of an artifact as lines of a text tree, up or down."""

from collections.abc import Iterator, Mapping, Sequence

from nanochat.console import is_number, number
from nanochat.lineage.ancestry import descendants, family
from nanochat.store.manifest import Manifest, Name
from nanochat.store.store import Store

METRICS_SHOWN = 3


def tree_down(store: Store, manifest: Manifest) -> list[str]:
    """Lines of a tree of all that was made from it; `↓` marks one that is shown further up."""
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
    """Lines of a tree of all that it was made from.

    Shards are folded (`download ×12`); `↑` marks one that is shown further up, `(gone)` one that left the store.
    """
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
    """(name of the input, stage) → keys of the whole group, each once."""
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
    numbers = [f"{name} {number(value)}" for name, value in first.metrics.items() if is_number(value)]
    made = f"made {first.producer.ended:%Y-%m-%d %H:%M} in {seconds:.1f} s"
    return f"{first.stage} {first.key[:8]}  ({', '.join([first.kind, *numbers[:METRICS_SHOWN], made])})"
