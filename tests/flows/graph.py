"""A graph as small as can be, of real stages in a real store: what the flow does with it is what is tested."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanochat.config.chat import ConversationsConfig, SFTConfig
from nanochat.config.data import ShardConfig, TokenizerConfig
from nanochat.config.pipeline import PipelineConfig, ReportConfig
from nanochat.config.training import PretrainConfig
from nanochat.errors import BadConfig, SourceUnreachable
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.graphs.pipeline import Chat, Text
from nanochat.store.artifacts import Conversations, Model, RawShard, Report, TokenShard, Vocabulary

sulks = threading.Event()
"""While it is set, the source fails once."""

trains = threading.Event()
"""Set when the endless training has begun."""

side_by_side: list[int] = [0, 0]
"""Stages for GPUs that run now, and the most that ever did."""


@stage(version=1, produces=RawShard, resource="cpu")
def download(config: ShardConfig, *, out: Path, context: Context) -> Metrics:
    """Fetch a shard."""
    if sulks.is_set():
        sulks.clear()
        raise SourceUnreachable("The source sulks.")
    (out / "text").write_text(config.name)
    return {"train_documents": 3}


@stage(version=1, produces=Vocabulary, resource="cpu")
def train_tokenizer(config: TokenizerConfig, raw: list[RawShard], *, out: Path, context: Context) -> Metrics:
    """Learn the vocabulary."""
    (out / "vocabulary").write_text("".join((shard.path / "text").read_text() for shard in raw))
    return {"vocab_size": config.vocab_size}


@stage(version=1, produces=TokenShard, resource="cpu")
def tokenize(config: ReportConfig, raw: RawShard, vocabulary: Vocabulary, *, out: Path, context: Context) -> Metrics:
    """Tokens."""
    (out / "tokens").write_text((raw.path / "text").read_text())
    return {"train_tokens": 10}


@stage(version=1, produces=Conversations, resource="cpu")
def converse(config: ConversationsConfig, vocabulary: Vocabulary, *, out: Path, context: Context) -> Metrics:
    """Conversations."""
    if config.seed == 13:
        raise BadConfig("`conversations.seed` is unlucky.", hint="Take `14`.")
    (out / "rows").write_text(str(config.seed))
    return {"train_rows": 5}


@stage(version=1, produces=Model, resource="gpu")
def pretrain(config: PretrainConfig, tokens: list[TokenShard], *, out: Path, context: Context) -> Metrics:
    """Train; without end when the seed is 99."""
    _train(context, endless=config.seed == 99)
    (out / "model").write_text(str(config.seed))
    return {"validation_bits_per_byte": 0.9}


@stage(version=1, produces=Model, resource="gpu")
def sft(config: SFTConfig, conversations: Conversations, *, out: Path, context: Context) -> Metrics:
    """Depends on no model here, so that it could train beside it."""
    _train(context, endless=False)
    (out / "model").write_text(str(config.seed))
    return {"validation_loss": 0.5}


def _train(context: Context, *, endless: bool) -> None:
    side_by_side[0] += 1
    side_by_side[1] = max(side_by_side)
    try:
        step = 0
        while step < 5 or endless:
            step += 1
            context.progress(step, 5, "steps", metrics={"loss": 1 / step})
            time.sleep(0.05)
            if endless:
                trains.set()
    finally:
        side_by_side[0] -= 1


@stage(version=1, produces=Report, resource="cpu")
def report(config: ReportConfig, base: Model, chat: Model, *, out: Path, context: Context) -> Metrics:
    """Write it up."""
    (out / "report.html").write_text(config.title)
    return {}


def pretrain_to_chat(
    config: PipelineConfig, shards: Sequence[ShardConfig], conversations: ConversationsConfig, *left_out: None
) -> Chat:
    names = [f"shard_{position:05}" for position in range(config.data.world.shards)]
    raw = [
        download(ShardConfig(name=name, url="world:0", identity=str(config.data.world.seed)), item=name)
        for name in names
    ]
    vocabulary = train_tokenizer(config.tokenizer, raw=raw)
    tokens = [
        tokenize(ReportConfig(title=name), item=name, raw=shard, vocabulary=vocabulary)
        for name, shard in zip(names, raw, strict=True)
    ]
    rendered = converse(conversations, vocabulary=vocabulary)
    base = pretrain(config.pretrain, tokens=tokens)
    chat = sft(config.sft, conversations=rendered)
    unused: Any = []
    return Chat(
        text=Text(raw, vocabulary, tokens, unused, unused), base=base, base_evaluation=unused, conversations=rendered,
        chat=chat, chat_evaluation=unused, report=report(config.report, base=base, chat=chat),
    )  # fmt: skip
