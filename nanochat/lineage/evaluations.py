"""The scores of a model: they are in the evaluations made from it, not in the model's own artifact."""

from collections.abc import Mapping
from typing import Any

from nanochat.store.manifest import Manifest
from nanochat.store.store import Store

STAGES = ("evaluate_chat", "evaluate_base")


EARLIER_NAMES = {"centered_accuracy": "chatcore"}
"""Name of a score → its name in version 1 of `evaluate_chat`, where `chatcore` is the mean over any tasks."""


def score_of(metrics: Mapping[str, Any], name: str) -> float | None:
    """A score in the metrics of an evaluation, also of an earlier version; None if it has none."""
    return metrics.get(name, metrics.get(EARLIER_NAMES.get(name, name)))


def newest_evaluation(store: Store, model: Manifest) -> Manifest | None:
    """The newest evaluation of a model as a chat model, else as a base model; unreadable manifests are left out."""
    for stage in STAGES:
        found, _ = store.survey(stage)
        mine = [each for each in found if any(ref.name == model.name for ref in each.parents)]
        if mine:
            return max(mine, key=lambda each: each.producer.ended)
    return None
