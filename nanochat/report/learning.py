"""Curves of pretraining and fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nanochat.report.document import Block, Figure, Heading, Text
from nanochat.report.figures import Series, curves
from nanochat.report.inputs import ReportInputs, training_events

FEW = 40
"""Evaluations that are drawn as dots."""


def learning(inputs: ReportInputs) -> list[Block]:
    """Losses over steps: what was trained on, and what was held out."""
    base, chat = training_events(inputs.base), training_events(inputs.one("sft"))
    return [
        Heading("Pretraining"),
        *loss_curve(base, "training loss (nats per token)"),
        *held_out_curve(base, "validation_bits_per_byte", "bits per byte of held-out text"),
        *held_out_curve(base, "core", "CORE, of the first questions of each task", more_is_better=True),
        Heading("Fine-tuning"),
        *loss_curve(chat, "training loss (nats per token of an answer)"),
        *held_out_curve(chat, "validation_loss", "loss on held-out conversations (nats per token)"),
    ]


def loss_curve(events: Sequence[Mapping[str, Any]], name: str) -> list[Block]:
    """The smoothed training loss."""
    points = [(event["done"], event["smoothed_loss"]) for event in events]
    if not points:
        return [Text("No step was logged.", "dim")]
    caption = (
        f"Smoothed {name}: {points[0][1]:.3f} at step {points[0][0]:,}, {points[-1][1]:.3f} at step {points[-1][0]:,}."
    )
    return [Figure(curves([Series("", points)], "step", name), caption)]


def held_out_curve(
    events: Sequence[Mapping[str, Any]], number: str, name: str, *, more_is_better: bool = False
) -> list[Block]:
    """The evaluations on the way; none without at least two."""
    points = [(event["done"], event[number]) for event in events if number in event]
    if not points:
        return []
    best = (max if more_is_better else min)(points, key=lambda point: point[1])
    last = points[-1]
    caption = f"{name[0].upper()}{name[1:]}: {last[1]:.4f} at step {last[0]:,}"
    caption += "." if best == last else f"; best at step {best[0]:,} with {best[1]:.4f}."
    if len(points) == 1:
        return [Text(caption)]
    return [Figure(curves([Series("", points, dots=len(points) <= FEW)], "step", name), caption)]
