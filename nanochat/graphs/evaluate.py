"""The graphs that evaluate a model of an earlier run."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.config.chat import ConversationsConfig, QuestionsConfig
from nanochat.config.data import ShardConfig
from nanochat.config.evaluation import CoreBundleConfig
from nanochat.config.foreign import ForeignModelConfig
from nanochat.config.pipeline import PipelineConfig
from nanochat.execution.stage import Node
from nanochat.stages.conversations import converse
from nanochat.stages.core import core_bundle, evaluate_core
from nanochat.stages.download import download
from nanochat.stages.evaluate import evaluate_base, evaluate_chat
from nanochat.stages.evaluate_text import evaluate_text
from nanochat.stages.foreign import foreign_model
from nanochat.stages.questions import questions
from nanochat.store.artifacts import AnyModel, Evaluation, ForeignModel, Model, Rows, Vocabulary


@dataclass(frozen=True)
class Evaluated:
    """The evaluation of a model."""

    evaluation: Node[Evaluation]


def evaluate_chat_model(
    config: PipelineConfig, model: Model, vocabulary: Vocabulary, conversations: ConversationsConfig, item: str = ""
) -> Evaluated:
    """Evaluates a chat model on the questions of the config. `item` distinguishes several evaluations in a graph."""
    questions = converse(conversations, item=item, vocabulary=vocabulary)
    return Evaluated(evaluate_chat(config.chat_evaluation, item=item, model=model, conversations=questions))


@dataclass(frozen=True)
class Sources:
    """What a model is evaluated on; None: not on this."""

    rows: Sequence[Rows] | None = None
    """Of a base model: bits per byte of held-out text, and samples."""
    bundle: CoreBundleConfig | None = None
    conversations: ConversationsConfig | None = None
    vocabulary: Vocabulary | None = None
    """Of a model that was trained here, for its conversations."""
    shards: Sequence[ShardConfig] | None = None
    """Any text."""


@dataclass(frozen=True)
class Evaluations:
    """A model, and what it is evaluated on."""

    model: Node[ForeignModel] | AnyModel
    evaluations: Sequence[Node[Evaluation]]


def evaluate_any_model(config: PipelineConfig, model: AnyModel | ForeignModelConfig, sources: Sources) -> Evaluations:
    """Evaluates a model of the store, or a foreign one."""
    used = model if isinstance(model, AnyModel) else foreign_model(model)
    found: list[Node[Evaluation]] = []
    if sources.rows is not None:
        found.append(evaluate_base(config.base_evaluation, model=used, rows=sources.rows))
    if sources.bundle is not None:
        found.append(evaluate_core(config.core_evaluation, model=used, bundle=core_bundle(sources.bundle)))
    if (conversations := sources.conversations) is not None:
        if sources.vocabulary is not None:
            collected = converse(conversations, vocabulary=sources.vocabulary)
        else:
            collected = questions(QuestionsConfig(questions=conversations.questions, seed=conversations.seed))
        found.append(evaluate_chat(config.chat_evaluation, model=used, conversations=collected))
    if sources.shards is not None:
        shards = [download(shard, item=shard.name) for shard in sources.shards]
        found.append(evaluate_text(config.text_evaluation, model=used, shards=shards))
    return Evaluations(used, found)
