"""The graphs that evaluate a model of an earlier run."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.config.chat import ConversationsConfig
from nanochat.config.pipeline import PipelineConfig
from nanochat.execution.stage import Node
from nanochat.stages.conversations import converse
from nanochat.stages.evaluate import evaluate_base, evaluate_chat
from nanochat.store.artifacts import Evaluation, Model, Rows, Vocabulary


@dataclass(frozen=True)
class Evaluated:
    """The evaluation of a model."""

    evaluation: Node[Evaluation]


def evaluate_base_model(config: PipelineConfig, model: Model, rows: Sequence[Rows]) -> Evaluated:
    """Evaluates a base model on the held-out text among these rows."""
    return Evaluated(evaluate_base(config.base_evaluation, model=model, rows=rows))


def evaluate_chat_model(
    config: PipelineConfig, model: Model, vocabulary: Vocabulary, conversations: ConversationsConfig, item: str = ""
) -> Evaluated:
    """Evaluates a chat model on the questions of the config. `item` distinguishes several evaluations in a graph."""
    questions = converse(conversations, item=item, vocabulary=vocabulary)
    return Evaluated(evaluate_chat(config.chat_evaluation, item=item, model=model, conversations=questions))
