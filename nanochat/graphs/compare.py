"""The graph that compares evaluations of earlier runs, and the gate that a candidate has to pass."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.config.evaluation import ComparisonConfig, GateConfig
from nanochat.execution.stage import Node
from nanochat.graphs.evaluate import Evaluated
from nanochat.graphs.pipeline import Chat
from nanochat.stages.compare_evaluations import compare_evaluations, gate
from nanochat.store.artifacts import AnyModel, Evaluation, Report


@dataclass(frozen=True)
class Compared:
    """The comparison of models."""

    comparison: Node[Report]


def compare_models(
    config: ComparisonConfig, evaluations: Sequence[Evaluation], models: Sequence[AnyModel] = ()
) -> Compared:
    """Compares models and their evaluations; `config.models` names the model of each evaluation."""
    return Compared(compare_evaluations(config, evaluations=evaluations, models=models))


@dataclass(frozen=True)
class Candidate:
    """A candidate, the evaluation of the model in use on the same questions, and the decision between them."""

    chat: Chat
    in_use: Evaluated | None
    decision: Node[Report]


def gated(config: GateConfig, chat: Chat, in_use: Evaluated | None) -> Candidate:
    """Adds the gate to a candidate."""
    used = [in_use.evaluation] if in_use else []
    return Candidate(chat, in_use, gate(config, candidate=chat.chat_evaluation, in_use=used))
