"""The graph from raw text to a chat model and its report, and the parts of it that other graphs share.

The functions of this package only build nodes: they use no file, network or store. `resolve.py` reads what they need
before: the shards of a source, the hashes of a user's files, artifacts of earlier runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.config.chat import ConversationsConfig
from nanochat.config.data import ShardConfig
from nanochat.config.evaluation import CoreBundleConfig
from nanochat.config.pipeline import PipelineConfig
from nanochat.config.preferences import PairsConfig
from nanochat.config.rl import ProblemsConfig
from nanochat.config.training import PretrainConfig
from nanochat.errors import BadConfig
from nanochat.execution.stage import Node
from nanochat.scaling import derive_hyperparameters
from nanochat.stages.card import data_card
from nanochat.stages.conversations import converse
from nanochat.stages.core import core_bundle, evaluate_core
from nanochat.stages.download import download
from nanochat.stages.evaluate import evaluate_base, evaluate_chat
from nanochat.stages.preferences import collect_pairs, dpo
from nanochat.stages.pretrain import pretrain
from nanochat.stages.report import report
from nanochat.stages.rl import collect_problems, rl
from nanochat.stages.rows import pack
from nanochat.stages.sft import sft
from nanochat.stages.tokenizer import train_tokenizer
from nanochat.stages.tokens import tokenize
from nanochat.store.artifacts import (
    Conversations,
    CoreBundle,
    DataCard,
    Evaluation,
    Model,
    Pairs,
    Problems,
    RawShard,
    Report,
    Rows,
    TokenShard,
    Vocabulary,
)


@dataclass(frozen=True)
class Text:
    """Raw text, and the packed rows that training reads."""

    raw: list[Node[RawShard]]
    vocabulary: Node[Vocabulary] | Vocabulary
    tokens: list[Node[TokenShard]]
    rows: list[Node[Rows]]
    data_card: Node[DataCard]


@dataclass(frozen=True)
class Fetched:
    """The nodes that need the network."""

    raw: list[Node[RawShard]]
    vocabulary: Node[Vocabulary]
    conversations: Node[Conversations]
    core_bundle: Node[CoreBundle] | None = None
    problems: Node[Problems] | None = None
    pairs: Node[Pairs] | None = None


@dataclass(frozen=True)
class Core:
    """The tasks of CORE, and the evaluation of the base model on them."""

    bundle: Node[CoreBundle]
    evaluation: Node[Evaluation]


@dataclass(frozen=True)
class Chat:
    """The whole pipeline. `chat` is its last chat model."""

    text: Text
    base: Node[Model]
    base_evaluation: Node[Evaluation]
    conversations: Node[Conversations]
    chat: Node[Model]
    chat_evaluation: Node[Evaluation]
    report: Node[Report]
    core: Core | None = None
    """None: the base model is not evaluated on CORE."""


def pretrain_to_chat(
    config: PipelineConfig,
    shards: Sequence[ShardConfig],
    conversations: ConversationsConfig,
    bundle: CoreBundleConfig | None = None,
    problems: ProblemsConfig | None = None,
    pairs: PairsConfig | None = None,
) -> Chat:
    """From raw text to a chat model and its report.

    Without a `bundle`, the base model is not evaluated on CORE; without `problems`, there is no reinforcement learning;
    without `pairs`, there is no preference optimization.

    Raises `BadConfig` if the hyperparameters of pretraining do not fit together, or its CORE has no bundle.
    """
    derive_hyperparameters(config.pretrain, config.tokenizer.vocab_size, config.rows.sequence_len)
    text = prepare_text(config, shards)
    tasks = None if bundle is None else core_bundle(bundle)
    base = pretrain(
        config.pretrain, vocabulary=text.vocabulary, rows=text.rows, bundle=core_while_training(config.pretrain, tasks)
    )
    return base_to_chat(config, text, base, conversations, tasks, problems, pairs)


def core_while_training(config: PretrainConfig, tasks: Node[CoreBundle] | None) -> list[Node[CoreBundle]]:
    """The bundle, if pretraining evaluates CORE on its way. Raises `BadConfig` if it should, but there is no bundle."""
    if not config.core_every_steps:
        return []
    if tasks is None:
        raise BadConfig(
            f"`pretrain.core_every_steps` is {config.core_every_steps}, but there are no tasks of CORE.",
            hint="Name their folder or zip file: `core_bundle.source`.",
        )
    return [tasks]


def prepare_text(config: PipelineConfig, shards: Sequence[ShardConfig], vocabulary: Vocabulary | None = None) -> Text:
    """From shards to packed rows and their data card; trains a vocabulary unless one is given."""
    names = [shard.name for shard in shards]
    raw = [download(shard, item=shard.name) for shard in shards]
    used = vocabulary or train_tokenizer(config.tokenizer, raw=raw)
    tokens = [
        tokenize(config.tokens, item=name, raw=shard, vocabulary=used) for name, shard in zip(names, raw, strict=True)
    ]
    rows = [pack(config.rows, item=name, tokens=each) for name, each in zip(names, tokens, strict=True)]
    return Text(raw, used, tokens, rows, data_card(config.data_card, raw=raw, tokens=tokens, rows=rows))


def base_to_chat(
    config: PipelineConfig,
    text: Text,
    base: Node[Model],
    conversations: ConversationsConfig,
    tasks: Node[CoreBundle] | None = None,
    problems: ProblemsConfig | None = None,
    pairs: PairsConfig | None = None,
) -> Chat:
    """The part of the pipeline from a base model to the report."""
    rendered = converse(conversations, vocabulary=text.vocabulary)
    base_evaluation = evaluate_base(config.base_evaluation, model=base, rows=text.rows)
    core = None
    if tasks is not None:
        core = Core(tasks, evaluate_core(config.core_evaluation, model=base, bundle=tasks))
    chat = sft(config.sft, base=base, conversations=rendered)
    chat_evaluation = evaluate_chat(config.chat_evaluation, model=chat, conversations=rendered)
    optimized = [] if pairs is None else [dpo(config.dpo, base=chat, pairs=collect_pairs(pairs))]
    before_rl = [chat, *optimized][-1]
    reinforced = [] if problems is None else [rl(config.rl, base=before_rl, problems=collect_problems(problems))]
    optimized_evaluation, reinforced_evaluation = (
        [
            evaluate_chat(config.chat_evaluation, item=model.stage.name, model=model, conversations=rendered)
            for model in models
        ]
        for models in (optimized, reinforced)
    )
    last, last_evaluation = (
        [chat, *optimized, *reinforced][-1], [chat_evaluation, *optimized_evaluation, *reinforced_evaluation][-1]
    )  # fmt: skip
    summary = report(
        config.report, raw=text.raw, vocabulary=text.vocabulary, tokens=text.tokens, rows=text.rows,
        data_card=text.data_card, base=base, base_evaluation=base_evaluation, conversations=rendered, chat=chat,
        chat_evaluation=chat_evaluation, core=[core.evaluation] if core else [],
        dpo=optimized, dpo_evaluation=optimized_evaluation, rl=reinforced, rl_evaluation=reinforced_evaluation,
    )  # fmt: skip
    return Chat(text, base, base_evaluation, rendered, last, last_evaluation, summary, core)


def fetch(
    config: PipelineConfig,
    shards: Sequence[ShardConfig],
    conversations: ConversationsConfig,
    bundle: CoreBundleConfig | None = None,
    problems: ProblemsConfig | None = None,
    pairs: PairsConfig | None = None,
) -> Fetched:
    """The nodes that need the network, and the vocabulary, with which conversations are stored as tokens."""
    raw = [download(shard, item=shard.name) for shard in shards]
    vocabulary = train_tokenizer(config.tokenizer, raw=raw)
    rendered = converse(conversations, vocabulary=vocabulary)
    return Fetched(
        raw, vocabulary, rendered, None if bundle is None else core_bundle(bundle),
        None if problems is None else collect_problems(problems), None if pairs is None else collect_pairs(pairs),
    )  # fmt: skip
