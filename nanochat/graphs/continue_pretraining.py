"""The graph that continues the pretraining of a base model on new text, and makes a chat model of it."""

from collections.abc import Sequence

from nanochat.config.chat import ConversationsConfig
from nanochat.config.data import ShardConfig
from nanochat.config.evaluation import CoreBundleConfig
from nanochat.config.pipeline import PipelineConfig
from nanochat.config.preferences import PairsConfig
from nanochat.config.rl import ProblemsConfig
from nanochat.graphs.pipeline import Chat, base_to_chat, core_while_training, prepare_text
from nanochat.stages.core import core_bundle
from nanochat.stages.pretrain import continue_pretrain
from nanochat.store.artifacts import Model, Vocabulary


def continue_pretraining(
    config: PipelineConfig,
    base: Model,
    vocabulary: Vocabulary,
    shards: Sequence[ShardConfig],
    conversations: ConversationsConfig,
    bundle: CoreBundleConfig | None = None,
    problems: ProblemsConfig | None = None,
    pairs: PairsConfig | None = None,
) -> Chat:
    """Like `pretrain_to_chat`, but starts from a base model and keeps its vocabulary."""
    text = prepare_text(config, shards, vocabulary)
    tasks = None if bundle is None else core_bundle(bundle)
    more = continue_pretrain(
        config.pretrain, base=base, vocabulary=text.vocabulary, rows=text.rows,
        bundle=core_while_training(config.pretrain, tasks),
    )  # fmt: skip
    return base_to_chat(config, text, more, conversations, tasks, problems, pairs)
