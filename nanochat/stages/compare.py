"""Compares models that differ only in depth."""

from pathlib import Path

from nanochat.config.pipeline import ReportConfig
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.report.ladder import fit, render_ladder, rungs
from nanochat.store.artifacts import Evaluation, Model, Report


@stage(version=1, produces=Report, resource="cpu")
def compare(
    config: ReportConfig, bases: list[Model], evaluations: list[Evaluation], *, out: Path, context: Context
) -> Metrics:
    """Plot bits per byte over compute, and fit a power law."""
    ladder = rungs(bases, evaluations)
    markdown, page = render_ladder(config.title, ladder)
    (out / "report.md").write_text(markdown, encoding="utf-8")
    (out / "report.html").write_text(page, encoding="utf-8")
    law = fit(ladder)
    best = min(ladder, key=lambda rung: rung.bits_per_byte)
    found: Metrics = {"title": config.title, "depths": len(ladder), "bits_per_byte": best.bits_per_byte}
    return {**found, "exponent": law.exponent} if law else found
