"""The graph that compares evaluations of earlier runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.config.evaluation import ComparisonConfig
from nanochat.execution.stage import Node
from nanochat.stages.compare_evaluations import compare_evaluations
from nanochat.store.artifacts import Evaluation, Report


@dataclass(frozen=True)
class Compared:
    """The comparison of models."""

    comparison: Node[Report]


def compare_models(config: ComparisonConfig, evaluations: Sequence[Evaluation]) -> Compared:
    """Compares the evaluations of several models; `config.models` names the model of each."""
    return Compared(compare_evaluations(config, evaluations=evaluations))
