"""The scores of a model: they are in the evaluations made from it, not in the model's own artifact."""

from nanochat.store.manifest import Manifest
from nanochat.store.store import Store

STAGES = ("evaluate_chat", "evaluate_base")


def newest_evaluation(store: Store, model: Manifest) -> Manifest | None:
    """The newest evaluation of a model as a chat model, else as a base model; unreadable manifests are left out."""
    for stage in STAGES:
        found, _ = store.survey(stage)
        mine = [each for each in found if any(ref.name == model.name for ref in each.parents)]
        if mine:
            return max(mine, key=lambda each: each.producer.ended)
    return None
