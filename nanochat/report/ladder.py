"""The scaling ladder: models of several depths in a table and a curve over compute, with a power law."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from nanochat.console import duration
from nanochat.report.plots import scaling_curve
from nanochat.report.templates import render_template
from nanochat.store.artifacts import Artifact


@dataclass(frozen=True)
class Rung:
    """One depth of the ladder: a base model and its evaluation."""

    depth: int
    parameters: int
    tokens: int
    flops: float
    bits_per_byte: float
    tokens_per_s: float
    seconds: float


@dataclass(frozen=True)
class PowerLaw:
    """`bits per byte = scale * flops ** -exponent`, fitted by least squares on logarithms.

    From Kaplan et al. 2020, arXiv:2001.08361, section 3; without an irreducible loss, which few rungs cannot determine.
    """

    scale: float
    exponent: float

    def at(self, flops: float) -> float:
        return self.scale * flops**-self.exponent


def rungs(bases: Sequence[Artifact], evaluations: Sequence[Artifact]) -> list[Rung]:
    """The rungs, sorted by compute; models and evaluations are given in the same order."""
    found = [
        Rung(
            depth=base.manifest.config["model"]["depth"],
            parameters=base.metrics["parameters"],
            tokens=base.metrics["train_tokens"],
            flops=base.metrics["flops"],
            bits_per_byte=evaluation.metrics["bits_per_byte"],
            tokens_per_s=base.metrics["tokens_per_s"],
            seconds=base.manifest.producer.seconds,
        )
        for base, evaluation in zip(bases, evaluations, strict=True)
    ]
    return sorted(found, key=lambda rung: rung.flops)


def fit(ladder: Sequence[Rung]) -> PowerLaw | None:
    """The power law; None for fewer than two amounts of compute."""
    xs, ys = [math.log(rung.flops) for rung in ladder], [math.log(rung.bits_per_byte) for rung in ladder]
    if len(set(xs)) < 2:
        return None
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum((x - mean_x) ** 2 for x in xs)
    return PowerLaw(math.exp(mean_y - slope * mean_x), -slope)


def render_ladder(title: str, ladder: Sequence[Rung]) -> tuple[str, str]:
    """The page of a ladder, as Markdown and as HTML."""
    law = fit(ladder)
    values: dict[str, Any] = {
        "title": title,
        "law": law,
        "ten_times": law.at(10 * ladder[-1].flops) if law else None,
        "rows": [
            [
                f"d{rung.depth}", f"{rung.parameters:,}", f"{rung.tokens:,}", f"{rung.flops:.3g}",
                f"{rung.bits_per_byte:.4f}", f"{rung.tokens_per_s:,.0f}", duration(rung.seconds),
            ]
            for rung in ladder
        ],
        "curve": Markup(scaling_curve([(r.flops, r.bits_per_byte, f"d{r.depth}") for r in ladder], law and law.at)),  # noqa: S704 - our own SVG
    }  # fmt: skip
    return render_template("ladder", values)
