"""The graph that fine-tunes a base model of an earlier run."""

from dataclasses import dataclass

from nanochat.config.chat import ConversationsConfig
from nanochat.config.pipeline import PipelineConfig
from nanochat.execution.stage import Node
from nanochat.stages.conversations import converse
from nanochat.stages.evaluate import evaluate_chat
from nanochat.stages.sft import sft
from nanochat.store.artifacts import Conversations, Evaluation, Model, Vocabulary


@dataclass(frozen=True)
class FineTuned:
    """A chat model made of a base model."""

    conversations: Node[Conversations]
    chat: Node[Model]
    chat_evaluation: Node[Evaluation]


def fine_tune(
    config: PipelineConfig, base: Model, vocabulary: Vocabulary, conversations: ConversationsConfig
) -> FineTuned:
    """Renders conversations, fine-tunes the base model on them, and evaluates the chat model."""
    rendered = converse(conversations, vocabulary=vocabulary)
    chat = sft(config.sft, base=base, conversations=rendered)
    return FineTuned(rendered, chat, evaluate_chat(config.chat_evaluation, model=chat, conversations=rendered))
