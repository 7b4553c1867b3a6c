"""A lineage as a picture: one node a stage, newest at the bottom, as SVG and as mermaid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

from nanochat.store.artifacts import Store
from nanochat.store.manifest import Manifest

NODE_WIDTH, NODE_HEIGHT, LANE_WIDTH, GAP_X, GAP_Y, MARGIN = 190, 46, 20, 28, 34, 14


@dataclass
class Lineage:
    """What an artifact was made from. Several artifacts of one stage (its shards) are one node."""

    keys: dict[str, list[str]] = field(default_factory=dict)
    """Stage → keys of its artifacts."""
    parents: dict[str, set[str]] = field(default_factory=dict)
    """Stage → stages it takes directly; those it also takes through another are left out, so that it can be read."""


class Family:
    """Manifests already seen: they never change, so each is read at most once a process."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Manifest] = {}

    def meet(self, manifest: Manifest) -> None:
        self._known[manifest.stage, manifest.key] = manifest

    def lineage(self, store: Store, manifest: Manifest) -> Lineage:
        """The ancestors as far as the store still has them."""
        self.meet(manifest)
        found, parents, todo = {(manifest.stage, manifest.key)}, {manifest.stage: set[str]()}, [manifest]
        while todo:
            child = todo.pop()
            for references in child.inputs.values():
                for reference in references:
                    parents.setdefault(reference.stage, set())
                    parents[child.stage].add(reference.stage)
                    name = (reference.stage, reference.key)
                    if name in found:
                        continue
                    found.add(name)
                    parent = self._known.get(name) or store.find(*name)
                    if parent is not None:
                        self.meet(parent)
                        todo.append(parent)
        keys: dict[str, list[str]] = {}
        for stage, key in sorted(found):
            keys.setdefault(stage, []).append(key)
        return Lineage(keys, _without_shortcuts(parents))


def _without_shortcuts(parents: Mapping[str, set[str]]) -> dict[str, set[str]]:
    above: dict[str, set[str]] = {}

    def ancestors(stage: str) -> set[str]:
        if stage not in above:
            above[stage] = set(parents[stage]).union(*(ancestors(parent) for parent in parents[stage]))
        return above[stage]

    return {
        stage: direct - set[str]().union(*(ancestors(parent) for parent in direct)) for stage, direct in parents.items()
    }


def as_mermaid(lineage: Lineage) -> str:
    """The picture in mermaid's words; the newer face of the Prefect UI draws them."""
    lines = ["graph TD"]
    lines += [f'  {stage}["{title}<br/>{note}"]' for stage, (title, note) in _captions(lineage).items()]
    lines += [f"  {parent} --> {stage}" for stage, direct in lineage.parents.items() for parent in sorted(direct)]
    return "\n".join(lines)


def _captions(lineage: Lineage) -> dict[str, tuple[str, str]]:
    return {
        stage: (stage.replace("_", " "), keys[0][:12] if len(keys) == 1 else f"{len(keys)} artifacts")
        for stage, keys in lineage.keys.items()
    }


def as_svg(lineage: Lineage, colours: Mapping[str, str]) -> str:
    """The picture as SVG. `colours` gives a stage's fill; the others are white."""
    paths, rows = _layers(lineage)
    width = max(sum(_width(cell) + GAP_X for cell in row) for row in rows) - GAP_X + 2 * MARGIN
    height = 2 * MARGIN + len(rows) * (NODE_HEIGHT + GAP_Y) - GAP_Y
    middles: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        row.sort(key=lambda cell: _mean([middles[path[i - 1]][0] for path in paths for i in _places(path, cell)]))
        x = (width - sum(_width(cell) + GAP_X for cell in row) + GAP_X) / 2
        for cell in row:
            middles[cell] = (x + _width(cell) / 2, MARGIN + number * (NODE_HEIGHT + GAP_Y))
            x += _width(cell) + GAP_X
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif" text-anchor="middle">',
        f'<rect width="{width}" height="{height}" rx="8" fill="#f8fafc"/>',
    ]
    for path in paths:
        x, top = middles[path[0]]
        line = f"M{x:g} {top + NODE_HEIGHT:g}"
        for cell in path[1:]:
            (before, y), (x, top) = (x, top + NODE_HEIGHT), middles[cell]
            line += f" C{before:g} {y + GAP_Y / 2:g} {x:g} {top - GAP_Y / 2:g} {x:g} {top:g}"
            line += f" V{top + NODE_HEIGHT:g}" if cell not in lineage.keys else ""
        parts.append(f'<path d="{line}" fill="none" stroke="#94a3b8" stroke-width="1.5"/>')
    for stage, (title, note) in _captions(lineage).items():
        x, y = middles[stage]
        parts.append(
            f'<rect x="{x - NODE_WIDTH / 2:g}" y="{y:g}" width="{NODE_WIDTH}" height="{NODE_HEIGHT}" rx="7" '
            f'fill="{colours.get(stage, "#ffffff")}" stroke="#64748b"/>'
            f'<text x="{x:g}" y="{y + 20:g}" font-size="14" fill="#0f172a">{escape(title)}</text>'
            f'<text x="{x:g}" y="{y + 37:g}" font-size="11" fill="#475569">{escape(note)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _layers(lineage: Lineage) -> tuple[list[list[str]], list[list[str]]]:
    """Edges as paths, a cell in each row they pass, and the rows; between its ends an edge has a lane of its own."""
    depth: dict[str, int] = {}

    def row(stage: str) -> int:
        if stage not in depth:
            depth[stage] = 1 + max((row(parent) for parent in lineage.parents[stage]), default=-1)
        return depth[stage]

    rows: list[list[str]] = [[] for _ in range(1 + max(row(stage) for stage in lineage.keys))]
    for stage in lineage.keys:
        rows[depth[stage]].append(stage)
    paths: list[list[str]] = []
    for stage, direct in lineage.parents.items():
        for parent in sorted(direct):
            between = range(depth[parent] + 1, depth[stage])
            lanes = [f"{parent}>{stage}@{number}" for number in between]
            for number, lane in zip(between, lanes, strict=True):
                rows[number].append(lane)
            paths.append([parent, *lanes, stage])
    return paths, rows


def _width(cell: str) -> int:
    return LANE_WIDTH if "@" in cell else NODE_WIDTH


def _places(path: list[str], cell: str) -> list[int]:
    return [path.index(cell)] if cell in path[1:] else []


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
