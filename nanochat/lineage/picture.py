"""Lineage as a picture, in SVG and in mermaid: one node per stage, the newest at the bottom.

The SVG takes its colours from the page around it (`--card`, `--fg` …); without a page, as in an image, it is light.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from nanochat.store.manifest import Manifest

NODE_WIDTH, NODE_HEIGHT, LANE_WIDTH, GAP_X, GAP_Y, MARGIN = 190, 46, 20, 28, 34, 14
STYLE = (
    ".lineage{max-width:100%;height:auto;font-family:system-ui,sans-serif;text-anchor:middle}"
    ".lineage .sheet{fill:var(--sheet,#f8fafc)}"
    ".lineage .edge{fill:none;stroke:var(--dim,#94a3b8);stroke-width:1.4}.lineage .tip{fill:var(--dim,#94a3b8)}"
    ".lineage .box{fill:var(--card,#fff);stroke:var(--dim,#64748b)}"
    ".lineage .here .box{fill:var(--here,#bfdbfe);stroke:var(--accent,#3b82f6)}"
    ".lineage a:hover .box,.lineage a:focus .box{stroke-width:2.5}"
    ".lineage .title{font-size:14px;fill:var(--fg,#0f172a)}.lineage .note{font-size:11px;fill:var(--dim,#475569)}"
)


@dataclass(frozen=True)
class Picture:
    """A graph of stages. Several artifacts of one stage (its shards) are one node."""

    notes: dict[str, str]
    """Stage → its artifact's key, or the number of artifacts."""
    parents: dict[str, set[str]]
    """Stage → the stages of its inputs, without those that it also gets through another stage, for legibility."""


def fold(manifests: Sequence[Manifest], *, down: bool = False) -> Picture:
    """The picture of these artifacts. Other inputs of theirs are shown as gone; with `down`, they are omitted."""
    there = {each.name for each in manifests}
    named = there if down else there.union(ref.name for each in manifests for ref in each.parents)
    keys: dict[str, list[str]] = {}
    for stage, key in sorted(named):
        keys.setdefault(stage, []).append(key)
    parents = {stage: set[str]() for stage in keys}
    for each in manifests:
        # a stage whose input is of the same stage (a model trained further twice) is one node, without a loop
        parents[each.stage].update(ref.stage for ref in each.parents if ref.name in named and ref.stage != each.stage)
    notes: dict[str, str] = {}
    for stage, each in keys.items():
        gone = sum((stage, key) not in there for key in each)
        note = each[0][:8] if len(each) == 1 else f"×{len(each)}"
        notes[stage] = note + ("" if not gone else " (gone)" if gone == len(each) else f" ({gone} gone)")
    return Picture(notes, _without_shortcuts(parents))


def _without_shortcuts(parents: Mapping[str, set[str]]) -> dict[str, set[str]]:
    above: dict[str, set[str]] = {}

    def ancestors(stage: str) -> set[str]:
        if stage not in above:
            above[stage] = set(parents[stage]).union(*(ancestors(parent) for parent in parents[stage]))
        return above[stage]

    return {
        stage: direct - set[str]().union(*(ancestors(parent) for parent in direct)) for stage, direct in parents.items()
    }


def as_mermaid(picture: Picture) -> str:
    """The picture in mermaid's language, which the newer Prefect UI renders."""
    lines = ["graph TD"]
    lines += [f'  {stage}["{stage}<br/>{note}"]' for stage, note in picture.notes.items()]
    lines += [f"  {parent} --> {stage}" for stage, direct in picture.parents.items() for parent in sorted(direct)]
    return "\n".join(lines)


def as_svg(picture: Picture, *, here: str = "", links: Mapping[str, str] | None = None) -> str:
    """The picture as SVG. The stage `here` is highlighted; `links` maps stages to URLs."""
    paths, rows = _layers(picture)
    width = max(sum(_width(cell) + GAP_X for cell in row) for row in rows) - GAP_X + 2 * MARGIN
    height = 2 * MARGIN + len(rows) * (NODE_HEIGHT + GAP_Y) - GAP_Y
    middles = _middles(paths, rows, width)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lineage" aria-label="lineage" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}"><style>{STYLE}</style>'
        '<defs><marker id="lineage-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path class="tip" d="M0 0 L8 4 L0 8 z"/></marker></defs>'
        f'<rect class="sheet" width="{width}" height="{height}" rx="8"/>'
    ]
    for path in paths:
        x, top = middles[path[0]]
        line = f"M{x:g} {top + NODE_HEIGHT:g}"
        for cell in path[1:]:
            (before, y), (x, top) = (x, top + NODE_HEIGHT), middles[cell]
            line += f" C{before:g} {y + GAP_Y / 2:g} {x:g} {top - GAP_Y / 2:g} {x:g} {top:g}"
            line += f" V{top + NODE_HEIGHT:g}" if cell not in picture.notes else ""
        parts.append(f'<path class="edge" marker-end="url(#lineage-tip)" d="{line}"/>')
    for stage, note in picture.notes.items():
        x, y = middles[stage]
        node = (
            f'<g class="{"node here" if stage == here else "node"}">'
            f'<rect class="box" x="{x - NODE_WIDTH / 2:g}" y="{y:g}" width="{NODE_WIDTH}" height="{NODE_HEIGHT}" '
            f'rx="7"/><text class="title" x="{x:g}" y="{y + 20:g}">{escape(stage)}</text>'
            f'<text class="note" x="{x:g}" y="{y + 37:g}">{escape(note)}</text></g>'
        )
        link = (links or {}).get(stage)
        parts.append(f'<a href="{escape(link)}">{node}</a>' if link else node)
    return "".join([*parts, "</svg>"])


def _layers(picture: Picture) -> tuple[list[list[str]], list[list[str]]]:
    """Edges as paths, with a cell in each row that they cross (an own lane between their ends), and the rows."""
    depth: dict[str, int] = {}

    def row(stage: str) -> int:
        if stage not in depth:
            depth[stage] = 1 + max((row(parent) for parent in picture.parents[stage]), default=-1)
        return depth[stage]

    rows: list[list[str]] = [[] for _ in range(1 + max(row(stage) for stage in picture.notes))]
    for stage in picture.notes:
        rows[depth[stage]].append(stage)
    paths: list[list[str]] = []
    for stage, direct in picture.parents.items():
        for parent in sorted(direct):
            between = range(depth[parent] + 1, depth[stage])
            lanes = [f"{parent}>{stage}@{number}" for number in between]
            for number, lane in zip(between, lanes, strict=True):
                rows[number].append(lane)
            paths.append([parent, *lanes, stage])
    return paths, rows


def _middles(paths: list[list[str]], rows: list[list[str]], width: int) -> dict[str, tuple[float, float]]:
    """The middle of the upper side of each cell. A cell is placed below the mean of its parents."""
    middles: dict[str, tuple[float, float]] = {}
    before: dict[str, list[str]] = {}
    for path in paths:
        for above, cell in pairwise(path):
            before.setdefault(cell, []).append(above)

    def mean(cell: str) -> float:
        above = before.get(cell, [])
        return sum(middles[each][0] for each in above) / len(above) if above else 0.0

    for number, row in enumerate(rows):
        row.sort(key=mean)
        x = (width - sum(_width(cell) + GAP_X for cell in row) + GAP_X) / 2
        for cell in row:
            middles[cell] = (x + _width(cell) / 2, MARGIN + number * (NODE_HEIGHT + GAP_Y))
            x += _width(cell) + GAP_X
    return middles


def _width(cell: str) -> int:
    return LANE_WIDTH if "@" in cell else NODE_WIDTH
