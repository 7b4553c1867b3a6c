"""The graph that exports a model of an earlier run."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.config.export import ExportConfig
from nanochat.execution.stage import Node
from nanochat.stages.export import export
from nanochat.store.artifacts import Evaluation, HuggingFaceModel, Model


@dataclass(frozen=True)
class Exported:
    """A model in the format of Hugging Face."""

    export: Node[HuggingFaceModel]


def export_model(config: ExportConfig, model: Model, evaluations: Sequence[Evaluation]) -> Exported:
    """Exports a model; its card shows the scores of these evaluations."""
    return Exported(export(config, model=model, evaluations=evaluations))
