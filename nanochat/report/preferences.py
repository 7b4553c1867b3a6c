"""The part of a report about preference optimization: losses, held-out pairs, tasks before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanochat.report.document import Block, Table, Text
from nanochat.report.inputs import training_events
from nanochat.report.learning import held_out_curve, loss_curve
from nanochat.report.rl import task_rows
from nanochat.store.artifacts import Artifact


def preference_blocks(model: Artifact, before: Artifact, after: Artifact) -> list[Block]:
    """`before` and `after` are the evaluations of the chat models without and with it."""
    events = training_events(model)
    heads = ["task", "before", "after", "gain"]
    return [
        Text(_summary(model.metrics)),
        *loss_curve(events, "training loss (nats per pair)"),
        *held_out_curve(events, "validation_loss", "loss on held-out pairs (nats per pair)"),
        Table(heads, task_rows(before, after), heads[1:]),
    ]


def _summary(metrics: Mapping[str, Any]) -> str:
    gains = [f"{metrics[f'validation_{name}_gain']:+.2f}" for name in ("chosen", "rejected")]
    return (
        f"{metrics['steps']:,} steps on {metrics['pairs']:,} pairs. Of {metrics['held_out_pairs']:,} held-out pairs, "
        f"{metrics['validation_accuracy']:.1%} have a chosen answer that gained on the rejected one (50%: as at the "
        f"start). Log-probability of chosen answers {gains[0]}, of rejected ones {gains[1]} nats."
    )
