"""The scores of a model: they are in the evaluations made from it, not in the model's own artifact."""

from collections.abc import Collection, Mapping
from typing import Any

from nanochat.store.manifest import Manifest, Name
from nanochat.store.store import Store

STAGES = ("evaluate_chat", "evaluate_base")
EVALUATION_STAGES = ("evaluate_chat", "evaluate_core", "evaluate_base", "evaluate_text")


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


def newest_evaluations(store: Store, models: Collection[Name]) -> dict[Name, list[str]]:
    """Model → `stage/key` of its newest evaluation by each stage; without models that have none."""
    newest: dict[tuple[Name, str], Manifest] = {}
    for stage in EVALUATION_STAGES:
        for each in store.survey(stage)[0]:
            for name in (ref.name for ref in each.parents if ref.name in models):
                before = newest.get((name, stage))
                if before is None or each.producer.ended > before.producer.ended:
                    newest[name, stage] = each
    found: dict[Name, list[str]] = {}
    for (name, stage), each in sorted(newest.items()):
        found.setdefault(name, []).append(f"{stage}/{each.key}")
    return found


def foreign_name(config: Mapping[str, Any]) -> str:
    """Name of a model of Hugging Face, from its record: `org/name`, or that of its folder or file."""
    address, _, revision = str(config.get("source", "")).removeprefix("hf://").partition("@")
    short = address if address.count("/") == 1 else address.rstrip("/").rpartition("/")[2]
    return f"{short} ({revision[:8]})" if revision else short
