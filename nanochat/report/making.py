"""The chapter "How was it made?": lineage, stages with their keys, settings, environment."""

from __future__ import annotations

import json
from collections.abc import Sequence

from markupsafe import Markup

from nanochat.console import headline
from nanochat.lineage.picture import as_svg, fold
from nanochat.report.document import Block, Cell, Code, Facts, Figure, Fold, Heading, Table
from nanochat.report.figures import Drawing
from nanochat.report.inputs import ReportInputs
from nanochat.store.artifacts import Artifact


def making(inputs: ReportInputs) -> list[Block]:
    """From the sources to the chat model."""
    artifacts = [artifact for each in inputs.stages.values() for artifact in each]
    picture = fold([artifact.manifest for artifact in artifacts])
    svg = Markup(f'<div class="picture">{as_svg(picture)}</div>')  # noqa: S704 - our own SVG
    rows = [_row(stage, each) for stage, each in inputs.stages.items()]
    heads = ["stage", "made from", "key", "digest", "size", "result"]
    return [
        Figure(Drawing(svg, Markup("")), "From sources to the model; ×N: N shards. The table has each stage's inputs."),
        Table(heads, rows, ("size",)),
        Fold("Settings", [Fold(stage, [Code(_config(each[0]))]) for stage, each in inputs.stages.items()]),
    ]


def environment(inputs: ReportInputs) -> list[Block]:
    """Code, machine and packages of pretraining."""
    producer = inputs.base.manifest.producer
    facts = {
        "commit": (producer.git_commit or "unknown") + (" (with changes)" if producer.git_dirty else ""),
        "code": producer.code_sha256[:16],
        "machine": f"{producer.hardware.get('cpu', '')}, {producer.hardware.get('cores', '?')} cores, "
        f"{producer.hardware.get('memory_bytes', 0) / 2**30:.0f} GiB",
        **producer.packages,
    }
    return [Heading("Environment"), Facts(list(facts.items()))]


def name_of(stage: str, artifacts: Sequence[Artifact]) -> str:
    """`download ×3`."""
    return stage if len(artifacts) == 1 else f"{stage} ×{len(artifacts):,}"


def _row(stage: str, artifacts: Sequence[Artifact]) -> list[str | Cell]:
    first = artifacts[0]
    size = sum(file.size for artifact in artifacts for file in artifact.manifest.files)
    parents = dict.fromkeys(reference.stage for reference in first.manifest.parents)
    return [
        name_of(stage, artifacts), ", ".join(parents), Cell(first.key[:8], "code"), Cell(first.digest[:8], "code"),
        f"{size / 1e6:,.1f} MB", headline(first.metrics) if len(artifacts) == 1 else "",
    ]  # fmt: skip


def _config(artifact: Artifact) -> str:
    return json.dumps(artifact.manifest.config, indent=1, ensure_ascii=False)
